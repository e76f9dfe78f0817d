"""What compiled threads share a loop by: a ticket of the parts left, and the number of those done.

Who leads opens a round of so many parts; it and whoever helps take parts one by one, and nobody
waits for a thread that has taken none.
"""

import os

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from densor.entropy.jit import inlined

# A team's state, an array of int64, by its address: a ticket of the number of the round and the
# parts that nobody has taken; the parts that are done, on a line of its own; two numbers that
# whoever leads sets for a round.
TICKET, DONE, FIRST, SECOND = 0, 8, 16, 17
STATE_SIZE = 24
LEFT = 0xFFFFFFFF  # the low half of a ticket
_SPINS = 2000  # pauses before other threads are let have the processor
_I64 = ir.IntType(64)


def _place(builder, address, index):
    return builder.inttoptr(builder.add(address, _I64(8 * index)), _I64.as_pointer())


@intrinsic
def read(typingctx, state, index):
    def codegen(context, builder, signature, args):
        place = builder.gep(builder.inttoptr(args[0], _I64.as_pointer()), [args[1]])
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def write(typingctx, state, index, value):
    def codegen(context, builder, signature, args):
        place = builder.gep(builder.inttoptr(args[0], _I64.as_pointer()), [args[1]])
        builder.store_atomic(args[2], place, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def take(typingctx, state, ticket):
    """Takes one part; whether nobody else has changed the ticket."""

    def codegen(context, builder, signature, args):
        place = _place(builder, args[0], TICKET)
        next_ = builder.sub(args[1], _I64(1))
        result = builder.cmpxchg(place, args[1], next_, "acq_rel", "acquire")
        return builder.zext(builder.extract_value(result, 1), _I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def one_more_done(typingctx, state):
    def codegen(context, builder, signature, args):
        builder.atomic_rmw("add", _place(builder, args[0], DONE), _I64(1), "acq_rel")
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def pause(typingctx):
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


@intrinsic
def _yield(typingctx):
    """Lets another thread have the processor, such as one that was taken off it with a part."""

    def codegen(context, builder, signature, args):
        if os.name == "posix":
            kind = ir.FunctionType(ir.IntType(32), [])
            name = "sched_yield"
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@inlined
def open_round(state, parts):
    """Lets others take `parts` parts; returns the ticket."""
    write(state, DONE, 0)
    ticket = ((read(state, TICKET) >> 32) + 1) << 32 | parts
    write(state, TICKET, ticket)
    return ticket


@inlined
def wait_a_moment(waits):
    """For the wait number `waits` in a row."""
    if waits < _SPINS:
        pause()
    else:
        _yield()


@inlined
def close_round(state, parts):
    """Waits for the parts that others have taken, when none is left."""
    waits = 0
    while read(state, DONE) < parts:
        waits += 1
        wait_a_moment(waits)


def in_steps(do, parts_of):
    """A function by which threads do steps one after the other, each in parts.

    run(thread, threads, team, steps, given): thread 0 leads; others help until it is done. Of `do(
    step, part, parts, given)` all parts of a step must be independent; `parts_of(step, threads,
    given)` is how many there are.
    """

    @inlined
    def lead(threads, team, steps, given):
        for step in range(steps):
            parts = parts_of(step, threads, given)
            if parts == 1:
                do(step, numba.int64(0), parts, given)
                continue
            write(team, FIRST, step)
            ticket = open_round(team, parts)
            while ticket & LEFT:
                if take(team, ticket):
                    do(step, (ticket & LEFT) - 1, parts, given)
                    one_more_done(team)
                ticket = read(team, TICKET)
            close_round(team, parts)

    @inlined
    def help_out(threads, team, given):
        waits = 0
        while True:
            ticket = read(team, TICKET)
            if ticket & LEFT:
                # Who leads changes the step only when all parts are done.
                step = read(team, FIRST)
                if take(team, ticket):
                    do(step, (ticket & LEFT) - 1, parts_of(step, threads, given), given)
                    one_more_done(team)
                waits = 0
            elif read(team, SECOND):
                return
            else:
                waits += 1
                wait_a_moment(waits)

    @inlined
    def run(thread, threads, team, steps, given):
        if thread:
            help_out(threads, team, given)
            return
        lead(threads, team, steps, given)
        if threads > 1:
            write(team, SECOND, 1)

    return run
