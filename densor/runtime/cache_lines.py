"""Arrays that begin with a cache line, so that a row of 64 bytes is one line."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_LINE = 64  # bytes


def in_lines(shape: tuple[int, ...], dtype: npt.DTypeLike, value: npt.ArrayLike) -> Any:
    """A new array that begins with a cache line. `value`: of all elements, or of all rows."""
    size = np.dtype(dtype).itemsize * math.prod(shape)
    memory = np.empty(size + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    array = memory[first : first + size].view(dtype).reshape(shape)
    array[...] = value
    return array
