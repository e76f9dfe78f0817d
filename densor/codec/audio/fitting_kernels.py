"""Loops that find the weights of the fast method: linear prediction from windowed correlations.

Windowed samples are words of 16 bits, of which correlations are exact; where they are solved, the
order of sums is prescribed: every processor finds the same weights. Bounds are proven by
`fitting.py`.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.audio.kernels import MOST
from densor.entropy import float_vectors as f
from densor.entropy import vectors as v
from densor.entropy.bits import bit_length
from densor.entropy.intrinsics import store_u16
from densor.entropy.jit import R32, W8, W32, inlined, kernel
from densor.entropy.word_pairs import multiply_pairs

int64 = numba.int64

_SHIFTS = 2, 14
_COST_OF_WEIGHT = 20.0  # bits; fewer than it takes let too many be used
_PATIENCE = 10  # weights in turn that may be of no use before one that is
_NOISE = 0.1  # variance that samples have at least
_MOST_WORD = (1 << 14) - 1  # size of windowed samples: so four sums of two products fit 32 bits
_ROUND = 1 << 15  # added and taken again, so that numbers are not negative where they are cut off
_GROUP = 128  # samples whose products are added up as integers
WIDE = 2 * MOST + 16  # of a row of the matrix, and of a series: with room for a vector behind

_F64_2D = types.float64[:, ::1]


class Work(NamedTuple):
    """Work space of `fit_blocks`; `longest`: samples of a block, in whole groups.

    `words`: uint8[], channels * 2 * (longest + 2 MOST) words, windowed samples, once more from the
    second on; `pairs`: the same, two words each. `lanes`: uint32[16]. `scales`: of each channel.
    `series`: of both sorts, what rows of the matrix begin as. `matrix`: float64[2 MOST * WIDE].
    """

    words: npt.NDArray[np.uint8]
    pairs: npt.NDArray[np.uint32]
    lanes: npt.NDArray[np.uint32]
    scales: npt.NDArray[np.float64]
    own: npt.NDArray[np.float64]  # float64[channels, MOST + 1]
    both: npt.NDArray[np.float64]  # float64[channels, 2 MOST + 1]
    shifted: npt.NDArray[np.float64]  # float64[2 MOST + 1]
    series: npt.NDArray[np.float64]  # float64[2 * WIDE]
    right: npt.NDArray[np.float64]  # float64[2 MOST], the right-hand side
    matrix: npt.NDArray[np.float64]
    found: npt.NDArray[np.float64]  # float64[2 MOST]


_F64, _F32 = types.float64[::1], types.float32[::1]
_WORK = types.NamedTuple((W8, W32, W32, _F64, _F64_2D, _F64_2D, *[_F64] * 5), Work)


@inlined
def _in_groups(n):
    return (n + _GROUP - 1) // _GROUP * _GROUP


@inlined
def _bits_of(samples, begin, n, lanes):
    """Bits that the sizes of `n` samples have at most."""
    found = v.splat(0)
    whole = n & -16
    for t in range(0, whole, 16):
        x = v.load_u32(samples, begin + t)
        found = v.either(found, v.exclusive(x, v.shift_right_signed(x, 31)))
    v.store_u32(lanes, 0, found)
    used = np.uint32(0)
    for lane in range(16):
        used |= lanes[lane]
    for t in range(begin + whole, begin + n):
        x = np.int32(samples[t])
        used |= np.uint32(x ^ (x >> np.int32(31)))
    return bit_length(int64(used))


@inlined
def _clear(words, begin, end):
    """Sets words to 0, sixteen at a time."""
    for at in range(begin, end, 16):
        v.store_u16(words, 2 * at, v.splat(0))


@inlined
def _window_block(samples, begin, n, c, window, w, stride):
    """Sets the words of a channel from `n` samples, with zeros beside them, and its scale."""
    scale = float(_MOST_WORD) / float(int64(1) << _bits_of(samples, begin, n, w.lanes))
    w.scales[c] = scale
    at = 2 * c * stride
    end = at + 2 * MOST + _in_groups(n)
    _clear(w.words, at, at + MOST)
    _clear(w.words, at + stride, at + stride + MOST)
    _clear(w.words, at + MOST + (n & -16), end)
    _clear(w.words, at + stride + MOST + (n & -16) - 16, end + stride)
    factor, half = f.splat(np.float32(scale)), f.splat(np.float32(_ROUND + 0.5))
    at += MOST
    for t in range(0, n & -16, 16):
        x = f.multiply(f.of_signed(v.load_u32(samples, begin + t)), f.load(window, t))
        x = f.add(f.multiply(x, factor), half)
        word = v.subtract(f.integers(x), v.splat(_ROUND))
        v.store_u16(w.words, 2 * (at + t), word)
        v.store_u16(w.words, 2 * (at + stride + t - 1), word)
    for t in range(n & -16, n):
        x = np.float32(np.int32(samples[begin + t])) * window[t] * np.float32(scale)
        word = int64(x + np.float32(_ROUND + 0.5)) - _ROUND
        store_u16(w.words, 2 * (at + t), word)
        store_u16(w.words, 2 * (at + stride + t - 1), word)


@inlined
def _four_lags(w, a, b, stride, n, factor, sums, at):
    """Sets `sums[at … at + 3]` to the sums of x[a + t] x[b - i + t] over `n` samples."""
    a0 = a >> 1
    b0 = (b + (b & 1) * (stride - 1)) >> 1
    b1 = (b - 1 + ((b - 1) & 1) * (stride - 1)) >> 1
    s0 = s1 = s2 = s3 = f.splat64(0.0)
    for t in range(0, n >> 1, _GROUP >> 1):
        x = v.load_u32(w.pairs, a0 + t)
        p0 = multiply_pairs(x, v.load_u32(w.pairs, b0 + t))
        p1 = multiply_pairs(x, v.load_u32(w.pairs, b1 + t))
        p2 = multiply_pairs(x, v.load_u32(w.pairs, b0 + t - 1))
        p3 = multiply_pairs(x, v.load_u32(w.pairs, b1 + t - 1))
        for i in range(16, _GROUP >> 1, 16):
            x = v.load_u32(w.pairs, a0 + t + i)
            p0 = v.add(p0, multiply_pairs(x, v.load_u32(w.pairs, b0 + t + i)))
            p1 = v.add(p1, multiply_pairs(x, v.load_u32(w.pairs, b1 + t + i)))
            p2 = v.add(p2, multiply_pairs(x, v.load_u32(w.pairs, b0 + t + i - 1)))
            p3 = v.add(p3, multiply_pairs(x, v.load_u32(w.pairs, b1 + t + i - 1)))
        s0 = f.add64(s0, f.of_signed64(p0))
        s1 = f.add64(s1, f.of_signed64(p1))
        s2 = f.add64(s2, f.of_signed64(p2))
        s3 = f.add64(s3, f.of_signed64(p3))
    sums[at] = f.sum64(s0) * factor
    sums[at + 1] = f.sum64(s1) * factor
    sums[at + 2] = f.sum64(s2) * factor
    sums[at + 3] = f.sum64(s3) * factor


@inlined
def _lags(w, stride, ca, cb, n, low, high, sums):
    """sums[d - low] = the sum of a[t] b[t - d], for d from `low` to `high`; |d| <= MOST."""
    a, b = 2 * ca * stride + MOST, 2 * cb * stride + MOST
    factor = 1.0 / (w.scales[ca] * w.scales[cb])
    last = high - 3
    d = low
    while d <= high:
        d = min(d, last)  # some twice, at the end
        _four_lags(w, a, b - d, stride, n, factor, sums, d - low)
        d += 4


@inlined
def _fill(own, other, both_, orders, paired, series, right):
    """Sets what rows of the matrix begin as, from the diagonal on, and the right-hand side.

    Own samples and the partner's take turns, where there is one; each sort has a series.
    """
    if not paired:
        for i in range(orders):
            series[i] = own[i]
            right[i] = own[i + 1]
        return orders
    for i in range(orders):
        series[2 * i] = own[i]
        series[2 * i + 1] = both_[MOST + i - 1]
        series[WIDE + 2 * i] = other[i]
        series[WIDE + 2 * i + 1] = both_[MOST - i - 2]
        right[2 * i] = own[i + 1]
        right[2 * i + 1] = both_[MOST + i]
    return 2 * orders


@inlined
def _reduced(matrix, k, j, x):
    """`x`, from column `k + j` of row `k` on, without the rows of the factor above."""
    m = int64(0)
    while m + 4 <= k:
        at = m * WIDE + k
        b, c, d = at + WIDE, at + 2 * WIDE, at + 3 * WIDE
        first = f.add64(
            f.multiply64(f.splat64(matrix[at]), f.load64(matrix, at + j)),
            f.multiply64(f.splat64(matrix[b]), f.load64(matrix, b + j)),
        )
        second = f.add64(
            f.multiply64(f.splat64(matrix[c]), f.load64(matrix, c + j)),
            f.multiply64(f.splat64(matrix[d]), f.load64(matrix, d + j)),
        )
        x = f.subtract64(x, f.add64(first, second))
        m += 4
    while m < k:
        at = m * WIDE + k
        x = f.subtract64(x, f.multiply64(f.splat64(matrix[at]), f.load64(matrix, at + j)))
        m += 1
    return x


@inlined
def _eliminate(w, columns, paired, total, count):
    """Factors the matrix; returns the least cost in bits, about, and how many weights it is of.

    The right-hand side is its last column. Ends where the last weights have not been worth it.
    """
    matrix, series = w.matrix, w.series
    least, energy = total * 1e-10, total
    growth = 2.0 ** (2.0 * _COST_OF_WEIGHT / count)  # of the variance, for each weight's bits
    cost = 1.0
    best, size = total / count + _NOISE, int64(0)
    for k in range(columns):
        here, begin = k * (WIDE + 1), (k & 1) * WIDE if paired else int64(0)
        series[begin + columns - k] = w.right[k]  # what was there is used no more
        for j in range(0, columns + 1 - k, 16):
            f.store64(matrix, here + j, _reduced(matrix, k, j, f.load64(series, begin + j)))
        pivot = matrix[here] + 0.5
        if pivot <= least and not (paired and k & 1):
            pivot = least
        scale = 1.0 / np.sqrt(max(pivot, 1e-3))
        for j in range(0, columns + 1 - k, 16):
            f.store64(matrix, here + j, f.multiply64(f.load64(matrix, here + j), f.splat64(scale)))
        matrix[here] = scale  # one over the factor's own, which is used no more
        last = matrix[here + columns - k]
        energy -= last * last
        cost *= growth
        variance = (max(energy, 0.0) / count + _NOISE) * cost
        if variance < best:
            best, size = variance, k + 1
        elif k + 1 >= size + _PATIENCE:
            break
    return 0.5 * count * np.log2(best), size


@inlined
def _store_weights(matrix, columns, paired, size, total, count, depth, found, row):
    """Sets a row of weights from `size` columns of the factored matrix."""
    left = total
    for k in range(size):
        found[k] = matrix[k * WIDE + columns]
        left -= found[k] * found[k]
    most, sum_ = 0.0, 0.0
    for back in range(size):
        k = size - 1 - back
        value = found[k] * matrix[k * (WIDE + 1)]
        found[k] = value
        for m in range(k):
            found[m] -= matrix[m * WIDE + k] * value
        most = max(most, abs(value))
        sum_ += abs(value)
    wanted = 0.5 * np.log2(size * total / max(left, _NOISE * count) + 1.0) + 2.5
    shift = min(max(int64(np.ceil(wanted)), int64(_SHIFTS[0])), int64(_SHIFTS[1]))
    limit = 65000.0 if depth <= 16 else 1e6
    while shift > 0 and (most * (1 << shift) > 32000.0 or (sum_ + size) * (1 << shift) > limit):
        shift -= 1
    row[0] = shift
    for k in range(size):
        value = np.floor(found[k] * (1 << shift) + 0.5)
        value = min(max(value, -32000.0), 32000.0)
        if paired:
            row[1 + (k >> 1) + (MOST if k & 1 else 0)] = np.int32(value)
        else:
            row[1 + k] = np.int32(value)


@inlined
def _solve(w, c, partner, orders, paired, n, depth, keep, row):
    """Returns bits that errors and weights of a block take, about, and how many weights those are.

    If `keep`, the weights are set.
    """
    total = w.own[c, 0]
    if total <= 0.0:
        return 0.0, int64(0)
    own, other = w.own[c], w.own[partner]
    columns = _fill(own, other, w.shifted, orders, paired, w.series, w.right)
    best, size = _eliminate(w, columns, paired, total, n)
    if keep and size:
        _store_weights(w.matrix, columns, paired, size, total, n, depth, w.found, row)
    return best, size


@inlined
def _correlate(w, channels, n, orders):
    """Sets the correlations of all channels of a block."""
    stride = w.pairs.size // channels
    for c in range(channels):
        _lags(w, stride, c, c, n, int64(0), orders, w.own[c])
        if channels == 1:
            continue
        partner = 1 if c == 0 else c - 1
        if channels == 2 and c == 1:
            for d in range(2 * orders + 1):
                w.both[1, d] = w.both[0, 2 * orders - d]
        else:
            _lags(w, stride, c, partner, n, -orders, orders, w.both[c])


@kernel(
    types.void(
        *(R32, int64, int64, int64, int64, int64, types.boolean, _F32, _F32, _WORK),
        *(types.int32[:, :, ::1], types.float64[::1]),
    )
)
def fit_blocks(
    planes, channels, block, orders, depth, first, keep, window, last_window, w, rows, costs
):
    """Finds the weights of all blocks; `planes`: uint32[channels * count], samples with a sign.

    `first`: the channel of two that is coded first. `costs`: float64[2], zeros, set to the bits
    that errors and weights take, about, and the number of all weights. If `keep`, these are set in
    `rows`: int32[blocks, channels, ROW], zeros. `window`: float32[block]; `last_window`, of the
    last block, which has what is left. `orders`: 3 to MOST, weights of a sort.
    """
    count, stride = planes.size // channels, w.pairs.size // channels
    for b in range(max(int64(1), count // block)):
        at = b * block
        last = at + 2 * block > count
        n = count - at if last else block
        for c in range(channels):
            chosen = last_window if last else window
            _window_block(planes, c * count + at, n, c, chosen, w, stride)
        _correlate(w, channels, _in_groups(n), orders)
        for c in range(channels):
            partner = (1 if c == 0 else c - 1) if channels > 1 else 0
            behind = int64(c == first) if channels == 2 else int64(c == 0)
            w.shifted[:] = 0
            if channels > 1:
                for d in range(-orders, orders + 1 - behind):
                    w.shifted[MOST + d] = w.both[c, d + behind + orders]
            row = rows[b if keep else 0, c]
            bits, used = _solve(w, c, partner, orders, channels > 1, n, depth, keep, row)
            costs[0] += bits
            costs[1] += used
