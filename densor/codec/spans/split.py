"""Elements to planes, a vector at a time: code that kernels are made of. The inverse of `merge`."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from densor.codec import registry
from densor.codec.spans.jit import part
from densor.codec.spans.merge import address_of, copy_to, each_vector, plane_addresses
from densor.entropy.intrinsics import copy_bytes
from densor.entropy.jit import I64

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_VECTOR = 64  # bytes of elements that are taken at once

Take = Callable[[Any, Any, Any], list[Any]]


def _split(planes: int, take: Take) -> Any:
    lanes = _VECTOR // planes
    element = ir.VectorType(ir.IntType(8 * planes), lanes)
    symbols = ir.VectorType(_I8, lanes)

    @intrinsic
    def split(typingctx, source, addresses, count):
        """`count` elements, at least a vector, to planes at `addresses`, int64[planes]."""

        def codegen(context, builder, signature, args):
            source, addresses, count = args
            starts = plane_addresses(context, builder, signature.args[1], addresses, planes)
            with each_vector(builder, count, lanes) as at:
                place = builder.add(source, builder.mul(at, _I64(planes)))
                value = builder.load(builder.inttoptr(place, element.as_pointer()))
                value.align = 1
                for start, plane in zip(starts, take(builder, element, value), strict=True):
                    target = builder.inttoptr(builder.add(start, at), symbols.as_pointer())
                    builder.store(builder.trunc(plane, symbols), target).align = 1
            return context.get_dummy_value()

        return types.void(types.int64, I64, types.int64), codegen

    return split


def _right(builder: Any, kind: Any, value: Any, bits: int) -> Any:
    return builder.lshr(value, ir.Constant(kind, [bits] * kind.count))


def _masked(builder: Any, kind: Any, value: Any, mask: int) -> Any:
    return builder.and_(value, ir.Constant(kind, [mask] * kind.count))


def _word(builder: Any, kind: Any, value: Any) -> list[Any]:
    """The bytes, the most significant first; what is above them is cut off later."""
    size = kind.element.width // 8
    return [_right(builder, kind, value, 8 * (size - 1 - p)) for p in range(size)]


def _float(builder: Any, kind: Any, value: Any) -> list[Any]:
    """BF16 or FP32: exponent, then sign and first bits of the fraction, then bytes."""
    top = kind.element.width
    sign = _masked(builder, kind, _right(builder, kind, value, top - 8), 128)
    first = _masked(builder, kind, _right(builder, kind, value, top - 16), 127)
    low = [_right(builder, kind, value, bits) for bits in range(top - 24, -8, -8)]
    return [_right(builder, kind, value, top - 9), builder.or_(sign, first), *low]


_split_float16 = _split(2, _float)
_split_float32 = _split(4, _float)
_split_word16 = _split(2, _word)


@part
def _vectors(layout, source, addresses, count):
    if layout == registry.LAYOUT_BF16:
        _split_float16(source, addresses, count)
    elif layout == registry.LAYOUT_WORD16:
        _split_word16(source, addresses, count)
    else:
        _split_float32(source, addresses, count)


@part
def split_planes(layout, size, data, begin, count, planes, stride, addresses, edge):
    """`count` elements from byte `begin` of `data` on to planes, `stride` bytes from each other.

    Layouts of up to 4 bytes per element but `word32`. Work space: `addresses`, int64[8];
    `edge`, uint8[9 * 64].
    """
    if size == 1:
        copy_bytes(planes, 0, data, begin, count)
        return
    source = address_of(data, begin, size * count)
    few = size * count < _VECTOR
    for p in range(size):
        addresses[p] = address_of(planes, p * stride, count)
    if few:
        copy_to(edge, 8 * _VECTOR, source, size * count)
        source = address_of(edge, 8 * _VECTOR, _VECTOR)
        for p in range(size):
            addresses[p] = address_of(edge, p * _VECTOR, _VECTOR)
        _vectors(layout, source, addresses, _VECTOR // size)
        for p in range(size):
            copy_bytes(planes, p * stride, edge, p * _VECTOR, count)
    else:
        _vectors(layout, source, addresses, count)
