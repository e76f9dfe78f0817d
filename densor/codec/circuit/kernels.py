"""Images under a circuit, sample by sample in the order of its tree; integers only.

Messages are sent as in `docs/format/circuit.md`: down to a sample that is to be coded, and up from
one whose part of the tree is done, so that an image takes a number of steps in proportion to the
circuit.
"""

import numba
import numpy as np
from numba import types

from densor.codec.circuit.coder_kernels import finish, put, start, take
from densor.codec.circuit.geometry import CLOSEST, LINKS, NEAR
from densor.entropy.jit import I32, I64, W8, W64, inlined, kernel

int64, uint64 = numba.int64, numba.uint64

_LEAF = 255
_COMPUTED = 4  # features before the links
_ONE = 20  # bits of beliefs
_WEIGHTS = 14  # bits of the weights that states have in a mixture
_TOTAL = 16  # bits of frequencies


@inlined
def predicted(image, near, weights, sample):
    """The prediction of a sample, 0 to 255."""
    total = int64(weights[sample * (NEAR + 1) + NEAR]) * 16
    for i in range(NEAR):
        other = near[sample * NEAR + i]
        if other < 0:
            break
        total += int64(weights[sample * (NEAR + 1) + i]) * image[other]
    return min(max((total + 32) >> 6, int64(0)), int64(255))


@inlined
def computed(image, near, sample, prediction, values):
    """Sets features that are computed: prediction, distance from it, largest, smallest."""
    spread, most, least = int64(0), int64(0), int64(255)
    for i in range(CLOSEST):
        other = near[sample * NEAR + i]
        if other < 0:
            break
        value = int64(image[other])
        spread += abs(value - prediction)
        most = max(most, value)
        least = min(least, value)
    values[0] = prediction
    values[1] = spread
    values[2] = most
    values[3] = least


@inlined
def leaf_of(image, links, sample, values, features, thresholds, upper):
    """The leaf of the decision tree that a sample comes to."""
    node = int64(0)
    while True:
        feature = features[node]
        if feature == _LEAF:
            return int64(-1) - upper[node]
        if feature < _COMPUTED:
            value = values[feature]
        else:
            other = links[sample * LINKS + feature - _COMPUTED]
            value = int64(image[other]) if other >= 0 else int64(-1)
        node = node + 1 if value <= thresholds[node] else int64(upper[node])


@inlined
def _scaled(values, at, states):
    """Shifts values so that the largest has `_ONE` bits; none becomes 0."""
    most = int64(0)
    for k in range(states):
        most = max(most, values[at + k])
    shift = int64(0)
    while most >= int64(1) << (_ONE + 8):
        most >>= 8
        shift += 8
    while most >= int64(1) << _ONE:
        most >>= 1
        shift += 1
    if shift:
        for k in range(states):
            values[at + k] = max(int64(1), values[at + k] >> shift)
        return
    while most < int64(1) << (_ONE - 1):
        most <<= 1
        shift += 1
    if shift:
        for k in range(states):
            values[at + k] <<= shift


@inlined
def _down(belief, sample, parent, transitions, prior, mix, states):
    """What is believed of a sample before it is coded; `mix`: the weights of its states."""
    here = sample * states
    if parent < 0:
        for k in range(states):
            belief[here + k] = prior[k]
    else:
        for k in range(states):
            belief[here + k] = 0
        for j in range(states):
            known = belief[parent * states + j]
            row = (here + j) * states
            for k in range(states):
                belief[here + k] += known * transitions[row + k]
    _scaled(belief, here, states)
    total, likely = int64(0), int64(0)
    for k in range(states):
        total += belief[here + k]
        if belief[here + k] > belief[here + likely]:
            likely = k
    factor = (int64(1) << (_WEIGHTS + 30)) // total
    rest = int64(1) << _WEIGHTS
    for k in range(states):
        mix[k] = (belief[here + k] * factor) >> 30
        rest -= mix[k]
    mix[likely] += rest


@inlined
def _up(belief, below, sample, parent, transitions, message, states):
    """Tells a parent what became known of a sample and of all that is below it."""
    for j in range(states):
        row = (sample * states + j) * states
        total = int64(0)
        for k in range(states):
            total += below[sample * states + k] * transitions[row + k]
        message[j] = total
    _scaled(message, 0, states)
    for j in range(states):
        belief[parent * states + j] *= message[j]
        below[parent * states + j] *= message[j]
    _scaled(belief, parent * states, states)
    _scaled(below, parent * states, states)


@inlined
def _frequency(emissions, at, mix, states):
    """2^14 times the frequency of a bin in the mixture of states."""
    total = int64(0)
    for k in range(states):
        total += mix[k] * emissions[at + k]
    return total


@inlined
def _code_sample(coding, symbol, coder, data, end, leaf, states, mix, emissions, firsts, inner):
    """Codes a symbol, or decodes one; returns its bin and the symbol."""
    bins = firsts.size - 1
    at = leaf * bins * states
    wanted = int64(-1)
    step = coder[1] >> uint64(_TOTAL)
    total, low, high, found = int64(0), int64(0), int64(0), int64(0)
    for found in range(bins):
        total += _frequency(emissions, at + found * states, mix, states)
        high = total >> _WEIGHTS
        if coding:
            if symbol < firsts[found + 1]:
                break
        elif coder[0] < step * uint64(high) or found == bins - 1:
            break
        low = high
    first, size = int64(firsts[found]), int64(firsts[found + 1] - firsts[found])
    if coding:
        put(coder, data, low, high - low, _TOTAL)
        wanted = symbol
    else:
        take(coder, data, end, low, high - low, _TOTAL)
        wanted = first
    if size == 1:
        return found, wanted
    step = coder[1] >> uint64(_TOTAL)
    if not coding:
        while wanted + 1 < first + size and coder[0] >= step * uint64(inner[wanted + 1]):
            wanted += 1
    low = int64(inner[wanted])
    high = int64(inner[wanted + 1]) if wanted + 1 < first + size else int64(1) << _TOTAL
    if coding:
        put(coder, data, low, high - low, _TOTAL)
    else:
        take(coder, data, end, low, high - low, _TOTAL)
    return found, wanted


@kernel(
    types.int64(
        *(types.boolean, W8, W8, I64, int64, int64, types.boolean),
        *(I32, I32, I32, I32, I32, I32, I32, I32, I32, I32, I32, I32, I32, I32, I64, W64),
    ),
    counted=False,
)
def code_images(
    coding,
    images,
    data,
    ends,
    count,
    states,
    residual,
    order,
    ended,
    parents,
    near,
    links,
    weights,
    features,
    thresholds,
    upper,
    firsts,
    inner,
    prior,
    emissions,
    transitions,
    work,
    coder,
):
    """Codes or decodes `count` images, one after the other; returns how many were sound.

    `images`: count * samples. `data`: the streams; of coding, 5 bytes a sample and 16 an image.
    `ends`: int64[count + 1], where each begins and the last one ends: set, or read. `work`:
    int64[2 * samples * states + 2 * states + 4]; `coder`: uint64[3]. Decoding stops at a stream
    that is longer than it can be, or ends with a zero.
    """
    samples = order.size
    bins = firsts.size - 1
    belief = work[: samples * states]
    below = work[samples * states : 2 * samples * states]
    mix = work[2 * samples * states : (2 * samples + 1) * states]
    message = work[(2 * samples + 1) * states : (2 * samples + 2) * states]
    values = work[(2 * samples + 2) * states :]
    for number in range(count):
        image = images[number * samples : (number + 1) * samples]
        begin, end = ends[number], ends[number + 1]
        start(coding, coder, data, begin, end)
        for i in range(samples):
            sample = int64(order[i])
            parent = int64(parents[sample])
            prediction = predicted(image, near, weights, sample)
            computed(image, near, sample, prediction, values)
            leaf = leaf_of(image, links, sample, values, features, thresholds, upper)
            _down(belief, sample, parent, transitions, prior, mix, states)
            symbol = int64(image[sample])
            if coding and residual:
                symbol = (symbol - prediction + 128) & 255
            found, symbol = _code_sample(
                *(coding, symbol, coder, data, end, leaf, states, mix, emissions, firsts, inner)
            )
            if not coding:
                value = (symbol + prediction - 128) & 255 if residual else symbol
                image[sample] = np.uint8(value)
            at = (leaf * bins + found) * states
            for k in range(states):
                below[sample * states + k] = emissions[at + k]
                belief[sample * states + k] *= emissions[at + k]
            _scaled(belief, sample * states, states)
            for _ in range(ended[i]):
                parent = int64(parents[sample])
                if parent < 0:
                    break
                _up(belief, below, sample, parent, transitions, message, states)
                sample = parent
        if coding:
            ends[number + 1] = finish(coder, data, begin)
        elif int64(coder[2]) < end or (end > begin and data[end - 1] == 0):
            return number
    return count
