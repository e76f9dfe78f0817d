"""Adaptive probabilities: what a bit history, a match or a short context has meant so far.

A counter is a uint32: probability of a 1 in the upper 22 bits, below it how often it was updated,
which sets the step.
"""

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from densor.codec.byte_cm.vectors import LANES, Lanes, Row, over
from densor.entropy.jit import index, inlined

int64 = numba.int64

FRESH = 1 << 31  # a counter: probability 1/2, nothing counted
INPUTS = 2  # of a mixer, from one counter
TOGETHER = 24  # counters that are handled together, at most; whole vectors
VALUES, RATES = TOGETHER, 2 * TOGETHER  # where those at hand begin, and their rates
_USUAL = 16


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
def learn_all(states, count, bit):
    """`learn` for the counters at hand, of which 1023 updates count."""
    _learn_all(states, (count + LANES - 1) & -LANES, numba.int32(_goal(bit)))


@intrinsic
def _learn_all(typingctx, states, size, goal):
    def codegen(context, builder, signature, args):
        kind, size = signature.args[0], args[1]
        values = Row(context, builder, kind, args[0], size.type(VALUES), size)
        rates = Row(context, builder, kind, args[0], size.type(RATES), size)
        goal = Lanes.all(builder, args[2])

        def move(at):
            value = values.load(at)
            error = goal - value.unsigned(10)
            change = ((error.wide() * rates.load(at).wide()) >> 6).narrow() & -1024
            values.store(at, value + change + (value & 1023).above(1022) + 1)

        over(builder, size, _USUAL, move)
        return context.get_dummy_value()

    return types.void(states, types.intp, types.int32), codegen


@inlined
def pair(lower, upper):
    """Two int32 in one int64."""
    return upper << 32 | lower & 0xFFFFFFFF


@inlined
def stretched_and_plain(p, stretch):
    """What a probability of a 1, 2^-12, is to the mixers: stretched, and as it is."""
    return pair(int64(stretch[index(p)]), (p - 2048) >> 1)


@inlined
def direct_input(counters, i, stretch):
    """What a counter of a context itself says, stretched."""
    return int64(stretch[index(int64(counters[index(i)]) >> 20)])
