"""The compiled functions of this room, each found by what it does; what threads share them by.

Each is a function of two integers that is called by its address. One is compiled when it is first
used, and cached on disk.
"""

import functools
import threading

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from densor.entropy.jit import BOUNDSCHECK, kernel
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
_compiling = threading.RLock()


@functools.cache
def _compiled(function):
    return numba.cfunc(_SIGNATURE, cache=not BOUNDSCHECK, _nrt=False)(function)


def product_address(layout: Layout, tokens: int) -> int:
    """The address of the function for products with `tokens` inputs, 1 to 8."""
    batch = next(i for i, batch in enumerate(BATCHES) if tokens <= batch)
    with _compiling:
        return _compiled(_PRODUCTS[layout][batch]).address


def address(layout: Layout, what: str) -> int:
    """The address of the function that does `what`: "count", "pack" or "gather"."""
    with _compiling:
        return _compiled(_OTHERS[layout][what]).address


# A team's state, an array of int64: a ticket of the number of the round and the parts that nobody
# has taken; the parts that are done, on a line of its own; the function and the job of the round.
TICKET, DONE, FUNCTION, JOB = 0, 8, 16, 17
STATE_SIZE = 24
_LEFT = 0xFFFFFFFF  # the low half of a ticket
_I64 = ir.IntType(64)


def _place(builder, address, index):
    return builder.inttoptr(builder.add(address, _I64(8 * index)), _I64.as_pointer())


@intrinsic
def _read(typingctx, state, index):
    def codegen(context, builder, signature, args):
        place = builder.gep(builder.inttoptr(args[0], _I64.as_pointer()), [args[1]])
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _write(typingctx, state, index, value):
    def codegen(context, builder, signature, args):
        place = builder.gep(builder.inttoptr(args[0], _I64.as_pointer()), [args[1]])
        builder.store_atomic(args[2], place, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _take(typingctx, state, ticket):
    """Takes one part; whether nobody else has changed the ticket."""

    def codegen(context, builder, signature, args):
        place = _place(builder, args[0], TICKET)
        next_ = builder.sub(args[1], _I64(1))
        result = builder.cmpxchg(place, args[1], next_, "acq_rel", "acquire")
        return builder.zext(builder.extract_value(result, 1), _I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _one_more_done(typingctx, state):
    def codegen(context, builder, signature, args):
        builder.atomic_rmw("add", _place(builder, args[0], DONE), _I64(1), "acq_rel")
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _call(typingctx, function, job, part):
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [_I64, _I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _pause(typingctx):
    """Says that this thread waits."""

    def codegen(context, builder, signature, args):
        triple = context.codegen().magic_tuple()[0]
        family = triple.split("-")[0]
        if family == "x86_64":
            kind = ir.FunctionType(ir.VoidType(), [])
            name, given = "llvm.x86.sse2.pause", []
        elif family in ("aarch64", "arm64"):
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            name, given = "llvm.aarch64.hint", [ir.IntType(32)(1)]
        else:
            return context.get_dummy_value()
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        builder.call(function, given)
        return context.get_dummy_value()

    return types.void(), codegen


_3, _4 = types.void(*[types.int64] * 3), types.void(*[types.int64] * 4)


@kernel(_4, counted=False)
def lead(state, function, job, parts):
    """Does a round with the help of who serves; returns when all parts are done."""
    _write(state, DONE, 0)
    _write(state, FUNCTION, function)
    _write(state, JOB, job)
    ticket = ((_read(state, TICKET) >> 32) + 1) << 32 | parts
    _write(state, TICKET, ticket)
    while ticket & _LEFT:
        if _take(state, ticket):
            _call(function, job, (ticket & _LEFT) - 1)
            _one_more_done(state)
        ticket = _read(state, TICKET)
    while _read(state, DONE) < parts:
        _pause()


@kernel(types.void(types.int64, types.int64), counted=False)
def serve(state, patience):
    """Helps whoever leads, until nothing has come up while it paused `patience` times."""
    idle = 0
    while idle < patience:
        ticket = _read(state, TICKET)
        if ticket & _LEFT:
            # Who leads changes these only when all parts are done, and the ticket then.
            function, job = _read(state, FUNCTION), _read(state, JOB)
            if _take(state, ticket):
                _call(function, job, (ticket & _LEFT) - 1)
                _one_more_done(state)
                idle = 0
        else:
            _pause()
            idle += 1


@kernel(_3, counted=False)
def alone(function, job, parts):
    """Does all parts in this thread."""
    for part in range(parts):
        _call(function, job, part)
