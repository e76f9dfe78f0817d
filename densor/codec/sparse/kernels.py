"""Loops of the sparse codec, for elements of 1, 2, 4 and 8 bytes. Without a branch per element."""

from numba import types

from densor.entropy.jit import R8, W8, kernel

ELEMENTS = {1: types.uint8, 2: types.uint16, 4: types.uint32, 8: types.uint64}


def _compact(elements, bitmap, values):
    """Sets the bit of each element that is not 0 and moves it to `values`; returns their number.

    `bitmap`: ⌈n/8⌉ bytes, 0 at first. `values`: n + 1 elements, since each is written before it is
    known to count.
    """
    at = 0
    for i in range(elements.size):
        value = elements[i]
        bit = value != 0
        values[at] = value
        at += bit
        bitmap[i >> 3] |= bit << (i & 7)
    return at


def _expand(bitmap, values, elements):
    """Undoes `_compact`. `values` has one element more than bits are set, of any value."""
    at = 0
    for i in range(elements.size):
        bit = (bitmap[i >> 3] >> (i & 7)) & 1
        elements[i] = values[at] * bit  # LLVM makes a branch of a choice
        at += bit


def _compact_signature(element):
    return types.int64(types.Array(element, 1, "C", readonly=True), W8, element[::1])


def _expand_signature(element):
    return types.void(R8, types.Array(element, 1, "C", readonly=True), element[::1])


for _size, _element in ELEMENTS.items():
    kernel(_compact_signature(_element), name=f"compact_{_size}")(_compact)
    kernel(_expand_signature(_element), name=f"expand_{_size}")(_expand)
