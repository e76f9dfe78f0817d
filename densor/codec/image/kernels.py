"""Loops of the fast method, and of what both methods do to rows: split into planes, joined again.

Rows of a wavefront are coded together, each some columns behind the one above it: their chains of
predictions do not wait for each other. Arrays in, arrays out; bounds are proven by the bindings.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.image.predict import (
    LEFT,
    SIDES,
    SKEW,
    TEXTURES,
    TOP,
    begin_row,
    corrected,
    first_row_done,
    learned,
    predict,
    predict_lanes,
)
from densor.entropy import vectors as v
from densor.entropy.intrinsics import load_u16, store_u16
from densor.entropy.jit import I32, I64, R8, R16, R32, W8, W16, W32, index, inlined, kernel

int64 = numba.int64

DIRECT = 128  # tokens that are folded errors as they are; beyond, four to an octave, and low bits
_FIRST = 1 << 16  # of rANS states, see docs/format/rans.md
KEPT = 8  # steps of a wavefront that are at hand
ABOVE = 2  # rows above it
WIDE = 24  # columns of a step: those, and sixteen rows; with room for all vectors
_LEAST_LANES = 3  # rows that are worth a vector, which waits for all that is in it
NO_COLOUR, GREEN, GREEN_MEAN, LIFTED, ORDERED = range(5)  # colour transforms, see image.md


class Shape(NamedTuple):
    """Sizes of rows, and of their samples; see `params.Model`."""

    rows: int
    width: int
    channels: int
    size: int  # bytes of a sample
    big: int  # 1 for the high byte first
    depth: int
    colour: int
    stride: int  # bytes from row to row


class Work(NamedTuple):
    """What changes from sample to sample."""

    planes: npt.NDArray[np.int32]
    bias: npt.NDArray[np.int32]  # int32[channels * LEVELS * TEXTURES]
    errors: npt.NDArray[np.int64]  # of each chain the last one, absolute, and 0
    chains: npt.NDArray[np.int64]  # int64[wavefront * channels * CHAIN], see `Chain`
    predictions: npt.NDArray[np.int32]  # of known rows, or of a step: int32[channels * 16]
    textures: npt.NDArray[np.int32]  # of the same samples, beside their activities
    recent: npt.NDArray[np.int32]  # int32[channels * KEPT * WIDE], see `_cell`


class Chain(NamedTuple):
    """What stays the same of the samples of a channel in a row of a wavefront.

    Chain number row * channels + channel. Places are those at step 0 of the first wavefront.
    """

    at: int  # in `planes`
    prediction: int  # in `predictions`
    recent: int  # in `recent`
    first: int  # chains whose errors count besides its own
    second: int
    context: int  # the first one
    bias: int  # the first one
    low: int  # least value of its plane


CHAIN = len(Chain._fields)
_AT, _PREDICTION, _RECENT, _FIRST_ERROR, _SECOND_ERROR, _CONTEXT, _BIAS, _LOW = range(CHAIN)
_SHAPE = types.NamedUniTuple(types.int64, len(Shape._fields), Shape)
_WORK = types.NamedTuple((I32, I32, I64, I64, I32, I32, I32), Work)


@inlined
def _wrapped(value, low, mask):
    return ((value - low) & mask) + low


@inlined
def _place(s, channel, row):
    """Where the first sample of a row of a plane stands."""
    return (channel * (s.rows + TOP) + TOP + row) * (s.width + SIDES) + LEFT


@inlined
def _load(data, at, s):
    if s.size == 1:
        return int64(data[index(at)])
    a, b = int64(data[index(at)]), int64(data[index(at + 1)])
    return a << 8 | b if s.big else b << 8 | a


@inlined
def _store(data, at, s, value):
    if s.size == 1:
        data[index(at)] = np.uint8(value)
    else:
        high, low = value >> 8, value & 255
        data[index(at)] = np.uint8(high if s.big else low)
        data[index(at + 1)] = np.uint8(low if s.big else high)


@inlined
def _transformed(r, g, b, colour, half, mask):
    if colour == GREEN:
        return g, _wrapped(r - g, -half, mask), _wrapped(b - g, -half, mask)
    if colour == GREEN_MEAN:
        return g, _wrapped(r - g, -half, mask), _wrapped(b - ((r + g) >> 1), -half, mask)
    if colour == LIFTED:
        orange = _wrapped(r - b, -half, mask)
        middle = (b + (orange >> 1)) & mask
        green = _wrapped(g - middle, -half, mask)
        return (middle + (green >> 1)) & mask, green, orange
    return g, r, b


@inlined
def _restored(x, y, z, colour, mask):
    if colour == GREEN:
        return (x + y) & mask, x, (x + z) & mask
    if colour == GREEN_MEAN:
        r = (x + y) & mask
        return r, x, (z + ((r + x) >> 1)) & mask
    if colour == LIFTED:
        middle = (x - (y >> 1)) & mask
        b = (middle - (z >> 1)) & mask
        return (b + z) & mask, (middle + y) & mask, b
    return y, x, z


@kernel(types.void(R8, W8))
def find_values(data, found):
    """Sets `found`, uint8[256], to 1 for each value that occurs."""
    for i in range(data.size):
        found[index(data[i])] = np.uint8(1)


@kernel(types.void(_SHAPE, R8, I32))
def split_rows(s, data, planes):
    """Sets the planes of rows of samples, of which none has more than `depth` bits."""
    mask = (int64(1) << s.depth) - 1
    half = (mask + 1) >> 1
    plane = (s.rows + TOP) * (s.width + SIDES)
    for row in range(s.rows):
        begin = _place(s, int64(0), row)
        source = row * s.stride
        first = int64(0)
        if s.colour != NO_COLOUR:
            first = int64(3)
            for x in range(s.width):
                at = source + x * s.channels * s.size
                r, g = _load(data, at, s), _load(data, at + s.size, s)
                b = _load(data, at + 2 * s.size, s)
                p, q, t = _transformed(r, g, b, s.colour, half, mask)
                planes[index(begin + x)] = np.int32(p)
                planes[index(begin + plane + x)] = np.int32(q)
                planes[index(begin + 2 * plane + x)] = np.int32(t)
        for c in range(first, s.channels):
            for x in range(s.width):
                at = source + (x * s.channels + c) * s.size
                planes[index(begin + c * plane + x)] = np.int32(_load(data, at, s))


@kernel(types.void(_SHAPE, I32, W8))
def join_rows(s, planes, data):
    """Sets rows of samples from their planes, and zeros between them."""
    mask = (int64(1) << s.depth) - 1
    plane = (s.rows + TOP) * (s.width + SIDES)
    for row in range(s.rows):
        begin = _place(s, int64(0), row)
        target = row * s.stride
        first = int64(0)
        if s.colour != NO_COLOUR:
            first = int64(3)
            for x in range(s.width):
                p = int64(planes[index(begin + x)])
                q = int64(planes[index(begin + plane + x)])
                t = int64(planes[index(begin + 2 * plane + x)])
                r, g, b = _restored(p, q, t, s.colour, mask)
                at = target + x * s.channels * s.size
                _store(data, at, s, r)
                _store(data, at + s.size, s, g)
                _store(data, at + 2 * s.size, s, b)
        for c in range(first, s.channels):
            for x in range(s.width):
                at = target + (x * s.channels + c) * s.size
                _store(data, at, s, int64(planes[index(begin + c * plane + x)]))
        for at in range(target + s.width * s.channels * s.size, target + s.stride):
            data[index(at)] = np.uint8(0)


@inlined
def _columns(t, width, together):
    """The rows of a wavefront that have a column at step `t`, from the first on; row 0 is at t."""
    return max(int64(0), (t - width) // SKEW + 1), min(together, t // SKEW + 1)


@inlined
def _of_chain(w, k, name):
    return w.chains[index(k * CHAIN + name)]


@inlined
def _corrected(w, s, levels, k, sample):
    """The prediction of a sample of a chain, place of its bias, and context.

    `sample`: where what `predict` says of it stands.
    """
    texture = int64(w.textures[index(sample)])
    errors = w.errors[index(k)] + w.errors[index(_of_chain(w, k, _FIRST_ERROR))]
    errors += w.errors[index(_of_chain(w, k, _SECOND_ERROR))]
    activity = (texture >> 6) + 2 * errors
    level = int64(levels[index(min(activity, int64(levels.size - 1)))])
    place = _of_chain(w, k, _BIAS) + level * TEXTURES + (texture & (TEXTURES - 1))
    low = _of_chain(w, k, _LOW)
    p = int64(w.predictions[index(sample)])
    p = corrected(p, int64(w.bias[index(place)]), low, low + (int64(1) << s.depth) - 1)
    return p, place, _of_chain(w, k, _CONTEXT) + level


@inlined
def _learn(w, k, place, error):
    w.bias[index(place)] = np.int32(learned(int64(w.bias[index(place)]), error))
    w.errors[index(k)] = abs(error)


@inlined
def _end_row(planes, s, row):
    """Sets what is right of the last sample of a row."""
    for c in range(s.channels):
        at = _place(s, c, row) + s.width
        last = planes[index(at - 1)]
        planes[index(at)] = planes[index(at + 1)] = planes[index(at + 2)] = last


@inlined
def _begin_row(w, s, row, errors):
    for c in range(s.channels):
        begin_row(w.planes, _place(s, c, row), s.width + SIDES)
        w.errors[index(errors + c)] = 0


@inlined
def _octave(folded):
    """Bits of a number of 128 or more."""
    bits = int64(8)
    while folded >> bits:
        bits += 1
    return bits


@inlined
def _predict_one(w, s, scale, at, sample):
    p, texture = predict(w.planes, at, s.width + SIDES, scale)
    w.predictions[index(sample)] = np.int32(p)
    w.textures[index(sample)] = np.int32(texture)


@inlined
def _predict_lanes(w, neighbours, scale, sample):
    p, texture = predict_lanes(*neighbours, scale)
    v.store_u32(w.predictions, sample, p)
    v.store_u32(w.textures, sample, texture)


@inlined
def _predict_row(w, s, scale, c, row, sample):
    """Predicts the samples of a row that are known, from `sample` on."""
    at = _place(s, c, row)
    above = at - (s.width + SIDES)
    second = above - (s.width + SIDES)
    for x in range(0, s.width if row else 0, v.LANES):
        neighbours = (
            v.load_u32(w.planes, at + x - 1),
            v.load_u32(w.planes, at + x - 2),
            v.load_u32(w.planes, above + x),
            v.load_u32(w.planes, above + x - 1),
            v.load_u32(w.planes, above + x + 1),
            v.load_u32(w.planes, second + x),
            v.load_u32(w.planes, second + x + 1),
        )
        _predict_lanes(w, neighbours, scale, sample + x)
    for x in range(0 if row else s.width):
        _predict_one(w, s, scale, at + x, sample + x)
        first_row_done(w.planes, at + x, s.width + SIDES)


@inlined
def _code_sample(w, s, levels, k, at, sample, i, tokens, contexts, lower):
    """Sets token, context and low bits of a sample of a chain."""
    mask = (int64(1) << s.depth) - 1
    p, place, context = _corrected(w, s, levels, k, sample)
    error = _wrapped(int64(w.planes[index(at)]) - p, -((mask + 1) >> 1), mask)
    folded = (error << 1) ^ (error >> 63)
    token = folded
    if folded >= DIRECT:
        bits = _octave(folded)
        low = bits - 3
        token = DIRECT + 4 * (bits - 8) + ((folded >> low) & 3)
        lower[index(i)] = np.uint16(folded & ((int64(1) << low) - 1))
    tokens[index(i)] = np.uint8(token)
    contexts[index(i)] = np.uint8(context)
    _learn(w, k, place, error)


@kernel(types.void(_SHAPE, _WORK, R8, int64, int64, W8, W8, W16))
def model_rows(s, w, levels, scale, wavefront, tokens, contexts, lower):
    """Sets token, context and low bits of each sample, in the order in which they are coded."""
    i = int64(0)
    for group in range(0, s.rows, wavefront):
        together = min(wavefront, s.rows - group)
        for row in range(together):
            _begin_row(w, s, group + row, row * s.channels)
            _end_row(w.planes, s, group + row)
            for c in range(s.channels):
                sample = _of_chain(w, row * s.channels + c, _PREDICTION) + SKEW * row
                _predict_row(w, s, scale, c, group + row, sample)
        begin = group * (s.width + SIDES)
        for t in range(s.width + SKEW * (together - 1)):
            first, end = _columns(t, s.width, together)
            for k in range(first * s.channels, end * s.channels):
                at = _of_chain(w, k, _AT) + begin + t
                sample = _of_chain(w, k, _PREDICTION) + t
                _code_sample(w, s, levels, k, at, sample, i, tokens, contexts, lower)
                i += 1


@kernel(types.void(R8, R8, types.int64[:, ::1]))
def count_tokens(tokens, contexts, counts):
    """Adds to `counts`, int64[contexts, 256]."""
    for i in range(tokens.size):
        counts[index(contexts[i]), index(tokens[i])] += 1


@inlined
def _put(x, words, at, most):
    """Makes room in a state that may be at most below `most`."""
    store_u16(words, at - 2, np.uint16(x & 0xFFFF))  # whether or not: branches would be guessed
    full = int64(x >= most)
    return x >> (full << 4), at - 2 * full


@kernel(types.int64(_SHAPE, int64, R8, R8, R16, R32, I64, W8))
def put_rows(s, wavefront, tokens, contexts, lower, starts, states, words):
    """Codes what `model_rows` has set, from the end of `words`; returns where it begins.

    `starts`: as `entropy.rans.kernels.build_starts` makes it. `states`: int64[wavefront *
    channels].
    Room: 4 bytes a sample.
    """
    at = words.size
    i = int64(tokens.size)
    for k in range((s.rows + wavefront - 1) // wavefront):
        group = ((s.rows + wavefront - 1) // wavefront - 1 - k) * wavefront
        together = min(wavefront, s.rows - group)
        steps = s.width + SKEW * (together - 1)
        for back in range(steps):
            t = steps - 1 - back
            first, end = _columns(t, s.width, together)
            for k in range(end * s.channels - 1, first * s.channels - 1, -1):
                i -= 1
                state = states[index(k)]
                token = int64(tokens[index(i)])
                if token >= DIRECT:
                    low = ((token - DIRECT) >> 2) + 5
                    state, at = _put(state, words, at, int64(1) << (32 - low))
                    state = state << low | int64(lower[index(i)])
                start = int64(starts[index(int64(contexts[index(i)]) << 8 | token)])
                freq = start >> 16
                state, at = _put(state, words, at, freq << 20)
                quotient = np.uint32(state) // np.uint32(freq)
                rest = state - int64(quotient) * freq
                states[index(k)] = (int64(quotient) << 12) + rest + (start & 0xFFFF)
    return at


@inlined
def _filled(state, words, at):
    """A state with a word from the stream where it needs one; the last word again at its end."""
    word = int64(load_u16(words, min(at, int64(words.size - 2))))
    short = state < _FIRST
    return (state << 16 | word) if short else state, at + 2 * int64(short)


@inlined
def _cell(c, t, row):
    """Where `recent` has the sample of a row of a wavefront at a step, of channel `c`."""
    return (c * KEPT + (t & (KEPT - 1))) * WIDE + ABOVE + row


@inlined
def _predict_step(w, s, scale, c, t, group):
    """Predicts what all rows of a wavefront have at a step of channel `c`."""
    above = _place(s, c, group - 1) + t
    second = above - (s.width + SIDES)
    if t <= s.width:
        for x in range(-1, 2):
            w.recent[index(_cell(c, t + x - SKEW, -1))] = w.planes[index(above + x)]
            w.recent[index(_cell(c, t + x - 2 * SKEW, -2))] = w.planes[index(second + x)]
    neighbours = (
        v.load_u32(w.recent, _cell(c, t - 1, 0)),
        v.load_u32(w.recent, _cell(c, t - 2, 0)),
        v.load_u32(w.recent, _cell(c, t - SKEW, -1)),
        v.load_u32(w.recent, _cell(c, t - SKEW - 1, -1)),
        v.load_u32(w.recent, _cell(c, t - SKEW + 1, -1)),
        v.load_u32(w.recent, _cell(c, t - 2 * SKEW, -2)),
        v.load_u32(w.recent, _cell(c, t - 2 * SKEW + 1, -2)),
    )
    _predict_lanes(w, neighbours, scale, c * v.LANES)


@inlined
def _begin_step(w, s, scale, wavefront, t, group, end):
    """Predicts what rows of a wavefront have at a step, before row `end`."""
    if t == SKEW * (end - 1):
        row = end - 1
        _begin_row(w, s, group + row, row * s.channels)
        for c in range(s.channels):
            left = w.planes[index(_place(s, c, group + row) - 1)]
            w.recent[index(_cell(c, t - 1, row))] = left
            w.recent[index(_cell(c, t - 2, row))] = left
    for c in range(s.channels if wavefront >= _LEAST_LANES else 0):
        _predict_step(w, s, scale, c, t, group)


@inlined
def _end_step(w, s, t, group, first):
    """Sets what lies beyond the edges, after a step of which `first` is the first row."""
    if group + first == 0:
        for c in range(s.channels):
            first_row_done(w.planes, _place(s, c, int64(0)) + t, s.width + SIDES)
    over = t + 1 - s.width
    if over >= 0 and over % SKEW == 0:
        row = over // SKEW
        _end_row(w.planes, s, group + row)
        for c in range(s.channels):
            w.recent[index(_cell(c, t + 1, row))] = w.recent[index(_cell(c, t, row))]


@kernel(types.int64(_SHAPE, _WORK, R8, int64, int64, R8, int64, I64, W32))
def take_rows(s, w, levels, scale, wavefront, words, at, states, table):
    """Decodes all planes; returns the position in `words` after them, maybe beyond their end.

    `words`: at least two bytes. `table`: as `entropy.rans.kernels.build_table` makes it.
    """
    mask = (int64(1) << s.depth) - 1
    for group in range(0, s.rows, wavefront):
        together = min(wavefront, s.rows - group)
        begin = group * (s.width + SIDES)
        for t in range(s.width + SKEW * (together - 1)):
            first, end = _columns(t, s.width, together)
            _begin_step(w, s, scale, wavefront, t, group, end)
            for k in range(first * s.channels, end * s.channels):
                here = _of_chain(w, k, _AT) + begin + t
                sample = _of_chain(w, k, _PREDICTION)
                if wavefront < _LEAST_LANES:
                    _predict_one(w, s, scale, here, sample)
                p, place, context = _corrected(w, s, levels, k, sample)
                state = states[index(k)]
                entry = int64(table[index(context << 12 | state & 4095)])
                state = ((entry >> 20) + 1) * (state >> 12) + (entry >> 8 & 4095)
                state, at = _filled(state, words, at)
                folded = entry & 255
                if folded >= DIRECT:
                    low = ((folded - DIRECT) >> 2) + 5
                    top = 4 | folded & 3
                    folded = top << low | state & ((int64(1) << low) - 1)
                    state, at = _filled(state >> low, words, at)
                states[index(k)] = state
                error = (folded >> 1) ^ -(folded & 1)
                value = np.int32(_wrapped(p + error, _of_chain(w, k, _LOW), mask))
                w.planes[index(here)] = value
                w.recent[index(_of_chain(w, k, _RECENT) + (t & (KEPT - 1)) * WIDE)] = value
                _learn(w, k, place, error)
            _end_step(w, s, t, group, first)
        if at > words.size:
            break
    return at
