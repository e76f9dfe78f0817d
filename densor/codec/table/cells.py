"""Takes a text apart into columns of different cells, for the coding side."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.table.dictionary import (
    DAYS,
    MISSING,
    NUMBERS,
    PADDED,
    SECONDS,
    SECONDS_SPACE,
    SECONDS_ZULU,
    TEXTS,
    cells_of_times,
)
from densor.codec.table.layout import I32, I64, MAX_CELLS, Layout
from densor.codec.table.literals import literals_of
from densor.codec.table.packing import Packer
from densor.codec.table.state import PADDING, QUOTED
from densor.codec.table.wire import Writer
from densor.entropy.deferred import deferred
from densor.errors import FormatError
from densor.runtime.buffers import ThreadBuffers

intern_columns = deferred("densor.codec.table.intern_kernels", "intern_columns")
read_numbers, scale_numbers = deferred(
    "densor.codec.table.number_kernels", "read_numbers", "scale_numbers"
)
split_rows = deferred("densor.codec.table.split_kernels", "split_rows")
take_symbols = deferred("densor.codec.table.symbol_kernels", "take_symbols")

_MAX_SHARE_OF_PIECES = 0.3  # of the bytes; beyond, this is no table
_MAX_SHARE_OF_OTHERS = 0.5  # of different cells, that are no number where the others are
_MIN_SHARE_OF_VALUES = 0.35  # that differ, of the rows; then texts among them are odd
_MAX_SHARE_OF_ODD = 0.005
_FEW = 8  # cells, which are joined one by one
_ROOM = 64 + PADDING  # behind a text, of line feeds
_MAX_SCRATCH = 1 << 24  # bytes
_BUFFERS = ThreadBuffers()
_TIMES = {20: (SECONDS_ZULU,), 19: (SECONDS, SECONDS_SPACE), 10: (DAYS,)}  # by length


@dataclass(frozen=True, eq=False)
class Rows:
    """A text in rows. `data` is padded; `starts`: int32[columns + 1, step], see `split_rows`.

    `gaps`, `places`, `lengths`: int64, of pieces that are no row.
    """

    data: Bytes
    layout: Layout
    named: bool
    rows: int
    starts: I32
    step: int
    gaps: I64
    places: I64
    lengths: I64

    @property
    def pieces(self) -> bytes:
        """The bytes of all pieces."""
        spans = zip(self.places.tolist(), self.lengths.tolist(), strict=True)
        return b"".join(self.data[at : at + length].tobytes() for at, length in spans)

    def without(self, odd: npt.NDArray[np.bool_]) -> "Rows":
        """The same with some rows as pieces; `odd`: bool[rows]."""
        starts = self.starts.reshape(-1, self.step)
        begins = starts[0, : self.rows].astype(np.int64) - len(self.layout.between[0])
        end = self.layout.ending - int(self.layout.separated)
        sizes = starts[-1, : self.rows] + end - begins
        places = np.concatenate([self.places, begins[odd]])
        lengths = np.concatenate([self.lengths, sizes[odd]])
        order = np.argsort(places, kind="stable")
        places, lengths = places[order], lengths[order]
        kept = np.ascontiguousarray(starts[:, : self.rows][:, ~odd])
        before = np.searchsorted(kept[0] - len(self.layout.between[0]), places)
        gaps = np.diff(before, prepend=0)
        rows = kept.shape[1]
        pieces = gaps, places, lengths
        return Rows(self.data, self.layout, self.named, rows, kept.reshape(-1), rows, *pieces)

    def cells(self) -> list["Cells"]:
        """The different cells of each column."""
        return self._cells(0, self.layout.columns)

    def cells_of(self, column: int) -> "Cells":
        """The different cells of a column of a text."""
        return self._cells(column, column + 1)[0]

    def _cells(self, first: int, last: int) -> list["Cells"]:
        layout = self.layout
        between = [1 if layout.separated else len(text) for text in layout.between[1:]]
        starts = self.starts[first * self.step :]
        return cells_of(self.data, starts, self.step, between[first:last], self.rows)

    def pack_pieces(self, out: Writer, packer: Packer) -> None:
        """What is no row, and where, as it stands in a chunk."""
        out.number(self.gaps.size)
        if self.gaps.size:
            out.raw(packer.numbers(self.gaps) + packer.numbers(self.lengths))
            out.raw(packer.pack(self.pieces))


def cells_of(
    data: Bytes, starts: I32, step: int, between: Sequence[int], rows: int
) -> list["Cells"]:
    """The different cells of each column of padded data.

    Cells of column c begin at `starts[c step:]`, int32, and end `between[c]` bytes before
    `starts[(c + 1) step:]`.
    """
    columns, room = len(between), (2 * rows).bit_length()
    at_once = max(1, _MAX_SCRATCH // (4 << room))
    found: list[Cells] = []
    if columns > at_once:
        for first in range(0, columns, at_once):
            some = between[first : first + at_once]
            found += cells_of(data, starts[first * step :], step, some, rows)
        return found
    slots = _scratch("slots", columns * 4 << room).view(np.int32)
    words = _scratch("words", columns * 8 * rows).view(np.int64)
    lengths = _scratch("lengths", columns * 4 * rows).view(np.int32)
    places = _scratch("places", columns * 4 * rows).view(np.int32)
    ids = np.empty((columns, rows), np.int32)
    sizes, counts = np.empty(columns, np.int64), np.empty(columns, np.int64)
    where = starts, step, rows, np.array(between, np.int64), slots
    intern_columns(data, *where, words, lengths, places, ids.reshape(-1), sizes, counts)
    for column, count in enumerate(counts.tolist()):
        cells = slice(column * rows, column * rows + count)
        each = places[cells].copy(), lengths[cells].copy(), words[cells].copy()
        found.append(Cells(data, ids[column], *each))
    return found


def _scratch(name: str, size: int) -> Bytes:
    """Memory that is used again where it is not too much: much of it is never touched."""
    return _BUFFERS.take(name, size) if size <= _MAX_SCRATCH else np.empty(size, np.uint8)


def rows_of(data: Bytes, layout: Layout) -> Rows | None:
    """The rows of a text; None where it is hardly a table."""
    size = data.size
    padded = np.empty(size + _ROOM, np.uint8)
    padded[:size], padded[size:] = data, 10
    names = np.frombuffer(layout.names, np.uint8)
    named = 0 < names.size <= size and np.array_equal(padded[: names.size], names)
    step = int(np.count_nonzero(padded[:size] == 10)) + 2
    if step * layout.columns > MAX_CELLS:
        return None
    starts = np.empty(step * (layout.columns + 1), np.int32)
    gaps, places, lengths = (np.empty(step, np.int32) for _ in range(3))
    begin = names.size if named else 0
    quote = layout.quote or -1
    separator = layout.separator if layout.separated else -1
    if separator == 10 or any(10 in literal for literal in layout.literals):
        return None  # rows would not end where the text does
    grammar = begin, size, separator, quote, int(layout.returns), layout.columns
    literals = *literals_of(layout), np.array(layout.widths, np.int64)
    rows, count = split_rows(padded, *grammar, *literals, starts, gaps, places, lengths)
    found = lengths[:count].astype(np.int64)
    if int(found.sum()) > _MAX_SHARE_OF_PIECES * size or not rows:
        return None
    pieces = gaps[:count].astype(np.int64), places[:count].astype(np.int64), found
    return Rows(padded, layout, named, int(rows), starts, step, *pieces)


@dataclass(frozen=True, eq=False)
class Cells:
    """The different cells of a column, numbered by `ids`, int32[rows], in the order they come."""

    data: Bytes
    ids: I32
    places: I32
    lengths: I32
    words: I64

    def text(self, cell: int) -> bytes:
        """A cell."""
        at = int(self.places[cell])
        return self.data[at : at + int(self.lengths[cell])].tobytes()

    def joined(self, order: npt.NDArray[np.int64], terminator: int | None) -> bytes:
        """Cells with a terminator behind each, or nothing."""
        places, lengths = self.places[order].astype(np.int64), self.lengths[order].astype(np.int64)
        sizes = lengths if terminator is None else lengths + 1
        begins = np.cumsum(sizes) - sizes
        at = np.arange(int(sizes.sum())) + np.repeat(places - begins, sizes)
        found = self.data[at]
        if terminator is not None:
            found[begins + lengths] = terminator
        joined: bytes = found.tobytes()
        return joined


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Different cells in the order that they are stored in, and how.

    `ranks`: int32, what number each cell gets; `numbers`: int64, by that number, None where they
    are texts. `values`: of those that are numbers; `kind` and `style` as in a chunk.
    """

    cells: Cells
    kind: int
    style: int
    order: npt.NDArray[np.int64]
    values: I64

    @cached_property
    def ids(self) -> I32:
        """int32[rows]."""
        ranks, found = np.empty(self.order.size, np.int32), np.empty_like(self.cells.ids)
        ranks[self.order] = np.arange(self.order.size, dtype=np.int32)
        take_symbols(ranks, self.cells.ids, found)
        return found

    @property
    def numbers(self) -> I64 | None:
        """int64, by number of the cell; None where cells are texts."""
        if self.kind == TEXTS:
            return None
        others = self.order.size - self.values.size
        return np.concatenate([np.full(others, MISSING, np.int64), self.values])

    def odd(self) -> npt.NDArray[np.bool_] | None:
        """The few rows whose cell is a text where almost all are different numbers, bool[rows]."""
        rows, others = self.cells.ids.size, self.order.size - self.values.size
        if self.kind == TEXTS or not others or self.values.size < _MIN_SHARE_OF_VALUES * rows:
            return None
        found = self.ids < others
        return found if 0 < np.count_nonzero(found) <= _MAX_SHARE_OF_ODD * rows else None

    def pack(self, packer: Packer) -> bytes:
        """As it stands in a chunk."""
        out = Writer()
        out.byte(self.kind)
        out.number(self.order.size)
        if self.kind != TEXTS:
            out.byte(self.style)
            out.number(self.order.size - self.values.size)
        others = self.order[: self.order.size - self.values.size]
        out.raw(self.pack_cells(others, packer))
        if self.kind != TEXTS:
            out.raw(pack_values(self.values, packer))
        return out.bytes()

    def pack_cells(self, order: npt.NDArray[np.int64], packer: Packer) -> bytes:
        """Cells that are no numbers."""
        return pack_texts(self.cells, order, packer)

    def pack_rows(self, packer: Packer) -> bytes:
        """The cells of all rows."""
        return self.pack_cells(self.cells.ids.astype(np.int64), packer)


def pack_texts(cells: Cells, order: npt.NDArray[np.int64], packer: Packer) -> bytes:
    """Cells as texts: a byte that is in none of them, and they; FormatError if there is none."""
    if order.size <= _FEW:
        text = b"".join(cells.text(cell) + b"\n" for cell in order.tolist())
        if text.count(b"\n") == order.size:
            return b"\n" + packer.pack(text)
    text = cells.joined(order, 10)
    found = np.bincount(np.frombuffer(text, np.uint8), minlength=256)
    terminator = 10
    if found[10] > order.size:
        if found.all():
            raise FormatError("cells of a table have every byte")
        terminator = int(np.flatnonzero(found == 0)[0])
        text = cells.joined(order, terminator)
    return bytes([terminator]) + packer.pack(text)


def pack_values(values: I64, packer: Packer) -> bytes:
    """Numbers in ascending order: the first, and gaps."""
    if not values.size:
        return b""
    out = Writer()
    out.byte(int(values[0] < 0))
    out.number(abs(int(values[0])))
    out.raw(packer.numbers(np.diff(values)))
    return out.bytes()


def dictionary_of(cells: Cells, quote: int, width: int = 0) -> Dictionary:
    """How the cells of a column, of `width` bytes or of any, are best stored."""
    found = _as_numbers(cells, quote, width)
    if found is None:
        found = _as_times(cells, quote)
    if found is not None:
        return found
    order = np.argsort(cells.words.view(np.uint64).byteswap(), kind="stable")
    return Dictionary(cells, TEXTS, 0, order, np.zeros(0, np.int64))


def _as_numbers(cells: Cells, quote: int, width: int) -> Dictionary | None:
    count = cells.places.size
    values, found = np.empty(count, np.int64), np.empty(count, np.int64)
    where, padded = (cells.places, cells.lengths), False
    if width:
        blanks = _blanks(cells, width)
        where, padded = (cells.places + blanks, cells.lengths - blanks), bool(blanks.any())
    read_numbers(cells.data, *where, quote or -1, values, found)
    style = int(scale_numbers(values, found))
    if style < 0:
        return None
    return _ordered(cells, NUMBERS, style | (PADDED if padded else 0), found > 0, values)


def _blanks(cells: Cells, width: int) -> I32:
    """Blanks in front of each cell, all of which have one width."""
    at = cells.places[:, None] + np.arange(width, dtype=np.int32)
    blank = (cells.data[at] == 32).cumprod(axis=1, dtype=np.int32).sum(axis=1)
    return np.asarray(blank, np.int32)


def _ordered(
    cells: Cells, kind: int, style: int, good: npt.NDArray[np.bool_], values: I64
) -> Dictionary:
    """A dictionary of the cells that have values, in the order of these, behind the others."""
    others, numbers = np.flatnonzero(~good), np.flatnonzero(good)
    if others.size > 1:
        others = others[np.argsort(cells.words[others].view(np.uint64).byteswap(), kind="stable")]
    numbers = numbers[np.argsort(values[numbers])]  # none is there twice
    return Dictionary(cells, kind, style, np.concatenate([others, numbers]), values[numbers])


def _as_times(cells: Cells, quote: int) -> Dictionary | None:
    """Cells that are days or times as ISO 8601 has them."""
    lengths = np.bincount(cells.lengths, minlength=23)
    length = int(lengths.argmax())
    quoted = length - 2 in _TIMES and lengths.size > length and _begins(cells, length, quote)
    inner = length - 2 * quoted
    if inner not in _TIMES or lengths[length] <= (1 - _MAX_SHARE_OF_OTHERS) * cells.lengths.size:
        return None
    good = cells.lengths == length
    at = cells.places[good].astype(np.int64)[:, None] + np.arange(length)
    text = cells.data[at]
    core = np.ascontiguousarray(text[:, quoted : length - quoted])
    for kind in _TIMES[inner]:
        values = _times(core)
        if values is None:
            return None
        again = cells_of_times(values, kind, quoted, quote)
        equal = (again.blob[:-PADDING].reshape(text.shape) == text).all(axis=1)
        if equal.sum() > (1 - _MAX_SHARE_OF_OTHERS) * cells.lengths.size:
            good[good] = equal
            spread = np.zeros(good.size, np.int64)
            spread[good] = values[equal]
            return _ordered(cells, kind, QUOTED if quoted else 0, good, spread)
    return None


def _begins(cells: Cells, length: int, quote: int) -> bool:
    some = cells.places[cells.lengths == length][:1]
    return bool(quote) and some.size > 0 and int(cells.data[some[0]]) == quote


def _times(text: npt.NDArray[np.uint8]) -> I64 | None:
    """Days, or seconds, of texts such as 2013-01-31 or 2013-01-31T10:00:00."""
    columns = text[:, [0, 1, 2, 3, 5, 6, 8, 9, *([11, 12, 14, 15, 17, 18] * (text.shape[1] > 10))]]
    digits = columns.astype(np.int64) - 48
    bad = ((digits < 0) | (digits > 9)).any(axis=1)
    digits[bad] = 0
    year = digits[:, :4] @ np.array([1000, 100, 10, 1])
    month, day = digits[:, 4] * 10 + digits[:, 5], digits[:, 6] * 10 + digits[:, 7]
    months = np.clip((year - 1970) * 12 + month - 1, -1969 * 12, 8029 * 12)
    first = months.view("M8[M]").astype("M8[D]").view(np.int64)
    days: I64 = first + np.clip(day, 1, 31) - 1
    if text.shape[1] == 10:
        return days
    clock = digits[:, 8:] @ np.array([36000, 3600, 600, 60, 10, 1])
    seconds: I64 = np.clip(days * 86400 + clock, -62135596800, 253402300799)
    return seconds
