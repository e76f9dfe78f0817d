"""Numbers of a few bits, lowest bit first, filling bytes from the lowest bit; for use in kernels.

Not for hot loops: one bit at a time.
"""

import numpy as np
from numba import njit


@njit
def put_bits(out, at, value, bits):
    """Appends the low `bits` of `value` from bit `at` of `out` on, zeros; returns the next bit."""
    for i in range(bits):
        out[at >> 3] |= np.uint8(((value >> i) & 1) << (at & 7))
        at += 1
    return at


@njit
def take_bits(data, at, bits):
    """`bits` bits from bit `at` on; -1 past the end, and for an `at` below 0."""
    if at < 0 or at + bits > data.size * 8:
        return -1
    value = 0
    for i in range(bits):
        value |= np.int64((data[(at + i) >> 3] >> ((at + i) & 7)) & 1) << i
    return value
