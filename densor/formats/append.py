"""The former place of `densor.files.append`; the name goes with the next version."""

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "append":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    text = "densor.formats.append is called densor.files.append now"
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    return importlib.import_module("densor.files.append").append
