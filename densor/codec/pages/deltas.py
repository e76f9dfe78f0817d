"""Numbers as blocks of packed differences, and texts by what they share: the binding of kernels."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.pages.sizes import LEAST_MINIBLOCK, MOST_BLOCK
from densor.codec.table.layout import I32, I64
from densor.entropy.deferred import deferred

join_shared, put_deltas, shared_starts, take_deltas = deferred(
    "densor.codec.pages.delta_kernels",
    *("join_shared", "put_deltas", "shared_starts", "take_deltas"),
)

BITS = 32, 64  # that differences are taken in
_HEAD = 40  # bytes of numbers before the first block, at most
_LEAST = 10  # and of the least difference of a block


class Blocks(NamedTuple):
    """How differences are cut. `size`: of a block; `parts`, each of as many bits as it needs.

    `bits`: 32 or 64, modulo which power of two they are.
    """

    size: int
    parts: int
    bits: int

    @property
    def possible(self) -> bool:
        """Whether there can be such blocks."""
        whole = self.parts and self.size and not self.size % (self.parts * LEAST_MINIBLOCK)
        return bool(whole) and self.size <= MOST_BLOCK and self.bits in BITS


def take(data: Bytes, count: int, bits: int) -> tuple[I64, Blocks, int] | None:
    """So many numbers, how they are cut, and the bytes they take; None where they are no such."""
    found, head = np.empty(count, np.int64), np.zeros(2, np.int64)
    size = int(take_deltas(np.ascontiguousarray(data), bits, found, head))
    return None if size < 0 else (found, Blocks(int(head[0]), int(head[1]), bits), size)


def put(numbers: npt.NDArray[np.signedinteger], blocks: Blocks) -> Bytes:
    """Numbers in blocks that are possible."""
    part = blocks.size // blocks.parts
    count = -(-max(0, numbers.size - 1) // blocks.size)
    room = _HEAD + count * (_LEAST + blocks.parts) + 8 * (numbers.size + count * part)
    out = np.empty(room, np.uint8)
    cut = blocks.bits, blocks.size, blocks.parts
    return out[: int(put_deltas(np.ascontiguousarray(numbers, np.int64), *cut, out))]


def shared(data: Bytes, starts: I32, lengths: I32) -> I64:
    """How many bytes each text begins with as the one before does."""
    found = np.empty(starts.size, np.int64)
    shared_starts(data, np.ascontiguousarray(starts), np.ascontiguousarray(lengths), found)
    return found


def joined(data: Bytes, begins: I64, lengths: I64) -> Bytes | None:
    """Texts of what they share with the one before, and what follows; None for impossible ones.

    All numbers are at least 0, and `data` is as long as `lengths` say.
    """
    out = np.empty(int(begins.sum() + lengths.sum()), np.uint8)
    return out if join_shared(np.ascontiguousarray(data), begins, lengths, out) else None
