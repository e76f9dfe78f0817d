"""Finds columns that are functions of others, for the fast way."""

from collections.abc import Sequence

import numpy as np

from densor.codec.table.contexts import (
    CLOCK_DIFFERENCE,
    DAY,
    DIFFERENCE,
    SYMBOL,
    Context,
    Parent,
    Values,
)
from densor.codec.table.state import PARENTS, PREVIOUS
from densor.entropy.deferred import deferred

count_under_difference, find_exceptions = deferred(
    "densor.codec.table.symbol_kernels", "count_under_difference", "find_exceptions"
)

_LEAST_ROWS, MOST_ROWS = 1 << 11, 1 << 13  # by too few, keys of many cells are all exceptions
_SHARE_OF_ROWS = 3  # binary: an eighth of a table is looked at, for the time
_PLACES = 8  # for each row
_MOST_COLUMNS = 24  # before a column that are looked at
_TOPS = 5  # of which pairs are looked at
_EXCEPTION = 12  # bits of one besides its symbol
_GOOD = 0.02  # share of exceptions with which nothing else is looked for
_MAX_SHARE = 0.8  # of the cost of symbols alone
_READ_SHARE = 0.15  # of the bits of columns that a function needs, which it must save
_SMALL = 1 << 17  # rows of a whole table, which is read at once anyway: there it need not


class Functions:
    """The contexts under which columns are likely to be functions.

    `columns`: of some rows, None for texts; `counts` of different cells. `most`: rows that are
    looked at; None for some that suit the columns, which are whole.
    """

    def __init__(
        self, columns: Sequence[Values | None], counts: Sequence[int], most: int | None = None
    ) -> None:
        rows = max((c.symbols.size for c in columns if c is not None), default=0)
        self._share = 0.0 if most is None and rows < _SMALL else _READ_SHARE
        if most is None:
            most = min(MOST_ROWS, max(_LEAST_ROWS, rows >> _SHARE_OF_ROWS))
        self._rows = min(rows, most)
        self._columns = [None if c is None else c.first(self._rows) for c in columns]
        self._counts = counts
        symbols = np.zeros((len(columns), self._rows), np.int64)
        for row, values in zip(symbols, self._columns, strict=True):
            row[:] = 0 if values is None else values.symbols
        self._symbols = symbols.reshape(-1)
        self._places = np.zeros(_PLACES << max(0, self._rows - 1).bit_length(), np.int64)
        self._stamp, self._found = 0, np.empty(self._rows, np.int64)
        self._bits = [0.0 if c is None else _entropy(c) for c in self._columns]
        coded = [i for i, c in enumerate(self._columns) if c is not None and counts[i] > 1]
        self.order = sorted(coded, key=lambda i: (-self._bits[i], i))
        self.found: dict[int, Context] = {}
        self._read: dict[int, dict[int, float]] = {}  # bits of a column and all that it depends on
        for place, column in enumerate(self.order):
            context = self._best(column, self.order[max(0, place - _MOST_COLUMNS) : place])
            if context is not None:
                self.found[column] = context

    def _column(self, number: int) -> Values:
        found = self._columns[number]
        assert found is not None
        return found

    def _exceptions(self, column: int, context: Context, most: int) -> int:
        """How many there are, if not more than `most`; otherwise more than that."""
        self._stamp += 1
        sides = self._column(column).symbols, self._places, self._stamp
        parents = context.parents
        if parents and parents[0].operation:  # the only one
            a, b = (self._column(i) for i in parents[0].columns)
            if parents[0].operation == DIFFERENCE:
                return int(count_under_difference(a.numbers, b.numbers, 0, *sides, most))
            return int(count_under_difference(a.minutes, b.minutes, DAY, *sides, most))
        numbers = [*(parent.a for parent in parents), *[-1] * (PARENTS - len(parents))]
        fields = np.array([*numbers, context.flags])
        return int(find_exceptions(fields, self._symbols, *sides, self._found[:most]))

    def _best(self, column: int, before: Sequence[int]) -> Context | None:
        """The function that costs least, a share of what is read for it among that."""
        alone, each = self._bits[column] * self._rows, self._bits[column] + _EXCEPTION
        best, least, own = None, _MAX_SHARE * alone, alone

        def try_way(context: Context, *, whole: bool = False) -> int:
            nonlocal best, least, own
            read = self._share * sum(self._columns_read(context).values())
            most = self._rows if whole else max(0, min(self._rows, int((least - read) / each)))
            if not most:  # the first row is an exception
                return self._rows
            count = self._exceptions(column, context, most)
            if count <= most and count * each + read < least:
                best, least, own = context, count * each + read, count * each
            return count

        singles = [(try_way(context, whole=True), context)
                   for context in (Context((), PREVIOUS), *_of(before))]  # fmt: skip
        singles.sort()
        if singles[0][0] > _GOOD * self._rows:
            for context in self._more(column, before, [context for _, context in singles]):
                try_way(context)
        self._read[column] = {column: own}
        if best is not None:
            self._read[column] |= self._columns_read(best)
        return best

    def _columns_read(self, context: Context) -> dict[int, float]:
        """The columns that must be decoded for a context, and the bits of each."""
        found: dict[int, float] = {}
        for parent in context.parents:
            for column in parent.columns:
                found |= self._read.get(column, {})
        return found

    def _more(
        self, column: int, before: Sequence[int], singles: Sequence[Context]
    ) -> list[Context]:
        """Pairs of the best parents, and differences."""
        ways = []
        tops = [context for context in singles if context.parents][:_TOPS]
        for i, a in enumerate(tops):
            ways.append(Context(a.parents, PREVIOUS))
            ways += [Context((*b.parents, *a.parents)) for b in tops[:i]]
        if self._column(column).has_numbers:
            numeric = [i for i in before if self._column(i).has_numbers
                       and self._counts[i] > _TOPS]  # fmt: skip
            operations = DIFFERENCE, CLOCK_DIFFERENCE
            near = numeric[:8]
            ways += [Context((Parent(operation, a, b),))
                     for a in near for b in near if a != b for operation in operations]  # fmt: skip
        return ways


def _of(columns: Sequence[int]) -> list[Context]:
    return [Context((Parent(SYMBOL, column),)) for column in columns]


def _entropy(column: Values) -> float:
    """Bits of a symbol."""
    counts = np.bincount(column.symbols)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / max(1, counts.sum()))
