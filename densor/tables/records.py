"""Tables of records, in `.npy` files within archives, of which only what is asked for is read."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.registry import CODEC_TABLE
from densor.codec.table.output import cells_in
from densor.codec.table.params import parse
from densor.codec.table.reading import StoredPart
from densor.errors import FileError
from densor.formats.container.archive import Archive
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.parsers.npy import records_in
from densor.tables.values import Values

_MOST_ROWS = 1 << 16  # that are read at once where they are in no table


class RecordTable:
    """The records of a `.npy` file, in the order of the file. `names`: of its fields.

    Those of fields within fields are `outer.inner`. A field that is an array has values of its
    shape. FileError where the file has no records.
    """

    def __init__(self, archive: Archive, entry: IndexedEntry) -> None:
        self._archive = archive
        self._entry = entry
        found = records_in(lambda begin, end: archive.read(entry, begin, end), entry.size)
        if found is None:
            raise FileError(f"{entry.meta.name}: this is no file of records")
        self._begin, self._rows, self._layout, self._fields = found
        self.names = [field.name for field in self._fields]
        self._places = np.cumsum([0, *self._layout.widths])

    def parts(self, columns: Sequence[int], begin: int, end: int) -> Iterator[list[Values]]:
        """Columns of rows `begin` to `end`, of a chunk at a time."""
        end = min(end, self._rows)
        at = begin = min(begin, end)
        if begin == end:
            return
        for first, last, part in self._tables():
            if last <= at:
                continue
            yield from self._plain(columns, at, min(first, end))
            at = max(at, min(first, end))
            low, high = at - first, min(last, end) - first
            if low >= high:
                return
            part.needed = high
            yield [self._column(part, number, low, high) for number in columns]
            at = first + high
        yield from self._plain(columns, at, end)

    def nothing(self, number: int) -> Values:
        """A column of no rows."""
        dtype = self._fields[number].dtype
        return Values(np.zeros((0, *dtype.shape), dtype.base.newbyteorder("=")))

    def _tables(self) -> Iterator[tuple[int, int, StoredPart]]:
        """The chunks that are tables of whole records: the first row, and that behind the last."""
        for chunk in self._archive.unread_chunks(self._entry):
            row, within = divmod(chunk.begin - self._begin, self._layout.stride)
            if row < 0 or within or chunk.model[:1] != bytes([CODEC_TABLE]):
                continue
            layout = parse(chunk.model)
            part = StoredPart(layout, chunk.size, chunk.stored, chunk.read)
            as_told = layout.records and layout.widths == self._layout.widths
            if as_told and part.rows == chunk.size // layout.stride:
                yield row, min(row + part.rows, self._rows), part

    def _column(self, part: StoredPart, number: int, low: int, high: int) -> Values:
        """A field in rows of a table, from the columns that it takes."""
        field = self._fields[number]
        size = field.dtype.itemsize
        first, last = np.searchsorted(self._places, [field.offset, field.offset + size])
        rows = np.empty((high - low, size), np.uint8)
        for column in range(first, last if size else first):
            width = self._layout.widths[column]
            cells = cells_in(part.column(column), low, high, (high - low) * width)
            at = int(self._places[column]) - field.offset
            rows[:, at : at + width] = cells.reshape(high - low, width)
        return Values(_native(rows, field.dtype))

    def _plain(self, columns: Sequence[int], begin: int, end: int) -> Iterator[list[Values]]:
        """The same of rows that are in no table."""
        stride = self._layout.stride
        for first in range(begin, end, _MOST_ROWS):
            last = min(first + _MOST_ROWS, end)
            at, behind = (self._begin + row * stride for row in (first, last))
            rows = self._archive.read(self._entry, at, behind).reshape(-1, stride)
            yield [Values(_native(_of(rows, self._fields[i]), self._fields[i].dtype))
                   for i in columns]  # fmt: skip


def _of(rows: npt.NDArray[np.uint8], field: Any) -> Bytes:
    """The bytes of a field, uint8[rows, size]."""
    return np.ascontiguousarray(rows[:, field.offset : field.offset + field.dtype.itemsize])


def _native(rows: npt.NDArray[np.uint8], dtype: "np.dtype[Any]") -> npt.NDArray[Any]:
    """Values of a type from their bytes, in this machine's byte order."""
    base, shape = dtype.base, dtype.shape
    if not dtype.itemsize:
        return np.zeros((rows.shape[0], *shape), base)
    found = rows.reshape(-1).view(base).reshape(rows.shape[0], *shape)
    native = base.newbyteorder("=")
    return found if native == base else found.astype(native)
