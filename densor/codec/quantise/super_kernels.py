"""The compiled loops that quantise blocks of 256 weights: GGUF's K types, without importances.

I. Kawrakow, G. Gerganov: llama.cpp, ggml-quants.c, `quantize_row_q*_K_ref`. All in FP32 operations
that are rounded one by one, in the order of that source. Four blocks go at a time, whose groups of
16 or 32 weights are the lanes of vectors.
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
    put_q3,
    put_q4_or_q5,
    put_q6,
)
from densor.codec.quantise.forms import Q2_K, Q3_K, Q4_K, Q5_K, SUPER_WORK
from densor.codec.quantise.halves import halves, of_halves
from densor.codec.quantise.kernels import load_words
from densor.codec.quantise.search_kernels import (
    MINIMA,
    NEARLY_HALF,
    SCALES,
    STATES,
    STATES_SIZE,
    moved,
    rounded,
    symmetric,
    whole,
    with_minimum,
    within,
)
from densor.entropy import float_vectors as v
from densor.entropy import vectors
from densor.entropy.jit import R8, W8, inlined, kernel

f32 = np.float32
_BLOCK = 256
_LANES = 16
_TINY = f32(1e-15)
# Where they are in the work space: scales and minima as they are stored, times theirs.
_STEPS = STATES + STATES_SIZE
_OFFSETS = _STEPS + 80
_INVERSES = _OFFSETS + 80
_STORED = _INVERSES + 16
_COLUMNS = _STORED + 16
assert SUPER_WORK == _COLUMNS + 256


@inlined
def _spread(weights, begin, n, x):
    """Groups of n weights to lanes."""
    for k in range(AT_ONCE):
        if n == 16:
            v.transpose(weights, begin + 256 * k, 16, x, 256 * k, 16)
        else:
            v.transpose(weights, begin + 512 * (k // 2) + 16 * (k % 2), 32, x, 256 * k, 16)


@inlined
def _gather(work, n, x, codes):
    """Quanta as bytes, in the order of the weights."""
    for k in range(AT_ONCE):
        if n == 16:
            v.transpose(work, 256 * k, 16, x, 256 * k, 16)
        else:
            v.transpose(work, 256 * k, 16, x, 512 * (k // 2) + 16 * (k % 2), 32)
    for at in range(0, WEIGHTS, _LANES):
        vectors.store_u8(codes, at, v.integers(v.load(x, at)))


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
    vectors.store_u16(codes, HALVES, half)
    v.store(work, _STORED, of_halves(half))
    v.store(work, _INVERSES, inverses)


@inlined
def _scaled(work, lane, begin):
    """Scales or minima of a block as whole numbers."""
    return whole(v.multiply(v.splat(work[_INVERSES + lane]), v.load(work, begin)))


@inlined
def _set_steps(work, lane, begin, factors):
    v.store(work, begin, v.multiply(v.splat(work[_STORED + lane]), _floats(factors)))


@inlined
def _scale_q2(work, codes):
    """Of each block 16 bytes: scales in the low halves, minima in the high ones."""
    most = _greatest(work, 16)
    _put_numbers(v.divide(most, v.splat(f32(15.0))), _positive(most, f32(15.0)), work, codes)
    low = vectors.splat(15)
    for k in range(AT_ONCE):
        scale = vectors.both(_scaled(work, k, SCALES + 16 * k), vectors.splat(255))
        minimum = _scaled(work, AT_ONCE + k, MINIMA + 16 * k)
        pair = vectors.either(scale, vectors.shift_left(minimum, 4))
        vectors.store_u8(codes, CODES + 16 * k, pair)
        _set_steps(work, k, _STEPS + 16 * k, vectors.both(scale, low))
        minimum = vectors.both(vectors.shift_right(pair, 4), low)
        _set_steps(work, AT_ONCE + k, _OFFSETS + 16 * k, minimum)


@inlined
def _scale_signed(work, codes, half):
    """Scales from -`half` to `half` - 1; of which blocks they are 0, or next to it, as bits."""
    zero = v.splat(f32(0.0))
    most, size = _extremes(work)
    none = v.equal(most, zero)
    inverse = v.choose(none, zero, v.divide(v.splat(f32(-half)), most))
    number = v.choose(none, zero, v.divide(v.splat(f32(1.0)), inverse))
    _put_numbers(number, inverse, work, codes)
    for k in range(AT_ONCE):
        code = within(_scaled(work, k, SCALES + 16 * k), -half, half - 1)
        vectors.store_u8(codes, CODES + 16 * k, code)
        _set_steps(work, k, _STEPS + 16 * k, code)
        v.store(work, _OFFSETS + 16 * k, zero)
    return vectors.bits_of(none), vectors.bits_of(v.less(size, v.splat(_TINY)))


@inlined
def _scale_six_bits(work, codes):
    """Scales and minima from 0 to 63 of blocks of 8 groups."""
    most = _greatest(work, 8)
    _put_numbers(v.divide(most, v.splat(f32(63.0))), _positive(most, f32(63.0)), work, codes)
    for k in range(AT_ONCE):  # of 16 lanes 8; the others are then overwritten
        scale = vectors.both(_scaled(work, k, SCALES + 8 * k), vectors.splat(255))
        scale = within(scale, 0, 63)
        vectors.store_u8(codes, CODES + 8 * k, scale)
        _set_steps(work, k, _STEPS + 8 * k, scale)
        minimum = vectors.both(_scaled(work, 8 + k, MINIMA + 8 * k), vectors.splat(255))
        minimum = within(minimum, 0, 63)
        vectors.store_u8(codes, MORE_CODES + 8 * k, minimum)
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
            doubtful = v.either(doubtful, v.less(v.splat(NEARLY_HALF), off))
        if vectors.bits_of(doubtful) != 0:
            for i in range(n):
                at = (number * n + i) * _LANES
                _put_quanta(x, work, at, step, minimum, least, most, offset, none, inverse, False)


@inlined
def _q2(weights, begin, there, x, work, codes, out, at):
    _spread(weights, begin, 16, x)
    with_minimum(x, work, 4, 16, 3, f32(-0.5), f32(0.1), 15, True)
    _scale_q2(work, codes)
    _requantise(x, work, 16, 0, 3, 0)
    _gather(work, 16, x, codes)
    for k in range(there):
        put_q2(codes, k, out, at + 84 * k)


@inlined
def _q3(weights, begin, there, x, work, codes, out, at):
    _spread(weights, begin, 16, x)
    moved(x, work, 16, 4)
    none, _ = _scale_signed(work, codes, 32)
    _requantise(x, work, 16, -4, 3, 4)
    _gather(work, 16, x, codes)
    for k in range(there):
        put_q3(codes, k, none >> k & 1, out, at + 110 * k)


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
        put_q4_or_q5(wide, codes, k, out, at + size * k)


@inlined
def _q6(weights, begin, there, x, work, codes, out, at):
    _spread(weights, begin, 16, x)
    for number in range(AT_ONCE):
        symmetric(x, work, number, 16)
    _, tiny = _scale_signed(work, codes, 128)
    _requantise(x, work, 16, -32, 31, 32)
    _gather(work, 16, x, codes)
    for k in range(there):
        put_q6(codes, k, tiny >> k & 1, out, at + 210 * k)


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
    for first in range(0, blocks, AT_ONCE):
        there = min(blocks - first, AT_ONCE)
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
