"""Row classes: which runs of a plane share a code.

Rows of a weight matrix differ in scale, so a few codes, one chosen per row, beat one code for
all. Classes are found by k-means with code length as the distance (Lloyd's algorithm over
Kullback-Leibler divergence), then joined as long as that makes the whole smaller.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import numpy as np
import numpy.typing as npt

from densor.codec.planes.class_map import RunClasses
from densor.codec.planes.params import C
from densor.codec.planes.payload import map_bits
from densor.entropy.deferred import deferred

find_classes, reassign = deferred("densor.codec.planes.search_kernels", "find_classes", "reassign")

Counts = npt.NDArray[np.int64]
RunCounts = npt.NDArray[np.uint16]
Prices = npt.NDArray[np.float32]  # float32[classes, 256], bits that a symbol takes in each class

_ROUNDS = 2
_TRAINING_RUNS = 2048
_MANY_RUNS = 512
MIN_RUNS = 4  # runs per class that make a search worth while
_MAP_BITS = np.array([map_bits(classes) for classes in range(17)], np.uint8)
# Quantiles of the normal distribution; `statistics`, which has it, takes longer to import than this
_EIGHTHS = np.array(
    [
        *(-1.1503493803760079, -0.6744897501960817, -0.31863936396437514),
        *(0.0, 0.31863936396437514, 0.6744897501960817, 1.1503493803760079),
    ]
)
_BORDERS = {8 // step: _EIGHTHS[step - 1 :: step].copy() for step in (4, 2, 1)}


@dataclass(frozen=True, eq=False)
class Coding(Generic[C]):
    """How a plane is coded by classes."""

    classes: C
    runs: RunClasses | None  # uint8[runs], class of each; None where there is one class


PricesOf = Callable[[npt.NDArray[np.int64], Counts], Prices]
Found = tuple[RunClasses, npt.NDArray[np.int64]]


def search_classes(
    counts: RunCounts,
    total: Counts,
    most: int,
    class_bits: float,
    prices_of: PricesOf,
) -> Found:
    """A class for each run, of at most `most`, and the histogram of each class.

    `class_bits`: what a class must save. `prices_of` tells the prices of symbols from the histogram
    of each class, int64[classes, 256], and of all runs: those of all symbols that occur anywhere.
    A search ends in a local optimum: where runs are few, one is begun with fewer classes too.
    """
    best = _search(counts, total, most, class_bits, prices_of)
    none = len(best[1]) == 1 and len(counts) >= MIN_RUNS * most
    fewer = [2**k for k in range(1, 4) if 2**k < most and len(counts) >= MIN_RUNS * 2**k]
    if len(counts) > _MANY_RUNS or none or not fewer:
        return best

    def bits(found: Found) -> float:
        by_class = found[1]
        classes = len(by_class)
        symbols = float((by_class * prices_of(by_class, total)).sum())
        return symbols + classes * class_bits + len(counts) * int(_MAP_BITS[classes])

    return min([best, *(_search(counts, total, n, class_bits, prices_of) for n in fewer)], key=bits)


def _search(
    counts: RunCounts, total: Counts, most: int, class_bits: float, prices_of: PricesOf
) -> Found:
    """Likewise, by one search that begins with `most` classes."""
    if most < 2 or len(counts) < MIN_RUNS * most:
        return np.zeros(len(counts), np.uint8), total[None]
    runs = np.zeros(len(counts), np.uint8)
    by_class = np.zeros((most, 256), np.int64)
    cost, row = np.empty((most, 256), np.float32), np.empty(256, np.float32)
    step = max(1, len(counts) // _TRAINING_RUNS)
    left = find_classes(
        counts,
        total,
        _BORDERS[most],
        step,
        _ROUNDS,
        _MAP_BITS,
        class_bits,
        cost,
        row,
        np.empty(len(counts)),
        np.empty((most + 1, most)),
        by_class,
        np.empty(most, np.int64),
        runs,
    )
    if left == 1:
        return runs, total[None]
    by_class = by_class[:left]
    for part in dict.fromkeys((step, 1)):  # so far ideal code lengths, from now on real ones
        reassign(counts, total, part, prices_of(by_class, total), row, by_class, runs)
    if (by_class.sum(axis=0) != total).any():  # else symbols would lack a code
        raise AssertionError("classes do not account for all symbols")
    return runs, by_class
