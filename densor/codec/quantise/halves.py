"""FP32 numbers as FP16, and back, in compiled code."""

import numpy as np
from numba import njit


@njit(error_model="numpy")
def put_half(value, bits, out, at):
    """A FP32 number as FP16, to nearest, ties to even; `bits`: uint32[1] over `value`.

    What is no number becomes infinite.
    """
    word = bits[0]
    sign = (word >> np.uint32(16)) & np.uint32(0x8000)
    size = word & np.uint32(0x7FFFFFFF)
    if size >= np.uint32(0x477FF000):  # 65520 and above
        half = np.uint32(0x7C00)
    elif size >= np.uint32(0x38800000):  # 2^-14
        size -= np.uint32(0x38000000)
        half = (size + np.uint32(0xFFF) + ((size >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
    elif size > np.uint32(0x33000000):  # 2^-25, half of the least number
        shift = np.uint32(126) - (size >> np.uint32(23))
        mantissa = (size & np.uint32(0x7FFFFF)) | np.uint32(0x800000)
        half = mantissa >> shift
        rest = mantissa & ((np.uint32(1) << shift) - np.uint32(1))
        middle = np.uint32(1) << (shift - np.uint32(1))
        half += np.uint32(rest > middle or (rest == middle and half & np.uint32(1) == 1))
    else:
        half = np.uint32(0)
    half |= sign
    out[at] = half & np.uint32(255)
    out[at + 1] = half >> np.uint32(8)


@njit(error_model="numpy")
def half_at(data, at, value, bits):
    """The FP16 number at byte `at`, as FP32; `bits`: uint32[1] over `value`."""
    half = np.uint32(data[at]) | np.uint32(data[at + 1]) << np.uint32(8)
    size = half & np.uint32(0x7FFF)
    if size < np.uint32(0x400):
        value[0] = np.float32(size) * np.float32(2.0**-24)
    elif size < np.uint32(0x7C00):
        bits[0] = (size << np.uint32(13)) + np.uint32(0x38000000)
    else:
        bits[0] = np.uint32(0x7F800000)
    return -value[0] if half & np.uint32(0x8000) else value[0]
