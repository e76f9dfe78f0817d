"""The decoding side of the scale-context codec."""

from collections.abc import Iterator

import numpy as np

from densor.codec import registry
from densor.codec.codecs import inner_decoder
from densor.codec.interfaces import ChunkDecoder
from densor.codec.planes.decoder import PlanesDecoder
from densor.codec.scale_context.params import Parameters, parse
from densor.codec.scale_context.payload import (
    COLUMN_STEPS,
    ROW_STEPS,
    Head,
    Part,
    parse_head,
)
from densor.codec.scale_context.split_format import BLOCK
from densor.entropy.deferred import Kernels
from densor.entropy.rans.decode import StreamDecoder, Table, decode_table
from densor.errors import FormatError
from densor.runtime.buffers import POOL
from densor.runtime.locks import Lock
from densor.runtime.types import Bytes

kernels = Kernels("densor.codec.scale_context.kernels")


class ScaleContextDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once.

    `low`: the decoder of low halves, of elements of 2 bytes; None where these are stored raw.
    """

    def __init__(self, model: Parameters, low: ChunkDecoder | None = None) -> None:
        self.model = model
        self._low = low
        self._table: Table | None = None
        self._lock = Lock()

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        form = self.model.form
        elements, left = divmod(out.size, form.size)
        if left:
            raise FormatError("chunk has an impossible length")
        head = parse_head(payload, form, elements)
        if not form.half:
            self._decode_high_bits(payload, head, elements, out)
            return
        high = POOL.take(2 * elements)
        self._decode_high_bits(payload, head, elements, high)
        low = payload[head.end :]
        if self._low is not None:
            halves = POOL.take(2 * elements)
            self._low.decode(low, halves)
            kernels.merge_halves(high, halves, out)
            POOL.give(halves)
        elif low.size == 2 * elements:
            kernels.merge_halves(high, low, out)
        else:
            raise FormatError("low halves of a chunk have the wrong length")
        POOL.give(high)

    def _ready_table(self) -> Table:
        with self._lock:
            if self._table is None:
                self._table = decode_table(self.model.freqs)
            return self._table

    def _decode_high_bits(self, payload: Bytes, head: Head, elements: int, out: Bytes) -> None:
        stream = StreamDecoder(self._ready_table(), payload[head.stream : head.end])
        blocks = -(-elements // BLOCK)
        scales = POOL.take(blocks * BLOCK)
        self._fill_scales(stream, head.parts, scales)
        scales[elements:] = 0
        error = stream.run(
            self.model.form.decode,
            scales,
            self.model.alphabet.rule(self.model.form, head.base),
            payload[head.rest : head.signs],
            payload[head.signs : head.stream],
            payload[head.escapes : head.rest],
            np.empty(2 * BLOCK, np.uint8),
            np.empty(2 * BLOCK, np.uint8),
            out,
        )
        POOL.give(scales)
        if error:
            raise FormatError("chunk does not hold just the bits that its symbols need")
        stream.finish()

    def _fill_scales(self, stream: StreamDecoder, parts: list[Part], scales: Bytes) -> None:
        begin = 0
        for rows, columns in take_scales(stream, parts, self.model.alphabet.phase):
            size = rows.size * columns.size
            kernels.fill_scales(rows, columns, scales[begin : begin + size])
            begin += size


def take_scales(
    stream: StreamDecoder, parts: list[Part], phase: int
) -> Iterator[tuple[Bytes, Bytes]]:
    """Decodes the first run of a stream: for each matrix the scales of its rows and columns."""
    counts = [count for part in parts for count in part.coded]
    kinds = np.tile(np.array([1 << phase, (1 << phase) + 1], np.uint8), len(parts))
    contexts = np.repeat(kinds, counts)
    symbols = np.empty(contexts.size, np.uint8)
    stream.take(contexts, symbols)
    at = 0
    for part in parts:
        row_count, column_count = part.coded
        middle, end = at + row_count, at + row_count + column_count
        rows = _side_scales(symbols[at:middle], part.rows, part.row_centre, part.flags & ROW_STEPS)
        columns = _side_scales(
            symbols[middle:end], part.columns, part.column_centre, part.flags & COLUMN_STEPS
        )
        at = end
        yield rows, columns


def _side_scales(symbols: Bytes, count: int, centre: int, steps: int) -> Bytes:
    """Scales of rows, or of columns, modulo 256; a symbol of 128 stands for no difference."""
    if not symbols.size:
        return np.full(count, centre, np.uint8)
    offsets = symbols - np.uint8(128)
    if steps:
        offsets = np.cumsum(offsets, dtype=np.uint8)
    return offsets + np.uint8(centre)


def open_decoder(payload: bytes, _: object = None) -> ScaleContextDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    model = parse(payload)
    return ScaleContextDecoder(model, _low_decoder(model.low))


def _low_decoder(payload: bytes) -> ChunkDecoder | None:
    """The decoder of low halves, None where there is no model for them."""
    if not payload:
        return None
    if payload[0] not in (registry.CODEC_PLANES_HUFFMAN, registry.CODEC_PLANES_RANS):
        raise FormatError("low halves have a model of a codec other than of planes")
    decoder = inner_decoder(payload)
    assert isinstance(decoder, PlanesDecoder)
    if decoder.model.layout.size != 2:
        raise FormatError("low halves have a model for elements of another size")
    return decoder
