"""A range coder with carries for symbols of up to 16 bits of probability, as parts of kernels.

The interval begins at `low`, of 32 bits, and has a `width` of 2^24 to 2^32 - 1; the decoder keeps
how far the code is above `low` instead. A share is from 1 to 65536, in units of 2^-16; the symbol
at the upper end also takes what division leaves (M. Schindler; I. Pavlov's LZMA has the carries).
"""

import numba

from densor.entropy.jit import index, inlined

int64 = numba.int64
_MASK = 0xFFFFFFFF
_LEAST = 1 << 24


@inlined
def encode(stream, low, width, at, begin, share):
    """Codes the symbol whose probabilities are those from `begin` to `begin + share`."""
    unit = width >> 16
    low += unit * begin
    width = width - unit * begin if begin + share == 65536 else unit * share
    if low > _MASK:
        low &= _MASK
        carry = at - 1
        while stream[index(carry)] == 255:
            stream[index(carry)] = 0
            carry -= 1
        stream[index(carry)] += 1
    while width < _LEAST:
        stream[index(at)] = low >> 24
        at += 1
        low = (low << 8) & _MASK
        width <<= 8
    return low, width, at


@inlined
def next_byte(stream, at):
    """A byte of the stream, beyond whose end there are zeros."""
    return int64(stream[index(at)]) if at < stream.size else int64(0)


@inlined
def decode_bit(value, width, p):
    """Whether the next symbol is the first of two, which has probability `p`."""
    return int64(value < (width >> 16) * p)


@inlined
def remove(stream, value, width, at, begin, share):
    """Goes on behind a symbol that was found, as `encode` did."""
    unit = width >> 16
    value -= unit * begin
    width = width - unit * begin if begin + share == 65536 else unit * share
    while width < _LEAST:
        value = ((value << 8) | next_byte(stream, at)) & _MASK
        at += 1
        width <<= 8
    return value, width, at
