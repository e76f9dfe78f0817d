"""Chunks of which nearly all elements, of two bytes, are as before or a step away: a run at a time.

Contexts, tokens and what becomes of elements, 64 at a time in registers where `fast` is true. Each
symbol waits for the one before it, while contexts and elements do not, so that the processor does
these meanwhile. What is done with an element: see `kernels`.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from densor.codec.delta.find_kernels import (
    BELOW,
    SIGN,
    all_of,
    contexts_of,
    load_elements,
    number_of,
)
from densor.codec.delta.kernels import _apply_large
from densor.entropy import vectors as v
from densor.entropy.jit import inlined
from densor.entropy.rans.common_kernels import decode_group
from densor.entropy.rans.constants import LOOK, STATES
from densor.entropy.register_tables import RUN, byte_vector, is_fast, load_bytes, store_bytes
from densor.entropy.vectors import address_in

_I16, _I64 = ir.IntType(16), ir.IntType(64)
_V16 = ir.VectorType(_I16, RUN)
_BEHIND = 2 * RUN  # elements between decoding and what takes tokens: stores have settled then


@intrinsic
def _contexts_run(typingctx, b, begin, shift, mask, first, window, contexts):
    """`chunk_kernels._contexts_by_window` of the 64 elements from `begin` on."""

    def codegen(context, builder, signature, args):
        b, begin, shift, mask, first, window, contexts = args
        kinds = signature.args
        if is_fast(context) and kinds[0].dtype.bitwidth == 16:  # else is not called
            old = load_elements(context, builder, kinds[0], b, begin)
            under = contexts_of(context, builder, kinds[5], old, shift, mask, first, window)
            store_bytes(context, builder, kinds[6], contexts, begin, under)
        return context.get_dummy_value()

    size = types.int64
    return types.void(b, size, size, size, size, window, contexts), codegen


@intrinsic
def _apply_run(typingctx, b, tokens, begin, floats, plain, out):
    """`kernels._apply_small` by difference to the 64 elements from `begin` on; a bit for each that
    has a large change, a token of at least `plain`."""

    def codegen(context, builder, signature, args):
        b, tokens, begin, floats, plain, out = args
        kinds = signature.args
        if not is_fast(context) or kinds[0].dtype.bitwidth != 16:
            return _I64(0)  # is not called
        old = load_elements(context, builder, kinds[0], b, begin)
        small = load_bytes(context, builder, kinds[1], tokens, begin)
        token = builder.zext(small, _V16)
        sign = all_of(builder, builder.select(floats, _I64(SIGN), _I64(0)))
        flip = builder.and_(old, sign)
        one = number_of(1)
        down = builder.sub(number_of(0), builder.and_(token, one))
        change = builder.xor(builder.lshr(token, one), down)
        new = builder.add(builder.xor(old, flip), change)
        negative = builder.ashr(builder.and_(new, sign), number_of(15))
        new = builder.xor(new, builder.and_(negative, number_of(BELOW)))
        address = address_in(context, builder, kinds[5], out, begin, _V16, RUN)
        builder.store(builder.xor(new, flip), address).align = 2
        large = builder.icmp_unsigned(">=", small, byte_vector(builder, plain))
        return builder.bitcast(large, _I64)

    size = types.int64
    return types.uint64(b, tokens, size, types.boolean, size, out), codegen


@inlined
def _apply(b, tokens, extras, bit, limit, starts, counts, plain, method, floats, bits, begin, out):
    """The 64 elements from `begin` on; returns where their extra bits end."""
    if _apply_run(b, tokens, begin, floats, plain, out) == 0:
        return bit
    end = begin + RUN
    return _apply_large(
        b[begin:end], tokens[begin:end], extras, bit, limit, starts, counts, plain, method, floats,
        0, bits, out[begin:end],
    )  # fmt: skip


@inlined
def decode_runs(
    words, at, last, states, table, ends, b, shift, mask, first, window, tokens, contexts, extras,
    bit, limit, starts, counts, plain, method, floats, bits, out,
):  # fmt: skip
    """Decodes differences from symbol 0 on while `at <= last`, whole runs of 64.

    Returns the number of elements done, the position in `words`, where extra bits end, and the
    number of groups with other symbols; see `decode_common` and `kernels.apply_block`.
    """
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    i, done, others = 0, 0, 0
    while i + RUN <= out.size and at + LOOK <= last:
        _contexts_run(b, i, shift, mask, first, window, contexts)
        for group in range(i, i + RUN, STATES):
            x0, x1, at, other = decode_group(
                x0, x1, words, at, table, ends, contexts, group, tokens
            )
            others += other
        i += RUN
        if i - done > _BEHIND:
            bit = _apply(
                b, tokens, extras, bit, limit, starts, counts, plain, method, floats, bits, done,
                out,
            )  # fmt: skip
            done += RUN
    while done < i:
        bit = _apply(
            b, tokens, extras, bit, limit, starts, counts, plain, method, floats, bits, done, out
        )
        done += RUN
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    return i, at, bit, others
