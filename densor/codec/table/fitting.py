"""Finds the order of columns, and the contexts of each, by what a sample would cost."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from densor.codec.table.contexts import (
    CLOCK_DIFFERENCE,
    CLOCK_SUM,
    DIFFERENCE,
    SUM,
    SYMBOL,
    Context,
    Parent,
    Values,
    values_of,
)
from densor.codec.table.dictionary import MISSING
from densor.codec.table.layout import I64
from densor.codec.table.state import BEFORE_PREVIOUS, FIELDS, PARENTS, PREVIOUS
from densor.entropy.deferred import deferred

context_cost = deferred("densor.codec.table.fitting_kernels", "context_cost")

OWN = (Context(), Context((), PREVIOUS), Context((), PREVIOUS | BEFORE_PREVIOUS))
_PIECES = 8  # of a sample
_SINGLES = 12  # parents that are looked at alone
_TOPS, _FEW_TOPS = 7, 5  # of them in pairs
_BEST_PAIRS, _FEW_PAIRS = 3, 2  # pairs that are looked at with a third
_FEW = 2  # contexts, for which less is tried
_MOST_BEFORE = 24  # columns before that are looked at where there are many
_FEW_DIFFERENT = 16  # cells of columns that are looked at beside the symbol before
_MIN_DIFFERENT = 12  # cells of columns that are added or subtracted
_MAX_NUMERIC = 12  # columns that are
_CLOCK = 2400
_LEAST_ROWS, _SHARE_OF_ROWS = 1 << 10, 3  # binary: an eighth of a sample is looked at first
_ROUGHLY_BEST = 4  # sums and differences that are then looked at in all of it
_MIN_GAIN = 0.02  # share that a parent must save, to count
_ADDED_SHARE = 0.9  # of the cost under the best parent, that a sum must cost less than
_READ_SHARE = 0.01  # of the bits of columns that a context needs, which it must save
_MOST_SAVED = 0.1  # share of a column's cost that a second context is taken to save at most
_NEARLY_KNOWN = 0.002  # bits a symbol


class Sample:
    """Some rows of all columns, in several pieces."""

    def __init__(self, columns: Sequence[Values | None], counts: Sequence[int], rows: int) -> None:
        total = next(c.symbols.size for c in columns if c is not None)
        self.rows = min(rows, total)
        chosen = _chosen(total, self.rows)
        self.counts = counts
        self._columns: list[Values | None] = []
        self._first: list[npt.NDArray[np.float64]] = []
        for column, count in zip(columns, counts, strict=True):
            if column is None:
                self._columns.append(None)
                self._first.append(np.zeros(0))
                continue
            self._columns.append(column.at(chosen))
            shares = (np.bincount(column.symbols, minlength=count) + 0.5) / (total + 0.5 * count)
            self._first.append(-np.log2(2 * shares))
        self._logs = np.log2(np.arange(self.rows + 2) + 2).astype(np.float32)
        bits = max(8, min(17, self.rows.bit_length()))
        self._contexts, self._pairs = np.empty(1 << bits, np.int32), np.empty(2 << bits, np.int32)
        self._known: dict[Parent, I64] = {}

    def column(self, number: int) -> Values:
        """A column, in the rows of the sample."""
        found = self._columns[number]
        assert found is not None
        return found

    def cost(self, column: int, context: Context) -> float:
        """Bits of a column's symbols under a context."""
        found = np.full(FIELDS, -1, np.int64)
        found[: len(context.parents)] = range(len(context.parents))
        found[PARENTS] = context.flags
        parents = [self._values(parent) for parent in context.parents]
        flat = np.concatenate(parents) if parents else np.zeros(1, np.int64)
        symbols, first = self.column(column).symbols, self._first[column]
        counters = self._logs, self._contexts, self._pairs
        return float(context_cost(found, flat, symbols, first, *counters))

    def cost_under(self, column: int, parent: Parent) -> float:
        """The same under one parent, whose values are not kept."""
        cost = self.cost(column, Context((parent,)))
        del self._known[parent]
        return cost

    def _values(self, parent: Parent) -> I64:
        if parent not in self._known:
            self._known[parent] = np.empty(self.rows, np.int64)
            values_of(parent, self.column, self._known[parent])
        return self._known[parent]

    def shorter(self) -> "Sample":
        """Its first rows, by which what is best is found roughly."""
        rows = max(_LEAST_ROWS, self.rows >> _SHARE_OF_ROWS)
        return Sample([c and c.first(rows) for c in self._columns], self.counts, rows)

    def forget(self) -> None:
        """Frees the values of parents that are made of two columns."""
        self._known = {p: v for p, v in self._known.items() if p.operation == SYMBOL}

    def numeric(self, column: int) -> bool:
        """Whether a column may be added to others."""
        return self.column(column).has_numbers and self.counts[column] > _MIN_DIFFERENT

    def is_clock(self, column: int) -> bool:
        """Whether the numbers of a column may be times such as 1459."""
        numbers = self.column(column).numbers
        numbers = numbers[numbers != MISSING]
        if not numbers.size or numbers.min() < 0 or not 1000 <= numbers.max() <= _CLOCK:
            return False
        return bool((numbers % 100 < 60).all())


def _chosen(total: int, rows: int) -> npt.NDArray[np.int64]:
    if rows == total:
        return np.arange(total)
    piece = rows // _PIECES
    begins = np.linspace(0, total - piece, _PIECES).astype(np.int64)
    return (begins[:, None] + np.arange(piece)).reshape(-1)


class Plan:
    """The order of columns by what they save each other.

    `coded`: columns that have two different cells or more and are no texts; `known`: others, which
    come first.
    """

    def __init__(self, sample: Sample, coded: Sequence[int], known: Sequence[int] = ()) -> None:
        self._sample = sample
        self._shorter = sample.shorter()
        coded = [*known, *coded]
        self._alone = {c: [sample.cost(c, context) for context in OWN] for c in coded}
        self._base = {c: min(costs[:2]) for c, costs in self._alone.items()}
        self._pairs = self._cost_of_pairs(coded)
        self._read: dict[int, dict[int, float]] = {}  # bits of a column and all that it depends on
        self.order = self._ordered(coded, known)

    def _cost_of_pairs(self, coded: Sequence[int]) -> dict[tuple[int, int], float]:
        """Of each column under each other one; of many columns, only of those beside it."""
        reach = len(coded) if len(coded) <= 2 * _MOST_BEFORE else _MOST_BEFORE // 2
        found = {}
        for i, column in enumerate(coded):
            for parent in coded[max(0, i - reach) : i + reach + 1]:
                if parent != column:
                    context = Context((Parent(SYMBOL, parent),))
                    found[column, parent] = self._sample.cost(column, context)
        return found

    def _ordered(self, coded: Sequence[int], known: Sequence[int]) -> list[int]:
        base, best, left, order = self._base, dict(self._base), set(coded), list[int]()
        while left:
            column = max(sorted(left), key=lambda i: (base[i] - best[i]) / (base[i] + 1))
            if len(order) < len(known):
                column = known[len(order)]
            elif not order or base[column] - best[column] < _MIN_GAIN * base[column]:
                column = min(sorted(left), key=lambda i: best[i] - self._saved(i, left, best))
            order.append(column)
            left.discard(column)
            for other in left:
                best[other] = min(best[other], self._pairs.get((other, column), best[other]))
        return order

    def _saved(self, column: int, left: Iterable[int], best: dict[int, float]) -> float:
        """Bits that other columns save under this one."""
        costs = ((best[i], self._pairs.get((i, column))) for i in left)
        return sum(max(0.0, now - under) for now, under in costs if under is not None)

    def contexts(self, column: int, before: Sequence[int], most: int) -> tuple[Context, ...]:
        """The contexts of a column, at most `most`, of columns before it in the order.

        Where there are few, parents must save more than a share of what is read for them.
        """
        sample, alone = self._sample, self._alone[column]
        own = dict(zip(OWN, alone, strict=True))
        known = [(self._pairs[column, j], Parent(SYMBOL, j)) for j in before
                 if (column, j) in self._pairs]  # fmt: skip
        singles = sorted(known)[:_SINGLES]
        added = self._added(column, before, singles)
        singles = sorted(singles + added)
        few = most <= _FEW
        tops = [parent for _, parent in singles[: _FEW_TOPS if few else _TOPS]]
        pairs = {}
        for i, a in enumerate(tops):
            for context in (Context((a,), PREVIOUS), *(Context((b, a)) for b in tops[:i])):
                pairs[context] = sample.cost(column, context)
        for _, parent in sorted(known)[:_MOST_BEFORE]:  # such as whether a key is a new one
            context = Context((parent,), PREVIOUS)
            if context not in pairs and sample.counts[parent.a] <= _FEW_DIFFERENT:
                pairs[context] = sample.cost(column, context)
        by_pairs = sorted(pairs, key=pairs.__getitem__)
        triples: dict[Context, float] = {}
        for context in by_pairs[: _FEW_PAIRS if few else _BEST_PAIRS]:
            for further in _extended(context, tops):
                if further not in triples:
                    triples[further] = sample.cost(column, further)
        sample.forget()
        alone_first = sorted(own, key=own.__getitem__)
        by_singles = [Context((parent,)) for _, parent in singles]
        by_triples = sorted(triples, key=triples.__getitem__)
        costs = {c: cost for c, (cost, _) in zip(by_singles, singles, strict=True)}
        costs |= own | pairs | triples
        groups = by_singles, alone_first, by_pairs, by_triples
        found = self._chosen(costs, groups, most)
        self._read[column] = {column: costs[found[0]]}
        for context in found:
            self._read[column] |= self._columns_read(context)
        return found

    def _chosen(
        self, costs: dict[Context, float], groups: Sequence[Sequence[Context]], most: int
    ) -> tuple[Context, ...]:
        """The contexts that are mixed, of those in groups that have such costs."""
        share = _READ_SHARE if most <= _FEW else 0.0
        read: dict[int, float] = {}
        first, *_ = self._by_price(costs, costs, share, read)
        if costs[first] < _NEARLY_KNOWN * self._sample.rows:
            return (first,)
        read = self._columns_read(first)
        most_read = costs[first] * _MOST_SAVED / share if share else math.inf
        best, *others = (
            [c for c in self._by_price(group, costs, share, read)
             if self._bits_read(c, read) <= most_read]
            for group in (costs, *groups)
        )  # fmt: skip
        return _mixed([first, *best], others, most)

    def _columns_read(self, context: Context) -> dict[int, float]:
        """The columns that must be decoded for a context, and the bits of each."""
        found: dict[int, float] = {}
        for parent in context.parents:
            for column in parent.columns:
                found |= self._read.get(column, {})
        return found

    def _by_price(
        self,
        contexts: Iterable[Context],
        costs: dict[Context, float],
        share: float,
        read: dict[int, float],
    ) -> list[Context]:
        """Contexts by their costs and a share of what is read for them beside `read`."""
        return sorted(contexts, key=lambda c: costs[c] + share * self._bits_read(c, read))

    def _bits_read(self, context: Context, read: dict[int, float]) -> float:
        """Bits of the columns that must be decoded for a context beside `read`."""
        return sum(b for c, b in self._columns_read(context).items() if c not in read)

    def _added(
        self, column: int, before: Sequence[int], singles: Sequence[tuple[float, Parent]]
    ) -> list[tuple[float, Parent]]:
        """The best sum or difference of two columns, where it is better than any of them."""
        sample, shorter = self._sample, self._shorter
        if not sample.numeric(column):
            return []
        near = [parent.a for _, parent in singles if sample.numeric(parent.a)][:_MAX_NUMERIC]
        near += [j for j in before if sample.numeric(j) and j not in near][-_MAX_NUMERIC:]
        clocks = {j: sample.is_clock(j) for j in near}
        is_clock = sample.is_clock(column)
        ways = []
        for a in near:
            for b in near:
                if a == b:
                    continue
                both = clocks[a] and clocks[b]
                ways.append(Parent(CLOCK_DIFFERENCE if both or is_clock else DIFFERENCE, a, b))
                if a < b:
                    ways.append(Parent(CLOCK_SUM if both or is_clock else SUM, a, b))
        if len(ways) > _ROUGHLY_BEST:
            ways = sorted(ways, key=lambda way: shorter.cost_under(column, way))[:_ROUGHLY_BEST]
        best = min(((sample.cost_under(column, way), way) for way in ways), default=None)
        if best is None or (singles and best[0] > _ADDED_SHARE * singles[0][0]):
            return []
        return [best]


def _extended(context: Context, tops: Sequence[Parent]) -> list[Context]:
    """A context with one more parent, or with the symbol before."""
    found = []
    if len(context.parents) < PARENTS:
        for parent in tops:
            if parent not in context.parents:
                found.append(Context(tuple(sorted((*context.parents, parent))), context.flags))
    if not context.flags:
        found.append(Context(context.parents, PREVIOUS))
    return found


def _mixed(
    best: Sequence[Context], groups: Sequence[Sequence[Context]], most: int
) -> tuple[Context, ...]:
    """The best of all, then the best of each group in turn, as they differ most."""
    singles, own, pairs, triples = groups
    if most <= _FEW:
        wanted = [best[0], *singles[:1], own[0]]
    elif most <= 4:
        wanted = [best[0], *singles[:1], own[0], *pairs[:1], *singles[1:2], *triples[:1]]
    else:
        wanted = [best[0], *singles[:4], *own[:2], *pairs[:3], *triples[:2]]
    return tuple(dict.fromkeys([*wanted, *best]))[:most]
