"""Chunks gathered from the frames of an archive, until one compiled call decodes them together."""

from enum import Enum, auto
from typing import Any, NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.interfaces import Decoder
from densor.codec.planes.decoder import PlanesDecoder
from densor.codec.scale_context.decoder import ScaleContextDecoder
from densor.codec.spans import decode as spans
from densor.codec.spans.rans_table import RansParameters
from densor.codec.spans.table import HEAD, NOT_MINE, Numbers, SpanParameters, chunk_table
from densor.errors import TruncatedError
from densor.formats.container import wire
from densor.formats.container.chunk_decoders import decode_chunk
from densor.formats.io.sources import (
    Bytes,
    MemorySource,
    PlacedSource,
    RandomSource,
    Source,
    take_into,
)
from densor.runtime.buffers import POOL
from densor.runtime.lru import LruCache

MIN_BYTES = 1 << 16  # original bytes of a chunk for which the kernel is loaded
_ROOM = spans.SPAN + (1 << 16)  # bytes of the frames of a span
_GAP = 1 << 16  # bytes between frames that are read for nothing
LONE = 1 << 25  # bytes of original that are decoded by one call where no other thread takes part
_NO_HEAD = -1  # in the place of a frame header that is not looked at
MAX_CHUNKS = 1 << 12  # of a span, however small they are
_MAX_KNOWN = 1 << 24  # bytes of parameters that are kept in the kernel's form


class Coder(Enum):
    """What chunks of a span have in common: one kernel decodes them."""

    ANY = auto()  # stored raw
    HUFFMAN = auto()
    RANS = auto()


class _Row(NamedTuple):
    """A chunk: where its payload is, and what its header says."""

    payload: int
    stored: int
    model: int
    place: int
    size: int


_DECODERS = (PlanesDecoder, ScaleContextDecoder)


class ParameterSets:
    """The parameters of the latest spans in the kernel's form."""

    def __init__(self) -> None:
        self._known: LruCache[tuple[int, ...], SpanParameters | RansParameters] = LruCache(
            _MAX_KNOWN, lambda parameters: parameters.weight
        )

    def of(
        self, coder: Coder, decoders: dict[int, Decoder | None]
    ) -> SpanParameters | RansParameters:
        """Those of the chunks of a span, by the number that their headers name."""
        models: dict[int, Any] = {
            n: d.model for n, d in decoders.items() if isinstance(d, _DECODERS)
        }
        key = tuple(sorted(models))
        parameters = self._known.get(key)
        if parameters is None:
            kind = RansParameters if coder is Coder.RANS else SpanParameters
            parameters = kind.of(models)
            self._known.put(key, parameters)
        return parameters


class Span:
    """Chunks of one entry, in order; their payloads are yet to be checked.

    `most`: original bytes, but for a chunk that is larger by itself. `proven`: whether the hash of
    what comes out tells of all damage, so that those of the payloads need not be looked at.
    """

    def __init__(self, most: int = spans.SPAN, proven: bool = False) -> None:
        self._most = most
        self._proven = proven
        self.size = 0  # original bytes
        self._coder = Coder.ANY
        self._rows: list[_Row] = []
        self._decoders: dict[int, Decoder | None] = {}
        self._data: Bytes | None = None
        self._source: RandomSource | None = None  # that it is read from when it is decoded
        self._end = 0  # bytes of the frames in memory of its own
        self._begin = 0  # place in the archive of what was read

    def __len__(self) -> int:
        return len(self._rows)

    def has_room(self, header: wire.FrameHeader, coder: Coder) -> bool:
        """Whether a chunk still belongs to this span."""
        if not self._rows:
            return True
        if self._coder is not coder and Coder.ANY not in (self._coder, coder):
            return False
        if len(self._rows) == MAX_CHUNKS or len(self._decoders) == registry.MODEL_WINDOW:
            return False  # hostile archives may have any number of tiny ones
        small = self._end + wire.FRAME_SIZE + header.stored <= _ROOM
        return small and self.size + header.original <= self._most

    def take(self, source: Source, head: Bytes, stored: int) -> int:
        """The payload that follows the header `head` in the source: where it begins in memory."""
        if isinstance(source, MemorySource):
            self._data, at = source.place()
            if source.take(stored).size < stored:
                raise TruncatedError("archive ends within a frame")
            return at
        if isinstance(source, PlacedSource):
            self._source = source.random
            place = source.skip(stored)
            if place is None:
                raise TruncatedError("archive ends within a frame")
            first = self._rows[0].payload if self._rows else place
            self._end = place + stored - first + wire.FRAME_SIZE
            return place
        if self._data is None:
            self._data = POOL.take(max(_ROOM, wire.FRAME_SIZE + stored))
        at = self._end + wire.FRAME_SIZE
        self._data[self._end : at] = head
        self._end = at + stored
        if take_into(source, self._data[at : self._end]) < stored:
            raise TruncatedError("archive ends within a frame")
        return at

    def payload(self, at: int, stored: int) -> Bytes:
        """What was taken."""
        assert self._data is not None
        return self._data[at : at + stored]

    def follows(self, payload: int) -> bool:
        """Whether a payload at this place of an archive is near enough to be read with these."""
        if not self._rows:
            return True
        last = self._rows[-1]
        return 0 < payload - last.payload - last.stored <= _GAP

    def read(self, source: RandomSource) -> None:
        """Reads the frames of chunks whose payloads were given by their places in an archive."""
        first, last = self._rows[0], self._rows[-1]
        self._begin = begin = first.payload - wire.FRAME_SIZE
        self._data = source.read_at(begin, last.payload + last.stored - begin)

    def add(
        self, header: wire.FrameHeader, payload: int, decoder: Decoder | None, coder: Coder
    ) -> None:
        """Adds the chunk whose payload was taken."""
        if coder is not Coder.ANY:
            self._coder = coder
        row = _Row(payload, header.stored, header.model, self.size, header.original)
        self._rows.append(row)
        self._decoders[header.model] = decoder
        self.size += header.original

    def decode(self, out: Bytes, known: ParameterSets) -> Bytes:
        """Decodes all of it into `out`; raises what is wrong with the first chunk that fails."""
        if self._source is not None:
            self.read(self._source)
        assert self._data is not None
        parameters = known.of(self._coder, self._decoders)
        rows = np.array(self._rows, np.int64)
        rows[:, 0] -= self._begin
        decode_rows(rows, self._data, self._decoders, parameters, out, self._proven)
        POOL.give(self._data)
        return out


def decode_rows(
    rows: Numbers,
    data: Bytes,
    decoders: dict[int, Decoder | None],
    parameters: SpanParameters | RansParameters,
    out: Bytes,
    checked: bool = False,
) -> None:
    """Decodes chunks into their places in `out`; raises what is wrong with the first that fails.

    `rows`: int64[chunks, 5] as `_Row`, of payloads in `data`. `decoders`: by number of the model.
    `checked`: their frames are not looked at.
    """
    table = chunk_table(parameters, *rows.T)
    if checked:
        table[:, HEAD] = _NO_HEAD
    decoder = spans.SpanDecoder(parameters, table)
    count = len(rows)
    if not decoder.decode(data, 0, count, out):
        return
    decoder.decode_rest(data, 0, count, out)
    for chunk in np.flatnonzero(decoder.status).tolist():
        status = int(decoder.status[chunk])
        if status != NOT_MINE:
            raise spans.error_of(status)
        payload, stored, model, place, size = rows[chunk].tolist()
        stored_bytes = data[payload : payload + stored]
        decode_chunk(model, decoders[model], stored_bytes, out[place : place + size])


def read_and_decode(span: Span, source: RandomSource, known: ParameterSets, out: Bytes) -> Bytes:
    """Decodes chunks that were given by their places in an archive."""
    span.read(source)
    return span.decode(out, known)


def coder_in_spans(number: int, decoder: Decoder | None) -> Coder | None:
    """Which span decoder chunks of this model are for, if any."""
    if number == registry.MODEL_RAW:
        return Coder.ANY
    if isinstance(decoder, PlanesDecoder):  # as most; others take 3 us to tell, by their protocol
        huffman = decoder.model.codec == registry.CODEC_PLANES_HUFFMAN
        return Coder.HUFFMAN if huffman else Coder.RANS
    if isinstance(decoder, ScaleContextDecoder):
        return Coder.RANS
    return None
