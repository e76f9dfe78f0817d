"""The coding side of DEFLATE streams: finds what they hold and how zlib has made them.

Their content is then coded by what suits it. A stream that other programs than zlib have made
stays as it is.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from densor.codec.batch import Batch, Bytes
from densor.codec.byte_cm.encoder import ByteCmEncoder
from densor.codec.byte_cm.params import MAX_SEGMENT
from densor.codec.chunks import CountingEncoder
from densor.codec.deflate.filters import undo_filters
from densor.codec.deflate.framing import unwrap
from densor.codec.deflate.params import MODEL_HEAD, Head
from densor.codec.deflate.settings import find
from densor.codec.deflate.stream import MAX_RAW, Stream
from densor.codec.image.encoder import GradientCoder, mixing_coder
from densor.codec.image.layout import fits
from densor.codec.image.params import MAX_MIXED
from densor.codec.interfaces import BatchCoder, ChunkCoder
from densor.codec.levels import MAX_BYTES_OF_LITTLE, Level, with_fewer_contexts
from densor.codec.parts import PartEncoder, join_parts

MIN_BYTES_OF_TEXT = 1 << 12  # below, context mixing has not learned enough


class Undone(NamedTuple):
    """A stream and what it holds: filter types of rows, and all other bytes."""

    head: Head
    filters: Bytes
    content: Bytes


def undo(stream: Stream, data: Bytes) -> Undone | None:
    """A stream taken apart; None where it cannot be made again of the parts."""
    framed = unwrap(stream.form, data)
    if framed is None:
        return None
    inflater = zlib.decompressobj(-15)
    try:
        raw = inflater.decompress(framed.stream, MAX_RAW)
    except zlib.error:
        return None
    if not inflater.eof or inflater.unused_data or not raw:
        return None
    if framed.check and zlib.adler32(raw).to_bytes(4, "big") != framed.check:
        return None
    content = np.frombuffer(raw, np.uint8)
    settings = find(framed.header, content, framed.stream, stream.row > 0)
    if settings is None:
        return None
    row = stream.row if stream.row and not content.size % (stream.row + 1) else 0
    pixel = stream.pixel if row else 0
    head = Head(stream.form, content.size, row, pixel, framed.piece, settings, framed.header)
    if not row:
        return Undone(head, np.empty(0, np.uint8), content)
    filters, pixels = np.empty(head.rows, np.uint8), np.empty(content.size - head.rows, np.uint8)
    if undo_filters(content, row, head.pixel, filters, pixels):
        return Undone(head, filters, pixels)
    return Undone(replace(head, row=0, pixel=0), np.empty(0, np.uint8), content)


class _Settled:
    """A `BatchCoder` of a coder whose parameters are settled from the start."""

    def __init__(self, coder: ChunkCoder) -> None:
        self._coder = coder
        self.repeats = coder.repeats

    def count(self, chunk: Bytes) -> bool:
        """Nothing but that there is one."""
        return True

    def decide(self, tallies: Sequence[bool]) -> None:
        """Nothing."""

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return self._coder.model()

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index`."""
        return self._coder.encode(chunk, index)


class DeflateCoder:
    """A `BatchCoder` of batches that are one stream each."""

    repeats = True

    def __init__(self, stream: Stream, level: Level) -> None:
        self._stream = stream
        self._level = level
        self._undone: Undone | None = None
        self._parts: list[PartEncoder] = []
        self._coded: list[tuple[int, bytes | Bytes]] = []

    def count(self, chunk: Bytes) -> Undone | None:
        """What the stream holds."""
        return undo(self._stream, chunk)

    def decide(self, tallies: Sequence[Undone | None]) -> None:
        """Takes the smallest way for the content."""
        (self._undone,) = tallies
        if self._undone is None:
            return
        filters = PartEncoder(None, self._level.zstd)
        ways = [PartEncoder(None, self._level.zstd), *self._coders(self._undone.content)]
        coded = [way.encode(self._undone.content, 0) for way in ways]
        models = [len(way.model()) for way in ways]
        sizes = [len(stored) + model for (_, stored), model in zip(coded, models, strict=True)]
        best = sizes.index(min(sizes))
        self._parts = [filters, ways[best]]
        self._coded = [filters.encode(self._undone.filters, 0), coded[best]]

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return MODEL_HEAD + b"".join(part.model() for part in self._parts)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of the stream; the stream itself where it cannot be made again."""
        if self._undone is None:
            return chunk
        return join_parts(self._undone.head.pack(), self._coded)

    def _coders(self, content: Bytes) -> list[PartEncoder]:
        """What may be better than Zstandard."""
        level = self._level
        found: list[BatchCoder] = []
        layout = self._stream.image
        if layout is not None and fits(layout, content.size):
            little = content.size <= MAX_BYTES_OF_LITTLE
            for one in (level, *(with_fewer_contexts(level) if little else ())):
                if one.images == "gradient":
                    found.append(GradientCoder(layout, content))
                elif content.size <= MAX_MIXED:
                    found.append(_Settled(mixing_coder(layout, content, one)))
        elif level.bytes != "zstd" and MIN_BYTES_OF_TEXT <= content.size <= MAX_SEGMENT:
            found.append(_Settled(ByteCmEncoder(content, light=level.bytes == "light")))
        return [self._settled(coder, content) for coder in found]

    def _settled(self, coder: BatchCoder, content: Bytes) -> PartEncoder:
        part = PartEncoder(coder, self._level.zstd)
        part.decide([part.count(content)])
        return part


def propose(batch: Batch, level: Level) -> CountingEncoder:
    """An encoder for a batch that is one stream."""
    stream = batch.kind.stream
    assert stream is not None
    return CountingEncoder(DeflateCoder(stream, level), batch, level.zstd)
