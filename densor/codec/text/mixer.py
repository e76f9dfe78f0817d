"""Logistic mixing (M. Mahoney, PAQ): weighted sums in the stretched domain, learned online.

Weights are in units of 2^-16. Products are of 32 bits, so that loops run in vectors.
"""

import numba

from densor.entropy.jit import inlined

int32 = numba.int32
int64 = numba.int64

_MOST = (1 << 19) - 1  # of a weight; times an input of 11 bits it fits 32 bits
_FINAL_MOST = 1 << 20
_FINAL_STEP = 8


@inlined
def _clip(value, most):
    return min(max(value, int64(-most)), int64(most))


@inlined
def dot(inputs, weights):
    """The weighted sum of the inputs, within -2047 and 2047."""
    total = int32(0)
    for i in range(inputs.size):
        product = int32(int64(inputs[i]) * int64(weights[i]))
        total = int32(total + int32(product >> 8))
    return _clip(int64(total) >> 8, 2047)


@inlined
def train(inputs, weights, error):
    """Moves the weights along the inputs; |error| < 2^17."""
    for i in range(inputs.size):
        step = int32(int32(int64(inputs[i]) * int64(int32(error))) + 32768) >> 16
        weights[i] = min(max(int32(weights[i] + int32(step)), int32(-_MOST)), int32(_MOST))


@inlined
def final_dot(sums, weights):
    """The weighted sum of what the sets say, within -2047 and 2047."""
    total = int64(0)
    for k in range(sums.size):
        total += int64(sums[k]) * int64(weights[k])
    return _clip(total >> 16, 2047)


@inlined
def train_final(sums, weights, error):
    """Moves the weights along the sums."""
    for k in range(sums.size):
        step = (int64(sums[k]) * error * _FINAL_STEP + (1 << 19)) >> 20
        weights[k] = _clip(int64(weights[k]) + step, _FINAL_MOST)
