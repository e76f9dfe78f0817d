"""Compiled loops over windows of bytes: what they cost as elements, and where that changes.

None allocates or validates anything.
"""

import numpy as np
from numba import njit, types

from densor.codec.types.ways import CLEAR_STEP, PHASED, PHASES, WAYS
from densor.entropy import float_vectors as f
from densor.entropy import vectors as v
from densor.entropy.intrinsics import load_u64
from densor.entropy.jit import I32, I64, R8, W8, W16, W64, index, inlined, kernel

_MIN_GAIN = np.float32(0.95)  # of what bytes cost; above, types are not looked at
_FLAT = np.float32(0.999)  # of 8 bits; uniform bytes are not elements; of FP64 it may be .997
_FLAT_EXPONENT = np.float32(0.95)  # likewise of the upper bytes of floats
_LESS_LIKELY = np.float32(0.002)  # per bit: BF16 must save this, as FP16 may cost the same
_MAX_UNLIKE = 2  # windows of which one may be unlike those that are priced first
_COUNTED = 1 << 12  # bytes in which the frequency of bytes is looked for
_PLACES = 8  # from which these come
_BLOCK, _PART = 256, 64  # bytes that are looked through together, first and then
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
# log2(1 + x) is x + x * (1 - x) * (c[0] + c[1] * x + c[2] * x * x), by the least greatest error
_CURVE = (np.float32(0.4387257), np.float32(-0.239058), np.float32(0.0821305))
F32 = types.float32[::1]
F32_2D = types.float32[:, ::1]


@inlined
def _logs_of(n):
    """n * log2(n) of 16 integers, to 1.2e-4 * n: much faster than to look it up."""
    as_float = v.float_bits(n)
    exponent = v.subtract(v.shift_right(as_float, 23), v.splat(127))
    mantissa = v.either(v.both(as_float, v.splat((1 << 23) - 1)), v.splat(127 << 23))
    x = f.subtract(f.of_bits(mantissa), f.splat(np.float32(1)))
    beside = f.add(f.multiply(x, f.splat(_CURVE[2])), f.splat(_CURVE[1]))
    beside = f.add(f.multiply(x, beside), f.splat(_CURVE[0]))
    beside = f.multiply(f.subtract(x, f.multiply(x, x)), beside)
    whole = f.of_bits(v.float_bits(exponent))
    return f.multiply(f.of_bits(as_float), f.add(whole, f.add(x, beside)))


@inlined
def _sum(a):
    """The sum of 16 numbers of at least 0, to an eighth; of less than 2^28."""
    return np.float32(v.sum_of(f.integers(f.multiply(a, f.splat(np.float32(8)))))) / np.float32(8)


@inlined
def _bits(counts, at, total, logs):
    """What `total` symbols take under a code of their own, table included, at most 8 bits each.

    Their histogram stands in `counts` from `at` on. `logs`: n * log2(n).
    """
    sums = f.splat(np.float32(0))
    unused = 0
    for s in range(at, at + 256, v.LANES):
        n = v.load_u32(counts, s)
        sums = f.add(sums, _logs_of(n))
        unused += v.count(v.equal(n, v.splat(0)))
    bits = logs[total] - _sum(sums)
    bits += np.float32(0.5) * np.float32(256 - unused) * logs[total] / np.float32(total)
    return min(bits, np.float32(8 * total))


@inlined
def _count_by_place(data, begin, size, counts):
    """Adds `size` bytes to histograms of bytes by their place modulo 8."""
    for i in range(index(begin), index(begin + size), index(8)):
        eight = load_u64(data, i)
        for k in range(index(8)):
            counts[(k << index(8)) + index(eight & np.uint64(255))] += 1
            eight >>= np.uint64(8)


@inlined
def _count_exponents(data, begin, size, counts, at):
    """Counts what are exponents of BF16, at `at`, and what is beside them, 1024 behind.

    Of every other word from `begin` on, as the upper words of FP32 are.
    """
    for s in range(index(at), index(at + 256)):
        counts[s] = 0
        counts[s + index(1024)] = 0
    for i in range(index(begin), index(begin + size), index(4)):
        low, high = index(data[i]), index(data[i + index(1)])
        counts[index(at) + ((high & index(127)) << index(1) | low >> index(7))] += 1
        counts[index(at + 1024) + (high & index(128) | low & index(127))] += 1


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
    _count_by_place(data, begin, size, counts)
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
    cost[1] = of_words
    cost[4] = of_quads
    cost[9] = of_eights
    exponents = 256 * 15
    rest = exponents + 256 * 4
    flat = _FLAT_EXPONENT * np.float32(2 * size)
    for p in range(4):
        low, high = (p + 2) % 4, (p + 3) % 4
        if each[high] > flat:
            continue
        top = 256 * low
        _count_exponents(data, begin + low, size, counts, exponents + top)
        cost[5 + p] = _bits(counts, exponents + top, size // 4, logs)
        cost[5 + p] += _bits(counts, rest + top, size // 4, logs)
        cost[5 + p] += each[p] + each[(p + 1) % 4]
    for p in range(2):
        if max(each[(p + 1) % 4], each[p + 3 & 3]) > flat:
            continue
        for at in (exponents + 256 * p, rest + 256 * p):
            for s in range(index(at), index(at + 256)):
                counts[s] += counts[s + index(512)]
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


@inlined
def _entropy(counts, at, size, total, logs):
    """Order-0 entropy in bits of so many histograms, of `total` symbols each."""
    sums = f.splat(np.float32(0))
    for s in range(at, at + 256 * size, v.LANES):
        sums = f.add(sums, _logs_of(v.load_u32(counts, s)))
    return size * logs[total] - _sum(sums)


@inlined
def _count_element(counts, at, element, size):
    for p in range(size):
        byte = (element >> np.uint64(8 * p)) & np.uint64(255)
        counts[index(at + 256 * p) + index(byte)] += 1


@inlined
def _element(data, at, size):
    """The element of `size` bytes at a place, as a signed number."""
    element = np.int64(np.int8(data[index(at + size - 1)]))
    for p in range(size - 2, -1, -1):
        element = element << 8 | np.int64(data[index(at + p)])
    return element


@inlined
def _count_places(data, begin, end, size, counts):
    """Counts bytes by their place modulo `size`."""
    at = 0
    for i in range(index(begin), index(end)):
        counts[index(256 * at) + index(data[i])] += 1
        at = at + 1 if at + 1 < size else 0


@inlined
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
def _phase(data, at, size, counts, logs):
    """Where elements clearly begin in a window, modulo their size; else -1."""
    count = PHASED // size
    counts[: 256 * size] = 0
    _count_places(data, at, at + PHASED, size, counts)
    phase, step = _steepest(counts, size, count, logs)
    return phase if step > CLEAR_STEP * count else -1


@inlined
def _look(data, places, count, size, counts, logs, most):
    last = data.size // size - 1 - count
    counts[:4096] = 0
    for place in range(places):
        start = last * place // max(1, places - 1) * size
        _count_places(data, start, start + count * size, size, counts)
    phase, _ = _steepest(counts, size, count * places, logs)
    counts[:4096] = 0
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
    if differences >= most * _entropy(counts, 2048, size, total, logs):
        return phase
    return phase + 256 * (1 + np.int64(1024 * differences / np.float32(8 * size * total)))


@kernel(types.int64(R8, types.int64, types.int64, types.int64, I32, F32, types.float32))
def look_at_elements(data, places, count, size, counts, logs, most):
    """Where elements of 2, 4 or 8 bytes begin, modulo that, and whether they are integers.

    The sum of that place, and, if differences of neighbours take less than the share `most` of what
    elements take, of 256 times one more than the share of their size that they take, in 1024ths.
    Elements begin behind the most certain byte, since the byte of the highest
    significance varies least, and that of the lowest most.

    Looks at `count` elements of `size` bytes at so many places, the first one where `data` begins,
    the last one where it ends but for one element. `logs`: to the number of all that are looked at.
    Work space: `counts`, int32[4096].
    """
    if size == 2:  # loops over bytes are of known length each
        return _look(data, places, count, 2, counts, logs, most)
    if size == 4:
        return _look(data, places, count, 4, counts, logs, most)
    return _look(data, places, count, 8, counts, logs, most)


@inlined
def _is_any(data, at, size, mark, low):
    """Whether a place is looked at among so many, a multiple of 16; see `repeated`."""
    nearest = np.uint8(255)  # a least value, which is found in vectors
    for k in range(size):
        i = at + index(k)
        behind = (data[i + index(8)] ^ low) & np.uint8(15)
        nearest = min(nearest, np.uint8((data[i] ^ mark) | behind))
    return nearest == 0


@kernel(types.int64(R8, types.int64, I32, W64, I32))
def repeated(data, near, counts, anchors, places):
    """How many of the places that are looked at hold 8 bytes that one less than `near` before held.

    They are those behind a byte of average frequency and, 8 bytes on, one that ends with the same
    four bits: about one in 4096, wherever what repeats lies. Work space: `counts`, int32[256],
    `anchors`, uint64[4096], and `places`, int32[4096]; `data`: of less than 2 GB.
    """
    counts[:256] = 0
    piece = min(data.size, _COUNTED) // _PLACES
    for place in range(_PLACES):
        begin = data.size // _PLACES * place
        for i in range(begin, begin + piece):
            counts[data[i]] += 1
    mark = np.uint8(1)
    for s in range(1, 255):
        if abs(256 * counts[s] - _PLACES * piece) < abs(256 * counts[mark] - _PLACES * piece):
            mark = np.uint8(s)
    low = mark & np.uint8(15)
    anchors[:] = 0
    places[:] = -(1 << 31)  # never: eight bytes that are 0 look like an anchor
    found = np.int64(0)
    end = data.size - _BLOCK - 17
    for block in range(0, end, _BLOCK):
        if not _is_any(data, index(block), _BLOCK, mark, low):
            continue
        for part in range(block, block + _BLOCK, _PART):
            if not _is_any(data, index(part), _PART, mark, low):
                continue
            for i in range(index(part), index(part + _PART)):
                if data[i] == mark and (data[i + index(8)] & 15) == low:
                    eight = load_u64(data, i + index(9))
                    slot = (eight * _SPREAD) >> np.uint64(52)
                    near_it = np.int64(i) - places[slot] < near
                    found += np.int64(near_it and anchors[slot] == eight)
                    anchors[slot] = eight
                    places[slot] = np.int32(i)
    return found


@inlined
def _glance(data, begin, length, bits):
    """What so many bytes take under a code by place modulo 8.

    `bits` are words, since LLVM looks up longer ones in vectors, which some processors do slowly.
    """
    total = np.int64(0)
    for i in range(index(begin), index(begin + length), index(8)):
        eight = load_u64(data, i)
        for k in range(index(8)):
            total += bits[(k << index(8)) + index(eight & np.uint64(255))]
            eight >>= np.uint64(8)
    return total


@njit
def _cheapest(costs, rows, coarse):
    """The way that the windows priced first take least in, all together."""
    way = 0
    least = np.float32(0)
    for other in range(WAYS):
        total = np.float32(0)
        for row in range(rows):
            total += costs[row * coarse, other]
        if other == 0 or total < least:
            way, least = other, total
    return way


@njit
def _joined(data, at, window, cost, way, common, counts, logs):
    """Whether a window is of the same kind as others in a way, and where elements begin in all.

    That place as of `_phase`; `common` is it so far.
    """
    for other in range(WAYS):
        if cost[way] > cost[other] + window // 8:
            return False, common
    size = _size_of(way)
    phase = _phase(data, at, size, counts, logs) if size else -1
    if phase == -1:
        return True, common
    return common in (-1, phase), phase


@njit
def _size_of(way):
    """Bytes of an element of a way that does not say where these begin; else 0."""
    return 2 if way == 1 else 4 if way == 4 else 8 if way == 9 else 0


@njit
def _one_way(data, apart, coarse, window, length, most, counts, logs, lengths, bits, costs, found):
    """The way that suits all of `data`, as `survey` says; 0 where not all windows are alike."""
    windows = costs.shape[0]
    rows = windows // coarse
    together = counts[counts.size - 256 * PHASES :]
    together[:] = 0
    for row in range(rows):
        _price(data, row * coarse * apart, window, counts, logs, costs[row * coarse])
        for s in range(256 * PHASES):
            together[s] += counts[s]
    way = _cheapest(costs, rows, coarse)
    if way == 0:
        return 0
    for s in range(256 * PHASES):
        bits[s] = lengths[together[s]]
    common = -1
    usual = np.int64(0)
    for row in range(rows):
        w = row * coarse
        alike, common = _joined(data, w * apart, window, costs[w], way, common, counts, logs)
        if not alike:
            return 0
        usual += _glance(data, w * apart, length, bits)
    unlike = 0
    found[:2] = 0
    for w in range(windows):
        at = w * apart
        told = w % coarse == 0 and w // coarse < rows
        if told or _glance(data, at, length, bits) * rows <= most * usual:
            continue
        unlike += 1
        if unlike > windows // _MAX_UNLIKE:
            return 0
        cost = costs[w]
        _price(data, at, window, counts, logs, cost)
        alike, common = _joined(data, at, window, cost, way, common, counts, logs)
        if not alike:
            return 0
        found[0] += cost[way]
        found[1] += cost[0]
    for row in range(rows):
        found[0] += costs[row * coarse, way] * np.float32(windows - unlike) / np.float32(rows)
        found[1] += costs[row * coarse, 0] * np.float32(windows - unlike) / np.float32(rows)
    found[0] /= np.float32(windows)
    found[1] /= np.float32(windows)
    return way


@njit
def _cheapest_path(costs, weight, change, totals, came_from, path):
    """A way for each window, `path`, by dynamic programming: a change of ways costs `change` bits.

    A window stands for `weight` times its bits. Work space: as of `survey`.
    """
    windows = costs.shape[0]
    for w in range(windows):
        least = np.float32(0)
        best = 0
        for s in range(WAYS):
            if w == 0:
                totals[s] = np.float32(0)
            if totals[s] < totals[best]:
                best = s
        least = totals[best]
        for s in range(WAYS):
            move = totals[s] > least + change
            came_from[w * WAYS + s] = best if move else s
            totals[s] = (change if move else totals[s] - least) + weight * costs[w, s]
    best = 0
    for s in range(WAYS):
        if totals[s] < totals[best]:
            best = s
    for w in range(windows - 1, -1, -1):
        path[w] = best
        best = came_from[w * WAYS + best]


@njit
def _label(data, apart, counts, logs, path, labels):
    """Ways, plus WAYS times where elements begin, modulo their size, where the way says it not.

    Where that does not show, it is as in the window of this way before, or else the first behind.
    """
    for w in range(path.size):
        labels[w] = path[w]
    for way in range(WAYS):
        size = _size_of(way)
        first = last = -1
        for w in range(path.size):
            if size and path[w] == way:
                phase = _phase(data, w * apart, size, counts, logs)
                last = phase if phase >= 0 else last
                if first < 0 <= last:
                    first = last
                    for before in range(w):
                        labels[before] += WAYS * first if path[before] == way else 0
                labels[w] += WAYS * max(last, 0)


@kernel(
    types.int64(R8, types.int64, types.int64, types.int64, types.int64, types.float64,
                types.float32, I32, F32, W16, W16, F32_2D, F32, W8)
)  # fmt: skip
def survey(
    data, apart, coarse, window, length, most, change, counts, logs, lengths, bits, costs, found,
    labels
):  # fmt: skip
    """What windows of `data`, `apart`, are: the way that suits all of it, 0 where bytes do; or -1.

    First, every `coarse`-th window is priced, unless that is 0. A window of which the first
    `length` bytes, under the code of those, take more than `most` times what these take on average
    is priced too; half of the windows may be so. If all are alike, their way is returned, and
    `found`, float32[WAYS], begins with the bits of a window in this way and as bytes. `lengths`:
    bits of a symbol by its count in all that are priced first, in any unit.

    Else all are priced, and the cheapest sequence of ways is what `labels`, uint8[windows * (WAYS +
    2)], begins with, see `_label`; a change of ways costs `change` bits, and `costs`,
    float32[windows, WAYS], is what each takes in each way. -1 is returned if labels differ. A
    window ends a byte before `data` does, or earlier.

    Work space: `counts`, int32[COUNTS + 2048], and `bits`, uint16[2048]. `window` and `logs`: as of
    `window_costs`.
    """
    windows = costs.shape[0]
    for w in range(windows):
        costs[w, 0] = -1  # not priced yet
    if coarse:
        way = _one_way(
            data, apart, coarse, window, length, most, counts, logs, lengths, bits, costs, found
        )
        if way:
            return way
    mixed = False
    for w in range(windows):
        if costs[w, 0] < 0:
            _price(data, w * apart, window, counts, logs, costs[w])
        for s in range(WAYS):
            mixed |= costs[w, s] < costs[w, 0]
    if not mixed:
        return 0
    weight = np.float32(apart) / np.float32(window)
    path = labels[windows : 2 * windows]
    _cheapest_path(costs, weight, change, found, labels[2 * windows :], path)
    _label(data, apart, counts, logs, path, labels)
    found[:2] = 0
    for w in range(windows):
        if labels[w] != labels[0]:
            return -1
        found[0] += costs[w, path[0]] / np.float32(windows)
        found[1] += costs[w, 0] / np.float32(windows)
    return np.int64(path[0])


@kernel(types.int64(R8, I64, I64, types.int64, types.int64, types.int64, W16, W16, I32))
def border(data, before, behind, window, begin, end, lengths, lengths_behind, counts):
    """Where between `begin` and `end` what comes before changes to what comes behind.

    Windows that begin at `before` and at `behind`, multiples of 8, tell what that is. `lengths` and
    `lengths_behind`: units of bits of a symbol by its count in all of these, at one place modulo 8.
    Work space: `counts`, int32[2 * PHASES * 256].
    """
    there = PHASES * 256
    counts[: 2 * there] = 0
    for w in range(before.size):
        _count_by_place(data, before[w], window, counts)
    for w in range(behind.size):
        _count_by_place(data, behind[w], window, counts[there:])
    for s in range(there):  # sums are of integers, which add up in a quarter of the time
        counts[s] = np.int32(lengths[counts[s]]) - np.int32(lengths_behind[counts[there + s]])
    total = np.int64(0)
    least = np.int64(0)
    found = begin
    for i in range(begin, end):
        total += counts[256 * (i & 7) + data[i]]
        if total < least:
            least = total
            found = i + 1
    return found
