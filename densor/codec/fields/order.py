"""In which order a field's items are coded, so that those that are distributed alike lie together.

Classes of runs then do the rest: a code for every group, without a word on where it is.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry

Bytes = npt.NDArray[np.uint8]


class Order(NamedTuple):
    """How items of `width` bytes are ordered, of which `columns` make a row, by columns only."""

    kind: int = registry.ORDER_BLOCKS
    width: int = 0
    columns: int = 0


def earlier(kind: int) -> int:
    """How many fields before, of two bytes each, must be known for this order."""
    return {registry.ORDER_FIELD: 1, registry.ORDER_RATIO: 2}.get(kind, 0)


def permutation(kind: int, before: Sequence[Bytes]) -> npt.NDArray[np.intp]:
    """The numbers of the blocks in order of their key, which the fields `before` give.

    Fields are taken as floating-point numbers of 16 bits. By field: sign, exponent and upper two
    bits of the mantissa of the last one. By ratio: of the logarithm of the last one to that of
    the one before it, in steps of about 1/16.
    """
    key: npt.NDArray[Any] = before[-1].view("<u2")
    if kind == registry.ORDER_FIELD:
        key = key >> 8
    else:
        logs = [(field.view("<u2") & 0x7FFF).astype(np.int32) for field in before[-2:]]
        key = np.clip(((logs[1] - logs[0]) >> 6) + 128, 0, 255)
    return np.argsort(key.astype(np.uint8), kind="stable")


def arrange(part: Bytes, size: int, order: Order, before: Sequence[Bytes]) -> Bytes:
    """The bytes of a field, `size` per block, as they are coded."""
    if order.kind == registry.ORDER_BLOCKS:
        return part
    if order.kind == registry.ORDER_COLUMNS:
        rows = part.view(f"V{order.width}").reshape(-1, order.columns)
        return np.ascontiguousarray(rows.T).reshape(-1).view(np.uint8)
    moved = part.view(f"V{size}")[permutation(order.kind, before)]
    return moved.view(np.uint8)


def restore(coded: Bytes, size: int, order: Order, before: Sequence[Bytes], out: Bytes) -> None:
    """Undoes `arrange`."""
    if order.kind == registry.ORDER_COLUMNS:
        columns = coded.view(f"V{order.width}").reshape(order.columns, -1)
        out.view(f"V{order.width}").reshape(-1, order.columns)[:] = columns.T
    else:
        out.view(f"V{size}")[permutation(order.kind, before)] = coded.view(f"V{size}")
