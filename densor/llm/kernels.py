"""The network in integers: what Llama computes in floats, with the rounding laid down in llm.md.

Real numbers are integers in units of a power of two: the residual stream 2^-24, what matrices give
2^-16. Rows that go into a matrix have 15 bits and a shift of their own. No operation is one of
floating point, so that nothing here can depend on the processor. All arrays are flat.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.entropy.jit import I32, I64, inlined, kernel
from densor.llm.products import LANES, tile

int64 = numba.int64
float64 = numba.float64

WIDE = 2 * LANES  # columns of a tile
TALL = 4  # rows of a tile
RUN = 4  # rows that go through keys and values together
GAP = 16  # between rows of sums: not a power of two, which would share lines of a cache
RESIDUAL = 24  # binary places of the residual stream
PLACES = 16  # of what matrices and norms give
ROW_BITS = 14  # of the magnitude in rows that go into a matrix
MAX_PAIRS = 512  # of products that one sum of 32 bits takes
VALUE_PLACES = 9  # of values in the cache
QUERY_BITS, KEY_BITS = 12, 11  # of the magnitudes in dot products
SMALL = 127  # largest magnitude of keys and values that are kept in a byte
SMALL_PLACES = 23  # of attention weights for them
SUM_BITS = 23  # of sums of such weights, times 127 within 31 bits
UNIT_BITS = 11  # of a number that their unit follows from
MAX_VALUE = (1 << 30) - 1  # of values that are kept in a byte, 2^-16
WEIGHT_PLACES = 15  # of attention weights
EXP_PLACES = 22  # of the exponential before they are normalised
EXP_BITS = 10  # of the fraction of its argument, logarithm of base 2
COUNT_PLACES = 30  # of the most likely token's count
_MAX_RESIDUAL = 1 << 47
_NORM_BITS = 20

four_bytes, three_bytes, two_bytes, one_bytes = (tile(n, 2, 8) for n in (4, 3, 2, 1))

F32 = types.Array(types.float32, 1, "C", readonly=True)
F64 = types.float64[::1]
I8 = types.int8[::1]
I16 = types.int16[::1]


@numba.njit(inline="always")
def clip(value, most):
    return min(max(value, -most), most)


@numba.njit(inline="always")
def half_of(shift):
    return (int64(1) << shift) >> 1


@inlined
def binary_digits(value):
    """Binary digits of a number from 0 on."""
    count = int64(0)
    while value:
        value >>= 1
        count += 1
    return count


@inlined
def _root(value):
    """The largest integer whose square is at most `value`; Newton's method from above."""
    if value < 2:
        return value
    x = int64(1) << ((binary_digits(value) + 1) >> 1)
    while True:
        y = (x + value // x) >> 1
        if y >= x:
            return x
        x = y


@inlined
def quantise(values, bits, out):
    """Rounds numbers to so many bits and a sign; returns by how much they were shifted."""
    most = int64(0)
    for i in range(values.size):
        most = max(most, abs(values[i]))
    shift = max(binary_digits(most) - bits, int64(0))
    half = half_of(shift)
    limit = (int64(1) << bits) - 1
    for i in range(values.size):
        out[i] = min((values[i] + half) >> shift, limit)
    return shift


@numba.njit(inline="always")
def _rows_by_bytes(rows, a, at, stride, w, begin, pairs, out, to, wide):
    """`products.tile` for up to four rows."""
    if rows == 4:
        four_bytes(a, at, stride, w, begin, pairs, out, to, wide)
    elif rows == 3:
        three_bytes(a, at, stride, w, begin, pairs, out, to, wide)
    elif rows == 2:
        two_bytes(a, at, stride, w, begin, pairs, out, to, wide)
    else:
        one_bytes(a, at, stride, w, begin, pairs, out, to, wide)


@kernel(types.void(F32, types.int64, F64, I8))
def round_rows(rows, size, steps, out):
    """Rows of a matrix, float32[n, size], in units of a step each, laid out for `multiply`.

    The one place with floating point: a division in double precision, rounded to even. `out`:
    int8[columns, size], by blocks of 32 columns, then pairs of inputs, then columns.
    """
    for row in range(rows.size // size):
        base = row // WIDE * WIDE * size + 2 * (row % WIDE)
        step = steps[row]
        for i in range(size):
            unit = np.rint(float64(rows[row * size + i]) / step)
            out[base + (i >> 1) * 2 * WIDE + (i & 1)] = int64(min(max(unit, -127.0), 127.0))


@inlined
def normalise_row(values, weights, epsilon, work, out):
    """Root mean square norm of a row of the residual stream, rounded for a matrix.

    `values`: int64[D], 2^-24. `weights`: int64[D], 2^-16. `epsilon`: 2^-48. `work`: int64[D].
    `out`: int16[D], in units of 2^(shift - 16); returns the shift.
    """
    size = weights.size
    most = int64(0)
    for i in range(size):
        most = max(most, abs(values[i]))
    shift = max(binary_digits(most) - _NORM_BITS, int64(0))
    total = int64(0)
    for i in range(size):
        value = values[i] >> shift
        total += value * value
    mean = total // size + (epsilon >> (2 * shift) if shift < 30 else int64(0))
    # The root has 10 places more; its inverse 52.
    inverse = (int64(1) << 52) // max(_root(mean << 10 << 10), int64(1))
    for i in range(size):
        value = ((values[i] >> shift) * inverse + (1 << 21)) >> 22
        work[i] = (value * weights[i] + (1 << 19)) >> 20
    return quantise(work[:size], int64(ROW_BITS), out)


@kernel(types.void(types.int64, I64, I64, types.int64, I64, I16, I64), counted=False)
def normalise(rows, x, weights, epsilon, work, out, shifts):
    """`normalise_row` for rows, int64[rows, D]."""
    size = weights.size
    for row in range(rows):
        own = slice(row * size, row * size + size)
        shifts[row] = normalise_row(x[own], weights, epsilon, work, out[own])


@numba.njit(inline="always")
def _finish(total, scale, right):
    """A sum of products times the scale of its column, to the units that are wanted."""
    value = total * scale
    if right >= 0:
        value = (value + half_of(right)) >> right
    else:
        value = clip(value, int64(_MAX_RESIDUAL) >> -right) << -right
    return clip(value, int64(_MAX_RESIDUAL))


@inlined
def _finish_row(totals, scales, right, kept, out):
    """`_finish` for a row of a tile, added to what `kept`, a mask, leaves of `out`."""
    if right >= 0:  # apart, so that both are vectorised
        half = half_of(right)
        for i in range(WIDE):
            value = (int64(totals[i]) * int64(scales[i]) + half) >> right
            out[i] = (out[i] & kept) + clip(value, int64(_MAX_RESIDUAL))
    else:
        for i in range(WIDE):
            out[i] = (out[i] & kept) + _finish(int64(totals[i]), int64(scales[i]), right)


class Columns(NamedTuple):
    """A matrix in its units, from a column on: see `model.Matrix`."""

    weights: npt.NDArray[np.int8]
    scales: npt.NDArray[np.int32]
    exponent: int
    size: int  # of what goes in


@inlined
def multiply_columns(rows, a, shifts, matrix, places, add, begin, end, sums, totals, out, wide):
    """Rows by the columns from `begin` to `end` of a matrix, multiples of 32.

    `a`: int16[rows, size], in units of 2^(shift - 16). `matrix`: `Columns`; weights as `round_rows`
    lays them out, scales in units of 2^-exponent. `out`: int64[rows, wide], 2^-places, added to
    where `add` is 1. `sums`, `totals`: work space for TALL * 32 numbers.
    """
    size = matrix.size
    pairs = size >> 1
    for column in range(begin, end, WIDE):
        for row in range(0, rows, TALL):
            tall = min(rows - row, int64(TALL))
            for first in range(0, pairs, MAX_PAIRS):
                count = min(pairs - first, int64(MAX_PAIRS))
                source = column * size + first * 2 * WIDE
                at = row * size + 2 * first
                _rows_by_bytes(tall, a, at, size, matrix.weights, source, count, sums, 0, WIDE)
                if pairs > MAX_PAIRS:
                    for i in range(tall * WIDE):
                        totals[i] = int64(sums[i]) + (totals[i] if first else int64(0))
            for r in range(tall):
                right = min(
                    max(matrix.exponent - places + PLACES - shifts[row + r], int64(-40)), int64(62)
                )
                at = (row + r) * wide + column
                to = out[at : at + WIDE]
                tile = slice(r * WIDE, r * WIDE + WIDE)
                steps = matrix.scales[column : column + WIDE]
                if pairs > MAX_PAIRS:
                    _finish_row(totals[tile], steps, right, -add, to)
                else:
                    _finish_row(sums[tile], steps, right, -add, to)


@kernel(types.void(types.int64, I64, I8, I32, types.int64, types.int64, I64))
def embed(rows, tokens, weights, scales, exponent, size, out):
    """Rows of a matrix, as `multiply` has it, to the residual stream: int64[rows, size]."""
    right = min(max(exponent - RESIDUAL, int64(-40)), int64(62))
    for row in range(rows):
        token = tokens[row]
        base = token // WIDE * WIDE * size + 2 * (token % WIDE)
        for i in range(size):
            value = int64(weights[base + (i >> 1) * 2 * WIDE + (i & 1)])
            out[row * size + i] = _finish(value, int64(scales[token]), right)
