"""Compiled loops for keys relative to rotated means, see docs/format/cache_page.md. They mind no
bounds: `rotated.py` has proven those of what it hands in."""

import numpy as np
from numba import types

from densor.entropy.jit import I64, R16, R32, W16, W32, index, inlined, kernel

_R16 = types.Array(types.int16, 1, "C", readonly=True)
_R32 = types.Array(types.int32, 1, "C", readonly=True)
_RF = types.Array(types.float32, 1, "C", readonly=True)
_WF = types.float32[::1]
_int = types.int64
_SINE_BITS, _CONTEXTS = np.int32(14), 64
TOP, _MAGNITUDE = np.int32(0x8000), np.int32(0x7FFF)
_LAST = np.float32(_CONTEXTS - 1)
_CHAINS = 4  # quarters of the elements that are worked on at once, as none waits for another


@inlined
def turned(a, b, sine, cosine, side):
    """The mean of the first or second channel of a pair, where its token stands."""
    # At most 2^30, as means have 16 bits and sines 15
    if side == 0:
        value = np.int32(np.int32(a * cosine) - np.int32(b * sine))
    else:
        value = np.int32(np.int32(a * sine) + np.int32(b * cosine))
    return np.int32(value >> _SINE_BITS)


@inlined
def magnitude_of(size, scale, base):
    """The 15 bits of the magnitude that is expected. `base`: the exponent, 127 not added."""
    # The upper bits of a binary32 number are its logarithm, piece by piece. It is exact: what has
    # more than 24 bits is even, as such scales are.
    level = np.float32(np.int32(2) * size + scale).view(np.int32)
    return np.int32(np.int32(level >> np.int32(16)) + base) & _MAGNITUDE


@kernel(types.void(_R16, _R32, _R32, _R32, _int, _int, _int, _int, _int, W32))
def expect(means, scales, sines, cosines, rows, tokens, begin, count, exponent, found):
    """Fills `found` with what is expected of the elements of `count` tokens from `begin` on, of
    [rows, tokens, channels]: 15 bits of the magnitude, one for negative, the context above.

    `means`, `scales`: [rows, channels]. `sines`, `cosines`: [count, channels / 2].
    """
    half = sines.size // count
    base = np.int32((exponent - 1) << 7)
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
                    # Exact: numbers have at most 24 bits, quotients are never that near to integers
                    quotient = np.float32(np.int32(8) * size) / np.float32(scale)
                    context = np.int32(min(quotient, _LAST))
                    word = magnitude_of(size, scale, base) | np.int32(context << np.int32(16))
                    negative = (value >> np.int32(31)) & TOP
                    found[index(at + own + pair)] = np.uint32(word | negative)


@kernel(types.void(R32, I64))
def count(expected, counts):
    """Adds up contexts; `counts`: int64[quarters, contexts]."""
    quarter = (expected.size + _CHAINS - 1) // _CHAINS
    for i in range(quarter):
        for chain in range(_CHAINS):
            at = chain * quarter + i
            if at < expected.size:
                counts[index(chain * _CONTEXTS + (expected[index(at)] >> 16))] += 1


@kernel(types.void(R16, R32, _int, I64, W16))
def absolute(flat, expected, centre, places, bits):
    """Takes elements from the places of their contexts, `places`: the next one of each, by quarter
    of the elements; their magnitudes are relative to what is expected, and so are signs."""
    quarter = (bits.size + _CHAINS - 1) // _CHAINS
    for i in range(quarter):
        for chain in range(_CHAINS):
            at = chain * quarter + i
            if at < bits.size:
                context = chain * _CONTEXTS + (expected[index(at)] >> 16)
                place = places[index(context)]
                places[index(context)] = place + 1
                bits[index(at)] = flat[index(place)]
    for i in range(bits.size):
        word = np.int32(expected[index(i)] & 0xFFFF)
        moved = np.int32(bits[index(i)])
        part = (((moved >> 8) & 127) << 6) | (((moved >> 6) & 3) << 13) | (moved & 63)
        value = np.int32(part + (word & 0x7FFF) - np.int32(centre)) & np.int32(0x7FFF)
        bits[index(i)] = np.uint16(value | ((moved ^ word) & np.int32(0x8000)))


@inlined
def _wide(half):
    """A BF16 number as binary32."""
    return np.uint32(np.uint32(half) << np.uint32(16)).view(np.float32)


@kernel(types.void(R16, _RF, _RF, _int, _int, types.float32, _WF, _WF))
def mean(bits, sines, cosines, rows, tokens, factor, means, squares):
    """Means before rotation, and those of the squares of what is left without them, float32
    [rows, channels], both 0 before. `bits`: of BF16 [rows, tokens, channels], which are multiplied
    by `factor`. `sines`, `cosines`: [tokens, channels / 2]. One operation at a time, so that all
    machines do the same."""
    half = sines.size // tokens
    share = np.float32(1) / np.float32(tokens)
    for row in range(rows):
        own = row * 2 * half
        for token in range(tokens):
            at = (row * tokens + token) * 2 * half
            for pair in range(half):
                sine, cosine = (
                    sines[index(token * half + pair)],
                    cosines[index(token * half + pair)],
                )
                a = _wide(bits[index(at + pair)]) * factor
                b = _wide(bits[index(at + half + pair)]) * factor
                means[index(own + pair)] += a * cosine + b * sine
                means[index(own + half + pair)] += b * cosine - a * sine
        for channel in range(2 * half):
            means[index(own + channel)] *= share
        for token in range(tokens):
            at = (row * tokens + token) * 2 * half
            for pair in range(half):
                sine, cosine = (
                    sines[index(token * half + pair)],
                    cosines[index(token * half + pair)],
                )
                a = _wide(bits[index(at + pair)]) * factor
                b = _wide(bits[index(at + half + pair)]) * factor
                c, d = means[index(own + pair)], means[index(own + half + pair)]
                a -= c * cosine - d * sine
                b -= c * sine + d * cosine
                squares[index(own + pair)] += a * a
                squares[index(own + half + pair)] += b * b
        for channel in range(2 * half):
            squares[index(own + channel)] *= share
