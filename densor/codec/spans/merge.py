"""Planes to elements, a vector at a time: code that kernels are made of, for every layout.

A run of a plane is given by the address of its first byte. Whoever takes an address with
`address_of` says how many bytes it stands for, which is checked under `NUMBA_BOUNDSCHECK=1`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.codec import registry
from densor.codec.spans.jit import part
from densor.entropy.intrinsics import (
    copy_bytes,
    load_u16,
    load_u32,
    load_u64,
    store_u16,
    store_u32,
    store_u64,
)
from densor.entropy.jit import BOUNDSCHECK, I64
from densor.entropy.vectors import check_range

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VECTOR = 64  # bytes of elements that are made at once
_ROW = 1 << 12  # bytes up to which calls cost more than they are faster


@intrinsic
def address_of(typingctx, array, offset, count):
    """The address of `count` bytes of a uint8 array from `offset` on."""

    def codegen(context, builder, signature, args):
        value, offset, count = args
        if BOUNDSCHECK:
            check_range(context, builder, signature.args[0], value, offset, count)
        data = context.make_array(signature.args[0])(context, builder, value).data
        return builder.ptrtoint(builder.gep(data, [offset]), _I64)

    return types.int64(array, types.intp, types.intp), codegen


@intrinsic
def copy_to(typingctx, target, target_offset, address, count):
    """Copies `count` bytes from an address into a uint8 array."""

    def codegen(context, builder, signature, args):
        value, offset, address, count = args
        if BOUNDSCHECK:
            check_range(context, builder, signature.args[0], value, offset, count)
        data = context.make_array(signature.args[0])(context, builder, value).data
        source = builder.inttoptr(address, _I8.as_pointer())
        cgutils.raw_memcpy(builder, builder.gep(data, [offset]), source, count, 1)
        return context.get_dummy_value()

    sizes = types.intp
    return types.void(target, sizes, types.int64, sizes), codegen


@contextmanager
def each_vector(builder: Any, count: Any, lanes: int) -> Iterator[Any]:
    """Code of a loop over vectors of `count` elements, at least one; gives where each begins.

    The last one ends with the last element, whether or not it overlaps the one before.
    """
    last = builder.sub(count, _I64(lanes))
    vectors = builder.udiv(builder.add(count, _I64(lanes - 1)), _I64(lanes))
    with cgutils.for_range(builder, vectors) as loop:
        ahead = builder.mul(loop.index, _I64(lanes))
        yield builder.select(builder.icmp_unsigned("<", ahead, last), ahead, last)


def plane_addresses(context: Any, builder: Any, kind: Any, value: Any, planes: int) -> list[Any]:
    """The first elements of an array of int64."""
    data = context.make_array(kind)(context, builder, value).data
    return [builder.load(builder.gep(data, [_I64(p)])) for p in range(planes)]


Combine = Callable[[Any, Any, list[Any]], Any]


def _merge(planes: int, combine: Combine) -> Any:
    lanes = _VECTOR // planes
    element = ir.VectorType(ir.IntType(8 * planes), lanes)
    symbols = ir.VectorType(_I8, lanes)

    @intrinsic
    def merge(typingctx, addresses, target, count):
        """`count` elements, at least a vector, from planes at `addresses`, int64[planes]."""

        def codegen(context, builder, signature, args):
            starts = plane_addresses(context, builder, signature.args[0], args[0], planes)
            _, target, count = args
            with each_vector(builder, count, lanes) as at:
                found = []
                for start in starts:
                    address = builder.inttoptr(builder.add(start, at), symbols.as_pointer())
                    value = builder.load(address)
                    value.align = 1
                    found.append(builder.zext(value, element))
                place = builder.add(target, builder.mul(at, _I64(planes)))
                address = builder.inttoptr(place, element.as_pointer())
                builder.store(combine(builder, element, found), address).align = 1
            return context.get_dummy_value()

        return types.void(I64, types.int64, types.int64), codegen

    return merge


def _number(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _field(builder: Any, kind: Any, value: Any, mask: int, shift: int) -> Any:
    """Some bits of each lane, moved left; right, if `shift` is negative."""
    moved = builder.and_(value, _number(kind, mask))
    amount = _number(kind, abs(shift))
    return builder.shl(moved, amount) if shift >= 0 else builder.lshr(moved, amount)


def _any(builder: Any, values: list[Any]) -> Any:
    joined = values[0]
    for value in values[1:]:
        joined = builder.or_(joined, value)
    return joined


def _word(builder: Any, kind: Any, planes: list[Any]) -> Any:
    """Bytes to words, the most significant first."""
    shifts = range(8 * len(planes) - 8, -8, -8)
    return _any(
        builder,
        [builder.shl(p, _number(kind, s)) for p, s in zip(planes, shifts, strict=True)],
    )


def _float(builder: Any, kind: Any, planes: list[Any]) -> Any:
    """BF16 or FP32: exponent, then sign and first bits of the fraction, then bytes."""
    top = 8 * len(planes)
    exponent, rest, *low = planes
    fields = [
        builder.shl(exponent, _number(kind, top - 9)),
        _field(builder, kind, rest, 128, top - 8),
        _field(builder, kind, rest, 127, top - 16),
    ]
    for p, plane in enumerate(low):
        fields.append(builder.shl(plane, _number(kind, top - 24 - 8 * p)))
    return _any(builder, fields)


def _double(builder: Any, kind: Any, planes: list[Any]) -> Any:
    """FP64, whose exponent lies in three fields with a bias of its own."""
    word = _word(builder, kind, planes)
    exponent = builder.or_(
        builder.lshr(word, _number(kind, 56)), _field(builder, kind, word, 7 << 45, -37)
    )
    exponent = builder.add(exponent, _number(kind, 896))
    return _any(
        builder,
        [
            _field(builder, kind, word, 1 << 55, 8),
            _field(builder, kind, exponent, 2047, 52),
            _field(builder, kind, word, 127 << 48, -3),
            builder.and_(word, _number(kind, (1 << 45) - 1)),
        ],
    )


_copy_vectors = _merge(1, lambda builder, kind, planes: planes[0])
_merge_float16 = _merge(2, _float)
_merge_float32 = _merge(4, _float)
_merge_float64 = _merge(8, _double)
_merge_word16 = _merge(2, _word)
_merge_word32 = _merge(4, _word)
_merge_word64 = _merge(8, _word)


@part
def _vectors(layout, addresses, target, count):
    if layout == registry.LAYOUT_BF16:
        _merge_float16(addresses, target, count)
    elif layout == registry.LAYOUT_WORD16:
        _merge_word16(addresses, target, count)
    elif layout == registry.LAYOUT_FP32:
        _merge_float32(addresses, target, count)
    elif layout == registry.LAYOUT_WORD32:
        _merge_word32(addresses, target, count)
    elif layout == registry.LAYOUT_FP64:
        _merge_float64(addresses, target, count)
    else:
        _merge_word64(addresses, target, count)


@part
def _copy(addresses, out, place, count):
    """`count` bytes from the first address to `out`; rows without a call for each."""
    if _VECTOR <= count <= _ROW:
        _copy_vectors(addresses, address_of(out, place, count), count)
    else:
        copy_to(out, place, addresses[0], count)


@part
def copy_row(out, place, source, begin, count, addresses):
    """As `copy_bytes`, faster for rows. Work space: `addresses`, int64[1]."""
    addresses[0] = address_of(source, begin, count)
    _copy(addresses, out, place, count)


@part
def merge_run(layout, planes, addresses, count, out, place, edge):
    """`count` elements of a run to `out` from byte `place` on.

    `addresses`: int64[8], of the run in each plane; changed. Work space: `edge`, uint8[9 * 64].
    """
    if planes == 1:
        _copy(addresses, out, place, count)
        return
    target = address_of(out, place, planes * count)
    most = count
    if planes * count < _VECTOR:
        for p in range(planes):
            copy_to(edge, _VECTOR * p, addresses[p], count)
            addresses[p] = address_of(edge, _VECTOR * p, _VECTOR)
        target = address_of(edge, 8 * _VECTOR, _VECTOR)
        most = _VECTOR // planes
    _vectors(layout, addresses, target, most)
    if most > count:
        copy_bytes(out, place, edge, 8 * _VECTOR, planes * count)


@part
def _difference(zigzag):
    """What a zigzag stands for; in the bits of its type it is the same."""
    return (zigzag >> np.uint64(1)) ^ (~(zigzag & np.uint64(1)) + np.uint64(1))


@part
def undo_differences(out, place, size, count):
    """Sums up `count` differences of `size` bytes each, in place."""
    value = np.uint64(0)
    if size == 1:
        for i in range(count):
            value += _difference(np.uint64(out[place + i]))
            out[place + i] = np.uint8(value & np.uint64(255))
    elif size == 2:
        for i in range(count):
            value += _difference(np.uint64(load_u16(out, place + 2 * i)))
            store_u16(out, place + 2 * i, np.uint16(value & np.uint64(0xFFFF)))
    elif size == 4:
        for i in range(count):
            value += _difference(np.uint64(load_u32(out, place + 4 * i)))
            store_u32(out, place + 4 * i, nb.uint32(value & np.uint64(0xFFFFFFFF)))
    else:
        for i in range(count):
            value += _difference(load_u64(out, place + 8 * i))
            store_u64(out, place + 8 * i, value)
