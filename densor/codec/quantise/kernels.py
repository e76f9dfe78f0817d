"""The compiled loop that quantises blocks of 32 weights: GGUF's types without a search.

G. Gerganov et al.: llama.cpp, `quantize_row_*_ref`. All in FP32 operations that are rounded one by
one, so that the result is the same on every machine.
"""

import numpy as np
from numba import njit, types

from densor.codec.quantise.forms import Q5_0, Q8_0
from densor.codec.quantise.halves import put_half
from densor.entropy.jit import W8, kernel

F32 = types.Array(types.float32, 1, "C", readonly=True)
_BLOCK = 32
_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@njit(error_model="numpy")
def _inverse(scale):
    inverse = _ONE / scale
    return inverse if np.abs(inverse) < np.float32(np.inf) else _ZERO  # none of infinity is an int


@njit(error_model="numpy")
def _rounded(x):
    """To nearest, halves away from 0."""
    size = np.abs(x)
    whole = np.floor(size)
    whole += np.floor(np.float32(2.0) * (size - whole))
    return np.int64(-whole if x < _ZERO else whole)


@kernel(types.void(types.int64, F32, types.float32[::1], types.uint32[::1], W8))
def quantise_blocks(form, weights, number, bits, out):
    """Blocks of 32 finite `weights`, float32[32 * n], to `out`, as `form`, of `FORMS`, has them.

    Work space: `number`, float32[1]; `bits`, uint32[1], the same memory.
    """
    at = 0
    for begin in range(0, weights.size, _BLOCK):
        least = weights[begin]
        most = weights[begin]
        largest = _ZERO
        signed = _ZERO
        for i in range(begin, begin + _BLOCK):
            x = weights[i]
            least = min(least, x)
            most = max(most, x)
            if np.abs(x) > largest:
                largest = np.abs(x)
                signed = x
        if form == Q8_0:
            number[0] = largest / np.float32(127.0)
            inverse = _inverse(number[0])
            put_half(number, bits, out, at)
            for i in range(_BLOCK):
                out[at + 2 + i] = np.uint8(_rounded(weights[begin + i] * inverse) & 255)
            at += 34
            continue
        wide = form >= Q5_0
        levels = 32 if wide else 16
        shifted = form & 1
        offset = _HALF
        if shifted:
            number[0] = (most - least) / np.float32(levels - 1)
        else:
            number[0] = signed / np.float32(-(levels // 2))
            offset = np.float32(levels // 2) + _HALF
            least = _ZERO
        inverse = _inverse(number[0])
        put_half(number, bits, out, at)
        at += 2
        if shifted:
            number[0] = least
            put_half(number, bits, out, at)
            at += 2
        high = np.uint32(0)
        packed = at + 4 if wide else at
        for i in range(_BLOCK // 2):
            low = (weights[begin + i] - least) * inverse + offset
            top = (weights[begin + i + _BLOCK // 2] - least) * inverse + offset
            a = min(np.int64(low), levels - 1)
            b = min(np.int64(top), levels - 1)
            out[packed + i] = np.uint8((a & 15) | (b & 15) << 4)
            high |= np.uint32(a >> 4) << np.uint32(i)
            high |= np.uint32(b >> 4) << np.uint32(i + 16)
        if wide:
            for k in range(4):
                out[at + k] = np.uint8((high >> np.uint32(8 * k)) & np.uint32(255))
        at = packed + _BLOCK // 2
