"""Compiled loops over windows of bytes: what they cost as elements, and where that changes.

None allocates or validates anything.
"""

import numpy as np
from numba import njit, types

from densor.codec.types.ways import CLEAR_STEP, PHASED, PHASES, WAYS
from densor.entropy.intrinsics import load_u64
from densor.entropy.jit import I32, I64, R8, W8, W64, index, kernel

_MIN_GAIN = np.float32(0.95)  # of what bytes cost; above, types are not looked at
_FLAT = np.float32(0.999)  # of 8 bits; uniform bytes are not elements; of FP64 it may be .997
_LESS_LIKELY = np.float32(0.002)  # per bit: BF16 must save this, as FP16 may cost the same
_COUNTED = 1 << 12  # bytes in which the frequency of bytes is looked for
_BLOCK = 64  # bytes that are looked through together
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
F32 = types.float32[::1]
F32_2D = types.float32[:, ::1]


@njit
def _bits(counts, at, total, logs):
    """What `total` symbols take under a code of their own, table included, at most 8 bits each.

    Their histogram stands in `counts` from `at` on. `logs`: n * log2(n).
    """
    used = 0
    even, odd = np.float32(0), np.float32(0)  # two sums, neither of which waits for the other
    for s in range(at, at + 256, 2):
        even += logs[counts[s]]
        odd += logs[counts[s + 1]]
    for s in range(at, at + 256):
        used += np.int64(counts[s] != 0)
    bits = logs[total] - (even + odd) + np.float32(0.5) * used * logs[total] / total
    return min(bits, np.float32(8 * total))


@njit
def _fold(counts, at, number, to):
    """Adds up histograms of one place modulo half their `number`; `to`: where the sums go."""
    half = 128 * number
    for s in range(half):
        counts[to + s] = counts[at + s] + counts[at + half + s]


@njit
def _of_each(counts, at, number, total, logs):
    """What symbols take in all that stand in so many histograms, `total` in each."""
    bits = np.float32(0)
    for p in range(number):
        bits += _bits(counts, at + 256 * p, total, logs)
    return bits


@njit
def _price(data, begin, size, counts, logs, cost):
    """Bits that `size` bytes from `begin` on take in each way, under codes of their own.

    Other arguments: as of `window_costs`. The histograms of bytes by place stay in `counts`: modulo
    8, then 4, 2 and 1.
    """
    words, quads, all_of_them = 256 * 12, 256 * 8, 256 * 14
    counts[: 256 * PHASES] = 0
    for i in range(begin, begin + size, 8):
        for k in range(8):
            counts[256 * k + data[i + k]] += 1
    _fold(counts, 0, 8, quads)
    _fold(counts, quads, 4, words)
    _fold(counts, words, 2, all_of_them)
    plain = _bits(counts, all_of_them, size, logs)
    cost[:] = np.float32(8 * size)
    cost[0] = plain
    if plain > _FLAT * 8 * size:
        return
    of_words = _of_each(counts, words, 2, size // 2, logs)
    each = (
        _bits(counts, quads, size // 4, logs),
        _bits(counts, quads + 256, size // 4, logs),
        _bits(counts, quads + 512, size // 4, logs),
        _bits(counts, quads + 768, size // 4, logs),
    )
    of_quads = each[0] + each[1] + each[2] + each[3]
    of_eights = _of_each(counts, 0, 8, size // 8, logs)
    if min(of_words, of_quads, of_eights) > _MIN_GAIN * plain:
        return
    exponents = 256 * 15
    rest = exponents + 256 * 4
    counts[exponents : exponents + 256 * 8] = 0
    for i in range(begin, begin + size, 4):
        for k in range(4):
            low = np.int64(data[i + k])
            high = np.int64(data[i + k + 1])
            counts[exponents + 256 * k + ((high & 127) << 1 | low >> 7)] += 1
            counts[rest + 256 * k + (high & 128 | low & 127)] += 1
    cost[1] = of_words
    cost[4] = of_quads
    for p in range(4):
        top = 256 * ((p + 2) % 4)
        cost[5 + p] = _bits(counts, exponents + top, size // 4, logs)
        cost[5 + p] += _bits(counts, rest + top, size // 4, logs)
        cost[5 + p] += each[p] + each[(p + 1) % 4]
    cost[9] = of_eights
    _fold(counts, exponents, 4, exponents)
    _fold(counts, rest, 4, rest)
    for p in range(2):
        cost[2 + p] = _bits(counts, exponents + 256 * p, size // 2, logs)
        cost[2 + p] += _bits(counts, rest + 256 * p, size // 2, logs)
        cost[2 + p] += _LESS_LIKELY * 8 * size


@kernel(types.void(R8, I64, types.int64, I32, F32, F32_2D))
def window_costs(data, starts, window, counts, logs, costs):
    """Bits that windows of `data` take in each way: float32[windows, WAYS].

    `starts`: multiples of 8; a window ends a byte before `data` does, or earlier. `window`: bytes,
    a multiple of 8. `logs`: float32[window + 1], n * log2(n). Work space: `counts`, int32[COUNTS].
    """
    for w in range(starts.size):
        _price(data, starts[w], window, counts, logs, costs[w])


@njit
def _entropy(counts, at, size, total, logs):
    """Order-0 entropy in bits of so many histograms, of `total` symbols each."""
    bits = np.float32(0)
    for s in range(at, at + 256 * size):
        bits -= logs[counts[s]]
    return bits + size * logs[total]


@njit
def _count_element(counts, at, element, size):
    for p in range(size):
        counts[at + 256 * p + ((element >> np.uint64(8 * p)) & np.uint64(255))] += 1


@njit
def _element(data, at, size):
    """The element of `size` bytes at a place, as a signed number."""
    element = np.int64(np.int8(data[at + size - 1]))
    for p in range(size - 2, -1, -1):
        element = element << 8 | np.int64(data[at + p])
    return element


@njit
def _count_places(data, begin, end, size, counts):
    """Counts bytes by their place modulo `size`."""
    at = 0
    for i in range(begin, end):
        counts[256 * at + data[i]] += 1
        at = at + 1 if at + 1 < size else 0


@njit
def _steepest(counts, size, total, logs):
    """The place that is most less certain than the one before, and by how many bits."""
    place = 0
    steepest = np.float32(-1e30)
    before = _entropy(counts, 256 * (size - 1), 1, total, logs)
    for p in range(size):
        here = _entropy(counts, 256 * p, 1, total, logs)
        if here - before > steepest:
            place, steepest = p, here - before
        before = here
    return place, steepest


@njit
def _at_odds(data, apart, windows, size, counts, logs):
    """Whether elements clearly begin at different places of windows, modulo their size."""
    common = -1
    count = PHASED // size
    for w in range(windows):
        counts[: 256 * size] = 0
        _count_places(data, w * apart, w * apart + PHASED, size, counts)
        phase, step = _steepest(counts, size, count, logs)
        if step > CLEAR_STEP * count:
            if common not in (-1, phase):
                return True
            common = phase
    return False


@kernel(types.void(R8, I64, types.int64, types.int64, I32, F32, F32, W8))
def find_phases(data, starts, count, size, counts, logs, steps, phases):
    """Where elements of `size` bytes begin in windows, modulo that, and how clear this is.

    That is so many bits that the byte there takes more than the one before it. Looks at `count`
    elements from each of `starts` on; these are multiples of `size`. To `phases`, uint8[windows],
    and `steps`, float32[windows]. Others: as of `look_at_elements`.
    """
    for w in range(starts.size):
        counts[: 256 * size] = 0
        _count_places(data, starts[w], starts[w] + count * size, size, counts)
        phases[w], steps[w] = _steepest(counts, size, count, logs)


@kernel(types.int64(R8, types.int64, types.int64, types.int64, I32, F32, types.float32))
def look_at_elements(data, places, count, size, counts, logs, most):
    """Where elements of `size` bytes begin, modulo that, and whether they are integers.

    The sum of that place, and of 256 if differences of neighbours take less than the share `most`
    of what elements take. They begin behind the most certain byte, since the byte of the highest
    significance varies least, and that of the lowest most.

    Looks at `count` elements at so many places, the first one where `data` begins, the last one
    where it ends but for one element. `logs`: to the number of all that are looked at. Work space:
    `counts`, int32[4096].
    """
    last = data.size // size - 1 - count
    counts[:] = 0
    for place in range(places):
        start = last * place // max(1, places - 1) * size
        _count_places(data, start, start + count * size, size, counts)
    phase, _ = _steepest(counts, size, count * places, logs)
    counts[:] = 0
    total = (count - 1) * places
    for place in range(places):
        start = last * place // max(1, places - 1) * size
        before_it = _element(data, start + phase, size)
        for k in range(1, count):
            element = _element(data, start + phase + k * size, size)
            change = element - before_it
            before_it = element
            # What is left of it within the size of an element, as a signed number
            rest = 64 - 8 * size
            change = (change << rest) >> rest
            zigzag = (change << 1) ^ (change >> 63)
            _count_element(counts, 0, np.uint64(zigzag), size)
            _count_element(counts, 2048, np.uint64(element), size)
    differences = _entropy(counts, 0, size, total, logs)
    return phase + 256 * (differences < most * _entropy(counts, 2048, size, total, logs))


@kernel(types.int64(R8, I32, W64))
def repeated(data, counts, anchors):
    """How many of the places that are looked at hold 8 bytes that another one held before.

    They are those behind a byte of average frequency and, 8 bytes on, one that ends with the same
    four bits: about one in 4096, wherever what repeats lies. Work space: `counts`, int32[256], and
    `anchors`, uint64[4096].
    """
    counts[:] = 0
    some = min(data.size, _COUNTED)
    for i in range(some):
        counts[data[i]] += 1
    mark = np.uint8(1)
    for s in range(1, 255):
        if abs(256 * counts[s] - some) < abs(256 * counts[mark] - some):
            mark = np.uint8(s)
    low = mark & np.uint8(15)
    anchors[:] = 0
    found = 0
    end = data.size - _BLOCK - 17
    for block in range(0, end, _BLOCK):
        nearest = np.uint8(255)  # a least value, which is found in vectors
        at = index(block)
        for k in range(_BLOCK):
            i = at + index(k)
            behind = (data[i + index(8)] ^ low) & np.uint8(15)
            nearest = min(nearest, np.uint8((data[i] ^ mark) | behind))
        if nearest:
            continue
        for i in range(block, block + _BLOCK):
            if data[i] == mark and (data[i + 8] & 15) == low:
                eight = load_u64(data, i + 9)
                place = (eight * _SPREAD) >> np.uint64(52)
                found += np.int64(anchors[place] == eight)
                anchors[place] = eight
    return found


@kernel(
    types.int64(R8, types.int64, types.int64, types.int64, types.int64, types.int64, I32, F32, F32,
                F32, F32_2D, F32)
)  # fmt: skip
def one_way(
    data, apart, windows, coarse, window, length, counts, logs, lengths, bits, costs, found
):  # fmt: skip
    """The way that suits all of `data`, as every `coarse`-th window and a glance at others tell.

    Windows are `apart`. 0 where bytes are the best way, or not all are alike. `found`, float32[3]:
    bits of all windows that are priced, in this way and as bytes, and the most bits that the first
    `length` bytes of any window take under the code of those, over what they take on average there.

    `costs`: a row for each window that is priced. `lengths`: bits of a symbol by its count in all
    of these. Work space: `counts`, int32[COUNTS + 2048], and `bits`, float32[2048]. Others: as of
    `window_costs`.
    """
    together = counts[counts.size - 256 * PHASES :]
    together[:] = 0
    rows = costs.shape[0]
    for row in range(rows):
        _price(data, row * coarse * apart, window, counts, logs, costs[row])
        for s in range(256 * PHASES):
            together[s] += counts[s]
    way = 0
    least = np.float32(0)
    for other in range(WAYS):
        total = np.float32(0)
        for row in range(rows):
            total += costs[row, other]
        if other == 0 or total < least:
            way, least = other, total
    plain = np.float32(0)
    for row in range(rows):
        plain += costs[row, 0]
        for other in range(WAYS):
            if costs[row, way] > costs[row, other] + window // 8:
                return 0
    found[0] = least
    found[1] = plain
    size = 2 if way == 1 else 4 if way == 4 else 8 if way == 9 else 0
    if way == 0 or (size and _at_odds(data, coarse * apart, rows, size, counts, logs)):
        return 0
    for s in range(256 * PHASES):
        bits[s] = lengths[together[s]]
    most = np.float32(0)
    priced = np.float32(0)
    for w in range(windows):
        total = np.float32(0)
        for i in range(w * apart, w * apart + length, 8):
            for k in range(8):
                total += bits[256 * k + data[i + k]]
        most = max(most, total)
        if w % coarse == 0 and w // coarse < rows:
            priced += total
    found[2] = most * rows / max(priced, np.float32(1))
    return way


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


@kernel(types.int64(R8, types.int64, types.int64, I32))
def change_point(data, begin, end, difference):
    """Where between `begin` and `end` what comes before changes to what comes behind.

    `difference`: int32[PHASES * 256], by place modulo 8 and byte, bits under the code of what
    comes before less those under the code of what comes behind, in any unit. Sums are integers,
    which add up in a quarter of the time.
    """
    total = np.int64(0)
    least = np.int64(0)
    found = begin
    for i in range(begin, end):
        total += difference[256 * (i & 7) + data[i]]
        if total < least:
            least = total
            found = i + 1
    return found
