"""The compiled loop that decodes a span: many chunks of an archive in one call.

It trusts nothing but its binding's work space: frames, sections and places are all checked here.
"""

import numpy as np
from numba import types

from densor.codec import registry
from densor.codec.planes import kernels as planes_kernels
from densor.codec.planes.kernels import R8_2D, Codes, Work, _decode_classes, _plan_runs
from densor.codec.spans import table as t
from densor.codec.spans.frame_checks import check_frame, outside
from densor.codec.spans.jit import once, part
from densor.codec.spans.merge import address_of, merge_run, undo_differences
from densor.entropy.huffman.kernels import (
    NARROW,
    NARROW_BITS,
    NARROW_COUNT,
    NARROW_USED,
    _assign_codes,
)
from densor.entropy.intrinsics import copy_bytes, load_u32, store_half
from densor.entropy.jit import I64, R8, W8, W32, W64, kernel

_classes = part(_decode_classes.py_func)
_runs = part(_plan_runs.py_func)
I64_2D = types.int64[:, ::1]
U64_2D = types.uint64[:, ::1]
_LEAST_BITS = 11  # of a look-up table: 16 KB, half of a common L1 cache
_MOST = 6  # symbols of an entry
_LEAST_NARROW = 4  # bits of the shortest code from which few windows have more than two symbols
_ONE_NARROW = np.uint64(1) << NARROW_COUNT
_BITS = np.uint64(63)  # fields of an entry: bits used, symbols from bit 8 on, their count
_FIVE = np.uint64(0xFFFFFFFFFF << 8)
_COUNT = np.uint64(15 << 60)
_ONE = np.uint64(1 << 60)
_BYTE = np.uint64(255)
_EIGHT = np.uint64(8)

# Work space. Integers: elements of each class, ends of streams; then as below.
_STARTS = 24  # address of each plane
_ADDRESSES = 32  # of a run in each plane
_MAPPED = 40  # whether a plane has a map of classes
_BITS_OF = 64  # width of each class's look-up table, 0 where it is yet to be built
_CLASSES = t.MOST_CLASSES
_TABLES = 8  # words before the look-up tables of fewer bits: positions in streams


@once
def _fill_narrow(lengths, codes, low, high, shortest, work, table):
    """Narrow entries for all windows of `NARROW_BITS` bits, see `_build_table`.

    Work space: `work`, uint64[8192], what an entry gets for a second code in the bits behind the
    first: its symbol, length and count.
    """
    left = NARROW_BITS - shortest
    seconds = work[: 1 << left]
    seconds[:] = np.uint64(0)
    for s in range(low, high + 1):
        length = np.int64(lengths[s])
        if 0 < length <= left:
            second = np.uint64(s << 8) | np.uint64(length) << NARROW_USED | _ONE_NARROW
            for window in range(np.int64(codes[s] & np.uint32(0xFFFF)), 1 << left, 1 << length):
                seconds[window] = second
    for s in range(low, high + 1):
        length = np.int64(lengths[s])
        if length == 0:
            continue
        code = np.int64(codes[s] & np.uint32(0xFFFF))
        first = np.uint64(s) | np.uint64(length) << NARROW_USED | _ONE_NARROW
        behind = np.uint64(NARROW_BITS - length)
        for v in range(1 << (NARROW_BITS - length)):
            second = seconds[v]
            fits = (second >> NARROW_USED) & _BYTE <= behind
            store_half(table, code + (v << length), first + (second if fits else np.uint64(0)))


@once
def _build_table(lengths, work, next_code, codes, table):
    """The look-up table of a code: for each window of bits all whole symbols in it, up to 6.

    An entry of k bits is the first symbol, of l bits, and the entry of the other k - l bits, so
    that each table is made of those of fewer bits. `lengths`: uint8[256], a complete code of at
    most 12 bits. `table`: uint64[4096]. Work space: `work`, uint64[8192]; `next_code`,
    `codes` as for `_assign_codes`. Returns the width of the table, with `NARROW` where its entries
    are narrow: where codes are so long that few symbols are in one, the table has more of them.
    """
    longest = _LEAST_BITS
    shortest = 12
    low = 255
    high = 0
    for s in range(256):
        length = np.int64(lengths[s])
        if length > 0:
            longest = max(longest, length)
            shortest = min(shortest, length)
            low = min(low, s)
            high = s
    _assign_codes(lengths, next_code, codes)
    if shortest >= _LEAST_NARROW:
        _fill_narrow(lengths, codes, low, high, shortest, work, table)
        return NARROW_BITS | NARROW
    for k in range(longest + 1):
        if longest - shortest < k < longest:  # none is made of it
            continue
        here = table[: 1 << k] if k == longest else work[1 << k : 2 << k]
        here[:] = np.uint64(0)
        if k < shortest:
            continue
        for s in range(low, high + 1):
            length = np.int64(lengths[s])
            if length == 0 or length > k:
                continue
            add = _ONE | np.uint64(s) << _EIGHT | np.uint64(length)
            code = np.int64(codes[s] & np.uint32(0xFFFF))
            rest = work[1 << (k - length) : 2 << (k - length)]
            if shortest > 1:
                for v in range(rest.size):
                    entry = rest[v]
                    here[code + (v << length)] = (
                        ((entry & _FIVE) << _EIGHT) + (entry & (_COUNT | _BITS)) + add
                    )
                continue
            for v in range(rest.size):  # there may be a sixth symbol, which has to go
                entry = rest[v]
                more = ((entry & _FIVE) << _EIGHT) + (entry & (_COUNT | _BITS)) + add
                if np.int64(entry >> np.uint64(60)) == _MOST:
                    sixth = np.int64((entry >> np.uint64(48)) & _BYTE)
                    more -= _ONE + np.uint64(lengths[sixth])
                here[code + (v << length)] = more
    return longest


@once
def _class_plane(
    section, n, run, low, high, kinds, symbols, lengths, where, area, tables, numbers, words, codes
):
    """Decodes a plane that is coded by classes `low` to `high` of its parameters."""
    classes = high - low
    counts = numbers[:16]
    bits = numbers[_BITS_OF : _BITS_OF + _CLASSES]
    skip = 0
    counts[0] = n
    if classes > 1:
        map_bits = 1 if classes == 2 else 2 if classes <= 4 else 4
        skip = (where.size * map_bits + 7) // 8
        if skip > section.size:
            return planes_kernels.MAP_TOO_SHORT
        if not _runs(section[:skip], n, run, 0, where, counts[:classes]):
            return planes_kernels.MAP_CONTENT
    for c in range(classes):
        if kinds[low + c] == registry.CLASS_HUFFMAN and counts[c] > 0 and bits[low + c] == 0:
            bits[low + c] = _build_table(
                lengths[low + c], words[_TABLES:], codes[256:], codes[:256], tables[low + c]
            )
    known = Codes(bits, kinds, symbols, lengths, tables, bits)
    work = Work(counts, words[:4], numbers[16:20])
    return _classes(section, skip, known, low, high, work, area)


@once
def _merge_all(layout, planes, n, run, runs, numbers, where, out, place, edge):
    """The planes of a chunk to elements, run by run where one of them lies class by class."""
    starts = numbers[_STARTS : _STARTS + 8]
    mapped = numbers[_MAPPED : _MAPPED + 8]
    addresses = numbers[_ADDRESSES : _ADDRESSES + 8]
    for r in range(runs):
        begin = r * run
        for p in range(planes):
            offset = np.int64(where[p * runs + r]) if mapped[p] != 0 else begin
            addresses[p] = starts[p] + offset
        merge_run(layout, planes, addresses, min(run, n - begin), out, place + planes * begin, edge)


@once
def _decode_planes(
    payload, n, runs, head, kinds, symbols, lengths, scratch, where, tables, numbers, words, codes
):
    """Brings all planes of a chunk to n bytes each; notes where they start."""
    planes = head[1]
    at = 5 * planes
    first = head[4]  # class; tables are counted from it
    last = head[4 + planes]
    starts = numbers[_STARTS : _STARTS + 8]
    for p in range(planes):
        mode = payload[5 * p]
        end = at + np.int64(load_u32(payload, 5 * p + 1))
        if end > payload.size:
            return planes_kernels.PLANE_BEYOND_CHUNK
        starts[p] = address_of(scratch, p * n, n)
        if mode == registry.PLANE_RAW:
            if end - at != n:
                return planes_kernels.RAW_LENGTH
            starts[p] = address_of(payload, at, n)
        elif mode == registry.PLANE_CONSTANT:
            if end - at != 1:
                return planes_kernels.CONSTANT_LENGTH
            scratch[p * n : (p + 1) * n] = payload[at]
        elif mode == registry.PLANE_CLASSES:
            if head[4 + p] == head[5 + p]:
                return planes_kernels.NO_CLASSES
            error = _class_plane(
                payload[at:end], n, head[2], head[4 + p] - first, head[5 + p] - first,
                kinds[first:last], symbols[first:last], lengths[first:last],
                where[p * runs : (p + 1) * runs], scratch[p * n : (p + 1) * n],
                tables, numbers, words, codes,
            )  # fmt: skip
            if error != 0:
                return error
        elif mode != registry.PLANE_ZSTD:
            return planes_kernels.UNKNOWN_MODE
        at = end
    return 0 if at == payload.size else planes_kernels.CHUNK_TOO_LONG


@once
def _decode_chunk(
    data, row, heads, kinds, symbols, lengths, prepared, out, scratch, where, edge, tables,
    numbers, words, codes,
):  # fmt: skip
    """Returns 0, the number of an error, or `NOT_MINE`."""
    if outside(data, row, out):
        return t.OUTSIDE
    error = check_frame(data, row)
    if error != 0:
        return error
    size = row[t.SIZE]
    payload = data[row[t.PAYLOAD] : row[t.PAYLOAD] + row[t.STORED]]
    parameters = row[t.PARAMETERS]
    if parameters == t.RAW:
        if payload.size != size:
            return t.RAW_LENGTH
        copy_bytes(out, row[t.PLACE], payload, 0, size)
        return 0
    if parameters < 0 or parameters >= heads.shape[0]:
        return t.NOT_MINE
    head = heads[parameters]
    planes = head[1]
    n = size // planes
    if n * planes != size or payload.size < 5 * planes:
        return t.IMPOSSIBLE
    with_map = False
    for p in range(planes):
        mode = payload[5 * p]
        if mode == registry.PLANE_ZSTD and not prepared:
            return t.NOT_MINE
        coded = mode == registry.PLANE_CLASSES and head[5 + p] - head[4 + p] > 1
        numbers[_MAPPED + p] = coded
        with_map |= coded
    run = head[2] if with_map else n
    runs = (n - 1) // run + 1
    if runs > t.MAX_RUNS:
        return t.MANY_RUNS
    if size > scratch.size or planes * runs > where.size:
        return t.OUTSIDE
    if numbers[t.READY] != parameters:
        numbers[_BITS_OF : _BITS_OF + _CLASSES] = 0
        numbers[t.READY] = parameters
    error = _decode_planes(
        payload, n, runs, head, kinds, symbols, lengths, scratch, where, tables, numbers, words,
        codes,
    )  # fmt: skip
    if error != 0:
        return error
    _merge_all(head[0], planes, n, run, runs, numbers, where, out, row[t.PLACE], edge)
    if head[3] != 0:
        undo_differences(out, row[t.PLACE], planes, n)
    return 0


@kernel(
    types.int64(
        R8, I64_2D, types.int64, types.int64, I64_2D, R8, R8, R8_2D, types.boolean, W8, W8,
        W8, types.int32[::1], W8, U64_2D, I64, W64, W32,
    ),
    counted=False,
)  # fmt: skip
def decode_span(
    data, table, begin, end, heads, kinds, symbols, lengths, prepared, out, status,
    scratch, where, edge, tables, numbers, words, codes,
):  # fmt: skip
    """Decodes chunks `begin` to `end` of `table` as far as they are coded by planes, or raw.

    `data`: uint8[], the archive or a piece of it. `table`: int64[chunks, COLUMNS], see `table`.
    `heads`: int64[parameters, HEADS]: layout, planes, run, differences, and the first class of
    each plane; `kinds`, `symbols`, `lengths`: of all classes, as in `Classes`. `prepared`:
    whether planes stored with Zstandard stand in `scratch` already; otherwise such chunks are
    `NOT_MINE`. `out`: uint8[], the result. `status`: uint8[chunks], set to 0, the number of an
    error or `NOT_MINE`; an error leaves anything in the place of its chunk. Returns how many are
    not 0.

    Work space: `scratch`, uint8[], the size of the largest chunk; `where`, int32[], its planes
    times its runs; `edge`, uint8[EDGE]; `tables`, uint64[128, 4096]; `numbers`, int64[NUMBERS], of
    which READY tells what parameters `tables` are of, or -1; `words`, uint64[WORDS]; `codes`,
    uint32[CODES].
    """
    failed = 0
    for chunk in range(begin, end):
        error = _decode_chunk(
            data, table[chunk], heads, kinds, symbols, lengths, prepared, out, scratch, where,
            edge, tables, numbers, words, codes,
        )  # fmt: skip
        status[chunk] = error
        failed += error != 0
    return failed
