"""Prediction from neighbours, bias correction and contexts of the fast method, for its kernels.

The predictor is gradient-adjusted, with error feedback under textures (X. Wu, N. Memon,
"Context-based, adaptive, lossless image coding", 1997, sections III and IV). Samples stand in
planes, int32[channels * (rows + TOP) * (width + SIDES)], with room for what lies beyond the edges.
See docs/format/image.md.
"""

import numba
import numpy as np

from densor.entropy import vectors as v
from densor.entropy.jit import index, inlined

int64 = numba.int64

TOP = 3  # rows above the first one
LEFT, RIGHT = 3, 3  # columns beside each row
SIDES = LEFT + RIGHT
SKEW = 3  # columns that each row of a wavefront is behind the one above it
LEVELS = 13  # of activity
TEXTURES = 64
SETS = 3  # of contexts: first plane, later ones, alpha
THRESHOLDS = (1, 4, 9, 16, 25, 38, 55, 80, 116, 170, 260, 450)
BIAS_RATE = 6


def set_of(plane: int, channels: int) -> int:
    """Which set of contexts a plane has."""
    if plane == 0:
        return 0
    return 2 if plane + 1 == channels and channels % 2 == 0 else 1


@inlined
def begin_row(planes, at, stride):
    """Sets what is left of the first sample of a row, which stands at `at`."""
    above = planes[index(at - stride)]
    planes[index(at - 1)] = above
    planes[index(at - 2)] = above
    planes[index(at - 3)] = above


@inlined
def first_row_done(planes, at, stride):
    """Sets what is above the first row, after its sample at `at`."""
    value = planes[index(at)]
    planes[index(at - stride + 1)] = value
    planes[index(at - stride + 2)] = value
    planes[index(at - 2 * stride + 1)] = value


@inlined
def sample_done(planes, at, stride, first_row, last_column):
    """Sets what lies beyond the edges, after the sample at `at`."""
    if first_row:
        first_row_done(planes, at, stride)
    if last_column:
        value = planes[index(at)]
        planes[index(at + 1)] = value
        planes[index(at + 2)] = value
        planes[index(at + 3)] = value


@inlined
def _closest(value, low, high):
    return min(max(value, low), high)


@inlined
def predict(planes, at, stride, scale):
    """A prediction of the sample at `at`, its activity and its texture.

    Returns (prediction, activity << 6 | texture). `scale`: 2^scale times the thresholds of 8 bits.
    """
    w = int64(planes[index(at - 1)])
    n = int64(planes[index(at - stride)])
    nw = int64(planes[index(at - stride - 1)])
    ne = int64(planes[index(at - stride + 1)])
    ww = int64(planes[index(at - 2)])
    nn = int64(planes[index(at - 2 * stride)])
    nne = int64(planes[index(at - 2 * stride + 1)])
    across = abs(w - ww) + abs(n - nw) + abs(ne - n)
    down = abs(w - nw) + abs(n - nn) + abs(ne - nne)
    slope = (down - across) >> scale
    steep = abs(slope)
    part = int64(steep > 8) + int64(steep > 32) + 2 * int64(steep > 80)
    middle = 8 * (w + n) + 4 * (ne - nw)  # in units of 1/16
    side = n + ((w - n) & -int64(slope > 0))  # a branch would be guessed wrong
    p = (middle * (4 - part) + 16 * side * part + 32) >> 6
    texture = (
        int64(n > p)
        | int64(w > p) << 1
        | int64(nw > p) << 2
        | int64(ne > p) << 3
        | int64(2 * w - ww > p) << 4
        | int64(2 * n - nn > p) << 5
    )
    return p, (across + down) << 6 | texture


@inlined
def _is_above(a, p, bit):
    """A bit in each lane where a > p."""
    return v.choose(v.less_signed(p, a), v.splat(int64(1) << bit), v.splat(0))


@inlined
def _add(a, b, c):
    return v.add(v.add(a, b), c)


@inlined
def predict_lanes(w, ww, n, nw, ne, nn, nne, scale):
    """As `predict`, of 16 samples in lanes by their neighbours.

    Returns (prediction, activity << 6 | texture).
    """
    across = _add(_apart(w, ww), _apart(n, nw), _apart(ne, n))
    down = _add(_apart(w, nw), _apart(n, nn), _apart(ne, nne))
    slope = v.shift_right_signed(v.subtract(down, across), scale)
    steep = v.absolute(slope)
    part = _add(
        _is_above(steep, v.splat(8), 0),
        _is_above(steep, v.splat(32), 0),
        _is_above(steep, v.splat(80), 1),
    )
    middle = v.add(v.shift_left(v.add(w, n), 3), v.shift_left(v.subtract(ne, nw), 2))
    side = v.choose(v.less_signed(v.splat(0), slope), w, n)
    p = v.add(v.shift_left(middle, 2), v.multiply(part, v.subtract(v.shift_left(side, 4), middle)))
    p = v.shift_right_signed(v.add(p, v.splat(32)), 6)
    texture = _add(_is_above(n, p, 0), _is_above(w, p, 1), _is_above(nw, p, 2))
    texture = _add(
        texture, _is_above(ne, p, 3), _is_above(v.subtract(v.shift_left(w, 1), ww), p, 4)
    )
    texture = v.add(texture, _is_above(v.subtract(v.shift_left(n, 1), nn), p, 5))
    return p, v.add(v.shift_left(v.add(across, down), 6), texture)


@inlined
def _apart(a, b):
    return v.absolute(v.subtract(a, b))


@inlined
def corrected(p, bias, low, high):
    """A prediction with what it was wrong by on average, `bias` in units of 2^-8, within bounds."""
    return _closest(p + ((bias + 128) >> 8), int64(low), int64(high))


@inlined
def learned(bias, error):
    """The bias after an error."""
    return bias + (((error << 8) - bias) >> BIAS_RATE)


def level_table(scale: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """uint8[512 << scale]: levels of activities, the last one for all beyond."""
    thresholds = np.array(THRESHOLDS, np.int64) << scale
    return np.searchsorted(thresholds, np.arange(512 << scale), side="right").astype(np.uint8)
