"""Vectors of eight int32, for loops of which LLVM makes no good vectors by itself.

An `intrinsic` makes its code with these; whatever the processor, LLVM finds instructions for it.
Unlike those of `entropy.vectors`, these vectors are known while code is made only, not to numba.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.entropy.jit import BOUNDSCHECK

LANES = 8
I32 = ir.IntType(32)
_VECTOR = ir.VectorType(I32, LANES)
_WIDE = ir.VectorType(ir.IntType(64), LANES)


class Lanes:
    """Eight int32, or int64 where it is wide."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    @classmethod
    def all(cls, builder: Any, value: Any) -> "Lanes":
        """The same int32 in each lane."""
        first = ir.Constant(I32, 0)
        alone = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, first)
        return cls(builder, builder.shuffle_vector(alone, alone, ir.Constant(_VECTOR, [0] * LANES)))

    def _constant(self, value: int) -> Any:
        return ir.Constant(self.value.type, [value] * LANES)

    def _by(self, operation: Callable[[Any, Any], Any], other: "Lanes | int") -> "Lanes":
        value = self._constant(other) if isinstance(other, int) else other.value
        return Lanes(self.builder, operation(self.value, value))

    def __add__(self, other: "Lanes | int") -> "Lanes":
        return self._by(self.builder.add, other)

    def __sub__(self, other: "Lanes | int") -> "Lanes":
        return self._by(self.builder.sub, other)

    def __mul__(self, other: "Lanes | int") -> "Lanes":
        return self._by(self.builder.mul, other)

    def __and__(self, other: "Lanes | int") -> "Lanes":
        return self._by(self.builder.and_, other)

    def __rshift__(self, other: int) -> "Lanes":
        return self._by(self.builder.ashr, other)

    def shifted(self, places: "Lanes") -> "Lanes":
        """Shifted to the right, each lane by places of its own."""
        return self._by(self.builder.ashr, places)

    def unsigned(self, places: int) -> "Lanes":
        """Shifted to the right, as numbers without a sign."""
        return self._by(self.builder.lshr, places)

    def above(self, other: int) -> "Lanes":
        """-1 in lanes that are greater, 0 in others."""
        greater = self._by(partial(self.builder.icmp_signed, ">"), other).value
        return Lanes(self.builder, self.builder.sext(greater, self.value.type))

    def within(self, most: int) -> "Lanes":
        """Clipped, from -most to most."""
        floored = self._call("llvm.smax.v8i32", _VECTOR, self.value, self._constant(-most))
        return Lanes(
            self.builder, self._call("llvm.smin.v8i32", _VECTOR, floored, self._constant(most))
        )

    def wide(self) -> "Lanes":
        """The lanes sign-extended to int64."""
        return Lanes(self.builder, self.builder.sext(self.value, _WIDE))

    def narrow(self) -> "Lanes":
        """As int32, modulo 2^32."""
        return Lanes(self.builder, self.builder.trunc(self.value, _VECTOR))

    def total(self) -> Any:
        """The sum of the lanes, an int32."""
        return self._call("llvm.vector.reduce.add.v8i32", I32, self.value)

    def _call(self, name: str, result: Any, *args: Any) -> Any:
        kind = ir.FunctionType(result, [arg.type for arg in args])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, args)


class Sum:
    """An accumulator of vectors of int32, in registers."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self._place = cgutils.alloca_once(builder, _VECTOR)
        builder.store(ir.Constant(_VECTOR, [0] * LANES), self._place)

    def add(self, lanes: Lanes) -> None:
        """Adds a vector, lane by lane."""
        builder = self._builder
        builder.store(builder.add(builder.load(self._place), lanes.value), self._place)

    def total(self) -> Any:
        """The sum of its lanes, an int32."""
        return Lanes(self._builder, self._builder.load(self._place)).total()


class Row:
    """A row of `size` numbers of 32 bits from `first` on of an array."""

    def __init__(
        self, context: Any, builder: Any, kind: Any, value: Any, first: Any, size: Any
    ) -> None:
        array = context.make_array(kind)(context, builder, value)
        if BOUNDSCHECK:
            last = builder.sub(builder.add(first, size), ir.Constant(size.type, 1))
            for index in (first, last):
                cgutils.do_boundscheck(context, builder, index, array.nitems, 0)
        self._builder = builder
        self._begin = builder.gep(array.data, [first])

    def _pointer(self, at: Any) -> Any:
        builder = self._builder
        return builder.bitcast(builder.gep(self._begin, [at]), _VECTOR.as_pointer())

    def load(self, at: Any) -> Lanes:
        """Eight numbers from number `at` on."""
        value = self._builder.load(self._pointer(at))
        value.align = 4
        return Lanes(self._builder, value)

    def store(self, at: Any, lanes: Lanes) -> None:
        """Sets eight numbers from number `at` on."""
        self._builder.store(lanes.value, self._pointer(at)).align = 4


def over(builder: Any, size: Any, usual: int, body: Callable[[Any], None]) -> None:
    """Calls `body` with every eighth number below `size`; a `usual` size takes no loop."""
    constant = partial(ir.Constant, size.type)
    with builder.if_else(builder.icmp_signed("==", size, constant(usual))) as (then, otherwise):
        with then:
            for at in range(0, usual, LANES):
                body(constant(at))
        with otherwise:
            slices = constant(0), size, constant(LANES), size.type
            with cgutils.for_range_slice(builder, *slices) as (at, _):
                body(at)


@intrinsic
def set_pairs(typingctx, array, at, a, b, c, d):
    """Sets eight int32 from number `at` on, two from each int64, the lower ones first."""

    def codegen(context, builder, signature, args):
        at = args[1]
        row = Row(context, builder, signature.args[0], args[0], at, at.type(LANES))
        pairs = ir.VectorType(ir.IntType(64), LANES // 2)
        value = ir.Constant(pairs, ir.Undefined)
        for i, part in enumerate(args[2:]):
            value = builder.insert_element(value, part, ir.Constant(I32, i))
        row.store(at.type(0), Lanes(builder, builder.bitcast(value, _VECTOR)))
        return context.get_dummy_value()

    return types.void(array, types.intp, *[types.int64] * 4), codegen
