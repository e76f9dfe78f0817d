"""Numbers of a few bits, lowest bit first, filling bytes from the lowest bit; for use in kernels.

Not for hot loops: one bit at a time.
"""

import numpy as np
from numba import njit

_MOST_ZEROS = 20  # of an Exp-Golomb code


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


@njit
def bit_length(value):
    """Bits of a number that is not negative."""
    bits = 0
    while value > 0:
        bits += 1
        value >>= 1
    return bits


@njit
def put_folded(out, at, folded, order):
    """Appends a number of 0 or more as an Exp-Golomb code of some order; returns the next bit."""
    high = (folded >> order) + 1
    bits = bit_length(high)
    at = put_bits(out, at, 0, bits - 1)
    at = put_bits(out, at, 1, 1)
    at = put_bits(out, at, high & ((1 << (bits - 1)) - 1), bits - 1)
    return put_bits(out, at, folded & ((1 << order) - 1), order)


@njit
def take_folded(data, at, order):
    """An Exp-Golomb number and the position after it; (-1, 0) where there is none."""
    zeros = 0
    while True:
        bit = take_bits(data, at, 1)
        at += 1
        if bit < 0 or zeros > _MOST_ZEROS:
            return -1, 0
        if bit:
            break
        zeros += 1
    high = take_bits(data, at, zeros)
    low = take_bits(data, at + zeros, order)
    if high < 0 or low < 0:
        return -1, 0
    return ((high | 1 << zeros) - 1) << order | low, at + zeros + order
