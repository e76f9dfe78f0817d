"""The compiled loops that encode the low halves of floats of 4 bytes: two byte planes under rANS.

See `planes_rans.md`. The first plane holds the upper bytes. What is counted and what is coded comes
from the elements as they are; no plane is kept in between but those of one chunk.
"""

import numpy as np
from numba import types

from densor.codec import registry
from densor.codec.planes.payload import SECTION
from densor.codec.spans.chunk_kernels import is_constant
from densor.codec.spans.jit import once, part
from densor.entropy import vectors as v
from densor.entropy.intrinsics import (
    copy_bytes,
    load_u16,
    load_u32,
    load_u64,
    store_u16,
    store_u32,
)
from densor.entropy.jit import R8, W16, kernel
from densor.entropy.rans.constants import BITS, FIRST, STATES
from densor.entropy.rans.kernels import put_lanes

I64_2D = types.int64[:, ::1]
PLANES = 2
LOW_RULE = types.UniTuple(types.int64, 4)  # whether there is a model; run; classes of each plane
_HEAD = SECTION.size
_STATE_BYTES = 4 * STATES
_BYTE = np.uint64(255)
_SECOND = np.uint64(256)

_put_lanes = part(put_lanes.py_func)


@part
def put_one(x, start, words, at):
    """Codes one symbol under a state; returns both."""
    freq = start >> np.uint32(16)
    if (x >> np.uint32(20)) >= freq:
        at -= 2
        store_u16(words, at, np.uint16(x & np.uint32(0xFFFF)))
        x >>= np.uint32(16)
    quotient = x // freq
    rest = x - quotient * freq
    low = start & np.uint32(0xFFFF)
    return np.uint32((quotient << np.uint32(BITS)) + rest + low), at


@part
def _tally(data, begin, count, tables):
    """Adds low halves to histograms, `tables`, [2 planes, of elements in turn, 256]."""
    one = np.uint16(1)
    for i in range(begin, begin + (count & ~1), 2):
        two = load_u64(data, 4 * i)
        tables[(two >> np.uint64(8)) & _BYTE] += one
        tables[_SECOND + ((two >> np.uint64(40)) & _BYTE)] += one
        tables[np.uint64(512) + (two & _BYTE)] += one
        tables[np.uint64(768) + ((two >> np.uint64(32)) & _BYTE)] += one
    if count & 1:
        last = np.uint64(load_u32(data, 4 * (begin + count - 1)))
        tables[(last >> np.uint64(8)) & _BYTE] += one
        tables[np.uint64(512) + (last & _BYTE)] += one


@kernel(
    types.void(
        R8, types.int64, types.int64, types.int64, types.int64, types.uint16[:, :, ::1], I64_2D, W16
    ),
    counted=False,
)  # fmt: skip
def count_low_halves(data, begin, count, run, first, counts, totals, tables):
    """Histograms of the runs of two planes, 65535 symbols at most each.

    `data`: uint8[4 * elements], of which `count` from `begin` on are counted; `first`: the number
    of their first run. `counts`: uint16[2, runs, 256]; `totals`: int64[2, 256], to which all are
    added. Work space: `tables`, uint16[4 * 256].
    """
    for r in range((count + run - 1) // run):
        tables[:] = np.uint16(0)
        at = r * run
        _tally(data, begin + at, min(run, count - at), tables)
        for p in range(PLANES):
            row, total = counts[p, first + r], totals[p]
            table = tables[512 * p : 512 * (p + 1)]
            for s in range(256):
                row[s] = table[s] + table[256 + s]
            for s in range(256):
                total[s] += np.int64(row[s])


@part
def _split(data, begin, count, planes):
    whole = count & ~15
    for i in range(0, whole, 16):
        x = v.load_u32_bytes(data, 4 * (begin + i))
        v.store_u8(planes, i, v.both(v.shift_right(x, 8), v.splat(255)))
        v.store_u8(planes, count + i, v.both(x, v.splat(255)))
    for i in range(whole, count):
        x = load_u32(data, 4 * (begin + i))
        planes[i] = np.uint8((x >> np.uint32(8)) & np.uint32(255))
        planes[count + i] = np.uint8(x & np.uint32(255))


@part
def _put_map(runs, classes, out, at):
    """The class map, of whole bytes, to `out` before `at`; returns where it begins."""
    if classes < 2:
        return at
    bits = 1 if classes == 2 else 2 if classes <= 4 else 4
    each = 8 // bits
    size = (runs.size + each - 1) // each
    at -= size
    for k in range(size):
        byte = 0
        for i in range(k * each, min((k + 1) * each, runs.size)):
            byte |= np.int64(runs[i]) << (bits * (i - k * each))
        out[at + k] = np.uint8(byte)
    return at


@part
def _find_places(plane, run, runs, places):
    """Where symbols stand in a table by class and symbol, to bytes of uint16."""
    for r in range(runs.size):
        begin = r * run
        end = min(begin + run, plane.size)
        row = np.uint16(runs[r]) << np.uint16(8)
        base = v.splat(row)
        whole = begin + ((end - begin) & ~15)
        for i in range(begin, whole, 16):
            v.store_u16(places, 2 * i, v.either(v.load_u8(plane, i), base))
        for i in range(whole, end):
            store_u16(places, 2 * i, np.uint16(row | np.uint16(plane[i])))


@part
def _encode(count, places, starts, states, words, at):
    """As `rans.kernels.encode_symbols`, of symbols that all have a frequency.

    `places`: of each in `starts`, in memory, from where look-ups take less time than from vectors.
    """
    whole = count & ~(STATES - 1)
    for i in range(count - 1, whole - 1, -1):
        start = starts[load_u16(places, 2 * i)]
        states[i - whole], at = put_one(states[i - whole], start, words, at)
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    for i in range(whole - STATES, -1, -STATES):
        start1 = v.gather_u32_at(starts, places, 2 * i + 32)
        start0 = v.gather_u32_at(starts, places, 2 * i)
        x1, at = _put_lanes(x1, start1, v.reciprocal(v.shift_right(start1, 16)), words, at)
        x0, at = _put_lanes(x0, start0, v.reciprocal(v.shift_right(start0, 16)), words, at)
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    return at


@part
def _code(plane, run, runs, classes, starts, places, words, end, states):
    """Class map and stream of a plane, to `words` before `end`; where they begin."""
    _find_places(plane, run, runs, places)
    states[:STATES] = np.uint32(FIRST)
    at = _encode(plane.size, places, starts, states, words, end)
    at -= _STATE_BYTES
    for k in range(STATES):
        store_u32(words, at + 4 * k, states[k])
    return np.int64(_put_map(runs, classes, words, at))


@once
def code_low_halves(
    data, begin, count, first_run, rule, all_runs, starts, planes, places, words, states, sections
):
    """Codes the low halves of a chunk; returns the bytes of their payload.

    `rule`: see LOW_RULE; `all_runs`: uint8[2, runs of the batch], their classes; `starts`:
    uint32[classes of both planes * 256], see `rans.kernels.build_starts`: all symbols of a class
    have frequencies, and all classes are below their number, 0 where there is one. What is coded
    stays in `planes` and `words`, as `sections`, int64[2, 3], says: the mode of each, where it
    begins, and its bytes.

    Work space: `planes`, `places`, uint8[2 * elements] each; `words`, uint8[2 * (3 * elements +
    256)]; `states`, uint32[32].
    """
    _, run, classes0, classes1 = rule
    _split(data, begin, count, planes)
    runs = (count + run - 1) // run
    payload = PLANES * _HEAD
    for p in range(PLANES):
        classes = classes1 if p else classes0
        plane = planes[p * count : (p + 1) * count]
        sections[p, 0], sections[p, 1], sections[p, 2] = registry.PLANE_RAW, p * count, count
        if classes > 0:
            if is_constant(plane):
                sections[p, 0], sections[p, 2] = registry.PLANE_CONSTANT, 1
            else:
                end = (p + 1) * (words.size // PLANES)
                own = starts[classes0 << 8 :] if p else starts[: classes0 << 8]
                at = _code(
                    plane, run, all_runs[p, first_run : first_run + runs], classes, own, places,
                    words, end, states,
                )  # fmt: skip
                if end - at < count:
                    sections[p, 0], sections[p, 1] = registry.PLANE_RANS, at
                    sections[p, 2] = end - at
        payload += sections[p, 2]
    return payload


@once
def put_low_halves(sections, planes, words, out, at):
    """Writes what `code_low_halves` has coded."""
    place = at + PLANES * _HEAD
    for p in range(PLANES):
        out[at + p * _HEAD] = np.uint8(sections[p, 0])
        store_u32(out, at + p * _HEAD + 1, np.uint32(sections[p, 2]))
        if sections[p, 0] == registry.PLANE_RANS:
            copy_bytes(out, place, words, sections[p, 1], sections[p, 2])
        else:
            copy_bytes(out, place, planes, sections[p, 1], sections[p, 2])
        place += sections[p, 2]
