"""Linear prediction that adapts by recursive least squares, in integers.

Instead of inverting the matrix of correlations, a few coordinates of the weights are moved to
where they are best after each sample, from where they were (Y. Zakharov, G. White, J. Liu,
"Low-complexity RLS algorithms using dichotomous coordinate descent iterations", 2008); the
gradient is kept up to date rather than the right-hand side. See docs/format/image.md.
"""

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from densor.codec.byte_cm.vectors import I32, Lanes, Row, over
from densor.codec.image.pixels import quotient
from densor.entropy.jit import index, inlined

int64 = numba.int64

FEATURES = 24  # room for
SETTINGS = ((10, 64), (12, 256))  # of two predictors: how fast they forget, see `adapt`
_USUAL = 16  # features, as residuals have them
_ONE = 16  # weights are in units of 2^-16
_FINER = 4  # binary places of errors
_MOST_STEP, _MOST_WEIGHT = 1 << 17, 1 << 20
_MOST_GRADIENT = 1 << 40


@inlined
def linear(weights, first, features, count):
    """The weighted sum of the features, in units of 2^-4."""
    total = int64(0)
    for i in range(count):
        total += int64(weights[index(first + i)]) * int64(features[index(i)])
    return (total + (1 << (_ONE - _FINER - 1))) >> (_ONE - _FINER)


@intrinsic
def _correlate(typingctx, correlations, first, features, room, feature, forget):
    """Adds a feature times all of them to a row of correlations, which forgets some of itself.

    LLVM would do this in 64 bits; products of features and their sums fit 32.
    """

    def codegen(context, builder, signature, args):
        into = Row(context, builder, signature.args[0], args[0], args[1], args[3])
        features = Row(context, builder, signature.args[2], args[2], args[3].type(0), args[3])
        feature = Lanes.all(builder, args[4])
        places = builder.trunc(args[5], I32)
        forget = Lanes.all(builder, places)
        half = Lanes.all(builder, builder.shl(I32(1), builder.sub(places, I32(1))))

        def update(at):
            value = into.load(at)
            kept = value - (value + half).shifted(forget)
            into.store(at, kept + features.load(at) * feature)

        over(builder, args[3], _USUAL, update)
        return context.get_dummy_value()

    return types.void(
        correlations, types.intp, features, types.intp, types.int32, types.intp
    ), codegen


@inlined
def adapt(r, room, which, features, count, error, settings):
    """Takes in features and the error of a prediction from them, in units of 2^-4.

    `room`: features that a predictor has room for; all from `count` on are 0. `which`: number of
    the predictor. `settings`: how fast it forgets, what is added to correlations, and along how
    many coordinates the weights then move.
    """
    forget, ridge, steps = settings
    first = which * room
    for i in range(count):
        _correlate(r.correlations, (first + i) * room, features, room, features[index(i)], forget)
    follow(r, first, features, count, error, forget)
    _descend(r, room, which, count, ridge, steps)


@inlined
def follow(r, first, features, count, error, forget):
    """Brings a gradient, from `first` on, up to date with features and their error."""
    gradient = r.gradients
    half = int64(1) << (forget - 1)
    for i in range(count):
        value = gradient[index(first + i)]
        value += error * int64(features[index(i)]) - ((value + half) >> forget)
        gradient[index(first + i)] = min(max(value, int64(-_MOST_GRADIENT)), int64(_MOST_GRADIENT))


@inlined
def _descend(r, room, which, count, ridge, steps):
    """Moves weights of a predictor along as many coordinates, in turn, from where it stopped."""
    at = r.next[index(which)]
    for _ in range(steps):
        if at >= count:
            at = int64(0)
        step(r, room, which * room, at, ridge)
        at += 1
    r.next[index(which)] = at


@inlined
def step(r, room, first, at, ridge):
    """Moves one weight to where it is best given all others."""
    row = (first + at) * room
    own = int64(r.correlations[index(row + at)]) + ridge
    # Where a gradient is too large for exact quotients, they are beyond the greatest step.
    best = quotient(r.gradients[index(first + at)] << (_ONE - _FINER), own)
    best = min(max(best, int64(-_MOST_STEP)), int64(_MOST_STEP))
    before = int64(r.weights[index(first + at)])
    after = min(max(before + best, int64(-_MOST_WEIGHT)), int64(_MOST_WEIGHT))
    moved = int64(np.int32(after - before))  # so that LLVM multiplies 32 bits
    r.weights[index(first + at)] = np.int32(after)
    for k in range(room):
        change = (int64(r.correlations[index(row + k)]) * moved) >> (_ONE - _FINER)
        r.gradients[index(first + k)] -= change
