"""The order-0 bound: what an ideal coder with one free table per plane would reach."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.dtypes import SIZES
from densor.errors import ArgumentError

Bytes = npt.NDArray[np.uint8]
_BLOCK = 1 << 18  # elements counted at a time
_MANTISSA = {"BF16": 7, "F32": 23, "C64": 23}
_DOUBLE = ("F64", "C128")
_BIAS = 896  # of FP64 less that of FP32
_WHOLE = {"VOID": 1, "C64": 4, "C128": 8}  # bytes of a number where an element is not one


def order0_bytes(data: Bytes, dtype: str) -> float:
    """Elements times the order-0 entropy of each of their planes, in bytes.

    `dtype`: by its safetensors name. BF16 and FP32 are cut into exponent, sign with top mantissa
    bits, and lower bytes; FP64 likewise, its 11 exponent bits in two planes; everything else into
    its bytes. Tables are free here, so for few elements the bound is out of reach.
    """
    size = _WHOLE.get(dtype) or SIZES.get(dtype)
    if size is None:
        raise ArgumentError(f"unknown dtype {dtype!r}")
    if data.size % size:
        raise ArgumentError(f"{data.size} bytes are not whole elements of {dtype}")
    counts = np.zeros((size, 256), np.int64)
    for begin in range(0, data.size, _BLOCK * size):
        block = data[begin : begin + _BLOCK * size]
        for plane, values in enumerate(_planes(block, dtype, size)):
            counts[plane] += np.bincount(values, minlength=256)
    return sum(_entropy_bits(plane) for plane in counts) / 8


def _planes(data: Bytes, dtype: str, size: int) -> Iterator[Bytes]:
    if dtype in _MANTISSA:
        data = _exponent_first(data.view(f"<u{size}"), _MANTISSA[dtype])
    elif dtype in _DOUBLE:
        data = _exponent_first_double(data.view("<u8"))
    for plane in range(size):
        yield data[plane::size]


def _exponent_first(words: npt.NDArray[Any], mantissa: int) -> Bytes:
    """Moves the sign below the 8 exponent bits, so that these fill the top byte."""
    one = words.dtype.type
    bits = 8 * words.dtype.itemsize
    exponent = (words >> one(mantissa)) & one(255)
    sign = words >> one(bits - 1)
    low = words & one((1 << mantissa) - 1)
    moved: Bytes = (exponent << one(bits - 8) | sign << one(mantissa) | low).view(np.uint8)
    return moved


def _exponent_first_double(words: npt.NDArray[np.uint64]) -> Bytes:
    """Likewise for FP64: the lower 8 exponent bits on top, the upper 3 in the third byte."""
    one = np.uint64
    exponent = ((words >> one(52)) - one(_BIAS)) & one(2047)
    sign = words >> one(63)
    top, low = (words >> one(45)) & one(127), words & one((1 << 45) - 1)
    upper = (exponent & one(255)) << one(56) | sign << one(55) | top << one(48)
    moved: Bytes = (upper | exponent >> one(8) << one(45) | low).view(np.uint8)
    return moved


def _entropy_bits(counts: npt.NDArray[np.int64]) -> float:
    used = counts[counts > 0]
    return float((used * np.log2(used.sum() / used)).sum())
