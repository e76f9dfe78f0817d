"""Loops of the fast method: sixteen stretches of a frame side by side, one in each lane.

A lane predicts its samples from those before by weights that the encoder has found, and codes what
is left under a context of recent errors, all lanes on one rANS state each. See audio.md.

Samples stand in rows of 16, uint32[channels * (LEAD + steps) * 16]; step t of lane l is the sample
l * steps + t of its channel. Where they and the weights have 16 bits, those that are known have the
one before in their high half, so that two products take one instruction. Bounds are proven by
`lanes.py`.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.entropy import vectors as v
from densor.entropy.float_vectors import transpose
from densor.entropy.jit import I32, I64, R8, R32, W8, W32, inlined, kernel
from densor.entropy.rans.kernels import put_lanes, refill, step
from densor.entropy.word_pairs import multiply_pairs

int64 = numba.int64

LANES = v.LANES
LEAD = 32  # rows before the first one: as many as there are weights of one sort, at most
DIRECT = 128  # tokens that are folded errors as they are; beyond, four to an octave, and low bits
CONTEXTS = 256
FINER = 6  # binary places of averages
DEEP = 24  # bits of a sample beyond which averages have fewer places
FAST, SLOW = 4, 7  # shifts of the averages
ESCAPE = 255  # the token of errors that stand by themselves
MOST_RAW = 31  # low bits of an error
_HALF = 16  # of them that a state gives at a time


class Frame(NamedTuple):
    """What kernels must know of a frame, and of how it is predicted."""

    channels: int
    count: int  # samples of a channel
    steps: int  # of a lane
    depth: int  # bits of a sample
    own: int  # weights of a channel's own samples, at most
    other: int  # and of its partner's
    block: int  # samples that share weights
    first: int  # the channel of a pair that is coded first
    paired: int  # whether samples and weights have 16 bits at most


class Lanes(NamedTuple):
    """Work space."""

    samples: npt.NDArray[np.uint32]  # uint32[channels * (LEAD + steps) * 16]
    weights: npt.NDArray[np.uint32]  # uint32[channels * 2 * LEAD * 16], of each lane at hand
    shifts: npt.NDArray[np.uint32]  # uint32[channels * 16]
    averages: npt.NDArray[np.uint32]  # uint32[channels * 2 * 16]
    sums: npt.NDArray[np.int64]  # int64[16]
    states: npt.NDArray[np.uint32]  # uint32[16], of rANS


FRAME_TYPE = types.NamedUniTuple(types.int64, len(Frame._fields), Frame)
LANES_TYPE = types.NamedTuple((W32, W32, W32, W32, I64, W32), Lanes)


@inlined
def row_of(f, c, t):
    """Where the row of a channel and step begins."""
    return (c * (LEAD + f.steps) + LEAD + t) * LANES


@inlined
def partner_of(f, c):
    """The channel that helps to predict channel `c`, and how many steps that is behind."""
    if f.channels == 1:
        return c, int64(0)
    if f.channels == 2:
        return 1 - c, int64(c == f.first)
    if c == 0:
        return int64(1), int64(1)
    return c - 1, int64(0)


@inlined
def _load_weights(f, w, table, c, lane, block):
    """Sets the weights of a lane that comes to a block of its channel."""
    row = (block * f.channels + c) * (2 * LEAD + 1)
    w.shifts[c * LANES + lane] = np.uint32(table[row])
    for sort in range(2):
        first, place = row + 1 + sort * LEAD, (2 * c + sort) * LEAD
        used = f.own if sort == 0 else f.other
        if f.paired:
            for i in range((used + 1) >> 1):
                low, high = table[first + 2 * i], table[first + 2 * i + 1]
                both = np.uint32(low) & np.uint32(0xFFFF) | np.uint32(high) << np.uint32(16)
                w.weights[(place + i) * LANES + lane] = both
        else:
            for i in range(used):
                w.weights[(place + i) * LANES + lane] = np.uint32(table[first + i])


@inlined
def _next_change(f, t):
    """The step after `t` at which some lane comes to another block."""
    nearest = f.steps
    for lane in range(LANES):
        place = lane * f.steps + t
        nearest = min(nearest, t + f.block - place % f.block)
    return nearest


@inlined
def _enter(f, w, table, t):
    """Sets the weights of all lanes that begin a block with step `t`."""
    last = max(int64(0), f.count // f.block - 1)
    for lane in range(LANES):
        place = lane * f.steps + t
        if t == 0 or place % f.block == 0:
            for c in range(f.channels):
                _load_weights(f, w, table, c, lane, min(place // f.block, last))


@inlined
def _products(w, here, at, pairs):
    """The sum of products of pairs of weights and samples, the newest of which may come late."""
    total = v.splat(0)
    for i in range(1, pairs):
        weights = v.load_u32(w.weights, here + i * LANES)
        samples = v.load_u32(w.samples, at - 2 * i * LANES)
        total = v.add(total, multiply_pairs(weights, samples))
    if pairs > 0:
        newest = multiply_pairs(v.load_u32(w.weights, here), v.load_u32(w.samples, at))
        total = v.add(total, newest)
    return total


@inlined
def _paired_sum(f, w, c, t):
    """Weighted sums of samples of up to 16 bits: they fit 32 bits."""
    partner, behind = partner_of(f, c)
    here = c * 2 * LEAD * LANES
    there = row_of(f, partner, t - behind)
    own = _products(w, here, row_of(f, c, t - 1), (f.own + 1) >> 1)
    other = _products(w, here + LEAD * LANES, there, (f.other + 1) >> 1)
    return v.shift_right_signed_by(v.add(own, other), v.load_u32(w.shifts, c * LANES))


@inlined
def _wide_sum(f, w, c, t):
    """The same where sums do not fit 32 bits."""
    partner, behind = partner_of(f, c)
    at, there = row_of(f, c, t - 1), row_of(f, partner, t - behind)
    here = c * 2 * LEAD * LANES
    for lane in range(LANES):
        w.sums[lane] = 0
    for i in range(f.own):
        for lane in range(LANES):
            weight = np.int32(w.weights[here + i * LANES + lane])
            w.sums[lane] += int64(weight) * int64(np.int32(w.samples[at - i * LANES + lane]))
    here += LEAD * LANES
    for i in range(f.other):
        for lane in range(LANES):
            weight = np.int32(w.weights[here + i * LANES + lane])
            w.sums[lane] += int64(weight) * int64(np.int32(w.samples[there - i * LANES + lane]))
    for lane in range(LANES):
        value = w.sums[lane] >> int64(w.shifts[c * LANES + lane])
        w.weights[w.weights.size - LANES + lane] = np.uint32(value)
    return v.load_u32(w.weights, w.weights.size - LANES)


@inlined
def _predict(f, w, c, t):
    if f.paired:
        return _paired_sum(f, w, c, t)
    return _wide_sum(f, w, c, t)


@inlined
def _with_before(x, before):
    """Samples with those before them in their high halves."""
    return v.either(v.both(x, v.splat(0xFFFF)), v.shift_left(before, 16))


@inlined
def _store(f, w, at, x):
    """Sets the row that begins at `at`, after the one before."""
    if f.paired:
        x = _with_before(x, v.load_u32(w.samples, at - LANES))
    v.store_u32(w.samples, at, x)


@inlined
def _wrapped(f, x):
    """Lanes taken modulo 2^depth, with a sign."""
    spare = 32 - f.depth
    return v.shift_right_signed(v.shift_left(x, spare), spare)


@inlined
def _context(w, c):
    """The context of each lane, by its averages: four to an octave, and whether errors grow."""
    fast = v.load_u32(w.averages, 2 * c * LANES)
    slow = v.load_u32(w.averages, (2 * c + 1) * LANES)
    mean = v.shift_right(v.add(fast, slow), 1)
    level = v.shift_right(v.float_bits(v.either(mean, v.splat(1))), 21)
    level = v.subtract(level, v.splat(127 << 2))
    grows = v.choose(v.less(slow, fast), v.splat(1), v.splat(0))
    return v.either(v.shift_left(level, 1), grows)


@inlined
def raw_bits_of(context, depth):
    """Low bits of errors that have no say in tokens, by their context."""
    octave = v.add(v.shift_right(context, 3), v.splat(max(0, depth - DEEP)))
    return v.choose(v.less(octave, v.splat(9)), v.splat(0), v.subtract(octave, v.splat(9)))


@inlined
def _learn(f, w, c, error):
    """Takes the errors into the averages."""
    sign = v.shift_right_signed(error, 31)
    size = v.subtract(v.exclusive(error, sign), sign)
    if f.depth > DEEP:
        size = v.shift_right(size, f.depth - DEEP)
    size = v.shift_left(size, FINER)
    for k in range(2):
        at = (2 * c + k) * LANES
        shift = FAST if k == 0 else SLOW
        old = v.load_u32(w.averages, at)
        change = v.shift_right_signed(v.subtract(size, old), shift)
        v.store_u32(w.averages, at, v.add(old, change))


@inlined
def _start(f, w):
    """Sets the rows before the first one to the first samples, and that one itself."""
    for c in range(f.channels):
        first = v.load_u32(w.samples, row_of(f, c, 0))
        if f.paired:
            first = _with_before(first, first)
        for t in range(LEAD + 1):
            v.store_u32(w.samples, row_of(f, c, t - LEAD), first)


@kernel(types.void(FRAME_TYPE, LANES_TYPE, I32, W8, W8, W32))
def model_lanes(f, w, table, tokens, contexts, errors):
    """Sets token, context and error of each sample, by channels within steps, from step 1 on.

    `table`: int32[blocks * channels * (1 + 2 LEAD)], shifts and weights. What lies beyond the end
    of a channel is replaced by its prediction.
    """
    _start(f, w)
    i = int64(0)
    change = int64(0)
    edge = f.count - (LANES - 1) * f.steps
    for t in range(1, f.steps):
        if t == 1 or t == change:
            _enter(f, w, table, int64(0) if t == 1 else t)
            change = _next_change(f, t)
        for k in range(f.channels):
            c = k ^ f.first
            p = _predict(f, w, c, t)
            at = row_of(f, c, t)
            x = v.load_u32(w.samples, at)
            error = _wrapped(f, v.subtract(x, p))
            if t >= edge:
                error = _only_real(f, t, error)
                x = _wrapped(f, v.add(p, error))
            _store(f, w, at, x)
            context = _context(w, c)
            token, _, _ = _token_of(error, raw_bits_of(context, f.depth))
            v.store_u8(tokens, i, token)
            v.store_u8(contexts, i, context)
            v.store_u32(errors, i, error)
            i += LANES
            _learn(f, w, c, error)


@inlined
def _ones(bits):
    """As many low bits set in each lane, below 32."""
    return v.subtract(v.shift_left_by(v.splat(1), bits), v.splat(1))


@inlined
def _token_of(error, k_bits):
    """Tokens, how many bits follow them beside the lowest, and the folded errors without those."""
    folded = v.shift_right_signed_by(error, k_bits)
    folded = v.exclusive(v.shift_left(folded, 1), v.shift_right_signed(folded, 31))
    far = v.shift_right(folded, 5)
    far = v.exclusive(far, v.both(far, v.shift_right(far, 1)))  # not to be rounded up
    octave = v.subtract(v.shift_right(v.float_bits(far), 23), v.splat(127))
    direct = v.less(folded, v.splat(DIRECT))
    extra = v.choose(direct, v.splat(0), v.add(octave, v.splat(3)))
    top = v.both(v.shift_right_by(folded, extra), v.splat(3))
    far = v.add(v.splat(DIRECT - 20), v.add(v.shift_left(extra, 2), top))
    return v.choose(direct, folded, far), extra, folded


@inlined
def _only_real(f, t, error):
    """Errors without those of samples beyond the end of a channel."""
    mask = int64(0)
    for lane in range(LANES):
        if lane * f.steps + t < f.count:
            mask |= int64(1) << lane
    return v.choose(v.mask_of(mask), error, v.splat(0))


@kernel(types.void(R8, R8, types.uint32[:, ::1]))
def count_tokens(tokens, contexts, counts):
    """Adds to `counts`, uint32[contexts, 256]."""
    for i in range(tokens.size):
        counts[contexts[i], tokens[i]] += np.uint32(1)


@inlined
def _put_raw(x, value, bits, words, at):
    """Codes up to 16 bits per lane."""
    limit = v.subtract(v.splat(32), bits)
    over = v.shift_right_by(v.shift_right_by(x, v.subtract(limit, v.splat(1))), v.splat(1))
    full = v.less(v.splat(0), over)
    v.compress_u16_before(words, at, full, x)
    x = v.choose(full, v.shift_right(x, 16), x)
    return v.either(v.shift_left_by(x, bits), v.both(value, _ones(bits))), at - 2 * v.count(full)


@kernel(types.void(R8, R8, R8, W8))
def place_tokens(tokens, contexts, chosen, places):
    """Sets words of two bytes: each token, and the distribution that `chosen` has of its context.

    `places`: uint8[2 n]. So the coder takes them from memory, see `gather_u32_at`.
    """
    for i in range(tokens.size):
        places[2 * i] = tokens[i]
        places[2 * i + 1] = chosen[contexts[i]]


@kernel(types.int64(types.int64, R8, R32, R8, R32, W32, W8))
def put_lanes_of(depth, contexts, errors, places, starts, states, words):
    """Codes what `model_lanes` has set, from the end of `words`; returns where it begins.

    `places`: as `place_tokens` makes them. `starts`: as `build_starts` of rANS makes it. `states`:
    uint32[16]. Room: 64 bytes, and 2 for each 8 bits of a sample, and 2.
    """
    at = words.size
    x = v.load_u32(states, 0)
    for j in range(contexts.size // LANES):
        i = contexts.size - (j + 1) * LANES
        error = v.load_u32(errors, i)
        k_bits = raw_bits_of(v.load_u8(contexts, i), depth)
        _, extra, folded = _token_of(error, k_bits)
        start = v.gather_u32_at(starts, places, 2 * i)
        low = v.shift_left_by(v.both(folded, _ones(extra)), k_bits)
        low = v.either(low, v.both(error, _ones(k_bits)))
        total = v.add(extra, k_bits)
        coded = v.less(v.splat((1 << 16) - 1), start)
        if v.count(coded) < LANES:
            escape = v.either(v.both(v.load_u16(places, 2 * i), v.splat(0xFF00)), v.splat(ESCAPE))
            start = v.choose(coded, start, v.gather_u32(starts, escape))
            low = v.choose(coded, low, error)
            total = v.choose(coded, total, v.splat(depth))
        if depth > 16:
            first = v.choose(v.less(total, v.splat(_HALF)), total, v.splat(_HALF))
            x, at = _put_raw(x, v.shift_right(low, _HALF), v.subtract(total, first), words, at)
            total = first
        x, at = _put_raw(x, low, total, words, at)
        x, at = put_lanes(x, start, v.reciprocal(v.shift_right(start, 16)), words, at)
    v.store_u32(states, 0, x)
    return at


@inlined
def _raw_bits(token, k_bits):
    """Bits of an error that follow its token."""
    extra = v.subtract(v.shift_right(token, 2), v.splat((DIRECT >> 2) - 5))
    total = v.add(v.choose(v.less(token, v.splat(DIRECT)), v.splat(0), extra), k_bits)
    return v.choose(v.less(total, v.splat(MOST_RAW)), total, v.splat(MOST_RAW))


@inlined
def _take_raw(x, bits, words, at):
    value = v.both(x, _ones(bits))
    x, at = refill(v.shift_right_by(x, bits), words, at)
    return value, x, at


@kernel(types.int64(FRAME_TYPE, LANES_TYPE, I32, R8, types.int64, R32, R32))
def take_lanes(f, w, table, words, at, rows, slots):
    """Decodes all steps from 1 on; returns the position in `words`, maybe beyond what they hold.

    `words`: with 64 bytes for each channel and 64 more behind what is read. `slots`: as
    `build_table` of rANS makes it.
    """
    _start(f, w)
    change = int64(0)
    x = v.load_u32(w.states, 0)
    end = words.size - (f.channels + 1) * 2 * 3 * LANES
    for t in range(1, f.steps):
        if t == 1 or t == change:
            _enter(f, w, table, int64(0) if t == 1 else t)
            change = _next_change(f, t)
        if at > end:
            return words.size + 1
        for k in range(f.channels):
            c = k ^ f.first
            context = _context(w, c)
            base = v.shift_left(v.gather_u32(rows, context), 12)
            entry, x = step(x, slots, base)
            x, at = refill(x, words, at)
            token = v.both(entry, v.splat(255))
            k_bits = raw_bits_of(context, f.depth)
            escaped = v.equal(token, v.splat(ESCAPE))
            total = v.choose(escaped, v.splat(f.depth), _raw_bits(token, k_bits))
            if f.depth > 16:
                first = v.choose(v.less(total, v.splat(_HALF)), total, v.splat(_HALF))
                raw, x, at = _take_raw(x, first, words, at)
                high, x, at = _take_raw(x, v.subtract(total, first), words, at)
                raw = v.either(raw, v.shift_left(high, _HALF))
            else:
                raw, x, at = _take_raw(x, total, words, at)
            direct = v.less(token, v.splat(DIRECT))
            top = v.choose(direct, token, v.either(v.both(token, v.splat(3)), v.splat(4)))
            extra = v.choose(escaped, v.splat(0), v.subtract(total, k_bits))
            folded = v.either(v.shift_left_by(top, extra), v.shift_right_by(raw, k_bits))
            sign = v.subtract(v.splat(0), v.both(folded, v.splat(1)))
            error = v.exclusive(v.shift_right(folded, 1), sign)
            error = v.either(v.shift_left_by(error, k_bits), v.both(raw, _ones(k_bits)))
            error = _wrapped(f, v.choose(escaped, raw, error))
            p = _predict(f, w, c, t)
            _store(f, w, row_of(f, c, t), _wrapped(f, v.add(p, error)))
            _learn(f, w, c, error)
    v.store_u32(w.states, 0, x)
    return at


@inlined
def _whole_steps(f):
    """Steps in sixteens that all lanes have."""
    return max(int64(0), min(f.steps, f.count - (LANES - 1) * f.steps)) & -LANES


@kernel(types.void(R32, FRAME_TYPE, W32))
def to_lanes(planes, f, samples):
    """Sets the rows of `Lanes` from uint32[channels * count]; 0 beyond the end."""
    whole = _whole_steps(f)
    for c in range(f.channels):
        begin = c * f.count
        for t in range(0, whole, LANES):
            transpose(planes, begin + t, f.steps, samples, row_of(f, c, t), int64(LANES))
        for t in range(whole, f.steps):
            at = row_of(f, c, t)
            for lane in range(LANES):
                place = lane * f.steps + t
                samples[at + lane] = planes[begin + place] if place < f.count else np.uint32(0)


@kernel(types.void(R32, FRAME_TYPE, W32))
def from_lanes(samples, f, planes):
    """The inverse of `to_lanes`, of samples that have been decoded."""
    whole = _whole_steps(f)
    spare = int64(16 if f.paired else 0)
    for c in range(f.channels):
        begin = c * f.count
        for t in range(0, whole, LANES):
            transpose(samples, row_of(f, c, t), int64(LANES), planes, begin + t, f.steps)
            for lane in range(LANES if f.paired else 0):
                at = begin + lane * f.steps + t
                x = v.shift_left(v.load_u32(planes, at), spare)
                v.store_u32(planes, at, v.shift_right_signed(x, spare))
        for t in range(whole, f.steps):
            for lane in range(LANES):
                place = lane * f.steps + t
                if place < f.count:
                    x = np.int32(samples[row_of(f, c, t) + lane] << np.uint32(spare))
                    planes[begin + place] = np.uint32(x >> spare)
