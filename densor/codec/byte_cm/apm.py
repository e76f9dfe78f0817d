"""Adaptive probability maps, APM or secondary estimation (M. Mahoney, PAQ): a probability is
corrected under a small context.

Rows of 32 uint16 probabilities in units of 2^-16, for stretched values from -2048 to 2048.
"""

import numba
import numpy as np

from densor.entropy.jit import index, inlined

int64 = numba.int64

CELLS = 32  # a row is a cache line
_RATE = 5  # a step is 2^-5 of the error


@inlined
def _place(row, stretched):
    """The lower of the two cells next to a stretched value, and the share of the upper, 2^-12."""
    x = (stretched + 2048) * (CELLS - 1)
    return row * CELLS + (x >> 12), x & 4095


@inlined
def apm_predict(cells, row, stretched):
    """What a row of the map makes of a stretched probability, by interpolation; 2^-16."""
    at, part = _place(row, stretched)
    lower, upper = int64(cells[index(at)]), int64(cells[index(at + 1)])
    return (lower * (4096 - part) + upper * part) >> 12


@inlined
def apm_update(cells, row, stretched, bit):
    """Moves the two cells that `apm_predict` interpolated towards `bit`."""
    at, _ = _place(row, stretched)
    goal = bit * 65535
    for i in range(at, at + 2):
        value = int64(cells[index(i)])
        cells[index(i)] = np.uint16(value + ((goal - value) >> _RATE))
