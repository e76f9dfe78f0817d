"""Vectors of 16 integers as numba values, for interleaved coders.

Numba has no vector type and LLVM does not vectorise the compaction that interleaved rANS needs, so
that a `U32x16` is an LLVM `<16 x i32>` here, with the few operations the coders use. LLVM lowers
them to AVX-512, AVX2, NEON or scalar code, whatever the processor has; results are the same.

Only two operations differ by processor: `expand` and `compress`, which spread consecutive words
over the lanes of a mask and back. With AVX-512 VBMI2 they are one instruction; with SSSE3 or NEON,
a byte shuffle by a table of 256 patterns for each eight lanes; elsewhere, a loop over the lanes.

Words of 16 bits lie anywhere in arrays of bytes; in arrays of 32 bits indices count elements.
Under `NUMBA_BOUNDSCHECK=1` every access is checked.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from densor.entropy.intrinsics import operation
from densor.entropy.jit import BOUNDSCHECK

LANES = 16
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_MASK = ir.VectorType(_I1, LANES)
_V8, _V16, _V32, _V64 = (ir.VectorType(kind, LANES) for kind in (_I8, _I16, _I32, _I64))
_VF32 = ir.VectorType(ir.FloatType(), LANES)


class U32x16Type(types.Type):  # type: ignore[misc]
    """The numba type of a vector of 16 uint32."""

    def __init__(self) -> None:
        super().__init__(name="u32x16")


class Mask16Type(types.Type):  # type: ignore[misc]
    """The numba type of 16 truth values."""

    def __init__(self) -> None:
        super().__init__(name="mask16")


u32x16 = U32x16Type()
mask16 = Mask16Type()


@register_model(U32x16Type)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _V32)


@register_model(Mask16Type)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _MASK)


def splat_of(builder: Any, value: Any, kind: Any) -> Any:
    """A number in all lanes of a vector of type `kind`."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_V32, [0] * LANES))


def _number(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * LANES)


def check_range(
    context: Any, builder: Any, arytype: Any, value: Any, index: Any, count: Any
) -> None:
    """Raises IndexError in debugging builds unless elements index to index + count - 1 exist."""
    array = context.make_array(arytype)(context, builder, value)
    size = builder.add(builder.extract_value(array.shape, 0), index.type(1))
    cgutils.do_boundscheck(context, builder, index, size, 0)
    cgutils.do_boundscheck(context, builder, builder.add(index, count), size, 0)


def address_in(
    context: Any,
    builder: Any,
    arytype: Any,
    value: Any,
    index: Any,
    kind: Any,
    count: int = LANES,
) -> Any:
    """A pointer to `count` consecutive elements as one vector of type `kind`."""
    if BOUNDSCHECK:
        check_range(context, builder, arytype, value, index, index.type(count))
    array = context.make_array(arytype)(context, builder, value)
    return builder.bitcast(builder.gep(array.data, [index]), kind.as_pointer())


def _load(kind: Any, extend: bool, items: int = LANES) -> Any:
    @intrinsic
    def load(typingctx, array, index):
        def codegen(context, builder, signature, args):
            address = address_in(context, builder, signature.args[0], *args, kind, items)
            value = builder.load(address)
            value.align = 1
            return builder.zext(value, _V32) if extend else value

        return u32x16(array, types.intp), codegen

    return load


def _store(kind: Any, truncate: bool, items: int = LANES) -> Any:
    @intrinsic
    def store(typingctx, array, index, vector):
        def codegen(context, builder, signature, args):
            address = address_in(context, builder, signature.args[0], *args[:2], kind, items)
            value = builder.trunc(args[2], kind) if truncate else args[2]
            builder.store(value, address).align = 1
            return context.get_dummy_value()

        return types.void(array, types.intp, u32x16), codegen

    return store


load_u32 = _load(_V32, False)  # from a uint32 array
load_u32_bytes = _load(_V32, False, 4 * LANES)  # from a uint8 array
load_u16 = _load(_V16, True, 2 * LANES)  # from a uint8 array
load_u8 = _load(_V8, True)  # from a uint8 array
store_u32 = _store(_V32, False)
store_u32_bytes = _store(_V32, False, 4 * LANES)  # to a uint8 array
store_u16 = _store(_V16, True, 2 * LANES)  # the low half of each lane, to a uint8 array
store_u8 = _store(_V8, True)  # the low byte of each lane, to a uint8 array


@intrinsic
def load_elements(typingctx, array, index):
    """16 elements from `index` on of an array of unsigned integers; the low 32 bits of each."""

    def codegen(context, builder, signature, args):
        element = context.get_data_type(signature.args[0].dtype)
        kind = ir.VectorType(element, LANES)
        value = builder.load(address_in(context, builder, signature.args[0], *args, kind))
        value.align = 1
        if element.width < 32:
            return builder.zext(value, _V32)
        return builder.trunc(value, _V32) if element.width > 32 else value

    return u32x16(array, types.intp), codegen


_BINARY = u32x16(u32x16, u32x16)
add = operation(_BINARY, lambda builder, a, b: builder.add(a, b))
subtract = operation(_BINARY, lambda builder, a, b: builder.sub(a, b))
multiply = operation(_BINARY, lambda builder, a, b: builder.mul(a, b))
both = operation(_BINARY, lambda builder, a, b: builder.and_(a, b))
either = operation(_BINARY, lambda builder, a, b: builder.or_(a, b))
exclusive = operation(_BINARY, lambda builder, a, b: builder.xor(a, b))


def _lanes(builder: Any, value: Any) -> Any:
    """A vector whose lanes are the low half of an int64."""
    return splat_of(builder, builder.trunc(value, _I32), _V32)


splat = operation(u32x16(types.int64), _lanes)
_SHIFT = u32x16(u32x16, types.int64)
shift_right = operation(_SHIFT, lambda builder, a, bits: builder.lshr(a, _lanes(builder, bits)))
shift_left = operation(_SHIFT, lambda builder, a, bits: builder.shl(a, _lanes(builder, bits)))

# By another number in each lane, below 32.
shift_right_by = operation(_BINARY, lambda builder, a, bits: builder.lshr(a, bits))
shift_left_by = operation(_BINARY, lambda builder, a, bits: builder.shl(a, bits))
shift_right_signed_by = operation(_BINARY, lambda builder, a, bits: builder.ashr(a, bits))
shift_right_signed = operation(
    _SHIFT, lambda builder, a, bits: builder.ashr(a, _lanes(builder, bits))
)


@intrinsic
def lane_numbers(typingctx):
    """0 to 15."""

    def codegen(context, builder, signature, args):
        return ir.Constant(_V32, list(range(LANES)))

    return u32x16(), codegen


def _float_bits(builder: Any, a: Any) -> Any:
    floats = builder.sitofp(a, ir.VectorType(ir.FloatType(), LANES))
    return builder.bitcast(floats, _V32)


# Lanes below 2^31 as floats, of which these are the bits: a logarithm, by the highest of them.
float_bits = operation(u32x16(u32x16), _float_bits)

# Masks of lanes: where a < b, unsigned or signed, or a == b; lanes of `a` where one is set, else of
# `b`.
_COMPARISON = mask16(u32x16, u32x16)
less = operation(_COMPARISON, lambda builder, a, b: builder.icmp_unsigned("<", a, b))
less_signed = operation(_COMPARISON, lambda builder, a, b: builder.icmp_signed("<", a, b))
equal = operation(_COMPARISON, lambda builder, a, b: builder.icmp_unsigned("==", a, b))
choose = operation(
    u32x16(mask16, u32x16, u32x16), lambda builder, mask, a, b: builder.select(mask, a, b)
)

# Of lanes as signed numbers but -2^31.
absolute = operation(
    u32x16(u32x16),
    lambda builder, a: builder.select(
        builder.icmp_signed("<", a, _number(_V32, 0)), builder.neg(a), a
    ),
)


def _mask_bits(builder: Any, mask: Any) -> Any:
    return builder.bitcast(mask, _I16)


def _count(builder: Any, mask: Any) -> Any:
    function = builder.module.declare_intrinsic("llvm.ctpop", [_I16])
    return builder.zext(builder.call(function, [_mask_bits(builder, mask)]), _I64)


# A mask by the bits of an integer, lane 0 lowest; the integer; how many lanes are set.
mask_of = operation(
    mask16(types.int64), lambda builder, bits: builder.bitcast(builder.trunc(bits, _I16), _MASK)
)
bits_of = operation(
    types.int64(mask16), lambda builder, mask: builder.zext(_mask_bits(builder, mask), _I64)
)
count = operation(types.int64(mask16), _count)


def _reciprocal(builder: Any, a: Any) -> Any:
    """The bits of 1 / a in single precision, less 2^-22 of it."""
    one = _number(_VF32, 1 - 2.0**-22)
    return builder.bitcast(builder.fdiv(one, builder.uitofp(a, _VF32)), _V32)


def _divide_roughly(builder: Any, a: Any, reciprocal: Any) -> Any:
    """a // b or one less, of `reciprocal(b)`, for b != 0 and quotients below 2^20.

    In single precision: each of three roundings is off by less than 2^-24 of the result.
    """
    reciprocal = builder.bitcast(reciprocal, _VF32)
    return builder.fptoui(builder.fmul(builder.uitofp(a, _VF32), reciprocal), _V32)


def _sum_of(builder: Any, a: Any) -> Any:
    kind = ir.FunctionType(_I32, [_V32])
    name = "llvm.vector.reduce.add.v16i32"
    return builder.zext(
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a]), _I64
    )


def _running(builder: Any, a: Any) -> Any:
    for step in (1, 2, 4, 8):
        lanes = [lane - step if lane >= step else LANES for lane in range(LANES)]
        moved = builder.shuffle_vector(a, _number(_V32, 0), ir.Constant(_V32, lanes))
        a = builder.add(a, moved)
    return a


# The sum of all lanes, below 2^32; in each lane the sum of those up to it.
sum_of = operation(types.uint64(u32x16), _sum_of)
running_sums = operation(u32x16(u32x16), _running)
reciprocal = operation(u32x16(u32x16), _reciprocal)
divide_roughly = operation(_BINARY, _divide_roughly)


def _call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _gathers(context: Any) -> bool:
    """Whether an instruction that gathers takes less than a load for each lane.

    So it is on Intel's processors from the first with FP16 arithmetic on; earlier ones had to give
    its speed up for safety, and AMD's take longer.
    """
    name = str(context.codegen().magic_tuple()[1])
    fast = "avx512fp16" in features_of(context)[1] and not name.startswith("znver")
    return fast and not BOUNDSCHECK


def _gathers_beside(context: Any) -> bool:
    """Whether it takes less where other lanes are loaded one by one meanwhile.

    It is slow on Intel's processors with AVX-512, too, but leaves alone what moves lanes between
    registers.
    """
    name = str(context.codegen().magic_tuple()[1])
    able = "avx512f" in features_of(context)[1] and not name.startswith("znver")
    return able and not BOUNDSCHECK


def _gather(builder: Any, data: Any, index: Any) -> Any:
    args = [ir.Constant(_V32, ir.Undefined), builder.bitcast(data, _I8.as_pointer()), index]
    args += [ir.Constant(_MASK, [1] * LANES), _I32(4)]
    return _call(builder, "llvm.x86.avx512.mask.gather.dpi.512", _V32, args)


def _load_lanes(builder: Any, data: Any, index: Any) -> Any:
    pairs = builder.bitcast(index, ir.VectorType(_I64, LANES // 2))
    gathered = ir.Constant(_V32, ir.Undefined)
    for lane in range(LANES):  # two places at a time leave the vector
        pair = builder.extract_element(pairs, _I32(lane // 2))
        high, low = builder.lshr(pair, _I64(32)), builder.and_(pair, _I64(0xFFFFFFFF))
        place = high if lane % 2 else low
        found = builder.load(builder.gep(data, [place]))
        gathered = builder.insert_element(gathered, found, _I32(lane))
    return gathered


def _look_up(by_instruction: Callable[[Any], bool]) -> Any:
    @intrinsic
    def look_up(typingctx, array, index):
        def codegen(context, builder, signature, args):
            arytype, (value, index) = signature.args[0], args
            if BOUNDSCHECK:
                for lane in range(LANES):
                    place = builder.zext(builder.extract_element(index, _I32(lane)), _I64)
                    check_range(context, builder, arytype, value, place, _I64(1))
            data = context.make_array(arytype)(context, builder, value).data
            gather = _gather if by_instruction(context) else _load_lanes
            return gather(builder, data, index)

        return u32x16(array, u32x16), codegen

    return look_up


# array[index] per lane, from a uint32 array; the second one for half of the lanes of a loop.
gather_u32 = _look_up(_gathers)
gather_u32_beside = _look_up(_gathers_beside)


@intrinsic
def gather_u32_at(typingctx, array, places, index):
    """array[place], of uint32, for 16 places: uint16 in an array of bytes from byte `index` on.

    Where these are in memory, there is no need to take each out of a vector.
    """

    def codegen(context, builder, signature, args):
        value, places, index = args
        arytype, of_places = signature.args[:2]
        address = address_in(context, builder, of_places, places, index, _I8, 2 * LANES)
        if _gathers(context):
            data = context.make_array(arytype)(context, builder, value).data
            words = builder.load(builder.bitcast(address, _V16.as_pointer()))
            words.align = 1
            return _gather(builder, data, builder.zext(words, _V32))
        address = builder.bitcast(address, _I16.as_pointer())
        data = context.make_array(arytype)(context, builder, value).data
        gathered = ir.Constant(_V32, ir.Undefined)
        for lane in range(LANES):
            place = builder.load(builder.gep(address, [_I64(lane)]))
            place.align = 1
            place = builder.zext(place, _I64)
            if BOUNDSCHECK:
                check_range(context, builder, arytype, value, place, _I64(1))
            found = builder.load(builder.gep(data, [place]))
            gathered = builder.insert_element(gathered, found, _I32(lane))
        return gathered

    return u32x16(array, places, types.intp), codegen


def features_of(context: Any) -> tuple[str, set[str]]:
    """The processor family and the features that code is generated for."""
    triple, _, features = context.codegen().magic_tuple()
    names = {name[1:] for name in features.split(",") if name[:1] == "+"}
    return triple.split("-")[0], names


def _byte_shuffle(context: Any) -> str | None:
    """The intrinsic that shuffles 16 bytes by 16 indices, where there is one."""
    family, features = features_of(context)
    if family == "x86_64" and "ssse3" in features:
        return "llvm.x86.ssse3.pshuf.b.128"
    if family in ("aarch64", "arm64"):
        return "llvm.aarch64.neon.tbl1.v16i8"
    return None


def _patterns(expand: bool) -> bytes:
    """For each mask of 8 lanes the byte shuffle that expands 8 words of 16 bits, or compresses them
    to the end of the 16 bytes."""
    rows = np.full((256, 16), 0x80, np.uint8)  # an index over 15 gives 0
    for mask in range(256):
        lanes = [lane for lane in range(8) if mask >> lane & 1]
        for place, lane in enumerate(lanes):
            target, source = (lane, place) if expand else (8 - len(lanes) + place, lane)
            rows[mask, 2 * target : 2 * target + 2] = (2 * source, 2 * source + 1)
    return rows.tobytes()


def _constant(builder: Any, name: str, make: Callable[[], bytes]) -> Any:
    """A pointer to constant bytes in the module."""
    module = builder.module
    if name in module.globals:
        table = module.globals[name]
    else:
        data = make()
        kind = ir.ArrayType(_I8, len(data))
        table = cgutils.add_global_variable(module, kind, name)
        table.initializer = ir.Constant(kind, bytearray(data))
        table.global_constant = True
        table.linkage = "internal"
        table.align = 16
    return builder.bitcast(table, _I8.as_pointer())


_BYTES16 = ir.VectorType(_I8, 16)
_WORDS8 = ir.VectorType(_I16, 8)


def _shuffle_words(context: Any, builder: Any, words: Any, mask8: Any, expand: bool) -> Any:
    """8 words of 16 bits expanded or compressed by the pattern of an 8-bit mask."""
    name = ".densor.expand" if expand else ".densor.compress"
    table = _constant(builder, name, lambda: _patterns(expand))
    place = builder.shl(builder.zext(mask8, _I64), _I64(4))
    pattern = builder.load(builder.bitcast(builder.gep(table, [place]), _BYTES16.as_pointer()))
    pattern.align = 16
    shuffle = _byte_shuffle(context)
    assert shuffle is not None
    shuffled = _call(builder, shuffle, _BYTES16, [builder.bitcast(words, _BYTES16), pattern])
    return builder.bitcast(shuffled, _WORDS8)


def _halves(builder: Any, mask: Any) -> tuple[Any, Any]:
    """The mask of lanes 0 to 7, and that of lanes 8 to 15, as bytes."""
    bits = builder.bitcast(mask, _I16)
    return builder.trunc(bits, _I8), builder.trunc(builder.lshr(bits, _I16(8)), _I8)


def _word_bytes(builder: Any, mask: Any) -> Any:
    """Bytes of the words that a mask, given as an integer, takes or leaves."""
    ones = builder.module.declare_intrinsic("llvm.ctpop", [mask.type])
    return builder.shl(builder.zext(builder.call(ones, [mask]), _I64), _I64(1))


@intrinsic
def expand_u16(typingctx, array, index, mask):
    """Lanes of the mask take consecutive words of 16 bits, in lane order; the others are 0.

    From a uint8 array, of which index to index + 31 may be read whatever the mask.
    """

    def codegen(context, builder, signature, args):
        value, index, mask = args
        arytype = signature.args[0]
        address = address_in(context, builder, arytype, value, index, _I8, 2 * LANES)
        if "avx512vbmi2" in features_of(context)[1] or _byte_shuffle(context) is None:
            words = builder.bitcast(address, _I16.as_pointer())
            zero = ir.Constant(_V16, [0] * LANES)
            loaded = _call(builder, "llvm.masked.expandload.v16i16", _V16, [words, mask, zero])
            return builder.zext(loaded, _V32)
        low, high = _halves(builder, mask)
        second = builder.gep(address, [_word_bytes(builder, low)])
        parts = []
        for mask8, start in ((low, address), (high, second)):
            words = builder.load(builder.bitcast(start, _WORDS8.as_pointer()))
            words.align = 1
            parts.append(_shuffle_words(context, builder, words, mask8, True))
        joined = builder.shuffle_vector(*parts, ir.Constant(_V32, list(range(LANES))))
        return builder.zext(joined, _V32)

    return u32x16(array, types.intp, mask16), codegen


@intrinsic
def compress_u16_before(typingctx, array, end, mask, vector):
    """Low halves of the lanes of the mask to consecutive words of 16 bits, in lane order.

    To a uint8 array, the last word just before byte `end`; end - 32 to end - 1 may be written
    whatever the mask.
    """

    def codegen(context, builder, signature, args):
        value, end, mask, vector = args
        start = builder.sub(end, _I64(2 * LANES))
        address = address_in(context, builder, signature.args[0], value, start, _I8, 2 * LANES)
        words = builder.trunc(vector, _V16)
        family, features = features_of(context)
        if family == "x86_64" and "avx512vbmi2" in features:  # to memory it takes 4 times as long
            args = [words, ir.Constant(_V16, [0] * LANES), mask]
            words = _call(builder, "llvm.x86.avx512.mask.compress.v16i16", _V16, args)
            taken = builder.ctpop(builder.bitcast(mask, _I16))
            first = builder.insert_element(ir.Constant(_V16, ir.Undefined), taken, _I32(0))
            turn = builder.shuffle_vector(first, first, ir.Constant(_V32, [0] * LANES))
            turn = builder.add(turn, ir.Constant(_V16, list(range(LANES))))
            words = _call(builder, "llvm.x86.avx512.permvar.hi.256", _V16, [words, turn])
            target = builder.bitcast(address, _V16.as_pointer())
            builder.store(words, target).align = 1
            return context.get_dummy_value()
        if _byte_shuffle(context) is None:
            taken = _word_bytes(builder, builder.bitcast(mask, _I16))
            place = builder.sub(_I64(2 * LANES), taken)
            target = builder.bitcast(builder.gep(address, [place]), _I16.as_pointer())
            function_type = ir.FunctionType(ir.VoidType(), [_V16, target.type, _MASK])
            name = "llvm.masked.compressstore.v16i16"
            function = cgutils.get_or_insert_function(builder.module, function_type, name)
            builder.call(function, [words, target, mask])
            return context.get_dummy_value()
        low, high = _halves(builder, mask)
        place = _I64(LANES)
        for half, mask8 in ((1, high), (0, low)):  # what is too much lies before, to be overwritten
            lanes = ir.Constant(ir.VectorType(_I32, 8), list(range(8 * half, 8 * half + 8)))
            part = builder.shuffle_vector(words, words, lanes)
            target = builder.bitcast(builder.gep(address, [place]), _WORDS8.as_pointer())
            shuffled = _shuffle_words(context, builder, part, mask8, False)
            builder.store(shuffled, target).align = 1
            place = builder.sub(place, _word_bytes(builder, high))
        return context.get_dummy_value()

    return types.void(array, types.intp, mask16, u32x16), codegen
