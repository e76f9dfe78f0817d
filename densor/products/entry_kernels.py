"""The compiled functions of this room, each found by what it does; what threads share them by.

Each is a function of two integers that is called by its address. One is compiled when it is first
used, and cached on disk.
"""

import functools

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from densor.entropy import kernel_files
from densor.entropy.compile_lock import compile_lock
from densor.entropy.deferred import COMPILING, source_of
from densor.entropy.jit import BOUNDSCHECK, kernel
from densor.entropy.team_kernels import (
    FIRST,
    LEFT,
    SECOND,
    TICKET,
    close_round,
    one_more_done,
    open_round,
    pause,
    read,
    take,
    write,
)
from densor.products.kernels import Layout, counting, gathering, packing, product

BF16_3, BF16_4, BF16 = Layout(3, False), Layout(4, False), Layout(16, False)
FP16_3, FP16 = Layout(3, True), Layout(16, True)
BATCHES = (1, 2, 4, 8)

_bf16_3 = [product(BF16_3, batch) for batch in BATCHES]
_bf16_4 = [product(BF16_4, batch) for batch in BATCHES]
_bf16 = [product(BF16, batch) for batch in BATCHES]
_fp16_3 = [product(FP16_3, batch) for batch in BATCHES]
_fp16 = [product(FP16, batch) for batch in BATCHES]
_bf16_3_1, _bf16_3_2, _bf16_3_4, _bf16_3_8 = _bf16_3
_bf16_4_1, _bf16_4_2, _bf16_4_4, _bf16_4_8 = _bf16_4
_bf16_1, _bf16_2, _bf16_4_, _bf16_8 = _bf16
_fp16_3_1, _fp16_3_2, _fp16_3_4, _fp16_3_8 = _fp16_3
_fp16_1, _fp16_2, _fp16_4, _fp16_8 = _fp16
_count_bf16_3, _pack_bf16_3, _gather_bf16_3 = (f(BF16_3) for f in (counting, packing, gathering))
_count_bf16_4, _pack_bf16_4, _gather_bf16_4 = (f(BF16_4) for f in (counting, packing, gathering))
_count_fp16_3, _pack_fp16_3, _gather_fp16_3 = (f(FP16_3) for f in (counting, packing, gathering))


# One of these is compiled at a time, and found on disk by its name: each stands by itself.


def bf16_3_1(job, part):
    _bf16_3_1(job, part)


def bf16_3_2(job, part):
    _bf16_3_2(job, part)


def bf16_3_4(job, part):
    _bf16_3_4(job, part)


def bf16_3_8(job, part):
    _bf16_3_8(job, part)


def bf16_4_1(job, part):
    _bf16_4_1(job, part)


def bf16_4_2(job, part):
    _bf16_4_2(job, part)


def bf16_4_4(job, part):
    _bf16_4_4(job, part)


def bf16_4_8(job, part):
    _bf16_4_8(job, part)


def bf16_1(job, part):
    _bf16_1(job, part)


def bf16_2(job, part):
    _bf16_2(job, part)


def bf16_4(job, part):
    _bf16_4_(job, part)


def bf16_8(job, part):
    _bf16_8(job, part)


def fp16_3_1(job, part):
    _fp16_3_1(job, part)


def fp16_3_2(job, part):
    _fp16_3_2(job, part)


def fp16_3_4(job, part):
    _fp16_3_4(job, part)


def fp16_3_8(job, part):
    _fp16_3_8(job, part)


def fp16_1(job, part):
    _fp16_1(job, part)


def fp16_2(job, part):
    _fp16_2(job, part)


def fp16_4(job, part):
    _fp16_4(job, part)


def fp16_8(job, part):
    _fp16_8(job, part)


def count_bf16_3(job, part):
    _count_bf16_3(job, part)


def count_bf16_4(job, part):
    _count_bf16_4(job, part)


def count_fp16_3(job, part):
    _count_fp16_3(job, part)


def pack_bf16_3(job, part):
    _pack_bf16_3(job, part)


def pack_bf16_4(job, part):
    _pack_bf16_4(job, part)


def pack_fp16_3(job, part):
    _pack_fp16_3(job, part)


def gather_bf16_3(job, part):
    _gather_bf16_3(job, part)


def gather_bf16_4(job, part):
    _gather_bf16_4(job, part)


def gather_fp16_3(job, part):
    _gather_fp16_3(job, part)


_PRODUCTS = {
    BF16_3: (bf16_3_1, bf16_3_2, bf16_3_4, bf16_3_8),
    BF16_4: (bf16_4_1, bf16_4_2, bf16_4_4, bf16_4_8),
    BF16: (bf16_1, bf16_2, bf16_4, bf16_8),
    FP16_3: (fp16_3_1, fp16_3_2, fp16_3_4, fp16_3_8),
    FP16: (fp16_1, fp16_2, fp16_4, fp16_8),
}
_OTHERS = {
    BF16_3: {"count": count_bf16_3, "pack": pack_bf16_3, "gather": gather_bf16_3},
    BF16_4: {"count": count_bf16_4, "pack": pack_bf16_4, "gather": gather_bf16_4},
    FP16_3: {"count": count_fp16_3, "pack": pack_fp16_3, "gather": gather_fp16_3},
}
_SIGNATURE = types.void(types.int64, types.int64)


@functools.cache
def _compiled(function):
    with compile_lock(kernel_files.lock_files(source_of(__name__), function.__name__)):
        return numba.cfunc(_SIGNATURE, cache=not BOUNDSCHECK, _nrt=False)(function)


def product_address(layout: Layout, tokens: int) -> int:
    """The address of the function for products with `tokens` inputs, 1 to 8."""
    batch = next(i for i, batch in enumerate(BATCHES) if tokens <= batch)
    with COMPILING:  # for which forks wait
        return _compiled(_PRODUCTS[layout][batch]).address


def address(layout: Layout, what: str) -> int:
    """The address of the function that does `what`: "count", "pack" or "gather"."""
    with COMPILING:  # for which forks wait
        return _compiled(_OTHERS[layout][what]).address


_I64 = ir.IntType(64)


@intrinsic
def _call(typingctx, function, job, part):
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [_I64, _I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


_3, _4 = types.void(*[types.int64] * 3), types.void(*[types.int64] * 4)


@kernel(_4, counted=False)
def lead(state, function, job, parts):
    """Does a round with the help of who serves; returns when all parts are done."""
    write(state, FIRST, function)
    write(state, SECOND, job)
    ticket = open_round(state, parts)
    while ticket & LEFT:
        if take(state, ticket):
            _call(function, job, (ticket & LEFT) - 1)
            one_more_done(state)
        ticket = read(state, TICKET)
    close_round(state, parts)


@kernel(types.void(types.int64, types.int64), counted=False)
def serve(state, patience):
    """Helps whoever leads, until nothing has come up while it paused `patience` times."""
    idle = 0
    while idle < patience:
        ticket = read(state, TICKET)
        if ticket & LEFT:
            # Who leads changes these only when all parts are done, and the ticket then.
            function, job = read(state, FIRST), read(state, SECOND)
            if take(state, ticket):
                _call(function, job, (ticket & LEFT) - 1)
                one_more_done(state)
                idle = 0
        else:
            pause()
            idle += 1


@kernel(_3, counted=False)
def alone(function, job, parts):
    """Does all parts in this thread."""
    for part in range(parts):
        _call(function, job, part)
