"""Columns of a chunk of pages by themselves; of the chunk, only what is needed is read."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.pages.layout import BITS, TEXTS
from densor.codec.pages.payload import (
    AS_BYTES,
    Head,
    Table,
    check,
    take_head,
    take_model,
    take_table,
)
from densor.codec.pages.values import ColumnRecipe, Values, fixed, padded
from densor.codec.table.layout import BITS as BIT_ARRAYS
from densor.codec.table.layout import CELLS, TEXTS_32, Layout
from densor.codec.table.output import cells_in
from densor.codec.table.params import parse
from densor.codec.table.reading import StoredPart
from densor.codec.table.wire import Reader
from densor.errors import FormatError

_T = TypeVar("_T")
_FIRST = 1 << 12  # bytes in which a head is looked for
_MOST_STORED = 1 << 62


class _Place(NamedTuple):
    """The values of some rows. `begin`: where a table's chunk begins, of `stored` bytes."""

    table: Table
    begin: int
    stored: int


class StoredPages:
    """A chunk that `read` gives bytes of; `stored`: how many it has, `size`: original bytes.

    What it begins with is not checked, but says nothing of values that their tables do not.

    `columns`: recipes of the columns; `rest`: the bytes that are made of no values.
    """

    def __init__(
        self, form: int, size: int, stored: int, read: Callable[[int, int], Bytes]
    ) -> None:
        self._read, self._stored = read, stored
        head, at = self._taken(0, lambda found: take_head(found, size, form))
        self._places: list[_Place] = []
        for _ in range(head.tables):
            place, end = self._taken(at, _placed)
            self._places.append(place._replace(begin=end))
            at = end + place.stored
        if at != stored:
            raise FormatError("tables of pages do not fill their chunk")
        check(head, [(place.table.rows, place.table.size) for place in self._places])
        self._head: Head = head
        self._parts: dict[int, StoredPart] = {}  # by their number

    @property
    def apart(self) -> bool:
        """Whether columns can be read by themselves: values that are bytes have no check."""
        return all(place.table.model for place in self._places)

    @property
    def columns(self) -> list[ColumnRecipe]:
        """How the columns are made."""
        return self._head.columns

    @property
    def rest(self) -> bytes:
        """The bytes that are made of no values."""
        return self._head.rest

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._head.rows

    def _taken(self, begin: int, take: Callable[[Reader], _T]) -> tuple[_T, int]:
        """What is read from a place on, and where it ends."""
        most = self._stored - begin
        count = min(most, _FIRST)
        while True:
            at = Reader(np.ascontiguousarray(self._read(begin, count)))
            try:
                return take(at), begin + count - at.left
            except FormatError:
                if count == most:
                    raise
                count = min(most, 4 * count)

    def values(self, number: int, low: int, high: int) -> Values:
        """The values of a column in rows `low` to `high`; FormatError where they are none."""
        found: list[Values] = []
        begin = 0
        for place in range(len(self._places)):
            rows = self._places[place].table.rows
            first, last = max(low - begin, 0), min(high - begin, rows)
            begin += rows
            if first < last:
                found.append(self._of_table(place, number, first, last))
        return _joined(found)

    def _of_table(self, place: int, number: int, low: int, high: int) -> Values:
        recipe = self.columns[number]
        part = self._part(place, high)
        array = number + sum(column.missing for column in self.columns[:number])
        missing = None
        if recipe.missing:
            missing = cells_in(part.column(array), low, high, high - low) == 0
            array += 1
        column = part.column(array)
        if recipe.width == TEXTS:
            ids, offsets = column.ids[low:high], column.cells.offsets
            starts, ends = offsets[ids].astype(np.int32), offsets[ids + 1].astype(np.int32)
            return Values(TEXTS, padded(column.cells.blob), starts, ends - starts, missing)
        items = cells_in(column, low, high, (high - low) * abs(recipe.width))
        return fixed(recipe.width, items, missing)

    def _part(self, place: int, rows: int) -> StoredPart:
        """The table of some rows, of which the first `rows` are needed."""
        part = self._parts.get(place)
        if part is None or part.needed < rows:
            table, begin, stored = self._places[place]
            layout = parse(table.model)

            def read(at: int, count: int) -> Bytes:
                if not 0 <= at <= at + count <= stored:
                    raise FormatError("table of pages is too short")
                return self._read(begin + at, count)

            part = StoredPart(layout, table.size, stored, read)
            if part.rows != table.rows or not _lies_as(layout, self.columns):
                raise FormatError("table of pages does not have their columns")
            part.needed = rows
            self._parts[place] = part
        return part


def _placed(at: Reader) -> _Place:
    way, rows, size = take_table(at)
    if way == AS_BYTES:
        return _Place(Table(rows, size, b"", at.packed(size)), 0, 0)
    return _Place(Table(rows, size, take_model(at), b""), 0, at.number(_MOST_STORED))


def _lies_as(layout: Layout, columns: Sequence[ColumnRecipe]) -> bool:
    """Whether arrays are those of columns."""
    wanted: list[tuple[int, int]] = []
    for column in columns:
        if column.missing:
            wanted.append((BIT_ARRAYS, 1))
        if column.width == TEXTS:
            wanted.append((TEXTS_32, 0))
        else:
            wanted.append((BIT_ARRAYS, 1) if column.width == BITS else (CELLS, column.width))
    return list(zip(layout.arrays, layout.widths, strict=False)) == wanted


def _joined(parts: Sequence[Values]) -> Values:
    """Values of several parts as one; FormatError for none."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        raise FormatError("pages do not have the rows that are asked for")
    width = parts[0].width
    missing: npt.NDArray[np.bool_] | None = None
    if parts[0].missing is not None:
        missing = np.concatenate([part.missing for part in parts if part.missing is not None])
    if width != TEXTS:
        items = [part.data[: part.rows * abs(width)] for part in parts]
        return fixed(width, np.concatenate(items), missing)
    starts, at = [], 0
    for part in parts:
        starts.append(part.starts + np.int32(at))
        at += part.data.size
    lengths = np.concatenate([part.lengths for part in parts])
    data = np.concatenate([part.data for part in parts])
    return Values(width, data, np.concatenate(starts), lengths, missing)
