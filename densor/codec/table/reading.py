"""Columns of a table by themselves, from chunks of which only what is needed is read."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.table.arrays import Buffer
from densor.codec.table.cells import Rows
from densor.codec.table.decoder import Columns
from densor.codec.table.dictionary import Cells
from densor.codec.table.layout import I64, Layout
from densor.codec.table.literals import literals_of
from densor.codec.table.output import Column, joined_cells
from densor.codec.table.payload import Head, parse_head
from densor.codec.table.state import PADDING
from densor.entropy.deferred import deferred
from densor.errors import FormatError, LimitError

join_rows = deferred("densor.codec.table.join_kernels", "join_rows")

_FIRST = 1 << 9  # bytes of a chunk in which its head is looked for


class Part(Protocol):
    """Some rows of a table."""

    @property
    def rows(self) -> int:
        """How many there are."""

    def column(self, number: int) -> Column:
        """The cells of a column."""


def _behind(gaps: I64, lengths: I64, pieces: bytes, rows: int) -> bytes:
    """What stands behind all rows."""
    if not gaps.size or int(gaps.sum()) != rows:
        return b""
    return pieces[len(pieces) - int(lengths[-1]) :]


class StoredPart(Columns):
    """A chunk that `read` gives bytes of; `stored`: how many it has, `size`: original bytes."""

    def __init__(
        self, layout: Layout, size: int, stored: int, read: Callable[[int, int], Bytes]
    ) -> None:
        self._read = read
        found, self._begin = self._head_of(layout, size, stored)
        super().__init__(layout, found, size)
        self.rows = found.rows
        self.behind = _behind(found.gaps, found.lengths, found.pieces, found.rows)

    def _head_of(self, layout: Layout, size: int, stored: int) -> tuple[Head, int]:
        """The head of the chunk, and where records begin."""
        count = min(stored, _FIRST)
        while True:
            data = np.ascontiguousarray(self._read(0, count))
            try:
                head = parse_head(data, layout, size, whole=False)
                return head, count - head.records.size
            except FormatError:
                if count == stored:
                    raise
                count = min(stored, 4 * count)

    def buffers(self) -> Iterator[Buffer]:
        """Where the buffers of arrays lie in the chunk."""
        return iter(self._head.buffers or ())

    def between(self, begin: int, end: int) -> bytes | None:
        """Bytes of a chunk of arrays that are in no buffer; None where some are in one."""
        return None if self._head.buffers is None else self._head.buffers.between(begin, end)

    def stored_size(self, column: int) -> int:
        """Bytes of a column's record; columns under latent classes share one in equal parts."""
        begin, end = self._head.range_of(column)
        shared = len(self._head.latent) if column in self._head.latent else 1
        return (end - begin) // shared

    def record(self, column: int) -> Bytes:
        """The record of a column."""
        begin, end = self._head.range_of(column)
        return np.ascontiguousarray(self._read(self._begin + begin, end - begin))

    def column(self, number: int) -> Column:
        """A column; LimitError where it depends on too many others, one after the other."""
        try:
            return super().column(number)
        except RecursionError:
            raise LimitError("column of a table depends on too many others") from None


class PlainPart:
    """Rows of a text."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.rows = rows.rows

    def column(self, number: int) -> Column:
        """The cells of a column."""
        found = self._rows.cells_of(number)
        lengths = found.lengths.astype(np.int64)
        offsets = np.zeros(lengths.size + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        at = np.arange(int(offsets[-1])) + np.repeat(found.places - offsets[:-1], lengths)
        blob = np.concatenate([found.data[at], np.zeros(PADDING, np.uint8)])
        return Column(Cells(blob, offsets), found.ids, None)


def lines_of(columns: list[Column], chosen: I64, layout: Layout) -> Bytes:
    """Rows of some columns as a text of that layout; `chosen`: their numbers."""
    ids = np.stack([column.ids[chosen] for column in columns])
    literals = literals_of(layout)
    sizes = [np.diff(column.cells.offsets)[column.ids[chosen]].sum() for column in columns]
    total = int(sum(sizes)) + chosen.size * (int(literals[1][-1]) + layout.ending)
    out = np.empty(total, np.uint8)
    cells = joined_cells(columns)
    ids = np.ascontiguousarray(ids, np.int32).reshape(-1)
    sides = *cells, *literals, layout.ending, total, out, 0
    separator = layout.separator if layout.separated else -1
    join_rows(ids, chosen.size, 0, chosen.size, len(columns), separator, *sides)
    return out
