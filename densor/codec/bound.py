"""The order-0 bound: what an ideal coder with one free table per plane would reach."""

import numpy as np
import numpy.typing as npt

from densor.codec.planes.layout import layout_for
from densor.dtypes import SIZES, number_size
from densor.entropy.deferred import deferred
from densor.errors import ArgumentError
from densor.runtime.types import Bytes

_BLOCK = 1 << 18  # elements counted at a time
_RUN = 1 << 15  # of which there may be as many of one value as a kernel can count
count_runs = deferred("densor.codec.planes.search_kernels", "count_runs")


def order0_bytes(data: Bytes, dtype: str) -> float:
    """Elements times the order-0 entropy of each of their planes, in bytes.

    `dtype`: by its safetensors name. BF16 and FP32 are cut into exponent, sign with top mantissa
    bits, and lower bytes; FP64 likewise, its 11 exponent bits in two planes; everything else into
    its bytes. Tables are free here, so for few elements the bound is out of reach.
    """
    if dtype not in SIZES:
        raise ArgumentError(f"unknown dtype {dtype!r}")
    size = number_size(dtype)
    if data.size % size:
        raise ArgumentError(f"{data.size} bytes are not whole elements of {dtype}")
    counts = np.zeros((size, 256), np.int64)
    work = np.empty(4 * 256, np.uint16)
    for begin in range(0, data.size, _BLOCK * size):
        block = data[begin : begin + _BLOCK * size]
        for plane, values in enumerate(_planes(block, dtype, size)):
            runs = np.empty((-(-values.size // _RUN), 256), np.uint16)
            count_runs(values, _RUN, work, runs, counts[plane])
    return sum(_entropy_bits(plane) for plane in counts) / 8


def _planes(data: Bytes, dtype: str, size: int) -> Bytes:
    """The planes, uint8[size, n], last one first."""
    layout = layout_for(dtype)
    planes = np.ascontiguousarray(data)
    if layout is not None:
        planes = np.empty(data.size, np.uint8)
        layout.split(np.ascontiguousarray(data), planes)
    found: Bytes = planes.reshape(size, -1)[::-1]
    return found


def _entropy_bits(counts: npt.NDArray[np.int64]) -> float:
    used = counts[counts > 0]
    return float((used * np.log2(used.sum() / used)).sum())
