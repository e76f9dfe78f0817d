"""Codes a chunk: one kernel for both directions, so that their models cannot drift apart.

Every weight is a sequence of binary decisions: sign, exponent, top bits of the mantissa. A linear
prediction from the columns to the left gives the normal distribution that each is first estimated
by; counters under a few contexts correct it, mixed in the logistic domain (M. Mahoney, PAQ). All
arithmetic is in int64. See docs/format/float_cm.md, whose names are used here.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.float_cm.tables import INVERSE as _INVERSE
from densor.codec.float_cm.tables import LOG2 as _LOG2
from densor.codec.float_cm.tables import NORMAL as _NORMAL
from densor.codec.float_cm.tables import RATE as _RATE
from densor.codec.float_cm.tables import SQUASH as _SQUASH
from densor.codec.float_cm.tables import STRETCH as _STRETCH
from densor.entropy.arithmetic.kernels import (
    decode_bit,
    encode_bit,
    flush,
    start_decoder,
    start_encoder,
)
from densor.entropy.arithmetic.state import STATE
from densor.entropy.jit import I32, I64, R8, W8, W32, kernel

int64 = numba.int64

WIDTH = 512  # columns of a block at most
MIN_ROWS = 16  # rows from which columns have scales
MIN_ROWS_PREDICTED = 32  # rows from which there is prediction, of at least 16 columns
BATCH = 16  # rows that are taken into the moments at once

# Numbers of the decisions about a weight; the first of a kind.
_SIGN, _HALF, _UP, _DOWN, _MANTISSA = 0, 1, 2, 8, 24
NODES = 256
_MAX_UP, _MAX_DOWN = 5, 12
INPUTS = 6  # of the mixer: the distribution, four counters, a constant
_COUNTED = 4
FIRST_WEIGHTS = (45875, 7864, 7864, 7864, 7864, 0)  # 2^-16

# Where counters stand.
_ROW_SCALES, _COLUMN_SCALES, _ZERO, _FAR_UP, _FAR_DOWN, _REST = 0, 64, 128, 256, 512, 768
_BY_MEAN = 2048
_BY_COLUMN = _BY_MEAN + 256 * NODES
_BY_PLACE = _BY_COLUMN + WIDTH * NODES
_BY_VALUE = _BY_PLACE + 256 * NODES
COUNTERS = _BY_VALUE + 256 * 32
_MAX_COUNT, _MAX_COUNT_OF_SCALES = 255, 60  # what counters count to
FRESH = 1 << 31  # a counter: probability 1/2, nothing counted
RAW, TREE, CONSTANT = 0, 1, 2  # how a group of lower bits is stored

# Fields of a block, of a format, of what is kept of a column and of the weight at hand.
BLOCK = 9
_FIRST, _ROWS, _COLUMNS, _ROW_STEP, _COLUMN_STEP, _GOES_ON, _ROW_AT, _COLUMN_AT, _NEW_ROWS = range(
    BLOCK
)
_EXPONENT_BITS, _MANTISSA_BITS, _TOP_BITS, _HAS_ZEROS = range(4)
COLUMN_FIELDS = 5
_SCALE, _SPREAD, _SEEN, _SUM, _ABOVE = range(COLUMN_FIELDS)
_MEAN, _PRECISION, _OCTAVES, _LOW, _HIGH, _MIDDLE = range(STATE, STATE + 6)
_CONTEXTS = STATE + 6
_USED = _CONTEXTS + _COUNTED
_INPUTS = _USED + _COUNTED
NOW = _INPUTS + INPUTS
_ONE = 1 << 30  # of a distribution function
_USUAL = 3268  # mean absolute value of a normal variable, 2^-12


class State(NamedTuple):
    """What the model of a chunk keeps. Without prediction, width may be 0."""

    weights: npt.NDArray[np.int32]  # int32[256 * INPUTS], of the mixer
    counters: npt.NDArray[np.uint32]  # uint32[COUNTERS]
    now: npt.NDArray[np.int64]  # int64[NOW]: arithmetic coder, weight at hand, mixer
    columns: npt.NDArray[np.int64]  # int64[COLUMN_FIELDS, WIDTH]
    recent: npt.NDArray[np.int32]  # int32[BATCH, width + 1], rows not yet in the moments
    moments: npt.NDArray[np.int64]  # int64[width + 1, width + 1], upper triangle
    work: npt.NDArray[np.int64]  # int64[width + 1, width + 1], work space
    factors: npt.NDArray[np.int32]  # int32[width + 1, width + 1]: of column i in column j
    row: npt.NDArray[np.int32]  # int32[width + 1], work space
    fitted: npt.NDArray[np.int64]  # int64[4]: rows in the moments, rows at the last fit, two sums


_I64_2D = types.Array(types.int64, 2, "C")
_I32_2D = types.Array(types.int32, 2, "C")
_STATE = types.NamedTuple(
    (I32, W32, I64, _I64_2D, _I32_2D, _I64_2D, _I64_2D, _I32_2D, I32, I64),
    State,
)


@numba.njit(inline="always")
def _clip(value, least, most):
    return min(max(value, int64(least)), int64(most))


@numba.njit(inline="always")
def _code(coding, coder, data, bit, p):
    if coding:
        encode_bit(coder, data, bit, p)
        return int64(bit)
    return int64(decode_bit(coder, data, p))


# Counters: probability of a 1 in the upper 22 bits, below it how often the counter was updated.


@numba.njit(inline="always")
def _learn(counters, t, i, bit, most):
    value = int64(counters[i])
    seen = value & 1023
    p = value >> 10
    p += (((bit << 22) - p) * int64(t[_RATE + seen])) >> 16
    if seen < most:
        seen += 1
    counters[i] = np.uint32((p << 10) | seen)


@numba.njit
def _counted(coding, now, t, counters, data, bit, i, most):
    """Codes a decision with the probability of counter i alone."""
    p = _clip(int64(counters[i]) >> 16, 16, 65520)
    bit = _code(coding, now, data, bit, p)
    _learn(counters, t, i, bit, most)
    return bit


@numba.njit
def _tree(coding, now, t, counters, data, value, bits, at):
    """Codes a number of so many bits by a binary tree of counters."""
    node = int64(1)
    for k in range(bits - 1, -1, -1):
        node = 2 * node + _counted(
            coding, now, t, counters, data, (value >> k) & 1, at + node, _MAX_COUNT
        )
    return node - (1 << bits)


@numba.njit
def _signed(coding, now, t, counters, data, value, at):
    """Codes a small signed number: folded, in unary up to 24, what is more in 16 bits."""
    folded = 2 * value if value >= 0 else -2 * value - 1
    k = int64(0)
    while k < 24 and _counted(
        coding, now, t, counters, data, int64(folded > k), at + k, _MAX_COUNT_OF_SCALES
    ):
        k += 1
    if k == 24:
        more = int64(0)
        for j in range(15, -1, -1):
            more = 2 * more + _code(coding, now, data, ((folded - 24) >> j) & 1, 32768)
        k += more
    return -((k + 1) >> 1) if k & 1 else k >> 1


# The distribution: values are in units of 2^-12 of the scale of their row and column.


@numba.njit(inline="always")
def _scaled(significand, exponent, octaves, t):
    """significand / 2^8 * 2^exponent over the scale 2^(octaves / 8), at most 65535."""
    value = significand * int64(t[_INVERSE + (octaves & 7)])
    shift = exponent - (octaves >> 3) - 11
    if shift >= 0:
        value <<= min(shift, int64(16))
    else:
        value >>= min(-shift, int64(31))
    return min(value, int64(65535))


@numba.njit(inline="always")
def _below(point, now, t):
    """2^30 times the probability of a value below `point`."""
    u = _clip(((point - now[_MEAN]) * now[_PRECISION]) >> 15, -4096, 4095) + 4096
    i = u >> 4
    left = int64(t[_NORMAL + i])
    return left + (((int64(t[_NORMAL + i + 1]) - left) * (u & 15)) >> 4)


@numba.njit(inline="always")
def _upper_share(point, now, t):
    """The share of what lies above `point` in the interval at hand, 2^-16."""
    middle = _below(point, now, t)
    now[_MIDDLE] = middle
    p = ((now[_HIGH] - middle + 1) << 16) // (now[_HIGH] - now[_LOW] + 2)
    return _clip(p, 32, 65504)


@numba.njit(inline="always")
def _narrow(now, upper):
    if upper:
        now[_LOW] = now[_MIDDLE]
    else:
        now[_HIGH] = now[_MIDDLE]


@numba.njit
def _mixed(coding, now, t, counters, weights, data, bit, node, by_value, p):
    """Codes a decision: `p` by the distribution, and counters, mixed."""
    now[_INPUTS] = t[_STRETCH + (p >> 4)]
    for k in range(_COUNTED):
        i = now[_CONTEXTS + k] + (by_value if k == _COUNTED - 1 else node)
        now[_USED + k] = i
        now[_INPUTS + 1 + k] = t[_STRETCH + (int64(counters[i]) >> 20)]
    first = INPUTS * node
    total = int64(0)
    for k in range(INPUTS):
        total += now[_INPUTS + k] * int64(weights[first + k])
    p = int64(t[_SQUASH + _clip(total >> 16, -2047, 2047) + 2048])
    bit = _code(coding, now, data, bit, p)
    error = ((bit << 16) - p) * 10
    for k in range(INPUTS):
        weight = int64(weights[first + k]) + ((now[_INPUTS + k] * error + (1 << 21)) >> 22)
        weights[first + k] = np.int32(_clip(weight, -(1 << 24), 1 << 24))
    for k in range(_COUNTED):
        _learn(counters, t, now[_USED + k], bit, _MAX_COUNT)
    return bit


@numba.njit
def _exponent(coding, now, t, counters, weights, data, exponent, near, most):
    """Codes an exponent, in unary outwards from `near`; may return more than `most` or < 0."""
    octaves = now[_OCTAVES]
    p = _upper_share(_scaled(int64(256), near, octaves, t), now, t)
    up = _mixed(
        coding, now, t, counters, weights, data, int64(exponent >= near), _HALF, 32 * near, p
    )
    _narrow(now, up)
    k = int64(0)
    if up:
        e = near
        while e < most:
            if k == _MAX_UP:
                return e + _tree(coding, now, t, counters, data, exponent - e, 8, _FAR_UP)
            p = _upper_share(_scaled(int64(256), e + 1, octaves, t), now, t)
            more = _mixed(
                coding,
                now,
                t,
                counters,
                weights,
                data,
                int64(exponent > e),
                _UP + k,
                32 * (e + 1),
                p,
            )
            _narrow(now, more)
            if not more:
                return e
            e += 1
            k += 1
        return e
    e = near - 1
    while e > 0:
        if k == _MAX_DOWN:
            return e - _tree(coding, now, t, counters, data, e - exponent, 8, _FAR_DOWN)
        p = _upper_share(_scaled(int64(256), e, octaves, t), now, t)
        here = _mixed(
            coding, now, t, counters, weights, data, int64(exponent >= e), _DOWN + k, 32 * e, p
        )
        _narrow(now, here)
        if here:
            return e
        e -= 1
        k += 1
    return e


@numba.njit
def _top(coding, now, t, counters, weights, data, value, bits, exponent, near):
    """Codes the top bits of the mantissa."""
    first = _MANTISSA + 16 * _clip(exponent - near + 7, 0, 10)
    hidden = int64(256) if exponent > 0 else int64(0)
    node = int64(1)
    for k in range(bits):
        significand = hidden + ((((node << 1) | 1) << (7 - k)) & 255)
        point = _scaled(significand, max(exponent, int64(1)), now[_OCTAVES], t)
        p = _upper_share(point, now, t)
        bit = (value >> (bits - 1 - k)) & 1
        bit = _mixed(
            coding, now, t, counters, weights, data, bit, first + node, 32 * exponent + 16 + node, p
        )
        _narrow(now, bit)
        node = 2 * node + bit
    return node - (1 << bits)


@numba.njit
def _rest(coding, now, t, counters, data, raw, at, value, bits, groups):
    """Codes the lower bits of the mantissa in groups; returns them and the raw bits used."""
    result = int64(0)
    left = bits
    g = 0
    while left > 0:
        size = (left - 1) % 8 + 1
        left -= size
        part = (value >> left) & ((1 << size) - 1)
        if groups[2 * g] == TREE:
            part = _tree(coding, now, t, counters, data, part, size, _REST + 256 * g)
        elif groups[2 * g] == CONSTANT:
            part = int64(groups[2 * g + 1])
        else:
            part = _raw_bits(coding, raw, at, part, size)
            at += size
        result = (result << size) | part
        g += 1
    return result, at


@numba.njit(inline="always")
def _raw_bits(coding, raw, at, value, size):
    """Up to 8 bits at bit `at`; zeros beyond the end."""
    i = at >> 3
    shift = at & 7
    if coding:
        raw[i] |= (value << shift) & 255
        if shift + size > 8:
            raw[i + 1] |= value >> (8 - shift)
        return value
    word = int64(raw[i]) if i < raw.size else int64(0)
    if i + 1 < raw.size:
        word |= int64(raw[i + 1]) << 8
    return (word >> shift) & ((1 << size) - 1)


# Prediction: the columns of a matrix are taken for variables, its rows for samples. The triangular
# factor of their matrix of moments predicts each column from the innovations of those to its left.


@numba.njit
def _add_scaled(target, row, factor):
    f = int64(factor)
    for j in range(target.size):
        target[j] += f * int64(row[j])


@numba.njit
def _subtract_scaled(target, row, factor):
    f = int64(factor)
    for j in range(target.size):
        target[j] -= (f * int64(row[j])) >> 20


@numba.njit
def _add_four(target, rows, at, i):
    r0, r1, r2, r3 = rows[at, i:], rows[at + 1, i:], rows[at + 2, i:], rows[at + 3, i:]
    f0, f1, f2, f3 = int64(r0[0]), int64(r1[0]), int64(r2[0]), int64(r3[0])
    for j in range(target.size):
        target[j] += f0 * int64(r0[j]) + f1 * int64(r1[j]) + f2 * int64(r2[j]) + f3 * int64(r3[j])


@numba.njit
def _take_in(s, size):
    """Adds the recent rows to the moments."""
    for i in range(size):
        for k in range(0, BATCH, 4):
            _add_four(s.moments[i, i:size], s.recent, k, i)


@numba.njit
def _fit(s, size, ridge):
    """Factors of the moments, of which `ridge` rows of independent columns are thought a part."""
    work, row, factors = s.work, s.row, s.factors
    count = s.fitted[0] + ridge
    for i in range(size):
        for j in range(i, size):
            work[i, j] = (s.moments[i, j] << 4) // count
        work[i, i] += (ridge << 24) // count
    for k in range(size):
        pivot = max(work[k, k], int64(1 << 14))
        for i in range(k + 1, size):
            row[i] = np.int32(_clip(work[k, i], -(1 << 30), 1 << 30))
        for i in range(k + 1, size):
            factor = np.int32(_clip((int64(row[i]) << 20) // pivot, -(1 << 24), 1 << 24))
            factors[k, i] = factor
            _subtract_scaled(work[i, i:size], row[i:size], factor)


@numba.njit
def _start_prediction(s, size, goes_on):
    fitted = s.fitted
    for i in range(size):
        for j in range(i, size):
            s.moments[i, j] = s.moments[i, j] >> 2 if goes_on else 0
            if not goes_on:
                s.factors[i, j] = 0
    fitted[0] = fitted[0] >> 2 if goes_on else 0
    fitted[1] = fitted[0]
    fitted[2] = 0
    fitted[3] = 1 << 12


@numba.njit
def _start_row(s, width, recent):
    """Sets the sums of all columns; returns the share of a guess to believe in, 2^-8."""
    for j in range(width):
        s.columns[_SUM, j] = int64(s.factors[0, j + 1]) << 10
    recent[0] = 1024
    return _clip((s.fitted[2] << 8) // s.fitted[3], 0, 256)


@numba.njit
def _learn_value(columns, recent, factors, column, width, value, guess):
    """Adds what the innovation of a column contributes to the prediction of those to its right."""
    recent[column + 1] = np.int32(value)
    _add_scaled(
        columns[_SUM, column + 1 : width],
        factors[column + 1, column + 2 : width + 1],
        np.int32(value - guess),
    )


@numba.njit
def _end_sums(fitted, explained, predicted):
    """The two sums whose quotient is the share: covariance and variance of the guesses."""
    fitted[2] += explained
    fitted[3] += predicted
    fitted[2] -= fitted[2] >> 6
    fitted[3] -= fitted[3] >> 6


@numba.njit
def _end_row(s, width, filled):
    """After the row at `recent[filled]`: may fit anew. Returns how many rows are now waiting."""
    if filled + 1 < BATCH:
        return filled + 1
    _take_in(s, width + 1)
    fitted = s.fitted
    fitted[0] += BATCH
    if fitted[0] - fitted[1] >= max(int64(BATCH), fitted[1] >> 3):
        _fit(s, width + 1, int64(width))
        fitted[1] = fitted[0]
    return 0


@numba.njit(inline="always")
def _sixteenths(value, t):
    """16 times the binary logarithm of a positive number, from its 9 highest bits, rounded down."""
    places = 8
    while value >= 512:
        value >>= 1
        places += 1
    while value < 256:
        value <<= 1
        places -= 1
    return 16 * places + int64(t[_LOG2 + value - 256])


@numba.njit
def _expect(now, t, above, column, octaves, mean, left, spread):
    """Sets the distribution and the contexts of a weight; returns the likely exponent."""
    precision = (1 << 24) // spread
    size = 2 * octaves + _sixteenths(spread, t) - 192
    near = size >> 4
    part = size & 15
    now[_MEAN] = mean
    now[_PRECISION] = precision
    now[_OCTAVES] = octaves
    now[_LOW] = 0
    now[_HIGH] = _ONE
    now[_CONTEXTS] = _BY_MEAN + (16 * part + _mean_context(mean, precision)) * NODES
    now[_CONTEXTS + 1] = _BY_COLUMN + column * NODES
    place = 32 * min(above, int64(7)) + 4 * min(left, int64(7)) + (part >> 2)
    now[_CONTEXTS + 2] = _BY_PLACE + place * NODES
    now[_CONTEXTS + 3] = _BY_VALUE
    return near


@numba.njit(inline="always")
def _mean_context(mean, precision):
    return _clip((mean * precision) >> 22, -6, 6) + 6


@numba.njit
def _sign(coding, now, t, counters, weights, data, negative):
    """Codes the sign, then turns the distribution to the positive side."""
    p = _clip(_below(int64(0), now, t) >> 14, 32, 65504)
    negative = _mixed(coding, now, t, counters, weights, data, negative, _SIGN, int64(0), p)
    before = _mean_context(now[_MEAN], now[_PRECISION])
    if negative:
        now[_MEAN] = -now[_MEAN]
    after = _mean_context(now[_MEAN], now[_PRECISION])
    now[_CONTEXTS] += (after - before) * NODES
    now[_LOW] = _below(int64(0), now, t)
    return negative


@numba.njit
def _weight(coding, now, t, counters, weights, data, raw, at, bits, form, groups, near):
    """Codes one weight: its bits, its value, the raw bits used. Bits < 0: there is none such."""
    exponent_bits, mantissa_bits = form[_EXPONENT_BITS], form[_MANTISSA_BITS]
    top_bits = form[_TOP_BITS]
    most = (int64(1) << exponent_bits) - 1
    rest_bits = mantissa_bits - top_bits
    near = _clip(near, 1, most)
    magnitude = bits & ((int64(1) << (exponent_bits + mantissa_bits)) - 1)
    negative = _sign(
        coding, now, t, counters, weights, data, bits >> (exponent_bits + mantissa_bits)
    )
    exponent = _exponent(
        coding, now, t, counters, weights, data, magnitude >> mantissa_bits, near, most
    )
    if exponent < 0 or exponent > most:
        return int64(-1), int64(0), at
    top = (magnitude >> rest_bits) & ((int64(1) << top_bits) - 1)
    top = _top(coding, now, t, counters, weights, data, top, top_bits, exponent, near)
    rest = magnitude & ((int64(1) << rest_bits) - 1)
    rest, at = _rest(coding, now, t, counters, data, raw, at, rest, rest_bits, groups)
    mantissa = (top << rest_bits) | rest
    significand = (mantissa << 8) >> mantissa_bits
    if exponent > 0:
        significand += 256
    value = _scaled(significand, max(exponent, int64(1)), now[_OCTAVES], t)
    bits = (negative << (exponent_bits + mantissa_bits)) | (exponent << mantissa_bits) | mantissa
    return bits, -value if negative else value, at


@numba.njit(inline="always")
def _learn_spread(columns, t, column, off):
    seen = columns[_SEEN, column]
    spread = columns[_SPREAD, column]
    columns[_SPREAD, column] = spread + ((((off << 8) - spread) * int64(t[_RATE + seen])) >> 16)
    columns[_SEEN, column] = min(seen + 1, int64(250))


@numba.njit
def _column_scales(coding, s, t, data, block, scales):
    now, counters, columns = s.now, s.counters, s.columns
    last = int64(0)
    for c in range(block[_COLUMNS]):
        if block[_ROWS] >= MIN_ROWS:
            i = block[_COLUMN_AT] + c
            last += _signed(coding, now, t, counters, data, int64(scales[i]) - last, _COLUMN_SCALES)
            last = _clip(last, -(1 << 20), 1 << 20)
            scales[i] = last
        columns[_SCALE, c] = 2 * last
        columns[_SPREAD, c] = _USUAL << 8
        columns[_SEEN, c] = 3
        columns[_ABOVE, c] = 4


@numba.njit
def _row_scale(coding, s, t, data, block, r, scales):
    now, counters = s.now, s.counters
    i = block[_ROW_AT] + r
    if block[_NEW_ROWS]:
        last = int64(scales[i - 1]) if r else int64(0)
        last += _signed(coding, now, t, counters, data, int64(scales[i]) - last, _ROW_SCALES)
        scales[i] = _clip(last, -(1 << 20), 1 << 20)
    return 2 * int64(scales[i])


@numba.njit
def _row(coding, s, t, data, raw, at, values, form, groups, block, r, octaves, filled):
    """Codes row `r` of a block; returns the raw bits used, or -1 for what cannot be.

    `filled`: the row of `recent` that this one goes to, -1 without prediction.
    """
    now, counters, weights, columns = s.now, s.counters, s.weights, s.columns
    width = block[_COLUMNS]
    predicts = filled >= 0
    recent, factors = s.recent[max(filled, int64(0))], s.factors
    share = _start_row(s, width, recent) if predicts else int64(0)
    explained = predicted = int64(0)
    typical = usual = int64(32 * _USUAL)
    left = int64(4)
    for c in range(width):
        place = block[_FIRST] + r * block[_ROW_STEP] + c * block[_COLUMN_STEP]
        guess = mean = int64(0)
        if predicts:
            guess = _clip(columns[_SUM, c] >> 18, -32768, 32767)
            mean = (guess * share) >> 8
        spread = (columns[_SPREAD, c] >> 8) * ((typical << 8) // usual) >> 8
        spread = _clip((spread * 321) >> 8, 64, 32768)
        near = _expect(
            now, t, columns[_ABOVE, c], c, octaves + columns[_SCALE, c], mean, left, spread
        )
        bits = int64(values[place])
        value = int64(0)
        zero = int64(0)
        if form[_HAS_ZEROS]:
            i = _ZERO + 2 * min(columns[_ABOVE, c], int64(8)) + int64(left == 0)
            zero = _counted(coding, now, t, counters, data, int64(bits == 0), i, _MAX_COUNT)
        if zero:
            bits = int64(0)
        else:
            bits, value, at = _weight(
                coding, now, t, counters, weights, data, raw, at, bits, form, groups, near
            )
            if bits < 0:
                return int64(-1)
        values[place] = np.uint32(bits)
        off = abs(value - mean)
        left = min((off * now[_PRECISION]) >> 22, int64(15))
        columns[_ABOVE, c] = 8 if zero else left
        off = min(off, int64(32768))
        _learn_spread(columns, t, c, off)
        typical += off
        usual += columns[_SPREAD, c] >> 8
        if predicts:
            guess >>= 2
            value = _clip(value >> 2, -8192, 8191)
            _learn_value(columns, recent, factors, c, width, value, guess)
            explained += value * guess
            predicted += guess * guess
    if predicts:
        _end_sums(s.fitted, explained // width, predicted // width)
    return at


@kernel(
    types.int64(
        types.boolean, _STATE, I32, W8, types.int64, W8, W32,
        I64, R8, _I64_2D, I32, I32,
    )
)  # fmt: skip
def code_chunk(
    coding, s, t, data, begin, raw, values, form, groups, blocks, row_scales, column_scales
):
    """Codes or decodes the weights of a chunk; returns the number of raw bits, -1 for bad data.

    `data`: the arithmetic stream begins at `begin`; its end is in the coder's state. `raw`: the raw
    bits, zeros when coding. `values`: uint32[elements]. `form`: bits of exponent, mantissa
    and its top, and whether zeros have a flag. `groups`: kind and value of each group of lower
    bits. `blocks`: int64[blocks, BLOCK]. Scales: int32, in quarters of octaves; given when coding,
    else work space.
    """
    if coding:
        start_encoder(s.now, begin, data.size)
    else:
        start_decoder(s.now, data, begin, data.size)
    at = int64(0)
    for b in range(blocks.shape[0]):
        block = blocks[b]
        width = block[_COLUMNS]
        filled = int64(-1)
        if block[_ROWS] >= MIN_ROWS_PREDICTED and width >= MIN_ROWS:
            _start_prediction(s, width + 1, block[_GOES_ON] != 0)
            filled = int64(0)
        _column_scales(coding, s, t, data, block, column_scales)
        for r in range(block[_ROWS]):
            octaves = _row_scale(coding, s, t, data, block, r, row_scales)
            at = _row(coding, s, t, data, raw, at, values, form, groups, block, r, octaves, filled)
            if at < 0 or s.now[2] > data.size + 4:
                return int64(-1)
            if filled >= 0:
                filled = _end_row(s, width, filled)
    if coding:
        flush(s.now, data)
    return at
