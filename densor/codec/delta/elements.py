"""Bytes as elements that kernels can load: at addresses that are multiples of their size."""

from typing import Any

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import Deferred
from densor.runtime.types import Bytes

_SIZES = (1, 2, 4, 8)


def by_size(module: str, name: str) -> dict[int, Deferred]:
    """The kernels of that name in a module of this package, by the size of an element."""
    return {size: Deferred(f"densor.codec.delta.{module}", f"{name}_{size}") for size in _SIZES}


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
