"""Residuals of pixels by binary decisions: one kernel for both directions.

Several predictions are blended by how well each did near by, and corrected by the mean error of
their context (B. Meyer, P. Tischer, "TMW", 1997; "Glicbawls", 2001). Decisions go outwards from
the prediction, in steps of about the scale of the errors, then inwards: some four for a sample of
four bits. Distributions and adaptive probabilities are mixed for each in the logistic domain (M.
Mahoney, PAQ). All arithmetic is in integers. See docs/format/image.md, whose names are used here.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.byte_cm.apm import CELLS, apm_predict, apm_update
from densor.codec.byte_cm.mixer import dot, train
from densor.codec.byte_cm.vectors import set_pairs
from densor.codec.image.mixing_kernels import TABLES_TYPE
from densor.codec.image.pixels import (
    ALL,
    QUALITIES,
    class_of,
    cumulative,
    fixed_predictions,
    hashed,
    learn_counter,
    scale_of,
    within,
)
from densor.codec.image.predict import LEFT, SIDES, TOP, begin_row, sample_done
from densor.codec.image.recursive import adapt, linear
from densor.entropy.arithmetic.kernels import decode_bit, encode_bit
from densor.entropy.arithmetic.state import AT
from densor.entropy.intrinsics import prefetch
from densor.entropy.jit import I32, I64, W8, W16, W32, index, inlined, kernel

int64 = numba.int64

FEATURES = 16  # room for
PREDICTIONS, ROOM = 5, 8  # of a sample, and what stands for each in a vector
CONTEXTS = 3  # that are hashed
NODES = 32  # of decisions about a sample
INPUTS = 8
OFFSETS = 16  # classes of what is below a whole sample, or between two predictions
BIASES = 1024  # mean errors of each of two tables
MIXER_ROWS = QUALITIES * NODES, 64 * NODES
ADAPTIVE_WEIGHT = 3  # of the prediction that adapts, against those that do not
_FORGET, _RIDGE = 11, 64
_MOST_SEEN = 60  # of mean errors
_MIN_P = 32
_WHOLE = ALL >> 3  # what a distribution sums up to here
_SIDE, _UP, _DOWN, _INSIDE = range(4)  # stages
_UP_NODE, _DOWN_NODE, _INSIDE_NODE, _FAR_NODE = 1, 8, 15, 27


class Residual(NamedTuple):
    """Sizes of the planes."""

    rows: int
    width: int
    channels: int
    depth: int
    lines: int  # of counters of each context in each plane, a power of two
    steps: int  # of the linear predictor after each sample


class ResidualState(NamedTuple):
    """The adaptive state; sizes for c channels of width w."""

    coder: npt.NDArray[np.int64]
    planes: npt.NDArray[np.int32]
    features: npt.NDArray[np.int32]  # int32[FEATURES], of the sample at hand
    scaled: npt.NDArray[np.int32]  # the same as the linear predictor learns them
    correlations: npt.NDArray[np.int32]  # int32[c FEATURES FEATURES]
    gradients: npt.NDArray[np.int64]  # int64[c FEATURES]
    weights: npt.NDArray[np.int32]  # int32[c FEATURES]
    next: npt.NDArray[np.int64]  # int64[c]
    predictions: npt.NDArray[np.int64]  # int64[ROOM], of the sample at hand
    sizes: npt.NDArray[np.int64]  # int64[ROOM]: of errors near by, of each prediction
    misses: npt.NDArray[np.int32]  # int32[c 3 (w + SIDES) ROOM]: absolute errors of predictions
    errors: npt.NDArray[np.int32]  # int32[c 3 (w + SIDES)]: of their blend, corrected
    means: npt.NDArray[np.int32]  # int32[c QUALITIES]: of absolute errors
    bias: npt.NDArray[np.int32]  # int32[2 c BIASES]: mean errors; and how many, to a limit
    seen: npt.NDArray[np.int32]
    hashes: npt.NDArray[np.int64]  # int64[CONTEXTS + 2]: places of the lines of counters
    counters: npt.NDArray[np.uint32]  # uint32[c CONTEXTS lines NODES]
    direct: npt.NDArray[np.uint32]  # uint32[2 c QUALITIES OFFSETS NODES]
    inputs: npt.NDArray[np.int32]  # int32[INPUTS]
    mixers: npt.NDArray[np.int32]  # int32[c sum(MIXER_ROWS), INPUTS]
    apm: npt.NDArray[np.uint16]  # uint16[c QUALITIES NODES, 32]


_I32_2D = types.Array(types.int32, 2, "C")
RESIDUAL_TYPE = types.NamedUniTuple(types.int64, len(Residual._fields), Residual)
STATE_TYPE = types.NamedTuple(
    (
        I64, I32, I32, I32, I32, I64, I32, I64, I64, I64, I32, I32, I32, I32, I32, I64, W32, W32,
        I32, _I32_2D, W16,
    ),
    ResidualState,
)  # fmt: skip


@inlined
def _own_features(f, m, c, a, at, stride):
    """Sets the features of a plane's own neighbours, against the one to the left."""
    w = a[index(at - 1)]
    above, twice = at - stride, at - 2 * stride
    f[0], f[1], f[2] = a[index(above)] - w, a[index(above - 1)] - w, a[index(above + 1)] - w
    f[3], f[4], f[5] = a[index(at - 2)] - w, a[index(twice)] - w, a[index(twice + 1)] - w
    f[6], f[7] = a[index(above - 2)] - w, a[index(above + 2)] - w
    if c > 0:
        return int64(8)
    f[8], f[9] = a[index(twice - 1)] - w, a[index(at - 3 * stride)] - w
    f[10] = a[index(at - 3)] - w
    if m.channels > 1:
        return int64(11)
    f[11], f[12] = a[index(twice + 2)] - w, a[index(twice - 2)] - w
    return int64(13)


@inlined
def _gather(s, m, c, at, stride, plane):
    """Sets the features of the sample at `at` of plane `c`; returns how many there are."""
    a, f = s.planes, s.features
    for k in range(FEATURES):
        f[index(k)] = np.int32(0)
    i = _own_features(f, m, c, a, at, stride)
    if c > 0:
        b = at - plane
        w = a[index(b - 1)]
        f[index(i)] = a[index(b)] - w
        f[index(i + 1)] = a[index(b - stride)] - w
        f[index(i + 2)] = a[index(b - stride - 1)] - w
        f[index(i + 3)] = a[index(b - stride + 1)] - w
        i += 4
    if c > 1:
        b = at - 2 * plane
        f[index(i)] = a[index(b)] - a[index(b - 1)]
        f[index(i + 1)] = a[index(b - stride)] - a[index(b - 1)]
        i += 2
    if m.channels >= 3 and c < 2:
        for later in range(c + 1, 3):
            b = at + (later - c) * plane
            f[index(i)] = a[index(b - 1)] - a[index(b - stride)]
            i += 1
    shift = max(int64(0), m.depth - 8)
    for k in range(FEATURES):
        s.scaled[index(k)] = np.int32((int64(f[index(k)]) * 2) >> shift)
    return i


@inlined
def _row_of(m, c, y):
    """Where column 0 of a row stands in what is kept for three rows of plane `c`."""
    return (c * 3 + (y + 3) % 3) * (m.width + SIDES) + LEFT


@inlined
def _blended(s, m, c, y, x):
    """The predictions' mean, weighted by the inverse cube of their errors near by."""
    e, sizes, p = s.misses, s.sizes, s.predictions
    here = (_row_of(m, c, y) + x) * ROOM
    above = (_row_of(m, c, y - 1) + x) * ROOM
    twice = (_row_of(m, c, y - 2) + x) * ROOM
    for i in range(ROOM):
        sizes[index(i)] = (
            2 * int64(e[index(here - ROOM + i)])
            + 2 * int64(e[index(above + i)])
            + int64(e[index(above - ROOM + i)])
            + int64(e[index(above + ROOM + i)])
            + int64(e[index(here - 2 * ROOM + i)])
            + int64(e[index(twice + i)])
        )
    if c > 0:
        other = (_row_of(m, c - 1, y) + x) * ROOM
        for i in range(ROOM):
            sizes[index(i)] = (2 * sizes[index(i)] + 5 * int64(e[index(other + i)])) >> 2
    shift = max(int64(0), m.depth - 8)
    least = sizes[0]
    for i in range(1, PREDICTIONS):
        least = min(least, sizes[index(i)])
    least = ((least >> shift) + 16) << 12
    total = moved = int64(0)
    for i in range(PREDICTIONS):
        r = int64(np.uint32(least) // np.uint32((sizes[index(i)] >> shift) + 16))
        share = (((r * r) >> 12) * r) >> 12
        if i == 0:
            share *= ADAPTIVE_WEIGHT
        total += share
        moved += share * (p[index(i)] - p[0])
    return p[0] + moved // total


@inlined
def _texture(a, at, stride, p):
    return (
        int64(a[index(at - 1)] > p)
        | int64(a[index(at - stride)] > p) << 1
        | int64(a[index(at - stride - 1)] > p) << 2
        | int64(a[index(at - stride + 1)] > p) << 3
        | int64(a[index(at - 2)] > p) << 4
        | int64(a[index(at - 2 * stride)] > p) << 5
    )


@inlined
def _size(s, m, c, y, x):
    """How large errors near by are; that of the plane before counts most."""
    e = s.errors
    here, above = _row_of(m, c, y) + x, _row_of(m, c, y - 1) + x
    size = 2 * abs(int64(e[index(here - 1)])) + 2 * abs(int64(e[index(above)]))
    size += abs(int64(e[index(above - 1)])) + abs(int64(e[index(above + 1)]))
    size += abs(int64(e[index(here - 2)])) + abs(int64(e[index(_row_of(m, c, y - 2) + x)]))
    if c > 0:
        size = (2 * size + 5 * abs(int64(e[index(_row_of(m, c - 1, y) + x)]))) // 3
    return size


@inlined
def _step(value, depth):
    """An error in units of 1/16 as one of 15 steps."""
    return within(value >> (4 + max(int64(0), depth - 8)), int64(-7), int64(7)) + 8


@inlined
def _bias_places(s, m, c, y, x, texture, kind):
    """Where the two mean errors of a sample stand."""
    e = s.errors
    here, above = _row_of(m, c, y) + x, _row_of(m, c, y - 1) + x
    left = _step(int64(e[index(here - 1)]), m.depth)
    if c > 0:
        first = _step(int64(e[index(_row_of(m, c - 1, y) + x)]), m.depth)
        second = left
    else:
        first, second = left, _step(int64(e[index(above)]), m.depth)
    a = 2 * c * BIASES + texture * 16 + min(int64(15), kind >> 1)
    b = (2 * c + 1) * BIASES + (first * 16 + second) * 4 + min(int64(3), kind >> 3)
    return a, b


@inlined
def _find_lines(s, m, c, at, stride, plane, p, kind):
    """Places of the counters of all contexts, for the sample at `at` with the prediction `p`."""
    a, h = s.planes, s.hashes
    shift = max(int64(0), m.depth - 8)
    centre = p >> (4 + shift)
    w, n = int64(a[index(at - 1)]) >> shift, int64(a[index(at - stride)]) >> shift
    ne = int64(a[index(at - stride + 1)]) >> shift
    before = int64(a[index(at - plane)]) >> shift if c > 0 else ne
    h[0] = w << 16 | centre
    h[1] = n << 16 | centre
    if c > 1:
        h[1] = before << 32 | (int64(a[index(at - 2 * plane)]) >> shift) << 16 | centre
    h[2] = before << 16 | centre
    for i in range(CONTEXTS):
        line = hashed(h[index(i)], i) & (m.lines - 1)
        place = ((c * CONTEXTS + i) * m.lines + line) * NODES
        h[index(i)] = place
        prefetch(s.counters, place)
        prefetch(s.counters, place + 16)
    between = within(((s.predictions[0] - p) >> (shift >> 1)) + 40, int64(0), int64(79)) // 5
    own = class_of(s.sizes[0] >> (3 + (shift >> 1)))
    h[CONTEXTS] = ((2 * c * QUALITIES + kind) * OFFSETS + (p & 15)) * NODES
    h[CONTEXTS + 1] = (((2 * c + 1) * QUALITIES + own) * OFFSETS + between) * NODES


@inlined
def _counted(t, counters, at):
    value = int64(counters[index(at)])
    return (int64(t.stretch[index(value >> 20)]) * int64(t.trust[index(value & 255)])) >> 8


@inlined
def _from_distribution(t, below, above, part):
    """The input for what is from `part` on, of what is between the others."""
    p = int64(2048)
    if above - below > 8:
        p = int64(np.uint32((above - part) * 4095) // np.uint32(above - below))
    return int64(t.stretch[index(p)])


@inlined
def _pair(low, high):
    """Two int32 in an int64."""
    return (low & 0xFFFFFFFF) | high << 32


@inlined
def _mixed(s, t, c, first, second, node, row0, row1, cells):
    """The probability of a 1 at a node, and what the mixers said."""
    h = s.hashes
    a, b = _counted(t, s.counters, h[0] + node), _counted(t, s.counters, h[1] + node)
    d = _counted(t, s.counters, h[2] + node)
    e, f = _counted(t, s.direct, h[3] + node), _counted(t, s.direct, h[4] + node)
    set_pairs(s.inputs, int64(0), _pair(first, second), _pair(a, b), _pair(d, e), _pair(f, 256))
    said0, said1 = dot(s.inputs, s.mixers, row0), dot(s.inputs, s.mixers, row1)
    both = (said0 + said1) >> 1
    p = (int64(t.squash[index(both + 2048)]) + apm_predict(s.apm, cells, both) + 1) >> 1
    return within(p, int64(_MIN_P), int64(65536 - _MIN_P)), said0, said1


@inlined
def _learn(s, t, said0, said1, node, row0, row1, cells, bit):
    goal = bit << 16
    train(s.inputs, s.mixers, row0, ((goal - int64(t.squash[index(said0 + 2048)])) * 3) >> 1)
    train(s.inputs, s.mixers, row1, ((goal - int64(t.squash[index(said1 + 2048)])) * 3) >> 1)
    apm_update(s.apm, cells, (said0 + said1) >> 1, bit)
    for i in range(CONTEXTS):
        learn_counter(s.counters, s.hashes[index(i)] + node, bit, t.rate)
    learn_counter(s.direct, s.hashes[CONTEXTS] + node, bit, t.rate)
    learn_counter(s.direct, s.hashes[CONTEXTS + 1] + node, bit, t.rate)


@inlined
def _inside_node(side, steps, inside, path):
    """The node of a decision within a step; -1 for one without contexts."""
    if steps < 2 and inside < 2:
        return _INSIDE_NODE + (side * 2 + steps) * 3 + path - 1
    if inside < 1:
        return _FAR_NODE + min(int64(1), steps - 2) + side * 2
    return int64(-1)


@inlined
def _code_sample(coding, s, t, m, data, c, value, p, texture, kind, scales):
    """Codes `value` or decodes it; returns it. `p`: its prediction, in units of 1/16."""
    own, other = scales
    inverse, other_inverse = t.inverse[index(own)], t.inverse[index(other)]
    size = max(int64(0), own - 14) >> 2
    low, high = int64(0), int64(1) << m.depth
    below, above, below1, above1 = int64(0), int64(_WHOLE), int64(0), int64(_WHOLE)
    stage, side = int64(_SIDE), int64(0)
    steps = inside = int64(0)
    path = int64(1)
    base = c * (MIXER_ROWS[0] + MIXER_ROWS[1])
    while high - low > 1:
        if stage == _SIDE:
            at, node = (p >> 4) + 1, int64(0)
        elif stage == _INSIDE:
            at = (low + high + 1) >> 1
            node = _inside_node(side, steps, inside, path)
        else:
            step = int64(1) << (size + within(steps - 2, int64(0), int64(6)))
            node = min(steps, int64(6)) + (_UP_NODE if stage == _UP else _DOWN_NODE)
            at = low + step if stage == _UP else high - step
        if at <= low or at >= high:
            stage = int64(_DOWN if stage == _SIDE else _INSIDE)
            continue
        cells = (c * QUALITIES + kind) * NODES + node
        if node >= 0:
            prefetch(s.apm, cells * CELLS)
        edge = 16 * at - 8
        part = within(cumulative(t.wide, inverse, edge - p) >> 3, below, above)
        part1 = cumulative(t.narrow, other_inverse, edge - s.predictions[0]) >> 3
        part1 = within(part1, below1, above1)
        first = _from_distribution(t, below, above, part)
        second = _from_distribution(t, below1, above1, part1)
        bit = int64(value >= at)
        if node < 0:
            chance = int64(t.squash[index(((3 * first + second) >> 2) + 2048)])
            chance = within(chance, int64(_MIN_P), int64(65536 - _MIN_P))
            if coding:
                encode_bit(s.coder, data, bit, chance)
            else:
                bit = int64(decode_bit(s.coder, data, chance))
        else:
            row0 = base + kind * NODES + node
            row1 = base + MIXER_ROWS[0] + texture * NODES + node
            chance, said0, said1 = _mixed(s, t, c, first, second, node, row0, row1, cells)
            if coding:
                encode_bit(s.coder, data, bit, chance)
            else:
                bit = int64(decode_bit(s.coder, data, chance))
            _learn(s, t, said0, said1, node, row0, row1, cells, bit)
        if bit:
            low, below, below1 = at, part, part1
        else:
            high, above, above1 = at, part, part1
        if stage == _SIDE:
            side = bit
            stage = int64(_UP if bit else _DOWN)
        elif stage == _INSIDE:
            inside += 1
            path = path << 1 | bit
        elif (bit == 1) == (stage == _UP):
            steps += 1
        else:
            stage = int64(_INSIDE)
    return low


@inlined
def _learn_mean(s, t, at, error):
    seen = int64(s.seen[index(at)])
    mean = int64(s.bias[index(at)])
    s.bias[index(at)] = np.int32(mean + (((64 * error - mean) * int64(t.rate[index(seen)])) >> 16))
    s.seen[index(at)] = np.int32(min(seen + 1, int64(_MOST_SEEN)))


@inlined
def _sample(coding, s, t, m, data, c, y, x):
    stride = m.width + SIDES
    plane = (m.rows + TOP) * stride
    at = c * plane + (TOP + y) * stride + LEFT + x
    if x == 0:
        begin_row(s.planes, at, stride)
    most = ((int64(1) << m.depth) - 1) * 16
    shift = max(int64(0), m.depth - 8)
    count = _gather(s, m, c, at, stride, plane)
    base = int64(s.planes[index(at - 1)])
    found = base * 16 + linear(s.weights, c * FEATURES, s.features, FEATURES)
    s.predictions[0] = within(found, int64(0), most)
    fixed_predictions(s.predictions, 1, s.planes, c, at, stride, plane, most)
    blend = _blended(s, m, c, y, x)
    texture = _texture(s.planes, at, stride, (blend + 8) >> 4)
    kind = class_of(_size(s, m, c, y, x) >> (3 + (shift >> 1)))
    bias0, bias1 = _bias_places(s, m, c, y, x, texture, kind)
    mean = (int64(s.bias[index(bias0)]) + int64(s.bias[index(bias1)]) + 64) >> 7
    p = within(blend + mean, int64(0), most)
    expected = int64(s.means[index(c * QUALITIES + kind)])
    scales = scale_of(expected >> 4), scale_of((s.sizes[0] >> 1) + 4)
    _find_lines(s, m, c, at, stride, plane, p, kind)
    value = int64(s.planes[index(at)])
    value = _code_sample(coding, s, t, m, data, c, value, p, texture, kind, scales)
    s.planes[index(at)] = np.int32(value)
    sample_done(s.planes, at, stride, y == 0, x + 1 == m.width)
    here = _row_of(m, c, y) + x
    for i in range(PREDICTIONS):
        s.misses[index(here * ROOM + i)] = np.int32(abs(16 * value - s.predictions[index(i)]))
    error = 16 * value - p
    s.errors[index(here)] = np.int32(error)
    expected += (64 * abs(error) - expected + 64) >> 7
    s.means[index(c * QUALITIES + kind)] = np.int32(expected)
    _learn_mean(s, t, bias0, 16 * value - blend)
    _learn_mean(s, t, bias1, 16 * value - blend)
    said = linear(s.weights, c * FEATURES, s.scaled, FEATURES)
    goal = ((value - base) * 32) >> shift
    settings = int64(_FORGET), int64(_RIDGE), m.steps
    adapt(s, FEATURES, c, s.scaled, count, goal - said, settings)


@inlined
def _begin_errors(s, m, c, y):
    """What lies beyond the edges of the errors, before row `y` of plane `c`."""
    row, above = _row_of(m, c, y), _row_of(m, c, y - 1)
    for d in range(1, LEFT + 1):
        s.errors[index(row - d)] = s.errors[index(above)]
        s.errors[index(above + m.width - 1 + d)] = s.errors[index(above + m.width - 1)]
        for i in range(PREDICTIONS):
            a, b = above * ROOM + i, (above + m.width - 1) * ROOM + i
            s.misses[index((row - d) * ROOM + i)] = s.misses[index(a)]
            s.misses[index(b + d * ROOM)] = s.misses[index(b)]


@kernel(
    types.void(types.boolean, RESIDUAL_TYPE, STATE_TYPE, TABLES_TYPE, W8, types.int64, types.int64),
    counted=False,
)
def code_residuals(coding, m, s, t, data, begin, end):
    """Codes or decodes rows `begin` to `end` of all planes; pieces follow each other from 0 on.

    `data`: the arithmetic stream; the position in it is part of the coder's state. More than
    `data` has room for is counted, not written, and decoding stops soon after its end.
    """
    for y in range(begin, end):
        for c in range(m.channels):
            _begin_errors(s, m, c, y)
        for x in range(m.width):
            if x & 4095 == 0 and s.coder[AT] > data.size + 4:
                return
            for c in range(m.channels):
                _sample(coding, s, t, m, data, c, y, x)
