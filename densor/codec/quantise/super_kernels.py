"""The compiled loops that quantise blocks of 256 weights: GGUF's K types, without importances.

I. Kawrakow, G. Gerganov: llama.cpp, ggml-quants.c, `quantize_row_q*_K_ref`. All in FP32 operations
that are rounded one by one, in the order of that source. Four blocks go at a time, whose groups of
16 or 32 weights are the lanes of vectors.
"""

import numpy as np
from numba import types

from densor.codec.quantise.forms import Q2_K, Q3_K, Q4_K, Q5_K, SUPER_CODES, SUPER_WORK
from densor.codec.quantise.halves import halves, of_halves
from densor.codec.quantise.kernels import load_words
from densor.codec.quantise.search_kernels import (
    MINIMA,
    SCALES,
    STATES,
    STATES_SIZE,
    WEIGHTS,
    moved,
    rounded,
    symmetric,
    with_minimum,
)
from densor.entropy import float_vectors as v
from densor.entropy import intrinsics, vectors
from densor.entropy.jit import R8, W8, inlined, kernel

f32 = np.float32
_BLOCK = 256
_AT_ONCE = 4  # blocks
_LANES = 16
_TINY = f32(1e-15)
_NEARLY_HALF = f32(0.5 - 2.0**-14)
# Where they are in the work space: scales and minima as they are stored, times theirs.
_STEPS = STATES + STATES_SIZE
_OFFSETS = _STEPS + 80
_INVERSES = _OFFSETS + 80
_STORED = _INVERSES + 16
_COLUMNS = _STORED + 16
assert SUPER_WORK == _COLUMNS + 256
_CODES = WEIGHTS  # of scales, behind those of weights; of minima
_MORE_CODES = _CODES + 80
_HALVES = _MORE_CODES + 80
assert SUPER_CODES == _HALVES + 32


@inlined
def _spread(weights, begin, n, x):
    """Groups of n weights to lanes."""
    for k in range(_AT_ONCE):
        if n == 16:
            v.transpose(weights, begin + 256 * k, 16, x, 256 * k, 16)
        else:
            v.transpose(weights, begin + 512 * (k // 2) + 16 * (k % 2), 32, x, 256 * k, 16)


@inlined
def _gather(work, n, x, codes):
    """Quanta as bytes, in the order of the weights."""
    for k in range(_AT_ONCE):
        if n == 16:
            v.transpose(work, 256 * k, 16, x, 256 * k, 16)
        else:
            v.transpose(work, 256 * k, 16, x, 512 * (k // 2) + 16 * (k % 2), 32)
    for at in range(0, WEIGHTS, _LANES):
        vectors.store_u8(codes, at, v.integers(v.load(x, at)))


@inlined
def _whole(x):
    """Nearest integers, ties to even; 0 where |x| is 2^22 or more."""
    here = v.less(v.size(x), v.splat(f32(4194304.0)))
    return v.integers(v.choose(here, rounded(x), v.splat(f32(0.0))))


@inlined
def _floats(integers):
    return v.of_bits(vectors.float_bits(integers))


@inlined
def _positive(x, numerator):
    """A number over each of x, 0 where that is not above 0."""
    zero = v.splat(f32(0.0))
    return v.choose(v.less(zero, x), v.divide(v.splat(numerator), x), zero)


@inlined
def _greatest(work, n):
    """The greatest of n scales of blocks, n behind those of the block before, or 0: a lane of each
    block, then those of minima.
    """
    v.transpose(work, SCALES, n, work, _COLUMNS, _LANES)
    most = v.splat(f32(0.0))
    for i in range(n):
        most = v.greater(v.load(work, _COLUMNS + i * _LANES), most)
    return most


@inlined
def _extremes(work):
    """The first of the largest of 16 scales of blocks, with its sign, and its size."""
    v.transpose(work, SCALES, _LANES, work, _COLUMNS, _LANES)
    size = v.splat(f32(0.0))
    most = size
    for i in range(_LANES):
        each = v.load(work, _COLUMNS + i * _LANES)
        larger = v.less(size, v.size(each))
        most = v.choose(larger, each, most)
        size = v.choose(larger, v.size(each), size)
    return most, size


@inlined
def _put_numbers(numbers, inverses, work, codes):
    """Numbers of blocks as FP16; what these are, and inverses, to the work space."""
    half = halves(numbers)
    vectors.store_u16(codes, _HALVES, half)
    v.store(work, _STORED, of_halves(half))
    v.store(work, _INVERSES, inverses)


@inlined
def _copy_number(codes, lane, out, at):
    intrinsics.store_u16(out, at, intrinsics.load_u16(codes, _HALVES + 2 * lane))


@inlined
def _scaled(work, lane, begin):
    """Scales or minima of a block as whole numbers."""
    return _whole(v.multiply(v.splat(work[_INVERSES + lane]), v.load(work, begin)))


@inlined
def _set_steps(work, lane, begin, factors):
    v.store(work, begin, v.multiply(v.splat(work[_STORED + lane]), _floats(factors)))


@inlined
def _within(integers, least, most):
    low, high = vectors.splat(least), vectors.splat(most)
    integers = vectors.choose(vectors.less_signed(integers, high), integers, high)
    return vectors.choose(vectors.less_signed(integers, low), low, integers)


@inlined
def _scale_q2(work, codes):
    """Of each block 16 bytes: scales in the low halves, minima in the high ones."""
    most = _greatest(work, 16)
    _put_numbers(v.divide(most, v.splat(f32(15.0))), _positive(most, f32(15.0)), work, codes)
    low = vectors.splat(15)
    for k in range(_AT_ONCE):
        scale = vectors.both(_scaled(work, k, SCALES + 16 * k), vectors.splat(255))
        minimum = _scaled(work, _AT_ONCE + k, MINIMA + 16 * k)
        pair = vectors.either(scale, vectors.shift_left(minimum, 4))
        vectors.store_u8(codes, _CODES + 16 * k, pair)
        _set_steps(work, k, _STEPS + 16 * k, vectors.both(scale, low))
        minimum = vectors.both(vectors.shift_right(pair, 4), low)
        _set_steps(work, _AT_ONCE + k, _OFFSETS + 16 * k, minimum)


@inlined
def _scale_signed(work, codes, half):
    """Scales from -`half` to `half` - 1; of which blocks they are 0, or next to it, as bits."""
    zero = v.splat(f32(0.0))
    most, size = _extremes(work)
    none = v.equal(most, zero)
    inverse = v.choose(none, zero, v.divide(v.splat(f32(-half)), most))
    number = v.choose(none, zero, v.divide(v.splat(f32(1.0)), inverse))
    _put_numbers(number, inverse, work, codes)
    for k in range(_AT_ONCE):
        code = _within(_scaled(work, k, SCALES + 16 * k), -half, half - 1)
        vectors.store_u8(codes, _CODES + 16 * k, code)
        _set_steps(work, k, _STEPS + 16 * k, code)
        v.store(work, _OFFSETS + 16 * k, zero)
    return vectors.bits_of(none), vectors.bits_of(v.less(size, v.splat(_TINY)))


@inlined
def _scale_six_bits(work, codes):
    """Scales and minima from 0 to 63 of blocks of 8 groups."""
    most = _greatest(work, 8)
    _put_numbers(v.divide(most, v.splat(f32(63.0))), _positive(most, f32(63.0)), work, codes)
    for k in range(_AT_ONCE):  # of 16 lanes 8; the others are then overwritten
        scale = vectors.both(_scaled(work, k, SCALES + 8 * k), vectors.splat(255))
        scale = _within(scale, 0, 63)
        vectors.store_u8(codes, _CODES + 8 * k, scale)
        _set_steps(work, k, _STEPS + 8 * k, scale)
        minimum = vectors.both(_scaled(work, 8 + k, MINIMA + 8 * k), vectors.splat(255))
        minimum = _within(minimum, 0, 63)
        vectors.store_u8(codes, _MORE_CODES + 8 * k, minimum)
        _set_steps(work, 8 + k, _OFFSETS + 8 * k, minimum)


@inlined
def _put_quanta(x, work, at, step, minimum, least, most, offset, none, inverse, quick):
    """Quanta of a vector of weights by a step; how far each is from a whole number."""
    wanted = v.add(v.load(x, at), minimum)
    wanted = v.multiply(wanted, inverse) if quick else v.divide(wanted, step)
    found = rounded(wanted)
    off = v.size(v.subtract(wanted, found))
    found = v.lesser(v.greater(found, v.splat(f32(least))), v.splat(f32(most)))
    found = v.add(found, v.splat(f32(offset)))
    v.store(work, at, v.choose(none, v.load(work, at), found))
    return off


@inlined
def _requantise(x, work, n, least, most, offset):
    """Quanta of the scales that are stored; those that were found where one is 0.

    A quotient of a size up to 128, and a product with the rounded inverse, which takes a fraction
    of the time, are less than 2^-15 apart: only where one is so near to a half does it matter.
    """
    infinite = v.splat(f32(np.inf))
    for number in range(WEIGHTS // (_LANES * n)):
        step = v.load(work, _STEPS + _LANES * number)
        minimum = v.load(work, _OFFSETS + _LANES * number)
        none = v.equal(step, v.splat(f32(0.0)))
        step = v.choose(v.less(minimum, infinite), step, infinite)  # FP16 has none such: 0 then
        inverse = v.divide(v.splat(f32(1.0)), step)
        doubtful = v.less(step, step)
        for i in range(n):
            at = (number * n + i) * _LANES
            off = _put_quanta(x, work, at, step, minimum, least, most, offset, none, inverse, True)
            doubtful = v.either(doubtful, v.less(v.splat(_NEARLY_HALF), off))
        if vectors.bits_of(doubtful) != 0:
            for i in range(n):
                at = (number * n + i) * _LANES
                _put_quanta(x, work, at, step, minimum, least, most, offset, none, inverse, False)


@inlined
def _field(codes, at, shift, mask, to):
    """Bits of 16 codes, at another place."""
    field = vectors.shift_right(vectors.load_u8(codes, at), shift)
    return vectors.shift_left(vectors.both(field, vectors.splat(mask)), to)


@inlined
def _put_fields(codes, begin, step, count, shift, mask, width, out, at):
    """Bits of `count` codes, `step` apart, to fields of `width` bits in each of 16 bytes."""
    byte = _field(codes, begin, shift, mask, 0)
    for k in range(1, count):
        field = _field(codes, begin + step * k, shift, mask, width * k)
        byte = vectors.either(byte, field)
    vectors.store_u8(out, at, byte)


@inlined
def _put_pairs(codes, begin, shift, out, at):
    """Two bits of quanta, four of them a byte."""
    for part in range(4):
        first = begin + 128 * (part // 2) + 16 * (part % 2)
        _put_fields(codes, first, 32, 4, shift, 3, 2, out, at + 16 * part)


@inlined
def _put_bits(codes, begin, shift, out, at):
    """One bit of quanta, eight of them a byte."""
    for part in range(2):
        _put_fields(codes, begin + 16 * part, 32, 8, shift, 1, 1, out, at + 16 * part)


@inlined
def _put_nibbles(codes, begin, step, out, at):
    """The low four bits of quanta, two a byte, which are `step` weights apart."""
    for part in range(8):
        place = 16 * part
        first = begin + place // step * 2 * step + place % step
        _put_fields(codes, first, step, 2, 0, 15, 4, out, at + place)


@inlined
def _put_q2(codes, k, out, at):
    vectors.store_u8(out, at, vectors.load_u8(codes, _CODES + 16 * k))
    _put_pairs(codes, _BLOCK * k, 0, out, at + 16)
    _copy_number(codes, k, out, at + 80)
    _copy_number(codes, _AT_ONCE + k, out, at + 82)


@inlined
def _put_q3(codes, k, none, out, at):
    _put_bits(codes, _BLOCK * k, 2, out, at)
    _put_pairs(codes, _BLOCK * k, 0, out, at + 32)
    scales = _CODES + 16 * k
    for j in range(12):
        out[at + 96 + j] = 0
    for j in range(_LANES):
        code = (codes[scales + j] + 32) & 63
        if none:
            code = 0
        out[at + 96 + j % 8] |= np.uint8((code & 15) << (4 * (j // 8)))
        out[at + 104 + j % 4] |= np.uint8((code >> 4) << (2 * (j // 4)))
    _copy_number(codes, k, out, at + 108)


@inlined
def _put_six_bits(codes, begin, out, at, k):
    """Scales (k = 0) or minima (k = 1) of a block of 8 groups, to 12 bytes of both."""
    for j in range(8):
        code = np.int64(codes[begin + j])
        if j < 4:
            out[at + 4 * k + j] |= np.uint8(code)
        else:
            out[at + 4 + j] |= np.uint8((code & 15) << (4 * k))
            out[at + 4 * k + j - 4] |= np.uint8(code >> 4 << 6)


@inlined
def _put_q4_or_q5(wide, codes, k, out, at):
    _copy_number(codes, k, out, at)
    _copy_number(codes, 8 + k, out, at + 2)
    for j in range(12):
        out[at + 4 + j] = 0
    _put_six_bits(codes, _CODES + 8 * k, out, at + 4, 0)
    _put_six_bits(codes, _MORE_CODES + 8 * k, out, at + 4, 1)
    at += 16
    if wide:
        _put_bits(codes, _BLOCK * k, 4, out, at)
        at += 32
    _put_nibbles(codes, _BLOCK * k, 32, out, at)


@inlined
def _put_q6(codes, k, zero, out, at):
    if zero:
        for j in range(210):
            out[at + j] = 0
        return
    _put_nibbles(codes, _BLOCK * k, 64, out, at)
    _put_pairs(codes, _BLOCK * k, 4, out, at + 128)
    vectors.store_u8(out, at + 192, vectors.load_u8(codes, _CODES + 16 * k))
    _copy_number(codes, k, out, at + 208)


@inlined
def _q2(weights, begin, there, x, work, codes, out, at):
    _spread(weights, begin, 16, x)
    with_minimum(x, work, 4, 16, 3, f32(-0.5), f32(0.1), 15, True)
    _scale_q2(work, codes)
    _requantise(x, work, 16, 0, 3, 0)
    _gather(work, 16, x, codes)
    for k in range(there):
        _put_q2(codes, k, out, at + 84 * k)


@inlined
def _q3(weights, begin, there, x, work, codes, out, at):
    _spread(weights, begin, 16, x)
    moved(x, work, 16, 4)
    none, _ = _scale_signed(work, codes, 32)
    _requantise(x, work, 16, -4, 3, 4)
    _gather(work, 16, x, codes)
    for k in range(there):
        _put_q3(codes, k, none >> k & 1, out, at + 110 * k)


@inlined
def _q4_or_q5(wide, weights, begin, there, x, work, codes, out, at):
    """Blocks of Q5_K (`wide`) or Q4_K."""
    _spread(weights, begin, 32, x)
    first = f32(-0.5) if wide else f32(-1.0)
    levels, tries = (31, 15) if wide else (15, 20)
    with_minimum(x, work, 2, 32, levels, first, f32(0.1), tries, False)
    _scale_six_bits(work, codes)
    _requantise(x, work, 32, 0, levels, 0)
    _gather(work, 32, x, codes)
    size = 176 if wide else 144
    for k in range(there):
        _put_q4_or_q5(wide, codes, k, out, at + size * k)


@inlined
def _q6(weights, begin, there, x, work, codes, out, at):
    _spread(weights, begin, 16, x)
    for number in range(_AT_ONCE):
        symmetric(x, work, number, 16)
    _, tiny = _scale_signed(work, codes, 128)
    _requantise(x, work, 16, -32, 31, 32)
    _gather(work, 16, x, codes)
    for k in range(there):
        _put_q6(codes, k, tiny >> k & 1, out, at + 210 * k)


_F32 = types.float32[::1]


@kernel(types.boolean(types.int64, R8, _F32, types.int64, _F32, _F32, W8, W8))
def quantise_super_blocks(form, data, weights, size, x, work, codes, out):
    """Blocks of 256 weights to `out`, blocks of `size` bytes, as `form`, of `FORMS`, has them.

    `data`, `weights`, what is returned: as `quantise_blocks` has them, but `weights` are of four
    blocks or a multiple. Work space: `weights`, float32[1024], with data; `x`, float32[2 *
    `WEIGHTS`]; `work`, float32[`SUPER_WORK`]; `codes`, uint8[`SUPER_CODES`].
    """
    blocks = out.size // size
    odd = False
    for first in range(0, blocks, _AT_ONCE):
        there = min(blocks - first, _AT_ONCE)
        begin, at = first * _BLOCK, first * size
        if data.size:
            odd |= load_words(data, begin, WEIGHTS, weights)
            begin = 0
        if form == Q2_K:
            _q2(weights, begin, there, x, work, codes, out, at)
        elif form == Q3_K:
            _q3(weights, begin, there, x, work, codes, out, at)
        elif form in (Q4_K, Q5_K):
            _q4_or_q5(form == Q5_K, weights, begin, there, x, work, codes, out, at)
        else:
            _q6(weights, begin, there, x, work, codes, out, at)
    return odd
