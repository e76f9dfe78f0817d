"""Compiled loops of the planar codec: arrays in, arrays out; no allocation, no validation.

Split kernels: `data`, uint8[n * size], elements in memory order; `planes`, uint8[planes * n].

Merge kernels: run `r` of plane `p` lies at `where[p, r]` in `payload` if `stored[p]`, else in
`scratch`; all runs have `run` elements but the last, which has the rest of `out`, uint8[n * size].
"""

import numpy as np
from numba import njit, types

from densor.codec.registry import (
    CLASS_CONSTANT,
    CLASS_HUFFMAN,
    CLASS_RAW,
    PLANE_CLASSES,
    PLANE_CONSTANT,
    PLANE_RAW,
    PLANE_ZSTD,
)
from densor.entropy.huffman.kernels import decode_streams
from densor.entropy.intrinsics import (
    copy_bytes,
    load_u16,
    load_u32,
    load_u64,
    store_u16,
    store_u32,
    store_u64,
)
from densor.entropy.jit import I64, R8, W8, W32, W64, kernel

I64_2D = types.int64[:, ::1]
F32_2D = types.float32[:, ::1]
R8_2D = types.Array(types.uint8, 2, "C", readonly=True)
R64_2D = types.Array(types.uint64, 2, "C", readonly=True)
U16_2D = types.uint16[:, ::1]
F32 = types.float32[::1]
F64 = types.float64[::1]
_SPLIT = types.void(R8, W8)
_MERGE = types.void(R8, R8, I64_2D, R8, types.int64, W8)

ERRORS = (
    "",
    "planar chunk is too short",
    "plane reaches beyond its chunk",
    "raw plane has the wrong length",
    "constant plane has the wrong length",
    "plane is coded by classes, but its model has none",
    "class map is too short",
    "class map names a class that the model does not have, or has bits left over",
    "class section is too short",
    "Huffman streams are longer than their section",
    "class section has the wrong length",
    "Huffman stream does not end with its last symbol",
    "plane has an unknown mode",
    "planar chunk is too long",
)


@kernel(_SPLIT)
def split_bf16(data, planes):
    n = planes.size // 2
    exponent = planes[:n]
    rest = planes[n:]
    for i in range(n):
        v = load_u16(data, 2 * i)
        exponent[i] = np.uint8((v >> 7) & 255)
        rest[i] = np.uint8(((v >> 8) & 128) | (v & 127))


@kernel(_SPLIT)
def split_word16(data, planes):
    n = planes.size // 2
    high = planes[:n]
    low = planes[n:]
    for i in range(n):
        v = load_u16(data, 2 * i)
        high[i] = np.uint8(v >> 8)
        low[i] = np.uint8(v & 255)


@kernel(_SPLIT)
def split_fp32(data, planes):
    n = planes.size // 4
    p0 = planes[:n]
    p1 = planes[n : 2 * n]
    p2 = planes[2 * n : 3 * n]
    p3 = planes[3 * n :]
    for i in range(n):
        v = load_u32(data, 4 * i)
        p0[i] = np.uint8((v >> 23) & 255)
        p1[i] = np.uint8(((v >> 24) & 128) | ((v >> 16) & 127))
        p2[i] = np.uint8((v >> 8) & 255)
        p3[i] = np.uint8(v & 255)


@kernel(_SPLIT)
def split_word32(data, planes):
    n = planes.size // 4
    p0 = planes[:n]
    p1 = planes[n : 2 * n]
    p2 = planes[2 * n : 3 * n]
    p3 = planes[3 * n :]
    for i in range(n):
        v = load_u32(data, 4 * i)
        p0[i] = np.uint8(v >> 24)
        p1[i] = np.uint8((v >> 16) & 255)
        p2[i] = np.uint8((v >> 8) & 255)
        p3[i] = np.uint8(v & 255)


@kernel(_SPLIT)
def split_word64(data, planes):
    n = planes.size // 8
    for p in range(8):
        plane = planes[p * n : (p + 1) * n]
        shift = np.uint64(56 - 8 * p)
        for i in range(n):
            plane[i] = np.uint8((load_u64(data, 8 * i) >> shift) & np.uint64(255))


_FP64_FRACTION = np.uint64((1 << 45) - 1)
_FP64_BIAS = np.uint64(896)  # of FP64 less that of FP32


@njit
def _fp64_to_word(v):
    """FP64 bits rearranged so that the planes of layout `fp64` are the bytes, top first."""
    exponent = ((v >> np.uint64(52)) - _FP64_BIAS) & np.uint64(2047)
    return (
        (exponent & np.uint64(255)) << np.uint64(56)
        | (v >> np.uint64(63)) << np.uint64(55)
        | ((v >> np.uint64(45)) & np.uint64(127)) << np.uint64(48)
        | (exponent >> np.uint64(8)) << np.uint64(45)
        | (v & _FP64_FRACTION)
    )


@njit
def _word_to_fp64(w):
    exponent = (w >> np.uint64(56)) | ((w >> np.uint64(45)) & np.uint64(7)) << np.uint64(8)
    exponent = (exponent + _FP64_BIAS) & np.uint64(2047)
    return (
        ((w >> np.uint64(55)) & np.uint64(1)) << np.uint64(63)
        | exponent << np.uint64(52)
        | ((w >> np.uint64(48)) & np.uint64(127)) << np.uint64(45)
        | (w & _FP64_FRACTION)
    )


@kernel(_SPLIT)
def split_fp64(data, planes):
    n = planes.size // 8
    for p in range(8):
        plane = planes[p * n : (p + 1) * n]
        shift = np.uint64(56 - 8 * p)
        for i in range(n):
            word = _fp64_to_word(load_u64(data, 8 * i))
            plane[i] = np.uint8((word >> shift) & np.uint64(255))


@njit
def _run(payload, scratch, where, stored, plane, r, m):
    source = payload if stored[plane] else scratch
    begin = where[plane, r]
    return source[begin : begin + m]


@kernel(_MERGE)
def merge_byte(payload, scratch, where, stored, run, out):
    for r in range(where.shape[1]):
        begin = r * run
        m = min(run, out.size - begin)
        copy_bytes(out, begin, _run(payload, scratch, where, stored, 0, r, m), 0, m)


@kernel(_MERGE)
def merge_bf16(payload, scratch, where, stored, run, out):
    n = out.size // 2
    for r in range(where.shape[1]):
        begin = r * run
        m = min(run, n - begin)
        exponent = _run(payload, scratch, where, stored, 0, r, m)
        rest = _run(payload, scratch, where, stored, 1, r, m)
        target = out[2 * begin : 2 * (begin + m)]
        for i in range(m):
            s = np.uint16(rest[i])
            v = (s & np.uint16(128)) << np.uint16(8)
            v |= np.uint16(exponent[i]) << np.uint16(7) | s & np.uint16(127)
            store_u16(target, 2 * i, np.uint16(v))


@kernel(_MERGE)
def merge_word16(payload, scratch, where, stored, run, out):
    n = out.size // 2
    for r in range(where.shape[1]):
        begin = r * run
        m = min(run, n - begin)
        high = _run(payload, scratch, where, stored, 0, r, m)
        low = _run(payload, scratch, where, stored, 1, r, m)
        target = out[2 * begin : 2 * (begin + m)]
        for i in range(m):
            store_u16(target, 2 * i, np.uint16(np.uint16(high[i]) << np.uint16(8) | low[i]))


@kernel(_MERGE)
def merge_fp32(payload, scratch, where, stored, run, out):
    n = out.size // 4
    for r in range(where.shape[1]):
        begin = r * run
        m = min(run, n - begin)
        p0 = _run(payload, scratch, where, stored, 0, r, m)
        p1 = _run(payload, scratch, where, stored, 1, r, m)
        p2 = _run(payload, scratch, where, stored, 2, r, m)
        p3 = _run(payload, scratch, where, stored, 3, r, m)
        target = out[4 * begin : 4 * (begin + m)]
        for i in range(m):
            s = np.uint32(p1[i])
            v = (s & np.uint32(128)) << np.uint32(24) | (s & np.uint32(127)) << np.uint32(16)
            v |= np.uint32(p0[i]) << np.uint32(23) | np.uint32(p2[i]) << np.uint32(8)
            store_u32(target, 4 * i, np.uint32(v | np.uint32(p3[i])))


@kernel(_MERGE)
def merge_word32(payload, scratch, where, stored, run, out):
    n = out.size // 4
    for r in range(where.shape[1]):
        begin = r * run
        m = min(run, n - begin)
        p0 = _run(payload, scratch, where, stored, 0, r, m)
        p1 = _run(payload, scratch, where, stored, 1, r, m)
        p2 = _run(payload, scratch, where, stored, 2, r, m)
        p3 = _run(payload, scratch, where, stored, 3, r, m)
        target = out[4 * begin : 4 * (begin + m)]
        for i in range(m):
            v = np.uint32(p0[i]) << np.uint32(24) | np.uint32(p1[i]) << np.uint32(16)
            v |= np.uint32(p2[i]) << np.uint32(8) | np.uint32(p3[i])
            store_u32(target, 4 * i, np.uint32(v))


@njit
def _merge_words(payload, scratch, where, stored, r, m, target):
    """Eight byte planes of one run into words, top byte first."""
    p0 = _run(payload, scratch, where, stored, 0, r, m)
    p1 = _run(payload, scratch, where, stored, 1, r, m)
    p2 = _run(payload, scratch, where, stored, 2, r, m)
    p3 = _run(payload, scratch, where, stored, 3, r, m)
    p4 = _run(payload, scratch, where, stored, 4, r, m)
    p5 = _run(payload, scratch, where, stored, 5, r, m)
    p6 = _run(payload, scratch, where, stored, 6, r, m)
    p7 = _run(payload, scratch, where, stored, 7, r, m)
    for i in range(m):
        v = np.uint64(p0[i]) << np.uint64(56) | np.uint64(p1[i]) << np.uint64(48)
        v |= np.uint64(p2[i]) << np.uint64(40) | np.uint64(p3[i]) << np.uint64(32)
        v |= np.uint64(p4[i]) << np.uint64(24) | np.uint64(p5[i]) << np.uint64(16)
        v |= np.uint64(p6[i]) << np.uint64(8) | np.uint64(p7[i])
        store_u64(target, 8 * i, v)


@kernel(_MERGE)
def merge_word64(payload, scratch, where, stored, run, out):
    n = out.size // 8
    for r in range(where.shape[1]):
        begin = r * run
        m = min(run, n - begin)
        target = out[8 * begin : 8 * (begin + m)]
        _merge_words(payload, scratch, where, stored, r, m, target)


@kernel(_MERGE)
def merge_fp64(payload, scratch, where, stored, run, out):
    n = out.size // 8
    for r in range(where.shape[1]):
        begin = r * run
        m = min(run, n - begin)
        target = out[8 * begin : 8 * (begin + m)]
        _merge_words(payload, scratch, where, stored, r, m, target)
        for i in range(m):
            store_u64(target, 8 * i, _word_to_fp64(load_u64(target, 8 * i)))


@njit
def _plan_runs(class_map, map_bits, n, run, first, where, counts):
    """Where the runs of a chunk of `n` elements lie once grouped by class.

    `where`, int64[runs], receives the offset of each run, counted from `first`; `counts`,
    int64[classes], the elements of each class. `class_map` holds `map_bits` bits per run. False
    if a class number is too high, or unused bits are not 0.
    """
    classes = counts.size
    counts[:] = 0
    mask = (1 << map_bits) - 1
    per_byte = 8 // map_bits
    for r in range(where.size):
        c = (class_map[r // per_byte] >> (r % per_byte * map_bits)) & mask
        if c >= classes:
            return False
        where[r] = counts[c]  # for now relative to its class
        counts[c] += min(run, n - r * run)
    begin = first
    for c in range(classes):
        size = counts[c]
        counts[c] = begin
        begin += size
    for r in range(where.size):
        c = (class_map[r // per_byte] >> (r % per_byte * map_bits)) & mask
        where[r] += counts[c]
    for c in range(classes):
        counts[c] = (counts[c + 1] if c + 1 < classes else first + n) - counts[c]
    left = where.size % per_byte
    return left == 0 or class_map[class_map.size - 1] >> (left * map_bits) == 0


@njit
def _decode_classes(
    section, at, kinds, symbols, lengths, tables, bits, counts, area, positions, ends
):
    """Decodes a class section, whose class map ends at `at`, into `area`, class by class.

    Returns 0 or the number of one of `ERRORS`. `counts`: int64[classes], elements of each class,
    in all `area.size`. `kinds`, `symbols`: uint8[classes]. `lengths`: uint8[classes, 256].
    `tables`, `bits`: as from `build_tables`.
    """
    raw = 0
    coded = False
    for c in range(kinds.size):
        if kinds[c] == CLASS_RAW:
            raw += counts[c]
        elif kinds[c] == CLASS_HUFFMAN and counts[c] > 0:
            coded = True
    raw_at = at + 16 * coded
    if raw + 8 > section.size - raw_at:
        return 8
    end = raw_at + raw
    if coded:
        for stream in range(4):
            positions[stream] = np.uint64(end * 8)
            end += np.int64(load_u32(section, at + 4 * stream))
            if end > section.size - 8:
                return 9
            ends[stream] = end
    if end != section.size - 8 or load_u64(section, end) != 0:
        return 10
    target = 0
    for c in range(kinds.size):
        count = counts[c]
        if count == 0:
            continue
        if kinds[c] == CLASS_CONSTANT:
            area[target : target + count] = symbols[c]
        elif kinds[c] == CLASS_RAW:
            copy_bytes(area, target, section, raw_at, count)
            raw_at += count
        else:
            decode_streams(section, positions, tables[c], bits[c], lengths[c], area, target, count)
            for stream in range(4):
                if np.int64(positions[stream] >> np.uint64(3)) > section.size - 8:
                    return 11
        target += count
    if coded:
        for stream in range(4):
            if np.int64((positions[stream] + np.uint64(7)) >> np.uint64(3)) != ends[stream]:
                return 11
    return 0


@kernel(
    types.int64(
        R8, types.int64, types.int64, types.int64, I64, R8, R8, R8_2D, R64_2D, I64,
        W8, I64_2D, W8, I64, W64, I64,
    )
)  # fmt: skip
def decode_planes(
    payload, n, run, map_run, first_class, kinds, symbols, lengths, tables, bits,
    scratch, where, stored, counts, positions, ends,
):  # fmt: skip
    """Decodes the planes of a chunk of `n` elements as far as they need it.

    Returns 0 or the number of one of `ERRORS`: this kernel checks the payload as it goes, since
    calls for each plane would cost more than a small chunk itself.

    `payload`: modes and lengths, then the sections. `run`: elements per run of `where`; `map_run`:
    of the class maps, the same unless no plane has one. Classes of all planes stand one after the
    other, those of plane p from `first_class[p]` on, int64[planes + 1]: `kinds`, `symbols`:
    uint8[classes]; `lengths`: uint8[classes, 256]; `tables`, `bits`: as from `build_tables`.

    Results, as the merge kernels want them: `scratch`, uint8[planes * n], in which planes stored
    with Zstandard stand already; `where`, int64[planes, runs]; `stored`, uint8[planes]. Work
    space: `counts` int64[16], `positions` uint64[4], `ends` int64[4].
    """
    planes = stored.size
    at = 5 * planes
    if payload.size < at:
        return 1
    for p in range(planes):
        mode = payload[5 * p]
        end = at + np.int64(load_u32(payload, 5 * p + 1))
        if end > payload.size:
            return 2
        first = p * n
        begin = first
        classes = first_class[p + 1] - first_class[p]
        stored[p] = mode == PLANE_RAW
        mapped = False
        if mode == PLANE_RAW:
            if end - at != n:
                return 3
            begin = at
        elif mode == PLANE_CONSTANT:
            if end - at != 1:
                return 4
            scratch[first : first + n] = payload[at]
        elif mode == PLANE_CLASSES:
            if classes == 0:
                return 5
            section = payload[at:end]
            low = first_class[p]
            high = first_class[p + 1]
            skip = 0
            counts[0] = n
            if classes > 1:
                map_bits = 1 if classes == 2 else 2 if classes <= 4 else 4
                skip = (where.shape[1] * map_bits + 7) // 8
                if skip > section.size:
                    return 6
                mapped = True
                if not _plan_runs(
                    section[:skip], map_bits, n, map_run, first, where[p], counts[:classes]
                ):
                    return 7
            error = _decode_classes(
                section, skip, kinds[low:high], symbols[low:high], lengths[low:high],
                tables[low:high], bits[low:high], counts[:classes],
                scratch[first : first + n], positions, ends,
            )  # fmt: skip
            if error:
                return error
        elif mode != PLANE_ZSTD:
            return 12
        if not mapped:
            row = where[p]
            for r in range(row.size):
                row[r] = begin + r * run
        at = end
    return 0 if at == payload.size else 13


@kernel(types.void(R8, R8, types.int64, I64, W8))
def group_runs(plane, classes, run, next_offset, grouped):
    """Copies the runs of `plane` into `grouped`, class by class.

    `classes`, uint8[runs]; `next_offset`, int64[classes], where each class begins (it is advanced).
    """
    for r in range(classes.size):
        begin = r * run
        m = min(run, plane.size - begin)
        target = next_offset[classes[r]]
        copy_bytes(grouped, target, plane, begin, m)
        next_offset[classes[r]] = target + m


@njit
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


@kernel(types.void(R8, types.int64, types.uint16[::1], U16_2D, I64))
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


@njit
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


@njit
def _range(counts):
    """First symbol that occurs, and the one after the last, of int64[256]."""
    low = 0
    while low < 255 and counts[low] == 0:
        low += 1
    high = 256
    while high > low + 1 and counts[high - 1] == 0:
        high -= 1
    return low, high


@njit
def _add_counts(counts, step, classes, total, low, high):
    """Adds the histogram of every `step`-th run to that of its class."""
    total[:] = 0
    for r in range(0, counts.shape[0], step):
        row = counts[r, low:high]
        target = total[classes[r], low:high]
        for i in range(row.size):
            target[i] += row[i]


@njit
def _set_costs(total, cost, low, high):
    """Ideal code lengths of each class from its histogram, no symbol quite impossible."""
    for c in range(total.shape[0]):
        sum_ = 0.0
        for s in range(low, high):
            sum_ += total[c, s] + 0.02
        for s in range(low, high):
            cost[c, s] = np.log2(sum_ / (total[c, s] + 0.02))


@njit(fastmath=True)
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


@njit
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


@njit
def _join(total, number, map_bits, class_bits, runs, low, high):
    """Joins classes two by two as long as the whole gets smaller; returns how many are left.

    `number[c]` receives what class c is called in the end; `total` is moved along.
    """
    left = 0
    for c in range(total.shape[0]):
        number[c] = left
        if total[c].sum() > 0:
            total[left] = total[c]
            left += 1
    while left > 1:
        best = -1e300
        a = 0
        b = 1
        for i in range(left):
            alone = _entropy_bits(total[i, low:high], total[i, low:high]) / 2
            for j in range(i + 1, left):
                other = _entropy_bits(total[j, low:high], total[j, low:high]) / 2
                gain = alone + other - _entropy_bits(total[i, low:high], total[j, low:high])
                if gain > best:
                    best = gain
                    a = i
                    b = j
        saved = class_bits + runs * (map_bits[left] - map_bits[left - 1])
        if best + saved <= 0:
            break
        total[a] += total[b]
        left -= 1
        for c in range(number.size):
            if number[c] == b:
                number[c] = a
            elif number[c] == left:
                number[c] = b
        total[b] = total[left]
    return left


@kernel(
    types.int64(
        U16_2D, I64, F64, types.int64, types.int64, R8, types.float64,
        F32_2D, F32, F64, I64_2D, I64, W8,
    )
)  # fmt: skip
def find_classes(
    counts, all_counts, borders, step, rounds, map_bits, class_bits,
    cost, row, mean, total, number, classes,
):  # fmt: skip
    """K-means over the histograms of runs, with code length as the distance.

    `counts`: uint16[runs, 256]; `all_counts`: int64[256], their sum. Starts from classes divided
    by the mean symbol at `borders`, ascending, in standard deviations; learns from every
    `step`-th run in some `rounds`; joins classes that do not pay: `class_bits` for each,
    `map_bits[n]` per run when there are n. Work space: `cost` float32[classes, 256],
    `row` float32[256], `mean` float64[runs], `number` int64[classes]. Result:
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
    return _join(total, number, map_bits, class_bits, counts.shape[0], low, high)


@kernel(types.void(U16_2D, I64, types.int64, F32_2D, F32, I64_2D, W8))
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
        target = varying[r * size : (r + 1) * size]
        if size == 8:
            first8 = load_u64(piece, 0)
            seen8 = np.uint64(0)
            for i in range(piece.size // 8):
                seen8 |= load_u64(piece, 8 * i) ^ first8
            store_u64(target, 0, seen8)
        elif size == 4:
            first4 = load_u32(piece, 0)
            seen4 = np.uint32(0)
            for i in range(piece.size // 4):
                seen4 |= load_u32(piece, 4 * i) ^ first4
            store_u32(target, 0, seen4)
        elif size == 2:
            first2 = load_u16(piece, 0)
            seen2 = np.uint16(0)
            for i in range(piece.size // 2):
                seen2 |= load_u16(piece, 2 * i) ^ first2
            store_u16(target, 0, seen2)
        else:
            seen1 = np.uint8(0)
            for i in range(piece.size):
                seen1 |= piece[i] ^ piece[0]
            target[0] = seen1
