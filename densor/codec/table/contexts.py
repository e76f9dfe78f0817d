"""Contexts as they stand in a chunk, and what they are made of."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.table.layout import I32, I64
from densor.codec.table.state import FIELDS, FUNCTION_PLACES, PARENTS
from densor.codec.table.wire import Reader, Writer
from densor.entropy.deferred import deferred
from densor.errors import FormatError, LimitError

add_numbers, take_numbers = deferred(
    "densor.codec.table.symbol_kernels", "add_numbers", "take_numbers"
)
_local = threading.local()

SYMBOL, SUM, DIFFERENCE, CLOCK_SUM, CLOCK_DIFFERENCE = range(5)  # operations
DAY = 1440  # minutes
MAX_PARENTS = 48
_LAST_STAMP = (1 << 31) - 1
MAX_VALUES = 1 << 25  # of all parents of a column together


@dataclass(frozen=True, eq=False)
class Values:
    """What a column says in each row: its symbol, int32, and its number, if it has one.

    `alphabet`: int64, the number of each symbol, or `by_row`, int64[rows], that of each row.
    """

    symbols: I32
    alphabet: I64 | None = None
    by_row: I64 | None = None

    @property
    def has_numbers(self) -> bool:
        """Whether it has numbers."""
        return self.alphabet is not None or self.by_row is not None

    @cached_property
    def numbers(self) -> I64:
        """int64[rows]; FormatError if it has none."""
        return self._spread(self.alphabet) if self.by_row is None else self.by_row

    @cached_property
    def minutes(self) -> I64:
        """Minutes of times such as 1459 for 14:59, int64[rows]."""
        if self.by_row is not None:
            return _minutes(self.by_row)
        return self._spread(None if self.alphabet is None else _minutes(self.alphabet))

    def _spread(self, alphabet: I64 | None) -> I64:
        if alphabet is None:
            raise FormatError("table computes with a column that has no numbers")
        found = np.empty(self.symbols.size, np.int64)
        take_numbers(alphabet, self.symbols, found)
        return found

    def first(self, rows: int) -> "Values":
        """The same of the first rows."""
        if rows == self.symbols.size:
            return self
        return self.at(slice(rows))

    def at(self, rows: slice | npt.NDArray[np.int64]) -> "Values":
        """The same of some rows."""
        by_row = None if self.by_row is None else self.by_row[rows]
        return Values(np.ascontiguousarray(self.symbols[rows]), self.alphabet, by_row)


class Parent(NamedTuple):
    """A value in each row that is made of one column or two."""

    operation: int
    a: int
    b: int = 0

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns it is made of."""
        return (self.a,) if self.operation == SYMBOL else (self.a, self.b)


class Context(NamedTuple):
    """What a symbol is predicted under: up to three parents, and the symbols of rows before."""

    parents: tuple[Parent, ...] = ()
    flags: int = 0


def values_of(parent: Parent, column: Callable[[int], Values], out: I64) -> None:
    """Sets int64[rows]; FormatError where a column has no numbers."""
    operation = parent.operation
    first = column(parent.a)
    if operation == SYMBOL:
        out[:] = first.symbols
        return
    second = column(parent.b)
    sign = 1 if operation in (SUM, CLOCK_SUM) else -1
    if operation in (SUM, DIFFERENCE):
        add_numbers(first.numbers, second.numbers, sign, 0, out)
    else:
        add_numbers(first.minutes, second.minutes, sign, DAY, out)


def _minutes(clock: I64) -> I64:
    """Minutes of times such as 1459 for 14:59."""
    return clock // 100 * 60 + clock % 100


def pack_contexts(contexts: Sequence[Context], out: Writer) -> None:
    """Writes the parents that contexts have, and the contexts."""
    parents = parents_of(contexts)
    out.number(len(parents))
    for parent in parents:
        out.byte(parent.operation)
        for column in parent.columns:
            out.number(column)
    out.number(len(contexts))
    for context in contexts:
        out.byte(len(context.parents))
        for parent in context.parents:
            out.number(parents.index(parent))
        out.byte(context.flags)


def parents_of(contexts: Sequence[Context]) -> list[Parent]:
    """All parents of contexts, each once."""
    return list(dict.fromkeys(parent for context in contexts for parent in context.parents))


def take_contexts(at: Reader, columns: int, most: int) -> list[Context]:
    """What `pack_contexts` wrote, of at most `most` contexts and at least one."""
    parents = []
    for _ in range(at.number(MAX_PARENTS)):
        operation = at.byte()
        if operation > CLOCK_DIFFERENCE:
            raise FormatError("table has an unknown kind of parent")
        wanted = 1 if operation == SYMBOL else 2
        parents.append(Parent(operation, *(at.number(columns - 1) for _ in range(wanted))))
    contexts = []
    for _ in range(at.number(most)):
        count = at.byte()
        if count > PARENTS:
            raise FormatError("context of a table has too many parents")
        numbers = [at.number(max(0, len(parents) - 1)) for _ in range(count)]
        if numbers and not parents:
            raise FormatError("context of a table has parents that are not there")
        flags = at.byte()
        if flags > 3:
            raise FormatError("context of a table has unknown flags")
        contexts.append(Context(tuple(parents[i] for i in numbers), flags))
    if not contexts:
        raise FormatError("column of a table has no contexts")
    return contexts


def arrays_of(
    contexts: Sequence[Context], column: Callable[[int], Values], rows: int
) -> tuple[I64, I64]:
    """int64[contexts, FIELDS] and int64[parents, rows] for kernels; LimitError for too many."""
    parents = parents_of(contexts)
    if len(parents) * rows > MAX_VALUES:
        raise LimitError("contexts of a table take too much memory")
    numbers = np.full((len(contexts), FIELDS), -1, np.int64)
    for row, context in zip(numbers, contexts, strict=True):
        row[: len(context.parents)] = [parents.index(parent) for parent in context.parents]
        row[PARENTS] = context.flags
    values = np.empty((len(parents), rows), np.int64)
    for out, parent in zip(values, parents, strict=True):
        values_of(parent, column, out)
    return numbers, values


def function_places() -> tuple[I64, int]:
    """Places of a function, this thread's until it asks again, and the stamp of new ones."""
    places, stamp = _local.__dict__.get("places", (None, 0))
    if places is None or stamp == _LAST_STAMP:
        places, stamp = np.zeros(FUNCTION_PLACES, np.int64), 0
    _local.places = places, stamp + 1
    return places, stamp + 1
