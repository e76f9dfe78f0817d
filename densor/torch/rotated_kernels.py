"""Compiled loops for keys relative to rotated means, see docs/format/cache_page.md. They mind no
bounds: `rotated.py` has proven those of what it hands in."""

import numpy as np
from numba import types

from densor.entropy.intrinsics import leading_zeros
from densor.entropy.jit import I64, R16, R32, W16, W32, kernel

_U = np.uint64
_R64 = types.Array(types.int64, 1, "C", readonly=True)
_R16 = types.Array(types.int16, 1, "C", readonly=True)
_int = types.int64
_SINE_BITS, _ANGLE_BITS, _CONTEXTS = 14, 12, 64


@kernel(types.void(_R16, _R64, R32, _int, _int, _int, _int, _R64, W32, I64))
def expect(means, scales, steps, rows, tokens, exponent, position, sines, found, counts):
    """Fills `found` with what is expected of each element [rows, tokens, channels]: 15 bits of the
    magnitude, one for negative, the context above; counts contexts.

    `means`, `scales`: [rows, channels]. `steps`: of pairs, half as many as channels.
    """
    half = steps.size
    channels = 2 * half
    mask = (1 << _ANGLE_BITS) - 1
    at = 0
    for row in range(rows):
        for token in range(tokens):
            place = _U(position + token)
            for pair in range(half):
                turn = (place * _U(steps[pair])) & _U(0xFFFFFFFF)
                angle = np.int64(turn >> _U(32 - _ANGLE_BITS))
                sine = sines[angle]
                cosine = sines[(angle + (1 << _ANGLE_BITS) // 4) & mask]
                a = np.int64(means[row * channels + pair])
                b = np.int64(means[row * channels + half + pair])
                for side in range(2):
                    value = a * cosine - b * sine if side == 0 else a * sine + b * cosine
                    value >>= _SINE_BITS
                    size = abs(value)
                    scale = scales[row * channels + side * half + pair]
                    level = 2 * size + scale
                    power = 63 - np.int64(leading_zeros(_U(level)))
                    mantissa = level << (7 - power) if power <= 7 else level >> (power - 7)
                    magnitude = ((power - 1 + exponent + 127) << 7) + (mantissa & 127)
                    # Exact: quotients that matter are far from integers, but for those that are
                    quotient = np.float64(8 * size) / np.float64(scale)
                    context = np.int64(min(quotient, np.float64(_CONTEXTS - 1)))
                    counts[context] += 1
                    word = (magnitude & 0x7FFF) | (context << 16)
                    if value < 0:
                        word |= 0x8000
                    found[at + side * half + pair] = word
            at += channels


@kernel(types.void(R16, R32, _int, I64, W16))
def relative(bits, expected, centre, places, flat):
    """Moves elements to the places of their contexts, `places`: the next one of each."""
    for i in range(bits.size):
        word = np.int64(expected[i])
        value = np.int64(bits[i])
        sign = (value ^ word) & 0x8000
        part = ((value & 0x7FFF) - (word & 0x7FFF) + centre) & 0x7FFF
        context = word >> 16
        place = places[context]
        places[context] = place + 1
        low = ((part >> 13) << 6) | (part & 63)
        flat[place] = sign | (((part >> 6) & 127) << 8) | low


@kernel(types.void(R16, R32, _int, I64, W16))
def absolute(flat, expected, centre, places, bits):
    """Undoes `relative`."""
    for i in range(bits.size):
        word = np.int64(expected[i])
        context = word >> 16
        place = places[context]
        places[context] = place + 1
        moved = np.int64(flat[place])
        part = (((moved >> 8) & 127) << 6) | (((moved >> 6) & 3) << 13) | (moved & 63)
        value = (part + (word & 0x7FFF) - centre) & 0x7FFF
        bits[i] = value | ((moved ^ word) & 0x8000)
