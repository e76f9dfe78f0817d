"""Takes the pages of a column apart, for the coding side."""

import contextlib
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
    LENGTHS,
    MAX_CONTENT,
    RUNS,
    SHARED,
    SPLIT,
    TEXTS,
    Column,
    Page,
)
from densor.codec.pages.sizes import MAX_BITS, MOST_BEHIND
from densor.codec.pages.values import (
    WORD,
    ColumnRecipe,
    PageMaker,
    PageRecipe,
    Values,
    by_lengths,
    fixed,
    padded,
    runs,
    transposed,
)
from densor.codec.table.layout import I32, I64
from densor.entropy.deferred import deferred
from densor.errors import FormatError

join_values, split_texts, take_runs = deferred(
    "densor.codec.pages.kernels", "join_values", "split_texts", "take_runs"
)

_ORDER_BYTES = 4  # of a column for each value of its dictionary, or its order takes too much


class Undone(NamedTuple):
    """A column and what its pages are made of. `headers`: of all pages, one behind the other."""

    column: Column
    recipe: ColumnRecipe
    values: Values
    headers: bytes


class _Items(NamedTuple):
    """Values that are there: where they stand in the pages of a column."""

    starts: I32
    lengths: I32


class _Held(NamedTuple):
    """What a page holds, None where it cannot be told; bits and cuts as a recipe has them."""

    items: _Items | None
    bits: int = 0
    cut: I64 | None = None
    blocks: deltas.Blocks | None = None


def undo(column: Column, rows: int, data: Bytes) -> Undone | None:
    """A column of a stretch taken apart; None where its pages cannot be made again of the parts."""
    pages = data[column.begin : column.begin + column.size]
    for way in compression.ways(column.codec):
        found = _ColumnReader(column, rows, pages, way).read()
        if found is None:
            return None
        with contextlib.suppress(FormatError):  # of runs that go on behind the last value
            if _made(found, pages):
                return found
    return None


def values_of(column: Column, rows: int, data: Bytes) -> Values | None:
    """The values of a column in a stretch, made in whatever way; None where it cannot be read."""
    pages = data[column.begin : column.begin + column.size]
    way, *_ = compression.ways(column.codec)
    return _ColumnReader(column, rows, pages, way, proven=False).values()


def _made(undone: Undone, pages: Bytes) -> bool:
    """Whether pages are made again as they are."""
    maker = PageMaker(undone.recipe, undone.values)
    at = 0
    for page, recipe in zip(undone.column.pages, undone.recipe.pages, strict=True):
        at += page.header
        for part in maker.page(recipe):
            if not np.array_equal(part, pages[at : at + part.size]):
                return False
            at += part.size
    return at == pages.size


def _numbers(data: Bytes, bits: int, count: int) -> tuple[I32, I64 | None] | None:
    """Numbers of runs that fill data, and how these are cut where that is not by rule."""
    data = np.ascontiguousarray(data)
    found = np.empty(count + MOST_BEHIND, np.int32)
    heads = np.empty(data.size, np.int64)
    size, number, end = take_runs(data, bits, count, found, heads)
    if size != data.size:
        return None
    numbers, behind = found[:count], found[count:end]
    if np.array_equal(runs(numbers, bits), data):
        return numbers, None
    return numbers, np.concatenate([[behind.size], behind, heads[:number]])


def _order(ids: I32, count: int) -> I64 | None:
    """Of each value of a dictionary, which it is by first occurrence; None where some never do."""
    different, first = np.unique(ids, return_index=True)
    if different.size != count:
        return None
    order = np.empty(count, np.int64)
    order[np.argsort(first)] = np.arange(count)
    return order


class _ColumnReader:
    """Reads the pages of a column in turn."""

    def __init__(
        self, column: Column, rows: int, pages: Bytes, way: bytes, proven: bool = True
    ) -> None:
        self._column = column
        self._rows = rows
        self._pages = pages
        self._way = way
        self._proven = proven  # whether pages are taken only where they can be compressed again
        self._last: bytes | None = None  # the way in all that the page before is made in
        self._bodies: list[Bytes] = []  # which values stand in, and where each begins
        self._size = 0
        self._dictionary = _Items(np.zeros(0, np.int32), np.zeros(0, np.int32))
        self._ids: list[I32] = []
        self._items: list[_Items] = []
        self._there: list[npt.NDArray[np.bool_]] = []
        self._recipes: list[PageRecipe] = []
        self._headers: list[bytes] = []

    def values(self) -> Values | None:
        """The values in all pages; None where one cannot be read."""
        at = 0
        for page in self._column.pages:
            self._headers.append(self._pages[at : at + page.header].tobytes())
            at += page.header
            if not self._page(page, self._pages[at : at + page.stored]):
                return None
            at += page.stored
        there = np.concatenate(self._there) if self._there else np.zeros(0, np.bool_)
        if there.size != self._rows or self._size > MAX_CONTENT:
            return None
        starts = np.concatenate([items.starts for items in self._items])
        lengths = np.concatenate([items.lengths for items in self._items])
        return self._values(starts, lengths, None if there.all() else ~there)

    def read(self) -> Undone | None:
        """All pages; None where one cannot be read."""
        values = self.values()
        dictionaries = sum(page.kind == DICTIONARY for page in self._recipes)
        if values is None or dictionaries > 1:
            return None
        missing = values.missing is not None
        column = self._column
        ids = np.concatenate([*self._ids, np.zeros(0, np.int32)])
        order = _order(ids, self._dictionary.starts.size)
        if order is None:
            return None
        by_occurrence = np.array_equal(order, np.arange(order.size))
        if not by_occurrence and _ORDER_BYTES * order.size > column.size:
            return None
        made = column.optional, missing, tuple(self._recipes), None if by_occurrence else order
        recipe = ColumnRecipe(0, column.width, *made)
        return Undone(column, recipe, values, b"".join(self._headers))

    def _values(
        self, starts: I32, lengths: I32, missing: npt.NDArray[np.bool_] | None
    ) -> Values | None:
        """The values of all rows: zeros, or texts of no bytes, where one is missing."""
        data = np.concatenate([*self._bodies, np.zeros(0, np.uint8)])
        total = int(lengths.sum(dtype=np.int64))
        if total + self._rows * WORD > MAX_CONTENT:
            return None
        width = self._column.width
        if missing is not None:
            whole = np.zeros((2, self._rows), np.int32)
            whole[:, ~missing] = starts, lengths
            starts, lengths = whole
        if width != TEXTS:
            size = abs(width)
            if self._rows * size > MAX_CONTENT:
                return None
            found = np.zeros((self._rows, size), np.uint8)
            out = np.empty(total, np.uint8)
            join_values(data, starts, lengths, 0, out)
            found[slice(None) if missing is None else ~missing] = out.reshape(-1, size)
            return fixed(width, found.reshape(-1), missing)
        out = np.empty(total, np.uint8)
        join_values(data, starts, lengths, 0, out)
        ends = np.cumsum(lengths, dtype=np.int64)
        return Values(width, padded(out), (ends - lengths).astype(np.int32), lengths, missing)

    def _page(self, page: Page, stored: Bytes) -> bool:
        """Reads a page; whether that is possible."""
        levels = stored[: max(page.levels, 0)]
        body = stored[levels.size :]
        way = self._way if page.compressed else compression.PLAIN
        if way != compression.PLAIN:
            undone = self._undone(body, page.size - levels.size)
            if undone is None:
                return False
            body, way = undone
        outside = page.levels >= 0
        if page.kind == DICTIONARY:
            self._recipes.append(PageRecipe(page.header, DICTIONARY, 0, 0, False, way))
            found = self._plain(body, page.values)
            if found is None or self._dictionary.starts.size:
                return False
            self._dictionary = found
            return True
        there = np.ones(page.values, np.bool_)
        level_runs = None
        if self._column.optional:
            if not outside:
                count = int.from_bytes(body[:WORD].tobytes(), "little")
                levels, body = body[WORD : WORD + count], body[WORD + count :]
            read = _numbers(levels, 1, page.values)
            if read is None:
                return False
            there, level_runs = read[0] == 1, read[1]
        made = self._held(page.kind, body, int(np.count_nonzero(there)))
        if made.items is None:
            return False
        self._items.append(made.items)
        self._there.append(there)
        told = page.header, page.kind, page.values, made.bits, outside, way
        self._recipes.append(PageRecipe(*told, level_runs, made.cut, made.blocks))
        return True

    def _held(self, kind: int, body: Bytes, count: int) -> _Held:
        """The values that a page holds behind its levels, so many."""
        if kind == INDICES:
            bits = int(body[0]) if body.size else MAX_BITS + 1
            read = _numbers(body[1:], bits, count) if bits <= MAX_BITS else None
            return _Held(None) if read is None else _Held(self._looked_up(read[0]), bits, read[1])
        if kind == RUNS:
            size = int.from_bytes(body[:WORD].tobytes(), "little")
            read = _numbers(body[WORD:], 1, count) if size == body.size - WORD else None
            if read is None:
                return _Held(None)
            truths = np.packbits(read[0].astype(np.bool_), bitorder="little")
            return _Held(self._plain(truths, count), 0, read[1])
        if kind in (DELTAS, LENGTHS, SHARED):
            found, blocks = (
                self._by_deltas(body, count)
                if kind == DELTAS
                else self._by_lengths(kind, body, count)
            )
            return _Held(found, blocks.bits if blocks else 0, None, blocks)
        if kind == SPLIT:
            width = self._column.width
            fits = body.size == count * width
            return _Held(self._plain(transposed(body, width), count) if fits else None)
        return _Held(self._plain(body, count))

    def _by_deltas(self, body: Bytes, count: int) -> tuple[_Items | None, deltas.Blocks | None]:
        """Numbers by their differences, and how these are cut; None where they are not so."""
        width = self._column.width
        for bits in (8 * width, 64):
            read = deltas.take(body, count, bits)
            if read is None or read[2] != body.size:
                return None, None
            numbers, blocks, _ = read
            if not self._proven or np.array_equal(deltas.put(numbers, blocks), body):
                items = numbers.astype(f"<i{width}").view(np.uint8)
                return self._plain(items, count), blocks
        return None, None

    def _by_lengths(
        self, kind: int, body: Bytes, count: int
    ) -> tuple[_Items | None, deltas.Blocks | None]:
        """Texts behind all lengths, or behind what they share, and how these are cut."""
        for bits in deltas.BITS:
            parts: list[I64] = []
            blocks, rest = None, body
            for _ in range(2 if kind == SHARED else 1):
                read = deltas.take(rest, count, bits)
                if read is None or (read[0] < 0).any() or (read[0] > MAX_CONTENT).any():
                    return None, None
                parts.append(read[0])
                blocks, rest = read[1], rest[read[2] :]
            assert blocks is not None
            lengths = parts[-1]
            total = sum(int(part.sum()) for part in parts)
            if lengths.sum() != rest.size or total > MAX_CONTENT:
                return None, None
            if kind == SHARED:
                joined = deltas.joined(rest, *parts)
                if joined is None:
                    return None, None
                rest, lengths = joined, parts[0] + lengths
            width = self._column.width
            if width != TEXTS and (lengths != width).any():
                return None, None
            starts = (np.cumsum(lengths) - lengths).astype(np.int32)
            sides = padded(rest), starts, lengths.astype(np.int32), blocks
            if not self._proven or np.array_equal(by_lengths(kind, *sides), body):
                found = _Items(starts + np.int32(self._size), sides[2])
                self._bodies.append(rest)
                self._size += rest.size
                return (found if self._size <= MAX_CONTENT else None), blocks
        return None, None

    def _undone(self, body: Bytes, size: int) -> tuple[Bytes, bytes] | None:
        """What a page holds that is compressed, and the way; None where it is not made so."""
        if not 0 <= size <= MAX_CONTENT:
            return None
        found = compression.undo(body, size, self._way)
        if found is None or not self._proven:
            return None if found is None else (found, self._way)
        self._last = compression.settled(self._way, body, found, self._last)
        return None if self._last is None else (found, self._last)

    def _looked_up(self, ids: I32) -> _Items | None:
        """Values of the dictionary; None where one is not there."""
        starts, lengths = self._dictionary
        if ids.size and not 0 <= ids.min() <= ids.max() < starts.size:
            return None
        self._ids.append(ids)
        return _Items(starts[ids], lengths[ids])

    def _plain(self, body: Bytes, count: int) -> _Items | None:
        """Values one behind the other, all of what there is."""
        width, begin = self._column.width, self._size
        if width == BITS:
            if body.size != (count + 7) // 8:
                return None
            body = np.unpackbits(body, count=count, bitorder="little")
        self._bodies.append(body)
        self._size += body.size
        if self._size > MAX_CONTENT:
            return None
        if width != TEXTS:
            size = abs(width)
            if body.size != count * size:
                return None
            starts = np.arange(count, dtype=np.int32) * np.int32(size) + np.int32(begin)
            return _Items(starts, np.full(count, size, np.int32))
        if count * WORD > body.size:
            return None
        starts, lengths = np.empty((2, count), np.int32)
        if split_texts(np.ascontiguousarray(body), starts, lengths) != body.size:
            return None
        return _Items(starts + np.int32(begin), lengths)
