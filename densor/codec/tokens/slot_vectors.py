"""Three slots of four places as the lanes of one vector, which `ranking_kernels` looks into.

Lanes 0 to 3 are the first slot's places, then come the second's and the third's; lanes 12 to 15 are
0. See `densor.entropy.vectors`, whose vectors these are.
"""

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from densor.entropy.intrinsics import operation
from densor.entropy.vectors import LANES, address_in, u32x16

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_PLACES = 4
_V4, _V16 = ir.VectorType(_I32, _PLACES), ir.VectorType(_I32, LANES)


def _lanes(numbers: Iterable[int]) -> Any:
    found = list(numbers)
    return ir.Constant(ir.VectorType(_I32, len(found)), found)


def _slot(context: Any, builder: Any, arytype: Any, value: Any, index: Any) -> Any:
    """A pointer to the places of a slot."""
    return address_in(context, builder, arytype, value, index, _V4, _PLACES)


def _masked(builder: Any, places: Any, mask: Any) -> Any:
    first = builder.insert_element(
        ir.Constant(_V4, ir.Undefined), builder.trunc(mask, _I32), _I32(0)
    )
    return builder.and_(places, builder.shuffle_vector(first, first, _lanes([0] * _PLACES)))


@intrinsic
def load_slots(typingctx, array, a, b, c, mask_a, mask_b, mask_c):
    """The slots at three indices of a uint32 array, and of each the bits of a mask."""

    def codegen(context, builder, signature, args):
        slots = []
        for index, mask in zip(args[1:4], args[4:], strict=True):
            places = builder.load(_slot(context, builder, signature.args[0], args[0], index))
            places.align = 4
            slots.append(_masked(builder, places, mask))
        none = ir.Constant(_V4, [0] * _PLACES)
        low = builder.shuffle_vector(slots[0], slots[1], _lanes(range(2 * _PLACES)))
        high = builder.shuffle_vector(slots[2], none, _lanes(range(2 * _PLACES)))
        return builder.shuffle_vector(low, high, _lanes(range(LANES)))

    return u32x16(array, *[types.intp] * 3, *[types.int64] * 3), codegen


@intrinsic
def store_slots(typingctx, array, a, b, c, vector):
    """To the slots at three indices of a uint32 array."""

    def codegen(context, builder, signature, args):
        for number, index in enumerate(args[1:4]):
            address = _slot(context, builder, signature.args[0], args[0], index)
            lanes = _lanes(range(_PLACES * number, _PLACES * (number + 1)))
            places = builder.shuffle_vector(args[4], args[4], lanes)
            builder.store(places, address).align = 4
        return context.get_dummy_value()

    return types.void(array, *[types.intp] * 3, u32x16), codegen


@intrinsic
def load_pair(typingctx, array, index):
    """Two elements of a uint32 array as the halves of a uint64, in the order of memory."""

    def codegen(context, builder, signature, args):
        pair = builder.load(address_in(context, builder, signature.args[0], *args, _I64, 2))
        pair.align = 4
        return pair

    return types.uint64(array, types.intp), codegen


def _by_slot(builder: Any, a: Any, b: Any, c: Any) -> Any:
    vector = ir.Constant(_V16, [0] * LANES)
    for number, value in enumerate((a, b, c)):
        vector = builder.insert_element(vector, builder.trunc(value, _I32), _I32(number))
    return builder.shuffle_vector(vector, vector, _lanes(k // _PLACES for k in range(LANES)))


def _pick(builder: Any, kind: str, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned(kind, a, b), a, b)


def _risen(builder: Any, a: Any) -> Any:
    for place in (2, 1, 0):
        swapped, chosen = list(range(LANES)), list(range(LANES))
        for slot in range(0, LANES, _PLACES):
            at = slot + place
            swapped[at : at + 2] = at + 1, at
            chosen[at + 1] += LANES
        other = builder.shuffle_vector(a, a, _lanes(swapped))
        more, less = _pick(builder, ">", a, other), _pick(builder, "<", a, other)
        a = builder.shuffle_vector(more, less, _lanes(chosen))
    return a


_BINARY = u32x16(u32x16, u32x16)
least = operation(_BINARY, lambda builder, a, b: _pick(builder, "<", a, b))
most = operation(_BINARY, lambda builder, a, b: _pick(builder, ">", a, b))

# Three int64, each in all places of a slot.
by_slot = operation(u32x16(*[types.int64] * 3), _by_slot)

# In each slot, places 3 and 2, then 2 and 1, then 1 and 0 change where the former is larger.
risen = operation(u32x16(u32x16), _risen)
