"""Recipes of columns as they stand in a chunk."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from densor.codec.pages import compression
from densor.codec.pages.deltas import Blocks
from densor.codec.pages.layout import (
    BITS,
    DELTAS,
    DICTIONARY,
    LENGTHS,
    MAX_PAGES,
    PLAIN,
    RUNS,
    SHARED,
    SPLIT,
    TEXTS,
)
from densor.codec.pages.sizes import MAX_BITS, MOST_BLOCK
from densor.codec.pages.values import ColumnRecipe, PageRecipe
from densor.codec.table.layout import I64, MAX_COLUMNS
from densor.codec.table.wire import Reader, Writer
from densor.errors import FormatError, LimitError

if TYPE_CHECKING:
    from densor.codec.table.packing import Packer

MAX_RECIPE = 1 << 22  # bytes
MAX_LISTED = 1 << 22  # numbers of all lists
_OUTSIDE, _LEVELS, _INDICES, _NEWEST = 4, 8, 16, 32  # beside the kind of a page
_LAST_KIND = PLAIN, SPLIT, RUNS  # of each form
_OPTIONAL, _MISSING, _ORDERED = 1, 2, 4
_MAX_WIDTH = 1 << 16


def pack(columns: Sequence[ColumnRecipe], packer: "Packer") -> bytes:
    """Recipes as they stand in a chunk: what they have, and the numbers of all lists.

    FormatError where these are too many.
    """
    out = Writer()
    lists: list[I64] = []

    def listed(numbers: I64 | None) -> None:
        if numbers is not None:
            out.number(numbers.size)
            lists.append(numbers)

    out.number(len(columns))
    for column in columns:
        out.number(column.before)
        out.number(column.width + 1)
        flags = _OPTIONAL * column.optional | _MISSING * column.missing
        out.byte(flags | _ORDERED * (column.order is not None))
        listed(column.order)
        out.number(len(column.pages))
        for page in column.pages:
            lists_of = _LEVELS * (page.levels is not None) | _INDICES * (page.indices is not None)
            newest = _NEWEST * (page.kind > SPLIT)
            out.byte(page.kind & SPLIT | newest | _OUTSIDE * page.outside | lists_of)
            out.number(page.header)
            out.number(page.values)
            out.byte(page.bits)
            if page.blocks is not None:
                out.number(page.blocks.size)
                out.number(page.blocks.parts)
            out.raw(page.way)
            listed(page.levels)
            listed(page.indices)
    numbers = np.concatenate([*lists, np.zeros(0, np.int64)])
    written = out.bytes()
    if numbers.size > MAX_LISTED or len(written) > MAX_RECIPE:
        raise FormatError("recipes of pages are too long")
    out = Writer()
    out.raw(packer.pack(written))
    out.number(numbers.size)
    out.raw(packer.numbers(numbers))
    return out.bytes()


def take(at: Reader, size: int, rows: int, form: int) -> list[ColumnRecipe]:
    """Recipes of pages of `rows` rows in a chunk of `size` bytes; FormatError for bad ones.

    `form`: of the chunk, of which pages may be no more than that has.
    """
    found = Reader(at.packed(MAX_RECIPE))
    lists = _Lists(at.numbers(at.number(MAX_LISTED)))
    pages, columns = 0, []
    for _ in range(found.number(MAX_COLUMNS)):
        before, width, flags = found.number(size), found.number(_MAX_WIDTH) - 1, found.byte()
        if flags > _OPTIONAL | _MISSING | _ORDERED or flags & 3 == _MISSING:
            raise FormatError("column has levels of an unknown kind")
        order = lists.take(found) if flags & _ORDERED else None
        count = found.number(MAX_PAGES)
        pages += count
        if pages > MAX_PAGES:
            raise LimitError("columns have too many pages")
        made = tuple(_page(found, lists, size, rows, form) for _ in range(count))
        if sum(page.values for page in made) != rows:
            raise FormatError("pages of a column do not have its rows")
        if form and sum(page.kind == DICTIONARY for page in made) > 1:
            raise FormatError("column has more than one dictionary")
        if not all(_fits(page, width) for page in made):
            raise FormatError("pages of a column have values of another kind")
        levels = bool(flags & _OPTIONAL), bool(flags & _MISSING)
        columns.append(ColumnRecipe(before, width, *levels, made, order))
    if found.left or lists.left:
        raise FormatError("recipe of pages is too long")
    return columns


class _Lists:
    """Lists of numbers, one behind the other."""

    def __init__(self, numbers: I64) -> None:
        self._numbers = numbers

    @property
    def left(self) -> int:
        """How many numbers were not taken."""
        return int(self._numbers.size)

    def take(self, at: Reader) -> I64:
        """The next list, of as many numbers as stand there."""
        count = at.number(self.left)
        found, self._numbers = self._numbers[:count], self._numbers[count:]
        return found


def _fits(page: PageRecipe, width: int) -> bool:
    """Whether a page may hold values of a column."""
    if page.kind == SPLIT:
        return width > 0
    if page.kind == DELTAS:
        return width in (4, 8) and page.bits >= 8 * width
    if page.kind == LENGTHS:
        return width == TEXTS
    return width != BITS if page.kind == SHARED else width == BITS or page.kind != RUNS


def _page(at: Reader, lists: _Lists, size: int, rows: int, form: int) -> PageRecipe:
    flags, header, values, bits = at.byte(), at.number(size), at.number(rows), at.byte()
    kind = flags & 3 | (4 if flags & _NEWEST else 0)
    if (
        flags > 63
        or kind > _LAST_KIND[form]
        or (kind == DICTIONARY and (flags != kind or values))
        or (flags & _INDICES and kind > SPLIT and kind != RUNS)
    ):
        raise FormatError("page of a column is of an unknown kind")
    blocks = None
    if DELTAS <= kind <= SHARED:
        blocks = Blocks(at.number(MOST_BLOCK), at.number(MOST_BLOCK), bits)
        if not blocks.possible:
            raise FormatError("page of a column has impossible blocks")
    elif bits > MAX_BITS:
        raise FormatError("page of a column has indices of too many bits")
    way = compression.take(at, form > 0)
    levels = lists.take(at) if flags & _LEVELS else None
    indices = lists.take(at) if flags & _INDICES else None
    outside = bool(flags & _OUTSIDE)
    return PageRecipe(header, kind, values, bits, outside, way, levels, indices, blocks)
