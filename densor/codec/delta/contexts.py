"""Which elements of the base share a table: k-means on code length over bits of the base.

A base's exponent tells how large changes are, its leading mantissa bits how likely rounding is to
show one. Their combinations are joined to a few contexts, costs of the tables counted.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import deferred

group_rows = deferred("densor.codec.delta.context_kernels", "group_rows")
Counts = npt.NDArray[np.int64]
Contexts = npt.NDArray[np.int64]  # the context of each value


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
    of, own = np.empty(used.size, np.int64), np.empty(used.size)
    size = 2 * most, symbols.size
    bits = group_rows(
        rows, most, scale, of, np.empty_like(of), np.empty(size, np.uint32), np.empty(size),
        np.empty((used.size, symbols.size + 1), np.uint16), np.empty_like(of), own,
        np.empty_like(own), np.empty(2 * most, np.int64), np.empty(size[::-1]), np.empty(2 * most),
    )  # fmt: skip
    return Grouping(_for_all_values(used, of, values), float(bits))


def _for_all_values(used: npt.NDArray[np.intp], of: Contexts, values: int) -> npt.NDArray[np.uint8]:
    """A context for values that the sample lacks too: that of the next lower one it has."""
    at = np.searchsorted(used, np.arange(values), side="right") - 1
    return of[np.maximum(at, 0)].astype(np.uint8)
