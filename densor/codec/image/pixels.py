"""What both context models of pixels are made of: predictions, classes, distributions, counters.

All arithmetic is in integers. See docs/format/image.md, whose names are used here.
"""

import numba
import numpy as np

from densor.entropy.bits import bit_length
from densor.entropy.jit import index, inlined

int64 = numba.int64

QUALITIES = 48  # classes of recent errors
SCALES = 76  # of distributions, four to an octave, from 1/8 of a level on
CENTRE = 256  # of a table of distribution
ALL = 1 << 22  # what a distribution sums up to
_SEEN = 250  # what a counter counts to


@inlined
def within(value, low, high):
    return min(max(value, low), high)


@inlined
def median(a, b, c):
    """The prediction of the median edge detector of JPEG-LS."""
    return within(a + b - c, min(a, b), max(a, b))


@inlined
def class_of(value):
    """A class of a number that is not negative, four to an octave."""
    if value < 8:
        return value
    bits = bit_length(value)
    return min(int64(QUALITIES - 1), 8 + 4 * (bits - 4) + ((value >> (bits - 3)) & 3))


@inlined
def scale_of(mean):
    """The scale for a mean error in units of 1/64: four to an octave."""
    v = (mean * 25) >> 5
    if v < 8:
        return int64(0)
    bits = bit_length(v)
    top = v << 16 >> bits
    part = int64(top >= 38968) + int64(top >= 46341) + int64(top >= 55109)
    return min(4 * (bits - 4) + part, int64(SCALES - 1))


@inlined
def fixed_predictions(raw, first, a, c, at, stride, plane, most):
    """Sets four predictions that do not adapt, from `raw[first]` on, in units of 1/16.

    `a`: planes, each `plane` samples after the one before; `at`: of the sample, in plane `c`.
    """
    w, n = int64(a[index(at - 1)]), int64(a[index(at - stride)])
    nw, ne = int64(a[index(at - stride - 1)]), int64(a[index(at - stride + 1)])
    ww, nn = int64(a[index(at - 2)]), int64(a[index(at - 2 * stride)])
    nne = int64(a[index(at - 2 * stride + 1)])
    med = median(w, n, nw)
    zero = int64(0)
    if c == 0:
        raw[index(first + 0)] = med * 16
        raw[index(first + 1)] = within(8 * (w + n) + 4 * (ne - nw), zero, most)
        raw[index(first + 2)] = within(16 * (n + ne - nne), zero, most)
        raw[index(first + 3)] = within(8 * (2 * w - ww + 2 * n - nn), zero, most)
        return
    b = at - plane
    p, pw, pn = int64(a[index(b)]), int64(a[index(b - 1)]), int64(a[index(b - stride)])
    pnw, pne = int64(a[index(b - stride - 1)]), int64(a[index(b - stride + 1)])
    raw[index(first + 0)] = within(16 * (med + p - median(pw, pn, pnw)), zero, most)
    raw[index(first + 1)] = within(8 * (w + n) + 8 * (2 * p - pw - pn), zero, most)
    if c == 1:
        raw[index(first + 2)] = within(
            8 * (w + n) + 4 * (ne - nw) + 16 * p - 8 * (pw + pn) - 4 * (pne - pnw), zero, most
        )
    else:
        q = b - plane
        q0, qw, qn = int64(a[index(q)]), int64(a[index(q - 1)]), int64(a[index(q - stride)])
        raw[index(first + 2)] = within(8 * (w + n) + 8 * (2 * q0 - qw - qn), zero, most)
    far = 16 * p - 8 * (pw + pn + pne - pnw)
    raw[index(first + 3)] = within(8 * (w + n + ne - nw) + ((far * 3) >> 2), zero, most)


@inlined
def hashed(value, i):
    h = (value + i * 0x3C6EF372) * 0x2C1B3C6D9E3779B1
    h ^= (h >> 29) & 0x7FFFFFFFF
    h *= 0x165667B19E3779F9
    return (h >> 20) & 0xFFFFFFFF


@inlined
def cumulative(table, inverse, distance):
    """What of a distribution is below a distance from its centre."""
    place = ((distance * inverse) >> 16) + (CENTRE << 8)
    place = within(place, int64(0), int64((2 * CENTRE << 8) - 1))
    lower = int64(table[index(place >> 8)])
    upper = int64(table[index((place >> 8) + 1)])
    return lower + (((upper - lower) * (place & 255)) >> 8)


@inlined
def quotient(a, b):
    """a // b for b > 0 and |a| < 2^53, by a division of floats, not of integers of 64 bits.

    Exact: a quotient that is no integer is farther from the next one than it is rounded.
    """
    return int64(np.floor(np.float64(a) / np.float64(b)))


@inlined
def learn_counter(counters, at, bit, rate):
    value = int64(counters[index(at)])
    seen = value & 1023
    goal = (int64(bit) << 22) - int64(bit)
    change = ((goal - (value >> 10)) * int64(rate[index(seen)])) >> 16
    counters[index(at)] = np.uint32(value + (change << 10) + int64(seen < _SEEN))
