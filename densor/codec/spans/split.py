"""Elements to planes, a vector at a time: code that kernels are made of. The inverse of `merge`."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.codec import registry
from densor.codec.spans.jit import part
from densor.codec.spans.merge import address_of, copy_to, each_vector, plane_addresses
from densor.entropy.intrinsics import copy_bytes
from densor.entropy.jit import I64

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_VECTOR = 64  # bytes of elements that are taken at once
_PAIRS = ir.VectorType(ir.IntType(16), _VECTOR // 2)

Take = Callable[[Any, Any, Any], list[Any]]


def _split(planes: int, take: Take, first: int = 0, end: int = 0) -> Any:
    """Code that makes planes `first` to `end` - 1, by default all."""
    lanes = _VECTOR // planes
    wanted = slice(first, end or planes)
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
                made = take(builder, element, value)[wanted]
                for start, plane in zip(starts[wanted], made, strict=True):
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


def _double(builder: Any, kind: Any, value: Any) -> list[Any]:
    """FP64, whose exponent goes to three fields with a bias of its own."""
    exponent = builder.sub(
        _masked(builder, kind, _right(builder, kind, value, 52), 2047),
        ir.Constant(kind, [896] * kind.count),
    )
    sign = _masked(builder, kind, _right(builder, kind, value, 56), 128)
    first = _masked(builder, kind, _right(builder, kind, value, 45), 127)
    upper = _masked(builder, kind, _right(builder, kind, exponent, 3), 7 << 5)
    third = builder.or_(upper, _masked(builder, kind, _right(builder, kind, value, 40), 31))
    low = [_right(builder, kind, value, bits) for bits in range(32, -8, -8)]
    return [exponent, builder.or_(sign, first), third, *low]


_split_float16 = _split(2, _float)
_split_float32 = _split(4, _float)
_split_float64 = _split(8, _double)
_split_word16 = _split(2, _word)
_split_word32 = _split(4, _word)
_split_word64 = _split(8, _word)
_first_of_float16 = _split(2, _float, 0, 1)
_first_of_float32 = _split(4, _float, 0, 1)
_first_of_word16 = _split(2, _word, 0, 1)
_rest_of_float16 = _split(2, _float, 1)
_rest_of_float32 = _split(4, _float, 1)
_rest_of_word16 = _split(2, _word, 1)


def _add_pairs(builder: Any, value: Any) -> Any:
    """The sum of every two bytes."""
    pairs = builder.bitcast(value, _PAIRS)
    return builder.add(_masked(builder, _PAIRS, pairs, 255), _right(builder, _PAIRS, pairs, 8))


def _scale(size: int, take: Callable[[Any, Any, Any], Any]) -> Any:
    """Code that adds up what `take` makes of elements: 127 at most of a byte, else 255."""
    lanes = _VECTOR // size
    kind = ir.VectorType(ir.IntType(8 * size), lanes)
    summed = _PAIRS if size == 1 else kind

    @intrinsic
    def scale(typingctx, source, vectors, extremes):
        """The sum over whole vectors at an address, 256 of them at most.

        `extremes`: address of 3 vectors: least of all minus 1, where 0 comes last, greatest, least.
        """

        def codegen(context, builder, signature, args):
            source, vectors, extremes = args
            total = cgutils.alloca_once_value(builder, ir.Constant(summed, [0] * summed.count))
            places = [
                builder.inttoptr(builder.add(extremes, _I64(_VECTOR * k)), kind.as_pointer())
                for k in range(3)
            ]
            found = []
            for place in places:
                value = builder.load(place)
                value.align = 1
                found.append(cgutils.alloca_once_value(builder, value))
            with cgutils.for_range(builder, vectors) as loop:
                at = builder.add(source, builder.mul(loop.index, _I64(_VECTOR)))
                value = builder.load(builder.inttoptr(at, kind.as_pointer()))
                value.align = 1
                one = take(builder, kind, value)
                wider = _add_pairs(builder, one) if size == 1 else one
                builder.store(builder.add(builder.load(total), wider), total)
                less = builder.sub(one, ir.Constant(kind, [1] * lanes))
                for way, new, held in zip(("<", ">", "<"), (less, one, one), found, strict=True):
                    old = builder.load(held)
                    better = builder.icmp_unsigned(way, new, old)
                    builder.store(builder.select(better, new, old), held)
            for place, held in zip(places, found, strict=True):
                builder.store(builder.load(held), place).align = 1
            wide = ir.VectorType(_I64, summed.count)
            name = f"llvm.vector.reduce.add.v{summed.count}i64"
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_I64, [wide]), name
            )
            return builder.call(function, [builder.zext(builder.load(total), wide)])

        return types.int64(types.int64, types.int64, types.int64), codegen

    return scale


_scale_byte = _scale(1, lambda b, kind, v: _masked(b, kind, v, 127))
_scale_float16 = _scale(2, lambda b, kind, v: _masked(b, kind, _right(b, kind, v, 7), 255))
_scale_word16 = _scale(2, lambda b, kind, v: _masked(b, kind, _right(b, kind, v, 8), 127))
_scale_float32 = _scale(4, lambda b, kind, v: _masked(b, kind, _right(b, kind, v, 23), 255))


@part
def scales(layout, size, data, begin, count, extremes):
    """Sum of the scales of whole vectors of `count` elements from byte `begin` on, and how many.

    The scale is the first plane without a sign. `extremes`, uint8[3 * 64]: vectors of elements,
    see `_scale`.
    """
    vectors = size * count // _VECTOR
    total = 0
    found = address_of(extremes, 0, 3 * _VECTOR)
    for first in range(0, vectors, 256):
        some = min(256, vectors - first)
        source = address_of(data, begin + first * _VECTOR, some * _VECTOR)
        if size == 1:
            total += _scale_byte(source, some, found)
        elif layout == registry.LAYOUT_BF16:
            total += _scale_float16(source, some, found)
        elif layout == registry.LAYOUT_WORD16:
            total += _scale_word16(source, some, found)
        else:
            total += _scale_float32(source, some, found)
    return total, vectors * _VECTOR // size


@part
def _vectors(layout, source, addresses, count):
    if layout == registry.LAYOUT_BF16:
        _split_float16(source, addresses, count)
    elif layout == registry.LAYOUT_WORD16:
        _split_word16(source, addresses, count)
    else:
        _split_float32(source, addresses, count)


@part
def _vectors_of_any(layout, source, addresses, count):
    if layout == registry.LAYOUT_WORD32:
        _split_word32(source, addresses, count)
    elif layout == registry.LAYOUT_FP64:
        _split_float64(source, addresses, count)
    elif layout == registry.LAYOUT_WORD64:
        _split_word64(source, addresses, count)
    else:
        _vectors(layout, source, addresses, count)


def _planes_by(vectors: Any) -> Any:
    """Code that splits elements, of which `vectors` does whole vectors."""

    def split(layout, size, data, begin, count, planes, stride, addresses, edge):
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
            vectors(layout, source, addresses, _VECTOR // size)
            for p in range(size):
                copy_bytes(planes, p * stride, edge, p * _VECTOR, count)
        else:
            vectors(layout, source, addresses, count)

    return part(split)


# `count` elements from byte `begin` of `data` on to planes, `stride` bytes from each other. Layouts
# of up to 4 bytes per element but `word32`; or any. Work space: `addresses`, int64[8]; `edge`,
# uint8[9 * 64].
split_planes = _planes_by(_vectors)
split_any = _planes_by(_vectors_of_any)


@part
def split_first(layout, size, data, begin, count, plane, at, addresses, edge):
    """Likewise the first plane alone, to `plane` from `at` on."""
    if size == 1:
        copy_bytes(plane, at, data, begin, count)
    elif size * count < _VECTOR:
        split_planes(layout, size, data, begin, count, edge[9 * _VECTOR :], count, addresses, edge)
        copy_bytes(plane, at, edge, 9 * _VECTOR, count)
    else:
        source = address_of(data, begin, size * count)
        addresses[0] = address_of(plane, at, count)
        if layout == registry.LAYOUT_BF16:
            _first_of_float16(source, addresses, count)
        elif layout == registry.LAYOUT_WORD16:
            _first_of_word16(source, addresses, count)
        else:
            _first_of_float32(source, addresses, count)


@part
def split_rest(layout, size, data, begin, count, planes, at, addresses):
    """Likewise all planes but the first, at least a vector of each, one after the other."""
    source = address_of(data, begin, size * count)
    for p in range(1, size):
        addresses[p] = address_of(planes, at + (p - 1) * count, count)
    if layout == registry.LAYOUT_BF16:
        _rest_of_float16(source, addresses, count)
    elif layout == registry.LAYOUT_WORD16:
        _rest_of_word16(source, addresses, count)
    else:
        _rest_of_float32(source, addresses, count)
