"""The decoding side of tables."""

from abc import ABC, abstractmethod

import numpy as np
import xxhash

from densor.codec.batch import Bytes
from densor.codec.interfaces import ChunkDecoder
from densor.codec.table.contexts import Values, arrays_of, function_places, take_contexts
from densor.codec.table.dictionary import (
    Cells,
    cells_of_numbers,
    cells_of_texts,
    take_dictionary,
)
from densor.codec.table.items import cells_of_integers, take_items, take_items_dictionary
from densor.codec.table.latents import Latents, take_latents
from densor.codec.table.layout import I32, I64, Layout
from densor.codec.table.mixing import Settings, code_column
from densor.codec.table.output import Column, Text, write_buffers
from densor.codec.table.params import parse
from densor.codec.table.payload import (
    BYTES,
    CONSTANT,
    FUNCTION,
    HUFFMAN,
    MIXED,
    STEPS,
    SYMBOLS,
    TEXT,
    Head,
    parse_head,
)
from densor.codec.table.prefix_code import code_of
from densor.codec.table.state import MAX_CONTEXTS, PADDING, QUICK
from densor.codec.table.wire import Reader
from densor.entropy.deferred import deferred
from densor.errors import ChecksumError, FormatError, LimitError

add_up, apply_function, fill_table, take_codes = deferred(
    "densor.codec.table.symbol_kernels", "add_up", "apply_function", "fill_table", "take_codes"
)

_MAX_STEPS = 1 << 62


class Columns(ABC):
    """The columns of a chunk, each decoded when it is asked for.

    `most`: bytes of different cells of all columns, at most. `needed`: how many of the first rows
    are decoded; set it before the first column.
    """

    def __init__(self, layout: Layout, head: Head, most: int) -> None:
        self._layout = layout
        self._head = head
        self._most = most if not layout.arrays else most + 2 * layout.columns
        self.needed = head.rows
        self._known: dict[int, Column] = {}
        self._latents: Latents | None = None
        self._limit = len(head.order)  # place in the order that parents must be before

    @abstractmethod
    def record(self, column: int) -> Bytes:
        """The record of a column; FormatError where it is not at hand."""

    def column(self, number: int) -> Column:
        """A column, which is decoded after those that it depends on."""
        found = self._known.get(number)
        if found is None:
            data = self.record(number)
            place = self._head.places[number]
            if xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF != self._head.check_of(number):
                raise ChecksumError("column of a table is damaged")
            if place < 0:
                self._take_latents(Reader(data))
                return self._known[number]
            limit, self._limit = self._limit, place
            try:
                found = self._decoded(Reader(data), number)
            finally:
                self._limit = limit
            self._known[number] = found
        return found

    def latents(self) -> tuple[Latents, tuple[int, ...]] | None:
        """Classes of rows, and of the columns that are listed; None where there are none."""
        if not self._head.latent:
            return None
        self.column(self._head.latent[0])
        assert self._latents is not None
        return self._latents, self._head.latent

    def _take_latents(self, at: Reader) -> None:
        """Decodes all columns under latent classes."""
        head, quote = self._head, self._layout.quote
        found = take_latents(at, head.rows, len(head.latent), quote, self._most)
        self._most -= sum(int(one.cells.offsets[-1]) for one in found.alphabets)
        self._latents = found.latents
        for place, number in enumerate(head.latent):
            cells, ids = found.alphabet(place).cells, found.symbols[place]
            self._known[number] = Column(cells, ids, Values(ids, cells.numbers))

    def _values(self, number: int) -> Values:
        if self._head.places[number] >= self._limit:
            raise FormatError("column of a table depends on one that comes later")
        values = self.column(number).values
        if values is None:
            raise FormatError("column of a table depends on texts")
        return values.first(self.needed)

    def _decoded(self, at: Reader, number: int) -> Column:
        method = at.byte()
        form = self._layout.width(number), self._layout.has_items(number)
        if method in (CONSTANT, TEXT):
            found = self._texts(at, method, *form)
        else:
            found = self._coded(at, method, *form)
        self._most -= int(found.cells.offsets[-1])
        if self._most < 0:
            raise FormatError("cells of a table are too long")
        return found

    def _texts(self, at: Reader, method: int, width: int, items: bool) -> Column:
        rows = self._head.rows
        if method == CONSTANT:
            text = np.frombuffer(at.raw(at.left), np.uint8)
            if items and text.size != width:
                raise FormatError("cells of records are not as long as they should be")
            blob = np.concatenate([text, np.zeros(PADDING, np.uint8)])
            cells = Cells(blob, np.array([0, text.size], np.int64))
            ids = np.zeros(rows, np.int32)
            return Column(cells, ids, Values(ids))
        if items:
            cells = take_items(at, rows, width)
        else:
            terminator = at.byte()
            cells = cells_of_texts(at.packed(self._most + rows), terminator, rows)
        _ended(at)
        return Column(cells, np.arange(rows, dtype=np.int32), None)

    def _coded(self, at: Reader, method: int, width: int, items: bool) -> Column:
        rows, quote = self._head.rows, self._layout.quote
        if items:
            cells = take_items_dictionary(at, rows, width)
        else:
            cells = take_dictionary(at, quote, rows, self._most, width)
        if method not in (SYMBOLS, STEPS):
            raise FormatError("table has an unknown kind of column")
        if not cells.size and rows:
            raise FormatError("column of a table has no cells")
        style = at.byte() if method == STEPS else 0
        ids = self._symbols(at, cells.size)
        if method == SYMBOLS:
            return Column(cells, ids, Values(ids, cells.numbers))
        if cells.numbers is None:
            raise FormatError("steps of a column are texts")
        values = _added(cells.numbers[ids])
        ranks = np.arange(ids.size, dtype=np.int32)
        if items:
            cells = cells_of_integers(values, style, width)
        else:
            cells = cells_of_numbers(values, style, quote, width)
        return Column(cells, ranks, Values(ids, by_row=values))

    def _symbols(self, at: Reader, count: int) -> I32:
        """The symbols of all rows that are needed, below `count`."""
        symbols = np.zeros(self.needed, np.int32)
        if count < 2 or not self._head.rows:
            _ended(at)
            return symbols
        way = at.byte()
        if way == FUNCTION:
            self._by_function(at, symbols, count)
        elif way == MIXED:
            self._by_mixing(at, symbols, count)
        elif way in (HUFFMAN, BYTES):
            differences, rows = at.byte(), self._head.rows
            decode = _by_code if way == HUFFMAN else _by_bytes
            decode(at, symbols, count, rows)
            if differences > 1:
                raise FormatError("symbols of a table are of an unknown kind")
            if differences:
                add_up(symbols, count)
        else:
            raise FormatError("symbols of a table are coded in an unknown way")
        return symbols

    def _by_mixing(self, at: Reader, symbols: I32, count: int) -> None:
        code = code_of(np.frombuffer(at.packed(count), np.uint8), count)
        limit, guess = at.number(1023), at.byte()
        if not limit or guess > 1:
            raise FormatError("symbols of a table are mixed with unknown settings")
        contexts = take_contexts(at, self._layout.columns, MAX_CONTEXTS)
        arrays = arrays_of(contexts, self._values, symbols.size)
        data = np.frombuffer(bytearray(at.raw(at.left)), np.uint8)
        settings = Settings(self._head.rows, limit, bool(guess))
        end = code_column(False, code, *arrays, symbols, data, settings)
        if end > data.size or (end < data.size and symbols.size == settings.rows):
            raise FormatError("symbols of a table do not decode to their end")

    def _by_function(self, at: Reader, symbols: I32, count: int) -> None:
        total = self._head.rows
        contexts = take_contexts(at, self._layout.columns, 1)
        numbers, parents = arrays_of(contexts, self._values, symbols.size)
        exceptions = at.number(total)
        gaps, values = at.numbers(exceptions), at.numbers(exceptions)
        _ended(at)
        if exceptions and (values.max() >= count or values.min() < 0):
            raise FormatError("function of a table has impossible symbols")
        if exceptions and (gaps.min() < 0 or gaps.max() >= total):
            raise FormatError("function of a table has impossible exceptions")
        rows = np.cumsum(gaps + 1) - 1
        if exceptions and rows[-1] >= total:
            raise FormatError("function of a table has impossible exceptions")
        flat = numbers.reshape(-1), parents.reshape(-1)
        if not apply_function(*flat, rows, values, *function_places(), symbols):
            raise FormatError("function of a table has too few exceptions")


def _ended(at: Reader) -> None:
    if at.left:
        raise FormatError("column of a table is too long")


def _by_code(at: Reader, symbols: I32, count: int, rows: int) -> None:
    code = code_of(np.frombuffer(at.packed(count), np.uint8), count)
    table = np.zeros(1 << QUICK, np.int32)
    fill_table(code, table)
    size = at.left
    data = np.frombuffer(at.raw(size) + bytes(16), np.uint8)
    end = take_codes(code, table, data, size, symbols)
    end = (end + 7) >> 3
    if end > size or (end < size and symbols.size == rows):
        raise FormatError("symbols of a table do not decode to their end")


def _by_bytes(at: Reader, symbols: I32, count: int, rows: int) -> None:
    found = at.numbers(rows)
    _ended(at)
    if found.size and not 0 <= found.min() <= found.max() < count:
        raise FormatError("symbols of a table are out of range")
    symbols[:] = found[: symbols.size]


def _added(steps: I64) -> I64:
    """The numbers that steps lead to, from 0 on; FormatError where they do not fit."""
    if np.abs(steps.astype(np.float64)).sum() > _MAX_STEPS:
        raise FormatError("numbers of a table are out of range")
    return np.cumsum(steps)


class _AllColumns(Columns):
    """Columns of a whole chunk."""

    def record(self, column: int) -> Bytes:
        begin, end = self._head.range_of(column)
        return self._head.records[begin:end]


class TableDecoder(ChunkDecoder):
    """Decodes chunks of one layout. Safe to use from several threads at once."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        if out.size > self.layout.max_bytes:
            raise LimitError(f"chunk of a table has more than {self.layout.max_bytes} bytes")
        head = parse_head(np.ascontiguousarray(payload), self.layout, out.size)
        columns = _AllColumns(self.layout, head, out.size)
        for i in (*head.latent[:1], *head.order):  # parents before what needs them
            columns.column(i)
        found = [columns.column(i) for i in range(self.layout.columns)]
        if head.buffers is not None:
            write_buffers(head.buffers, found, out)
        else:
            Text(self.layout, head, found).write(out)


def open_decoder(payload: bytes, _: object = None) -> TableDecoder:
    """The decoder of a MODEL frame's payload; FormatError or LimitError for a bad one."""
    return TableDecoder(parse(payload))
