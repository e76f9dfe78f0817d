"""Columns of cells as the bytes they came from: rows of text, records, or arrays."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.table.arrays import Buffer, Buffers
from densor.codec.table.contexts import Values
from densor.codec.table.dictionary import Cells
from densor.codec.table.layout import BITS, CELLS, I32, I64, MAX_BYTES, Layout
from densor.codec.table.literals import literals_of
from densor.codec.table.payload import Head
from densor.codec.table.state import PADDING
from densor.entropy.deferred import deferred
from densor.errors import FormatError

join_cells, join_rows, joined_size, lay_out_cells = deferred(
    "densor.codec.table.join_kernels", "join_cells", "join_rows", "joined_size", "lay_out_cells"
)


_OTHER_SIZE = "chunk of a table does not have its size"
_OFTEN = 1 / 16  # pieces to a row, with which sizes are not added up from piece to piece


class Column(NamedTuple):
    """Cells, and which of them is in each row, int32; a parent of others where it has values."""

    cells: Cells
    ids: I32
    values: Values | None


def joined_cells(columns: Sequence[Column]) -> tuple[I64, I64, Bytes]:
    """The cells of all columns, each dictionary once, as `join_rows` takes them.

    Where those of each column begin, int64[columns]; where each cell does; and their bytes.
    """
    places: dict[int, int] = {}
    different: list[Cells] = []
    for column in columns:
        if id(column.cells) not in places:
            places[id(column.cells)] = len(different)
            different.append(column.cells)
    sizes = [int(cells.offsets[-1]) for cells in different]
    firsts = np.cumsum([0, *(cells.size for cells in different)]).astype(np.int64)
    begins = np.cumsum([0, *sizes])
    offsets = [c.offsets[:-1] + b for c, b in zip(different, begins, strict=False)]
    blobs = [cells.blob[:size] for cells, size in zip(different, sizes, strict=True)]
    bases = firsts[[places[id(column.cells)] for column in columns]]
    whole = np.concatenate([*offsets, begins[-1:]]).astype(np.int64)
    return bases, whole, np.concatenate([*blobs, np.zeros(PADDING, np.uint8)])


def cells_in(column: Column, first: int, last: int, size: int) -> Bytes:
    """The cells of some rows one behind the other, so many bytes; FormatError where they differ."""
    ids = np.ascontiguousarray(column.ids[first:last])
    bases, offsets = np.zeros(1, np.int64), column.cells.offsets
    if int(joined_size(ids, ids.size, 0, ids.size, 1, bases, offsets)) != size:
        raise FormatError("column of a table does not fill its buffers")
    out = np.empty(size, np.uint8)
    between = np.zeros(PADDING, np.uint8), np.zeros(3, np.int64)
    grid = ids, ids.size, 0, ids.size, 1, -1
    join_rows(*grid, bases, offsets, column.cells.blob, *between, 0, out.size, out, 0)
    return out


def write_buffers(buffers: Buffers, columns: Sequence[Column], out: Bytes) -> None:
    """Fills `out` with the buffers of columns; FormatError where a column does not fit its own."""
    pieces = np.frombuffer(buffers.pieces, np.uint8)
    at = begin = 0
    for buffer, gap in zip(buffers, buffers.gaps.tolist(), strict=False):
        out[at : buffer.begin] = pieces[begin : begin + gap]
        at, begin = buffer.begin + buffer.size, begin + gap
        out[buffer.begin : at] = _written(buffer, columns[buffer.column], buffers.layout)
    out[at:] = pieces[begin:]


def _written(buffer: Buffer, column: Column, layout: Layout) -> Bytes:
    """The bytes of a buffer."""
    form = layout.arrays[buffer.column]
    if form not in (CELLS, BITS) and not buffer.data:
        lengths = np.diff(column.cells.offsets)[column.ids[buffer.first : buffer.last]]
        ends = np.zeros(lengths.size + 1, f"<i{form}")
        np.cumsum(lengths, out=ends[1:])
        return ends.view(np.uint8)
    if form != BITS:
        return cells_in(column, buffer.first, buffer.last, buffer.size)
    bits = cells_in(column, buffer.first, buffer.last, buffer.last - buffer.first)
    if (bits > 1).any():
        raise FormatError("bits of a table are no bits")
    return np.packbits(bits, bitorder="little")


class Text:
    """Rows of cells as a text, with what is no row between them."""

    def __init__(self, layout: Layout, head: Head, columns: list[Column]) -> None:
        self._layout = layout
        self._head = head
        self._ids = np.concatenate([column.ids for column in columns])
        self._bases, self._offsets, self._blob = joined_cells(columns)
        alone = len({id(column.cells) for column in columns}) == len(columns)
        self._are_few = alone and 2 * self._offsets.size <= self._ids.size  # cells that are shared
        self._often = head.gaps.size > _OFTEN * head.rows
        self._literals = literals_of(layout)
        self._ending = np.frombuffer(b"\r\n" if layout.returns else b"\n", np.uint8)

    def write(self, out: Bytes) -> None:
        """Fills `out`; FormatError where the text has another size."""
        head, names = self._head, self._layout.names if self._head.named else b""
        if self._often and len(names) + len(head.pieces) + self._size(0, head.rows) > out.size:
            raise FormatError(_OTHER_SIZE)
        at = self._put(names, out, 0)
        row = begin = 0
        for gap, length in zip(head.gaps.tolist(), head.lengths.tolist(), strict=True):
            at = self._rows(row, row + gap, out, at)
            at = self._put(head.pieces[begin : begin + length], out, at)
            row, begin = row + gap, begin + length
        if self._rows(row, head.rows, out, at) != out.size:
            raise FormatError(_OTHER_SIZE)

    @staticmethod
    def _put(piece: bytes, out: Bytes, at: int) -> int:
        if at + len(piece) > out.size:
            raise FormatError(_OTHER_SIZE)
        out[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        return at + len(piece)

    @cached_property
    def _cells(self) -> tuple[int, I64]:
        """Bytes of a row at most, and cells with what stands behind each, see `lay_out_cells`."""
        cells = np.empty(2 * (self._offsets.size - 1), np.int64)
        where = self._bases, self._offsets, self._blob
        most = lay_out_cells(*where, self._ending, self._layout.separator, MAX_BYTES, cells)
        return int(most), cells

    def _size(self, first: int, last: int) -> int:
        """Bytes of some rows."""
        layout, grid = self._layout, (self._ids, self._head.rows, first, last)
        cells = int(joined_size(*grid, layout.columns, self._bases, self._offsets))
        return cells + (last - first) * (int(self._literals[1][-1]) + layout.ending)

    def _rows(self, first: int, last: int, out: Bytes, at: int) -> int:
        layout, step = self._layout, self._head.rows
        if layout.separated and self._are_few and not self._often:
            most, cells = self._cells
            sides = self._bases, cells, self._blob, self._ending, layout.separator
            first, at = join_cells(self._ids, step, first, last, most, *sides, out.size, out, at)
        if not self._often and at + self._size(first, last) > out.size:
            raise FormatError(_OTHER_SIZE)
        separator = layout.separator if layout.separated else -1
        grid = self._ids, step, first, last, layout.columns, separator
        where = self._bases, self._offsets, self._blob
        between = *self._literals, layout.ending, out.size
        return int(join_rows(*grid, *where, *between, out, at))
