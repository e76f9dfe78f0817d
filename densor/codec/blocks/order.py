"""In which order a field's items are coded, so that those that are distributed alike lie together.

Classes of runs then do the rest: a code for every group, without a word on where it is.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.runtime.types import Bytes

MAX_SORTED = 1 << 20  # blocks of a chunk, where these are sorted


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


def arrange(part: Bytes, size: int, order: Order, before: Sequence[Bytes], out: Bytes) -> None:
    """Puts the bytes of a field, `size` per block, in the order in which they are coded."""
    if order.kind == registry.ORDER_COLUMNS:
        rows, columns = _matrices(part, out, order)
        columns[:] = rows.T
    else:
        order_of_blocks = permutation(order.kind, before)
        np.take(part.view(f"V{size}"), order_of_blocks, out=out.view(f"V{size}"), mode="clip")


def restore(coded: Bytes, size: int, order: Order, before: Sequence[Bytes], out: Bytes) -> None:
    """Undoes `arrange`."""
    if order.kind == registry.ORDER_COLUMNS:
        rows, columns = _matrices(out, coded, order)
        rows[:] = columns.T
    else:
        out.view(f"V{size}")[permutation(order.kind, before)] = coded.view(f"V{size}")


def _matrices(part: Bytes, coded: Bytes, order: Order) -> tuple[npt.NDArray[Any], ...]:
    """The items of a field as rows, and as they are coded."""
    rows = part.view(f"u{order.width}").reshape(-1, order.columns)
    return rows, coded.view(f"u{order.width}").reshape(order.columns, -1)
