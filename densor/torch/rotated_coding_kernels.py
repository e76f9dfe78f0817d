"""Compiled loops of the coder of keys under rotated means, way 3 of docs/format/cache_page.md.

They mind no bounds but those of streams: `rotated_coding.py` has proven the others.
"""

import numpy as np
from numba import types

from densor.entropy.huffman.kernels import _assign_codes, _package_merge
from densor.entropy.intrinsics import load_u32, load_u64, store_u32, store_u64
from densor.entropy.jit import I64, R8, R16, W8, W16, W32, index, inlined, kernel
from densor.torch.rotated_kernels import TOP, magnitude_of, turned

_R16 = types.Array(types.int16, 1, "C", readonly=True)
_R32 = types.Array(types.int32, 1, "C", readonly=True)
_int = types.int64
_BITS = 11  # of the longest code
_WINDOW = np.uint64((1 << _BITS) - 1)
_THREE, _SEVEN = np.uint64(3), np.uint64(7)
_CENTRED = np.uint16(48 << 7)
GROUPS = 8
_SLACK = 8  # zeros behind the streams
_BLOCK = 64  # symbols that are looked through at once for escapes

# What is wrong, as the kernel says it.
TOO_SHORT, NOT_A_CODE, BAD_STREAM, BAD_ESCAPES, TOO_LONG = range(1, 6)


@kernel(types.void(_R16, _R32, _R32, _R32, _int, _int, _int, _int, _int, _R32, W16, W8))
def expect(
    means, scales, sines, cosines, rows, tokens, begin, count, exponent, limits, expected, groups
):
    """Fills `expected` for the elements of `count` tokens from `begin` on, of [rows, tokens,
    channels]: 15 bits of the magnitude, the top one for negative; and `groups` with how many
    of the seven `limits` the mean reaches there.

    `means`, `scales`: [rows, channels]. `sines`, `cosines`: [count, channels / 2]. `limits`:
    [7, rows, channels].
    """
    half = sines.size // count
    base = np.int32((exponent - 1) << 7)
    step = rows * 2 * half
    for row in range(rows):
        for token in range(count):
            turn = token * half
            at = (row * tokens + begin + token) * 2 * half
            first = row * 2 * half
            for side in range(2):
                own = side * half
                for pair in range(half):
                    sine, cosine = sines[index(turn + pair)], cosines[index(turn + pair)]
                    a = np.int32(means[index(first + pair)])
                    b = np.int32(means[index(first + half + pair)])
                    value = turned(a, b, sine, cosine, side)
                    size, scale = abs(value), scales[index(first + own + pair)]
                    magnitude = magnitude_of(size, scale, base)
                    limit = first + own + pair
                    group = (
                        np.int32(size >= limits[index(limit)])
                        + np.int32(size >= limits[index(limit + step)])
                        + np.int32(size >= limits[index(limit + 2 * step)])
                        + np.int32(size >= limits[index(limit + 3 * step)])
                        + np.int32(size >= limits[index(limit + 4 * step)])
                        + np.int32(size >= limits[index(limit + 5 * step)])
                        + np.int32(size >= limits[index(limit + 6 * step)])
                    )
                    negative = np.int32(value >> np.int32(31)) & TOP
                    expected[index(at + own + pair)] = np.uint16(magnitude | negative)
                    groups[index(at + own + pair)] = np.uint8(group)


@inlined
def _split(bits, expected, groups, symbols, lows):
    """Symbols, with their groups above, and lower bits of elements: those too far from what is
    expected are symbol 0."""
    for i in range(bits.size):
        value, word = bits[index(i)], expected[index(i)]
        part = np.uint16(value - (word & np.uint16(0x7FFF)) + _CENTRED) & np.uint16(0x7FFF)
        symbol = np.uint16(((value ^ word) & np.uint16(0x8000)) >> np.uint16(8)) | np.uint16(
            part >> np.uint16(6)
        )
        far = part >= np.uint16(8192) or part < np.uint16(64)
        group = np.uint16(np.uint16(groups[index(i)]) << np.uint16(8))
        symbols[index(i)] = group | np.uint16(0 if far else symbol)
        lows[index(i)] = np.uint8(0 if far else part & np.uint16(63))


@inlined
def _has_escapes(symbols, begin, end):
    found = 0
    for i in range(begin, end):
        found |= symbols[index(i)] & 127 == 0
    return found > 0


@inlined
def _put_escapes(bits, symbols, out, at):
    """The bits of escaped elements to `out`; returns the end, 0 where they are too many."""
    most = at + 2 * (bits.size >> 3)
    for begin in range(0, bits.size, _BLOCK):
        end = min(begin + _BLOCK, bits.size)
        if _has_escapes(symbols, begin, end):
            for i in range(begin, end):
                if symbols[index(i)] & 127 == 0:
                    if at >= most:
                        return 0
                    out[index(at)] = np.uint8(bits[index(i)] & np.uint16(255))
                    out[index(at + 1)] = np.uint8(bits[index(i)] >> np.uint16(8))
                    at += 2
    return at


@inlined
def _put_lows(lows, quarter, out, at):
    """Six bits of each element: three bytes for one of each quarter. `lows`: 4 * quarter."""
    for part in range(3):
        for i in range(quarter):
            last = lows[index(3 * quarter + i)] >> np.uint8(2 * part)
            out[index(at + part * quarter + i)] = lows[index(part * quarter + i)] | np.uint8(
                last << np.uint8(6)
            )


@inlined
def _tally(symbols, n, quarter, tallies):
    """Counts by group and symbol, uint32[4 * 2048], by quarter: no count waits for another."""
    tallies[:] = np.uint32(0)
    last = n - 3 * quarter
    for i in range(last):
        for part in range(4):
            at = part * quarter + i
            tallies[index(part * 2048 + np.int64(symbols[index(at)]))] += np.uint32(1)
    for i in range(max(last, 0), quarter):
        for part in range(3):
            at = part * quarter + i
            if at < n:
                tallies[index(part * 2048 + np.int64(symbols[index(at)]))] += np.uint32(1)


@inlined
def _put_code(lengths, only, out, at):
    """A code: first and last symbol, lengths by fours of bits; `only`: a symbol without one."""
    low, high = 255, 0
    for s in range(256):
        if lengths[s] > 0:
            low = min(low, s)
            high = s
    if low > high:
        low = high = only
    out[index(at)] = np.uint8(low)
    out[index(at + 1)] = np.uint8(high)
    at += 2
    if low < high:
        for s in range(low, high + 1, 2):
            above = lengths[s + 1] if s < high else np.uint8(0)
            out[index(at)] = np.uint8(lengths[s] | above << np.uint8(4))
            at += 1
    return at


@inlined
def _code(symbols, codes, i):
    return np.uint64(codes[index(symbols[index(i)])])


@inlined
def _put_stream(symbols, codes, begin, end, out, at):
    """The codes of some elements, `codes`: length in the lowest byte, then the bits."""
    buffer, filled = np.uint64(0), np.uint64(0)
    byte, eight, six = np.uint64(255), np.uint64(8), np.uint64(63)
    i = begin
    while i + 4 <= end:  # joined first, as what is in the buffer is what others wait for
        a, b = _code(symbols, codes, i), _code(symbols, codes, i + 1)
        c, d = _code(symbols, codes, i + 2), _code(symbols, codes, i + 3)
        # Lengths are the lowest bits, where shifts look for them, and sums of them stay below 64
        half = a + b
        low = a >> eight | (b >> eight) << (a & six)
        high = c >> eight | (d >> eight) << (c & six)
        buffer |= (low | high << (half & six)) << filled
        filled = (filled + half + c + d) & six
        store_u64(out, at, buffer)
        at += np.int64(filled >> _THREE)
        buffer >>= filled & np.uint64(56)
        filled &= _SEVEN
        i += 4
    while i < end:
        code = _code(symbols, codes, i)
        buffer |= (code >> eight) << filled
        filled += code & byte
        store_u64(out, at, buffer)
        at += np.int64(filled >> _THREE)
        buffer >>= filled & np.uint64(56)
        filled &= _SEVEN
        i += 1
    store_u64(out, at, buffer)
    return at + np.int64(filled > np.uint64(0))


@kernel(types.int64(R16, R16, R8, W8, _int, W16, W8, W32, W32, I64, W8))
def encode(bits, expected, groups, out, at, symbols, lows, tallies, codes, numbers, lengths):
    """Keys under what is expected of them, to `out` from `at` on; returns the end, or 0 where too
    many are far from that.

    `bits`: BF16, at least one. `expected`, `groups`: as from `expect`. `out` has 3 bytes for each
    element and 4096 to spare. Work space: `symbols`: uint16[n]; `lows`: uint8[n rounded up
    to whole fours]; `tallies`: uint32[8192]; `codes`: uint32[2048 + 272]; `numbers`:
    int64[1280]; `lengths`: uint8[256 + 6144].
    """
    n = bits.size
    quarter = (n + 3) // 4
    _split(bits, expected, groups, symbols, lows)
    lows[n:] = np.uint8(0)
    begin = at + 4
    at = _put_escapes(bits, symbols, out, begin)
    if at == 0:
        return 0
    store_u32(out, begin - 4, np.uint32((at - begin) >> 1))
    _tally(symbols, n, quarter, tallies)
    counts, weights, packages = numbers[:256], numbers[256:768], numbers[768:]
    for group in range(GROUPS):
        only = 0
        for s in range(256):
            place = group << 8 | s
            counts[s] = (
                tallies[place] + tallies[2048 + place] + tallies[4096 + place]
                + tallies[6144 + place]
            )  # fmt: skip
            only = s if counts[s] > 0 else only
        _package_merge(counts, _BITS, weights, packages, lengths[256:], lengths[:256])
        at = _put_code(lengths[:256], only, out, at)
        _assign_codes(lengths[:256], codes[2048 + 256 :], codes[2048 : 2048 + 256])
        for s in range(256):
            code = codes[2048 + s]
            codes[group << 8 | s] = (code & np.uint32(0xFFFF)) << np.uint32(8) | code >> np.uint32(
                16
            )
    sizes = at
    at += 16
    _put_lows(lows, quarter, out, at)
    at += 3 * quarter
    for stream in range(4):
        start = at
        first = min(stream * quarter, n)
        at = _put_stream(symbols, codes, first, min(first + quarter, n), out, at)
        store_u32(out, sizes + 4 * stream, np.uint32(at - start))
    store_u64(out, at, np.uint64(0))
    return at + _SLACK


@inlined
def _take_code(data, at, lengths, next_code, codes, table):
    """The look-up table of a group's code: length and symbol by window. The end, or 0."""
    if at + 2 > data.size:
        return 0
    low, high = np.int64(data[index(at)]), np.int64(data[index(at + 1)])
    at += 2
    if low == high:
        table[:] = np.uint16(low)
        return at
    if low > high or at + (high - low + 2) // 2 > data.size:
        return 0
    lengths[:] = np.uint8(0)
    total = 0
    for s in range(low, high + 1):
        length = np.int64(data[index(at + (s - low >> 1))]) >> (4 * (s - low & 1)) & 15
        if length > _BITS:
            return 0
        lengths[s] = length
        total += 1 << (_BITS - length) if length > 0 else 0
    at += (high - low + 2) // 2
    if total != 1 << _BITS:
        return 0
    _assign_codes(lengths, next_code, codes)
    for s in range(low, high + 1):
        length = np.int64(codes[s] >> np.uint32(16))
        if length > 0:
            entry = np.uint16(length << 8 | s)
            for window in range(np.int64(codes[s] & np.uint32(0xFFFF)), 1 << _BITS, 1 << length):
                table[index(window)] = entry
    return at


@inlined
def _entry(table, groups, i, window):
    return np.uint64(table[index(np.int64(groups[index(i)]) << _BITS | np.int64(window & _WINDOW))])


@inlined
def _take_rest(data, bit, groups, table, symbols, begin, end):
    """Symbols of one stream, one at a time; the position after them, or that of no stream."""
    last = np.uint64(8 * (data.size - _SLACK))
    for i in range(begin, end):
        if bit > last:
            return last + last
        window = load_u64(data, np.int64(bit >> _THREE)) >> (bit & _SEVEN)
        entry = _entry(table, groups, i, window)
        symbols[index(i)] = np.uint8(entry & np.uint64(255))
        bit += entry >> np.uint64(8)
    return bit


@inlined
def _take_streams(data, at, groups, table, symbols, n, quarter):
    """Symbols of four streams whose positions in bits are `at`, which is moved on."""
    last = np.uint64(8 * (data.size - _SLACK))
    n0, n1, n2, n3 = at[0], at[1], at[2], at[3]
    eight, byte = np.uint64(8), np.uint64(255)
    done = 0
    while done + 4 <= n - 3 * quarter and max(max(n0, n1), max(n2, n3)) <= last:
        w0 = load_u64(data, np.int64(n0 >> _THREE)) >> (n0 & _SEVEN)
        w1 = load_u64(data, np.int64(n1 >> _THREE)) >> (n1 & _SEVEN)
        w2 = load_u64(data, np.int64(n2 >> _THREE)) >> (n2 & _SEVEN)
        w3 = load_u64(data, np.int64(n3 >> _THREE)) >> (n3 & _SEVEN)
        for k in range(4):
            i = done + k
            e0 = _entry(table, groups, i, w0)
            e1 = _entry(table, groups, quarter + i, w1)
            e2 = _entry(table, groups, 2 * quarter + i, w2)
            e3 = _entry(table, groups, 3 * quarter + i, w3)
            symbols[index(i)] = np.uint8(e0 & byte)
            symbols[index(quarter + i)] = np.uint8(e1 & byte)
            symbols[index(2 * quarter + i)] = np.uint8(e2 & byte)
            symbols[index(3 * quarter + i)] = np.uint8(e3 & byte)
            l0, l1, l2, l3 = e0 >> eight, e1 >> eight, e2 >> eight, e3 >> eight
            w0, w1, w2, w3 = w0 >> l0, w1 >> l1, w2 >> l2, w3 >> l3
            n0, n1, n2, n3 = n0 + l0, n1 + l1, n2 + l2, n3 + l3
        done += 4
    at[0] = _take_rest(data, n0, groups, table, symbols, min(done, n), min(quarter, n))
    for stream, bit in ((1, n1), (2, n2), (3, n3)):
        first = stream * quarter
        at[stream] = _take_rest(
            data, bit, groups, table, symbols, min(first + done, n), min(first + quarter, n)
        )


@inlined
def _joined_bits(symbol, low, word):
    value = np.uint16(
        (np.uint16(symbol & np.uint8(127)) << np.uint16(6) | np.uint16(low)) + word - _CENTRED
    )
    sign = (np.uint16(symbol) << np.uint16(8) ^ word) & np.uint16(0x8000)
    return np.uint16((value & np.uint16(0x7FFF)) | sign)


@inlined
def _join(data, at, quarter, symbols, expected, bits):
    """BF16 of symbols, lower bits and what is expected, all of 4 * quarter."""
    six = np.uint8(63)
    for part in range(3):
        for i in range(quarter):
            k = part * quarter + i
            low = data[index(at + k)] & six
            bits[index(k)] = _joined_bits(symbols[index(k)], low, expected[index(k)])
    for i in range(quarter):
        k = 3 * quarter + i
        low = (
            data[index(at + i)] >> np.uint8(6)
            | (data[index(at + quarter + i)] >> np.uint8(6)) << np.uint8(2)
            | (data[index(at + 2 * quarter + i)] >> np.uint8(6)) << np.uint8(4)
        )
        bits[index(k)] = _joined_bits(symbols[index(k)], np.uint8(low), expected[index(k)])


@inlined
def _take_escapes(data, at, count, symbols, n, bits):
    """Puts elements that are not coded to their places; whether there are as many as `count`."""
    found = 0
    for begin in range(0, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        if _has_escapes(symbols, begin, end):
            for i in range(begin, end):
                if symbols[index(i)] & 127 == 0:
                    if found == count:
                        return False
                    k = at + 2 * found
                    bits[index(i)] = np.uint16(data[index(k)]) | np.uint16(
                        np.uint16(data[index(k + 1)]) << np.uint16(8)
                    )
                    found += 1
    return found == count


@kernel(types.int64(R8, _int, _int, R16, R8, W16, W8, W16, W32, types.uint64[::1], W8))
def decode(data, at, n, expected, groups, bits, symbols, table, codes, positions, lengths):
    """Decodes what `encode` wrote to `data` from `at` on; 0, or what is wrong.

    `n`: elements, at least one. `expected`, `bits`: uint16, `groups`, `symbols`: uint8, each of n,
    rounded up to whole fours. Work space: `table`: uint16[8 * 2048]; `codes`: uint32[272];
    `positions`: uint64[4]; `lengths`: uint8[256].
    """
    quarter = (n + 3) // 4
    if at + 4 > data.size:
        return TOO_SHORT
    count = np.int64(load_u32(data, at))
    escapes = at + 4
    if count > n or escapes + 2 * count > data.size:
        return TOO_SHORT
    at = escapes + 2 * count
    for group in range(GROUPS):
        own = table[group << _BITS : group + 1 << _BITS]
        at = _take_code(data, at, lengths, codes[256:], codes[:256], own)
        if at == 0:
            return NOT_A_CODE
    sizes = at
    lows = at + 16
    at = lows + 3 * quarter
    if at + _SLACK > data.size:
        return TOO_SHORT
    for stream in range(4):
        positions[stream] = np.uint64(8 * at)
        at += np.int64(load_u32(data, sizes + 4 * stream))
    if at + _SLACK != data.size:
        return TOO_SHORT if at + _SLACK > data.size else TOO_LONG
    if load_u64(data, at) != 0:
        return BAD_STREAM
    _take_streams(data, positions, groups, table, symbols, n, quarter)
    at = lows + 3 * quarter
    for stream in range(4):
        at += np.int64(load_u32(data, sizes + 4 * stream))
        unused = np.int64(8 * at) - np.int64(positions[stream])
        if unused < 0 or unused > 7:
            return BAD_STREAM
    _join(data, lows, quarter, symbols, expected, bits)
    if not _take_escapes(data, escapes, count, symbols, n, bits):
        return BAD_ESCAPES
    return 0
