"""What every codec offers: one side codes the chunks of a batch, the other decodes one chunk.

The two sides never import each other; what both need (models, layouts, tables) stands apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from densor.errors import FormatError
from densor.runtime.types import Bytes as Bytes


class BatchCoder(Protocol):
    """Codes the chunks of one batch, which share a model.

    `count` is called for every chunk, `decide` once with all that came back, then `encode` for
    every chunk. `count` and `encode` may run in several threads at once. `repeats`: Zstandard is
    worth a try on each chunk.
    """

    repeats: bool

    def count(self, chunk: Bytes) -> Any:
        """What `decide` must know of a chunk."""
        ...

    def decide(self, tallies: Sequence[Any]) -> None:
        """Settles the model, from what `count` returned for each chunk, in order."""
        ...

    def model(self) -> bytes:
        """The payload of the MODEL frame; asked for after `decide`."""
        ...

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index` of the batch; may come from `buffers.POOL`."""
        ...


class ChunkDecoder(Protocol):
    """Decodes the chunks of one model. Safe to use from several threads at once.

    One that is made of several decoders has their number as `weight`.
    """

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        ...


class Base(Protocol):
    """The bytes that changes refer to, at any place; safe to use from several threads."""

    @property
    def size(self) -> int:
        """All bytes there are."""
        ...

    def read_at(self, offset: int, count: int) -> Bytes:
        """Exactly `count` bytes from `offset` on; a DensorError where they cannot be had."""
        ...


class BaseDecoder(ABC):
    """A `ChunkDecoder` that needs a base."""

    @abstractmethod
    def decode_from(self, payload: Bytes, out: Bytes, base: Base) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """There is no base: FormatError."""
        raise FormatError("chunk holds changes against a base, which its entry does not have")
