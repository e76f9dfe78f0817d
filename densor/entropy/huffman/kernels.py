"""Compiled loops of the Huffman coder: arrays in, arrays out; no allocation, no validation."""

import numba as nb
import numpy as np
from numba import njit, types

from densor.entropy.intrinsics import (
    load_half,
    load_u32,
    load_u64,
    store_u16,
    store_u64,
)
from densor.entropy.jit import I64, R8, R32, W8, W16, W32, kernel

R32_2D = types.Array(types.uint32, 2, "C", readonly=True)
R8_2D = types.Array(types.uint8, 2, "C", readonly=True)
U64_2D = types.uint64[:, ::1]

# A look-up table entry: bits used (low 6 bits), up to 6 symbols from bit 8 on, their count (top 4).
_BITS = np.uint64(63)
_SYMBOLS = np.uint64(8)
_COUNT = np.uint64(60)
_MAX_SYMBOLS = 6  # symbols per entry
# A narrow entry has 32 bits: one or two symbols, bits used, count of symbols, one byte each. All
# behind the symbols is added to the state of a stream: its place above its bits.
NARROW = 64  # in the width of a table: its entries are narrow
NARROW_BITS = 13  # width of such a table: 32 KB, where most entries have two symbols
NARROW_USED = np.uint64(16)
NARROW_COUNT = np.uint64(24)
_NARROW_MASK = np.uint64((1 << NARROW_BITS) - 1)
_MAX_NARROW = 2  # symbols of a narrow entry
_PLACE = np.uint64(8)  # of the place in a state; below it, how many bits are used
_IN_BYTES = ~np.uint64(0xF8)  # clears the whole bytes among these
_STEPS = 4  # look-ups per refill: 4 x 13 bits are in the 56 that it leaves at least
_ROUND, _NARROW_ROUND = 6, 7  # bytes that 4 look-ups take at most
_AHEAD = 8  # bytes from the one with the next bit to that with the first bit of the next refill
_REFILLED = np.uint64(56)
_OVERRUN = np.uint64(1 << 62)  # a bit position beyond every end
_EIGHT = np.uint64(8)
_NEVER = np.int64(2**63 - 1)  # behind the last weight; halves of it are still more than any
_LENGTH = np.uint64(63)
_BYTE = np.uint32(255)
_THREE = np.uint64(3)
_SEVEN = np.uint64(7)


@njit
def _sort(keys):
    """Sorts in place, by insertion at falling distances (Shell 1959; distances of Ciura 2001).

    For some hundred keys as fast as the general way, which takes a second to compile.
    """
    for gap in (132, 57, 23, 10, 4, 1):
        for i in range(gap, keys.size):
            key = keys[i]
            at = i
            while at >= gap and keys[at - gap] > key:
                keys[at] = keys[at - gap]
                at -= gap
            keys[at] = key


@njit
def _package_merge(counts, limit, weights, packages, is_leaf, lengths):
    """Optimal code lengths of at most `limit` bits for 256 counts (Larmore and Hirschberg 1990).

    `counts`: int64[256], less than 2^55 in all. Work space: `weights` and `packages`, int64[512],
    `is_leaf`, uint8[12 * 512]. Result: `lengths`, uint8[256]; returns the number of symbols that
    occur. A single symbol gets length 0. There may be no more than 2^limit symbols.
    """
    used = 0
    for s in range(256):
        lengths[s] = 0
        if counts[s] > 0:  # sorted by count, then symbol: packed into one integer
            weights[used] = counts[s] * 256 + s
            used += 1
    if used < 2:
        return used
    _sort(weights[:used])
    weights[used] = _NEVER
    n_packages = 0
    for level in range(limit):
        # Merge the leaves with the packages of the level below, noting which is which. The two
        # halves of `packages` take turns.
        below = (level & 1) * 256
        above = 256 - below
        i = 0
        j = 0
        total = used + n_packages
        previous = 0
        made = 0
        packages[below + n_packages] = _NEVER
        for k in range(total):  # without branches on what is compared, which nobody can predict
            of_leaf = weights[i] >> 8
            of_package = packages[below + j]
            leaf = np.int64(of_leaf <= of_package)
            weight = min(of_leaf, of_package)
            i += leaf
            j += 1 - leaf
            is_leaf[level * 512 + k] = leaf
            if k & 1:
                packages[above + made] = previous + weight
                made += 1
            previous = weight
        n_packages = made
    wanted = 2 * used - 2
    for level in range(limit - 1, -1, -1):
        leaves = 0
        for k in range(wanted):
            leaves += is_leaf[level * 512 + k]
        for i in range(leaves):
            lengths[weights[i] & 255] += 1
        wanted = 2 * (wanted - leaves)
    return used


@kernel(types.void(I64, I64, I64, I64, W8))
def huffman_lengths(counts, keys, weights, parents, lengths):
    """Huffman code lengths without a limit (but 255), for 256 counts; faster than package-merge.

    Two queues, one of leaves, one of joined nodes (van Leeuwen 1976). `counts`: int64[256].
    Work space: `keys` int64[256]; `weights`, `parents` int64[512].
    """
    used = 0
    for s in range(256):
        lengths[s] = 0
        if counts[s] > 0:
            keys[used] = counts[s] * 256 + s
            used += 1
    _sort(keys[:used])
    for i in range(used):
        weights[i] = keys[i] >> 8
    leaf = 0
    joined = used
    for node in range(used, 2 * used - 1):
        weight = 0
        for _ in range(2):
            take_leaf = leaf < used and (joined >= node or weights[leaf] <= weights[joined])
            child = leaf if take_leaf else joined
            leaf += take_leaf
            joined += not take_leaf
            weight += weights[child]
            parents[child] = node
        weights[node] = weight
    if used > 1:
        weights[2 * used - 2] = 0  # from here on the depth of a node
        for node in range(2 * used - 3, -1, -1):
            weights[node] = weights[parents[node]] + 1
        for i in range(used):
            lengths[keys[i] & 255] = min(weights[i], 255)


@kernel(types.int64(I64, I64, I64, W8, W8, W8))
def best_lengths(counts, weights, packages, is_leaf, short, lengths):
    """Code lengths of at most 12 bits, or 11 where these cost next to nothing; returns the bits.

    `counts`: int64[256], at least two not 0. Work space as for `_package_merge`; `short`,
    uint8[256]. Tables of 11 bits decode faster. Result: `lengths`, uint8[256].
    """
    _package_merge(counts, 12, weights, packages, is_leaf, lengths)
    bits = 0
    longest = 0
    for s in range(256):
        bits += counts[s] * lengths[s]
        longest = max(longest, np.int64(lengths[s]))
    total = 0
    for s in range(256):
        total += counts[s]
    if longest < 12 or bits > 5 * total:  # with long codes the size of the table matters less
        return bits
    _package_merge(counts, 11, weights, packages, is_leaf, short)
    short_bits = 0
    for s in range(256):
        short_bits += counts[s] * short[s]
    if short_bits > bits + (bits >> 11):
        return bits
    for s in range(256):
        lengths[s] = short[s]
    return short_bits


@njit
def _assign_codes(lengths, next_code, codes):
    """Canonical codes, first bit lowest: `codes[s] = length << 16 | reversed code`, 0 if unused.

    `lengths`: uint8[256], at most 12. Work space: `next_code`, uint32[16].
    """
    next_code[:] = 0
    for s in range(256):
        next_code[lengths[s]] += np.uint32(1)
    next_code[0] = 0
    first = np.uint32(0)
    for length in range(1, 13):
        count = next_code[length]
        first <<= np.uint32(1)
        next_code[length] = first
        first += count
    for s in range(256):
        length = np.int64(lengths[s])
        codes[s] = 0
        if length > 0:
            code = np.int64(next_code[length])
            next_code[length] += np.uint32(1)
            reverse = 0
            for bit in range(length):
                reverse |= ((code >> bit) & 1) << (length - 1 - bit)
            codes[s] = length << 16 | reverse


@kernel(types.void(R8, W32, W32))
def assign_codes(lengths, next_code, codes):
    """See `_assign_codes`."""
    _assign_codes(lengths, next_code, codes)


@kernel(types.int64(R8, types.int64, W8))
def unpack_lengths(packed, count, lengths):
    """Unpacks `count` code lengths of 4 bits, low half of a byte first, to `lengths[:count]`.

    Returns the Kraft sum in units of 2^-12, 4096 for a complete code, or -1 for a length over 12
    or an unused half byte that is not 0.
    """
    kraft = 0
    for i in range(count):
        length = np.int64(packed[i >> 1] >> (4 * (i & 1))) & 15
        if length > 12:
            return -1
        lengths[i] = length
        if length > 0:
            kraft += 1 << (12 - length)
    if count & 1 and packed[count >> 1] >> 4 != 0:
        return -1
    return kraft


@kernel(types.void(R8_2D, types.int64, W32, W32, W16, U64_2D, I64))
def build_tables(lengths, least_bits, next_code, codes, single, tables, bits):
    """Fills row c of `tables` for code c: for each window of bits all whole symbols in it.

    `lengths`: uint8[codes, 256], each row complete and of at most 12 bits, or all 0 for no code.
    `bits`, int64[codes], receives the width of each table: the longest code, at least
    `least_bits`. `tables`: uint64[codes, 4096]. Work space: `next_code`
    uint32[16], `codes` uint32[256], `single` uint16[4096].
    """
    for c in range(lengths.shape[0]):
        longest = least_bits
        for s in range(256):
            longest = max(longest, np.int64(lengths[c, s]))
        bits[c] = longest
        size = 1 << longest
        _assign_codes(lengths[c], next_code, codes)
        single[0] = 0
        for s in range(256):
            length = np.int64(codes[s] >> 16)
            if length > 0:
                for window in range(codes[s] & 0xFFFF, size, 1 << length):
                    single[window] = length << 8 | s
        if single[0] == 0:
            continue
        table = tables[c]
        for window in range(size):
            rest = window
            left = longest
            shift = _SYMBOLS
            entry = np.int64(single[rest])
            symbols = np.uint64(0)
            count = np.uint64(0)
            while (entry >> 8) <= left and count < _MAX_SYMBOLS:
                symbols |= np.uint64(entry & 255) << shift
                shift += np.uint64(8)
                left -= entry >> 8
                rest >>= entry >> 8
                count += np.uint64(1)
                entry = np.int64(single[rest])
            table[window] = np.uint64(longest - left) | symbols | count << _COUNT


@kernel(types.void(R32, W32))
def pair_codes(codes, pairs):
    """Codes of two symbols at once: `pairs[a | b << 8] = joined code << 8 | joined length`.

    `codes` as from `assign_codes`; `pairs`: uint32[65536], set for pairs of symbols in use only,
    so that with few symbols little of it is ever touched.
    """
    for b in range(256):
        if codes[b] == 0:
            continue
        code_b = codes[b] & np.uint32(0xFFFF)
        length_b = codes[b] >> np.uint32(16)
        for a in range(256):
            length = codes[a] >> np.uint32(16)
            if length > 0:
                code = (codes[a] & np.uint32(0xFFFF)) | code_b << length
                pairs[a | b << 8] = code << np.uint32(8) | (length + length_b)


@njit
def _flush(out, position, buffer, filled):
    """Writes out whole bytes of the buffer; at most 7 bits stay."""
    store_u64(out, position, buffer)
    return (
        position + nb.intp(filled >> _THREE),
        buffer >> (filled & np.uint64(56)),
        filled & _SEVEN,
    )


@njit
def _put_pairs(symbols, pairs, out, position, buffer, filled):
    """Appends the codes of whole fours of symbols."""
    for i in range(0, symbols.size & ~3, 4):
        four = load_u32(symbols, i)
        first = np.uint64(pairs[four & np.uint32(0xFFFF)])
        second = np.uint64(pairs[four >> np.uint32(16)])
        # The lengths lie in the lowest bits, where shifts look for them and sums stay below 64.
        bits = first >> _EIGHT | (second >> _EIGHT) << (first & _LENGTH)
        buffer |= bits << filled
        filled = (filled + first + second) & _LENGTH
        position, buffer, filled = _flush(out, position, buffer, filled)
    return position, buffer, filled


@njit
def _put(symbols, begin, codes, out, position, buffer, filled):
    """Appends the codes of `symbols[begin:]`, one at a time."""
    for i in range(begin, symbols.size):
        code = np.uint64(codes[symbols[i]])
        buffer |= (code & np.uint64(0xFFFF)) << filled
        filled += code >> np.uint64(16)
        position, buffer, filled = _flush(out, position, buffer, filled)
    return position, buffer, filled


@njit
def _put_fours(symbols, codes, out, position, buffer, filled):
    """Appends the codes of whole fours of symbols, without a table of pairs."""
    for i in range(0, symbols.size & ~3, 4):
        four = load_u32(symbols, i)
        c0 = np.uint64(codes[four & _BYTE])
        c1 = np.uint64(codes[(four >> np.uint32(8)) & _BYTE])
        c2 = np.uint64(codes[(four >> np.uint32(16)) & _BYTE])
        c3 = np.uint64(codes[four >> np.uint32(24)])
        l0 = c0 >> np.uint64(16)
        l2 = c2 >> np.uint64(16)
        pair = l0 + (c1 >> np.uint64(16))
        low = (c0 & np.uint64(0xFFFF)) | (c1 & np.uint64(0xFFFF)) << l0
        high = (c2 & np.uint64(0xFFFF)) | (c3 & np.uint64(0xFFFF)) << l2
        buffer |= (low | high << pair) << filled
        filled += pair + l2 + (c3 >> np.uint64(16))
        position, buffer, filled = _flush(out, position, buffer, filled)
    return position, buffer, filled


@kernel(types.int64(R8, I64, R32_2D, R32_2D, R8, W8, types.int64, I64))
def encode_streams(symbols, counts, codes, pairs, paired, out, position, sizes):
    """Codes groups of symbols as four streams into `out` from `position` on; returns the end.

    `symbols`: the groups one after the other, `counts`, int64[groups], symbols in all. `codes`:
    uint32[groups, 256] as from `assign_codes`; a group whose codes are all 0 is left out.
    `pairs`: for each group with `paired[group]` a row as from `pair_codes`. Each stream takes a
    quarter of every group. Sets `sizes`, int64[4], in bytes. All symbols have codes; `out` has 12
    bits for each symbol and 64 bytes to spare.
    """
    for stream in range(4):
        start = position
        buffer = np.uint64(0)
        filled = np.uint64(0)
        first = 0
        for group in range(counts.size):
            n = counts[group]
            if n > 0 and codes[group, symbols[first]] != 0:
                quarter = (n + 3) // 4
                begin = first + min(stream * quarter, n)
                piece = symbols[begin : first + min((stream + 1) * quarter, n)]
                table = codes[group]
                if paired[group]:
                    position, buffer, filled = _put_pairs(
                        piece, pairs[group], out, position, buffer, filled
                    )
                else:
                    position, buffer, filled = _put_fours(
                        piece, table, out, position, buffer, filled
                    )
                position, buffer, filled = _put(
                    piece, piece.size & ~3, table, out, position, buffer, filled
                )
            first += n
        store_u64(out, position, buffer)
        position += nb.intp(filled > 0)
        sizes[stream] = position - start
    return position


@njit
def _window(source, bit):
    """At least 57 bits from a position on."""
    return load_u64(source, nb.intp(bit >> _THREE)) >> (bit & _SEVEN)


@njit
def _open(source, bit):
    """The first bits of a stream, how many of them count, and the byte after these."""
    return _window(source, bit), _REFILLED - (bit & _SEVEN), nb.intp(bit >> _THREE) + 7


@njit
def _closed(held, at):
    """The position of the next bit."""
    return (np.uint64(at) << _THREE) - (held & _LENGTH)


@njit
def _refill(window, held, source, at):
    """Adds bits to a window until it has 56 at least.

    Of `held`, how many it has, the low 6 bits count. Where the next refill takes its bits is known
    before this one's are used up, so that nothing waits for them (variant 4 of F. Giesen, Reading
    bits in far too many ways, part 2, 2018).
    """
    window |= load_u64(source, at) << (held & _LENGTH)
    at += nb.intp((~held >> _THREE) & _SEVEN)
    return window, held | _REFILLED, at


@njit
def _four(window, held, source, at, position, table, mask, out):
    """A refill and four look-ups of one stream; then of the next, so that registers suffice: that
    streams do not wait for each other is for the processor to see."""
    window, held, at = _refill(window, held, source, at)
    for _ in range(_STEPS):
        entry = table[window & mask]
        store_u64(out, position, entry >> _SYMBOLS)
        window >>= entry & _BITS
        held -= entry
        position += nb.intp(entry >> _COUNT)
    return window, held, at, position


@njit
def _refill_narrow(window, state, source, at):
    """`_refill`, where the low 6 bits of `state` are those of `~held`."""
    window |= load_u64(source, at) << (~state & _LENGTH)
    at += nb.intp((state >> _THREE) & _SEVEN)
    return window, state & _IN_BYTES, at


@njit
def _next_narrow(window, state, table, out):
    """A look-up of one stream in a table of narrow entries."""
    entry = load_half(table, nb.intp(window & _NARROW_MASK))
    store_u16(out, nb.intp(state >> _PLACE), np.uint16(entry))
    entry >>= NARROW_USED
    return window >> (entry & _LENGTH), state + entry


@njit
def _rounds(room, bit, last, most, taken):
    """Rounds of four look-ups of up to `most` symbols that surely neither overrun the output nor
    the source, of which each takes up to `taken` bytes."""
    ahead = last - _AHEAD - nb.intp(bit >> _THREE)
    return min((room - 2) // (most * _STEPS), ahead // taken)


@njit
def _finish(source, bit, last, table, width, lengths, out, position, end):
    """The last symbols of one group, one byte at a time; returns the bit position after them."""
    mask = np.uint64((1 << (width & (NARROW - 1))) - 1)
    while position < end:
        if nb.intp(bit >> _THREE) > last:
            return _OVERRUN
        place = nb.intp(_window(source, bit) & mask)
        if width & NARROW:
            symbols = load_half(table, place)
            count = nb.intp(symbols >> NARROW_COUNT)
            used = (symbols >> NARROW_USED) & _BITS
        else:
            entry = table[place]
            count = nb.intp(entry >> _COUNT)
            symbols = entry >> _SYMBOLS
            used = entry & _BITS
        if position + count > end:
            count = end - position
            used = np.uint64(0)
            for k in range(count):
                used += np.uint64(lengths[(symbols >> np.uint64(8 * k)) & np.uint64(255)])
        for _ in range(count):
            out[position] = np.uint8(symbols & np.uint64(255))
            symbols >>= np.uint64(8)
            position += 1
        bit += used
    return bit


@njit
def decode_streams(source, at, table, bits, lengths, out, begin, n):
    """Decodes one group of symbols from four streams into `out[begin : begin + n]`.

    `at`: uint64[4], the position of each stream in bits, moved on; a position from 2^62 on means
    that a stream ran over the end of `source`. Positions are at most `source.size - 8` bytes.
    `table`, `bits`: as from `build_tables`, or `NARROW` beside the bits of one whose entries are
    so; `lengths`: uint8[256], of the same code.
    """
    narrow = bits & NARROW
    mask = np.uint64((1 << (bits & (NARROW - 1))) - 1)
    most = _MAX_NARROW if narrow else _MAX_SYMBOLS
    taken = _NARROW_ROUND if narrow else _ROUND
    quarter = (n + 3) // 4
    last = source.size - 8
    p0 = begin
    p1 = begin + min(quarter, n)
    p2 = begin + min(2 * quarter, n)
    p3 = begin + min(3 * quarter, n)
    e0 = p1
    e1 = p2
    e2 = p3
    e3 = begin + n
    n0 = at[0]
    n1 = at[1]
    n2 = at[2]
    n3 = at[3]
    while True:
        rounds = min(
            min(_rounds(e0 - p0, n0, last, most, taken), _rounds(e1 - p1, n1, last, most, taken)),
            min(_rounds(e2 - p2, n2, last, most, taken), _rounds(e3 - p3, n3, last, most, taken)),
        )
        if rounds <= 0:
            break
        b0, h0, a0 = _open(source, n0)
        b1, h1, a1 = _open(source, n1)
        b2, h2, a2 = _open(source, n2)
        b3, h3, a3 = _open(source, n3)
        if narrow:
            s0 = np.uint64(p0) << _PLACE | (~h0 & _LENGTH)
            s1 = np.uint64(p1) << _PLACE | (~h1 & _LENGTH)
            s2 = np.uint64(p2) << _PLACE | (~h2 & _LENGTH)
            s3 = np.uint64(p3) << _PLACE | (~h3 & _LENGTH)
            for _ in range(rounds):
                b0, s0, a0 = _refill_narrow(b0, s0, source, a0)
                b1, s1, a1 = _refill_narrow(b1, s1, source, a1)
                b2, s2, a2 = _refill_narrow(b2, s2, source, a2)
                b3, s3, a3 = _refill_narrow(b3, s3, source, a3)
                for _ in range(_STEPS):  # in turns: waiting instructions are few then
                    b0, s0 = _next_narrow(b0, s0, table, out)
                    b1, s1 = _next_narrow(b1, s1, table, out)
                    b2, s2 = _next_narrow(b2, s2, table, out)
                    b3, s3 = _next_narrow(b3, s3, table, out)
            p0, h0 = nb.intp(s0 >> _PLACE), ~s0
            p1, h1 = nb.intp(s1 >> _PLACE), ~s1
            p2, h2 = nb.intp(s2 >> _PLACE), ~s2
            p3, h3 = nb.intp(s3 >> _PLACE), ~s3
        else:
            for _ in range(rounds):
                b0, h0, a0, p0 = _four(b0, h0, source, a0, p0, table, mask, out)
                b1, h1, a1, p1 = _four(b1, h1, source, a1, p1, table, mask, out)
                b2, h2, a2, p2 = _four(b2, h2, source, a2, p2, table, mask, out)
                b3, h3, a3, p3 = _four(b3, h3, source, a3, p3, table, mask, out)
        n0 = _closed(h0, a0)
        n1 = _closed(h1, a1)
        n2 = _closed(h2, a2)
        n3 = _closed(h3, a3)
    at[0] = _finish(source, n0, last, table, bits, lengths, out, p0, e0)
    at[1] = _finish(source, n1, last, table, bits, lengths, out, p1, e1)
    at[2] = _finish(source, n2, last, table, bits, lengths, out, p2, e2)
    at[3] = _finish(source, n3, last, table, bits, lengths, out, p3, e3)
