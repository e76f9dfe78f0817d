"""Compiled loops of the rANS coder: arrays in, arrays out; no allocation, no validation.

32 states of 32 bits take turns: symbol i belongs to state i mod 32. All share one stream of 16-bit
words, which the decoder takes in the order of the symbols. See docs/format/rans.md.
"""

import numpy as np
from numba import njit, types

from densor.entropy import vectors as v
from densor.entropy.bits import bit_length, put_bits, put_folded, take_bits, take_folded
from densor.entropy.intrinsics import copy_bytes, load_u16, store_u16
from densor.entropy.jit import R8, R32, W8, W32, kernel
from densor.entropy.rans.constants import BITS, FIRST, LOOK, STATES

R16_2D = types.Array(types.uint16, 2, "C", readonly=True)
W16_2D = types.uint16[:, ::1]
I64_2D = types.int64[:, ::1]

_ONE = 1 << BITS
_FIRST_START = 1 << 16  # the least that `starts` has for a symbol with a frequency
_MASK = np.uint32(_ONE - 1)
_FIRST = np.uint32(FIRST)
_SHIFT = np.uint32(BITS)


@kernel(types.void(R16_2D, W32))
def build_table(freqs, table):
    """`table[context << 12 | slot] = (freq - 1) << 20 | (slot - first slot) << 8 | symbol`.

    `freqs`: uint16[contexts, 256], each row with a sum of 4096, or of 0: such a context decodes to
    symbol 0 and uses no bits. `table`: uint32[contexts * 4096].
    """
    for c in range(freqs.shape[0]):
        at = c << BITS
        for s in range(256):
            freq = np.int64(freqs[c, s])
            for slot in range(freq):
                table[at] = (freq - 1) << 20 | slot << 8 | s
                at += 1
        for slot in range(at - (c << BITS), _ONE):
            table[at] = (_ONE - 1) << 20 | slot << 8
            at += 1


@njit
def _next_state(x, entry):
    high = v.shift_right(x, BITS)
    low = v.both(v.shift_right(entry, 8), v.splat(_ONE - 1))
    return v.add(v.add(v.multiply(v.shift_right(entry, 20), high), high), low)


@njit
def step(x, table, base):
    """Decodes one symbol per lane; returns the table entries and the states."""
    entry = v.gather_u32(table, v.either(base, v.both(x, v.splat(_ONE - 1))))
    return entry, _next_state(x, entry)


@njit
def step_beside(x, table, base):
    """Likewise, for the other half of the states of a stream: see `vectors.gather_u32_beside`."""
    entry = v.gather_u32_beside(table, v.either(base, v.both(x, v.splat(_ONE - 1))))
    return entry, _next_state(x, entry)


@njit
def refill(x, words, at):
    """Lanes that are below 2^16 take a word each; returns the states and the next position."""
    short = v.less(x, v.splat(FIRST))
    word = v.expand_u16(words, at, short)
    return v.choose(short, v.either(v.shift_left(x, 16), word), x), at + 2 * v.count(short)


@njit
def decode_groups(words, at, last, states, table, contexts, begin, end, symbols):
    """Decodes whole groups of 32 symbols from `begin` on while `at <= last`.

    Returns the number of symbols done and the byte position in `words`, of which 64 bytes from
    `last` on exist. `states`: uint32[32]. `contexts`, `symbols`: uint8[n], n >= `end`.
    """
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    i = begin
    while i + STATES <= end and at <= last:
        base0 = v.shift_left(v.load_u8(contexts, i), BITS)
        base1 = v.shift_left(v.load_u8(contexts, i + 16), BITS)
        entry0, x0 = step(x0, table, base0)
        entry1, x1 = step_beside(x1, table, base1)
        v.store_u8(symbols, i, entry0)
        v.store_u8(symbols, i + 16, entry1)
        x0, at = refill(x0, words, at)
        x1, at = refill(x1, words, at)
        i += STATES
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    return i, at


@njit
def decode_groups_of_two(
    words_a, a, last_a, words_b, b, last_b, states, table, contexts_a, contexts_b, end, symbols_a,
    symbols_b,
):  # fmt: skip
    """As `decode_groups`, of two streams from their symbol 0 on, which do not wait for each other.

    `states`: uint32[64], of both. Returns the number of symbols done and both positions.
    """
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    y0 = v.load_u32(states, 32)
    y1 = v.load_u32(states, 48)
    i = 0
    while i + STATES <= end and a <= last_a and b <= last_b:
        entry0, x0 = step(x0, table, v.shift_left(v.load_u8(contexts_a, i), BITS))
        entry2, y0 = step(y0, table, v.shift_left(v.load_u8(contexts_b, i), BITS))
        entry1, x1 = step_beside(x1, table, v.shift_left(v.load_u8(contexts_a, i + 16), BITS))
        entry3, y1 = step_beside(y1, table, v.shift_left(v.load_u8(contexts_b, i + 16), BITS))
        v.store_u8(symbols_a, i, entry0)
        v.store_u8(symbols_a, i + 16, entry1)
        v.store_u8(symbols_b, i, entry2)
        v.store_u8(symbols_b, i + 16, entry3)
        x0, a = refill(x0, words_a, a)
        y0, b = refill(y0, words_b, b)
        x1, a = refill(x1, words_a, a)
        y1, b = refill(y1, words_b, b)
        i += STATES
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    v.store_u32(states, 32, y0)
    v.store_u32(states, 48, y1)
    return i, a, b


@njit
def decode_rest(words, at, states, table, contexts, begin, end, symbols):
    """Decodes fewer than 32 symbols one at a time; returns the position, or -1 past the end."""
    for i in range(begin, end):
        lane = i - begin
        x = states[lane]
        entry = table[np.uint32(contexts[i]) << _SHIFT | (x & _MASK)]
        symbols[i] = np.uint8(entry & np.uint32(255))
        freq = (entry >> np.uint32(20)) + np.uint32(1)
        x = np.uint32(freq * (x >> _SHIFT) + ((entry >> np.uint32(8)) & _MASK))
        if x < _FIRST:
            if at + 2 > words.size:
                return -1
            x = np.uint32(x << np.uint32(16) | np.uint32(load_u16(words, at)))
            at += 2
        states[lane] = x
    return at


@njit
def decode_symbols(words, at, tail, states, table, contexts, symbols):
    """Decodes all of `symbols`; returns the position in `words`, or -1 where they do not suffice.

    `words`: uint8[], from byte `at` on. `tail`: uint8[192], work space, which takes the last words
    so that the loop can look beyond them. `contexts`: uint8[symbols.size], each below the number of
    contexts in `table`.
    """
    n = symbols.size
    i, at = decode_groups(words, at, words.size - 2 * LOOK, states, table, contexts, 0, n, symbols)
    if i + STATES <= n:
        left = words.size - at
        tail[:] = 0
        copy_bytes(tail, 0, words, at, left)
        i, used = decode_groups(tail, 0, left, states, table, contexts, i, n, symbols)
        if used > left or i + STATES <= n:
            return -1
        at += used
    return decode_rest(words, at, states, table, contexts, i, n, symbols)


@kernel(types.int64(R8, types.int64, W8, W32, R32, R8, W8))
def decode(words, at, tail, states, table, contexts, symbols):
    """See `decode_symbols`."""
    return decode_symbols(words, at, tail, states, table, contexts, symbols)


@kernel(types.void(R16_2D, W32))
def build_starts(freqs, starts):
    """`starts[context << 8 | symbol] = freq << 16 | first slot`, for the encoder."""
    for c in range(freqs.shape[0]):
        first = np.int64(0)
        for s in range(256):
            freq = np.int64(freqs[c, s])
            starts[c << 8 | s] = freq << 16 | first
            first += freq
        if first == 0:
            starts[c << 8] = _ONE << 16


@njit
def put_lanes(x, start, reciprocal, words, at):
    """Codes one symbol per lane, words going to where they end before `at`.

    `start`: of each, see `build_starts`. `reciprocal`: of its frequency, as `vectors` has it.
    """
    freq = v.shift_right(start, 16)
    one = v.splat(_ONE)
    # x >= freq << 20, without overflow for freq = 4096, which never needs a word.
    full = v.less(v.subtract(v.shift_left(freq, 20), v.splat(1)), x)
    v.compress_u16_before(words, at, full, x)
    x = v.choose(full, v.shift_right(x, 16), x)
    # What waits for x is kept short: x becomes x + (x // freq) * (4096 - freq) + first slot.
    quotient = v.divide_roughly(x, reciprocal)
    rest = v.subtract(x, v.multiply(quotient, freq))
    more = v.subtract(one, freq)
    x = v.add(v.add(x, v.both(start, v.splat(0xFFFF))), v.multiply(quotient, more))
    return v.choose(v.less(rest, freq), x, v.add(x, more)), at - 2 * v.count(full)


@njit
def encode_symbols(symbols, contexts, starts, states, words, at):
    """Codes `symbols`, last one first, with words from byte `at` of `words` backwards.

    Returns where they begin, -1 where a symbol has no frequency under its context. `symbols`,
    `contexts`: uint8[n], contexts that `starts` has. `states`: uint32[32]. `words`: uint8[], with
    2 n + 64 bytes before `at`.
    """
    whole = symbols.size & ~(STATES - 1)
    least = v.splat(_FIRST_START)
    at = encode_rest(symbols, contexts, starts, states, words, at)
    if at < 0:
        return -1
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    for i in range(whole - STATES, -1, -STATES):
        place1 = v.shift_left(v.load_u8(contexts, i + 16), 8)
        start1 = v.gather_u32(starts, v.either(place1, v.load_u8(symbols, i + 16)))
        place0 = v.shift_left(v.load_u8(contexts, i), 8)
        start0 = v.gather_u32(starts, v.either(place0, v.load_u8(symbols, i)))
        least = v.choose(v.less(start1, least), start1, least)
        least = v.choose(v.less(start0, least), start0, least)
        x1, at = put_lanes(x1, start1, v.reciprocal(v.shift_right(start1, 16)), words, at)
        x0, at = put_lanes(x0, start0, v.reciprocal(v.shift_right(start0, 16)), words, at)
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    return at if v.bits_of(v.less(least, v.splat(_FIRST_START))) == 0 else -1


@njit
def encode_rest(symbols, contexts, starts, states, words, at):
    """Likewise, the symbols behind the last whole group of 32."""
    n = symbols.size
    whole = n & ~(STATES - 1)
    for i in range(n - 1, whole - 1, -1):
        x = states[i - whole]
        start = starts[np.uint32(contexts[i]) << np.uint32(8) | np.uint32(symbols[i])]
        freq = start >> np.uint32(16)
        if freq == np.uint32(0):
            return -1
        if (x >> np.uint32(20)) >= freq:
            at -= 2
            store_u16(words, at, np.uint16(x & np.uint32(0xFFFF)))
            x >>= np.uint32(16)
        quotient = x // freq
        rest = x - quotient * freq
        states[i - whole] = np.uint32((quotient << _SHIFT) + rest + (start & np.uint32(0xFFFF)))
    return at


@kernel(types.int64(R8, R8, R32, W32, W8, types.int64))
def encode(symbols, contexts, starts, states, words, at):
    """See `encode_symbols`."""
    return encode_symbols(symbols, contexts, starts, states, words, at)


@njit
def _cost_of_step(count, freq, step):
    """Bits that a symbol takes more with another frequency; infinite where there is none."""
    if freq > 0 and freq + step > 0:
        return count * np.log2(freq / (freq + step))
    return np.inf


@kernel(types.void(I64_2D, W16_2D, types.float64[::1]))
def quantise(counts, freqs, costs):
    """See `tables.quantise`. Rounds, then moves single units where that costs least.

    `costs`: float64[256], work space.
    """
    for c in range(counts.shape[0]):
        total = 0
        for s in range(256):
            total += counts[c, s]
        freqs[c, :] = 0
        if total == 0:
            continue
        sum_ = 0
        for s in range(256):
            if counts[c, s] > 0:
                share = np.int64(counts[c, s] * (4096.0 / total) + 0.5)
                share = min(max(share, 1), _ONE)
                freqs[c, s] = share
                sum_ += share
        step = 1 if sum_ < _ONE else -1
        if sum_ != _ONE:
            for s in range(256):
                costs[s] = _cost_of_step(counts[c, s], np.int64(freqs[c, s]), step)
        while sum_ != _ONE:
            best = 0
            for s in range(256):
                if costs[s] < costs[best]:
                    best = s
            freqs[c, best] += step
            sum_ += step
            costs[best] = _cost_of_step(counts[c, best], np.int64(freqs[c, best]), step)


@kernel(types.float64(I64_2D, R16_2D))
def cost_bits(counts, freqs):
    """See `tables.cost_bits`."""
    bits = 0.0
    for c in range(counts.shape[0]):
        for s in range(256):
            count = counts[c, s]
            if count > 0:
                if freqs[c, s] == 0:
                    return np.inf
                bits += count * (12.0 - np.log2(np.float64(freqs[c, s])))
    return bits


@kernel(types.int64(R16_2D, W8))
def pack_freqs(freqs, out):
    """Writes all contexts to `out`, uint8[], zeros; returns the bytes used. See rans.md.

    Room: 3 + 4 * 256 bytes for each context.
    """
    at = 0
    for c in range(freqs.shape[0]):
        first = 0
        while first < 256 and freqs[c, first] == 0:
            first += 1
        at = put_bits(out, at, np.int64(first < 256), 1)
        if first == 256:
            continue
        last = 255
        while freqs[c, last] == 0:
            last -= 1
        at = put_bits(out, at, first, 8)
        at = put_bits(out, at, last, 8)
        before = 0
        order = 5
        for s in range(first, last + 1):
            change = np.int64(freqs[c, s]) - before
            before = np.int64(freqs[c, s])
            folded = 2 * change if change >= 0 else -2 * change - 1
            at = put_folded(out, at, folded, order)
            order = (order + bit_length(folded >> 1) + 1) >> 1
    return (at + 7) >> 3


@kernel(types.int64(R8, W16_2D))
def unpack_freqs(data, freqs):
    """Reads what `pack_freqs` wrote into `freqs`, zeros; returns the bytes used, or -1.

    `data`: uint8[]. Never reads beyond it. Rows that are returned add up to 4096 or are empty.
    """
    at = 0
    for c in range(freqs.shape[0]):
        used = take_bits(data, at, 1)
        at += 1
        if used < 0:
            return -1
        if used == 0:
            continue
        first = take_bits(data, at, 8)
        last = take_bits(data, at + 8, 8)
        at += 16
        if first < 0 or last < first:
            return -1
        freq = 0
        order = 5
        total = 0
        for s in range(first, last + 1):
            folded, at = take_folded(data, at, order)
            if folded < 0:
                return -1
            freq += folded >> 1 if folded & 1 == 0 else -((folded + 1) >> 1)
            if freq < 0 or freq > _ONE:
                return -1
            freqs[c, s] = freq
            total += freq
            order = (order + bit_length(folded >> 1) + 1) >> 1
        if total != _ONE or freqs[c, first] == 0 or freqs[c, last] == 0:
            return -1
    if at & 7 and data[at >> 3] >> (at & 7) != 0:
        return -1
    return (at + 7) >> 3
