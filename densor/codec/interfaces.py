"""What each side of a codec offers.

An encoder proposes to code a batch and then does; a decoder decodes one chunk. The two sides of a
codec never import each other: what both need stands in its `params.py` and `payload.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from densor.runtime.types import Bytes

if TYPE_CHECKING:  # what only those need who encode
    from densor.codec.batch import CodedBatch, Coding

# Encoding


class Estimate(NamedTuple):
    """Bytes that a batch is expected to take, and `otherwise`: those that it takes more simply.

    Both leave out what is the same either way.
    """

    bytes: float
    otherwise: float


class Encoder(Protocol):
    """Codes one batch. It is made from a `Batch` and a `Level`, in the order of the archive."""

    def estimate(self) -> Estimate | None:
        """What to expect, from a sample or from counting; None where only coding shows it."""
        return None

    def encode(self) -> "Coding":
        """Starts coding the batch."""

    def shared(self, coded: "CodedBatch") -> float:
        """Bytes of the parameters in `coded` that earlier or later batches bear."""
        return 0.0

    def keep(self) -> None:
        """Lets later batches share the parameters, which will stand in the archive."""
        return


class ChunkCoder(Protocol):
    """Codes chunks under parameters that are known.

    `repeats`: Zstandard is worth a try on each chunk.
    """

    repeats: bool

    def model(self) -> bytes:
        """The payload of the MODEL frame."""

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index` of the batch; may come from `buffers.POOL`."""


class BatchCoder(ChunkCoder, Protocol):
    """Codes chunks under parameters that are settled once all chunks were counted.

    `count` is called for every chunk, `decide` once with all that came back, then `encode` for
    every chunk. `count` and `encode` may run in several threads at once.
    """

    def count(self, chunk: Bytes) -> Any:
        """What `decide` must know of a chunk."""

    def decide(self, tallies: Sequence[Any]) -> None:
        """Settles the parameters, from what `count` returned for each chunk, in order."""


# Decoding


class ChunkDecoder(Protocol):
    """Decodes the chunks of one MODEL frame. Safe to use from several threads at once.

    `weight`: how many decoders it is made of. `reports_progress`: to its session, by itself.
    """

    weight: int = 1
    reports_progress: bool = False

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""


class Base(Protocol):
    """The bytes that changes refer to, at any place; safe to use from several threads."""

    @property
    def size(self) -> int:
        """All bytes there are."""

    def read_at(self, offset: int, count: int) -> Bytes:
        """Exactly `count` bytes from `offset` on; a DensorError where they cannot be had."""


@runtime_checkable
class BaseDecoder(Protocol):
    """Decodes the chunks of one MODEL frame, which refer to a base."""

    weight: int = 1
    reports_progress: bool = False

    def decode_from(self, payload: Bytes, out: Bytes, base: Base) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""


@runtime_checkable
class PartDecoder(Protocol):
    """Decodes units of a chunk, of `unit` bytes each, without those beside them."""

    @property
    def unit(self) -> int:
        """Bytes of one."""

    def decode_some(self, payload: Bytes, original: int, begin: int, end: int, out: Bytes) -> None:
        """Decodes units `begin` to `end` of a chunk of `original` bytes."""


Decoder = ChunkDecoder | BaseDecoder
