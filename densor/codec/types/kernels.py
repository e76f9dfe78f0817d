"""Compiled loops over windows of bytes: what they cost as elements, and where that changes.

None allocates or validates anything.
"""

import numpy as np
from numba import njit, types

from densor.codec.types.ways import PHASES, WAYS
from densor.entropy.jit import I32, I64, R8, W8, kernel

_MIN_GAIN = np.float32(0.95)  # of what bytes cost; above, types are not looked at
_FLAT = np.float32(0.995)  # of 8 bits; bytes that are as good as uniform are not elements
_LESS_LIKELY = np.float32(0.002)  # per bit: BF16 must save this, as FP16 may cost the same
F32 = types.float32[::1]
F32_2D = types.float32[:, ::1]


@njit
def _bits(counts, at, step, number, logs):
    """What symbols take under a code of their own, its table included, at most 8 bits each.

    The histogram is the sum of `number` ones in `counts`, every `step`-th from `at` on. `logs`:
    n * log2(n).
    """
    total = 0
    used = 0
    bits = np.float32(0)
    for s in range(256):
        count = 0
        for k in range(number):
            count += counts[at + k * step + s]
        if count:
            total += count
            used += 1
            bits -= logs[count]
    raw = np.float32(8 * total)
    if total == 0:
        return raw
    bits += logs[total]
    bits += np.float32(0.5) * used * logs[total] / total
    return min(bits, raw)


@njit
def _of_size(counts, base, size, logs):
    """Bits of a window as elements of `size` bytes, each byte under a code of its own."""
    bits = np.float32(0)
    for p in range(size):
        bits += _bits(counts, base + 256 * p, 256 * size, PHASES // size, logs)
    return bits


@kernel(types.void(R8, I64, types.int64, I32, F32, F32_2D))
def window_costs(data, starts, window, counts, logs, costs):
    """Bits that windows of `data` take in each way: float32[windows, WAYS].

    `starts`: multiples of 8; a window ends a byte before `data` does, or earlier. `window`: bytes,
    a multiple of 8. `logs`: float32[window + 1], n * log2(n). Work space: `counts`, int32[COUNTS].
    """
    exponents = 256 * PHASES
    rest = 2 * exponents
    for w in range(starts.size):
        begin = starts[w]
        counts[:exponents] = 0
        for i in range(begin, begin + window, 8):
            for k in range(8):
                counts[256 * k + data[i + k]] += 1
        cost = costs[w]
        plain = _of_size(counts, 0, 1, logs)
        cost[:] = np.float32(8 * window)
        cost[0] = plain
        if plain > _FLAT * 8 * window:
            continue
        words = _of_size(counts, 0, 2, logs)
        double = _of_size(counts, 0, 4, logs)
        quad = _of_size(counts, 0, 8, logs)
        if min(words, double, quad) > _MIN_GAIN * plain:
            continue
        counts[exponents:] = 0
        for i in range(begin, begin + window, 8):
            for k in range(8):
                low = np.int64(data[i + k])
                high = np.int64(data[i + k + 1])
                counts[exponents + 256 * k + ((high & 127) << 1 | low >> 7)] += 1
                counts[rest + 256 * k + (high & 128 | low & 127)] += 1
        cost[1] = words
        for p in range(2):
            cost[2 + p] = _bits(counts, exponents + 256 * p, 512, 4, logs)
            cost[2 + p] += _bits(counts, rest + 256 * p, 512, 4, logs)
            cost[2 + p] += _LESS_LIKELY * 8 * window
        cost[4] = double
        for p in range(4):
            top = (p + 2) % 4
            cost[5 + p] = _bits(counts, exponents + 256 * top, 1024, 2, logs)
            cost[5 + p] += _bits(counts, rest + 256 * top, 1024, 2, logs)
            for low_byte in range(2):
                q = (p + low_byte) % 4
                cost[5 + p] += _bits(counts, 256 * q, 1024, 2, logs)
        cost[9] = quad


@kernel(types.void(F32_2D, types.float32, W8, W8))
def cheapest_path(costs, change, came_from, path):
    """A way for each window, `path`, by dynamic programming: a change of ways costs `change` bits.

    `costs` is overwritten. Work space: `came_from`, uint8[windows * WAYS].
    """
    windows = costs.shape[0]
    for w in range(1, windows):
        best = 0
        for s in range(WAYS):
            if costs[w - 1, s] < costs[w - 1, best]:
                best = s
        least = costs[w - 1, best]
        for s in range(WAYS):
            stay = costs[w - 1, s]
            move = stay > least + change
            came_from[w * WAYS + s] = best if move else s
            costs[w, s] += (least + change if move else stay) - least
    best = 0
    for s in range(WAYS):
        if costs[windows - 1, s] < costs[windows - 1, best]:
            best = s
    for w in range(windows - 1, -1, -1):
        path[w] = best
        best = came_from[w * WAYS + best]


@kernel(types.void(R8, I64, types.int64, I64))
def count_phases(data, starts, window, counts):
    """Adds the bytes of windows to `counts`, int64[PHASES * 256], by their place modulo 8.

    `starts`: multiples of 8; `window`: likewise.
    """
    for w in range(starts.size):
        for i in range(starts[w], starts[w] + window, 8):
            for k in range(8):
                counts[256 * k + data[i + k]] += 1


@kernel(types.void(R8, I64, types.int64, F32, F32))
def code_lengths(data, starts, length, bits, lengths):
    """Bits that so many bytes from each of `starts` on take under one code: float32[windows].

    `starts`: multiples of 8. `bits`: float32[PHASES * 256], by place modulo 8 and byte.
    """
    for w in range(starts.size):
        total = np.float32(0)
        for i in range(starts[w], starts[w] + length, 8):
            for k in range(8):
                total += bits[256 * k + data[i + k]]
        lengths[w] = total


@kernel(types.int64(R8, types.int64, types.int64, F32))
def change_point(data, begin, end, difference):
    """Where between `begin` and `end` what comes before changes to what comes behind.

    `difference`: float32[PHASES * 256], by place modulo 8 and byte, bits under the code of what
    comes before less those under the code of what comes behind.
    """
    total = np.float32(0)
    least = np.float32(0)
    found = begin
    for i in range(begin, end):
        total += difference[256 * (i & 7) + data[i]]
        if total < least:
            least = total
            found = i + 1
    return found
