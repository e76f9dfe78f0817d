"""Loops over samples that both methods share, and those that find the weights of the fast one."""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.entropy.bits import bit_length, put_bits, put_folded, take_bits, take_folded
from densor.entropy.jit import I32, I64, R8, W8, inlined, kernel

int64 = numba.int64

_PLANES = types.int32[:, ::1]
MOST = 32  # weights of one sort
ROW = 1 + 2 * MOST  # shift, weights of own samples, of the partner's
_SHIFTS = 2, 14
_MOST_FOLDED = 1 << 21
_ORDER = 9  # of the code of a set's first weight
_COST_OF_WEIGHT = 8.0  # bits
WINDOW_BITS = 14
_NEAR = 36  # distributions that are tried below and above the usual one
_SAID = 3.0  # bits that it saves to say nothing
SHAPES = 3  # of distributions: normal, logistic, Laplace


@kernel(types.void(R8, int64, types.boolean, types.boolean, _PLANES))
def split_samples(data, size, big, unsigned, planes):
    """Sets int32[channels, count] from samples of `size` bytes that lie side by side."""
    channels, count = planes.shape
    offset = int64(1) << (8 * size - 1) if unsigned else int64(0)
    spare = 64 - 8 * size
    for i in range(count):
        for c in range(channels):
            at = (i * channels + c) * size
            value = int64(0)
            for b in range(size):
                byte = int64(data[at + (b if big else size - 1 - b)])
                value = value << 8 | byte
            value = ((value - offset) << spare) >> spare
            planes[c, i] = np.int32(value)


@kernel(types.void(_PLANES, int64, types.boolean, types.boolean, W8))
def join_samples(planes, size, big, unsigned, data):
    """The inverse of `split_samples`; bits above a sample's are lost."""
    channels, count = planes.shape
    offset = int64(1) << (8 * size - 1) if unsigned else int64(0)
    for i in range(count):
        for c in range(channels):
            at = (i * channels + c) * size
            value = int64(planes[c, i]) + offset
            for b in range(size):
                data[at + (size - 1 - b if big else b)] = np.uint8(value & 255)
                value >>= 8


@inlined
def _lags(blocks, ca, cb, n, low, high, sums):
    """sums[d - low] = the sum of a[t] b[t - d], for d from `low` to `high`; |d| <= MOST.

    `blocks`: int32[channels, >= n + 2 MOST], windowed, with zeros before and after them.
    """
    a, b = blocks[ca], blocks[cb]
    d = low
    while d + 3 <= high:
        s0, s1, s2, s3 = int64(0), int64(0), int64(0), int64(0)
        for t in range(n):
            x = int64(a[numba.uintp(32 + t)])
            at = 32 + t - d
            s0 += x * int64(b[numba.uintp(at)])
            s1 += x * int64(b[numba.uintp(at - 1)])
            s2 += x * int64(b[numba.uintp(at - 2)])
            s3 += x * int64(b[numba.uintp(at - 3)])
        sums[d - low] = s0
        sums[d + 1 - low] = s1
        sums[d + 2 - low] = s2
        sums[d + 3 - low] = s3
        d += 4
    while d <= high:
        s0 = int64(0)
        for t in range(n):
            s0 += int64(a[numba.uintp(32 + t)]) * int64(b[numba.uintp(32 + t - d)])
        sums[d - low] = s0
        d += 1


@inlined
def _entry(own, other, both_, i, j):
    """The correlation of variables i and j: own samples and the partner's take turns."""
    a, b = i >> 1, j >> 1
    if i & 1 == 0 and j & 1 == 0:
        return np.float64(own[abs(a - b)])
    if i & 1 and j & 1:
        return np.float64(other[abs(a - b)])
    if i & 1:
        a, b = b, a
    # own sample a + 1 steps ago, the partner's b (and those it is behind) ago
    return np.float64(both_[MOST + b - (a + 1)])


@inlined
def _solve(own, other, both_, orders, paired, count, matrix, work, row, depth):
    """Sets a row of weights from correlations; returns bits that errors and weights take, about.

    `own`, `other`: int64[MOST + 1], lags from 0. `both_`: int64[2 MOST + 1], the sum of own samples
    times the partner's d steps before, from d = -MOST on, with what the partner is behind taken
    off. `orders`: weights of each sort, at most. `matrix`: float64[2 MOST, 2 MOST]; `work`:
    float64[8 MOST].
    """
    for i in range(ROW):
        row[i] = 0
    total = np.float64(own[0])
    if total <= 0.0:
        return 0.0
    best, best_size = 0.5 * count * np.log2(total / count + 0.1), 0
    energy = total
    y = work
    columns = 2 * orders if paired else orders
    # variables in use, by number
    for size in range(columns):
        i = size if paired else 2 * size
        for c in range(size + 1):
            j = c if paired else 2 * c
            s = _entry(own, other, both_, i, j)
            if c == size:
                s = s * (1.0 + 1e-9) + 0.5
            for m in range(c):
                s -= matrix[size, m] * matrix[c, m]
            if c == size:
                if s <= total * 1e-10 and not (i & 1):
                    s = total * 1e-10
                s = max(s, 1e-3)
                matrix[size, size] = np.sqrt(s)
            else:
                matrix[size, c] = s / matrix[c, c]
        r = np.float64(own[(i >> 1) + 1]) if i & 1 == 0 else np.float64(both_[MOST + (i >> 1)])
        for m in range(size):
            r -= matrix[size, m] * y[m]
        y[size] = r / matrix[size, size]
        energy -= y[size] * y[size]
        bits = 0.5 * count * np.log2(max(energy, 0.0) / count + 0.1) + _COST_OF_WEIGHT * (size + 1)
        if bits < best:
            best, best_size = bits, size + 1
    if best_size == 0:
        return best
    left = total
    for m in range(best_size):
        left -= y[m] * y[m]
    found = work[4 * MOST :]
    most, sum_ = 0.0, 0.0
    for back in range(best_size):
        k = best_size - 1 - back
        s = y[k]
        for m in range(k + 1, best_size):
            s -= matrix[m, k] * found[m]
        found[k] = s / matrix[k, k]
        most = max(most, abs(found[k]))
        sum_ += abs(found[k])
    wanted = 0.5 * np.log2(best_size * total / max(left, 0.1 * count) + 1.0) + 2.5
    shift = min(max(int64(np.ceil(wanted)), int64(_SHIFTS[0])), int64(_SHIFTS[1]))
    limit = 65000.0 if depth <= 16 else 1e6
    while shift > 0 and (
        most * (1 << shift) > 32000.0 or (sum_ + best_size) * (1 << shift) > limit
    ):
        shift -= 1
    row[0] = shift
    for k in range(best_size):
        i = k if paired else 2 * k
        value = np.floor(found[k] * (1 << shift) + 0.5)
        value = min(max(value, -32000.0), 32000.0)
        row[1 + (i >> 1) + (MOST if i & 1 else 0)] = np.int32(value)
    return best


@inlined
def _window_block(planes, c, begin, n, window, down, blocks):
    """Sets a channel of `blocks` from `n` samples, with zeros beside them."""
    for i in range(MOST):
        blocks[c, i] = 0
        blocks[c, MOST + n + i] = 0
    for t in range(n):
        value = int64(planes[c, begin + t]) >> down
        blocks[c, MOST + t] = np.int32((value * int64(window[t])) >> WINDOW_BITS)


class Work(NamedTuple):
    """Work space of `fit_blocks`."""

    blocks: npt.NDArray[np.int32]  # int32[channels, longest + 2 MOST]
    own: npt.NDArray[np.int64]  # int64[channels, MOST + 1]
    both: npt.NDArray[np.int64]  # int64[channels, 2 MOST + 1]
    shifted: npt.NDArray[np.int64]  # int64[2 MOST + 1]
    matrix: npt.NDArray[np.float64]  # float64[2 MOST, 2 MOST]
    vectors: npt.NDArray[np.float64]  # float64[8 MOST]


_I64_2D = types.int64[:, ::1]
_WORK = types.NamedTuple(
    (_PLANES, _I64_2D, _I64_2D, I64, types.float64[:, ::1], types.float64[::1]), Work
)


@kernel(
    types.void(
        *(_PLANES, int64, int64, int64, I32, I32, _WORK),
        *(types.int32[:, :, :, ::1], types.float64[::1]),
    )
)
def fit_blocks(planes, block, orders, depth, window, last_window, w, rows, costs):
    """Finds the weights of all blocks by linear prediction from windowed correlations.

    `rows`: int32[2, blocks, channels, ROW], with channel 0 or 1 first; `costs`: float64[2], zeros,
    bits, about. `window`: int32[block]; `last_window`, of the last block, which has what is left.
    """
    channels, count = planes.shape
    down = max(0, depth - 18)
    for b in range(rows.shape[1]):
        begin = b * block
        last = b + 1 == rows.shape[1]
        n = count - begin if last else block
        for c in range(channels):
            _window_block(planes, c, begin, n, last_window if last else window, down, w.blocks)
        for c in range(channels):
            _lags(w.blocks, c, c, n, int64(0), orders, w.own[c])
            if channels == 1:
                continue
            partner = 1 if c == 0 else c - 1
            if channels == 2 and c == 1:
                for d in range(2 * orders + 1):
                    w.both[1, d] = w.both[0, 2 * orders - d]
            else:
                _lags(w.blocks, c, partner, n, -orders, orders, w.both[c])
        for first in range(2 if channels == 2 else 1):
            for c in range(channels):
                partner = 1 if c == 0 else c - 1
                behind = int64(c == first) if channels == 2 else int64(c == 0)
                if channels == 1:
                    partner = 0
                w.shifted[:] = 0
                if channels > 1:
                    for d in range(-orders, orders + 1 - behind):
                        w.shifted[MOST + d] = w.both[c, d + behind + orders]
                costs[first] += _solve(
                    *(w.own[c], w.own[partner], w.shifted, orders, channels > 1, n),
                    *(w.matrix, w.vectors, rows[first, b, c], depth),
                )


@kernel(types.int64(types.int32[:, :, ::1], W8))
def pack_weights(rows, out):
    """Writes int32[blocks, channels, ROW] to `out`, zeros; returns the bits. See audio.md.

    Room: 400 bytes for each row.
    """
    at = int64(0)
    for b in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            at = put_bits(out, at, int64(rows[b, c, 0]), 4)
            for sort in range(2):
                first = 1 + sort * MOST
                size = MOST
                while size > 0 and rows[b, c, first + size - 1] == 0:
                    size -= 1
                at = put_bits(out, at, size, 6)
                order = int64(_ORDER)
                for i in range(size):
                    value = int64(rows[b, c, first + i])
                    folded = 2 * value if value >= 0 else -2 * value - 1
                    at = put_folded(out, at, folded, order)
                    order = (order + bit_length(folded >> 1) + 1) >> 1
    return at


@kernel(types.int64(R8, types.int32[:, :, ::1]))
def unpack_weights(data, rows):
    """Reads what `pack_weights` wrote into `rows`, zeros; returns the bits used, or -1."""
    at = int64(0)
    for b in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            shift = take_bits(data, at, 4)
            at += 4
            rows[b, c, 0] = shift
            for sort in range(2):
                size = take_bits(data, at, 6)
                at += 6
                if size < 0 or size > MOST or shift < 0:
                    return -1
                order = int64(_ORDER)
                for i in range(size):
                    folded, at = take_folded(data, at, order)
                    if folded < 0 or folded >= _MOST_FOLDED:
                        return -1
                    value = folded >> 1 if folded & 1 == 0 else -((folded + 1) >> 1)
                    rows[b, c, 1 + sort * MOST + i] = value
                    order = (order + bit_length(folded >> 1) + 1) >> 1
    return at


@kernel(types.int64(R8, R8, W8))
def pack_contexts(contexts, usual, out):
    """Writes uint8[256], which may differ from `usual`, to `out`, zeros; returns the bytes."""
    first, last = int64(1), int64(0)
    for i in range(contexts.size):
        if contexts[i] != usual[i]:
            if last < first:
                first = int64(i)
            last = int64(i)
    out[0], out[1] = np.uint8(first), np.uint8(last)
    at = int64(16)
    for i in range(first, last + 1):
        scale, shape = int64(contexts[i]) // SHAPES, int64(contexts[i]) % SHAPES
        change = scale - int64(usual[i]) // SHAPES
        at = put_folded(out, at, shape, 0)
        at = put_folded(out, at, 2 * change if change >= 0 else -2 * change - 1, 1)
    return (at + 7) >> 3


@kernel(types.int64(R8, int64, W8))
def unpack_contexts(data, scales, contexts):
    """Reads what `pack_contexts` wrote into `contexts`, the usual ones; the bytes used, or -1."""
    if data.size < 2:
        return -1
    at = int64(16)
    for i in range(int64(data[0]), int64(data[1]) + 1):
        shape, at = take_folded(data, at, 0)
        if shape < 0 or shape >= SHAPES:
            return -1
        folded, at = take_folded(data, at, 1)
        if folded < 0:
            return -1
        change = folded >> 1 if folded & 1 == 0 else -((folded + 1) >> 1)
        scale = int64(contexts[i]) // SHAPES + change
        if scale < 0 or scale >= scales:
            return -1
        contexts[i] = np.uint8(SHAPES * scale + shape)
    if at & 7 and data[at >> 3] >> (at & 7) != 0:
        return -1
    return (at + 7) >> 3


@kernel(types.void(_I64_2D, types.float64[:, ::1], W8))
def choose_contexts(counts, costs, contexts):
    """Sets the cheapest distribution of each context that occurs, from the usual one on.

    `counts`: int64[contexts, 256]; `costs`: float64[distributions, 256], bits of each token.
    """
    for i in range(counts.shape[0]):
        last = 255
        while last >= 0 and counts[i, last] == 0:
            last -= 1
        if last < 0:
            continue
        best, least = int64(contexts[i]), np.inf
        usual = best
        for k in range(max(int64(0), usual - _NEAR), min(int64(costs.shape[0]), usual + _NEAR)):
            bits = -_SAID if k == usual else 0.0
            for token in range(last + 1):
                bits += counts[i, token] * costs[k, token]
            if bits < least:
                best, least = k, bits
        contexts[i] = np.uint8(best)
