"""Compiled loops of the scale-context codec: arrays in, arrays out; no allocation, no validation.

Elements are taken in blocks of 32; arrays that go with them have room for a whole last block.
A *top* is the number that exponent and top mantissa bits form; a *scale* is a uint8 per element,
the sum of what its row and its column have: its low `phase` bits are the context, the others the
exponent that is expected, less a base.
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

from densor.entropy import vectors as v
from densor.entropy.bits import put_bits, take_bits
from densor.entropy.intrinsics import (
    copy_bytes,
    load_u16,
    load_u32,
    load_u64,
    store_u16,
    store_u32,
    trailing_zeros,
)
from densor.entropy.jit import R8, R32, W8, W32, kernel
from densor.entropy.rans.kernels import (
    BITS,
    LOOK,
    STATES,
    decode_rest,
    refill,
    step,
    step_beside,
)

F64 = types.float64[::1]
I64_2D = types.int64[:, ::1]
R16 = types.Array(types.uint16, 1, "C", readonly=True)
_RULE = types.UniTuple(types.int64, 9)  # see `decode_bf16`


# Splitting. What is done with a block is chosen when the kernel is compiled, by the type of a
# marker that stands for the form: with branches numba would count references to arrays for every
# block.

_BF16, _FP16, _FP8 = np.uint16(0), np.int16(0), np.uint8(0)


def _split_block(form, data, at, high_bits, i, rest, signs):
    """Cuts the 32 elements from byte `at` on; `high_bits`: bytes of uint16."""


def _join_block(form, high0, high1, rest, signs, i, out, at):
    """Puts high bits and the rest of 32 elements together, to byte `at` of `out`."""


def _split_bf16(form, data, at, high_bits, i, rest, signs):
    x0 = v.load_u16(data, at)
    x1 = v.load_u16(data, at + 32)
    minus = v.bits_of(v.less(v.splat(0x7FFF), x0)) | v.bits_of(v.less(v.splat(0x7FFF), x1)) << 16
    store_u32(signs, i >> 3, np.uint32(minus))
    low = v.splat(15)
    v.store_u8(rest, i >> 1, v.either(v.both(x0, low), v.shift_left(v.both(x1, low), 4)))
    v.store_u16(high_bits, 2 * i, v.shift_right(v.both(x0, v.splat(0x7FFF)), 4))
    v.store_u16(high_bits, 2 * i + 32, v.shift_right(v.both(x1, v.splat(0x7FFF)), 4))


@njit
def _sign_and_low7(x):
    """The sign and the lowest 7 bits of FP16, as a byte."""
    return v.either(v.both(v.shift_right(x, 8), v.splat(128)), v.both(x, v.splat(127)))


def _split_fp16(form, data, at, high_bits, i, rest, signs):
    x0 = v.load_u16(data, at)
    x1 = v.load_u16(data, at + 32)
    v.store_u8(rest, i, _sign_and_low7(x0))
    v.store_u8(rest, i + 16, _sign_and_low7(x1))
    v.store_u16(high_bits, 2 * i, v.both(v.shift_right(x0, 7), v.splat(255)))
    v.store_u16(high_bits, 2 * i + 32, v.both(v.shift_right(x1, 7), v.splat(255)))


def _split_fp8(form, data, at, high_bits, i, rest, signs):
    x0 = v.load_u8(data, at)
    x1 = v.load_u8(data, at + 16)
    minus = v.bits_of(v.less(v.splat(127), x0)) | v.bits_of(v.less(v.splat(127), x1)) << 16
    store_u32(signs, i >> 3, np.uint32(minus))
    v.store_u16(high_bits, 2 * i, v.both(x0, v.splat(127)))
    v.store_u16(high_bits, 2 * i + 32, v.both(x1, v.splat(127)))


@overload(_split_block)
def _choose_split(form, data, at, high_bits, i, rest, signs):
    return {types.uint16: _split_bf16, types.int16: _split_fp16, types.uint8: _split_fp8}[form]


@njit
def _split(form, size, data, work, high_bits, rest, signs):
    n = data.size // size
    whole = n & ~31
    for i in range(0, whole, 32):
        _split_block(form, data, i * size, high_bits, i, rest, signs)
    if whole < n:
        work[:] = 0
        copy_bytes(work, 0, data, whole * size, data.size - whole * size)
        _split_block(form, work, 0, high_bits, whole, rest, signs)


_SPLIT = types.void(R8, W8, W8, W8, W8)


@kernel(_SPLIT)
def split_bf16(data, work, high_bits, rest, signs):
    """Cuts elements into high bits and the rest.

    `high_bits`: uint8[2 * 32 * blocks], two bytes each. `rest`, `signs`: as many bytes per block as
    the form has. `work`: uint8[64]. What is beyond the last element is as for elements of 0.
    """
    _split(_BF16, 2, data, work, high_bits, rest, signs)


@kernel(_SPLIT)
def split_fp16(data, work, high_bits, rest, signs):
    """See `split_bf16`."""
    _split(_FP16, 2, data, work, high_bits, rest, signs)


@kernel(_SPLIT)
def split_fp8(data, work, high_bits, rest, signs):
    """See `split_bf16`."""
    _split(_FP8, 1, data, work, high_bits, rest, signs)


@kernel(types.void(R8, W8, W8))
def split_halves(data, high, low):
    """Cuts elements of 4 bytes into high and low halves, 2 bytes each."""
    for i in range(data.size // 4):
        word = load_u32(data, 4 * i)
        store_u16(high, 2 * i, np.uint16(word >> np.uint32(16)))
        store_u16(low, 2 * i, np.uint16(word & np.uint32(0xFFFF)))


@kernel(types.void(R8, R8, W8))
def merge_halves(high, low, data):
    """Undoes `split_halves`."""
    for i in range(data.size // 4):
        word = np.uint32(load_u16(high, 2 * i)) << np.uint32(16) | np.uint32(load_u16(low, 2 * i))
        store_u32(data, 4 * i, np.uint32(word))


# Scales


@kernel(types.int64(R16))
def highest(high_bits):
    """The largest of all high bits."""
    most = np.uint16(0)
    for i in range(high_bits.size):
        most = max(most, high_bits[i])
    return np.int64(most)


@kernel(types.void(R16, types.int64, types.int64, F64, F64, W32))
def sum_rows_and_columns(high_bits, columns, floor, row_sums, column_sums, work):
    """Sums of the high bits of each row and of each column, those below `floor` counted as it.

    `high_bits`: uint16[rows * columns]. `work`: uint32[columns].
    """
    rows = row_sums.size
    column_sums[:] = 0
    work[:] = 0
    least = np.uint16(floor)
    for r in range(rows):
        row = high_bits[r * columns : (r + 1) * columns]
        total = np.uint32(0)
        for j in range(row.size):
            value = np.uint32(max(row[j], least))
            total += value
            work[j] += value
        row_sums[r] = total
        if r & 0xFFFF == 0xFFFF:
            column_sums += work
            work[:] = 0
    for j in range(work.size):
        column_sums[j] += work[j]


@kernel(types.void(R8, R8, W8))
def fill_scales(row_scales, column_scales, scales):
    """`scales[r * columns + j] = row_scales[r] + column_scales[j]`, modulo 256."""
    columns = column_scales.size
    for r in range(row_scales.size):
        row = scales[r * columns : (r + 1) * columns]
        scale = row_scales[r]
        for j in range(row.size):
            row[j] = np.uint8(scale + column_scales[j])


# Symbols. With `main` joint symbols of exponent and mantissa bits, the next one stands for high
# bits of 0, `low_exponents` more for exponents below, whose mantissa bits are escape bits, and the
# last one for any high bits, all of which are escape bits.


@njit
def _rare_symbol(top, scale, phase, top_bits, base, first, main, low_exponents):
    """The symbol of high bits that no joint symbol stands for."""
    if top == 0:
        return main
    below = first - 1 - ((top >> top_bits) - base - (scale >> phase))
    return main + 1 + (below if 0 <= below < low_exponents else low_exponents)


@njit
def _joint_symbols(high_bits, scales, rule, i):
    """Symbols of 16 elements from `i` on, and the mask of those that joint symbols stand for."""
    _, _, phase, top_bits, _, base, first, main, _ = rule
    expected = v.shift_left(v.shift_right(v.load_u8(scales, i), phase), top_bits)
    offset = v.add(expected, v.splat((base + first) << top_bits))
    symbol = v.subtract(v.load_u16(high_bits, 2 * i), offset)
    return symbol, v.bits_of(v.less(symbol, v.splat(main)))


@kernel(types.void(R8, R8, _RULE, W8))
def find_symbols(high_bits, scales, rule, symbols):
    """The symbol of each element. `high_bits`: bytes of uint16[n]; `rule`: as for `decode_bf16`."""
    _, _, phase, top_bits, _, base, first, main, low_exponents = rule
    n = symbols.size
    whole = n & ~15
    for i in range(0, whole, 16):
        joint, mask = _joint_symbols(high_bits, scales, rule, i)
        v.store_u8(symbols, i, joint)
        rare = mask ^ 0xFFFF
        while rare != 0:
            j = i + np.int64(trailing_zeros(np.uint64(rare)))
            rare &= rare - 1
            top = np.int64(load_u16(high_bits, 2 * j))
            scale = np.int64(scales[j])
            symbols[j] = _rare_symbol(top, scale, phase, top_bits, base, first, main, low_exponents)
    for j in range(whole, n):
        top = np.int64(load_u16(high_bits, 2 * j))
        scale = np.int64(scales[j])
        symbol = top - ((base + first + (scale >> phase)) << top_bits)
        if symbol < 0 or symbol >= main:
            symbol = _rare_symbol(top, scale, phase, top_bits, base, first, main, low_exponents)
        symbols[j] = symbol


_PLACES = 4096  # elements whose places in a histogram are found before they are counted


@njit
def count_places(tallies, places, contexts, mask, symbols):
    """`tallies[k, context & mask << 8 | symbol]` grows, `k` being the number of the element mod 4.

    `tallies`: uint32[4, contexts * 256]: neighbours go to different rows, so that equal symbols do
    not wait for each other's stores. `places`: uint8[2 * 4096], work space.
    """
    n = symbols.size
    for begin in range(0, n, _PLACES):
        size = min(_PLACES, n - begin)
        for i in range(size):
            place = np.uint16(contexts[begin + i] & mask) << np.uint16(8)
            store_u16(places, 2 * i, np.uint16(place | np.uint16(symbols[begin + i])))
        for i in range(0, size - 3, 4):
            four = load_u64(places, 2 * i)
            tallies[0, four & np.uint64(0xFFFF)] += np.uint32(1)
            tallies[1, (four >> np.uint64(16)) & np.uint64(0xFFFF)] += np.uint32(1)
            tallies[2, (four >> np.uint64(32)) & np.uint64(0xFFFF)] += np.uint32(1)
            tallies[3, four >> np.uint64(48)] += np.uint32(1)
        for i in range(size & ~3, size):
            tallies[0, np.uint64(load_u16(places, 2 * i))] += np.uint32(1)


@kernel(types.void(R8, R8, types.int64, types.uint32[:, ::1], W8, I64_2D))
def count_symbols(symbols, scales, phase, tallies, places, counts):
    """How often each symbol occurs under each context.

    `counts`: int64[contexts, 256], of which the first 2 ** phase are set. Work space: `tallies`,
    uint32[4, contexts * 256]; `places`, uint8[2 * 4096].
    """
    tallies[:] = 0
    count_places(tallies, places, scales, np.uint8((1 << phase) - 1), symbols)
    for c in range(1 << phase):
        for s in range(256):
            at = c << 8 | s
            total = np.int64(tallies[0, at]) + np.int64(tallies[1, at])
            counts[c, s] = total + np.int64(tallies[2, at]) + np.int64(tallies[3, at])


@kernel(
    types.int64(
        R16, R8, types.int64, types.int64, types.int64, types.int64, types.int64,
        types.Array(types.boolean, 2, "C", readonly=True), types.UniTuple(types.int64, 2), W8, W8,
        W8,
    )
)  # fmt: skip
def put_escapes(
    high_bits, scales, phase, top_bits, exponent_bits, main, low_exponents, known, plain,
    symbols, contexts, out,
):  # fmt: skip
    """What is not in the symbols themselves: returns the bits written to `out`, zeros.

    Symbols that are not `known` under their context become the last one; those from `plain[0]` to
    `plain[1]` are known wherever they occur, and joint or stand for 0. `contexts`, uint8[n],
    receives the context of each. Room in `out`: 2 bytes for each symbol beyond `main`, which the
    caller has counted.
    """
    mask = np.uint8((1 << phase) - 1)
    escape = main + 1 + low_exponents
    at = 0
    for i in range(symbols.size):
        contexts[i] = scales[i] & mask
    for begin in range(0, symbols.size, 64):
        piece = symbols[begin : min(begin + 64, symbols.size)]
        least, most = np.uint8(255), np.uint8(0)
        for j in range(piece.size):
            least = min(least, piece[j])
            most = max(most, piece[j])
        if plain[0] <= least and most <= plain[1]:
            continue
        for j in range(piece.size):
            i = begin + j
            symbol = np.int64(symbols[i])
            if not known[contexts[i], symbol]:
                symbol = escape
                symbols[i] = symbol
            if symbol == escape:
                at = put_bits(out, at, np.int64(high_bits[i]), exponent_bits + top_bits)
            elif symbol > main:
                at = put_bits(out, at, np.int64(high_bits[i]) & ((1 << top_bits) - 1), top_bits)
    return at


# Frequencies. The last two contexts are those of the scales of rows and of columns.


@kernel(types.void(I64_2D, types.int64, types.int64, types.int64, I64_2D))
def weigh_counts(counts, weight, steps, escape, weighted):
    """Counts by weight, and 1 for what else might occur: under a context that occurs each symbol
    that occurs under any, and the escape; scales up to `steps` from the centre.

    `counts`, `weighted`: int64[contexts, 256].
    """
    elements = counts.shape[0] - 2
    for c in range(counts.shape[0]):
        for s in range(256):
            weighted[c, s] = counts[c, s] * weight
    for s in range(256):
        occurs = 0
        for c in range(elements):
            occurs += counts[c, s] > 0
        if occurs > 0 or s == escape:
            for c in range(elements):
                weighted[c, s] += (occurs > 0) + (s == escape)
    for c in range(elements):
        total = 0
        for s in range(256):
            total += counts[c, s]
        if total == 0:
            weighted[c, :] = 0
    for c in range(elements, counts.shape[0]):
        for s in range(128 - steps, 129 + steps):
            weighted[c, s] += 1


@kernel(
    types.float64(
        I64_2D, types.Array(types.uint16, 2, "C", readonly=True), types.int64, types.int64,
        types.int64, types.int64,
    )
)  # fmt: skip
def cost_with_escapes(counts, freqs, main, escape, top_bits, bits):
    """Bits of symbols with these counts, those without a frequency as escapes.

    Infinite where there is none for escapes, or for scales. `counts`: int64[contexts, 256];
    `freqs`: uint16[contexts, 256]. `bits`: of an escape, `top_bits`: of a low exponent.
    """
    elements = counts.shape[0] - 2
    cost = 0.0
    for c in range(counts.shape[0]):
        escaped = 0
        for s in range(256):
            count = counts[c, s]
            if count == 0:
                continue
            if c < elements and (s == escape or freqs[c, s] == 0):
                escaped += count
                continue
            if freqs[c, s] == 0:
                return np.inf
            cost += count * (12.0 - np.log2(np.float64(freqs[c, s])))
            if c < elements and main < s < escape:
                cost += count * top_bits
        if escaped > 0:
            if freqs[c, escape] == 0:
                return np.inf
            cost += escaped * (12.0 + bits - np.log2(np.float64(freqs[c, escape])))
    return cost


# Decoding


@njit
def _patch(escapes, bit, symbol, scale, rule, out, i):
    """Sets the high bits of element `i` by escape bits; returns the next bit, -1 past the end."""
    size, low, phase, top_bits, exponent_bits, base, first, main, low_exponents = rule
    if symbol > main + low_exponents:
        top = take_bits(escapes, bit, exponent_bits + top_bits)
        bit += exponent_bits + top_bits
    else:
        top = take_bits(escapes, bit, top_bits)
        bit += top_bits
        exponent = base + (scale >> phase) + first - 1 - (symbol - main - 1)
        if top >= 0:
            top |= (exponent & ((1 << exponent_bits) - 1)) << top_bits
    if top < 0:
        return -1
    kept = ~(((1 << (exponent_bits + top_bits)) - 1) << low)
    if size == 2:
        store_u16(out, 2 * i, np.uint16((np.int64(load_u16(out, 2 * i)) & kept) | top << low))
    else:
        out[i] = np.uint8((np.int64(out[i]) & kept) | top << low)
    return bit


@njit
def _high_bits(entry, scale, rule):
    """Symbols, and the high bits of those that are joint or stand for 0; others are patched."""
    _, _, phase, top_bits, exponent_bits, base, first, main, _ = rule
    symbol = v.both(entry, v.splat(255))
    expected = v.shift_left(v.shift_right(scale, phase), top_bits)
    top = v.add(v.add(symbol, expected), v.splat((base + first) << top_bits))
    top = v.both(top, v.splat((1 << (exponent_bits + top_bits)) - 1))
    return symbol, v.choose(v.equal(symbol, v.splat(main)), v.splat(0), top)


def _join_bf16(form, high0, high1, rest, signs, i, out, at):
    nibbles = v.load_u8(rest, i >> 1)
    minus = np.int64(load_u32(signs, i >> 3))
    sign0 = v.choose(v.mask_of(minus), v.splat(0x8000), v.splat(0))
    sign1 = v.choose(v.mask_of(minus >> 16), v.splat(0x8000), v.splat(0))
    low0 = v.either(sign0, v.both(nibbles, v.splat(15)))
    low1 = v.either(sign1, v.shift_right(nibbles, 4))
    v.store_u16(out, at, v.either(v.shift_left(high0, 4), low0))
    v.store_u16(out, at + 32, v.either(v.shift_left(high1, 4), low1))


@njit
def _fp16(top, low):
    """Elements of FP16 from high bits and from bytes of sign and lowest 7 bits."""
    sign = v.shift_left(v.both(low, v.splat(128)), 8)
    return v.either(v.shift_left(top, 7), v.either(sign, v.both(low, v.splat(127))))


def _join_fp16(form, high0, high1, rest, signs, i, out, at):
    v.store_u16(out, at, _fp16(high0, v.load_u8(rest, i)))
    v.store_u16(out, at + 32, _fp16(high1, v.load_u8(rest, i + 16)))


def _join_fp8(form, high0, high1, rest, signs, i, out, at):
    minus = np.int64(load_u32(signs, i >> 3))
    sign0 = v.choose(v.mask_of(minus), v.splat(128), v.splat(0))
    sign1 = v.choose(v.mask_of(minus >> 16), v.splat(128), v.splat(0))
    v.store_u8(out, at, v.either(high0, sign0))
    v.store_u8(out, at + 16, v.either(high1, sign1))


@overload(_join_block)
def _choose_join(form, high0, high1, rest, signs, i, out, at):
    return {types.uint16: _join_bf16, types.int16: _join_fp16, types.uint8: _join_fp8}[form]


@njit
def _patch_lanes(hits, escapes, bit, lanes, scales, rule, out, i):
    """Patches the elements from `i` on whose bit is set in `hits`."""
    while hits != 0:
        lane = np.int64(trailing_zeros(np.uint64(hits)))
        hits &= hits - 1
        scale = np.int64(scales[i + lane])
        bit = _patch(escapes, bit, np.int64(lanes[lane]), scale, rule, out, i + lane)
    return bit


@njit
def _decode_blocks(
    form, words, at, last, states, table, scales, rule, rest, signs, escapes, bit, lanes, begin,
    end, out,
):  # fmt: skip
    """Decodes whole blocks from element `begin` on while `at <= last`, as `decode_groups` does."""
    size, _, phase, _, _, _, _, main, _ = rule
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    mask = v.splat((1 << phase) - 1)
    i = begin
    while i + STATES <= end and at <= last:
        scale0 = v.load_u8(scales, i)
        scale1 = v.load_u8(scales, i + 16)
        entry0, x0 = step(x0, table, v.shift_left(v.both(scale0, mask), BITS))
        entry1, x1 = step_beside(x1, table, v.shift_left(v.both(scale1, mask), BITS))
        x0, at = refill(x0, words, at)
        x1, at = refill(x1, words, at)
        symbol0, high0 = _high_bits(entry0, scale0, rule)
        symbol1, high1 = _high_bits(entry1, scale1, rule)
        _join_block(form, high0, high1, rest, signs, i, out, i * size)
        hits = v.bits_of(v.less(v.splat(main), symbol0))
        hits |= v.bits_of(v.less(v.splat(main), symbol1)) << 16
        if hits != 0:
            v.store_u8(lanes, 0, symbol0)
            v.store_u8(lanes, 16, symbol1)
            bit = _patch_lanes(hits, escapes, bit, lanes, scales, rule, out, i)
        i += STATES
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    return i, at, bit


@njit
def _decode_last(
    form, words, at, states, table, scales, rule, rest, signs, escapes, bit, lanes, work, begin,
    end, out,
):  # fmt: skip
    """Decodes the last block, of fewer than 32 elements."""
    size, _, phase, _, _, _, _, main, _ = rule
    left = end - begin
    contexts = lanes[32:64]
    mask = np.uint8((1 << phase) - 1)
    lanes[:64] = 0
    for j in range(left):
        contexts[j] = scales[begin + j] & mask
    at = decode_rest(words, at, states, table, contexts, 0, left, lanes)
    if at < 0:
        return at, bit
    _, high0 = _high_bits(v.load_u8(lanes, 0), v.load_u8(scales, begin), rule)
    _, high1 = _high_bits(v.load_u8(lanes, 16), v.load_u8(scales, begin + 16), rule)
    _join_block(form, high0, high1, rest, signs, begin, work, 0)
    for j in range(left * size):
        out[begin * size + j] = work[j]
    hits = 0
    for j in range(left):
        hits |= np.int64(lanes[j] > main) << j
    bit = _patch_lanes(hits, escapes, bit, lanes, scales, rule, out, begin)
    return at, bit


@njit
def _decode(
    form, words, at, tail, states, table, scales, rule, rest, signs, escapes, lanes, work, out
):
    n = out.size // rule[0]
    i, at, bit = _decode_blocks(
        form, words, at, words.size - 2 * LOOK, states, table, scales, rule, rest, signs, escapes,
        0, lanes, 0, n, out,
    )  # fmt: skip
    if i + STATES <= n:
        left = words.size - at
        tail[:] = 0
        copy_bytes(tail, 0, words, at, left)
        i, used, bit = _decode_blocks(
            form, tail, 0, left, states, table, scales, rule, rest, signs, escapes, bit, lanes, i,
            n, out,
        )  # fmt: skip
        if used > left or i + STATES <= n:
            return -1
        at += used
    if i < n:
        at, bit = _decode_last(
            form, words, at, states, table, scales, rule, rest, signs, escapes, bit, lanes, work, i,
            n, out,
        )  # fmt: skip
    if at >= 0:
        whole = bit >= 0 and (bit + 7) >> 3 == escapes.size
        if not whole or take_bits(escapes, bit, -bit & 7) != 0:  # unused bits
            return -2
    return at


_DECODE = types.int64(R8, types.int64, W8, W32, R32, R8, _RULE, R8, R8, R8, W8, W8, W8)


@kernel(_DECODE)
def decode_bf16(
    words, at, tail, states, table, scales, rule, rest, signs, escapes, lanes, work, out
):
    """Decodes the high bits of all elements of `out` and joins them with the rest.

    Returns the position in `words`, -1 where they do not suffice, -2 where `escapes` does not hold
    just the bits that are needed. `rule`: bytes of an element, bits below the high ones, phase,
    coded mantissa bits, exponent bits, base, first, main, low exponents. `scales`:
    uint8[32 * blocks]; `rest`, `signs`: as many bytes per block as the form has. `lanes`, `work`:
    uint8[64]; `tail`: uint8[192], see `decode_symbols`.
    """
    return _decode(
        _BF16, words, at, tail, states, table, scales, rule, rest, signs, escapes, lanes,
        work, out,
    )  # fmt: skip


@kernel(_DECODE)
def decode_fp16(
    words, at, tail, states, table, scales, rule, rest, signs, escapes, lanes, work, out
):
    """See `decode_bf16`."""
    return _decode(
        _FP16, words, at, tail, states, table, scales, rule, rest, signs, escapes, lanes,
        work, out,
    )  # fmt: skip


@kernel(_DECODE)
def decode_fp8(
    words, at, tail, states, table, scales, rule, rest, signs, escapes, lanes, work, out
):
    """See `decode_bf16`."""
    return _decode(
        _FP8, words, at, tail, states, table, scales, rule, rest, signs, escapes, lanes,
        work, out,
    )  # fmt: skip
