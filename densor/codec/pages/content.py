"""The values of columns as arrays of tables, of some rows each, and back."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.pages.layout import BITS, MAX_CONTENT, TEXTS
from densor.codec.pages.values import ColumnRecipe, Values, fixed, padded
from densor.codec.table.layout import BITS as BIT_ARRAYS
from densor.codec.table.layout import CELLS, MAX_ARRAY_BYTES, MAX_CELLS, TEXTS_32, Layout
from densor.entropy.deferred import deferred
from densor.errors import FormatError, LimitError

join_values = deferred("densor.codec.pages.kernels", "join_values")

_END = 4  # bytes of where a text ends


def rows_of_tables(columns: Sequence[Values], rows: int) -> list[int]:
    """How many rows go to each table, so that these hold them."""
    cells = sum(1 + (column.missing is not None) for column in columns)
    size = sum(int(column.lengths.sum(dtype=np.int64)) + 5 * rows for column in columns)
    count = max(1, -(-cells * rows // MAX_CELLS))
    if size > MAX_ARRAY_BYTES:  # with room for tables whose rows are longer than others
        count = max(count, -(-2 * size // MAX_ARRAY_BYTES))
    step = min(-(-rows // count), MAX_CELLS // cells)
    return [min(step, rows - at) for at in range(0, rows, step)]


def arrays_of(
    columns: Sequence[Values], dtypes: Sequence[str], begin: int, end: int
) -> tuple[Layout, Bytes]:
    """Rows `begin` to `end` of columns as the arrays of a table, and how these lie."""
    parts: list[Bytes] = []
    forms: list[tuple[int, int, str]] = []
    places: list[int] = []
    at = 0
    for column, dtype in zip(columns, dtypes, strict=True):
        for form, width, kind, buffers in _buffers(column, dtype, begin, end):
            forms.append((form, width, kind))
            for buffer in buffers:
                places.append(at)
                parts.append(buffer)
                at += buffer.size
    arrays, widths, types = zip(*forms, strict=True)
    layout = Layout(
        len(forms),
        quote=0,
        arrays=arrays,
        widths=widths,
        types=types,
        batches=(end - begin,),
        places=tuple(places),
    )
    return layout, np.concatenate(parts)


def _buffers(
    column: Values, dtype: str, begin: int, end: int
) -> Iterator[tuple[int, int, str, list[Bytes]]]:
    """Form, width, type and buffers of a column, and of which of its values are missing."""
    rows = slice(begin, end)
    if column.missing is not None:
        there = np.packbits(~column.missing[rows], bitorder="little")
        yield BIT_ARRAYS, 1, "U8", [there]
    starts, lengths = column.starts[rows], column.lengths[rows]
    if column.width == TEXTS:
        ends = np.zeros(end - begin + 1, "<i4")
        np.cumsum(lengths, out=ends[1:])
        out = np.empty(int(ends[-1]), np.uint8)
        join_values(column.data, starts, lengths, 0, out)
        yield TEXTS_32, 0, "", [ends.view(np.uint8), out]
        return
    size = abs(column.width)
    found = column.data[begin * size : end * size]
    if column.width == BITS:
        yield BIT_ARRAYS, 1, "U8", [np.packbits(found, bitorder="little")]
    else:
        yield CELLS, size, dtype, [found]


class ColumnsReader:
    """Takes columns out of tables of some rows each, in order."""

    def __init__(self, recipes: Sequence[ColumnRecipe]) -> None:
        self._recipes = recipes
        self._missing: list[list[npt.NDArray[np.bool_]]] = [[] for _ in recipes]
        self._items: list[list[Bytes]] = [[] for _ in recipes]
        self._lengths: list[list[npt.NDArray[np.int32]]] = [[] for _ in recipes]
        self._left = MAX_CONTENT

    def add(self, content: Bytes, rows: int) -> None:
        """The arrays of so many rows; FormatError where they are not what is expected."""
        at = 0
        for number, recipe in enumerate(self._recipes):
            if recipe.missing:
                bits, at = _taken(content, at, (rows + 7) // 8)
                there = np.unpackbits(bits, count=rows, bitorder="little")
                self._missing[number].append(there == 0)
                self._left -= rows
            if recipe.width == BITS:
                bits, at = _taken(content, at, (rows + 7) // 8)
                items = np.unpackbits(bits, count=rows, bitorder="little")
            elif recipe.width == TEXTS:
                found, at = _taken(content, at, (rows + 1) * _END)
                ends = found.copy().view("<i4")
                if ends[0] or (ends[1:] < ends[:-1]).any():
                    raise FormatError("texts of a column have impossible ends")
                self._lengths[number].append(np.diff(ends).astype(np.int32))
                items, at = _taken(content, at, int(ends[-1]))
            else:
                items, at = _taken(content, at, rows * recipe.width)
            self._items[number].append(items)
            self._left -= items.size
            if self._left < 0:
                raise LimitError("columns have too many values")
        if at != content.size:
            raise FormatError("columns do not fill their table")

    def column(self, number: int) -> Values:
        """A column of all rows."""
        recipe = self._recipes[number]
        missing = np.concatenate(self._missing[number]) if recipe.missing else None
        items = np.concatenate(self._items[number])
        if recipe.width != TEXTS:
            return fixed(recipe.width, items, missing)
        lengths = np.concatenate(self._lengths[number])
        starts = (np.cumsum(lengths, dtype=np.int64) - lengths).astype(np.int32)
        return Values(TEXTS, padded(items), starts, lengths, missing)


def _taken(content: Bytes, at: int, size: int) -> tuple[Bytes, int]:
    if size > content.size - at:
        raise FormatError("columns are longer than their table")
    return content[at : at + size], at + size
