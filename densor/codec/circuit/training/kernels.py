"""Counting for trees and contexts, and expectation-maximization for hidden states."""

import numba
import numpy as np
from numba import types

from densor.codec.circuit.geometry import LINKS
from densor.codec.circuit.kernels import computed, leaf_of, predicted
from densor.entropy.jit import I32, I64, W8, inlined, kernel

int64, float32, float64 = numba.int64, numba.float32, numba.float64

_BYTES = types.uint8[:, ::1]
_COUNTS = types.int64[:, ::1]
_VALUES = types.int16[:, ::1]
_F32 = types.float32[::1]
_COMPUTED = 4


@kernel(types.void(_BYTES, I64, I64, _COUNTS, int64))
def count_pairs(levels, first, second, counts, count):
    """Adds to counts[pair, level * count + level] for each image and pair of samples."""
    for n in range(levels.shape[0]):
        for pair in range(first.size):
            counts[pair, levels[n, first[pair]] * count + levels[n, second[pair]]] += 1


@kernel(types.void(_BYTES, I32, I32, I32, _VALUES))
def all_features(images, near, links, weights, values):
    """Features of all samples of all images, int16[count * samples, 4 + LINKS]."""
    count, samples = images.shape
    first = np.zeros(_COMPUTED, np.int64)
    for n in range(count):
        image = images[n]
        for sample in range(samples):
            at = n * samples + sample
            computed(image, near, sample, predicted(image, near, weights, sample), first)
            for i in range(_COMPUTED):
                values[at, i] = first[i]
            for i in range(LINKS):
                other = links[sample * LINKS + i]
                values[at, _COMPUTED + i] = image[other] if other >= 0 else -1


@kernel(types.void(_VALUES, _VALUES, _BYTES))
def quantise_features(values, bounds, levels):
    """How many bounds of a feature are below each value; bounds[feature] rise, to 32767."""
    for i in range(values.shape[0]):
        for f in range(values.shape[1]):
            value = values[i, f]
            low, high = 0, bounds.shape[1]
            while low < high:
                middle = (low + high) >> 1
                if bounds[f, middle] < value:
                    low = middle + 1
                else:
                    high = middle
            levels[i, f] = low


@kernel(types.void(_BYTES, W8, I64, types.int32[:, :, ::1]))
def count_levels(levels, symbols, chosen, counts):
    """Adds to counts[feature, level, symbol] for each chosen sample."""
    for i in range(chosen.size):
        at = chosen[i]
        symbol = symbols[at]
        for f in range(levels.shape[1]):
            counts[f, levels[at, f], symbol] += 1


@kernel(types.void(_BYTES, I32, I32, I32, I32, I32, I32, types.uint16[:, ::1]))
def all_leaves(images, near, links, weights, features, thresholds, upper, leaves):
    """The leaf that each sample of each image comes to."""
    count, samples = images.shape
    values = np.zeros(_COMPUTED, np.int64)
    for n in range(count):
        image = images[n]
        for sample in range(samples):
            prediction = predicted(image, near, weights, sample)
            computed(image, near, sample, prediction, values)
            leaves[n, sample] = leaf_of(image, links, sample, values, features, thresholds, upper)


@kernel(types.void(_BYTES, I32, I32, _BYTES))
def all_differences(images, near, weights, symbols):
    """Differences from the prediction, with 128 for none."""
    for n in range(images.shape[0]):
        image = images[n]
        for sample in range(images.shape[1]):
            prediction = predicted(image, near, weights, sample)
            symbols[n, sample] = (int64(image[sample]) - prediction + 128) & 255


@inlined
def _likelihoods(order, parents, transitions, prior, below, message, states):
    """Sends messages up to the root; returns the logarithm of the likelihood."""
    total = float64(0)
    for i in range(order.size - 1, -1, -1):
        sample = order[i]
        here = sample * states
        size = float32(0)
        for k in range(states):
            size += below[here + k]
        total += np.log(size)
        scale = float32(1) / size
        for k in range(states):
            below[here + k] *= scale
        parent = parents[sample]
        if parent < 0:
            size = float32(0)
            for k in range(states):
                size += prior[k] * below[here + k]
            total += np.log(size)
            continue
        for j in range(states):
            row = (here + j) * states
            told = float32(0)
            for k in range(states):
                told += transitions[row + k] * below[here + k]
            message[here + j] = told
            below[parent * states + j] *= told
    return total


@inlined
def _expected(sample, parent, transitions, prior, below, message, posterior, moves, states):
    """The posterior of a sample's state; adds what is expected of its transitions."""
    here = sample * states
    if parent < 0:
        size = float32(0)
        for k in range(states):
            posterior[here + k] = prior[k] * below[here + k]
            size += posterior[here + k]
        for k in range(states):
            posterior[here + k] /= size
            moves[here * states + k] += posterior[here + k]
        return
    for k in range(states):
        posterior[here + k] = 0
    for j in range(states):
        share = posterior[parent * states + j] / (message[here + j] + float32(1e-30))
        row = (here + j) * states
        for k in range(states):
            expected = share * transitions[row + k] * below[here + k]
            moves[row + k] += expected
            posterior[here + k] += expected


@kernel(
    types.void(
        *(_BYTES, types.uint16[:, ::1], I64, I32, I32, _F32, _F32, _F32),
        *(int64, int64, _F32, _F32, _F32, types.float64[::1]),
    )
)
def expect(
    symbols,
    leaves,
    chosen,
    order,
    parents,
    prior,
    transitions,
    emissions,
    states,
    bins,
    work,
    moves,
    seen,
    likelihood,
):
    """Adds expected counts of chosen images: `moves` like transitions, `seen` like emissions.

    The root's states are counted in the first row of its transitions. `work`:
    float32[3 * samples * states]. `likelihood[0]`: its logarithm is added.
    """
    samples = order.size
    below = work[: samples * states]
    message = work[samples * states : 2 * samples * states]
    posterior = work[2 * samples * states :]
    for number in range(chosen.size):
        n = chosen[number]
        for sample in range(samples):
            at = (int64(leaves[n, sample]) * bins + symbols[n, sample]) * states
            for k in range(states):
                below[sample * states + k] = emissions[at + k]
        likelihood[0] += _likelihoods(order, parents, transitions, prior, below, message, states)
        if not moves.size:
            continue
        for i in range(samples):
            sample = order[i]
            _expected(
                *(sample, parents[sample], transitions, prior, below, message, posterior),
                *(moves, states),
            )
            at = (int64(leaves[n, sample]) * bins + symbols[n, sample]) * states
            for k in range(states):
                seen[at + k] += posterior[sample * states + k]
