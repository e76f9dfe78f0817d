"""Adaptive probabilities: what a bit history, a match or a short context has meant so far.

A counter is a uint32: probability of a 1 in the upper 22 bits, below it how often it was updated,
which sets the step.
"""

import numba
import numpy as np

from densor.entropy.jit import index, inlined

int64 = numba.int64

FRESH = 1 << 31  # a counter: probability 1/2, nothing counted
INPUTS = 2  # of a mixer, from one counter


@inlined
def learn(counters, i, bit, most, rate):
    """Moves counter `i` towards `bit`: by 1/(n + 3/2) after n updates, of which `most` count."""
    value = int64(counters[index(i)])
    seen = value & 1023
    error = (bit << 22) - bit - (value >> 10)
    change = (error * int64(rate[index(seen)])) >> 16
    counters[index(i)] = np.uint32(value + (change << 10) + int64(seen < most))


@inlined
def state_inputs(inputs, at, counters, i, stretch):
    """What counter `i` of a state says, stretched and as it is; nothing for state 0."""
    p = int64(counters[index(i)]) >> 20
    known = int64((i & 255) > 0)
    inputs[index(at)] = known * int64(stretch[index(p)])
    inputs[index(at + 1)] = known * ((p - 2048) >> 1)


@inlined
def direct_input(inputs, at, counters, i, stretch):
    """What a counter of a context itself says, stretched."""
    inputs[index(at)] = stretch[index(int64(counters[index(i)]) >> 20)]
