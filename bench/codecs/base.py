"""The interface behind which every codec of the benchmark stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from bench.tensors import Tensor


class Codec(ABC):
    """Compresses a list of tensors in memory and gives their bytes back.

    ``package`` names the distribution whose version is reported; ``dtypes`` maps the safetensors
    dtype names that the codec takes to its own names for them; ``compiles`` is true where a first
    call compiles code, so that its time is reported apart.
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
        """Whether tensors of this safetensors dtype can be given to the codec."""
        return dtype in self.dtypes

    def prepare(self, tensors: Sequence[Tensor]) -> Any:
        """The tensors as the codec wants to receive them. Not timed.

        A codec that overwrites its input, or takes only one kind of buffer, gets its copy here.
        """
        return [self.native(t) for t in tensors]

    def native(self, tensor: Tensor) -> Any:
        """One tensor as the codec wants to receive it. Not timed."""
        return tensor.data

    @abstractmethod
    def compress(self, prepared: Any, threads: int) -> Any:
        """Compresses what ``prepare`` returned. Timed."""

    @abstractmethod
    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        """One buffer per tensor, or a list of consecutive buffers, in their order. Timed."""

    def compressed_size(self, state: Any) -> int:
        """Bytes that have to be stored."""
        return sum(len(blob) for blob in state)


class PerTensor(Codec):
    """A codec whose interface is a pair of functions, called once per tensor."""

    def compress(self, prepared: Any, threads: int) -> Any:
        return [self.encode(item, threads) for item in prepared]

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        return [self.decode(blob, threads) for blob in state]

    @abstractmethod
    def encode(self, item: Any, threads: int) -> Any:
        """Compresses one tensor, as ``native`` returned it."""

    @abstractmethod
    def decode(self, blob: Any, threads: int) -> Any:
        """The bytes of one tensor, in any buffer, or a list of consecutive buffers."""
