"""Logistic mixing (M. Mahoney, PAQ): weighted sums in the stretched domain, learned online.

Weights are in units of 2^-16. Products are of 32 bits, so that eight fit a vector; there are as
many inputs as fill vectors.
"""

import numba
from numba import types
from numba.extending import intrinsic

from densor.codec.byte_cm.vectors import Lanes, Row, Sum, over
from densor.entropy.jit import index, inlined

int64 = numba.int64

_USUAL = 32  # inputs
_MAX_WEIGHT = (1 << 19) - 1  # of a weight; times an input of 11 bits it fits 32 bits
_FINAL_MOST = 1 << 20
_FINAL_STEP = 8


@inlined
def _clip(value, most):
    return min(max(value, int64(-most)), int64(most))


@inlined
def dot(inputs, weights, row):
    """The sum of the inputs, weighted by a row of `weights`, within -2047 and 2047."""
    return _clip(int64(_weighted(inputs, weights, row * inputs.size, inputs.size)) >> 8, 2047)


@inlined
def train(inputs, weights, row, error):
    """Moves a row of `weights` along the inputs; |error| < 2^17."""
    _move(inputs, weights, row * inputs.size, inputs.size, numba.int32(error))


@intrinsic
def _weighted(typingctx, inputs, weights, first, size):
    """The sum of (input * weight) >> 8, for the weights from `first` on."""

    def codegen(context, builder, signature, args):
        inputs = Row(context, builder, signature.args[0], args[0], args[3].type(0), args[3])
        weights = Row(context, builder, signature.args[1], args[1], args[2], args[3])
        total = Sum(builder)
        over(
            builder,
            args[3],
            _USUAL,
            lambda at: total.add((inputs.load(at) * weights.load(at)) >> 8),
        )
        return total.total()

    return types.int32(inputs, weights, types.intp, types.intp), codegen


@intrinsic
def _move(typingctx, inputs, weights, first, size, error):
    """Adds (input * error + 2^15) >> 16 to each weight from `first` on, within _MAX_WEIGHT."""

    def codegen(context, builder, signature, args):
        inputs = Row(context, builder, signature.args[0], args[0], args[3].type(0), args[3])
        weights = Row(context, builder, signature.args[1], args[1], args[2], args[3])
        error = Lanes.all(builder, args[4])

        def move(at):
            step = (inputs.load(at) * error + (1 << 15)) >> 16
            weights.store(at, (weights.load(at) + step).within(_MAX_WEIGHT))

        over(builder, args[3], _USUAL, move)
        return context.get_dummy_value()

    return types.void(inputs, weights, types.intp, types.intp, types.int32), codegen


@inlined
def final_sum(total):
    """The weighted sum of what the sets say, given in units of 2^-16, within -2047 and 2047."""
    return _clip(total >> 16, 2047)


@inlined
def train_final(sums, weights, error):
    """Moves the weights along the sums."""
    for k in range(sums.size):
        step = (int64(sums[index(k)]) * error * _FINAL_STEP + (1 << 19)) >> 20
        weights[index(k)] = _clip(int64(weights[index(k)]) + step, _FINAL_MOST)
