"""Names that something had in an earlier version: they work for one version more, and warn."""

import importlib
import warnings
from typing import Any


def former_name(module: str, name: str, now: str) -> Any:
    """What is called `now`, a module and a name in it, for one who asks for `module.name`."""
    text = f"{module}.{name} is called {now} now; the old name goes in the next version"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    place, _, attribute = now.rpartition(".")
    return getattr(importlib.import_module(place), attribute)
