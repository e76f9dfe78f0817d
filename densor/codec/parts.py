"""Chunks made of parts, each coded by a codec within the codec, with Zstandard, or raw.

A chunk's payload lists its parts, see `docs/format/container.md`.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from densor.codec import registry
from densor.codec.batch import Bytes
from densor.codec.codecs import inner_decoder
from densor.codec.interfaces import BatchCoder, ChunkDecoder
from densor.codec.zstd import zstd_decompress_into, zstd_smallest
from densor.errors import FormatError, UnsupportedError
from densor.runtime.buffers import POOL

PART = struct.Struct("<BI")  # mode, stored length
MODEL_LENGTH = struct.Struct("<I")
_MAX_HEADS = 64  # bytes of a model besides those of its parts

# Encoding


class PartEncoder:
    """Codes one part of every chunk of a batch; a chunk may have an empty part.

    `coder`: None where Zstandard, of level `zstd`, is better.
    """

    def __init__(self, coder: BatchCoder | None, zstd: int) -> None:
        self._coder = coder
        self._zstd = zstd
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
            packed = zstd_smallest(part, self._zstd)
            if len(packed) < len(best[1]):
                best = registry.PART_ZSTD, packed
        return best


def fit_models(parts: Sequence[PartEncoder]) -> None:
    """Drops the largest models as long as all do not fit into one MODEL frame."""
    room = registry.MODEL_BYTES - _MAX_HEADS
    while sum(len(part.model()) for part in parts) > room:
        max(parts, key=lambda part: len(part.model())).drop()


def join_parts(head: bytes, parts: Sequence[tuple[int, bytes | Bytes]]) -> Bytes:
    """A payload: `head`, the list of parts, and the parts; pooled."""
    listed = b"".join(PART.pack(mode, len(stored)) for mode, stored in parts)
    pieces = [np.frombuffer(piece, np.uint8) for piece in (head, listed, *(p for _, p in parts))]
    payload = POOL.take(sum(piece.size for piece in pieces))
    return np.concatenate(pieces, out=payload)


# Decoding


class PartDecoder:
    """Decodes one part of the chunks of a model. Safe to use from several threads at once.

    `opened`: what gives the decoder of such a model.
    """

    def __init__(
        self, model: bytes, opened: Callable[[bytes], ChunkDecoder] = inner_decoder
    ) -> None:
        self._decoder = opened(model) if model else None

    def decode(self, mode: int, stored: Bytes, out: Bytes) -> None:
        """Decodes what is stored into all of `out`; FormatError if it does not fit."""
        if mode > registry.PART_MODEL:
            raise UnsupportedError(f"unknown mode {mode} of a part; a newer densor may read this")
        if not out.size and mode != registry.PART_RAW:
            raise FormatError("empty part of a chunk is not raw")
        if mode == registry.PART_MODEL:
            if self._decoder is None:
                raise FormatError("part of a chunk has no model")
            self._decoder.decode(stored, out)
        elif mode == registry.PART_ZSTD:
            zstd_decompress_into(stored, out)
        elif stored.size == out.size:
            out[:] = stored
        else:
            raise FormatError("raw part of a chunk has the wrong length")


def take_model(payload: bytes, at: int) -> tuple[bytes, int]:
    """The model of a part that stands at `at`, and where it ends."""
    begin = at + MODEL_LENGTH.size
    if begin > len(payload):
        raise FormatError("model is too short")
    end = begin + int(MODEL_LENGTH.unpack_from(payload, at)[0])
    if end > len(payload):
        raise FormatError("model is too short")
    return payload[begin:end], end


def split_parts(payload: Bytes, at: int, count: int) -> list[tuple[int, Bytes]]:
    """Mode and stored bytes of the `count` parts listed at `at`; they must end the payload."""
    begin = at + count * PART.size
    if payload.size < begin:
        raise FormatError("chunk is too short for its parts")
    parts = []
    for mode, length in PART.iter_unpack(payload[at:begin].tobytes()):
        if length > payload.size - begin:
            raise FormatError("part of a chunk is longer than the chunk")
        parts.append((mode, payload[begin : begin + length]))
        begin += length
    if begin != payload.size:
        raise FormatError("parts do not fill their chunk")
    return parts
