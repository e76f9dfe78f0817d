"""Tables that processors with AVX-512 look up in registers, in a few cycles for a whole vector.

Elsewhere each lane loads its number, which is not worth it, as `fast` tells kernels: a constant.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.entropy.jit import BOUNDSCHECK
from densor.entropy.vectors import LANES, check_range, features_of, u32x16

TABLE = 32  # numbers of a table for `look_up`
BYTES = 256  # bytes of one for `look_up_bytes`
RUN = 64  # bytes that this looks up together
_I8, _I32, _I64 = (ir.IntType(bits) for bits in (8, 32, 64))
_V32, _V8 = ir.VectorType(_I32, LANES), ir.VectorType(_I8, RUN)


def is_fast(context: Any) -> bool:
    """Whether code is generated for such a processor."""
    return {"avx512f", "avx512vbmi", "avx512vbmi2"} <= features_of(context)[1]


@intrinsic
def fast(typingctx):
    """Whether look-ups are faster than loads, as far as the processor tells."""

    def codegen(context, builder, signature, args):
        return ir.Constant(ir.IntType(1), is_fast(context))

    return types.boolean(), codegen


def _parts(builder: Any, data: Any, begin: Any, kind: Any, count: int) -> list[Any]:
    """`count` vectors from element `begin` of an array on."""
    parts = []
    for part in range(count):
        address = builder.gep(data, [builder.add(begin, _I64(part * kind.count))])
        parts.append(builder.load(builder.bitcast(address, kind.as_pointer())))
        parts[-1].align = kind.element.width // 8
    return parts


def _permute(builder: Any, name: str, low: Any, index: Any, high: Any) -> Any:
    kind = ir.FunctionType(low.type, [low.type] * 3)
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.x86.avx512.vpermi2var.{name}.512"
    )
    return builder.call(function, [low, index, high])


def _by_lanes(builder: Any, data: Any, begin: Any, index: Any) -> Any:
    found = ir.Constant(index.type, ir.Undefined)
    for lane in range(index.type.count):
        place = builder.add(builder.zext(builder.extract_element(index, _I32(lane)), _I64), begin)
        value = builder.load(builder.gep(data, [place]))
        found = builder.insert_element(found, value, _I32(lane))
    return found


@intrinsic
def look_up(typingctx, table, begin, index):
    """table[begin + (index & 31)] per lane, from a uint32 array."""

    def codegen(context, builder, signature, args):
        table, begin, index = args
        if BOUNDSCHECK:
            check_range(context, builder, signature.args[0], table, begin, _I64(TABLE))
        data = context.make_array(signature.args[0])(context, builder, table).data
        if is_fast(context):
            low, high = _parts(builder, data, begin, _V32, 2)
            return _permute(builder, "d", low, index, high)
        index = builder.and_(index, ir.Constant(_V32, [TABLE - 1] * LANES))
        return _by_lanes(builder, data, begin, index)

    return u32x16(table, types.intp, u32x16), codegen


def permute_bytes(context: Any, builder: Any, arytype: Any, table: Any, index: Any) -> Any:
    """What an array of uint8[256] has for each of 64 bytes."""
    if BOUNDSCHECK:
        check_range(context, builder, arytype, table, _I64(0), _I64(BYTES))
    data = context.make_array(arytype)(context, builder, table).data
    if not is_fast(context):
        return _by_lanes(builder, data, _I64(0), index)
    parts = _parts(builder, data, _I64(0), _V8, 4)
    low = _permute(builder, "qi", parts[0], index, parts[1])
    high = _permute(builder, "qi", parts[2], index, parts[3])
    upper = builder.icmp_signed("<", index, ir.Constant(_V8, [0] * RUN))
    return builder.select(upper, high, low)


def byte_vector(builder: Any, value: Any) -> Any:
    """The low byte of a number in each of 64 lanes."""
    one = builder.insert_element(ir.Constant(_V8, ir.Undefined), builder.trunc(value, _I8), _I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, RUN), [0] * RUN))


def compress_bytes(builder: Any, value: Any, mask: Any) -> Any:
    """The bytes of a mask one after the other, zeros behind them; where `is_fast` is true."""
    kind = ir.FunctionType(_V8, [_V8, _V8, mask.type])
    name = "llvm.x86.avx512.mask.compress.v64i8"
    compress = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(compress, [value, ir.Constant(_V8, [0] * RUN), mask])


@intrinsic
def look_up_bytes(typingctx, table, array, begin):
    """Each of the 64 bytes from `begin` on of a uint8 array becomes what uint8[256] has for it."""

    def codegen(context, builder, signature, args):
        table, array, begin = args
        index = load_bytes(context, builder, signature.args[1], array, begin)
        found = permute_bytes(context, builder, signature.args[0], table, index)
        store_bytes(context, builder, signature.args[1], array, begin, found)
        return context.get_dummy_value()

    return types.void(table, array, types.intp), codegen


def load_bytes(context: Any, builder: Any, arytype: Any, array: Any, begin: Any) -> Any:
    """64 bytes of a uint8 array."""
    if BOUNDSCHECK:
        check_range(context, builder, arytype, array, begin, _I64(RUN))
    data = context.make_array(arytype)(context, builder, array).data
    return _parts(builder, data, begin, _V8, 1)[0]


def store_bytes(
    context: Any, builder: Any, arytype: Any, array: Any, begin: Any, value: Any
) -> None:
    """Writes 64 bytes to a uint8 array from `begin` on."""
    if BOUNDSCHECK:
        check_range(context, builder, arytype, array, begin, _I64(RUN))
    data = context.make_array(arytype)(context, builder, array).data
    address = builder.bitcast(builder.gep(data, [begin]), _V8.as_pointer())
    builder.store(value, address).align = 1


@intrinsic
def part_zeros(typingctx, symbols, beside, begin, keys, kept, kept_beside, count):
    """Parts 64 symbols from `begin` on by whether they are 0, with what stands beside them.

    What is beside zeros goes to the same places of `keys`, 255 for others; these, and what is
    beside them, to `kept` and `kept_beside` from `count` on. All are uint8[]; 64 bytes are written
    to each. Returns the new count. Where `fast` is true.
    """

    def codegen(context, builder, signature, args):
        symbols, beside, begin, keys, kept, kept_beside, count = args
        kinds = signature.args
        symbol = load_bytes(context, builder, kinds[0], symbols, begin)
        other = load_bytes(context, builder, kinds[1], beside, begin)
        zeros = ir.Constant(_V8, [0] * RUN)
        mask = builder.icmp_unsigned("!=", symbol, zeros)
        key = builder.select(mask, ir.Constant(_V8, [255] * RUN), other)
        store_bytes(context, builder, kinds[3], keys, begin, key)
        if not is_fast(context):
            return count
        for value, arytype, array in ((symbol, kinds[4], kept), (other, kinds[5], kept_beside)):
            packed = compress_bytes(builder, value, mask)
            store_bytes(context, builder, arytype, array, count, packed)
        return builder.add(count, builder.ctpop(builder.bitcast(mask, _I64)))

    size = types.int64
    return size(symbols, beside, size, keys, kept, kept_beside, size), codegen


@intrinsic
def count_equal(typingctx, keys, begin, value):
    """How many of the 64 bytes from `begin` on of a uint8 array have this value."""

    def codegen(context, builder, signature, args):
        keys, begin, value = args
        some = load_bytes(context, builder, signature.args[0], keys, begin)
        same = builder.icmp_unsigned("==", some, byte_vector(builder, value))
        return builder.ctpop(builder.bitcast(same, _I64))

    return types.int64(keys, types.int64, types.int64), codegen


@intrinsic
def count_both(typingctx, a, b, begin, of_a, of_b):
    """In how many of the 64 places from `begin` on two uint8 arrays have these values."""

    def codegen(context, builder, signature, args):
        a, b, begin, *values = args
        equal = []
        for arytype, array, value in zip(signature.args[:2], (a, b), values, strict=True):
            some = load_bytes(context, builder, arytype, array, begin)
            equal.append(builder.icmp_unsigned("==", some, byte_vector(builder, value)))
        return builder.ctpop(builder.bitcast(builder.and_(*equal), _I64))

    size = types.int64
    return size(a, b, size, size, size), codegen
