"""Compiled loops of the planar codec: arrays in, arrays out; no allocation, no validation.

Split kernels: `data`, uint8[n * size], elements in memory order; `planes`, uint8[planes * n].

Merge kernels: run `r` of plane `p` lies at `where[p, r]` in `payload` if `stored[p]`, else in
`scratch`; all runs have `run` elements but the last, which has the rest of `out`, uint8[n * size].
"""

import numpy as np
from numba import njit, types

from densor.codec.registry import CLASS_CONSTANT, CLASS_HUFFMAN, CLASS_RAW
from densor.entropy.huffman.kernels import decode_streams
from densor.entropy.intrinsics import (
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
F64_2D = types.float64[:, ::1]
_SPLIT = types.void(R8, W8)
_MERGE = types.void(R8, R8, I64_2D, R8, types.int64, W8)

SECTION_ERRORS = (
    "",
    "class section is too short",
    "Huffman streams are longer than their section",
    "class section has the wrong length",
    "Huffman stream does not end with its last symbol",
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
        out[begin : begin + m] = _run(payload, scratch, where, stored, 0, r, m)


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


@kernel(types.boolean(R8, types.int64, types.int64, types.int64, types.int64, I64, I64))
def plan_runs(class_map, map_bits, n, run, first, where, counts):
    """Where the runs of a chunk of `n` elements lie once grouped by class.

    `where`, int64[runs], receives the offset of each run, counted from `first`; `counts`,
    int64[classes], the elements of each class. `class_map` holds `map_bits` bits per run. False
    if a class number is too high.
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
    return True


@kernel(types.int64(R8, types.int64, R8, R8, R8_2D, R64_2D, I64, I64, W8, W64, I64))
def decode_classes(
    section, at, kinds, symbols, lengths, tables, bits, counts, area, positions, ends
):
    """Decodes a class section, whose class map ends at `at`, into `area`, class by class.

    Returns 0, or the number of one of `SECTION_ERRORS`: this loop checks the section as it goes,
    since a call per class would cost more than a small class itself. `counts`: int64[classes],
    elements of each class, in all `area.size`. `kinds`, `symbols`: uint8[classes]. `lengths`:
    uint8[classes, 256]. `tables`, `bits`: as from `build_tables`. Work space: `positions`
    uint64[4], `ends` int64[4].
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
        return 1
    end = raw_at + raw
    if coded:
        for stream in range(4):
            positions[stream] = np.uint64(end * 8)
            end += np.int64(load_u32(section, at + 4 * stream))
            if end > section.size - 8:
                return 2
            ends[stream] = end
    if end != section.size - 8:
        return 3
    target = 0
    for c in range(kinds.size):
        count = counts[c]
        if count == 0:
            continue
        if kinds[c] == CLASS_CONSTANT:
            area[target : target + count] = symbols[c]
        elif kinds[c] == CLASS_RAW:
            area[target : target + count] = section[raw_at : raw_at + count]
            raw_at += count
        else:
            decode_streams(section, positions, tables[c], bits[c], lengths[c], area, target, count)
            for stream in range(4):
                if np.int64(positions[stream] >> np.uint64(3)) > section.size - 8:
                    return 4
        target += count
    if coded:
        for stream in range(4):
            if np.int64((positions[stream] + np.uint64(7)) >> np.uint64(3)) != ends[stream]:
                return 4
    return 0


@kernel(types.void(R8, R8, types.int64, I64, W8))
def group_runs(plane, classes, run, next_offset, grouped):
    """Copies the runs of `plane` into `grouped`, class by class.

    `classes`, uint8[runs]; `next_offset`, int64[classes], where each class begins (it is advanced).
    """
    for r in range(classes.size):
        begin = r * run
        m = min(run, plane.size - begin)
        target = next_offset[classes[r]]
        grouped[target : target + m] = plane[begin : begin + m]
        next_offset[classes[r]] = target + m


@kernel(types.void(R8, types.int64, W8, U16_2D))
def count_runs(plane, run, work, counts):
    """Histogram of each run of `plane`: `counts`, uint16[runs, 256], 65535 elements at most each.

    Four interleaved histograms keep equal neighbours from waiting on each other's stores.
    `work`: uint8[4 * 256 * 2].
    """
    table = work.view(np.uint16)
    for r in range(counts.shape[0]):
        piece = plane[r * run : min((r + 1) * run, plane.size)]
        table[:] = 0
        whole = piece.size & ~3
        for i in range(0, whole, 4):
            table[piece[i]] += np.uint16(1)
            table[256 + np.int64(piece[i + 1])] += np.uint16(1)
            table[512 + np.int64(piece[i + 2])] += np.uint16(1)
            table[768 + np.int64(piece[i + 3])] += np.uint16(1)
        for i in range(whole, piece.size):
            table[piece[i]] += np.uint16(1)
        row = counts[r]
        for s in range(256):
            row[s] = table[s] + table[256 + s] + table[512 + s] + table[768 + s]


@kernel(types.void(U16_2D, I64, F32_2D, types.float32[::1], W8), fastmath=True)
def assign_classes(counts, symbols, cost, work, classes):
    """For each run the class with the cheapest code.

    `counts`: uint16[runs, 256]. `symbols`: int64[used], those that occur. `cost`:
    float32[classes, used], bits of each. `work`: float32[used]. `classes`: uint8[runs].
    """
    for r in range(counts.shape[0]):
        for j in range(symbols.size):
            work[j] = np.float32(counts[r, symbols[j]])
        best = np.float32(3e38)  # no infinities: the sums may be reordered
        for c in range(cost.shape[0]):
            total = np.float32(0)
            row = cost[c]
            for j in range(symbols.size):
                total += work[j] * row[j]
            if total < best:
                best = total
                classes[r] = c


@kernel(types.void(R8, W32, I64))
def histogram(plane, work, counts):
    """Adds the histogram of `plane` to `counts`, int64[256]. `work`: uint32[4 * 256]."""
    work[:] = 0
    whole = plane.size & ~3
    for i in range(0, whole, 4):
        work[plane[i]] += np.uint32(1)
        work[256 + np.int64(plane[i + 1])] += np.uint32(1)
        work[512 + np.int64(plane[i + 2])] += np.uint32(1)
        work[768 + np.int64(plane[i + 3])] += np.uint32(1)
    for i in range(whole, plane.size):
        work[plane[i]] += np.uint32(1)
    for s in range(256):
        counts[s] += work[s] + work[256 + s] + work[512 + s] + work[768 + s]


@njit
def _entropy_bits(a, b):
    total = 0
    bits = 0.0
    for s in range(256):
        count = a[s] + b[s]
        if count > 0:
            total += count
            bits -= count * np.log2(count)
    return bits + total * np.log2(total) if total > 0 else 0.0


@kernel(types.void(I64_2D, F64_2D))
def pair_entropies(counts, bits):
    """Order-0 entropy in bits of the union of each two histograms, `counts`, int64[n, 256].

    `bits`, float64[n, n], receives that of a and b at [a, b] for a <= b; alone at [a, a].
    """
    for a in range(counts.shape[0]):
        bits[a, a] = _entropy_bits(counts[a], counts[a]) / 2
        for b in range(a + 1, counts.shape[0]):
            bits[a, b] = _entropy_bits(counts[a], counts[b])


@kernel(types.void(U16_2D, R8, I64_2D))
def add_counts(counts, classes, total):
    """Adds the histogram of each run to that of its class: `total`, int64[classes, 256]."""
    for r in range(counts.shape[0]):
        row = counts[r]
        target = total[classes[r]]
        for s in range(256):
            target[s] += row[s]


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
