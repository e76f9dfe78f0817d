"""The compiled loop that quantises blocks of 256 weights by scales that are told.

What is told is how far scales and minima are from those that follow from the least and the greatest
weight of a group. All in FP32 operations that are rounded one by one. A block is 16 vectors of
weights in a row; what is said of its groups is one vector, two for Q2_K.
"""

import numpy as np
from numba import types

from densor.codec.quantise.field_kernels import (
    AT_ONCE,
    CODES,
    HALVES,
    MORE_CODES,
    WEIGHTS,
    put_q2,
    put_q2_scales,
    put_q3,
    put_q4_or_q5,
    put_q4_scales,
    put_q6,
)
from densor.codec.quantise.forms import Q2_K, Q3_K, Q4_K, Q5_K, SUPER_BLOCK
from densor.codec.quantise.halves import halves, of_halves
from densor.codec.quantise.kernels import load_words
from densor.codec.quantise.search_kernels import NEARLY_HALF, rounded, whole, within
from densor.entropy import float_vectors as v
from densor.entropy import intrinsics, vectors
from densor.entropy.jit import R8, W8, inlined, kernel

f32 = np.float32
_LANES = 16
_LOW = 0xFF  # lanes 0 to 7
# Of groups, where they are in the work space: steps of quanta, their inverses, what is added before
# and after.
_STEPS, _INVERSES, _BEFORE, _AFTER = 0, 16, 32, 48


@inlined
def _by_halves(low, high):
    """Lanes 0 to 7 of one vector, 8 to 15 of another."""
    return v.choose(vectors.mask_of(_LOW), low, high)


@inlined
def _extremes(weights, begin, n):
    """The least and the greatest weight of each group of 16, or of 32, of which there are eight in
    lanes 0 to 7 and once more in the others.
    """
    if n == 16:
        least = v.least_of_rows(weights, begin, begin + 128, 16)
        return least, v.greatest_of_rows(weights, begin, begin + 128, 16)
    least = v.least_of_rows(weights, begin, begin + 16, 32)
    most = v.greatest_of_rows(weights, begin, begin + 16, 32)
    return v.lesser(least, v.turned(least)), v.greater(most, v.turned(most))


@inlined
def _told_number(codes, lane, told, at):
    """FP16 that is guessed in a lane, and so far off as is told: its bits."""
    number = np.int64(intrinsics.load_u16(told, at))
    off = (number >> 1) ^ -(number & 1)
    return (np.int64(intrinsics.load_u16(codes, HALVES + 2 * lane)) + off) & 0xFFFF


@inlined
def _numbers(first, second):
    """FP16 as FP32, one in lanes 0 to 7, the other in the rest; 0 for what is not finite."""
    bits = vectors.choose(vectors.mask_of(_LOW), vectors.splat(first), vectors.splat(second))
    found = of_halves(bits)
    here = v.less(v.size(found), v.splat(f32(np.inf)))
    return v.choose(here, found, v.splat(f32(0.0)))


@inlined
def _told_codes(guessed, inverse, least, most, told, at, mask):
    """Scales as whole numbers: as guessed, and so far off as is told."""
    code = within(whole(v.multiply(guessed, inverse)), least, most)
    return vectors.both(vectors.add(code, vectors.load_u8(told, at)), vectors.splat(mask))


@inlined
def _set_steps(work, step, offset):
    """What quanta are made with; 0 where the step is."""
    zero = v.splat(f32(0.0))
    none = v.equal(step, zero)
    v.store(work, _STEPS, step)
    v.store(work, _INVERSES, v.choose(none, zero, v.divide(v.splat(f32(1.0)), step)))
    v.store(work, _AFTER, v.choose(none, zero, v.splat(f32(offset))))


@inlined
def _six_bits(weights, begin, levels, told, at, work, codes):
    """Scales and minima of 8 groups of 32 weights, in the two halves of a vector."""
    zero = v.splat(f32(0.0))
    least, most = _extremes(weights, begin, 32)
    least = v.lesser(least, zero)
    scale = v.divide(v.subtract(most, least), v.splat(f32(levels)))
    guessed = _by_halves(scale, v.subtract(zero, least))
    top = _by_halves(v.greatest_of(scale), v.greatest_of(v.subtract(zero, least)))
    vectors.store_u16(codes, HALVES, halves(v.divide(top, v.splat(f32(63.0)))))
    first = _told_number(codes, 0, told, at)
    second = _told_number(codes, 8, told, at + 2)
    number = _numbers(first, second)
    inverse = v.divide(v.splat(f32(1.0)), number)
    code = _told_codes(guessed, inverse, 0, 63, told, at + 4, 63)
    step = v.multiply(number, v.of_signed(code))
    _set_steps(work, step, 0)
    v.store(work, _BEFORE, v.turned(step))
    intrinsics.store_u16(codes, HALVES, np.uint16(first))
    intrinsics.store_u16(codes, HALVES + 16, np.uint16(second))
    vectors.store_u8(codes, CODES, code)
    vectors.store_u8(codes, MORE_CODES - 8, code)


@inlined
def _four_bits(weights, begin, levels, told, at, work, codes):
    """Scales and minima of 16 groups of 16 weights."""
    zero = v.splat(f32(0.0))
    least, most = _extremes(weights, begin, 16)
    least = v.lesser(least, zero)
    scale = v.divide(v.subtract(most, least), v.splat(f32(levels)))
    minimum = v.subtract(zero, least)
    top = _by_halves(v.greatest_of(scale), v.greatest_of(minimum))
    vectors.store_u16(codes, HALVES, halves(v.divide(top, v.splat(f32(15.0)))))
    first = _told_number(codes, 0, told, at)
    second = _told_number(codes, 8, told, at + 2)
    one = v.splat(f32(1.0))
    number = _numbers(first, first)
    code = _told_codes(scale, v.divide(one, number), 0, 15, told, at + 4, 15)
    _set_steps(work, v.multiply(number, v.of_signed(code)), 0)
    number = _numbers(second, second)
    more = _told_codes(minimum, v.divide(one, number), 0, 15, told, at + 20, 15)
    v.store(work, _BEFORE, v.multiply(number, v.of_signed(more)))
    intrinsics.store_u16(codes, HALVES, np.uint16(first))
    intrinsics.store_u16(codes, HALVES + 2 * AT_ONCE, np.uint16(second))
    vectors.store_u8(codes, CODES, vectors.either(code, vectors.shift_left(more, 4)))


@inlined
def _signed(weights, begin, half, reach, told, at, work, codes):
    """Scales from -`reach` to `reach` - 1 of 16 groups of 16 weights, whose quanta are from -`half`
    to `half` - 1.
    """
    zero = v.splat(f32(0.0))
    least, most = _extremes(weights, begin, 16)
    lower = v.less(most, v.subtract(zero, least))
    guessed = v.multiply(v.choose(lower, least, most), v.splat(f32(-1.0 / half)))
    most = v.greatest_of(guessed)
    least = v.greatest_of(v.subtract(zero, guessed))
    top = v.choose(v.less(most, least), v.subtract(zero, least), most)
    number = v.multiply(top, v.splat(f32(-1.0 / reach)))
    vectors.store_u16(codes, HALVES, halves(number))
    first = _told_number(codes, 0, told, at)
    number = _numbers(first, first)
    inverse = v.divide(v.splat(f32(1.0)), number)
    code = _told_codes(guessed, inverse, -reach, reach - 1, told, at + 2, 255)
    code = vectors.shift_left(code, 24 if reach == 128 else 26)
    code = vectors.shift_right_signed(code, 24 if reach == 128 else 26)
    _set_steps(work, v.multiply(number, v.of_signed(code)), half)
    intrinsics.store_u16(codes, HALVES, np.uint16(first))
    vectors.store_u8(codes, CODES, code)


@inlined
def _quanta(weights, begin, n, least, most, work, codes, quick):
    """Quanta of a block, as bytes; whether a product with an inverse is too near to a half to stand
    for the quotient (`super_kernels._requantise`).
    """
    nearly = v.splat(NEARLY_HALF)
    doubtful = v.less(nearly, nearly)
    for i in range(_LANES):
        group = 16 * i // n
        wanted = v.load(weights, begin + 16 * i)
        if least == 0:
            wanted = v.add(wanted, v.splat(work[_BEFORE + group]))
        if quick:
            wanted = v.multiply(wanted, v.splat(work[_INVERSES + group]))
        else:
            wanted = v.divide(wanted, v.splat(work[_STEPS + group]))
            if work[_STEPS + group] == f32(0.0):
                wanted = v.splat(f32(0.0))
        found = rounded(wanted)
        if quick:
            off = v.size(v.subtract(wanted, found))
            doubtful = v.either(doubtful, v.less(nearly, off))
        found = v.lesser(v.greater(found, v.splat(f32(least))), v.splat(f32(most)))
        if least != 0:
            found = v.add(found, v.splat(work[_AFTER + group]))
        vectors.store_u8(codes, 16 * i, v.integers(found))
    return vectors.bits_of(doubtful) != 0


@inlined
def _bytes(weights, begin, n, count, most, work, out, at):
    """Quanta of a block from 0 to `most`, `count` a byte, of weights 32 apart; what is returned: as
    `_quanta` has it, with products.
    """
    nearly = v.splat(NEARLY_HALF)
    doubtful = v.less(nearly, nearly)
    for part in range(_LANES // count):
        byte = v.splat(f32(0.0))
        unit = f32(1.0)
        for k in range(count):
            i = part // 2 * 2 * count + part % 2 + 2 * k
            group = 16 * i // n
            wanted = v.add(v.load(weights, begin + 16 * i), v.splat(work[_BEFORE + group]))
            wanted = v.multiply(wanted, v.splat(work[_INVERSES + group]))
            found = rounded(wanted)
            off = v.size(v.subtract(wanted, found))
            doubtful = v.either(doubtful, v.less(nearly, off))
            found = v.lesser(v.greater(found, v.splat(f32(0.0))), v.splat(f32(most)))
            byte = v.add(byte, v.multiply(found, v.splat(unit)))  # exact
            unit *= f32(most + 1)
        vectors.store_u8(out, at + 16 * part, v.integers(byte))
    return vectors.bits_of(doubtful) != 0


@inlined
def _quantise(weights, begin, n, least, most, work, codes):
    if _quanta(weights, begin, n, least, most, work, codes, True):
        _quanta(weights, begin, n, least, most, work, codes, False)


@inlined
def _block(form, weights, begin, told, number, work, codes, out, at):
    """Block `number` of those that something is told of."""
    if form == Q2_K:
        _four_bits(weights, begin, 3, told, 36 * number, work, codes)
        put_q2_scales(codes, 0, out, at)
        if _bytes(weights, begin, 16, 4, 3, work, out, at + 16):
            _quanta(weights, begin, 16, 0, 3, work, codes, False)
            put_q2(codes, 0, out, at)
    elif form == Q3_K:
        _signed(weights, begin, 4, 32, told, 18 * number, work, codes)
        _quantise(weights, begin, 16, -4, 3, work, codes)
        put_q3(codes, 0, 0, out, at)
    elif form == Q4_K:
        _six_bits(weights, begin, 15, told, 20 * number, work, codes)
        put_q4_scales(codes, 0, out, at)
        if _bytes(weights, begin, 32, 2, 15, work, out, at + 16):
            _quanta(weights, begin, 32, 0, 15, work, codes, False)
            put_q4_or_q5(False, codes, 0, out, at)
    elif form == Q5_K:
        _six_bits(weights, begin, 31, told, 20 * number, work, codes)
        _quantise(weights, begin, 32, 0, 31, work, codes)
        put_q4_or_q5(True, codes, 0, out, at)
    else:
        _signed(weights, begin, 32, 128, told, 18 * number, work, codes)
        _quantise(weights, begin, 16, -32, 31, work, codes)
        put_q6(codes, 0, 0, out, at)


_F32 = types.float32[::1]


@kernel(types.boolean(types.int64, R8, _F32, types.int64, R8, _F32, W8, W8))
def quantise_as_told(form, data, weights, size, told, work, codes, out):
    """Blocks of 256 weights to `out`, blocks of `size` bytes, as `form`, of `FORMS`, has them.

    `data`, `weights`, what is returned: as `quantise_super_blocks` has them. `told`: of each block
    as many bytes as `told.RECORDS` says. Work space: `work`, float32[64]; `codes`,
    uint8[`SUPER_CODES`].
    """
    blocks = out.size // size
    odd = False
    for first in range(0, blocks, AT_ONCE):
        begin = first * SUPER_BLOCK
        if data.size:
            odd |= load_words(data, begin, WEIGHTS, weights)
            begin = 0
        for number in range(first, min(first + AT_ONCE, blocks)):
            at = number * size
            _block(form, weights, begin, told, number, work, codes, out, at)
            begin += SUPER_BLOCK
    return odd
