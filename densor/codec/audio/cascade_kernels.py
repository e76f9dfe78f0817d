"""The cascade: one kernel for both directions, so that both have the same model.

A sample is predicted by recursive least squares from its channel's samples and its partner's, and
what that leaves by adaptive filters of several lengths, one after the other (normalised least mean
squares, as in Monkey's Audio; mixed as in MPEG-4 RLS-LMS and F. Ghido, "OptimFROG"). The error is
coded by binary decisions: its sign, then a bucket of an adaptive Golomb code, each under the
averages of three adaptive probabilities. All arithmetic is in integers. See audio.md.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.codec.audio.recursive_kernels import (
    KINDS,
    LAGS,
    ORDER,
    RING,
    WEIGHT,
    add_products,
    bits_of,
    solve,
)
from densor.entropy.arithmetic.kernels import decode_bit, encode_bit
from densor.entropy.arithmetic.state import AT
from densor.entropy.jit import I32, I64, W8, W32, index, inlined, kernel

int64 = numba.int64

STAGES = 4
TAPS = 2048  # of a filter, at most
HISTORY = 4096  # instants until lines are moved
LINES = 2 + STAGES  # own samples, the partner's, what each stage is given
ROOM = HISTORY + TAPS + ORDER
LEAD = 1  # samples before the first one
LEVELS = 128  # of averages, four to an octave
NODES = 64  # decisions, and signs
BUCKETS = 30
SETS = 3  # of contexts
SET = LEVELS * 32 * NODES
NUMBERS = 16  # of a channel: the next ones
_SHARES, _POWERS, _MEANS, _LAST = 0, 4, 8, 11
_MOST_IN = (1 << 24) - 1  # what a stage is given
_MOST_WEIGHT = 1 << 27
_MOST_SHARE = 1 << 18
_RATE = 655  # of shares
_SEEN = 250
_LEAST_P = 64


class Cascade(NamedTuple):
    """Sizes and settings."""

    channels: int
    count: int
    depth: int
    first: int
    own: int  # variables
    other: int
    forget: int
    every: int  # instants between solutions
    fine: int  # binary places of predictions
    places: int  # of sums
    stages: int
    room: int  # of a line


class State(NamedTuple):
    """The adaptive state; sizes for c channels."""

    coder: npt.NDArray[np.int64]
    planes: npt.NDArray[np.int32]  # int32[c (LEAD + count)]
    lines: npt.NDArray[np.int32]  # int32[c LINES ROOM]: newest first
    places: npt.NDArray[np.int64]  # int64[c]: of the newest, in the first line
    sums: npt.NDArray[np.int64]  # int64[c KINDS RING LAGS]
    matrix: npt.NDArray[np.int32]  # int32[ORDER ORDER]
    factor: npt.NDArray[np.int32]
    totals: npt.NDArray[np.int64]  # int64[ORDER]
    roots: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int32]  # int32[c ORDER]
    exponents: npt.NDArray[np.int64]  # int64[c]
    filters: npt.NDArray[np.int32]  # int32[c STAGES TAPS]
    said: npt.NDArray[np.int64]  # int64[STAGES]
    numbers: npt.NDArray[np.int64]  # int64[c NUMBERS]
    counters: npt.NDArray[np.uint32]  # uint32[SETS SET]


class Tables(NamedTuple):
    """Constants."""

    taps: npt.NDArray[np.int64]  # int64[STAGES]
    rates: npt.NDArray[np.int64]
    shifts: npt.NDArray[np.int64]  # int64[BUCKETS]
    steps: npt.NDArray[np.int32]  # int32[1024]: of counters


CASCADE_TYPE = types.NamedUniTuple(types.int64, len(Cascade._fields), Cascade)
STATE_TYPE = types.NamedTuple(
    (I64, I32, I32, I64, I64, I32, I32, I64, I64, I64, I32, I64, I32, I64, I64, W32), State
)
TABLES_TYPE = types.NamedTuple((I64, I64, I64, I32), Tables)


@inlined
def _within(value, low, high):
    return min(max(value, low), high)


@inlined
def _level(value):
    """Four levels to an octave, of a number that is not negative."""
    v = max(value, int64(1))
    bits = bits_of(v)
    return 4 * (bits - 1) + (((v << 2) >> (bits - 1)) & 3)


@inlined
def _dot(a, at, b, there, count):
    total = int64(0)
    for i in range(count):
        total += int64(a[index(at + i)]) * int64(b[index(there + i)])
    return total


@inlined
def _linear(s, m, c):
    """The prediction by least squares."""
    at = s.places[index(c)]
    own = _dot(s.weights, c * ORDER, s.lines, at, m.own) >> (WEIGHT - m.fine)
    if m.other == 0:
        return own
    more = _dot(s.weights, c * ORDER + m.own, s.lines, at + m.room, m.other)
    more = _within(more >> 8, int64(-(1 << 42)), int64(1 << 42))
    up = s.exponents[index(c)] - (WEIGHT - m.fine - 8)
    if up > 20:
        return own
    return own + (more << up if up >= 0 else more >> min(-up, int64(63)))


@inlined
def _filter(s, t, m, c, k, number, error, given):
    """Moves a stage's weights along what it was given, which goes into its line then."""
    n = t.taps[index(k)]
    at = s.places[index(c)] + (2 + k) * m.room
    power = number + _POWERS + k
    floor = (n << (2 * m.fine)) >> 3
    size = s.numbers[index(power)] + floor + 1
    bits = bits_of(size)
    top = size >> (bits - 31) if bits > 31 else size << (31 - bits)
    limit = int64(_MOST_IN)
    step = ((_within(error, -limit, limit) * t.rates[index(k)]) << 24) // top
    up = 41 - bits
    step = step << min(up, int64(28)) if up >= 0 else step >> -up
    step = _within(step, int64(1 - (1 << 31)), int64((1 << 31) - 1))
    weights = (c * STAGES + k) * TAPS
    most = int64(_MOST_WEIGHT)
    for i in range(n):
        move = (step * int64(s.lines[index(at + i)]) + (1 << 29)) >> 30
        value = int64(s.filters[index(weights + i)]) + move
        s.filters[index(weights + i)] = np.int32(_within(value, -most, most))
    old = int64(s.lines[index(at + n - 1)])
    s.lines[index(at - 1)] = np.int32(given)
    s.numbers[index(power)] += given * given - old * old


@inlined
def _wrap(s, m, c):
    """Moves what is in use of the lines to their ends, where there is no room before it."""
    base = c * LINES * m.room
    if s.places[index(c)] > base:
        return
    for k in range(2 + m.stages):
        for i in range(TAPS + ORDER):
            s.lines[index(base + k * m.room + HISTORY + i)] = s.lines[index(base + k * m.room + i)]
    s.places[index(c)] = base + HISTORY


@inlined
def _partner(m, c):
    """The channel that helps to predict one, and how many samples it is behind."""
    if m.channels == 2:
        return 1 - c, int64(c == m.first)
    return (int64(1), int64(1)) if c == 0 else (c - 1, int64(0))


@inlined
def _decide(coding, s, t, data, bit, a, b, d):
    """Codes or decodes a decision under three counters."""
    v = s.counters
    x, y, z = int64(v[index(a)]), int64(v[index(b)]), int64(v[index(d)])
    p = ((x >> 10) + (y >> 10) + (z >> 10)) // 192
    p = _within(p, int64(_LEAST_P), int64(65536 - _LEAST_P))
    if coding:
        encode_bit(s.coder, data, bit, p)
    else:
        bit = int64(decode_bit(s.coder, data, p))
    goal = ((1 << 22) - 1) * bit
    for k in range(3):
        at = a if k == 0 else (b if k == 1 else d)
        value = x if k == 0 else (y if k == 1 else z)
        seen, chance = value & 1023, value >> 10
        chance += ((goal - chance) * int64(t.steps[index(seen)])) >> 16
        v[index(at)] = np.uint32(chance << 10 | (seen + int64(seen < _SEEN)))
    return bit


@inlined
def _code_error(coding, s, t, m, data, number, predicted, error):
    """Codes or decodes an error under a channel's averages; returns it."""
    means = number + _MEANS
    fast, mean, slow = (
        _level(s.numbers[index(means)] >> 4),
        _level(s.numbers[index(means + 1)] >> 4),
        _level(s.numbers[index(means + 2)] >> 4),
    )
    last = _level(s.numbers[index(number + _LAST)] + 1)
    last += _level(s.numbers[index(number + _LAST + 1)] + 1)
    unit = max(int64(0), (mean >> 2) - 1 - m.fine)
    part = (predicted + (int64(1) << m.fine >> 1)) & ((int64(1) << m.fine) - 1)
    part = part >> max(m.fine - 5, int64(0)) << max(5 - m.fine, int64(0))
    row = mean * 32
    a = (row + (part if unit < 3 else int64(0))) * NODES
    b = SET + fast * 32 * NODES
    d = 2 * SET + row * NODES
    bit = _decide(coding, s, t, data, int64(error >= 0), a, b, d)
    negative = 1 - bit
    a = (row + _within(fast - mean + 16, int64(0), int64(31))) * NODES + negative
    b = row + _within(((last - 2 * mean) >> 2) + 16, int64(0), int64(31))
    b = SET + b * NODES + negative
    d = row + _within(slow - mean + 16, int64(0), int64(31))
    d = 2 * SET + d * NODES + negative
    rest = error if error >= 0 else -error - 1
    low = int64(0)
    bits = int64(0)
    for k in range(BUCKETS):
        bits = min(unit + t.shifts[index(k)], int64(25))
        if k == BUCKETS - 1:
            break
        node = 2 * k + 2
        inside = int64(rest - low < int64(1) << bits)
        if _decide(coding, s, t, data, inside, a + node, b + node, d + node):
            break
        low += int64(1) << bits
    rest -= low
    found = int64(0)
    for k in range(bits):
        if coding:
            encode_bit(s.coder, data, (rest >> (bits - 1 - k)) & 1, 32768)
        else:
            found = found << 1 | decode_bit(s.coder, data, 32768)
    if coding:
        return error
    found += low
    return -found - 1 if negative else found


@inlined
def _learn(s, t, m, c, x, plain, predicted):
    """Takes the sample into the filters, their shares and the averages."""
    number = c * NUMBERS
    exact = x << m.fine
    limit = int64(_MOST_IN)
    error = exact - predicted
    size = abs(error)
    mean = s.numbers[index(number + _MEANS + 1)] >> 4
    power = mean * mean + (int64(1) << (2 * m.fine))
    for k in range(m.stages):
        power += s.said[index(k)] * s.said[index(k)]
    given = _within(exact - plain, -limit, limit)
    most = int64(_MOST_SHARE)
    for k in range(m.stages):
        said = s.said[index(k)]
        left = _within(given - said, -limit, limit)
        _filter(s, t, m, c, k, number, left, given)
        share = s.numbers[index(number + k)]
        share += (((error * said) // ((power >> 16) + 1)) * _RATE) >> 16
        s.numbers[index(number + k)] = _within(share, -most, most)
        given = left
    for k in range(3):
        at = number + _MEANS + k
        change = ((size << 4) - s.numbers[index(at)]) >> (3 if k == 0 else (5 if k == 1 else 8))
        s.numbers[index(at)] += change
    s.numbers[index(number + _LAST + 1)] = s.numbers[index(number + _LAST)]
    s.numbers[index(number + _LAST)] = size


@inlined
def _sample(coding, s, t, m, data, c, i):
    """Codes or decodes sample i of channel c."""
    _wrap(s, m, c)
    at = s.places[index(c)]
    plane = m.count + LEAD
    if m.other > 0:
        partner, behind = _partner(m, c)
        s.lines[index(at + m.room)] = s.planes[index(partner * plane + LEAD + i - behind)]
    base = c * KINDS * RING * LAGS
    lags = max(m.own, m.other) + 1
    for kind in range(4 if m.other > 0 else 1):
        row = base + kind * RING * LAGS
        newest = at if kind == 0 or kind == 2 else at + m.room
        others = at if kind == 0 or kind == 3 else at + m.room
        add_products(
            *(s.sums, row + (i & (RING - 1)) * LAGS, row + ((i - 1) & (RING - 1)) * LAGS),
            *(s.lines, newest, others, lags, m.forget, m.places),
        )
    most = int64(1) << (m.depth - 1 + m.fine)
    top = most - (int64(1) << m.fine)
    plain = _within(_linear(s, m, c), -most, top)
    total = int64(0)
    limit = int64(_MOST_IN)
    for k in range(m.stages):
        found = _dot(
            *(s.filters, (c * STAGES + k) * TAPS, s.lines, at + (2 + k) * m.room),
            t.taps[index(k)],
        )
        s.said[index(k)] = _within(found >> 24, -limit, limit)
        total += s.said[index(k)] * s.numbers[index(c * NUMBERS + k)]
    predicted = _within(plain + (total >> 16), -most, top)
    centre = (predicted + (int64(1) << m.fine >> 1)) >> m.fine
    place = c * plane + LEAD + i
    x = int64(s.planes[index(place)])
    error = _code_error(coding, s, t, m, data, c * NUMBERS, predicted, x - centre)
    spare = 64 - m.depth
    x = ((centre + error) << spare) >> spare
    s.planes[index(place)] = np.int32(x)
    _learn(s, t, m, c, x, plain, predicted)
    if i % m.every == 0:
        solve(s, m, c, x, i)
    at -= 1
    s.lines[index(at)] = np.int32(x)
    s.places[index(c)] = at


@kernel(
    types.void(types.boolean, CASCADE_TYPE, STATE_TYPE, TABLES_TYPE, W8, types.int64, types.int64),
    counted=False,
)
def code_samples(coding, m, s, t, data, begin, end):
    """Codes or decodes instants `begin` to `end`; pieces follow each other from 0 on.

    `data`: the arithmetic stream; the position in it is part of the coder's state. More than
    `data` has room for is counted, not written, and decoding stops soon after its end.
    """
    for i in range(begin, end):
        for k in range(m.channels):
            _sample(coding, s, t, m, data, k ^ m.first, i)
        if s.coder[AT] > data.size + 4:
            break
