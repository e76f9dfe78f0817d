"""The compiled loops that quantise blocks of 256 weights: GGUF's K types, without importances.

I. Kawrakow, G. Gerganov: llama.cpp, ggml-quants.c, `quantize_row_q*_K_ref`. All in FP32 operations
that are rounded one by one, in the order of that source.
"""

import numpy as np
from numba import types

from densor.codec.quantise.forms import Q2_K, Q3_K, Q4_K
from densor.codec.quantise.halves import half_at, put_half
from densor.codec.quantise.kernels import F32
from densor.codec.quantise.search_kernels import ROUND, moved, quantum, symmetric, with_minimum
from densor.entropy import float_vectors as v
from densor.entropy import vectors
from densor.entropy.jit import W8, inlined, kernel

f32 = np.float32
_BLOCK = 256
_LANES = 16
_TINY = f32(1e-15)
_SCALES = 512  # where they are in the work space, behind the quanta
_MINIMA = 528
_STEPS = 544
_OFFSETS = 560
WORK = 576


@inlined
def _nearest(x):
    """An int64 nearest to x, ties to even; 0 where |x| is 2^22 or more."""
    if not (np.abs(x) < f32(4194304.0)):
        return np.int64(0)
    return np.int64(f32(f32(x + ROUND) - ROUND))


@inlined
def _put(value, number, bits, out, at):
    """A number as FP16; what that is, as FP32."""
    number[0] = value
    put_half(number, bits, out, at)
    return half_at(out, at, number, bits)


@inlined
def _spread(weights, begin, n, x):
    """Groups of n weights to lanes; those that are missing at the end are 0."""
    for lane in range(_LANES):
        for i in range(n):
            at = begin + lane * n + i
            x[i * _LANES + lane] = weights[at] if at < weights.size else f32(0.0)


@inlined
def _requantise(x, work, n, least, most, offset, codes):
    """Quanta of the scales that are stored, as bytes; those that were found where one is 0."""
    step = v.load(work, _STEPS)
    minimum = v.load(work, _OFFSETS)  # infinite where FP16 has no such number; quanta are 0 then
    step = v.choose(v.less(minimum, v.splat(f32(np.inf))), step, v.splat(f32(np.inf)))
    none = v.equal(v.load(work, _STEPS), v.splat(f32(0.0)))
    for i in range(n):
        wanted = v.divide(v.add(v.load(x, i * _LANES), minimum), step)
        found = quantum(wanted, v.splat(f32(least)), v.splat(f32(most)))
        found = v.add(found, v.splat(f32(offset)))
        found = v.choose(none, v.load(work, i * _LANES), found)
        vectors.store_u8(codes, i * _LANES, v.integers(found))


@inlined
def _code(codes, n, first, i):
    """The quantum of weight i of the block whose first lane is `first`."""
    return codes[(i % n) * _LANES + first + i // n]


@inlined
def _put_pairs(codes, n, first, out, at):
    """The low two bits of quanta, four of them a byte."""
    for half in range(2):
        for i in range(32):
            byte = np.uint8(0)
            for k in range(4):
                code = _code(codes, n, first, half * 128 + 32 * k + i)
                byte |= np.uint8((code & 3) << (2 * k))
            out[at + half * 32 + i] = byte


@inlined
def _most(work, begin, count):
    """The greatest of some numbers, or 0."""
    most = f32(0.0)
    for j in range(count):
        most = work[begin + j] if work[begin + j] > most else most
    return most


@inlined
def _put_q2(work, number, bits, out, at):
    for j in range(_LANES):
        out[at + j] = 0
    for k in range(2):
        begin = _SCALES + 16 * k
        most = _most(work, begin, _LANES)
        inverse = f32(15.0) / most if most > 0 else f32(0.0)
        for j in range(_LANES):
            out[at + j] |= np.uint8((_nearest(inverse * work[begin + j]) << (4 * k)) & 255)
        stored = _put(
            most / f32(15.0) if most > 0 else f32(0.0), number, bits, out, at + 80 + 2 * k
        )
        for j in range(_LANES):
            factor = f32((out[at + j] >> (4 * k)) & 15)
            work[_STEPS + 16 * k + j] = stored * factor


@inlined
def _extreme(work):
    """The first of the largest scales, with its sign."""
    size = f32(0.0)
    most = f32(0.0)
    for j in range(_LANES):
        scale = work[_SCALES + j]
        if np.abs(scale) > size:
            size = np.abs(scale)
            most = scale
    return most


@inlined
def _put_q3(work, number, bits, out, at):
    for j in range(12):
        out[at + 96 + j] = 0
    most = _extreme(work)
    inverse = f32(-32.0) / most if most != 0 else f32(0.0)
    step = _put(f32(1.0) / inverse if most != 0 else f32(0.0), number, bits, out, at + 108)
    for j in range(_LANES):
        factor = np.int64(-32)
        if most != 0:
            factor = max(np.int64(-32), min(np.int64(31), _nearest(inverse * work[_SCALES + j])))
        code = factor + 32
        out[at + 96 + j % 8] |= np.uint8((code & 15) << (4 * (j // 8)))
        out[at + 104 + j % 4] |= np.uint8((code >> 4) << (2 * (j // 4)))
        work[_STEPS + j] = step * f32(factor)
        work[_OFFSETS + j] = f32(0.0)


@inlined
def _put_q6(work, number, bits, out, at):
    """Whether the block is not all 0."""
    most = _extreme(work)
    if np.abs(most) < _TINY:
        for j in range(210):
            out[at + j] = 0
        return False
    inverse = f32(-128.0) / most
    step = _put(f32(1.0) / inverse, number, bits, out, at + 208)
    for j in range(_LANES):
        factor = max(np.int64(-128), min(np.int64(127), _nearest(inverse * work[_SCALES + j])))
        out[at + 192 + j] = np.uint8(factor & 255)
        work[_STEPS + j] = step * f32(factor)
        work[_OFFSETS + j] = f32(0.0)
    return True


@inlined
def _put_six_bits(work, first, number, bits, out, at):
    """Scales and minima of a block of 8 groups."""
    for j in range(12):
        out[at + 4 + j] = 0
    for k in range(2):
        begin = _SCALES + 16 * k + first
        most = _most(work, begin, 8)
        inverse = f32(63.0) / most if most > 0 else f32(0.0)
        stored = _put(most / f32(63.0), number, bits, out, at + 2 * k)
        for j in range(8):
            code = min(_nearest(inverse * work[begin + j]) & 255, np.int64(63))
            if j < 4:
                out[at + 4 + 4 * k + j] |= np.uint8(code)
            else:
                out[at + 8 + j] |= np.uint8((code & 15) << (4 * k))
                out[at + 4 * k + j] |= np.uint8(code >> 4 << 6)
            work[_STEPS + 16 * k + first + j] = stored * f32(code)


@inlined
def _put_nibbles(codes, first, out, at):
    """The low four bits of quanta, two a byte, of groups of 32 weights."""
    for pair in range(4):
        for i in range(32):
            low = codes[i * _LANES + first + 2 * pair]
            high = codes[i * _LANES + first + 2 * pair + 1]
            out[at + 32 * pair + i] = np.uint8((low & 15) | (high & 15) << 4)


@inlined
def _put_q6_quanta(codes, out, at):
    """The low four bits of quanta, two a byte, and the high two bits, four a byte."""
    for half in range(2):
        for i in range(32):
            high = np.uint8(0)
            for k in range(4):
                code = _code(codes, 16, 0, half * 128 + 32 * k + i)
                high |= np.uint8((code >> 4) << (2 * k))
            out[at + 128 + 32 * half + i] = high
            for k in range(2):
                low = _code(codes, 16, 0, half * 128 + 32 * k + i)
                top = _code(codes, 16, 0, half * 128 + 32 * k + 64 + i)
                out[at + 64 * half + 32 * k + i] = np.uint8((low & 15) | (top & 15) << 4)


@inlined
def _put_third_bits(codes, out, at):
    for i in range(32):
        byte = np.uint8(0)
        for k in range(8):
            byte |= np.uint8((_code(codes, 16, 0, 32 * k + i) >> 2) << k)
        out[at + i] = byte


@inlined
def _put_fifth_bits(codes, first, out, at):
    """Of quanta of groups of 32 weights."""
    for i in range(32):
        byte = np.uint8(0)
        for j in range(8):
            byte |= np.uint8((codes[i * _LANES + first + j] >> 4) << j)
        out[at + i] = byte


@inlined
def _q2(weights, begin, x, work, number, bits, codes, out, at):
    _spread(weights, begin, 16, x)
    scale, least = with_minimum(x, work, 16, 3, f32(-0.5), f32(0.1), 15, True)
    v.store(work, _SCALES, scale)
    v.store(work, _MINIMA, least)
    _put_q2(work, number, bits, out, at)
    _requantise(x, work, 16, 0, 3, 0, codes)
    _put_pairs(codes, 16, 0, out, at + 16)


@inlined
def _q3(weights, begin, x, work, number, bits, codes, out, at):
    _spread(weights, begin, 16, x)
    v.store(work, _SCALES, moved(x, work, 16, 4))
    _put_q3(work, number, bits, out, at)
    _requantise(x, work, 16, -4, 3, 4, codes)
    _put_pairs(codes, 16, 0, out, at + 32)
    _put_third_bits(codes, out, at)


@inlined
def _q4_or_q5(wide, weights, begin, x, work, number, bits, codes, out, at):
    """Two blocks of Q5_K (`wide`) or Q4_K, one at the end; returns where the next ones begin."""
    _spread(weights, begin, 32, x)
    first = f32(-0.5) if wide else f32(-1.0)
    levels, tries = (31, 15) if wide else (15, 20)
    scale, least = with_minimum(x, work, 32, levels, first, f32(0.1), tries, False)
    v.store(work, _SCALES, scale)
    v.store(work, _MINIMA, least)
    there = min(2, (weights.size - begin) // _BLOCK)
    size = 176 if wide else 144
    for k in range(there):
        _put_six_bits(work, 8 * k, number, bits, out, at + k * size)
    _requantise(x, work, 32, 0, levels, 0, codes)
    for k in range(there):
        if wide:
            _put_fifth_bits(codes, 8 * k, out, at + 16)
        _put_nibbles(codes, 8 * k, out, at + size - 128)
        at += size
    return at


@inlined
def _q6(weights, begin, x, work, number, bits, codes, out, at):
    _spread(weights, begin, 16, x)
    v.store(work, _SCALES, symmetric(x, work, 16, 32))
    if _put_q6(work, number, bits, out, at):
        _requantise(x, work, 16, -32, 31, 32, codes)
        _put_q6_quanta(codes, out, at)


@kernel(
    types.void(types.int64, F32, types.float32[::1], types.float32[::1], types.uint32[::1], W8, W8)
)
def quantise_super_blocks(form, weights, x, work, bits, codes, out):
    """Blocks of 256 finite `weights`, float32[256 * n], to `out`, as `form`, of `FORMS`, has them.

    Work space: `x`, float32[512]; `work`, float32[577]; `bits`, uint32[577], the same memory;
    `codes`, uint8[512].
    """
    number = work[WORK:]
    word = bits[WORK:]
    at = 0
    if form == Q2_K:
        for begin in range(0, weights.size, _BLOCK):
            _q2(weights, begin, x, work, number, word, codes, out, at)
            at += 84
    elif form == Q3_K:
        for begin in range(0, weights.size, _BLOCK):
            _q3(weights, begin, x, work, number, word, codes, out, at)
            at += 110
    elif form < Q4_K + 2:
        for begin in range(0, weights.size, 2 * _BLOCK):
            at = _q4_or_q5(form != Q4_K, weights, begin, x, work, number, word, codes, out, at)
    else:
        for begin in range(0, weights.size, _BLOCK):
            _q6(weights, begin, x, work, number, word, codes, out, at)
            at += 210
