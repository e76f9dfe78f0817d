"""The values of a column, and pages made of them: what both sides do."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.pages import compression, deltas
from densor.codec.pages.layout import (
    BITS,
    DELTAS,
    DICTIONARY,
    INDICES,
    RUNS,
    SHARED,
    SPLIT,
    TEXTS,
)
from densor.codec.pages.sizes import MOST_BEHIND
from densor.codec.table.layout import I32, I64
from densor.codec.table.state import PADDING
from densor.entropy.deferred import deferred
from densor.errors import FormatError

join_values, put_listed_runs, put_runs = deferred(
    "densor.codec.pages.kernels", "join_values", "put_listed_runs", "put_runs"
)
intern = deferred("densor.codec.table.intern_kernels", "intern")

WORD = 4  # bytes of a length
_ROOM = 12  # bytes of a run of eight values, about, beside those themselves


class Values(NamedTuple):
    """Values of all rows, those that are missing too. `width`: of each, `TEXTS` or `BITS`.

    `data`: uint8, with `PADDING` behind; `starts`, `lengths`: int32, of each value, where it stands
    in `data`. `missing`: bool; None where none is.
    """

    width: int
    data: Bytes
    starts: I32
    lengths: I32
    missing: npt.NDArray[np.bool_] | None = None

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.starts.size)


class PageRecipe(NamedTuple):
    """How a page is made. `header`: bytes before it, which are as they are in the file.

    `values`: how many; `bits`: of an index, or of differences. `outside`: levels stand before what
    is compressed, as in pages of the second version. `way`: how they are compressed. `levels`,
    `indices`: how their runs are cut, where that is not by rule; see `runs`. `blocks`: how
    differences are.
    """

    header: int
    kind: int
    values: int
    bits: int
    outside: bool
    way: bytes
    levels: I64 | None = None
    indices: I64 | None = None
    blocks: deltas.Blocks | None = None


class ColumnRecipe(NamedTuple):
    """How the pages of a column are made. `before`: bytes before the first, as they are.

    `optional`: whether there are levels, `missing`: whether these say that values are missing.
    `order`: of each value of the dictionary, which it is by first occurrence, where these differ.
    """

    before: int
    width: int
    optional: bool
    missing: bool
    pages: tuple[PageRecipe, ...]
    order: I64 | None = None


def fixed(width: int, items: Bytes, missing: npt.NDArray[np.bool_] | None) -> Values:
    """Values of one width, one behind the other."""
    size = abs(width)
    starts = np.arange(items.size // size, dtype=np.int32) * np.int32(size)
    lengths = np.full(starts.size, size, np.int32)
    return Values(width, padded(items), starts, lengths, missing)


def padded(data: Bytes) -> Bytes:
    """The same with room behind it."""
    return np.concatenate([data, np.zeros(PADDING, np.uint8)])


class PageMaker:
    """Makes the pages of a column, one after the other."""

    def __init__(self, recipe: ColumnRecipe, values: Values) -> None:
        self._recipe = recipe
        self._values = values
        present = None if values.missing is None else ~values.missing
        self._present = present
        self._starts = values.starts if present is None else values.starts[present]
        self._lengths = values.lengths if present is None else values.lengths[present]
        self._row = self._at = self._index = 0
        self._ids, self._first = self._dictionary()

    def _dictionary(self) -> tuple[I32, I32]:
        """Which of a dictionary values are, and where those of it first are, by that."""
        parts, row, at = [], 0, 0
        for page in self._recipe.pages:
            if page.kind == DICTIONARY:
                continue
            count = self._count(row, page.values)
            if page.kind == INDICES:
                parts.append(np.arange(at, at + count))
            row, at = row + page.values, at + count
        if not parts:
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        chosen = np.concatenate(parts)
        starts = self._starts[chosen]
        ends = starts + self._lengths[chosen]
        rows = int(chosen.size)
        slots = np.empty(1 << (2 * rows).bit_length(), np.int32)
        words = np.empty(rows, np.int64)
        lengths, places, ids = (np.empty(rows, np.int32) for _ in range(3))
        both = np.concatenate([starts, ends]).astype(np.int32)
        sides = both, 0, rows, 0, rows
        count = int(intern(self._values.data, *sides, slots, words, lengths, places, ids))
        first = np.empty(count, np.int32)
        first[ids[::-1]] = chosen[::-1]
        order = self._recipe.order
        if order is None:
            return ids, first
        places = np.full(count, -1, np.int32)
        if order.size != count or (count and not 0 <= order.min() <= order.max() < count):
            raise FormatError("dictionary of a column has an impossible order")
        places[order] = np.arange(count, dtype=np.int32)
        if (places < 0).any():
            raise FormatError("dictionary of a column has a value twice")
        return places[ids], first[order]

    def _count(self, row: int, rows: int) -> int:
        """How many of some rows are not missing; FormatError where there are not so many rows."""
        if row + rows > self._values.rows:
            raise FormatError("pages have more rows than their column")
        return rows if self._present is None else int(self._present[row : row + rows].sum())

    def page(self, recipe: PageRecipe) -> list[Bytes]:
        """The bytes of the next page behind its header, in parts."""
        if recipe.kind == DICTIONARY:
            body = self._plain(self._first)
            return [compression.make(body, recipe.way)]
        count = self._count(self._row, recipe.values)
        levels = self._levels(recipe)
        self._row += recipe.values
        if recipe.kind == INDICES:
            ids = self._ids[self._index : self._index + count]
            if ids.size and int(ids.max()) >> recipe.bits:
                raise FormatError("dictionary of a column has more values than its pages can tell")
            self._index += count
            width = np.array([recipe.bits], np.uint8)
            body = np.concatenate([width, runs(ids, recipe.bits, recipe.indices)])
        else:
            body = self._body(recipe, self._at, self._at + count)
        self._at += count
        if recipe.outside:
            return [levels, compression.make(body, recipe.way)]
        return [compression.make(np.concatenate([levels, body]), recipe.way)]

    def _body(self, recipe: PageRecipe, begin: int, end: int) -> Bytes:
        """What a page of no indices holds; `begin`, `end`: which of the values that are there."""
        chosen = np.arange(begin, end)
        if recipe.blocks is None:
            body = self._plain(chosen)
            if recipe.kind == RUNS:
                return truths(
                    np.unpackbits(body, count=chosen.size, bitorder="little"), recipe.indices
                )
            return transposed(body, chosen.size) if recipe.kind == SPLIT else body
        if recipe.kind == DELTAS:
            numbers = self._plain(chosen).view(f"<i{self._values.width}")
            return deltas.put(numbers, recipe.blocks)
        data, starts, lengths = self._values.data, self._starts[chosen], self._lengths[chosen]
        return by_lengths(recipe.kind, data, starts, lengths, recipe.blocks)

    def _levels(self, recipe: PageRecipe) -> Bytes:
        """The levels of the next page: whether each value is there."""
        if not self._recipe.optional:
            return np.zeros(0, np.uint8)
        rows = slice(self._row, self._row + recipe.values)
        there = np.ones(recipe.values, np.int32)
        if self._present is not None:
            there[:] = self._present[rows]
        found = runs(there, 1, recipe.levels)
        if recipe.outside:
            return found
        size = np.array([found.size], "<u4").view(np.uint8)
        return np.concatenate([size, found])

    def _plain(self, chosen: npt.NDArray[np.signedinteger]) -> Bytes:
        """Values one behind the other; `chosen`: which of those that are not missing."""
        starts, lengths = self._starts[chosen], self._lengths[chosen]
        counted = self._values.width == TEXTS
        out = np.empty(int(lengths.sum(dtype=np.int64)) + WORD * counted * starts.size, np.uint8)
        join_values(self._values.data, starts, lengths, int(counted), out)
        return np.packbits(out, bitorder="little") if self._values.width == BITS else out


def truths(values: Bytes, cut: I64 | None = None) -> Bytes:
    """Truths as runs behind their length; see `runs`."""
    found = runs(values.astype(np.int32), 1, cut)
    return np.concatenate([np.array([found.size], "<u4").view(np.uint8), found])


def by_lengths(kind: int, data: Bytes, starts: I32, lengths: I32, blocks: deltas.Blocks) -> Bytes:
    """Texts behind all of their lengths, or behind what they share with the one before."""
    parts = []
    if kind == SHARED:
        same = deltas.shared(data, starts, lengths).astype(np.int32)
        starts, lengths = starts + same, lengths - same
        parts.append(deltas.put(same, blocks))
    parts.append(deltas.put(lengths, blocks))
    out = np.empty(int(lengths.sum(dtype=np.int64)), np.uint8)
    join_values(data, starts, lengths, 0, out)
    return np.concatenate([*parts, out])


def transposed(data: Bytes, rows: int) -> Bytes:
    """A matrix of so many rows, by columns."""
    return data.reshape(rows, -1).T.reshape(-1) if rows else data


def runs(numbers: I32, bits: int, cut: I64 | None = None) -> Bytes:
    """Numbers as runs, cut by rule or as `cut` says; FormatError where that does not fit them.

    `cut`: how many numbers stand behind the last in its run, those, and the heads of all runs.
    """
    if cut is None:
        numbers = np.ascontiguousarray(numbers, np.int32)
        out = np.empty((numbers.size // 8 + 2) * (bits + _ROOM), np.uint8)
        return out[: int(put_runs(numbers, bits, out))]
    count = int(cut[0]) if cut.size else -1
    if not 0 <= count <= min(MOST_BEHIND, cut.size - 1):
        raise FormatError("runs of a page do not have its values")
    behind = cut[1 : 1 + count]
    if (behind < 0).any() or (behind >> bits).any():
        raise FormatError("runs of a page have values of too many bits")
    numbers = np.concatenate([numbers, behind]).astype(np.int32)
    heads = np.ascontiguousarray(cut[1 + count :])
    out = np.empty((numbers.size // 8 + 2 * heads.size + 1) * (bits + _ROOM), np.uint8)
    size = int(put_listed_runs(numbers, bits, heads, out))
    if size < 0:
        raise FormatError("runs of a page do not have its values")
    return out[:size]
