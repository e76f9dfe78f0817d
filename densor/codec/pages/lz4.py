"""Blocks of LZ4, undone and made again. The format and the rule: docs/format/pages.md."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.pages import lz4_kernels as kernels


def bound(size: int) -> int:
    """Bytes that a block of so many takes, at most."""
    return size + size // 255 + 16


def undo(data: Bytes, size: int) -> Bytes | None:
    """What a block holds, `size` bytes; None where it is none, or has bytes behind it."""
    out = np.empty(size, np.uint8)
    return out if kernels.undo(np.ascontiguousarray(data), out) == data.size else None


def make(data: Bytes) -> Bytes:
    """The block that the library writes."""
    out = np.empty(bound(data.size), np.uint8)
    table = np.zeros(1 << kernels.TABLE, np.int32)
    return out[: int(kernels.lz4(np.ascontiguousarray(data), table, out))]
