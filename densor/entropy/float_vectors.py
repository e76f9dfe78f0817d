"""Vectors of 16 FP32 or FP64 numbers as numba values, of which every rounding is prescribed.

As `entropy.vectors` has integers. Each operation is rounded by itself, lane by lane: LLVM fuses or
reorders nothing, so that the results are those of a loop over the lanes, on every processor.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from densor.entropy.intrinsics import operation
from densor.entropy.jit import inlined
from densor.entropy.vectors import LANES, address_in, mask16, splat_of, u32x16

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_I32 = ir.IntType(32)
_V32 = ir.VectorType(_I32, LANES)


class F32x16Type(types.Type):  # type: ignore[misc]
    """The numba type of a vector of 16 float32."""

    def __init__(self) -> None:
        super().__init__(name="f32x16")


f32x16 = F32x16Type()


@register_model(F32x16Type)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


@intrinsic
def load(typingctx, array, index):
    """Numbers index to index + 15 of a float32 array."""

    def codegen(context, builder, signature, args):
        value = builder.load(address_in(context, builder, signature.args[0], *args, _VECTOR))
        value.align = 4
        return value

    return f32x16(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, vector):
    """Sets numbers index to index + 15 of a float32 array."""

    def codegen(context, builder, signature, args):
        address = address_in(context, builder, signature.args[0], *args[:2], _VECTOR)
        builder.store(args[2], address).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), codegen


def _function(name: str) -> Any:
    def call(builder: Any, a: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v16f32")
        return builder.call(function, [a])

    return call


splat = operation(f32x16(types.float32), lambda builder, value: splat_of(builder, value, _VECTOR))
_BINARY = f32x16(f32x16, f32x16)
add = operation(_BINARY, lambda builder, a, b: builder.fadd(a, b))
subtract = operation(_BINARY, lambda builder, a, b: builder.fsub(a, b))
multiply = operation(_BINARY, lambda builder, a, b: builder.fmul(a, b))
divide = operation(_BINARY, lambda builder, a, b: builder.fdiv(a, b))
root = operation(f32x16(f32x16), _function("sqrt"))
size = operation(f32x16(f32x16), _function("fabs"))

# Masks of lanes; comparisons with what is no number are false.
_COMPARISON = mask16(f32x16, f32x16)
less = operation(_COMPARISON, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
equal = operation(_COMPARISON, lambda builder, a, b: builder.fcmp_ordered("==", a, b))
choose = operation(
    f32x16(mask16, f32x16, f32x16), lambda builder, mask, a, b: builder.select(mask, a, b)
)
both = operation(mask16(mask16, mask16), lambda builder, a, b: builder.and_(a, b))
either = operation(mask16(mask16, mask16), lambda builder, a, b: builder.or_(a, b))
neither = operation(mask16(mask16), lambda builder, a: builder.not_(a))
integers = operation(u32x16(f32x16), lambda builder, a: builder.fptosi(a, _V32))
of_signed = operation(f32x16(u32x16), lambda builder, a: builder.sitofp(a, _VECTOR))
bits = operation(u32x16(f32x16), lambda builder, a: builder.bitcast(a, _V32))
of_bits = operation(f32x16(u32x16), lambda builder, a: builder.bitcast(a, _VECTOR))


def _exchanged(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of 16 rows of 16: for each bit of the numbers of rows and columns, the quarters
    in which these differ change places."""
    for bit in (1, 2, 4, 8):
        low = [lane & ~bit if not lane & bit else LANES + (lane & ~bit) for lane in range(LANES)]
        lanes = [ir.Constant(_V32, [lane + plus for lane in low]) for plus in (0, bit)]
        pairs = [(rows[row & ~bit], rows[row | bit]) for row in range(LANES)]
        rows = [
            builder.shuffle_vector(*pair, lanes[bool(row & bit)]) for row, pair in enumerate(pairs)
        ]
    return rows


@intrinsic
def transpose(typingctx, source, begin, step, target, at, target_step):
    """16 rows of 16 numbers, `step` apart in a float32 array, to rows that have been columns."""

    def codegen(context, builder, signature, args):
        source, begin, step, target, at, target_step = args
        kinds = signature.args
        rows = []
        for row in range(LANES):
            place = builder.add(begin, builder.mul(step, step.type(row)))
            address = address_in(context, builder, kinds[0], source, place, _VECTOR)
            rows.append(builder.load(address))
            rows[-1].align = 4
        for row, value in enumerate(_exchanged(builder, rows)):
            place = builder.add(at, builder.mul(target_step, step.type(row)))
            address = address_in(context, builder, kinds[3], target, place, _VECTOR)
            builder.store(value, address).align = 4
        return context.get_dummy_value()

    sizes = types.intp
    return types.void(source, sizes, sizes, target, sizes, sizes), codegen


def _extreme(sign: str) -> Any:
    """What takes rows of 16 numbers and gives the extreme of each in a lane."""

    def rows_of(context: Any, builder: Any, kinds: Any, args: Any) -> list[Any]:
        source, begin, other, step = args
        rows = []
        for row in range(LANES):
            first = begin if row < LANES // 2 else other
            place = builder.add(first, builder.mul(step, step.type(row % (LANES // 2))))
            address = address_in(context, builder, kinds[0], source, place, _VECTOR)
            rows.append(builder.load(address))
            rows[-1].align = 4
        return rows

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = rows_of(context, builder, signature.args, args)
        for bit in (8, 4, 2, 1):  # of lanes and rows: those of half of the rows change places
            low = [lane if not lane & bit else LANES + (lane & ~bit) for lane in range(LANES)]
            high = [lane | bit if not lane & bit else LANES + lane for lane in range(LANES)]
            merged = []
            for row in range(bit):
                pair = rows[row], rows[row + bit]
                a, b = (
                    builder.shuffle_vector(*pair, ir.Constant(_V32, lanes)) for lanes in (low, high)
                )
                merged.append(builder.select(builder.fcmp_ordered(sign, a, b), a, b))
            rows = merged
        return rows[0]

    return codegen


@intrinsic
def least_of_rows(typingctx, array, begin, other, step):
    """The least of each of 16 rows of 16 numbers in a lane.

    Rows 0 to 7 are `step` apart in a float32 array from `begin` on, others likewise from `other`.
    """
    sizes = types.intp
    return f32x16(array, sizes, sizes, sizes), _extreme("<")


@intrinsic
def greatest_of_rows(typingctx, array, begin, other, step):
    """Likewise the greatest ones."""
    sizes = types.intp
    return f32x16(array, sizes, sizes, sizes), _extreme(">")


def _turned(builder: Any, a: Any, lanes: int) -> Any:
    order = [(lane + lanes) % LANES for lane in range(LANES)]
    return builder.shuffle_vector(a, a, ir.Constant(_V32, order))


def _greatest_of(builder: Any, a: Any) -> Any:
    for lanes in (8, 4, 2, 1):
        b = _turned(builder, a, lanes)
        a = builder.select(builder.fcmp_ordered("<", a, b), b, a)
    return a


# Lanes 8 to 15, then 0 to 7; the greatest number of all lanes in each.
turned = operation(f32x16(f32x16), lambda builder, a: _turned(builder, a, LANES // 2))
greatest_of = operation(f32x16(f32x16), _greatest_of)


@inlined
def lesser(a, b):
    """The lesser one in each lane; `b` where one is no number."""
    return choose(less(a, b), a, b)


@inlined
def greater(a, b):
    """The greater one in each lane; `b` where one is no number."""
    return choose(less(b, a), a, b)


class F64x16Type(types.Type):  # type: ignore[misc]
    """The numba type of a vector of 16 float64."""

    def __init__(self) -> None:
        super().__init__(name="f64x16")


f64x16 = F64x16Type()
_DOUBLE = ir.DoubleType()
_LONG_VECTOR = ir.VectorType(_DOUBLE, LANES)


@register_model(F64x16Type)
class _LongVectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _LONG_VECTOR)


@intrinsic
def load64(typingctx, array, index):
    """Numbers index to index + 15 of a float64 array."""

    def codegen(context, builder, signature, args):
        value = builder.load(address_in(context, builder, signature.args[0], *args, _LONG_VECTOR))
        value.align = 8
        return value

    return f64x16(array, types.intp), codegen


@intrinsic
def store64(typingctx, array, index, vector):
    """Sets numbers index to index + 15 of a float64 array."""

    def codegen(context, builder, signature, args):
        address = address_in(context, builder, signature.args[0], *args[:2], _LONG_VECTOR)
        builder.store(args[2], address).align = 8
        return context.get_dummy_value()

    return types.void(array, types.intp, f64x16), codegen


_LONG_BINARY = f64x16(f64x16, f64x16)
add64 = operation(_LONG_BINARY, lambda builder, a, b: builder.fadd(a, b))
multiply64 = operation(_LONG_BINARY, lambda builder, a, b: builder.fmul(a, b))
subtract64 = operation(_LONG_BINARY, lambda builder, a, b: builder.fsub(a, b))
splat64 = operation(
    f64x16(types.float64), lambda builder, value: splat_of(builder, value, _LONG_VECTOR)
)
of_signed64 = operation(f64x16(u32x16), lambda builder, a: builder.sitofp(a, _LONG_VECTOR))


def _sum_of(builder: Any, a: Any) -> Any:
    for half in (8, 4, 2, 1):
        lanes = [(lane + half) % LANES for lane in range(LANES)]
        a = builder.fadd(a, builder.shuffle_vector(a, a, ir.Constant(_V32, lanes)))
    return builder.extract_element(a, _I32(0))


# The sum of all lanes: of those 8 apart, then of such sums 4, 2 and 1 apart.
sum64 = operation(types.float64(f64x16), _sum_of)
