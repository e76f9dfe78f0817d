"""FP32 numbers as FP16, and back, in compiled code."""

import numpy as np

from densor.entropy import float_vectors as v
from densor.entropy import vectors
from densor.entropy.jit import inlined

_HALF = 0x3F000000  # bits of .5, which has the last place of FP16's numbers below 2^-14


@inlined
def halves(numbers):
    """16 FP32 numbers as FP16, to nearest, ties to even, in the low halves of the lanes.

    What is no number becomes infinite.
    """
    word = v.bits(numbers)
    size = vectors.both(word, vectors.splat(0x7FFFFFFF))
    moved = vectors.subtract(size, vectors.splat(0x38000000 - 0xFFF))
    odd = vectors.both(vectors.shift_right(size, 13), vectors.splat(1))
    half = vectors.shift_right(vectors.add(moved, odd), 13)
    small = v.bits(v.add(v.size(numbers), v.splat(np.float32(0.5))))
    small = vectors.subtract(small, vectors.splat(_HALF))
    half = vectors.choose(vectors.less(size, vectors.splat(0x38800000)), small, half)  # 2^-14
    finite = vectors.less(size, vectors.splat(0x477FF000))  # 65520
    half = vectors.choose(finite, half, vectors.splat(0x7C00))
    sign = vectors.both(vectors.shift_right(word, 16), vectors.splat(0x8000))
    return vectors.either(half, sign)


@inlined
def of_halves(half):
    """16 FP16 numbers in the low halves of lanes as FP32; what is no number becomes infinite."""
    size = vectors.both(half, vectors.splat(0x7FFF))
    word = vectors.add(vectors.shift_left(size, 13), vectors.splat(0x38000000))
    small = v.subtract(v.of_bits(vectors.add(size, vectors.splat(_HALF))), v.splat(np.float32(0.5)))
    number = v.choose(vectors.less(size, vectors.splat(0x400)), small, v.of_bits(word))
    finite = vectors.less(size, vectors.splat(0x7C00))
    number = v.choose(finite, number, v.splat(np.float32(np.inf)))
    sign = vectors.shift_left(vectors.both(half, vectors.splat(0x8000)), 16)
    return v.of_bits(vectors.either(v.bits(number), sign))
