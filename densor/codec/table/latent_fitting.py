"""Estimates latent classes of rows and columns, after Montanari and Weiner (2023).

Spectral: leading singular vectors of the centred indicators of cells, and k-means on what they say
of rows and of columns. Then expectation and maximisation, with weights for rows and the likeliest
class for columns, and classes are joined as long as the description of the table gets shorter.
What this finds is in floating point and goes into the file; the decoder needs none of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.table.latents import MAX_CLASSES, MAX_COUNTS, Latents
from densor.codec.table.layout import I32
from densor.entropy.deferred import deferred

add_counts, add_scores = deferred("densor.codec.table.latent_kernels", "add_counts", "add_scores")

Floats = npt.NDArray[np.float32]
_CLASSES = (2, 4, 8, 16, 32)  # that are begun with
_ROUNDS, _HARD_ROUNDS = 12, 3
_POWER = 5  # steps of the power iteration
_CLOSE = 2e-5  # share of bits that a round must save
_WORSE = 1.002  # over the best of fewer classes, with which more are not tried
_RESTARTS, _STEPS, _SAMPLE = 3, 12, 1 << 13  # of k-means
_PRIOR = 0.5


class Group(NamedTuple):
    """Columns that share `size` symbols, by their places."""

    columns: npt.NDArray[np.int64]
    size: int


class Fit(NamedTuple):
    """Latents; classes of columns are numbered group by group.

    `classes`: how many each group has; `above`: classes of rows; `bits`: of latents and cells;
    `of_columns`: bits of the cells of each column.
    """

    latents: Latents
    classes: list[int]
    above: int
    bits: float
    of_columns: npt.NDArray[np.float64]


def fit(symbols: I32, groups: Sequence[Group]) -> Fit:
    """The latent classes of a table, int32[columns, rows], under which it is described best."""
    table = _Table(symbols, groups)
    best = table.fitted(1)
    for classes in _CLASSES:
        if classes > min(MAX_CLASSES // len(groups), table.rows):
            break
        found = table.fitted(classes)
        if found.bits > _WORSE * best.bits:
            break
        best = min(best, found, key=lambda one: one.bits)
    return best


class _Table:
    """Cells as rows of a table of counts: each column has a row for each of its symbols."""

    def __init__(self, symbols: I32, groups: Sequence[Group]) -> None:
        self.columns, self.rows = symbols.shape
        self.groups = groups
        sizes = np.zeros(self.columns, np.int64)
        for group in groups:
            sizes[group.columns] = group.size
        self.begins = np.cumsum(sizes) - sizes
        self.size = int(sizes.sum())
        self.places = (symbols + self.begins[:, None]).astype(np.int32).reshape(-1)
        self.owner = np.repeat(np.arange(self.columns), sizes)
        self.alone = self.counts(np.ones((self.rows, 1), np.float32)).reshape(-1)

    def counts(self, weights: Floats) -> Floats:
        """float32[size, classes]: the weights of rows by their cells."""
        found = np.zeros((self.size, weights.shape[1]), np.float32)
        add_counts(self.places, found.reshape(-1), weights.reshape(-1), weights.shape[1])
        return found

    def scores(self, table: Floats) -> Floats:
        """float32[rows, classes]: sums of what cells stand for."""
        found = np.zeros((self.rows, table.shape[1]), np.float32)
        add_scores(self.places, table.reshape(-1), found.reshape(-1), table.shape[1])
        return found

    def of_group(self, table: npt.NDArray[np.float32], group: Group) -> Floats:
        """float32[columns, size, classes]: the part of a table for a group."""
        at = self.begins[group.columns][:, None] + np.arange(group.size)
        return np.asarray(table[at])

    def fitted(self, classes: int) -> Fit:
        """Latents that begin with so many classes, of which some may be joined."""
        rng = np.random.default_rng(classes)
        if classes > 1:
            of_rows, of_cells = self._spectral(classes, rng)
            weights = _indicators(_k_means(of_rows, classes, rng), classes)
            below = [_k_means(_flat(self.of_group(of_cells, g)), min(classes, g.columns.size), rng)
                     for g in self.groups]  # fmt: skip
        else:
            weights = np.ones((self.rows, 1), np.float32)
            below = [np.zeros(g.columns.size, np.int64) for g in self.groups]
        last = np.inf
        for _ in range(_ROUNDS if classes > 1 else 0):
            below, tables = self._columns_of(weights, below)
            weights, bits = self._rows_of(weights, tables)
            if bits > (1 - _CLOSE) * last:
                break
            last = bits
        return self._hardened(weights, below)

    def _spectral(self, classes: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Leading left and right singular vectors of the centred, scaled indicators of cells."""
        width = min(classes + 1, self.rows, self.size)
        scale = 1 / np.sqrt(self.alone / self.rows + 1e-9)
        mean = (self.alone / self.rows * scale)[:, None]
        right = rng.standard_normal((self.size, width)).astype(np.float32)
        for _ in range(_POWER):
            left = self._times(right, scale, mean)
            left = np.linalg.qr(left)[0].astype(np.float32)
            right = self.counts(np.ascontiguousarray(left)) * scale[:, None]
            right -= mean * left.sum(axis=0)
        right = np.asarray(right, np.float32)
        return self._times(np.linalg.qr(right)[0].astype(np.float32), scale, mean), right

    def _times(self, right: Floats, scale: Floats, mean: Floats) -> Floats:
        table = np.ascontiguousarray(right * scale[:, None], np.float32)
        return np.asarray(self.scores(table) - (mean * right).sum(axis=0), np.float32)

    def _columns_of(
        self, weights: Floats, below: list[npt.NDArray[np.int64]]
    ) -> tuple[list[npt.NDArray[np.int64]], Floats]:
        """The likeliest classes of columns, and logarithms of shares for each column's symbols."""
        counts = self.counts(weights)
        logs = np.empty_like(counts)
        found = []
        for group, known in zip(self.groups, below, strict=True):
            own = self.of_group(counts, group)
            chosen, table = _likeliest(own, known)
            found.append(chosen)
            at = self.begins[group.columns][:, None] + np.arange(group.size)
            logs[at] = table[chosen]
        return found, logs

    def _rows_of(self, weights: Floats, logs: Floats) -> tuple[Floats, float]:
        """Weights of classes for each row, and bits of all."""
        shares = (weights.sum(axis=0) + _PRIOR) / (self.rows + _PRIOR * weights.shape[1])
        scores = self.scores(np.ascontiguousarray(logs)) + np.log(shares).astype(np.float32)
        most = scores.max(axis=1, keepdims=True)
        found = np.exp(scores - most)
        total = found.sum(axis=1, keepdims=True)
        bits = -float((most + np.log(total)).sum(dtype=np.float64)) / np.log(2)
        return np.asarray(found / total, np.float32), bits

    def _hardened(self, weights: Floats, below: list[npt.NDArray[np.int64]]) -> Fit:
        """One class for each row; classes joined, and rows and columns in their likeliest."""
        rows = weights.argmax(axis=1)
        for _ in range(_HARD_ROUNDS):
            rows, below = self._joined(rows, below)
            if not rows.any():
                break
            weights = _indicators(rows, int(rows.max()) + 1)
            below, logs = self._columns_of(weights, below)
            again = self._rows_of(weights, logs)[0].argmax(axis=1)
            if np.array_equal(again, rows):
                break
            rows = again
        rows, below = self._joined(rows, below)
        return self._described(rows, below)

    def _joined(
        self, rows: npt.NDArray[np.int64], below: list[npt.NDArray[np.int64]]
    ) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int64]]]:
        """The same with classes joined where that shortens the description."""
        rows = _numbered(rows)
        counts = self.counts(_indicators(rows, int(rows.max()) + 1))
        blocks = [
            _sums(self.of_group(counts, g), k) for g, k in zip(self.groups, below, strict=True)
        ]
        above = [np.swapaxes(b, 1, 2).swapaxes(0, 1) for b in blocks]  # [rows, columns, size]
        joined = _join([np.ascontiguousarray(b) for b in above], np.bincount(rows))
        rows = joined[rows]
        counts = self.counts(_indicators(rows, int(rows.max()) + 1))
        found = []
        for group, known in zip(self.groups, below, strict=True):
            known = _numbered(known)
            own = np.swapaxes(_sums(self.of_group(counts, group), known), 1, 2)
            found.append(_join([np.ascontiguousarray(own)], np.bincount(known))[known])
        return rows, found

    def _described(self, rows: npt.NDArray[np.int64], below: list[npt.NDArray[np.int64]]) -> Fit:
        above = int(rows.max()) + 1
        counts = self.counts(_indicators(rows, above))
        classes: list[int] = []
        bits, columns = _sequence(np.bincount(rows)), np.zeros(self.columns, np.int32)
        of_columns = np.zeros(self.columns)
        for group, known in zip(self.groups, below, strict=True):
            own = self.of_group(counts, group)
            blocks = _sums(own, known)
            shares = np.log2((blocks + 1e-9) / (blocks.sum(axis=1, keepdims=True) + 1e-9))
            costs = -(own * shares[known]).sum(axis=(1, 2), dtype=np.float64)
            parameters = _description(np.swapaxes(blocks, 1, 2)) - costs.sum()
            of_columns[group.columns] = costs + parameters / group.columns.size
            columns[group.columns] = known + sum(classes)
            classes.append(int(known.max()) + 1)
        bits += _sequence(np.bincount(columns)) + float(of_columns.sum())
        if above * sum(c * g.size for c, g in zip(classes, self.groups, strict=True)) > MAX_COUNTS:
            bits = np.inf
        return Fit(Latents(rows.astype(np.int32), columns), classes, above, bits, of_columns)


def _flat(table: Floats) -> Floats:
    return table.reshape(table.shape[0], -1)


def _indicators(classes: npt.NDArray[np.int64], count: int) -> Floats:
    found = np.zeros((classes.size, count), np.float32)
    found[np.arange(classes.size), classes] = 1
    return found


def _numbered(classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Classes numbered from 0 on without gaps."""
    return np.unique(classes, return_inverse=True)[1].reshape(-1)


def _sums(own: Floats, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Counts of columns, [columns, size, rows], by their classes."""
    found = np.zeros((int(classes.max()) + 1, *own.shape[1:]))
    np.add.at(found, classes, own)
    return found


def _likeliest(own: Floats, known: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Floats]:
    """The class of each column under which its counts are likeliest, and logarithms of shares."""
    chosen = _numbered(known)
    for _ in range(2):
        blocks = _sums(own, chosen) + _PRIOR
        logs = np.log(blocks / blocks.sum(axis=1, keepdims=True)).astype(np.float32)
        scores = _flat(own) @ _flat(logs).T
        if logs.shape[0] == 1:
            break
        chosen = scores.argmax(axis=1)
        kept, chosen = np.unique(chosen, return_inverse=True)
        chosen, logs = chosen.reshape(-1), logs[kept]
    return chosen, logs


def _sequence(counts: npt.NDArray[np.int64]) -> float:
    """Bits of a sequence with such counts, by an adaptive code."""
    return float(_description(counts[None].astype(np.float64)))


def _description(blocks: npt.NDArray[np.float64]) -> float:
    """Bits of cells with counts [..., size], by an adaptive code for each block."""
    return float(_costs(blocks).sum())


def _costs(blocks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total = blocks.sum(axis=-1)
    bits = total * np.log2(total + 1e-300) - (blocks * np.log2(blocks + 1e-300)).sum(axis=-1)
    seen = np.minimum((blocks > 0).sum(axis=-1), blocks.shape[-1] - 1)
    return np.asarray(bits + 0.5 * seen * np.log2(total + 2))


def _join(
    blocks: list[npt.NDArray[np.float64]], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Which class each one becomes, as long as joining two saves bits.

    `blocks`: of groups, float64[classes, others, size]; `counts`: members of each class.
    """
    number = np.arange(counts.size)
    blocks, members = list(blocks), counts.astype(np.float64)
    while members.size > 1:
        alone = sum(_costs(b).sum(axis=1) for b in blocks)
        before = _sequence_of(members)
        best = (0.0, 0, 0)
        for a in range(members.size - 1):
            both = sum(_costs(b[a] + b[a + 1 :]).sum(axis=1) for b in blocks)
            for i, cost in enumerate(np.asarray(both)):
                other = a + 1 + i
                gain = alone[a] + alone[other] - cost
                gain += before - _sequence_of(_without(members, a, other))
                best = max(best, (float(gain), a, other))
        if best[0] <= 0:
            break
        _, a, other = best
        for block in blocks:
            block[a] += block[other]
        blocks = [np.delete(block, other, axis=0) for block in blocks]
        members = _without(members, a, other)
        number[number == other] = a
        number[number > other] -= 1
    return number


def _without(counts: npt.NDArray[np.float64], a: int, other: int) -> npt.NDArray[np.float64]:
    found = np.delete(counts, other)
    found[a] += counts[other]
    return found


def _sequence_of(counts: npt.NDArray[np.float64]) -> float:
    return float(_costs(counts[None])[0])


def _k_means(points: Floats, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The nearest of `count` centres for each point (k-means++, the best of a few runs)."""
    some = points
    if points.shape[0] > _SAMPLE:
        some = points[rng.choice(points.shape[0], _SAMPLE, replace=False)]
    best, least = some[:1], np.inf
    for _ in range(_RESTARTS):
        centres = _spread(some, count, rng)
        for _ in range(_STEPS):
            nearest = _distances(some, centres).argmin(axis=1)
            sums = np.zeros_like(centres)
            np.add.at(sums, nearest, some)
            sizes = np.bincount(nearest, minlength=centres.shape[0])[:, None]
            centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres)
            centres = centres.astype(np.float32)
        spread = float(_distances(some, centres).min(axis=1).sum())
        if spread < least:
            best, least = centres, spread
    return np.asarray(_distances(points, best).argmin(axis=1), np.int64)


def _spread(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Centres to begin with: points, each likelier the farther it is from those before."""
    chosen = [int(rng.integers(points.shape[0]))]
    far = _distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        total = far.sum(dtype=np.float64)
        if total <= 0:
            break
        place = np.searchsorted(np.cumsum(far, dtype=np.float64), rng.random() * total)
        chosen.append(min(int(place), points.shape[0] - 1))
        far = np.minimum(far, _distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen].copy()


def _distances(points: Floats, centres: Floats) -> Floats:
    """Squared distances, float32[points, centres]."""
    found = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return np.asarray(np.maximum(found, 0), np.float32)
