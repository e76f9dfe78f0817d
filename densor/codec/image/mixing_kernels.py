"""Context mixing of pixels: one kernel for both directions, so that both have the same model.

A sample is binary decisions, its highest bit first. Distributions about several predictions, and
adaptive probabilities under hashed contexts, each predict the next bit; mixers weigh them in the
logistic domain (M. Mahoney, PAQ; B. Meyer, P. Tischer, "TMW", 1997, for blended distributions).
All arithmetic is in integers. See docs/format/image.md, whose names are used here.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.byte_cm.apm import CELLS, apm_predict, apm_update
from densor.codec.byte_cm.mixer import dot, final_sum, train, train_final
from densor.codec.image.local import GREY_FEATURES, begin_sections, learn_sections
from densor.codec.image.pixels import (
    ALL,
    QUALITIES,
    class_of,
    cumulative,
    fixed_predictions,
    hashed,
    learn_counter,
    quotient,
    scale_of,
    within,
)
from densor.codec.image.predict import (
    LEFT,
    SIDES,
    TOP,
    begin_row,
    sample_done,
)
from densor.codec.image.recursive import FEATURES, SETTINGS, adapt, linear
from densor.codec.image.shapes import OUTLINES, SHAPES, VALUES, shapes
from densor.entropy.arithmetic.kernels import decode_bit, encode_bit
from densor.entropy.arithmetic.state import AT
from densor.entropy.intrinsics import prefetch
from densor.entropy.jit import I32, I64, W8, W16, W32, index, inlined, kernel

int64 = numba.int64

PREDICTORS = 8  # at most: 6, and with windows (method LOCAL) 8
BLEND = 3  # which of 8 blends the others
CONTEXTS = VALUES + SHAPES
ROWS = (256, 16 * 48, 16 * 64, OUTLINES)  # of each set of weights, the last for shapes
BASIC_SETS, BASIC_ROWS, ALL_ROWS = 3, sum(ROWS[:3]), sum(ROWS)
BIASES = 64 * 16
APM_ROWS = (48 * 256, 16 * 64 * 16)
LENGTHS = 16  # classes of lengths of matches
PLACES = 1 << 16  # of the match model
_MIN_P = 24


class Image(NamedTuple):
    """Sizes of the planes."""

    rows: int
    width: int
    channels: int
    depth: int
    contexts: int  # that are used; more than VALUES: those of shapes as well
    sets: int  # of weights, as many of `ROWS`
    lines: int  # of counters of each context in each plane, a power of two
    steps: int  # of each linear predictor after each sample
    predictors: int  # 6, or 8 with local ones
    linear: int  # of them that are linear: 2, or 1 and `WINDOWS`


class State(NamedTuple):
    """The adaptive state; sizes for c channels of width w."""

    coder: npt.NDArray[np.int64]
    planes: npt.NDArray[np.int32]
    features: npt.NDArray[np.int32]  # int32[FEATURES], of the sample at hand
    scaled: npt.NDArray[np.int32]  # the same as the linear predictors learn them
    correlations: npt.NDArray[np.int32]  # int32[c linear FEATURES FEATURES]
    gradients: npt.NDArray[np.int64]  # int64[c linear FEATURES]
    weights: npt.NDArray[np.int32]  # int32[c linear FEATURES]
    next: npt.NDArray[np.int64]  # int64[c linear]
    sections: npt.NDArray[np.int32]  # int32[c WINDOWS 2 (sections + 1) CELLS]: own, to the right
    left: npt.NDArray[np.int32]  # int32[c WINDOWS CELLS]
    window: npt.NDArray[np.int32]  # int32[c CELLS]: of the first one, as the section began
    errors: npt.NDArray[np.int32]  # int32[c predictors 3 (w + SIDES)]: of three rows in turns
    sums: npt.NDArray[np.int64]  # int64[2 c predictors QUALITIES]: of errors, and how many
    bias: npt.NDArray[np.int64]  # int64[2 c predictors BIASES]: likewise
    raw: npt.NDArray[np.int64]  # int64[6 PREDICTORS]: the next six, each of the sample at hand
    hashes: npt.NDArray[np.int64]  # int64[3 CONTEXTS], and places of their lines, two in turns
    counters: npt.NDArray[np.uint32]  # uint32[c contexts lines 16]
    inputs: npt.NDArray[np.int32]  # int32[24 or 32]: predictors, values, match, 1, shapes
    mixers: npt.NDArray[np.int32]  # int32[c rows of all sets, inputs]
    outputs: npt.NDArray[np.int32]  # int32[sets]
    final: npt.NDArray[np.int32]  # int32[16 c, sets]
    apm0: npt.NDArray[np.uint16]
    apm1: npt.NDArray[np.uint16]
    places: npt.NDArray[np.uint32]  # uint32[PLACES]: of the match model
    match: npt.NDArray[np.int64]  # int64[2]: place and length
    matches: npt.NDArray[np.uint32]  # uint32[c LENGTHS 16]


class Tables(NamedTuple):
    """Constants."""

    squash: npt.NDArray[np.uint16]
    stretch: npt.NDArray[np.int16]
    rate: npt.NDArray[np.int32]
    trust: npt.NDArray[np.int32]  # int32[256]: of counters by what they have seen, 2^-8
    narrow: npt.NDArray[np.int32]  # int32[2 CENTRE + 1]: distribution
    wide: npt.NDArray[np.int32]  # of heavier tails
    inverse: npt.NDArray[np.int64]  # int64[SCALES]


_I32_2D = types.Array(types.int32, 2, "C")
IMAGE_TYPE = types.NamedUniTuple(types.int64, len(Image._fields), Image)
STATE_TYPE = types.NamedTuple(
    (
        I64, I32, I32, I32, I32, I64, I32, I64, I32, I32, I32, I32, I64, I64, I64, I64, W32, I32,
        _I32_2D, I32, _I32_2D, W16, W16, W32, I64, W32,
    ),
    State,
)  # fmt: skip
TABLES_TYPE = types.NamedTuple((W16, types.int16[::1], I32, I32, I32, I32, I64), Tables)
# Parts of `raw`
_RAW, _MEAN, _SCALE, _CLASS, _PLACE, _BELOW, _ABOVE = (i * PREDICTORS for i in range(7))
RAW_PARTS = 7
_SHARE = RAW_PARTS * PREDICTORS


@inlined
def _feature(s, i, value, own):
    s.features[index(i)] = np.int32(value - own)
    return i + 1


@inlined
def _around(s, m, i, a, at, stride):
    """Features of a plane's own neighbours, against the one to the left."""
    w = a[index(at - 1)]
    above, twice = at - stride, at - 2 * stride
    i = _feature(s, i, a[index(above)], w)
    i = _feature(s, i, a[index(above - 1)], w)
    i = _feature(s, i, a[index(above + 1)], w)
    i = _feature(s, i, a[index(at - 2)], w)
    i = _feature(s, i, a[index(twice)], w)
    i = _feature(s, i, a[index(twice + 1)], w)
    i = _feature(s, i, a[index(above - 2)], w)
    i = _feature(s, i, a[index(above + 2)], w)
    i = _feature(s, i, a[index(twice - 1)], w)
    i = _feature(s, i, a[index(at - 3 * stride)], w)
    i = _feature(s, i, a[index(at - 3)], w)
    if m.channels == 1:
        i = _feature(s, i, a[index(twice + 2)], w)
        i = _feature(s, i, a[index(twice - 2)], w)
        i = _feature(s, i, a[index(above + 3)], w)
        i = _feature(s, i, a[index(above - 3)], w)
        i = _feature(s, i, a[index(at - 3 * stride + 1)], w)
        i = _feature(s, i, a[index(at - 3 * stride - 1)], w)
    return i


@inlined
def _across(s, i, a, at, stride, far):
    """Features of an earlier plane, against its sample to the left."""
    w = a[index(at - 1)]
    i = _feature(s, i, a[index(at)], w)
    i = _feature(s, i, a[index(at - stride)], w)
    i = _feature(s, i, a[index(at - stride - 1)], w)
    i = _feature(s, i, a[index(at - stride + 1)], w)
    if far:
        i = _feature(s, i, a[index(at - 2)], w)
        i = _feature(s, i, a[index(at - 2 * stride)], w)
    return i


@inlined
def _gather(s, m, c, at, stride, plane):
    """Sets the features of the sample at `at` of plane `c`; returns how many there are."""
    a = s.planes
    i = _around(s, m, int64(0), a, at, stride)
    if c > 0:
        i = _across(s, i, a, at - plane, stride, c == 1)
    if c > 1:
        i = _across(s, i, a, at - 2 * plane, stride, False)
    if m.channels >= 3 and c < 2:
        for later in range(c + 1, 3):
            there = at + (later - c) * plane
            i = _feature(s, i, a[index(there - 1)], a[index(there - stride)])
    shift = max(int64(0), m.depth - 8)
    for k in range(FEATURES):
        s.scaled[index(k)] = np.int32(0)
    for k in range(i):
        s.scaled[index(k)] = np.int32((int64(s.features[index(k)]) * 2) >> shift)
    return i


@inlined
def _error_row(m, c, i, y):
    return ((c * m.predictors + i) * 3 + (y + 3) % 3) * (m.width + SIDES) + LEFT


@inlined
def _centre(m):
    """Which prediction contexts are about: the first one, or the blend."""
    return int64(BLEND if m.linear > 2 else 0)


@inlined
def _size(s, m, c, i, y, x):
    """How large errors of a prediction are about a sample, in one plane."""
    e = s.errors
    here, above = _error_row(m, c, i, y) + x, _error_row(m, c, i, y - 1) + x
    twice = _error_row(m, c, i, y - 2) + x
    size = 2 * abs(int64(e[index(here - 1)])) + 2 * abs(int64(e[index(above)]))
    size += abs(int64(e[index(above - 1)])) + abs(int64(e[index(above + 1)]))
    return size + abs(int64(e[index(here - 2)])) + abs(int64(e[index(twice)]))


@inlined
def _blend(s, m, c, y, x, most):
    """Sets the blend of all other predictions, each the less the larger its errors are near by."""
    raw, sizes = s.raw, _SHARE
    shift = max(int64(0), m.depth - 8)
    least = int64(1) << 40
    for i in range(PREDICTORS):
        size = _size(s, m, c, i, y, x)
        if c > 0:
            size = (2 * size + 5 * abs(int64(s.errors[index(_error_row(m, c - 1, i, y) + x)]))) >> 2
        size = (size >> shift) + 16
        raw[index(sizes + i)] = size
        least = min(least, size if i != BLEND else least)
    total, sums = int64(0), int64(0)
    for i in range(PREDICTORS):
        k = quotient(least << 12, raw[index(sizes + i)])
        g = (((k * k) >> 12) * k) >> 12
        if i < 2 or i > 5:
            g *= 3  # linear ones
        if i != BLEND:
            total += g
            sums += g * (raw[index(i)] - raw[0])
    raw[BLEND] = within(raw[0] + quotient(sums, total), int64(0), most)


@inlined
def _correct(s, m, c, y, x, texture, most):
    """Bias-corrected predictions, classes of their errors and scales of their distributions."""
    raw = s.raw
    shift = max(int64(0), m.depth - 8) >> 1
    for i in range(m.predictors):
        size = _size(s, m, c, i, y, x)
        if c > 0:
            size = 2 * size + 5 * abs(int64(s.errors[index(_error_row(m, c - 1, i, y) + x)]))
            size = quotient(size, int64(3))
        kind = class_of(size >> (3 + shift))
        raw[index(_CLASS + i)] = kind
        place = 2 * ((c * m.predictors + i) * BIASES + texture * 16 + min(int64(15), kind >> 1))
        raw[index(_PLACE + i)] = place
        raw[index(_SHARE + i)] = size
        prefetch(s.bias, place)
    for i in range(m.predictors):
        kind, place = raw[index(_CLASS + i)], raw[index(_PLACE + i)]
        mean = raw[index(i)]
        if s.bias[index(place + 1)] > 0:
            mean += quotient(s.bias[index(place)], s.bias[index(place + 1)])
        raw[index(_MEAN + i)] = within(mean, int64(0), most)
        at = 2 * ((c * m.predictors + i) * QUALITIES + kind)
        if s.sums[index(at + 1)] > 0:
            expected = quotient(4 * s.sums[index(at)], s.sums[index(at + 1)])
        else:
            expected = 64 + (raw[index(_SHARE + i)] >> 2)
        raw[index(_SCALE + i)] = scale_of(expected)
        raw[index(_BELOW + i)] = 0
        raw[index(_ABOVE + i)] = ALL


@inlined
def _step(value, depth):
    """An error in units of 1/16 as one of 15 steps."""
    return within(value >> (5 + max(int64(0), depth - 8)), int64(-7), int64(7)) + 8


@inlined
def _hash_contexts(s, m, c, at, stride, plane, y, x, texture):
    """Hashes the contexts of the sample; returns its outline, 0 without contexts of shapes."""
    a, raw, h = s.planes, s.raw, s.hashes
    w, n = int64(a[index(at - 1)]), int64(a[index(at - stride)])
    nw, ne = int64(a[index(at - stride - 1)]), int64(a[index(at - stride + 1)])
    ww, nn = int64(a[index(at - 2)]), int64(a[index(at - 2 * stride)])
    p = int64(a[index(at - plane)]) if c > 0 else int64(0)
    i = _centre(m)
    mean, kind = raw[index(_MEAN + i)], raw[index(_CLASS + i)]
    o0, o1 = (mean + 8) >> 4, (raw[_MEAN + 1] + 8) >> 4
    o2, o3 = (raw[_MEAN + 2] + 8) >> 4, (raw[_MEAN + 3] + 8) >> 4
    before = int64(s.errors[index(_error_row(m, c, i, y) + x - 1)])
    over = int64(s.errors[index(_error_row(m, c, i, y - 1) + x)])
    beside = int64(0)
    if c > 0:
        beside = _step(int64(s.errors[index(_error_row(m, c - 1, i, y) + x)]), m.depth)
    h[0] = mean >> 2
    h[1] = o0 << 6 | kind
    h[2] = o0 << 16 | o1
    h[3] = o0 << 16 | w
    h[4] = o0 << 16 | n
    h[5] = p << 32 | w << 16 | n
    h[6] = o2 << 16 | (p if c > 0 else ne)
    h[7] = o0 << 12 | texture << 6 | kind >> 1
    h[8] = (((p >> 2) << 14 | w >> 2) << 14 | n >> 2) << 22 ^ (ne >> 2) << 14 ^ nw >> 2
    if c > 1:
        h[9] = p << 16 | int64(a[index(at - 2 * plane)])
    else:
        h[9] = p << 34 | (2 * w - ww & 0x1FFFF) << 17 | 2 * n - nn & 0x1FFFF
    h[10] = o0 << 16 | _step(before, m.depth) << 8 | _step(over, m.depth) << 4 | beside
    h[11] = o3 << 16 | (raw[_MEAN + 4] + 8) >> 4
    outline = int64(0)
    if m.contexts > VALUES:
        outline = shapes(h, a, c, at, stride, plane, o0, m.depth)
    for i in range(m.contexts):
        h[index(i)] = hashed(h[index(i)], i)
    return outline


@inlined
def _places(done):
    """Which part of `hashes` has places for the bit after as many others."""
    return CONTEXTS << (done >> 2 & 1)


@inlined
def _find_lines(s, m, c, node, done):
    """Places of the lines of counters for the next four bits, after as many that are done."""
    places = _places(done)
    for i in range(m.contexts):
        line = hashed(s.hashes[index(i)], node) & (m.lines - 1)
        place = ((c * m.contexts + i) * m.lines + line) << 4
        s.hashes[index(places + i)] = place
        prefetch(s.counters, place)


@inlined
def _distribution_inputs(s, t, m, middle):
    """Inputs from the distributions: whether the sample is at least `middle`."""
    raw = s.raw
    edge = 16 * middle - 8
    for i in range(m.predictors):
        inverse = t.inverse[index(raw[index(_SCALE + i)])]
        distance = edge - raw[index(_MEAN + i)]
        table = t.narrow if i & 1 else t.wide
        share = cumulative(table, inverse, distance)
        below, above = raw[index(_BELOW + i)], raw[index(_ABOVE + i)]
        share = within(share, below, above)
        raw[index(_SHARE + i)] = share
        p = int64(2048)
        if above - below > 8:
            p = quotient((above - share) * 4095 + ((above - below) >> 1), above - below)
        s.inputs[index(i)] = t.stretch[index(p)]


@inlined
def _narrowed(s, m, bit):
    raw = s.raw
    for i in range(m.predictors):
        if bit:
            raw[index(_BELOW + i)] = raw[index(_SHARE + i)]
        else:
            raw[index(_ABOVE + i)] = raw[index(_SHARE + i)]


@inlined
def _counter_inputs(s, t, m, places, slot):
    for i in range(m.contexts):
        value = int64(s.counters[index(s.hashes[index(places + i)] + slot)])
        stretched = int64(t.stretch[index(value >> 20)])
        place = m.predictors + i + (2 if i >= VALUES else 0)
        s.inputs[index(place)] = (stretched * int64(t.trust[index(value & 255)])) >> 8


@inlined
def _code_sample(coding, s, t, m, data, c, at, texture, outline, expected, length):
    """Codes or decodes the sample at `at` of plane `c`; returns it."""
    value = int64(s.planes[index(at)])
    depth = m.depth
    low, node, slot = int64(0), int64(1), int64(1)
    kind, kind2 = s.raw[index(_CLASS + _centre(m))], s.raw[_CLASS + 2]
    centre = (s.raw[index(_MEAN + _centre(m))] + 8) >> 4
    match = m.predictors + VALUES
    shift = max(int64(0), depth - 8)
    base = c * (BASIC_ROWS if m.sets == BASIC_SETS else ALL_ROWS)
    row3 = base + BASIC_ROWS + outline
    _find_lines(s, m, c, node, int64(0))
    if m.sets > BASIC_SETS:
        prefetch(s.mixers, row3 * s.inputs.size)
    for done in range(depth):
        b = depth - 1 - done
        middle = low + (int64(1) << b)
        off = within((middle - centre) >> shift, int64(-128), int64(127)) + 128
        apm0 = c * APM_ROWS[0] + kind * 256 + off
        apm1 = c * APM_ROWS[1] + (b * 64 + texture) * 16 + min(int64(15), kind2 >> 1)
        prefetch(s.apm0, apm0 * CELLS)
        prefetch(s.apm1, apm1 * CELLS)
        places = _places(done)
        _distribution_inputs(s, t, m, middle)
        _counter_inputs(s, t, m, places, slot)
        guess = (expected >> b) & 1
        fits = length > 0 and expected >> (b + 1) == low >> (b + 1)
        where = ((c * LENGTHS + length) << 4) + b
        said = int64(0)
        if fits:
            said = int64(t.stretch[index(int64(s.matches[index(where)]) >> 20)])
            said = said if guess else -said
        s.inputs[index(match)] = np.int32(said)
        s.inputs[index(match + 1)] = np.int32(256)
        row0 = base + min(int64(255), node)
        row1 = base + ROWS[0] + b * 48 + kind
        row2 = base + ROWS[0] + ROWS[1] + b * 64 + texture
        s.outputs[0] = np.int32(dot(s.inputs, s.mixers, row0))
        s.outputs[1] = np.int32(dot(s.inputs, s.mixers, row1))
        s.outputs[2] = np.int32(dot(s.inputs, s.mixers, row2))
        if m.sets > BASIC_SETS:
            s.outputs[3] = np.int32(dot(s.inputs, s.mixers, row3))
        final = s.final[index(c * 16 + b)]
        total = int64(0)
        for k in range(m.sets):
            total += int64(s.outputs[index(k)]) * int64(final[index(k)])
        mixed = final_sum(total)
        p = apm_predict(s.apm0, apm0, mixed) + apm_predict(s.apm1, apm1, mixed)
        p += (2 if m.linear == 2 else 6) * int64(t.squash[index(mixed + 2048)])
        p = (p + 2) >> 2 if m.linear == 2 else (p + 4) >> 3
        p = within(p, int64(_MIN_P), int64(65536 - _MIN_P))
        if coding:
            bit = (value >> b) & 1
            encode_bit(s.coder, data, bit, p)
        else:
            bit = int64(decode_bit(s.coder, data, p))
        node = node << 1 | bit
        if done & 3 == 3 and b > 0:
            _find_lines(s, m, c, node, done + 1)  # so that they are there when all has learned
        for k in range(m.sets):
            error = (bit << 16) - int64(t.squash[index(int64(s.outputs[index(k)]) + 2048)])
            row = row0 if k == 0 else (row1 if k == 1 else (row2 if k == 2 else row3))
            train(s.inputs, s.mixers, row, (error * 3) >> 1)
        train_final(s.outputs, final, (bit << 16) - int64(t.squash[index(mixed + 2048)]))
        apm_update(s.apm0, apm0, mixed, bit)
        apm_update(s.apm1, apm1, mixed, bit)
        for i in range(m.contexts):
            learn_counter(s.counters, s.hashes[index(places + i)] + slot, bit, t.rate)
        if fits:
            learn_counter(s.matches, where, int64(bit == guess), t.rate)
        _narrowed(s, m, bit)
        if bit:
            low = middle
        slot = int64(1) if done & 3 == 3 else slot << 1 | bit
    return low


@inlined
def _learn_errors(s, m, c, y, x, value):
    raw = s.raw
    v = value * 16
    for i in range(m.predictors):
        place = raw[index(_PLACE + i)]
        s.bias[index(place)] += v - raw[index(i)]
        s.bias[index(place + 1)] += 1
        if s.bias[index(place + 1)] >= 256:
            s.bias[index(place)] >>= 1
            s.bias[index(place + 1)] >>= 1
        error = v - raw[index(_MEAN + i)]
        s.errors[index(_error_row(m, c, i, y) + x)] = np.int32(error)
        at = 2 * ((c * m.predictors + i) * QUALITIES + raw[index(_CLASS + i)])
        s.sums[index(at)] += abs(error)
        s.sums[index(at + 1)] += 1
        if s.sums[index(at + 1)] >= 1024:
            s.sums[index(at)] >>= 1
            s.sums[index(at + 1)] >>= 1


@inlined
def _texture(s, m, at, stride):
    a = s.planes
    p = (s.raw[index(_centre(m))] + 8) >> 4
    return (
        int64(a[index(at - 1)] > p)
        | int64(a[index(at - stride)] > p) << 1
        | int64(a[index(at - stride - 1)] > p) << 2
        | int64(a[index(at - stride + 1)] > p) << 3
        | int64(a[index(at - 2)] > p) << 4
        | int64(a[index(at - 2 * stride)] > p) << 5
    )


@inlined
def _sample(coding, s, t, m, data, c, y, x, expected, length):
    stride = m.width + SIDES
    plane = (m.rows + TOP) * stride
    at = c * plane + (TOP + y) * stride + LEFT + x
    if x == 0:
        begin_row(s.planes, at, stride)
    most = ((int64(1) << m.depth) - 1) * 16
    count = _gather(s, m, c, at, stride, plane)
    base = int64(s.planes[index(at - 1)])
    which = c * m.linear
    local = m.linear > 2
    few = min(count, int64(GREY_FEATURES)) if m.channels == 1 else count
    if local:
        begin_sections(s, m, c, x, few)
    for k in range(m.linear):
        found = base * 16 + linear(s.weights, (which + k) * FEATURES, s.features, count)
        s.raw[index(k if k < 2 else 4 + k)] = within(found, int64(0), most)
    fixed_predictions(s.raw, 2, s.planes, c, at, stride, plane, most)
    if local:
        _blend(s, m, c, y, x, most)
    texture = _texture(s, m, at, stride)
    _correct(s, m, c, y, x, texture, most)
    outline = _hash_contexts(s, m, c, at, stride, plane, y, x, texture)
    value = _code_sample(coding, s, t, m, data, c, at, texture, outline, expected, length)
    s.planes[index(at)] = np.int32(value)
    sample_done(s.planes, at, stride, y == 0, x + 1 == m.width)
    _learn_errors(s, m, c, y, x, value)
    shift = max(int64(0), m.depth - 8)
    goal = ((value - base) * 32) >> shift
    if local:
        s.scaled[FEATURES - 1] = goal >> 4
        learn_sections(s, m, c, x, few, goal)
    for k in range(1 if local else 2):
        said = linear(s.weights, (which + k) * FEATURES, s.scaled, count)
        forget, ridge = SETTINGS[1] if local or k else SETTINGS[0]
        settings = int64(forget), int64(ridge), m.steps
        adapt(s, FEATURES, which + k, s.scaled, count, goal - said, settings)
    return value


@inlined
def _look_up(s, m, y, x):
    """Finds where the pixels about the next one were seen before; notes where they are now."""
    stride = m.width + SIDES
    plane = (m.rows + TOP) * stride
    at = (TOP + y) * stride + LEFT + x
    h = int64(0)
    for c in range(m.channels):
        a = at + c * plane
        for near in (a - 1, a - 2, a - stride - 1, a - stride, a - stride + 1):
            h = hashed(h * 0x10001 + int64(s.planes[index(near)]) + 1, int64(7))
    slot = h & (PLACES - 1)
    found = int64(s.places[index(slot)])
    s.places[index(slot)] = np.uint32(at)
    if s.match[1] == 0:
        s.match[0] = found
        s.match[1] = int64(found > 0)


@kernel(
    types.void(types.boolean, IMAGE_TYPE, STATE_TYPE, TABLES_TYPE, W8, types.int64, types.int64),
    counted=False,
)
def code_rows(coding, m, s, t, data, begin, end):
    """Codes or decodes rows `begin` to `end` of all planes; pieces follow each other from 0 on.

    `data`: the arithmetic stream; the position in it is part of the coder's state. More than
    `data` has room for is counted, not written, and decoding stops soon after its end.
    """
    plane = (m.rows + TOP) * (m.width + SIDES)
    for y in range(begin, end):
        for c in range(m.channels):
            for i in range(m.predictors):
                row = _error_row(m, c, i, y)
                above = _error_row(m, c, i, y - 1)
                for d in range(1, LEFT + 1):
                    s.errors[index(row - d)] = s.errors[index(above)]
                    s.errors[index(above + m.width - 1 + d)] = s.errors[index(above + m.width - 1)]
        for x in range(m.width):
            _look_up(s, m, y, x)
            place, length = s.match[0], s.match[1]
            right = True
            for c in range(m.channels):
                expected = int64(0)
                if length > 0:
                    expected = int64(s.planes[index(place + c * plane)])
                value = _sample(coding, s, t, m, data, c, y, x, expected, length)
                right = right and value == expected
            s.match[0] = place + 1
            s.match[1] = min(length + 1, int64(LENGTHS - 1)) if right and length > 0 else int64(0)
        if s.coder[AT] > data.size + 4:
            break
