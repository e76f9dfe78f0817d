"""The order-0 bound: what an ideal coder with one table per tensor and plane would reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from bench.tensors import ITEMSIZE, Bytes, Tensor


def byte_planes(data: Bytes, itemsize: int) -> Iterator[Bytes]:
    """The bytes of each significance, lowest first."""
    for k in range(itemsize):
        yield data[k::itemsize]


def exponent_planes(words: NDArray[np.generic], mantissa_bits: int) -> Iterator[Bytes]:
    """Of floats with 8 exponent bits: the exponent, sign and top mantissa bits, lower bytes."""
    shifts = range(mantissa_bits - 7, -1, -8)
    top = words.astype(np.uint32)
    yield ((top >> mantissa_bits) & 0xFF).astype(np.uint8)
    sign = (top >> (mantissa_bits + 1)) & 0x80
    yield (sign | ((top >> shifts[0]) & 0x7F)).astype(np.uint8)
    for shift in shifts[1:]:
        yield ((top >> shift) & 0xFF).astype(np.uint8)


def planes(tensor: Tensor) -> Iterator[Bytes]:
    """BF16 and FP32: exponent and rest, the rest as bytes; every other dtype: byte planes."""
    if tensor.dtype == "BF16":
        return exponent_planes(tensor.words(), 7)
    if tensor.dtype == "F32":
        return exponent_planes(tensor.words(), 23)
    return byte_planes(tensor.data, ITEMSIZE[tensor.dtype])


def entropy_bits(plane: Bytes) -> float:
    """Elements times their order-0 entropy, in bits."""
    counts = np.bincount(plane, minlength=256)
    counts = counts[counts > 0]
    return float((counts * np.log2(plane.size / counts)).sum())


def order0_bytes(tensors: Iterable[Tensor]) -> float:
    """The bound in bytes. Tables are free, so for tensors of few elements it is not reachable."""
    return sum(entropy_bits(plane) for tensor in tensors for plane in planes(tensor)) / 8
