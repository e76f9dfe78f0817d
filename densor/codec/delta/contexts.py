"""Which elements of the base share a table: k-means on code length over bits of the base.

A base's exponent tells how large changes are, its leading mantissa bits how likely rounding is to
show one. Their combinations are joined to a few contexts, costs of the tables counted.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.delta.kernels import add_rows, cheapest

Counts = npt.NDArray[np.int64]
Rows = npt.NDArray[np.uint32]  # counts or code lengths, a row per value or context
Contexts = npt.NDArray[np.int64]  # the context of each value
_ROUNDS = 2
_SYMBOL_BITS = 9.0  # what a symbol in use costs in a packed table, about
_TABLE_BITS = 64.0  # what a table costs besides


class Grouping(NamedTuple):
    """Contexts of all values of the chosen bits, and what coding costs with them."""

    mapped: npt.NDArray[np.uint8]  # uint8[values]
    bits: float  # of all symbols, and of the tables


def group(
    counts: Counts, used: npt.NDArray[np.intp], values: int, scale: float, most: int
) -> Grouping:
    """The cheapest of up to `most` contexts found.

    `used`: those of so many `values` of bits of the base that a sample has, in order; `counts`:
    int64[used, 256], how often it has each token with each of them; `scale`: how often the sample
    fits into what is to be coded.
    """
    symbols = np.flatnonzero(counts.any(axis=0))
    rows = np.ascontiguousarray(counts[:, symbols], np.uint32)
    of = best_of = np.zeros(used.size, np.int64)
    best = _cost(_sums(rows, of, 1), scale)
    contexts = 1
    while contexts < most and 2 * contexts <= used.size:
        before = contexts
        of = _split(rows, of, contexts)
        contexts = int(of.max()) + 1
        for _ in range(_ROUNDS):
            cheapest(rows, _lengths(_sums(rows, of, contexts)), of)
        of = np.unique(of, return_inverse=True)[1].astype(np.int64)
        contexts = int(of.max()) + 1
        cost = _cost(_sums(rows, of, contexts), scale)
        if cost < best:
            best_of, best = of, cost
        elif contexts >= 4:
            break
        if contexts <= before:  # the split was merged again
            break
    return Grouping(_for_all_values(used, best_of, values), best)


def _sums(rows: Rows, of: Contexts, contexts: int) -> Rows:
    sums = np.empty((contexts, rows.shape[1]), np.uint32)
    add_rows(rows, of, sums)
    return sums


def _lengths(sums: Rows) -> Rows:
    """Ideal code lengths under each context in 2^-16 bits, also for symbols that it lacks."""
    smoothed = sums + np.float32(0.03)
    lengths = np.log2(smoothed.sum(axis=1, keepdims=True) / smoothed)
    found: Rows = (65536 * lengths).astype(np.uint32)
    return found


def _cost(sums: Rows, scale: float) -> float:
    data = float((sums * _lengths(sums).astype(np.float64)).sum()) / 65536 * scale
    return data + np.count_nonzero(sums) * _SYMBOL_BITS + len(sums) * _TABLE_BITS


def _split(rows: Rows, of: Contexts, contexts: int) -> Contexts:
    """Gives the value of each context that suits it least a context of its own."""
    lengths = _lengths(_sums(rows, of, contexts)).astype(np.float32)
    excess = (rows * (lengths[of] - _lengths(rows))).sum(axis=1)
    of = of.copy()
    for context in range(contexts):
        members = np.flatnonzero(of == context)
        if members.size > 1:
            of[members[np.argmax(excess[members])]] = of.max() + 1
    return of


def _for_all_values(used: npt.NDArray[np.intp], of: Contexts, values: int) -> npt.NDArray[np.uint8]:
    """A context for values that the sample lacks too: that of the next lower one it has."""
    at = np.searchsorted(used, np.arange(values), side="right") - 1
    return of[np.maximum(at, 0)].astype(np.uint8)
