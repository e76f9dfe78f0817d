"""Where models come from, which is none of this package's business: the loader is handed in.

A coder asks for a model by name while it decodes. What reads models from files stands above the
parsers of file formats, `densor.files.language_models`, and is set when `densor` is imported.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from densor.errors import UnsupportedError

if TYPE_CHECKING:
    from densor.llm.model import Model

NAMES = ("sample", "smollm2", "smollm2-prose")
"""Names under which archives may ask for a model."""

_loader: Callable[[Any], "Model"] | None = None


def set_loader(loader: Callable[[Any], "Model"]) -> None:
    """Makes `loader` what loads a model by its name or path."""
    global _loader
    _loader = loader


def load(name: Any) -> "Model":
    """A model by its name or path; a DensorError where there is none."""
    if _loader is None:
        raise UnsupportedError(f"nothing here can load the language model {name}")
    return _loader(name)
