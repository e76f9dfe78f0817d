"""Tokens and contexts of 64 elements of two bytes at a time, in registers: where `fast` is true.

Code that a kernel is made of; what it stands for is in `kernels` and `chunk_kernels`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from densor.entropy.register_tables import (
    RUN,
    byte_vector,
    compress_bytes,
    is_fast,
    permute_bytes,
    store_bytes,
)
from densor.entropy.vectors import address_in

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_V8, _V16 = ir.VectorType(_I8, RUN), ir.VectorType(_I16, RUN)
LARGE = 32  # the bit of the result from which on it tells of large changes
SIGN, BELOW = 0x8000, 0x7FFF


def all_of(builder: Any, value: Any) -> Any:
    """A number in all lanes, of 16 bits each."""
    first = builder.insert_element(
        ir.Constant(_V16, ir.Undefined), builder.trunc(value, _I16), _I32(0)
    )
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, RUN), [0] * RUN))


def number_of(value: int) -> Any:
    return ir.Constant(_V16, [value] * RUN)


def _extreme(builder: Any, compare: str, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned(compare, a, b), a, b)


def _token(builder: Any, x: Any, b: Any, sign: Any) -> Any:
    """Differences in numeric order, as `kernels._small_tokens` has them, 255 at most."""
    flip = builder.and_(b, sign)
    new = builder.xor(x, flip)
    negative = builder.ashr(builder.and_(new, sign), number_of(15))
    new = builder.xor(new, builder.and_(negative, number_of(BELOW)))
    d = builder.sub(new, builder.xor(b, flip))
    token = builder.xor(builder.shl(d, number_of(1)), builder.ashr(d, number_of(15)))
    return builder.trunc(_extreme(builder, "<", token, number_of(255)), _V8)


def load_elements(context: Any, builder: Any, arytype: Any, array: Any, begin: Any) -> Any:
    """64 elements of two bytes."""
    loaded = builder.load(address_in(context, builder, arytype, array, begin, _V16, RUN))
    loaded.align = 2
    return loaded


def contexts_of(
    context: Any,
    builder: Any,
    arytype: Any,
    old: Any,
    shift: Any,
    mask: Any,
    first: Any,
    window: Any,
) -> Any:
    """The contexts of 64 elements of the base, see `chunk_kernels._contexts_by_window`."""
    place = builder.and_(builder.lshr(old, all_of(builder, shift)), all_of(builder, mask))
    low = all_of(builder, first)
    place = builder.sub(_extreme(builder, ">", place, low), low)
    place = builder.trunc(_extreme(builder, "<", place, number_of(255)), _V8)
    return permute_bytes(context, builder, arytype, window, place)


@intrinsic
def find_run(
    typingctx, x, b, begin, floats, plain, shift, mask, first, window, tokens, contexts, keys, kept,
    under, count,
):  # fmt: skip
    """Tokens by difference and contexts of the 64 elements from `begin` on of `x` and its base `b`.

    `floats`: whether there is a sign bit. `plain`: see `kernels`. `shift`, `mask`, `first`,
    `window`: see `chunk_kernels._contexts_by_window`. To `tokens` and `contexts` from `begin` on;
    to `keys`, `kept` and `under` as `register_tables.part_zeros` has it. Returns the new `count`,
    and from bit `LARGE` on whether changes with tokens from `plain` on are among them, of which the
    tokens are wrong.
    """

    def codegen(context, builder, signature, args):
        x, b, begin, floats, plain, shift, mask, first, window, *arrays, count = args
        kinds = signature.args
        if not is_fast(context) or kinds[0].dtype.bitwidth != 16:
            return count  # is not called
        new, old = (
            load_elements(context, builder, arytype, array, begin)
            for arytype, array in zip(kinds[:2], (x, b), strict=True)
        )
        sign = builder.select(floats, _I64(SIGN), _I64(0))
        token = _token(builder, new, old, all_of(builder, sign))
        under = contexts_of(context, builder, kinds[8], old, shift, mask, first, window)
        zeros = ir.Constant(_V8, [0] * RUN)
        changed = builder.icmp_unsigned("!=", token, zeros)
        key = builder.select(changed, ir.Constant(_V8, [255] * RUN), under)
        places = (begin, begin, begin, count, count)
        packed = [compress_bytes(builder, value, changed) for value in (token, under)]
        values = (token, under, key, *packed)
        for arytype, array, at, value in zip(kinds[9:14], arrays, places, values, strict=True):
            store_bytes(context, builder, arytype, array, at, value)
        least = byte_vector(builder, plain)
        large = builder.bitcast(builder.icmp_unsigned(">=", token, least), _I64)
        some = builder.zext(builder.icmp_unsigned("!=", large, _I64(0)), _I64)
        count = builder.add(count, builder.ctpop(builder.bitcast(changed, _I64)))
        return builder.or_(count, builder.shl(some, _I64(LARGE)))

    size = types.int64
    signature = size(
        x, b, size, types.boolean, size, size, size, size, window, tokens, contexts, keys, kept,
        under, size,
    )  # fmt: skip
    return signature, codegen
