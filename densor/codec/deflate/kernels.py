"""The loop that makes a DEFLATE stream again, bit for bit as zlib does.

The format is RFC 1951; which of all valid streams zlib writes is laid down in
docs/format/deflate.md, from the behaviour of zlib 1.2.12 to 1.3.1.
"""

import numpy as np
from numba import types

from densor.codec.deflate.strategies import FILTERED, FIXED, HEAP, HUFFMAN, RLE
from densor.codec.spans.jit import part
from densor.entropy.intrinsics import copy_bytes
from densor.entropy.jit import R8, W8, inlined, kernel

MIN_MATCH, MAX_MATCH = 3, 258
MIN_LOOKAHEAD = MAX_MATCH + MIN_MATCH + 1
TOO_FAR = 4096  # a match of three bytes that lies farther back takes more than it saves
LITERALS, LENGTHS, DISTANCES, LENGTH_CODES = 256, 29, 30, 19
SYMBOLS = LITERALS + 1 + LENGTHS  # of literals and lengths that occur
END = 256
MAX_BITS, MAX_LENGTH_BITS = 15, 7
REPEAT, ZEROS, MANY_ZEROS = 16, 17, 18
DIFFERENT, TOO_LONG = -1, -2  # what the kernel returns in place of a size

# For levels 1 to 9: good length, lazy length, nice length, chain length.
CONFIGURATION = np.array(
    [
        (4, 4, 8, 4), (4, 5, 16, 8), (4, 6, 32, 32),
        (4, 4, 16, 16), (8, 16, 32, 32), (8, 16, 128, 128), (8, 32, 128, 256),
        (32, 128, 258, 1024), (32, 258, 258, 4096),
    ],
    np.int32,
)  # fmt: skip
_LAST_FAST = 3  # the last level without lazy matches
_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int32)


def _code_tables():
    """Code of each length - 3 and distance code, first value and further bits of each code."""
    length_bits = np.array([0] * 8 + [k for k in range(1, 6) for _ in range(4)] + [0], np.int32)
    length_of, first_length = np.zeros(256, np.int32), np.zeros(LENGTHS, np.int32)
    at = 0
    for code in range(LENGTHS - 1):
        first_length[code] = at
        length_of[at : at + (1 << length_bits[code])] = code
        at += 1 << length_bits[code]
    length_of[255] = LENGTHS - 1
    distance_bits = np.array([0, 0] + [k for k in range(14) for _ in range(2)], np.int32)
    first_distance = np.concatenate([[0], np.cumsum(1 << distance_bits)[:-1]]).astype(np.int32)
    return length_of, first_length, length_bits, first_distance, distance_bits


_LENGTH_OF, _FIRST_LENGTH, _LENGTH_BITS, _FIRST_DISTANCE, _DISTANCE_BITS = _code_tables()
_FIXED_LENGTHS = np.array([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, np.int32)
_RUN_BITS = np.array([0] * 16 + [2, 3, 7], np.int32)
_CODE_OF = np.array(
    [np.searchsorted(_FIRST_DISTANCE, d, "right") - 1 for d in range(256)]
    + [np.searchsorted(_FIRST_DISTANCE, d << 7, "right") - 1 for d in range(256)],
    np.uint8,
)
_LITERAL_BITS = np.concatenate([np.zeros(LITERALS + 1, np.int32), _LENGTH_BITS])


@part
def _distance_code(distance):
    """The code of a distance - 1."""
    return _CODE_OF[distance] if distance < 256 else _CODE_OF[256 + (distance >> 7)]


@part
def _smaller(freqs, depths, n, m):
    return freqs[n] < freqs[m] or (freqs[n] == freqs[m] and depths[n] <= depths[m])


@part
def _sift(freqs, depths, heap, size, k):
    node = heap[k]
    j = 2 * k
    while j <= size:
        if j < size and _smaller(freqs, depths, heap[j + 1], heap[j]):
            j += 1
        if _smaller(freqs, depths, node, heap[j]):
            break
        heap[k] = heap[j]
        k = j
        j *= 2
    heap[k] = node


@part
def _lengths_of(freqs, lengths, fathers, depths, heap, elements, most, counts):
    """Code lengths of a Huffman tree as zlib builds it; returns the last symbol that has one.

    `freqs`: int32[HEAP], of which the first `elements` are set.
    """
    size = 0
    first = HEAP
    last = -1
    for n in range(elements):
        lengths[n] = 0
        if freqs[n] != 0:
            size += 1
            heap[size] = n
            last = n
            depths[n] = 0
    while size < 2:
        node = 0
        if last < 2:
            last += 1
            node = last
        size += 1
        heap[size] = node
        freqs[node] = 1
        depths[node] = 0
    for n in range(size // 2, 0, -1):
        _sift(freqs, depths, heap, size, n)
    node = elements
    while True:
        n = heap[1]
        heap[1] = heap[size]
        size -= 1
        _sift(freqs, depths, heap, size, 1)
        m = heap[1]
        heap[first - 1] = n
        heap[first - 2] = m
        first -= 2
        freqs[node] = freqs[n] + freqs[m]
        depths[node] = max(depths[n], depths[m]) + 1
        fathers[n] = node
        fathers[m] = node
        heap[1] = node
        node += 1
        _sift(freqs, depths, heap, size, 1)
        if size < 2:
            break
    first -= 1
    heap[first] = heap[1]
    counts[:] = 0
    lengths[heap[first]] = 0
    overflow = 0
    for h in range(first + 1, HEAP):
        n = heap[h]
        bits = lengths[fathers[n]] + 1
        if bits > most:
            bits = most
            overflow += 1
        lengths[n] = bits
        if n <= last:
            counts[bits] += 1
    if overflow > 0:
        while overflow > 0:
            bits = most - 1
            while counts[bits] == 0:
                bits -= 1
            counts[bits] -= 1
            counts[bits + 1] += 2
            counts[most] -= 1
            overflow -= 2
        h = HEAP
        for bits in range(most, 0, -1):
            left = counts[bits]
            while left != 0:
                h -= 1
                n = heap[h]
                if n <= last:
                    lengths[n] = bits
                    left -= 1
    return last


@part
def _codes_of(lengths, last, codes, counts, next_codes):
    """Canonical codes, their bits reversed as they stand in a stream."""
    counts[:] = 0
    for n in range(last + 1):
        counts[lengths[n]] += 1
    counts[0] = 0
    code = 0
    for bits in range(1, MAX_BITS + 1):
        code = (code + counts[bits - 1]) << 1
        next_codes[bits] = code
    for n in range(last + 1):
        length = lengths[n]
        if length != 0:
            value = next_codes[length]
            next_codes[length] += 1
            reverse = 0
            for _ in range(length):
                reverse = (reverse << 1) | (value & 1)
                value >>= 1
            codes[n] = reverse


@part
def _runs(lengths, last, put, state, tree, codes, freqs, out):
    """The lengths of a tree in runs: counted to `freqs`, or where `put` is set, written."""
    before = -1
    following = lengths[0]
    count = 0
    most, least = (138, 3) if following == 0 else (7, 4)
    for n in range(last + 1):
        here = following
        following = lengths[n + 1] if n < last else -1
        count += 1
        if count < most and here == following:
            continue
        if count < least:
            if put:
                for _ in range(count):
                    _bits(state, out, codes[here], tree[here])
            else:
                freqs[here] += count
        elif here != 0:
            if here != before:
                if put:
                    _bits(state, out, codes[here], tree[here])
                    count -= 1
                else:
                    freqs[here] += 1
            if put:
                # zlib counts the first of a run that differs from the one before by itself.
                _bits(state, out, codes[REPEAT], tree[REPEAT])
                _bits(state, out, count - 3, 2)
            else:
                freqs[REPEAT] += 1
        elif count <= 10:
            if put:
                _bits(state, out, codes[ZEROS], tree[ZEROS])
                _bits(state, out, count - 3, 3)
            else:
                freqs[ZEROS] += 1
        elif put:
            _bits(state, out, codes[MANY_ZEROS], tree[MANY_ZEROS])
            _bits(state, out, count - 11, 7)
        else:
            freqs[MANY_ZEROS] += 1
        count = 0
        before = here
        if following == 0:
            most, least = 138, 3
        elif here == following:
            most, least = 6, 3
        else:
            most, least = 7, 4


@part
def _bits(state, out, value, count):
    """Appends bits to the stream; `state`: int64[3], place, buffer, bits in it."""
    buffer = state[1] | (np.int64(value) << state[2])
    filled = state[2] + count
    at = state[0]
    while filled >= 8:
        out[at] = buffer & 255
        at += 1
        buffer >>= 8
        filled -= 8
    state[0] = at
    state[1] = buffer
    state[2] = filled


@part
def _cost(freqs, lengths, last, extra):
    total = np.int64(0)
    for n in range(last + 1):
        total += np.int64(freqs[n]) * (lengths[n] + extra[n])
    return total


@part
def _forced(freqs, elements):
    """How many symbols get a code without being used: a tree has two at least."""
    used = 0
    for n in range(elements):
        used += freqs[n] != 0
    return max(0, 2 - used)


@part
def _fixed_cost(literal_freqs, distance_freqs):
    total = np.int64(0)
    for n in range(SYMBOLS):
        total += np.int64(literal_freqs[n]) * (_FIXED_LENGTHS[n] + _LITERAL_BITS[n])
    for n in range(DISTANCES):
        total += np.int64(distance_freqs[n]) * (5 + _DISTANCE_BITS[n])
    return total


@part
def _put_symbols(state, out, values, distances, count, lengths, codes, far_lengths, far_codes):
    """The symbols of a block, and its end."""
    for k in range(count):
        value = np.int64(values[k])
        distance = np.int64(distances[k])
        if distance == 0:
            _bits(state, out, codes[value], lengths[value])
            continue
        code = _LENGTH_OF[value]
        _bits(state, out, codes[code + LITERALS + 1], lengths[code + LITERALS + 1])
        if _LENGTH_BITS[code] != 0:
            _bits(state, out, value - _FIRST_LENGTH[code], _LENGTH_BITS[code])
        distance -= 1
        code = _distance_code(distance)
        _bits(state, out, far_codes[code], far_lengths[code])
        if _DISTANCE_BITS[code] != 0:
            _bits(state, out, distance - _FIRST_DISTANCE[code], _DISTANCE_BITS[code])
    _bits(state, out, codes[END], lengths[END])


@part
def _align(state, out):
    if state[2] > 0:
        out[state[0]] = state[1] & 255
        state[0] += 1
    state[1] = 0
    state[2] = 0


@part
def _put_block(
    state, out, data, begin, end, may_store, last, strategy, values, distances, count, freqs,
    far_freqs, run_freqs, work,
):  # fmt: skip
    """A block in the smallest of three ways; False where `out` has no room for it.

    `work`: int32[10, HEAP].
    """
    lengths, fathers, depths, heap = work[0], work[1], work[2], work[3]
    counts, following = work[4][:32], work[4][32:64]
    codes, far_lengths, far_codes, run_lengths = work[5], work[6], work[7], work[8]
    run_codes = work[9]
    fixed = _fixed_cost(freqs, far_freqs)
    forced = _forced(freqs, SYMBOLS) + _forced(far_freqs, DISTANCES)
    top = _lengths_of(freqs, lengths, fathers, depths, heap, SYMBOLS, MAX_BITS, counts)
    far_top = _lengths_of(
        far_freqs, far_lengths, fathers, depths, heap, DISTANCES, MAX_BITS, counts
    )
    own = _cost(freqs, lengths, top, _LITERAL_BITS)
    own += _cost(far_freqs, far_lengths, far_top, _DISTANCE_BITS) - forced
    run_freqs[:] = 0
    _runs(lengths, top, False, state, run_lengths, run_codes, run_freqs, out)
    _runs(far_lengths, far_top, False, state, run_lengths, run_codes, run_freqs, out)
    forced = _forced(run_freqs, LENGTH_CODES)
    run_top = _lengths_of(
        run_freqs, run_lengths, fathers, depths, heap, LENGTH_CODES, MAX_LENGTH_BITS, counts
    )
    own += _cost(run_freqs, run_lengths, run_top, _RUN_BITS) - forced
    for n in range(run_top + 1, LENGTH_CODES):
        run_lengths[n] = 0
    listed = LENGTH_CODES
    while listed > 4 and run_lengths[_ORDER[listed - 1]] == 0:
        listed -= 1
    own += 3 * listed + 14
    own_bytes = (own + 10) >> 3
    fixed_bytes = (fixed + 10) >> 3
    best = own_bytes
    if fixed_bytes <= own_bytes or strategy == FIXED:
        best = fixed_bytes
    size = end - begin
    if may_store and size + 4 <= best:
        if state[0] + size + 8 > out.size:
            return False
        _bits(state, out, last, 3)
        _align(state, out)
        at = state[0]
        out[at] = size & 255
        out[at + 1] = size >> 8
        out[at + 2] = (size & 255) ^ 255
        out[at + 3] = (size >> 8) ^ 255
        copy_bytes(out, at + 4, data, begin, size)
        state[0] = at + 4 + size
        return True
    if state[0] + best + 8 > out.size:
        return False
    if best == fixed_bytes and (fixed_bytes <= own_bytes or strategy == FIXED):
        _bits(state, out, 2 + last, 3)
        for n in range(288):
            lengths[n] = _FIXED_LENGTHS[n]
        _codes_of(lengths, 287, codes, counts, following)
        for n in range(DISTANCES):
            far_lengths[n] = 5
        _codes_of(far_lengths, DISTANCES - 1, far_codes, counts, following)
    else:
        _bits(state, out, 4 + last, 3)
        _codes_of(lengths, top, codes, counts, following)
        _codes_of(far_lengths, far_top, far_codes, counts, following)
        _codes_of(run_lengths, run_top, run_codes, counts, following)
        _bits(state, out, top - 256, 5)
        _bits(state, out, far_top, 5)
        _bits(state, out, listed - 4, 4)
        for rank in range(listed):
            _bits(state, out, run_lengths[_ORDER[rank]], 3)
        _runs(lengths, top, True, state, run_lengths, run_codes, run_freqs, out)
        _runs(far_lengths, far_top, True, state, run_lengths, run_codes, run_freqs, out)
    _put_symbols(state, out, values, distances, count, lengths, codes, far_lengths, far_codes)
    return True


@part
def _hash(data, at, shift, mask):
    first = np.int64(data[at]) << (2 * shift)
    return (first ^ (np.int64(data[at + 1]) << shift) ^ np.int64(data[at + 2])) & mask


@part
def _insert(data, at, shift, mask, window, heads, before):
    """Puts a string of three bytes into its chain; returns the place of the one before."""
    h = _hash(data, at, shift, mask)
    found = heads[h]
    before[at & (window - 1)] = found
    heads[h] = at
    return np.int64(found)


@part
def _longest(data, at, found, base, window, before, best, good, nice, chain, left):
    """The longest match better than `best` among those of a chain: its length, and where."""
    limit = max(at - (window - MIN_LOOKAHEAD), base)
    if best >= good:
        chain >>= 2
    nice = min(nice, left)
    most = min(left, MAX_MATCH)
    where = np.int64(-1)
    while True:
        if best < most and data[found + best] == data[at + best]:
            length = 0
            while length < most and data[found + length] == data[at + length]:
                length += 1
            if length > best:
                where = found
                best = length
                if length >= nice:
                    break
        found = np.int64(before[found & (window - 1)])
        chain -= 1
        if found <= limit or chain == 0:
            break
    return min(best, left), where


@part
def _run_length(data, at, left):
    """How often the byte before `at` is repeated from there on, up to the longest match."""
    most = min(left, MAX_MATCH)
    byte = data[at - 1]
    length = 0
    while length < most and data[at + length] == byte:
        length += 1
    return length


@inlined
def _put_literal(byte, symbols, count):
    """Notes a byte as a symbol of the block; returns how many there are."""
    values, distances, freqs, _ = symbols
    values[count] = byte
    distances[count] = 0
    freqs[byte] += 1
    return count + 1


@inlined
def _put_match(length, distance, symbols, count):
    """Notes a match as a symbol of the block; returns how many there are."""
    values, distances, freqs, far_freqs = symbols
    values[count] = length - MIN_MATCH
    distances[count] = distance
    freqs[_LENGTH_OF[length - MIN_MATCH] + LITERALS + 1] += 1
    far_freqs[_distance_code(distance - 1)] += 1
    return count + 1


@inlined
def _take_run(data, at, left, strategy, symbols, count):
    """zlib's deflate_rle and deflate_huff: the next symbol. Returns what is next, and the count."""
    length = _run_length(data, at, left) if strategy == RLE and at > 0 else np.int64(0)
    if length >= MIN_MATCH:
        return at + length, _put_match(length, np.int64(1), symbols, count)
    return at + 1, _put_literal(data[at], symbols, count)


@inlined
def _take_first(data, at, left, base, chains, limits, symbols, count):
    """zlib's deflate_fast: the next symbol. Returns what is next, and the count."""
    shift, mask, window, heads, before = chains
    good, lazy, nice, chain = limits
    found = base
    if left >= MIN_MATCH:
        found = _insert(data, at, shift, mask, window, heads, before)
    length, where = np.int64(MIN_MATCH - 1), np.int64(-1)
    if found > base and at - found <= window - MIN_LOOKAHEAD:
        length, where = _longest(
            data, at, found, base, window, before, length, good, nice, chain, left
        )
    if length < MIN_MATCH:
        return at + 1, _put_literal(data[at], symbols, count)
    if length <= lazy and left - length >= MIN_MATCH:
        for k in range(1, length):
            _insert(data, at + k, shift, mask, window, heads, before)
    return at + length, _put_match(length, at - where, symbols, count)


@inlined
def _take_lazily(data, at, left, base, earlier, strategy, chains, limits, symbols, count):
    """zlib's deflate_slow: takes the match at the byte before, unless the one here is longer.

    `earlier`: its length, where it is, and whether the byte before waits for that. Returns the same
    of the byte before what is next, what is next, where the last symbol ends, and the count.
    """
    shift, mask, window, heads, before = chains
    good, lazy, nice, chain = limits
    earlier_length, earlier_where, waiting = earlier
    found = base
    if left >= MIN_MATCH:
        found = _insert(data, at, shift, mask, window, heads, before)
    length, where = np.int64(MIN_MATCH - 1), earlier_where
    if found > base and earlier_length < lazy and at - found <= window - MIN_LOOKAHEAD:
        length, where = _longest(
            data, at, found, base, window, before, earlier_length, good, nice, chain, left
        )
        short = length == MIN_MATCH and at - where > TOO_FAR
        if length <= 5 and (strategy == FILTERED or short):
            length = np.int64(MIN_MATCH - 1)
    if earlier_length >= MIN_MATCH and length <= earlier_length:
        count = _put_match(earlier_length, at - 1 - earlier_where, symbols, count)
        for k in range(1, min(earlier_length - 1, left - MIN_MATCH + 1)):
            _insert(data, at + k, shift, mask, window, heads, before)
        at += earlier_length - 1
        return (np.int64(MIN_MATCH - 1), where, False), at, at, count
    if waiting:
        count = _put_literal(data[at - 1], symbols, count)
    return (length, where, True), at + 1, at, count


@inlined
def _loaded(at, n, base, loaded, lookahead, window):
    """What zlib has of the input, and where its window begins, when it looks at `at`."""
    while loaded - at < lookahead:
        if at - base >= 2 * window - MIN_LOOKAHEAD:
            base += window
        more = min(n, base + 2 * window)
        if more == loaded:
            break
        loaded = more
    return base, loaded


@part
def _differs(out, begin, end, expected):
    """Whether bytes of `out` are not those of `expected`."""
    at = begin
    while at < end and at < expected.size and out[at] == expected[at]:
        at += 1
    return at < end


@part
def _begin_block(freqs, far_freqs):
    freqs[:] = 0
    far_freqs[:] = 0
    freqs[END] = 1


@kernel(
    types.int64(
        R8, types.int64, types.int64, types.int64, types.int64, R8, W8, types.int64[::1],
        types.int64[::1], types.int64[::1], W8, types.uint16[::1], types.int32[:, ::1],
    ),
    counted=False,
)  # fmt: skip
def deflate(
    data, level, strategy, window_bits, memory, expected, out, state, heads, before, values,
    distances, work,
):  # fmt: skip
    """Makes the DEFLATE stream that zlib makes of `data` with these settings.

    `level`: 1 to 9; `strategy`: one of those above; `window_bits`: 8 to 15; `memory`: 1 to 9.
    `expected`: uint8[], the stream that should come, at which the loop ends as soon as another one
    comes; empty where none is known. `out`: uint8[]. Returns the bytes written, `DIFFERENT`, or
    `TOO_LONG` where `out` has no room.

    Work space: `state`, int64[3]; `heads`, int64[1 << memory + 7]; `before`,
    int64[1 << window_bits]; `values`, uint8[], and `distances`, uint16[], 1 << memory + 6 each;
    `work`, int32[13, HEAP].
    """
    window = np.int64(1) << window_bits
    bits = memory + 7
    most = (np.int64(1) << (memory + 6)) - 1  # symbols of a block
    chains = (
        np.int64((bits + MIN_MATCH - 1) // MIN_MATCH),
        (np.int64(1) << bits) - 1,
        window,
        heads,
        before,
    )
    limits = (
        np.int64(CONFIGURATION[level - 1, 0]),
        np.int64(CONFIGURATION[level - 1, 1]),
        np.int64(CONFIGURATION[level - 1, 2]),
        np.int64(CONFIGURATION[level - 1, 3]),
    )
    freqs, far_freqs, run_freqs = work[10], work[11], work[12]
    symbols = (values, distances, freqs, far_freqs)
    _begin_block(freqs, far_freqs)
    heads[:] = 0
    before[:] = 0
    state[:] = 0
    lookahead = MAX_MATCH + 1 if strategy == RLE else 1 if strategy == HUFFMAN else MIN_LOOKAHEAD
    base = np.int64(0)  # of the window; a string there is never found
    loaded = min(data.size, 2 * window)
    at = np.int64(0)
    begin = np.int64(0)  # of the block
    count = np.int64(0)
    checked = np.int64(0)
    earlier = (np.int64(MIN_MATCH - 1), np.int64(-1), False)
    ending = False
    while not ending:
        base, loaded = _loaded(at, data.size, base, loaded, lookahead, window)
        left = loaded - at
        ending = left == 0
        if ending:
            if earlier[2]:
                count = _put_literal(data[at - 1], symbols, count)
            end = at
        elif strategy in (HUFFMAN, RLE):
            at, count = _take_run(data, at, left, strategy, symbols, count)
            end = at
        elif level <= _LAST_FAST:
            at, count = _take_first(data, at, left, base, chains, limits, symbols, count)
            end = at
        else:
            earlier, at, end, count = _take_lazily(
                data, at, left, base, earlier, strategy, chains, limits, symbols, count
            )
        if count == most or ending:
            if not _put_block(
                state, out, data, begin, end, begin >= base, np.int64(ending), strategy, values,
                distances, count, freqs, far_freqs, run_freqs, work,
            ):  # fmt: skip
                return TOO_LONG
            begin = end
            count = np.int64(0)
            _begin_block(freqs, far_freqs)
        if expected.size > 0 and not ending and state[0] > checked:
            if _differs(out, checked, state[0], expected):
                return DIFFERENT
            checked = state[0]
    if state[2] > 0 and state[0] >= out.size:
        return TOO_LONG
    _align(state, out)
    return state[0]
