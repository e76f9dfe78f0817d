"""Where circuits come from: what reads them from files is handed in, as for language models."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from densor.errors import UnsupportedError

if TYPE_CHECKING:  # imported when there is a circuit
    from densor.codec.circuit.model import Circuit, Tables

_loader: Callable[[Any], "Circuit"] | None = None


def set_loader(loader: Callable[[Any], "Circuit"]) -> None:
    """Makes `loader` what loads a circuit by its path."""
    global _loader
    _loader = loader


def load(given: Any) -> "Tables":
    """The tables of a circuit, or of the file that it is in; a DensorError where it is none."""
    from densor.codec.circuit.model import Circuit, Tables, tables_of

    if isinstance(given, Tables):
        return given
    if isinstance(given, Circuit):
        return tables_of(given)
    if _loader is None:
        raise UnsupportedError(f"nothing here can load the image model {given}")
    return tables_of(_loader(given))
