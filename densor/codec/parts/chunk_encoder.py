"""The coding side of parts: by a coder of their own, with Zstandard, or raw."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from densor.codec import registry
from densor.codec.coder import BatchCoder, Bytes
from densor.codec.kind import Kind
from densor.codec.levels import Level
from densor.codec.parts.payload import MODEL_LENGTH, PART
from densor.codec.zstd import zstd_compress
from densor.runtime.buffers import POOL

_HEADS = 64  # bytes of a model besides those of its parts, at most
Choose = Callable[[Bytes, Kind, Level], BatchCoder | None]


class PartCoder:
    """Codes one part of every chunk of a batch. `sample`: from all over the batch, not empty.

    `choose` gives the coder for elements of `kind`, None where Zstandard is better. A chunk may
    have an empty part.
    """

    def __init__(self, sample: Bytes, kind: Kind, level: Level, choose: Choose) -> None:
        self._coder = choose(sample, kind, level)
        self._zstd = level.zstd
        self._numbers: list[int] = []  # of each chunk, among those whose part is not empty

    def count(self, part: Bytes) -> Any:
        """What `decide` must know of a chunk's part; None if nothing."""
        return self._coder.count(part) if self._coder is not None and part.size else None

    def decide(self, tallies: Sequence[Any]) -> None:
        """Settles the model from what `count` returned for each chunk, in order."""
        if self._coder is None:
            return
        counted = [tally for tally in tallies if tally is not None]
        present = np.array([tally is not None for tally in tallies])
        self._numbers = (np.cumsum(present) - present).tolist()
        if counted:
            self._coder.decide(counted)
        else:
            self._coder = None

    def drop(self) -> None:
        """Goes on without a model."""
        self._coder = None

    def model(self) -> bytes:
        """Length and bytes of the part's model, for the MODEL frame."""
        model = b"" if self._coder is None else self._coder.model()
        return MODEL_LENGTH.pack(len(model)) + model

    def encode(self, part: Bytes, index: int) -> tuple[int, bytes | Bytes]:
        """Mode and stored bytes of chunk number `index`'s part, the smallest way."""
        best: tuple[int, bytes | Bytes] = registry.PART_RAW, part
        if self._coder is not None and part.size:
            payload = self._coder.encode(part, self._numbers[index])
            if payload.size < part.size:
                best = registry.PART_MODEL, payload
        if part.size and (self._coder is None or self._coder.repeats):
            packed = zstd_compress(part, self._zstd)
            if len(packed) < len(best[1]):
                best = registry.PART_ZSTD, packed
        return best


def fit_models(parts: Sequence[PartCoder]) -> None:
    """Drops the largest models as long as all do not fit into one MODEL frame."""
    room = registry.MODEL_BYTES - _HEADS
    while sum(len(part.model()) for part in parts) > room:
        max(parts, key=lambda part: len(part.model())).drop()


def join_parts(head: bytes, parts: Sequence[tuple[int, bytes | Bytes]]) -> Bytes:
    """A payload: `head`, the list of parts, and the parts; pooled."""
    listed = b"".join(PART.pack(mode, len(stored)) for mode, stored in parts)
    pieces = [np.frombuffer(piece, np.uint8) for piece in (head, listed, *(p for _, p in parts))]
    payload = POOL.take(sum(piece.size for piece in pieces))
    return np.concatenate(pieces, out=payload)
