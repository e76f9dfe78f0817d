"""A tensor inside a file, and which names and shapes tensors may have."""

import math
from typing import NamedTuple

from densor.dtypes import SIZES
from densor.errors import FormatError

MAX_NAME = 4096


class TensorInfo(NamedTuple):
    """A tensor inside a file: `offset` and `size` in bytes of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def element_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; FormatError for an unknown dtype."""
    size = SIZES.get(dtype)
    if size is None:
        raise FormatError(f"unknown dtype {dtype!r}")
    return math.prod(shape) * size


def check_name(name: str) -> str:
    """`name` if it is valid UTF-8 of a sane length without NUL, else FormatError."""
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        raise FormatError(f"name is not valid Unicode: {name!r}") from None
    if size > MAX_NAME or "\0" in name:
        raise FormatError(f"bad name in archive: {name[:80]!r}")
    return name


def is_name(name: str) -> bool:
    """Whether a tensor may have this name."""
    try:
        return bool(check_name(name))
    except FormatError:
        return False


def is_listable(tensor: TensorInfo) -> bool:
    """Whether an index can list this tensor of a file, which lies within the file."""
    known = is_name(tensor.name) and tensor.dtype in SIZES and tensor.dtype != "VOID"
    fits = len(tensor.shape) <= 64 and all(size >> 63 == 0 for size in tensor.shape)
    return known and fits and element_bytes(tensor.dtype, tensor.shape) == tensor.size
