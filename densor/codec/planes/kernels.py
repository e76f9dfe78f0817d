"""Compiled loops of decoding planes: arrays in, arrays out; no allocation.

None validates its arguments, but `decode_planes` checks the payload: see there.
"""

import numpy as np
from numba import njit, types

from densor.codec.planes.decoding import (
    CHUNK_TOO_LONG,
    CHUNK_TOO_SHORT,
    CONSTANT_LENGTH,
    MAP_CONTENT,
    MAP_TOO_SHORT,
    NO_CLASSES,
    PLANE_BEYOND_CHUNK,
    RAW_LENGTH,
    SECTION_LENGTH,
    SECTION_TOO_SHORT,
    STREAM_END,
    STREAMS_TOO_LONG,
    UNKNOWN_MODE,
    UNUSED_BITS,
    Codes,
    Work,
)
from densor.codec.planes.payload import LENGTHS_SIZE, SECTION, map_bits
from densor.codec.registry import (
    CLASS_CONSTANT,
    CLASS_HUFFMAN,
    CLASS_RAW,
    PLANE_CLASSES,
    PLANE_CONSTANT,
    PLANE_RAW,
    PLANE_ZSTD,
)
from densor.entropy.huffman.code import SLACK, STREAMS
from densor.entropy.huffman.kernels import decode_streams
from densor.entropy.intrinsics import copy_bytes, load_u32, load_u64
from densor.entropy.jit import I64, R8, W8, W64, kernel

I64_2D = types.int64[:, ::1]
R8_2D = types.Array(types.uint8, 2, "C", readonly=True)
R64_2D = types.Array(types.uint64, 2, "C", readonly=True)

_SECTION_SIZE = SECTION.size
_map_bits = njit(map_bits)


@njit
def _unpack_class_map(class_map, bits, classes, runs):
    per_byte = 8 // bits
    mask = (1 << bits) - 1
    good = True
    for r in range(runs.size):
        c = (class_map[r // per_byte] >> (r % per_byte * bits)) & mask
        good &= c < classes
        runs[r] = c
    left = runs.size % per_byte
    return good and (left == 0 or class_map[runs.size // per_byte] >> (left * bits) == 0)


@kernel(types.boolean(R8, types.int64, types.int64, W8))
def unpack_class_map(class_map, bits, classes, runs):
    """Class numbers of 1, 2 or 4 `bits` to `runs`, uint8[runs].

    `class_map`: uint8[ceil(runs * bits / 8)]. False if a number is not below `classes`, or unused
    bits are not 0.
    """
    return _unpack_class_map(class_map, bits, classes, runs)


@kernel(types.void(R8, types.int64, W8))
def spread(runs, run, contexts):
    """The class of each element: `runs`, uint8[runs], `run` times each, to `contexts`, uint8[n].

    The last run may be shorter: n is above (runs - 1) * run.
    """
    for r in range(runs.size):
        contexts[r * run : min((r + 1) * run, contexts.size)] = runs[r]


@njit
def _plan_runs(class_map, n, run, first, where, counts):
    """Where the runs of a chunk of `n` elements lie once grouped by class.

    `where`, int64[runs], receives the offset of each run, counted from `first`; `counts`,
    int64[classes], the elements of each class. False if the class map is none.
    """
    classes = counts.size
    if not _unpack_class_map(class_map, _map_bits(classes), classes, where):
        return False
    counts[:] = 0
    for r in range(where.size):
        counts[where[r]] += run
    if where.size:
        counts[where[where.size - 1]] -= where.size * run - n
    begin = first
    for c in range(classes):
        size = counts[c]
        counts[c] = begin
        begin += size
    for r in range(where.size):
        c = where[r]
        where[r] = counts[c]
        counts[c] += min(run, n - r * run)
    for c in range(classes - 1, -1, -1):  # each ends where the next one began
        counts[c] -= counts[c - 1] if c > 0 else first
    return True


@njit
def _decode_classes(section, at, codes, low, high, work, area):
    """Decodes a class section, whose class map ends at `at`, into `area`, class by class.

    Returns 0 or one of `ERRORS`. The classes are those of `codes` from `low` to `high`, of which
    `work.counts` tells the elements, in all `area.size`.
    """
    raw = 0
    coded = False
    for c in range(low, high):
        count = work.counts[c - low]
        if codes.kinds[c] == CLASS_RAW:
            raw += count
        elif codes.kinds[c] == CLASS_HUFFMAN and count > 0:
            coded = True
    raw_at = at + LENGTHS_SIZE * coded
    if raw + SLACK > section.size - raw_at:
        return SECTION_TOO_SHORT
    end = raw_at + raw
    if coded:
        for stream in range(STREAMS):
            work.positions[stream] = np.uint64(end * 8)
            end += np.int64(load_u32(section, at + 4 * stream))
            if end > section.size - SLACK:
                return STREAMS_TOO_LONG
            work.ends[stream] = end
    if end != section.size - SLACK or load_u64(section, end) != 0:
        return SECTION_LENGTH
    target = 0
    for c in range(low, high):
        count = work.counts[c - low]
        if count == 0:
            continue
        if codes.kinds[c] == CLASS_CONSTANT:
            area[target : target + count] = codes.symbols[c]
        elif codes.kinds[c] == CLASS_RAW:
            copy_bytes(area, target, section, raw_at, count)
            raw_at += count
        else:
            decode_streams(
                section, work.positions, codes.tables[c], codes.bits[c], codes.lengths[c],
                area, target, count,
            )  # fmt: skip
            for stream in range(STREAMS):
                if np.int64(work.positions[stream] >> np.uint64(3)) > section.size - SLACK:
                    return STREAM_END
        target += count
    return _check_ends(section, work) if coded else 0


@njit
def _check_ends(section, work):
    """Whether each stream ends where the next one begins, with bits 0 after its last symbol."""
    for stream in range(STREAMS):
        position = work.positions[stream]
        if np.int64((position + np.uint64(7)) >> np.uint64(3)) != work.ends[stream]:
            return STREAM_END
        used = position & np.uint64(7)
        if used and section[work.ends[stream] - 1] >> used:
            return UNUSED_BITS
    return 0


@kernel(
    types.int64(
        R8, types.int64, types.int64, types.int64, I64, R8, R8, R8_2D, R64_2D, I64,
        W8, I64_2D, W8, I64, W64, I64,
    )
)  # fmt: skip
def decode_planes(
    payload, n, run, map_run, first, kinds, symbols, lengths, tables, bits,
    scratch, where, stored, counts, positions, ends,
):  # fmt: skip
    """Decodes the planes of a chunk of `n` elements as far as they need it.

    Returns 0 or one of `ERRORS`: this kernel checks the payload as it goes, since calls for each
    plane would cost more than a small chunk itself. For the same reason it takes the fields of
    `Codes` and `Work` one by one: numba takes half a microsecond to unpack each tuple.

    `payload`: modes and lengths, then the sections. `run`: elements per run of `where`; `map_run`:
    of the class maps, the same unless no plane has one.

    Results, as the merge kernels want them: `scratch`, uint8[planes * n], in which planes stored
    with Zstandard stand already; `where`, int64[planes, runs]; `stored`, uint8[planes].
    """
    codes = Codes(first, kinds, symbols, lengths, tables, bits)
    work = Work(counts, positions, ends)
    planes = stored.size
    at = _SECTION_SIZE * planes
    if payload.size < at:
        return CHUNK_TOO_SHORT
    for p in range(planes):
        mode = payload[_SECTION_SIZE * p]
        end = at + np.int64(load_u32(payload, _SECTION_SIZE * p + 1))
        if end > payload.size:
            return PLANE_BEYOND_CHUNK
        plane_at = p * n
        begin = plane_at
        stored[p] = mode == PLANE_RAW
        mapped = False
        if mode == PLANE_RAW:
            if end - at != n:
                return RAW_LENGTH
            begin = at
        elif mode == PLANE_CONSTANT:
            if end - at != 1:
                return CONSTANT_LENGTH
            scratch[plane_at : plane_at + n] = payload[at]
        elif mode == PLANE_CLASSES:
            section = payload[at:end]
            low = first[p]
            high = first[p + 1]
            if low == high:
                return NO_CLASSES
            mapped = high - low > 1
            counts[0] = n
            skip = 0
            if mapped:
                skip = (where.shape[1] * _map_bits(high - low) + 7) // 8
                if skip > section.size:
                    return MAP_TOO_SHORT
                of_classes = counts[: high - low]
                if not _plan_runs(section[:skip], n, map_run, plane_at, where[p], of_classes):
                    return MAP_CONTENT
            area = scratch[plane_at : plane_at + n]
            error = _decode_classes(section, skip, codes, low, high, work, area)
            if error:
                return error
        elif mode != PLANE_ZSTD:
            return UNKNOWN_MODE
        if not mapped:
            row = where[p]
            for r in range(row.size):
                row[r] = begin + r * run
        at = end
    return 0 if at == payload.size else CHUNK_TOO_LONG


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
