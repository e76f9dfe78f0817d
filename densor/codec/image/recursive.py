"""Linear prediction that adapts by recursive least squares, in integers.

Instead of inverting the matrix of correlations, a few coordinates of the weights are moved to
where they are best after each sample, from where they were (Y. Zakharov, G. White, J. Liu,
"Low-complexity RLS algorithms using dichotomous coordinate descent iterations", 2008); the
gradient is kept up to date rather than the right-hand side. See docs/format/image.md.
"""

import numba
import numpy as np

from densor.entropy.jit import index, inlined

int64 = numba.int64

FEATURES = 24  # room for
SETTINGS = 2  # predictors that forget at different speeds
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


@inlined
def adapt(r, which, features, count, error, forget, ridge, steps):
    """Takes in features and the error of a prediction from them, in units of 2^-4.

    `which`: number of the predictor. The weights then move along `steps` coordinates.
    """
    first = which * FEATURES
    gradient = r.gradients
    half = int64(1) << (forget - 1)
    for i in range(count):
        row = (first + i) * FEATURES
        f = np.int32(features[index(i)])
        for k in range(FEATURES):
            value = r.correlations[index(row + k)]
            r.correlations[index(row + k)] = np.int32(
                value - ((value + half) >> forget) + f * np.int32(features[index(k)])
            )
    for i in range(count):
        value = gradient[index(first + i)]
        value += error * int64(f_of(features, i)) - ((value + half) >> forget)
        gradient[index(first + i)] = min(max(value, int64(-_MOST_GRADIENT)), int64(_MOST_GRADIENT))
    at = r.next[index(which)]
    for _ in range(steps):
        if at >= count:
            at = int64(0)
        _descend(r, first, at, count, ridge)
        at += 1
    r.next[index(which)] = at


@inlined
def f_of(features, i):
    return features[index(i)]


@inlined
def _descend(r, first, at, count, ridge):
    """Moves one weight to where it is best given all others."""
    row = (first + at) * FEATURES
    own = int64(r.correlations[index(row + at)]) + ridge
    step = (r.gradients[index(first + at)] << (_ONE - _FINER)) // own
    step = min(max(step, int64(-_MOST_STEP)), int64(_MOST_STEP))
    before = int64(r.weights[index(first + at)])
    after = min(max(before + step, int64(-_MOST_WEIGHT)), int64(_MOST_WEIGHT))
    step = after - before
    r.weights[index(first + at)] = np.int32(after)
    for k in range(count):
        change = (int64(r.correlations[index(row + k)]) * step) >> (_ONE - _FINER)
        r.gradients[index(first + k)] -= change
