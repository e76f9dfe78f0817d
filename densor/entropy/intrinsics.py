"""What numba lacks for bit streams: unaligned loads and stores, count of leading zeros.

Offsets are in bytes. Under `NUMBA_BOUNDSCHECK=1` both ends of each access are checked.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.entropy.jit import BOUNDSCHECK


def _pointer(context: Any, builder: Any, arytype: Any, value: Any, offset: Any, bits: int) -> Any:
    array = context.make_array(arytype)(context, builder, value)
    if BOUNDSCHECK:
        size = builder.extract_value(array.shape, 0)
        last = builder.add(offset, ir.Constant(offset.type, bits // 8 - 1))
        cgutils.do_boundscheck(context, builder, offset, size, 0)
        cgutils.do_boundscheck(context, builder, last, size, 0)
    address = builder.gep(array.data, [offset])
    return builder.bitcast(address, ir.IntType(bits).as_pointer())


@intrinsic
def copy_bytes(typingctx, target, target_offset, source, source_offset, count):
    """Copies `count` bytes between uint8 arrays that do not overlap."""

    def codegen(context, builder, signature, args):
        target, target_offset, source, source_offset, count = args
        sides = []
        for arytype, value, offset in (
            (signature.args[0], target, target_offset),
            (signature.args[2], source, source_offset),
        ):
            array = context.make_array(arytype)(context, builder, value)
            if BOUNDSCHECK:
                size = builder.add(builder.extract_value(array.shape, 0), offset.type(1))
                cgutils.do_boundscheck(context, builder, offset, size, 0)
                cgutils.do_boundscheck(context, builder, builder.add(offset, count), size, 0)
            sides.append(builder.gep(array.data, [offset]))
        cgutils.raw_memcpy(builder, *sides, count, 1)
        return context.get_dummy_value()

    sizes = types.intp
    return types.void(target, sizes, source, sizes, sizes), codegen


def _load(bits: int, result: Any) -> Any:
    @intrinsic
    def load(typingctx, array, offset):
        def codegen(context, builder, signature, args):
            address = _pointer(context, builder, signature.args[0], args[0], args[1], bits)
            value = builder.load(address)
            value.align = 1
            return value

        return result(array, types.intp), codegen

    return load


def _half(context: Any, builder: Any, arytype: Any, value: Any, index: Any) -> Any:
    """The address of a 32-bit half of a uint64 array, with bounds checked if numba checks them."""
    array = context.make_array(arytype)(context, builder, value)
    if BOUNDSCHECK:
        size = builder.extract_value(array.shape, 0)
        cgutils.do_boundscheck(context, builder, builder.lshr(index, index.type(1)), size, 0)
    halves = builder.bitcast(array.data, ir.IntType(32).as_pointer())
    return builder.gep(halves, [index])


@intrinsic
def load_half(typingctx, array, index):
    """The 32-bit half number `index` of a uint64 array, in the order of memory, as uint64."""

    def codegen(context, builder, signature, args):
        address = _half(context, builder, signature.args[0], *args)
        return builder.zext(builder.load(address), ir.IntType(64))

    return types.uint64(array, types.intp), codegen


@intrinsic
def store_half(typingctx, array, index, value):
    """Sets it, to the low 32 bits of a uint64."""

    def codegen(context, builder, signature, args):
        address = _half(context, builder, signature.args[0], args[0], args[1])
        builder.store(builder.trunc(args[2], ir.IntType(32)), address)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), codegen


def _store(bits: int, kind: Any) -> Any:
    @intrinsic
    def store(typingctx, array, offset, value):
        def codegen(context, builder, signature, args):
            address = _pointer(context, builder, signature.args[0], args[0], args[1], bits)
            builder.store(args[2], address).align = 1
            return context.get_dummy_value()

        return types.void(array, types.intp, kind), codegen

    return store


load_u16 = _load(16, types.uint16)
load_u32 = _load(32, types.uint32)
load_u64 = _load(64, types.uint64)
store_u16 = _store(16, types.uint16)
store_u32 = _store(32, types.uint32)
store_u64 = _store(64, types.uint64)


def operation(signature: Any, build: Callable[..., Any]) -> Any:
    """An intrinsic of one to three values; `build(builder, *values)` makes its code."""

    def codegen(context, builder, signature, values):
        return build(builder, *values)

    def of_one(typingctx, a):
        return signature, codegen

    def of_two(typingctx, a, b):
        return signature, codegen

    def of_three(typingctx, a, b, c):
        return signature, codegen

    return intrinsic((of_one, of_two, of_three)[len(signature.args) - 1])


@intrinsic
def find_either(typingctx, array, offset, a, b):
    """Which of the 64 bytes from an offset on are `a` or `b`, the first as the lowest bit."""

    def codegen(context, builder, signature, values):
        array, offset, *wanted = values
        byte, number = ir.IntType(8), ir.IntType(32)
        address = _pointer(context, builder, signature.args[0], array, offset, 512)
        bytes_ = ir.VectorType(byte, 64)
        found = builder.load(builder.bitcast(address, bytes_.as_pointer()))
        found.align = 1
        masks = []
        for value in wanted:
            one = builder.insert_element(
                ir.Constant(bytes_, ir.Undefined), builder.trunc(value, byte), number(0)
            )
            every = ir.Constant(ir.VectorType(number, 64), [number(0)] * 64)
            all_ = builder.shuffle_vector(one, ir.Constant(bytes_, ir.Undefined), every)
            masks.append(builder.icmp_unsigned("==", found, all_))
        return builder.bitcast(builder.or_(*masks), ir.IntType(64))

    return types.uint64(array, types.int64, types.int64, types.int64), codegen


# Of a uint64, which is not 0 where zeros are counted.
_COUNT, _NOT_ZERO = types.uint64(types.uint64), ir.Constant(ir.IntType(1), 1)
ones = operation(_COUNT, lambda builder, value: builder.ctpop(value))  # bits that are set
leading_zeros = operation(_COUNT, lambda builder, value: builder.ctlz(value, _NOT_ZERO))
trailing_zeros = operation(_COUNT, lambda builder, value: builder.cttz(value, _NOT_ZERO))


def fetch_line(builder: Any, address: Any) -> None:
    """Code that asks for the cache line of an address, which need not exist."""
    address = builder.bitcast(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [address.type] + [ir.IntType(32)] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [address, *(ir.Constant(ir.IntType(32), hint) for hint in (1, 3, 1))])


@intrinsic
def prefetch(typingctx, array, index):
    """Asks for the cache line of `array[index]` ahead of its use."""

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        address = builder.gep(array.data, [args[1]])
        fetch_line(builder, address)
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen
