"""Adaptive probabilities: what a bit history, a match or a short context has meant so far.

A counter is a uint32: probability of a 1 in the upper 22 bits, below it how often it was updated,
which sets the step.
"""

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from densor.codec.text.vectors import Lanes, Row, Sum, over
from densor.entropy.jit import index, inlined

int64 = numba.int64

FRESH = 1 << 31  # a counter: probability 1/2, nothing counted
_USUAL = 16  # counters that are handled together


@inlined
def _goal(bit):
    return (bit << 22) - bit


@inlined
def learn(counters, i, bit, most, rate):
    """Moves counter `i` towards `bit`: by 1/(n + 3/2) after n updates, of which `most` count."""
    value = int64(counters[index(i)])
    seen = value & 1023
    change = ((_goal(bit) - (value >> 10)) * int64(rate[index(seen)])) >> 16
    counters[index(i)] = np.uint32(value + (change << 10) + int64(seen < most))


@inlined
def learn_all(values, rates, bit):
    """`learn` for many counters, of which 1023 updates count; their rates stand in `rates`."""
    _learn_all(values, rates, values.size, numba.int32(_goal(bit)))


@intrinsic
def _learn_all(typingctx, values, rates, size, goal):
    def codegen(context, builder, signature, args):
        first = args[2].type(0)
        values = Row(context, builder, signature.args[0], args[0], first, args[2])
        rates = Row(context, builder, signature.args[1], args[1], first, args[2])
        goal = Lanes.all(builder, args[3])

        def move(at):
            value = values.load(at)
            error = goal - value.unsigned(10)
            change = ((error.wide() * rates.load(at).wide()) >> 6).narrow() & -1024
            values.store(at, value + change + (value & 1023).above(1022) + 1)

        over(builder, args[2], _USUAL, move)
        return context.get_dummy_value()

    return types.void(values, rates, types.intp, types.int32), codegen


@inlined
def state_inputs(inputs, states, values, beside):
    """Sets the upper half of the inputs to what counters of states say as it is, and `beside`
    added to it. State 0 says nothing, in either half; returns how many others there are."""
    return int64(_state_inputs(inputs, states, values, beside, values.size))


@intrinsic
def _state_inputs(typingctx, inputs, states, values, beside, size):
    def codegen(context, builder, signature, args):
        size = args[4]
        first = size.type(0)
        stretched = Row(context, builder, signature.args[0], args[0], first, size)
        plain = Row(context, builder, signature.args[0], args[0], size, size)
        states = Row(context, builder, signature.args[1], args[1], first, size)
        values = Row(context, builder, signature.args[2], args[2], first, size)
        beside = Row(context, builder, signature.args[3], args[3], first, size)
        seen = Sum(builder)

        def fill(at):
            known = states.load(at).above(0)
            seen.add(known)
            stretched.store(at, stretched.load(at) & known)
            said = (values.load(at).unsigned(20) - 2048) >> 1
            plain.store(at, (said & known) + beside.load(at))

        over(builder, size, _USUAL, fill)
        return builder.neg(seen.total())

    return types.int32(inputs, states, values, beside, types.intp), codegen


@inlined
def direct_input(inputs, at, counters, i, stretch):
    """What a counter of a context itself says, stretched."""
    inputs[index(at)] = stretch[index(int64(counters[index(i)]) >> 20)]
