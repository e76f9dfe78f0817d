"""The interface behind which every codec stands that is measured."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.dtypes import SIZES

Bytes = npt.NDArray[np.uint8]
FILE = ""  # in the place of a dtype: the bytes of a whole file
DTYPES = tuple(dtype for dtype in SIZES if dtype != "VOID")  # all that plain-byte codecs take


@dataclass(frozen=True, slots=True)
class Item:
    """What is compressed: a tensor (safetensors dtype, shape, bytes in memory order) or a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Bytes

    def words(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The elements as unsigned integers of the dtype's width, sharing memory."""
        return self.data.view(f"<u{SIZES[self.dtype]}")


def file_item(name: str, data: Bytes) -> Item:
    """A whole file, uint8[bytes]."""
    return Item(name, FILE, data.shape, data)


def total_bytes(items: Iterable[Item]) -> int:
    """Sum of the sizes in bytes."""
    return sum(item.data.nbytes for item in items)


class Codec(ABC):
    """Compresses a list of items in memory and gives their bytes back.

    `package`: the distribution whose version is reported. `dtypes`: maps the safetensors dtypes
    that the codec takes, and FILE, to its own names for them. `compiles`: a first call compiles
    code, so that its time is reported apart.
    """

    package: str = ""
    dtypes: Mapping[str, Any] = MappingProxyType({})
    compiles: bool = False

    def __init__(self, name: str) -> None:
        self.name = name

    def version(self) -> str:
        """The version of the package measured."""
        return version(self.package)

    def supports(self, dtype: str) -> bool:
        """Whether items of this safetensors dtype, or FILE, can be given to the codec."""
        return dtype in self.dtypes

    def prepare(self, items: Sequence[Item]) -> Any:
        """The items as the codec wants to receive them. Not timed.

        A codec that overwrites its input, or takes only one kind of buffer, gets its copy here.
        """
        return [self.native(item) for item in items]

    def native(self, item: Item) -> Any:
        """One item as the codec wants to receive it. Not timed."""
        return item.data

    @abstractmethod
    def compress(self, prepared: Any, threads: int) -> Any:
        """Compresses what `prepare` returned; `threads` 0: all cores. Timed."""

    @abstractmethod
    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        """One buffer per item, or a list of consecutive buffers, in their order. Timed."""

    def compressed_size(self, state: Any) -> int:
        """Bytes that have to be stored."""
        return sum(len(blob) for blob in state)


class PerItem(Codec):
    """A codec whose interface is a pair of functions, called once per item."""

    def compress(self, prepared: Any, threads: int) -> Any:
        return [self.encode(item, threads) for item in prepared]

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        return [self.decode(blob, threads) for blob in state]

    @abstractmethod
    def encode(self, item: Any, threads: int) -> Any:
        """Compresses one item, as `native` returned it."""

    @abstractmethod
    def decode(self, blob: Any, threads: int) -> Any:
        """The bytes of one item, in any buffer, or a list of consecutive buffers."""
