"""Loops that find the weights of the fast method: linear prediction from windowed correlations.

Correlations are sums in vectors of 16, whose order is prescribed, so that every processor finds the
same weights. Bounds are proven by `fitting.py`.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.audio.kernels import MOST
from densor.entropy import float_vectors as f
from densor.entropy.jit import inlined, kernel

int64 = numba.int64

_SHIFTS = 2, 14
_COST_OF_WEIGHT = 20.0  # bits; fewer than it takes let too many be used
_PATIENCE = 10  # weights in turn that may be of no use before one that is
_NOISE = 0.1  # variance that samples have at least

_PLANES = types.int32[:, ::1]
_F64_2D = types.float64[:, ::1]


class Work(NamedTuple):
    """Work space of `fit_blocks`; `longest`: samples of a block."""

    samples: npt.NDArray[np.float64]  # float64[channels * (longest + 15 + 2 MOST)], windowed
    lanes: npt.NDArray[np.float64]  # float64[16]
    own: npt.NDArray[np.float64]  # float64[channels, MOST + 1]
    both: npt.NDArray[np.float64]  # float64[channels, 2 MOST + 1]
    shifted: npt.NDArray[np.float64]  # float64[2 MOST + 1]
    matrix: npt.NDArray[np.float64]  # float64[2 MOST, 2 MOST + 1], the right-hand side last
    found: npt.NDArray[np.float64]  # float64[2 MOST]


_F64 = types.float64[::1]
_WORK = types.NamedTuple((_F64, _F64, _F64_2D, _F64_2D, _F64, _F64_2D, _F64), Work)


@inlined
def _window_block(planes, c, begin, n, window, stride, samples):
    """Sets a channel from `n` samples, with zeros beside them."""
    at = c * stride
    samples[at : at + MOST] = 0
    samples[at + MOST + n : at + 2 * MOST + (n + 15) // 16 * 16] = 0
    out = samples[at + MOST : at + MOST + n]
    row = planes[c, begin : begin + n]
    for t in range(n):
        out[t] = np.float64(row[t]) * window[t]


@inlined
def _sum(x, lanes):
    """The sum of all lanes; `lanes`: float64[16], work space."""
    f.store64(lanes, 0, x)
    total = 0.0
    for lane in range(16):
        total += lanes[lane]
    return total


@inlined
def _four_lags(samples, a, b, n, lanes, sums, at):
    """Sets `sums[at … at + 3]` to the sums of x[a + t] x[b - i + t] over `n` samples."""
    s0 = f.multiply64(f.load64(samples, a), f.load64(samples, b))
    s1 = f.multiply64(f.load64(samples, a), f.load64(samples, b - 1))
    s2 = f.multiply64(f.load64(samples, a), f.load64(samples, b - 2))
    s3 = f.multiply64(f.load64(samples, a), f.load64(samples, b - 3))
    for t in range(16, n, 16):
        x = f.load64(samples, a + t)
        s0 = f.add64(s0, f.multiply64(x, f.load64(samples, b + t)))
        s1 = f.add64(s1, f.multiply64(x, f.load64(samples, b + t - 1)))
        s2 = f.add64(s2, f.multiply64(x, f.load64(samples, b + t - 2)))
        s3 = f.add64(s3, f.multiply64(x, f.load64(samples, b + t - 3)))
    sums[at] = _sum(s0, lanes)
    sums[at + 1] = _sum(s1, lanes)
    sums[at + 2] = _sum(s2, lanes)
    sums[at + 3] = _sum(s3, lanes)


@inlined
def _lags(w, stride, ca, cb, n, low, high, sums):
    """sums[d - low] = the sum of a[t] b[t - d], for d from `low` to `high`; |d| <= MOST."""
    a, b = ca * stride + MOST, cb * stride + MOST
    last = high - 3
    d = low
    while d <= high:
        d = min(d, last)  # some twice, at the end
        _four_lags(w.samples, a, b - d, n, w.lanes, sums, d - low)
        d += 4


@inlined
def _fill(own, other, both_, orders, paired, matrix):
    """Sets the upper triangle and the right-hand side; own samples and the partner's take turns."""
    columns = 2 * orders if paired else orders
    step = 2 if paired else 1
    for a in range(orders):
        for b in range(a, orders):
            matrix[step * a, step * b] = own[b - a]
        matrix[step * a, columns] = own[a + 1]
    if not paired:
        return columns
    for a in range(orders):
        for b in range(a, orders):
            matrix[2 * a + 1, 2 * b + 1] = other[b - a]
            matrix[2 * a, 2 * b + 1] = both_[MOST + b - a - 1]
            if b > a:
                matrix[2 * a + 1, 2 * b] = both_[MOST + a - b - 1]
        matrix[2 * a + 1, columns] = both_[MOST + a]
    return columns


@inlined
def _reduce_row(matrix, k, end):
    """Takes the rows of the factor above from row `k` of the matrix, four at a time."""
    row = matrix[k, k:end]
    m = int64(0)
    while m + 4 <= k:
        a, b, c, d = matrix[m, k], matrix[m + 1, k], matrix[m + 2, k], matrix[m + 3, k]
        ra, rb = matrix[m, k:end], matrix[m + 1, k:end]
        rc, rd = matrix[m + 2, k:end], matrix[m + 3, k:end]
        for j in range(row.size):
            row[j] -= (a * ra[j] + b * rb[j]) + (c * rc[j] + d * rd[j])
        m += 4
    while m < k:
        a = matrix[m, k]
        ra = matrix[m, k:end]
        for j in range(row.size):
            row[j] -= a * ra[j]
        m += 1


@inlined
def _eliminate(matrix, columns, paired, total, count):
    """Factors the matrix in place; returns the least cost in bits, about, and its weights.

    Ends where the last weights have not been worth it.
    """
    least = total * 1e-10
    energy = total
    best, size = 0.5 * count * np.log2(total / count + _NOISE), int64(0)
    for k in range(columns):
        _reduce_row(matrix, k, columns + 1)
        pivot = matrix[k, k] + 0.5
        if pivot <= least and not (paired and k & 1):
            pivot = least
        scale = 1.0 / np.sqrt(max(pivot, 1e-3))
        row = matrix[k, k : columns + 1]
        for j in range(row.size):
            row[j] *= scale
        row[0] = scale  # one over the factor's own, which is used no more
        energy -= matrix[k, columns] * matrix[k, columns]
        bits = 0.5 * count * np.log2(max(energy, 0.0) / count + _NOISE)
        bits += _COST_OF_WEIGHT * (k + 1)
        if bits < best:
            best, size = bits, k + 1
        elif k + 1 >= size + _PATIENCE:
            break
    return best, size


@inlined
def _store_weights(matrix, columns, paired, size, total, count, depth, found, row):
    """Sets a row of weights from `size` columns of the factored matrix."""
    left = total
    for k in range(size):
        found[k] = matrix[k, columns]
        left -= found[k] * found[k]
    most, sum_ = 0.0, 0.0
    for back in range(size):
        k = size - 1 - back
        value = found[k] * matrix[k, k]
        found[k] = value
        for m in range(k):
            found[m] -= matrix[m, k] * value
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
    columns = _fill(w.own[c], w.own[partner], w.shifted, orders, paired, w.matrix)
    best, size = _eliminate(w.matrix, columns, paired, total, n)
    if keep and size:
        _store_weights(w.matrix, columns, paired, size, total, n, depth, w.found, row)
    return best, size


@inlined
def _correlate(w, stride, channels, n, orders):
    """Sets the correlations of all channels of a block."""
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
        *(_PLANES, int64, int64, int64, int64, types.boolean, _F64, _F64, _WORK),
        *(types.int32[:, :, ::1], types.float64[::1]),
    )
)
def fit_blocks(planes, block, orders, depth, first, keep, window, last_window, w, rows, costs):
    """Finds the weights of all blocks.

    `first`: the channel of two that is coded first. `costs`: float64[2], zeros, set to the bits
    that errors and weights take, about, and the number of all weights. If `keep`, these are set in
    `rows`: int32[blocks, channels, ROW], zeros. `window`: float64[block]; `last_window`, of the
    last block, which has what is left. `orders`: 3 to MOST, weights of a sort.
    """
    channels, count = planes.shape
    stride = w.samples.size // channels
    for b in range(max(int64(1), count // block)):
        at = b * block
        last = at + 2 * block > count
        n = count - at if last else block
        for c in range(channels):
            chosen = last_window if last else window
            _window_block(planes, c, at, n, chosen, stride, w.samples)
        _correlate(w, stride, channels, n, orders)
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
