"""Bytes as elements that kernels can load: at addresses that are multiples of their size."""

from typing import Any

import numpy as np
import numpy.typing as npt

from densor.runtime.types import Bytes


def is_aligned(data: Bytes, size: int) -> bool:
    """Whether `data` can be viewed as elements of `size` bytes."""
    return data.ctypes.data % size == 0 and data.flags.c_contiguous


def elements(data: Bytes, size: int) -> npt.NDArray[Any]:
    """`data` as unsigned integers of `size` bytes; a copy only if its address is unfit."""
    if not is_aligned(data, size):
        copy = np.empty(data.size, np.uint8)
        copy[:] = data
        data = copy
    return data.view(f"u{size}")
