"""The compiled loop that quantises blocks of 32 weights: GGUF's types without a search.

G. Gerganov et al.: llama.cpp, `quantize_row_*_ref`. All in FP32 operations that are rounded one by
one, so that the result is the same on every machine.
"""

import numpy as np
from numba import njit, types

from densor.codec.quantise.forms import Q5_0, Q8_0
from densor.codec.quantise.halves import put_half
from densor.entropy.jit import I32, W8, index, kernel

F32 = types.Array(types.float32, 1, "C", readonly=True)
S32 = types.Array(types.int32, 1, "C", readonly=True)
_SIZE = np.int32(0x7FFFFFFF)
_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@njit(error_model="numpy")
def _inverse(scale):
    inverse = _ONE / scale
    return inverse if np.abs(inverse) < np.float32(np.inf) else _ZERO  # none of infinity is an int


@njit(error_model="numpy")
def _first_largest(words, begin, n):
    """Where the first of the weights of the largest size is; they compare as integers do."""
    largest = np.int32(0)
    for i in range(n):
        largest = max(largest, words[begin + i] & _SIZE)
    at = begin
    while words[at] & _SIZE != largest:
        at += index(1)
    return at


@njit(error_model="numpy")
def _ordered(word):
    """The bits of a weight as an integer that is greater where the weight is."""
    return word ^ ((word >> np.int32(31)) & _SIZE)


@njit(error_model="numpy")
def _least_and_most(weights, words, begin, n):
    """The first of the least weights, of which −0 and 0 are one, and a greatest one."""
    low = _SIZE
    high = ~_SIZE
    for i in range(n):
        word = _ordered(words[begin + i])
        low = min(low, word)
        high = max(high, word)
    at = begin
    if low == np.int32(0) or low == np.int32(-1):
        while weights[at] != _ZERO:
            at += index(1)
    else:
        while _ordered(words[at]) != low:
            at += index(1)
    least = weights[at]
    at = begin
    while _ordered(words[at]) != high:
        at += index(1)
    return least, weights[at]


@njit(error_model="numpy")
def _put_q8(weights, begin, n, inverse, out, at):
    """Weights to nearest, halves away from 0."""
    for i in range(n):
        x = weights[begin + i] * inverse
        size = np.abs(x)
        whole = np.floor(size)
        whole += np.floor(np.float32(2.0) * (size - whole))
        out[at + i] = np.uint8(np.int32(-whole if x < _ZERO else whole))


@njit(error_model="numpy")
def _put_quanta(wide, quanta, n, out, at):
    """Fifth bits where there are some, then nibbles; returns where they end."""
    half = n // index(2)
    if wide:
        high = np.uint32(0)
        for i in range(n):
            high |= np.uint32((quanta[i] >> np.int32(4)) & np.int32(1)) << np.uint32(i)
        for k in range(index(4)):
            out[at + k] = np.uint8((high >> np.uint32(8 * k)) & np.uint32(255))
        at += index(4)
    for i in range(half):
        low = quanta[i] & np.int32(15)
        out[at + i] = np.uint8(low | (quanta[i + half] & np.int32(15)) << np.int32(4))
    return at + half


@kernel(types.void(types.int64, F32, S32, types.float32[::1], types.uint32[::1], I32, W8))
def quantise_blocks(form, weights, words, number, bits, quanta, out):
    """Blocks of 32 finite `weights`, float32[32 * n], to `out`, as `form`, of `FORMS`, has them.

    `words`: int32[32 * n], the same memory as `weights`. Work space: `number`, float32[1]; `bits`,
    uint32[1], the same memory; `quanta`, int32[32], whose size, not known before, makes loops of
    vectors out of what would be unrolled into single operations.
    """
    at = index(0)
    n = index(quanta.size)
    for begin in range(index(0), index(weights.size), n):
        if form == Q8_0:
            number[0] = np.abs(weights[_first_largest(words, begin, n)]) / np.float32(127.0)
            inverse = _inverse(number[0])
            put_half(number, bits, out, at)
            _put_q8(weights, begin, n, inverse, out, at + index(2))
            at += index(2) + n
            continue
        wide = form >= Q5_0
        levels = 32 if wide else 16
        offset = _HALF
        least = _ZERO
        if form & 1:
            least, most = _least_and_most(weights, words, begin, n)
            number[0] = (most - least) / np.float32(levels - 1)
        else:
            signed = weights[_first_largest(words, begin, n)]
            number[0] = signed / np.float32(-(levels // 2))
            offset = np.float32(levels // 2) + _HALF
        inverse = _inverse(number[0])
        put_half(number, bits, out, at)
        at += index(2)
        if form & 1:
            number[0] = least
            put_half(number, bits, out, at)
            at += index(2)
        for i in range(n):
            quantum = np.int32((weights[begin + i] - least) * inverse + offset)
            quanta[i] = min(quantum, np.int32(levels - 1))
        at = _put_quanta(wide, quanta, n, out, at)
