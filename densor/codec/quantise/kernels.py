"""The compiled loop that quantises blocks of 32 weights: GGUF's types without a search.

G. Gerganov et al.: llama.cpp, `quantize_row_*_ref`. All in FP32 operations that are rounded one by
one, so that the result is the same on every machine. A block is two vectors, of whose 16 weights
each lane has one; scales are made for 16 blocks at a time, one in each lane.
"""

import numpy as np
from numba import types

from densor.codec.quantise.forms import BLOCK, BLOCK_WORK, Q5_0, Q8_0
from densor.codec.quantise.halves import halves
from densor.entropy import float_vectors as v
from densor.entropy import intrinsics, vectors
from densor.entropy.jit import R8, R16, W8, W32, inlined, kernel

f32 = np.float32
_LANES = 16
_SCALES, _LEAST, _ROWS, _MORE_ROWS = 0, 16, 32, 288  # where they are in the work space
assert BLOCK_WORK == _MORE_ROWS + 256


@kernel(types.uint32(R16, W32))
def widen(words, out):
    """BF16 as FP32, both as bits; returns those of the largest number, without its sign."""
    most = np.uint32(0)
    for i in range(words.size):
        word = np.uint32(words[i]) << np.uint32(16)
        most = max(most, word & np.uint32(0x7FFFFFFF))
        out[i] = word
    return most


@inlined
def load_words(data, first, count, weights):
    """`count` BF16 numbers as FP32, from number `first` on, to the beginning of `weights`, 0 after
    the last one; returns whether one is infinite or no number.
    """
    there = data.size // 2 - first
    infinite = v.splat(f32(np.inf))
    odd = v.less(infinite, infinite)
    for at in range(0, count, _LANES):
        number = v.splat(f32(0.0))
        if at < there:
            word = vectors.load_u16(data, 2 * (first + at))
            number = v.of_bits(vectors.shift_left(word, 16))
        odd = v.either(odd, v.neither(v.less(v.size(number), infinite)))
        v.store(weights, at, number)
    return vectors.bits_of(odd) != 0


@inlined
def _inverses(scales):
    """Of infinite ones and of those whose inverse is infinite, 0."""
    inverse = v.divide(v.splat(f32(1.0)), scales)
    return v.choose(v.less(v.size(inverse), v.splat(f32(np.inf))), inverse, v.splat(f32(0.0)))


@inlined
def _put_scales(scales, work, codes):
    """Scales, as FP16, and their inverses to the work space."""
    v.store(work, _SCALES, _inverses(scales))
    vectors.store_u16(codes, 0, halves(scales))


@inlined
def _signs(numbers):
    """The signs of 16 numbers, of zeros too."""
    return vectors.bits_of(vectors.less_signed(v.bits(numbers), vectors.splat(0)))


@inlined
def _is_negative(weights, begin, largest):
    """Whether the first of the largest weights of a block is."""
    first = v.load(weights, begin)
    second = v.load(weights, begin + _LANES)
    size = v.splat(largest)
    here = vectors.bits_of(v.equal(v.size(first), size))
    here |= vectors.bits_of(v.equal(v.size(second), size)) << 16
    return here & -here & (_signs(first) | _signs(second) << 16) != 0


@inlined
def _largest(weights, begin, work):
    """The size of the largest weights of each block."""
    for k in range(_LANES):
        first = v.size(v.load(weights, begin + BLOCK * k))
        second = v.size(v.load(weights, begin + BLOCK * k + _LANES))
        v.store(work, _ROWS + _LANES * k, v.greater(first, second))
    v.transpose(work, _ROWS, _LANES, work, _ROWS, _LANES)
    largest = v.load(work, _ROWS)
    for k in range(1, _LANES):
        largest = v.greater(largest, v.load(work, _ROWS + _LANES * k))
    return largest


@inlined
def _signed_scales(weights, begin, levels, work, codes):
    """Scales by which the first of the largest weights of each block is -`levels` / 2."""
    v.store(work, _SCALES, _largest(weights, begin, work))
    for k in range(_LANES):
        largest = work[_SCALES + k]
        if _is_negative(weights, begin + BLOCK * k, largest):
            work[_SCALES + k] = -largest
    v.store(work, _LEAST, v.splat(f32(0.0)))
    _put_scales(v.divide(v.load(work, _SCALES), v.splat(f32(-(levels // 2)))), work, codes)


@inlined
def _first_zero(weights, begin):
    at = begin
    while weights[at] != f32(0.0):
        at += 1
    return weights[at]


@inlined
def _scales_and_minima(weights, begin, levels, work, codes):
    """Of the weights of each block the first of the least ones, of which -0 and 0 are one."""
    for k in range(_LANES):
        first = v.load(weights, begin + BLOCK * k)
        second = v.load(weights, begin + BLOCK * k + _LANES)
        v.store(work, _ROWS + _LANES * k, v.lesser(first, second))
        v.store(work, _MORE_ROWS + _LANES * k, v.greater(first, second))
    v.transpose(work, _ROWS, _LANES, work, _ROWS, _LANES)
    v.transpose(work, _MORE_ROWS, _LANES, work, _MORE_ROWS, _LANES)
    least = v.load(work, _ROWS)
    most = v.load(work, _MORE_ROWS)
    for k in range(1, _LANES):
        least = v.lesser(least, v.load(work, _ROWS + _LANES * k))
        most = v.greater(most, v.load(work, _MORE_ROWS + _LANES * k))
    v.store(work, _LEAST, least)
    for k in range(_LANES):
        if work[_LEAST + k] == f32(0.0):
            work[_LEAST + k] = _first_zero(weights, begin + BLOCK * k)
    least = v.load(work, _LEAST)
    range_ = v.add(v.subtract(most, least), v.splat(f32(0.0)))  # 0 rather than -0
    _put_scales(v.divide(range_, v.splat(f32(levels - 1))), work, codes)
    vectors.store_u16(codes, 2 * _LANES, halves(least))


@inlined
def _quanta(weights, at, least, inverse, offset, levels):
    """16 whole numbers from 0 to `levels` - 1."""
    scaled = v.multiply(v.subtract(v.load(weights, at), least), inverse)
    quanta = v.integers(v.add(scaled, offset))
    most = vectors.splat(levels - 1)
    return vectors.choose(vectors.less_signed(quanta, most), quanta, most)


@inlined
def _fifth_bits(quanta):
    wide = vectors.splat(16)
    return vectors.bits_of(vectors.equal(vectors.both(quanta, wide), wide))


@inlined
def _put_quanta(wide, first, second, out, at):
    """Fifth bits where there are some, then nibbles."""
    if wide:
        high = _fifth_bits(first) | _fifth_bits(second) << 16
        intrinsics.store_u32(out, at, np.uint32(high))
        at += 4
    low = vectors.both(first, vectors.splat(15))
    high = vectors.shift_left(vectors.both(second, vectors.splat(15)), 4)
    vectors.store_u8(out, at, vectors.either(low, high))


@inlined
def _put_q8(weights, at, inverse, out, to):
    """16 weights to nearest, halves away from 0."""
    scaled = v.multiply(v.load(weights, at), inverse)
    twice = v.integers(v.multiply(v.size(scaled), v.splat(f32(2.0))))
    one = vectors.splat(1)
    size = vectors.shift_right(vectors.add(twice, one), 1)
    negative = vectors.subtract(vectors.splat(0), size)
    below = v.less(scaled, v.splat(f32(0.0)))
    vectors.store_u8(out, to, vectors.choose(below, negative, size))


@inlined
def _copy(codes, begin, out, at):
    intrinsics.store_u16(out, at, intrinsics.load_u16(codes, begin))


@inlined
def _q8_blocks(weights, begin, there, work, codes, out, at):
    scales = v.divide(_largest(weights, begin, work), v.splat(f32(127.0)))
    _put_scales(scales, work, codes)
    for k in range(there):
        inverse = v.splat(work[_SCALES + k])
        place = at + 34 * k
        _copy(codes, 2 * k, out, place)
        _put_q8(weights, begin + BLOCK * k, inverse, out, place + 2)
        _put_q8(weights, begin + BLOCK * k + _LANES, inverse, out, place + 18)


@inlined
def _blocks(form, weights, begin, there, size, work, codes, out, at):
    """Blocks of four or five bits a weight."""
    wide = form >= Q5_0
    levels = 32 if wide else 16
    offset = f32(0.5)
    if form & 1:
        _scales_and_minima(weights, begin, levels, work, codes)
    else:
        _signed_scales(weights, begin, levels, work, codes)
        offset += f32(levels // 2)
    for k in range(there):
        inverse = v.splat(work[_SCALES + k])
        least = v.splat(work[_LEAST + k])
        first = begin + BLOCK * k
        low = _quanta(weights, first, least, inverse, v.splat(offset), levels)
        high = _quanta(weights, first + _LANES, least, inverse, v.splat(offset), levels)
        place = at + size * k
        _copy(codes, 2 * k, out, place)
        place += 2
        if form & 1:
            _copy(codes, 2 * (_LANES + k), out, place)
            place += 2
        _put_quanta(wide, low, high, out, place)


@kernel(types.boolean(types.int64, R8, types.float32[::1], types.int64, types.float32[::1], W8, W8))
def quantise_blocks(form, data, weights, size, work, codes, out):
    """Blocks of 32 weights to `out`, blocks of `size` bytes, as `form`, of `FORMS`, has them.

    `data`: BF16 numbers, as bytes, as many as `out` has room for; or empty, then `weights` has the
    weights, float32, of 16 blocks or a multiple. Returns whether a number of `data` is not finite,
    which makes what is in `out` worthless. Work space: `weights`, float32[512], with data; `work`,
    float32[`BLOCK_WORK`]; `codes`, uint8[`BLOCK_CODES`].
    """
    blocks = out.size // size
    odd = False
    for first in range(0, blocks, _LANES):
        there = min(blocks - first, _LANES)
        begin = first * BLOCK
        if data.size:
            odd |= load_words(data, begin, _LANES * BLOCK, weights)
            begin = 0
        if form == Q8_0:
            _q8_blocks(weights, begin, there, work, codes, out, first * size)
        else:
            _blocks(form, weights, begin, there, size, work, codes, out, first * size)
    return odd
