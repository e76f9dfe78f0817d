"""Blocks of Snappy, undone and made again. The format and the rule: docs/format/pages.md."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.pages.sizes import MAX_TABLE, OWN, SLACK
from densor.entropy.deferred import Kernels

kernels = Kernels("densor.codec.pages.snappy_kernels")


def bound(size: int) -> int:
    """Bytes that a block of so many takes, at most."""
    return size + size // 6 + 64


def undo(data: Bytes, size: int) -> Bytes | None:
    """What a block holds, `size` bytes; None where it is none, or has bytes behind it."""
    out = np.empty(size, np.uint8)
    return out if kernels.undo(data, out) == data.size else None


def make(data: Bytes, way: int = MAX_TABLE) -> Bytes:
    """The block that the library writes; `way`: bits of its table of places, `OWN` among them."""
    bits = way & ~OWN
    padded = np.concatenate([data, np.zeros(SLACK, np.uint8)])
    out = np.empty(bound(data.size), np.uint8)
    table = np.zeros(1 << bits, np.int32)
    return out[: int(kernels.snappy(padded, data.size, bits, int(way != bits), table, out))]
