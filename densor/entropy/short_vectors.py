"""Vectors of 16 signed integers of 16 bits as numba values, for distributions of 16 symbols.

An `I16x16` is an LLVM `<16 x i16>`: one register of AVX2, two of NEON or SSE, see `vectors`. Only
`scaled` differs by processor, where there is an instruction for it; results are the same.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from densor.entropy.intrinsics import operation
from densor.entropy.vectors import LANES, address_in, features_of, splat_of

_I1, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
_V16, _V32 = ir.VectorType(_I16, LANES), ir.VectorType(_I32, LANES)


class I16x16Type(types.Type):  # type: ignore[misc]
    """The numba type of a vector of 16 int16."""

    def __init__(self) -> None:
        super().__init__(name="i16x16")


i16x16 = I16x16Type()


@register_model(I16x16Type)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _V16)


@intrinsic
def load(typingctx, array, index):
    """16 elements of an array of 16 bits, from `index` on."""

    def codegen(context, builder, signature, args):
        value = builder.load(address_in(context, builder, signature.args[0], *args, _V16))
        value.align = 2
        return value

    return i16x16(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, vector):
    """To 16 elements of an array of 16 bits, from `index` on."""

    def codegen(context, builder, signature, args):
        address = address_in(context, builder, signature.args[0], *args[:2], _V16)
        builder.store(args[2], address).align = 2
        return context.get_dummy_value()

    return types.void(array, types.intp, i16x16), codegen


_BINARY = i16x16(i16x16, i16x16)
add = operation(_BINARY, lambda builder, a, b: builder.add(a, b))
subtract = operation(_BINARY, lambda builder, a, b: builder.sub(a, b))


def _without_first(builder: Any, a: Any) -> Any:
    return builder.and_(a, ir.Constant(_V16, [0] + [-1] * (LANES - 1)))


def _with_first(builder: Any, a: Any, value: Any) -> Any:
    return builder.insert_element(a, builder.trunc(value, _I16), _I32(0))


# Lane 0 set to 0, or to the low half of an int64.
without_first = operation(i16x16(i16x16), _without_first)
with_first = operation(i16x16(i16x16, types.int64), _with_first)

# The first vector where the truth value holds, else the second.
either = operation(
    i16x16(types.boolean, i16x16, i16x16),
    lambda builder, which, a, b: builder.select(
        builder.icmp_unsigned("!=", which, which.type(0)), a, b
    ),
)


def _splat(builder: Any, value: Any) -> Any:
    return splat_of(builder, builder.trunc(value, _I16), _V16)


def _count_up_to(builder: Any, a: Any, most: Any) -> Any:
    mask = builder.icmp_signed("<=", a, _splat(builder, most))
    return builder.zext(builder.ctpop(builder.bitcast(mask, _I16)), _I64)


# How many lanes are at most an int64, which int16 has, too.
count_up_to = operation(types.int64(i16x16, types.int64), _count_up_to)


def _rounding_product(context: Any) -> tuple[str, int] | None:
    """The instruction for `scaled`, and its lanes, where there is one."""
    family, features = features_of(context)
    if family == "x86_64" and "avx2" in features:
        return "llvm.x86.avx2.pmul.hr.sw", 16
    if family == "x86_64" and "ssse3" in features:
        return "llvm.x86.ssse3.pmul.hr.sw.128", 8
    if family in ("aarch64", "arm64"):
        return "llvm.aarch64.neon.sqrdmulh.v8i16", 8
    return None


def _part(builder: Any, a: Any, begin: int, count: int) -> Any:
    lanes = ir.Constant(ir.VectorType(_I32, count), list(range(begin, begin + count)))
    return builder.shuffle_vector(a, a, lanes)


@intrinsic
def scaled(typingctx, a, factor):
    """(a * factor + 2^14) >> 15 of each lane, for an int64 factor from 0 to 32767."""

    def codegen(context, builder, signature, args):
        a, factor = args[0], _splat(builder, args[1])
        found = _rounding_product(context)
        if found is None:
            product = builder.mul(builder.sext(a, _V32), builder.sext(factor, _V32))
            product = builder.add(product, ir.Constant(_V32, [1 << 14] * LANES))
            return builder.trunc(builder.ashr(product, ir.Constant(_V32, [15] * LANES)), _V16)
        name, lanes = found
        kind = ir.VectorType(_I16, lanes)
        function_type = ir.FunctionType(kind, [kind, kind])
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        parts = [
            builder.call(function, [_part(builder, x, begin, lanes) for x in (a, factor)])
            for begin in range(0, LANES, lanes)
        ]
        if len(parts) == 1:
            return parts[0]
        return builder.shuffle_vector(*parts, ir.Constant(_V32, list(range(LANES))))

    return i16x16(i16x16, types.int64), codegen
