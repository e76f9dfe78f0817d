"""A range coder for the streams of images: parts of a power of two, carries into what is written.

For kernels. `coder`: uint64[3], the lower bound (of decoding: how far the code is above it), the
range, and where in `data` the next byte is.
"""

import numba
import numpy as np

from densor.entropy.jit import inlined

int64, uint64 = numba.int64, numba.uint64

_RANGE = uint64(1) << uint64(56)
_LOWEST = uint64(1) << uint64(48)
_MASK = _RANGE - uint64(1)
_CODER_BYTES = 7


@inlined
def _carry(data, at):
    """Adds 1 to the bytes before `at`."""
    at -= 1
    while data[at] == 255:
        data[at] = 0
        at -= 1
    data[at] += 1


@inlined
def start(coding, coder, data, begin, end):
    """Sets `coder` to the beginning of a stream."""
    coder[0], coder[1], coder[2] = uint64(0), _RANGE, uint64(begin)
    if not coding:
        for i in range(_CODER_BYTES):
            byte = uint64(data[begin + i]) if begin + i < end else uint64(0)
            coder[0] = coder[0] << uint64(8) | byte
        coder[2] = uint64(begin + _CODER_BYTES)


@inlined
def put(coder, data, low, size, bits):
    """Codes the part from `low` on, of `size`, of 2^bits."""
    step = coder[1] >> uint64(bits)
    coder[0] += step * uint64(low)
    coder[1] = step * uint64(size)
    if coder[0] >= _RANGE:
        coder[0] &= _MASK
        _carry(data, int64(coder[2]))
    while coder[1] < _LOWEST:
        data[int64(coder[2])] = np.uint8(coder[0] >> uint64(48))
        coder[2] += uint64(1)
        coder[0] = (coder[0] << uint64(8)) & _MASK
        coder[1] <<= uint64(8)


@inlined
def take(coder, data, end, low, size, bits):
    """The decoding side of `put`: `coder[0]` is how far the code is above the lower bound."""
    step = coder[1] >> uint64(bits)
    coder[0] -= step * uint64(low)
    coder[1] = step * uint64(size)
    while coder[1] < _LOWEST:
        at = int64(coder[2])
        byte = uint64(data[at]) if at < end else uint64(0)
        coder[2] += uint64(1)
        coder[0] = ((coder[0] << uint64(8)) | byte) & _MASK
        coder[1] <<= uint64(8)


@inlined
def finish(coder, data, begin):
    """Ends a stream with as few bytes as tell it from all others; returns where it ends."""
    last = coder[0] + coder[1] - uint64(1)
    for count in range(_CODER_BYTES + 1):
        rest = (uint64(1) << uint64(56 - 8 * count)) - uint64(1)
        value = (coder[0] + rest) & ~rest
        if value <= last:
            break
    at = int64(coder[2])
    if value >= _RANGE:
        value &= _MASK
        _carry(data, at)
    for i in range(count):
        data[at + i] = np.uint8(value >> uint64(48 - 8 * i))
    at += count
    while at > begin and data[at - 1] == 0:
        at -= 1
    return at
