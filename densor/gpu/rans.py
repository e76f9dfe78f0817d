"""Chunks under scale contexts (codec 3) made ready for the kernels: validated, scales decoded."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec.codecs import decoder_for, inner_decoder
from densor.codec.interfaces import ChunkDecoder
from densor.codec.scale_context.decoder import take_scales
from densor.codec.scale_context.params import Parameters, parse
from densor.codec.scale_context.payload import parse_head
from densor.entropy.rans.decode import StreamDecoder, Table, decode_table
from densor.entropy.rans.tables import ONE, Freqs
from densor.errors import FormatError
from densor.gpu.descriptors import PART
from densor.runtime.types import Bytes

Words = npt.NDArray[np.uint32]
WARPS = 4  # chunks that a block decodes at a time
THREADS = 32 * WARPS
_RANGES = 260  # of a context: 256, one that may be looked at too, whole groups of four
_BEYOND = np.zeros(256, np.uint8)  # scales that lanes look at where no element is left


@dataclass(frozen=True, eq=False)
class Stream:
    """A chunk as its kernel wants it. `stream`: all of it, elements begin at byte `position`."""

    n: int
    base: int
    stream: Bytes
    position: int
    states: Words
    parts: npt.NDArray[np.void]  # the last one never ends
    row_scales: Bytes  # and 256 more, as in `column_scales`
    column_scales: Bytes
    rest: Bytes
    signs: Bytes
    escapes: Bytes
    low: Bytes | None  # low halves of FP32

    @property
    def n_words(self) -> int:
        """Words that belong to elements."""
        return (self.stream.size - self.position) // 2


class ScalesModel:
    """A model of chunks under scale contexts with its tables."""

    def __init__(self, payload: bytes) -> None:
        self.model: Parameters = parse(payload)
        decoder_for(payload)  # checks the model of low halves
        self.size = self.model.form.size
        self.kernel = f"rans_{self.model.form.name}"
        self._low: ChunkDecoder | None = None
        if self.model.low:
            self._low = inner_decoder(self.model.low)
        self._table: Table | None = None

    def tables(self) -> Words:
        """What the kernel looks symbols up in, for the contexts of elements."""
        return range_tables(self.model.freqs[:-2])

    def parse(self, payload: Bytes, elements: int) -> Stream:
        """Checks a chunk and decodes its scales; FormatError unless everything adds up."""
        form, alphabet = self.model.form, self.model.alphabet
        head = parse_head(payload, form, elements)
        if self._table is None:
            self._table = decode_table(self.model.freqs)
        decoder = StreamDecoder(self._table, payload[head.stream : head.end])
        parts = np.zeros(len(head.parts) + 1, PART)
        parts[-1] = 0xFFFFFFFF, 0xFFFFFFFF, 0, 0
        rows: list[Bytes] = []
        columns: list[Bytes] = []
        row_at = column_at = 0
        lines = take_scales(decoder, head.parts, alphabet.phase)
        for i, (part_rows, part_columns) in enumerate(lines):
            parts[i] = part_rows.size, part_columns.size, row_at, column_at
            rows.append(part_rows)
            columns.append(part_columns)
            row_at += part_rows.size
            column_at += part_columns.size
        if (decoder.words.size - decoder.position) % 2:
            raise FormatError("rANS stream does not end with its last symbol")
        return Stream(
            elements,
            head.base + alphabet.first,
            decoder.words,
            decoder.position,
            decoder.states,
            parts,
            np.concatenate([*rows, _BEYOND]),
            np.concatenate([*columns, _BEYOND]),
            payload[head.rest : head.signs],
            payload[head.signs : head.stream],
            payload[head.escapes : head.rest],
            self._halves(payload[head.end :], elements) if form.half else None,
        )

    def _halves(self, stored: Bytes, elements: int) -> Bytes:
        """The low halves of a chunk, decoded."""
        if self._low is None:
            if stored.size != 2 * elements:
                raise FormatError("low halves of a chunk have the wrong length")
            return stored
        halves = np.empty(2 * elements, np.uint8)
        self._low.decode(stored, halves)
        return halves


def range_tables(freqs: Freqs) -> Words:
    """Look-up tables of rans.cu, a multiple of 16 bytes: all ranges, then all looks."""
    contexts = freqs.shape[0]
    ranges = np.zeros((contexts, _RANGES), np.uint32)
    looks = np.zeros((contexts, ONE // 2), np.uint8)
    for c, row in enumerate(freqs.astype(np.uint32)):
        symbols = np.flatnonzero(row).astype(np.uint32)
        lengths = row[symbols]
        if not symbols.size:  # stands for a frequency of 4096 of symbol 0
            symbols, lengths = np.zeros(1, np.uint32), np.full(1, ONE, np.uint32)
        starts = np.cumsum(lengths, dtype=np.uint32) - lengths
        packed = starts | (ONE - lengths) << 12 | symbols << 24
        ranges[c] = packed[-1]  # a look-up behind the last one returns it again
        ranges[c, : symbols.size] = packed
        looks[c] = np.repeat(np.arange(symbols.size, dtype=np.uint8), lengths)[::2]
    return np.concatenate([ranges.reshape(-1), looks.reshape(-1).view(np.uint32)])
