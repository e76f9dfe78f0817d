"""Contexts of shapes: what is drawn about a sample, by few levels of many neighbours.

Digits, drawings and scans are told by their outlines more than by exact values. See
docs/format/image.md, section 6.4, whose names are used here.
"""

import numba

from densor.entropy.jit import index, inlined

int64 = numba.int64

VALUES, SHAPES = 12, 4  # contexts of values, which come before these, and of shapes
OUTLINES = 1 << 12  # of six neighbours, each by one of four levels


@inlined
def _upper(a, at, depth):
    """The upper eight bits of a sample, or what stands for them."""
    return (int64(a[index(at)]) << 8) >> depth


@inlined
def _level(u):
    """One of four: nothing, dark, grey, light."""
    return int64(u > 0) + int64(u > 84) + int64(u > 200)


@inlined
def shapes(h, a, c, at, stride, plane, o0, depth):
    """Sets the contexts of shapes of the sample at `at` of plane `c`; returns its outline."""
    above, twice = at - stride, at - 2 * stride
    first = (at - 1, above, above - 1, above + 1, at - 2, twice)  # w, n, nw, ne, ww, nn
    further = (twice + 1, twice - 1, above - 2, above + 2)
    furthest = (at - 3, at - 3 * stride, twice + 2, twice - 2)
    outline, eighths, halves = int64(0), int64(0), int64(0)
    for place in first:
        u = _upper(a, place, depth)
        outline = outline << 2 | _level(u)
        eighths = eighths << 3 | u >> 5
        halves = halves << 1 | u >> 7
    levels = outline
    for place in further:
        u = _upper(a, place, depth)
        levels = levels << 2 | _level(u)
        halves = halves << 1 | u >> 7
    for place in furthest:
        halves = halves << 1 | _upper(a, place, depth) >> 7
    sixteenths = int64(0)
    for place in first:
        sixteenths = sixteenths << 4 | _upper(a, place, depth) >> 4
    h[VALUES] = halves << 4 | (o0 << 8 >> depth) >> 4
    h[VALUES + 1] = levels
    h[VALUES + 2] = eighths
    h[VALUES + 3] = sixteenths
    if c > 0:
        before = at - plane
        p = int64(a[index(before)])
        h[VALUES + 1] = levels << 16 | p
        h[VALUES + 2] = o0 << 34 | ((p - int64(a[index(before - 1)])) >> 1 & 0x1FFFF) << 17
        h[VALUES + 2] |= (p - int64(a[index(before - stride)])) >> 1 & 0x1FFFF
        h[VALUES + 3] = sixteenths << 16 | p
    return outline
