"""Blocks of LZ4, undone and made again. The format and the rule: docs/format/pages.md."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.pages.sizes import LZ4_TABLE
from densor.entropy.deferred import Kernels

kernels = Kernels("densor.codec.pages.lz4_kernels")


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
    table = np.zeros(1 << LZ4_TABLE, np.int32)
    return out[: int(kernels.lz4(np.ascontiguousarray(data), table, out))]
