"""Where models of images come from: what reads files is handed in, as for language models."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from densor.errors import UnsupportedError

if TYPE_CHECKING:  # imported when there is a model
    from densor.codec.ardm.model import Network
    from densor.codec.circuit.coding import ImageTables
    from densor.codec.circuit.model import Circuit

_loader: Callable[[Any], "Circuit | Network"] | None = None


def set_loader(loader: Callable[[Any], "Circuit | Network"]) -> None:
    """Makes `loader` what loads a model by its path."""
    global _loader
    _loader = loader


def load(given: Any) -> "ImageTables":
    """The tables of a model, or of the file that it is in; a DensorError where it is none."""
    from densor.codec.ardm import model as ardm
    from densor.codec.circuit import model as circuit

    if isinstance(given, circuit.Tables | ardm.NetworkTables):
        return given
    if not isinstance(given, circuit.Circuit | ardm.Network):
        if _loader is None:
            raise UnsupportedError(f"nothing here can load the image model {given}")
        given = _loader(given)
    return ardm.tables_of(given) if isinstance(given, ardm.Network) else circuit.tables_of(given)
