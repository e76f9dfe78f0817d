"""Which elements of the base share a table: k-means on code length over bits of the base.

A base's exponent tells how large changes are, its leading mantissa bits how likely rounding is to
show one. Their combinations are joined to a few contexts, costs of the tables counted.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
_ROUNDS = 2
_SYMBOL_BITS = 9.0  # what a symbol in use costs in a packed table, about
_TABLE_BITS = 64.0  # what a table costs besides


class Grouping(NamedTuple):
    """Contexts of all values of the chosen bits, and what coding costs with them."""

    mapped: npt.NDArray[np.uint8]  # uint8[values]
    bits: float  # of all symbols, and of the tables


def group(counts: Counts, scale: float, most: int) -> Grouping:
    """The cheapest of up to `most` contexts found.

    `counts`: int64[values, 256], tokens by value of the bits of the base, of a sample; `scale`:
    how often the sample fits into what is to be coded.
    """
    rows = np.flatnonzero(counts.any(axis=1))
    symbols = np.flatnonzero(counts.any(axis=0))
    found = counts[np.ix_(rows, symbols)].astype(np.float32)
    best_of, best = np.zeros(rows.size, np.intp), _cost(found.sum(axis=0)[None], scale)
    of = best_of
    contexts = 1
    while contexts < most and 2 * contexts <= rows.size:
        of = _split(found, of, contexts)
        contexts = int(of.max()) + 1
        for _ in range(_ROUNDS):
            of = _assign(found, of, contexts)
        of = np.unique(of, return_inverse=True)[1]
        cost = _cost(_sums(found, of, int(of.max()) + 1), scale)
        if cost < best:
            best_of, best = of, cost
        elif contexts >= 4:
            break
    return Grouping(_for_all_values(rows, best_of, len(counts)), best)


def rough_bits(counts: Counts) -> float:
    """About what coding the sample costs with a context for each row that has anything in it.

    The description length of Rissanen (1978): half a logarithm of the row's sum for each parameter.
    """
    rows = counts[counts.any(axis=1)].astype(np.float32)
    totals = rows.sum(axis=1)
    data = (totals * np.log2(totals)).sum() - (rows * np.log2(np.maximum(rows, 1))).sum()
    parameters = (np.count_nonzero(rows, axis=1) - 1) * np.log2(totals + 1)
    return float(data + 0.5 * parameters.sum())


def _sums(
    found: npt.NDArray[np.float32], of: npt.NDArray[np.intp], contexts: int
) -> npt.NDArray[np.float32]:
    members = of == np.arange(contexts)[:, None]
    return members.astype(np.float32) @ found


def _lengths(sums: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Ideal code lengths under each context, also for symbols that it does not have."""
    smoothed = sums + np.float32(0.03)
    lengths: npt.NDArray[np.float32] = np.log2(smoothed.sum(axis=1, keepdims=True) / smoothed)
    return lengths


def _cost(sums: npt.NDArray[np.float32], scale: float) -> float:
    data = float((sums * _lengths(sums)).sum()) * scale
    return data + float((sums > 0).sum()) * _SYMBOL_BITS + len(sums) * _TABLE_BITS


def _assign(
    found: npt.NDArray[np.float32], of: npt.NDArray[np.intp], contexts: int
) -> npt.NDArray[np.intp]:
    return np.argmin(found @ _lengths(_sums(found, of, contexts)).T, axis=1)


def _split(
    found: npt.NDArray[np.float32], of: npt.NDArray[np.intp], contexts: int
) -> npt.NDArray[np.intp]:
    """Gives the value of each context that suits it least a context of its own."""
    lengths = _lengths(_sums(found, of, contexts))
    own = _lengths(found)
    excess = (found * (lengths[of] - own)).sum(axis=1)
    of = of.copy()
    for context in range(contexts):
        members = np.flatnonzero(of == context)
        if members.size > 1:
            of[members[np.argmax(excess[members])]] = of.max() + 1
    return of


def _for_all_values(
    rows: npt.NDArray[np.intp], of: npt.NDArray[np.intp], values: int
) -> npt.NDArray[np.uint8]:
    """A context for values that the sample lacks too: that of the next lower one it has."""
    at = np.searchsorted(rows, np.arange(values), side="right") - 1
    return of[np.maximum(at, 0)].astype(np.uint8)
