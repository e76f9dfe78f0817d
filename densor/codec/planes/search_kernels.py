"""Compiled loops that choose how planes are coded: arrays in, arrays out.

None allocates or validates anything.
"""

import numpy as np
from numba import njit, types

from densor.codec.planes.split_kernels import load, store
from densor.entropy.intrinsics import load_u64
from densor.entropy.jit import I64, R8, W8, W32, W64, kernel

I64_2D = types.int64[:, ::1]
F32_2D = types.float32[:, ::1]
F64_2D = types.float64[:, ::1]
U16_2D = types.uint16[:, ::1]
F32 = types.float32[::1]
F64 = types.float64[::1]

_part = njit(error_model="numpy", _nrt=False)  # without counts of references, which are atomic


@_part
def _tally(piece, tables):
    """Adds the symbols of `piece` to four interleaved histograms, `tables`, [4 * 256].

    Neighbours go to different ones, so that equal symbols do not wait for each other's stores.
    """
    one = tables.dtype.type(1)
    whole = piece.size & ~7
    byte = np.uint64(255)
    for i in range(0, whole, 8):
        eight = load_u64(piece, i)
        tables[eight & byte] += one
        tables[np.uint64(256) + ((eight >> np.uint64(8)) & byte)] += one
        tables[np.uint64(512) + ((eight >> np.uint64(16)) & byte)] += one
        tables[np.uint64(768) + ((eight >> np.uint64(24)) & byte)] += one
        tables[(eight >> np.uint64(32)) & byte] += one
        tables[np.uint64(256) + ((eight >> np.uint64(40)) & byte)] += one
        tables[np.uint64(512) + ((eight >> np.uint64(48)) & byte)] += one
        tables[np.uint64(768) + (eight >> np.uint64(56))] += one
    for i in range(whole, piece.size):
        tables[piece[i]] += one


@kernel(types.void(R8, types.int64, types.uint16[::1], U16_2D, I64), counted=False)
def count_runs(plane, run, work, counts, total):
    """Histogram of each run of `plane`, 65535 symbols at most.

    `counts`: uint16[runs, 256]; `total`: int64[256], to which all of them are added. `work`:
    uint16[4 * 256].
    """
    for r in range(counts.shape[0]):
        work[:] = 0
        _tally(plane[r * run : min((r + 1) * run, plane.size)], work)
        row = counts[r]
        for s in range(256):
            row[s] = work[s] + work[256 + s] + work[512 + s] + work[768 + s]
        for s in range(256):
            total[s] += row[s]


@_part
def _entropy_bits(a, b):
    """Order-0 entropy in bits of the sum of two histograms."""
    total = 0
    bits = 0.0
    for s in range(a.size):
        count = a[s] + b[s]
        if count > 0:
            total += count
            bits -= count * np.log2(count)
    return bits + total * np.log2(total) if total > 0 else 0.0


@kernel(types.void(R8, W32, I64, F64))
def plane_entropies(planes, work, zeros, bits):
    """Order-0 entropy in bits of each plane; `planes`: uint8[bits.size * n], one after the other.

    Work space: `work` uint32[4 * 256], `zeros` int64[512].
    """
    n = planes.size // bits.size
    for p in range(bits.size):
        work[:] = 0
        _tally(planes[p * n : (p + 1) * n], work)
        zeros[:] = 0
        for s in range(256):
            zeros[s] = work[s] + work[256 + s] + work[512 + s] + work[768 + s]
        bits[p] = _entropy_bits(zeros[:256], zeros[256:])


@kernel(types.int64(R8, W64))
def repetitions(data, table):
    """How many of the 8-byte windows at every 4th byte of `data` stood there before.

    `table`: uint64[4096]. Misses some; random data has none.
    """
    found = 0
    table[:] = 0
    for i in range(0, data.size - 7, 4):
        window = load_u64(data, i)
        place = (window * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(52)
        found += table[place] == window
        table[place] = window
    return found


@_part
def _range(counts):
    """First symbol that occurs, and the one after the last, of int64[256]."""
    low = 0
    while low < 255 and counts[low] == 0:
        low += 1
    high = 256
    while high > low + 1 and counts[high - 1] == 0:
        high -= 1
    return low, high


@_part
def _add_counts(counts, step, classes, total, low, high):
    """Adds the histogram of every `step`-th run to that of its class."""
    total[:] = 0
    for r in range(0, counts.shape[0], step):
        row = counts[r, low:high]
        target = total[classes[r], low:high]
        for i in range(row.size):
            target[i] += row[i]


@_part
def _set_costs(total, cost, low, high):
    """Ideal code lengths of each class from its histogram, no symbol quite impossible."""
    for c in range(total.shape[0]):
        sum_ = 0.0
        for s in range(low, high):
            sum_ += total[c, s] + 0.02
        for s in range(low, high):
            cost[c, s] = np.log2(sum_ / (total[c, s] + 0.02))


@njit(fastmath=True, error_model="numpy", _nrt=False)
def _assign(counts, step, cost, row, classes, low, high):
    """Gives every `step`-th run the class with the cheapest code."""
    for r in range(0, counts.shape[0], step):
        source = counts[r, low:high]
        for i in range(source.size):
            row[i] = np.float32(source[i])
        best = np.float32(3e38)  # no infinities: the sums may be reordered
        for c in range(cost.shape[0]):
            bits = np.float32(0)
            prices = cost[c, low:high]
            for i in range(prices.size):
                bits += row[i] * prices[i]
            if bits < best:
                best = bits
                classes[r] = c


@_part
def _first_guess(counts, step, borders, mean, classes, low, high):
    """Classes by the mean symbol of a run, in units of its standard deviation."""
    n = 0
    sum_ = 0.0
    squares = 0.0
    for r in range(0, counts.shape[0], step):
        weight = 0
        moment = 0
        row = counts[r, low:high]
        for i in range(row.size):
            weight += row[i]
            moment += i * row[i]
        mean[r] = moment / max(weight, 1)
        n += 1
        sum_ += mean[r]
        squares += mean[r] * mean[r]
    middle = sum_ / n
    deviation = np.sqrt(max(squares / n - middle * middle, 0.0))
    for r in range(0, counts.shape[0], step):
        c = 0
        while c < borders.size and mean[r] > middle + borders[c] * deviation:
            c += 1
        classes[r] = c


@_part
def _join(total, number, map_bits, class_bits, runs, low, high, bits):
    """Joins classes two by two as long as the whole gets smaller; returns how many are left.

    `number[c]` receives what class c is called in the end; `total` is moved along. Work space:
    `bits`, float64[classes + 1, classes], of each class and, above the diagonal, of two together.
    """
    alone = bits[total.shape[0]]
    left = 0
    for c in range(total.shape[0]):
        number[c] = left
        if total[c].sum() > 0:
            for s in range(256):
                total[left, s] = total[c, s]
            left += 1
    for i in range(left):
        alone[i] = _entropy_bits(total[i, low:high], total[i, low:high]) / 2
        for j in range(i):
            bits[j, i] = _entropy_bits(total[j, low:high], total[i, low:high])
    while left > 1:
        best = -1e300
        a = 0
        b = 1
        for i in range(left):
            for j in range(i + 1, left):
                gain = alone[i] + alone[j] - bits[i, j]
                if gain > best:
                    best = gain
                    a = i
                    b = j
        saved = class_bits + runs * (map_bits[left] - map_bits[left - 1])
        if best + saved <= 0:
            break
        left -= 1
        for c in range(number.size):
            if number[c] == b:
                number[c] = a
            elif number[c] == left:
                number[c] = b
        for s in range(256):
            total[a, s] += total[b, s]
            total[b, s] = total[left, s]
        alone[b] = alone[left]
        for i in range(left):
            bits[min(i, b), max(i, b)] = bits[i, left]
        alone[a] = _entropy_bits(total[a, low:high], total[a, low:high]) / 2
        for i in range(left):
            if i != a:
                bits[min(i, a), max(i, a)] = _entropy_bits(total[i, low:high], total[a, low:high])
    return left


@kernel(
    types.int64(
        U16_2D, I64, F64, types.int64, types.int64, R8, types.float64,
        F32_2D, F32, F64, F64_2D, I64_2D, I64, W8,
    ),
    counted=False,
)  # fmt: skip
def find_classes(
    counts, all_counts, borders, step, rounds, map_bits, class_bits,
    cost, row, mean, bits, total, number, classes,
):  # fmt: skip
    """K-means over the histograms of runs, with code length as the distance.

    `counts`: uint16[runs, 256]; `all_counts`: int64[256], their sum. Starts from classes divided
    by the mean symbol at `borders`, ascending, in standard deviations; learns from every
    `step`-th run in some `rounds`; joins classes that do not pay: `class_bits` for each,
    `map_bits[n]` per run when there are n. Work space: `cost` float32[classes, 256],
    `row` float32[256], `mean` float64[runs], `bits`, float64[classes + 1, classes],
    `number` int64[classes]. Result:
    `total`, int64[classes, 256], of the classes that are left, whose number is returned.
    `classes`, uint8[runs], is work space too.
    """
    low, high = _range(all_counts)
    _first_guess(counts, step, borders, mean, classes, low, high)
    for _ in range(rounds):
        _add_counts(counts, step, classes, total, low, high)
        _set_costs(total, cost, low, high)
        _assign(counts, step, cost, row, classes, low, high)
    _add_counts(counts, step, classes, total, low, high)
    return _join(total, number, map_bits, class_bits, counts.shape[0], low, high, bits)


@kernel(types.void(U16_2D, I64, types.int64, F32_2D, F32, I64_2D, W8), counted=False)
def reassign(counts, all_counts, step, prices, row, total, classes):
    """Gives every `step`-th run the class whose code is shortest for it.

    `counts`: uint16[runs, 256]; `all_counts`: int64[256], their sum. `prices`:
    float32[classes, 256], bits that a symbol takes. `total`, int64[classes, 256], receives the
    histogram of each class. Work space: `row` float32[256].
    """
    low, high = _range(all_counts)
    _assign(counts, step, prices, row, classes, low, high)
    _add_counts(counts, step, classes, total, low, high)


@kernel(types.void(R8, types.int64, types.int64, types.int64, W8))
def varying_bits(data, size, run, take, varying):
    """Which bits differ among the first `take` elements of each run: `varying`, uint8[runs * size].

    Element `r` of `varying` is the OR of the differences to the run's first element.
    """
    for r in range(varying.size // size):
        piece = data[r * run * size : min((r * run + take) * size, data.size)]
        first = load(piece, 0, size)
        seen = np.uint64(0)
        for i in range(piece.size // size):
            seen |= load(piece, i, size) ^ first
        store(varying, r, size, seen)
