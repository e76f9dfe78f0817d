"""Linear prediction by recursive least squares, in integers.

Sums of products of a channel's samples and its partner's, which forget exponentially, give the
matrix of correlations: what it holds of samples i and j before is what the sum of lag j - i was i
samples ago, so that only sums of the newest sample are kept up to date. Now and then the normal
equations are solved by Cholesky decomposition, scaled so that no element of the factor is above 1
(as in MPEG-4 RLS-LMS, ISO/IEC 14496-3:2005/Amd 3, with block solutions). See audio.md, section 8.
"""

import numba
import numpy as np

from densor.entropy.intrinsics import leading_zeros
from densor.entropy.jit import index, inlined

int64 = numba.int64

ORDER = 32  # variables, at most
LAGS = ORDER + 1
KINDS = 4  # of sums: own by own, partner by partner, own by partner, partner by own
RING = 32  # instants whose sums are kept
UNIT = 30  # binary places of the matrix and its factor
WEIGHT = 24  # of weights
_LEAST_PIVOT = 1 << 34
_LIMIT = 1 << 31


@inlined
def _within(value, low, high):
    return min(max(value, low), high)


@inlined
def bits_of(value):
    """The length in binary of a number that is not negative."""
    return int64(63) - int64(leading_zeros(np.uint64(value) << np.uint64(1) | np.uint64(1)))


@inlined
def _root(value):
    """The square root, rounded down; the float is but a first guess."""
    root = int64(np.sqrt(np.float64(value)))
    while root * root > value:
        root -= 1
    while (root + 1) * (root + 1) <= value:
        root += 1
    return root


@inlined
def add_products(sums, at, before, lines, newest, others, lags, forget, places):
    """One row of sums, from the one before: lags from 0 of the sample at `newest`."""
    x = int64(lines[index(newest)])
    for d in range(lags):
        old = sums[index(before + d)]
        product = x * int64(lines[index(others + d)])
        sums[index(at + d)] = old - (old >> forget) + (product << places)


@inlined
def _scaled(value, exponent, limit):
    """A sum in units of 2^(exponent - 30), within a limit of at most 2^31."""
    if exponent >= UNIT:
        return _within(value >> (exponent - UNIT), -limit, limit)
    return _within(_within(value, -limit, limit) << (UNIT - exponent), -limit, limit)


@inlined
def _row(base, kind, t):
    """Where the sums of a kind at an instant begin."""
    return base + (kind * RING + (t & (RING - 1))) * LAGS


@inlined
def _fill(s, base, own, other, t, eo, ex, ridge):
    """The lower triangle of the scaled matrix, by columns."""
    a, m = s.sums, s.matrix
    one = int64(1 << UNIT)
    for i in range(own):
        row = _row(base, int64(0), t - i)
        for j in range(i, own):
            m[index(i * ORDER + j)] = np.int32(_scaled(a[index(row + j - i)], 2 * eo, one))
    for i in range(other):
        row = _row(base, int64(1), t - i)
        for j in range(i, other):
            place = (own + i) * ORDER + own + j
            m[index(place)] = np.int32(_scaled(a[index(row + j - i)], 2 * ex, one))
    for i in range(own):
        row = _row(base, int64(2), t - i)
        for j in range(other):
            if j >= i:
                value = a[index(row + j - i)]
            else:
                value = a[index(_row(base, int64(3), t - j) + i - j)]
            m[index(i * ORDER + own + j)] = np.int32(_scaled(value, eo + ex, one))
    for i in range(own + other):
        e = eo if i < own else ex
        m[index(i * ORDER + i)] += np.int32(_scaled(ridge, 2 * e, one) + 4)


@inlined
def _decompose(s, n):
    """Cholesky decomposition, left-looking by columns; sums modulo 2^64."""
    m, f, total = s.matrix, s.factor, s.totals
    for j in range(n):
        column = j * ORDER
        for i in range(ORDER):
            total[index(i)] = int64(0)
        for k in range(j):
            here = k * ORDER
            share = int64(f[index(here + j)])
            for i in range(ORDER):
                total[index(i)] += share * int64(f[index(here + i)])
        pivot = (int64(m[index(column + j)]) << UNIT) - total[index(j)]
        root = _root(_within(pivot, int64(_LEAST_PIVOT), int64(1) << 62))
        s.roots[index(j)] = root
        bits = bits_of(root)
        inverse = (int64(1) << (UNIT + bits)) // root
        most = int64(1 << UNIT)
        for i in range(j + 1):
            f[index(column + i)] = np.int32(0)
        for i in range(j + 1, n):
            value = (int64(m[index(column + i)]) << UNIT) - total[index(i)]
            value = _within(value >> bits, -most, most) * inverse >> UNIT
            f[index(column + i)] = np.int32(_within(value, -most, most))
        for i in range(n, ORDER):
            f[index(column + i)] = np.int32(0)


@inlined
def _substitute(s, n, weights):
    """Sets the weights from the right-hand side, in `s.right`; sums modulo 2^64."""
    f, total = s.factor, s.totals
    limit = int64(_LIMIT)
    for i in range(ORDER):
        total[index(i)] = int64(0)
    for j in range(n):
        value = ((s.right[index(j)] << UNIT) - total[index(j)]) // s.roots[index(j)]
        value = _within(value, -limit, limit)
        s.right[index(j)] = value
        for i in range(j + 1, n):
            total[index(i)] += value * int64(f[index(j * ORDER + i)])
    for back in range(n):
        j = n - 1 - back
        known = int64(0)
        for i in range(j + 1, n):
            known += int64(f[index(j * ORDER + i)]) * int64(s.weights[index(weights + i)])
        value = ((s.right[index(j)] << WEIGHT) - known) // s.roots[index(j)]
        s.weights[index(weights + j)] = np.int32(_within(value, 1 - limit, limit - 1))


@inlined
def solve(s, m, c, x, t):
    """Finds the weights of a channel whose newest sample x, at instant t, is in no sum yet.

    Lines still begin with the sample before.
    """
    base = c * KINDS * RING * LAGS
    own, other, forget = m.own, m.other, m.forget
    ridge = int64(1) << (m.places + forget)
    most_own, most_other = int64(0), int64(0)
    for i in range(own):
        most_own = max(most_own, s.sums[index(_row(base, int64(0), t - i))])
    for i in range(other):
        most_other = max(most_other, s.sums[index(_row(base, int64(1), t - i))])
    eo, ex = (bits_of(most_own + ridge) + 1) >> 1, (bits_of(most_other + ridge) + 1) >> 1
    _fill(s, base, own, other, t, eo, ex, ridge)
    _decompose(s, own + other)
    limit = int64(_LIMIT)
    for i in range(own + other):
        if i < own:
            old, e = s.sums[index(_row(base, int64(0), t) + i + 1)], 2 * eo
            product = x * int64(s.lines[index(s.places[index(c)] + i)])
        else:
            k = i - own
            old, e = s.sums[index(_row(base, int64(2), t) + k + 1)], eo + ex
            product = x * int64(s.lines[index(s.places[index(c)] + m.room + k)])
        value = old - (old >> forget) + (product << m.places)
        s.right[index(i)] = _scaled(value, e, limit)
    _substitute(s, own + other, c * ORDER)
    s.exponents[index(c)] = eo - ex
