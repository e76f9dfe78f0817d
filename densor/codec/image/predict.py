"""Prediction from neighbours, bias correction and contexts of the fast method, for its kernels.

The predictor is gradient-adjusted, with error feedback under textures (X. Wu, N. Memon,
"Context-based, adaptive, lossless image coding", 1997, sections III and IV). Samples stand in
planes, int32[channels * (rows + TOP) * (width + SIDES)], with room for what lies beyond the edges.
See docs/format/image.md.
"""

import numba
import numpy as np

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


@inlined
def set_of(plane, channels):
    """Which set of contexts a plane has."""
    if plane == 0:
        return int64(0)
    if plane + 1 == channels and channels & 1 == 0:
        return int64(2)
    return int64(1)


@inlined
def begin_row(planes, at, stride):
    """Sets what is left of the first sample of a row, which stands at `at`."""
    above = planes[index(at - stride)]
    planes[index(at - 1)] = above
    planes[index(at - 2)] = above
    planes[index(at - 3)] = above


@inlined
def sample_done(planes, at, stride, first_row, last_column):
    """Sets what lies beyond the edges, after the sample at `at`."""
    value = planes[index(at)]
    if first_row:
        planes[index(at - stride + 1)] = value
        planes[index(at - stride + 2)] = value
        planes[index(at - 2 * stride + 1)] = value
    if last_column:
        planes[index(at + 1)] = value
        planes[index(at + 2)] = value
        planes[index(at + 3)] = value


@inlined
def _closest(value, low, high):
    return min(max(value, low), high)


@inlined
def predict(planes, at, stride, scale):
    """A prediction of the sample at `at`, its activity and its texture, packed.

    Returns (prediction, activity, texture). `scale`: 2^scale times the thresholds of 8 bits.
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
    middle = 8 * (w + n) + 4 * (ne - nw)  # in units of 1/16
    towards = 16 * w if slope > 0 else 16 * n
    steep = abs(slope)
    part = int64(0)
    if steep > 8:
        part = int64(1)
    if steep > 32:
        part = int64(2)
    if steep > 80:
        part = int64(4)
    p = (middle * (4 - part) + towards * part + 32) >> 6
    texture = (
        int64(n > p)
        | int64(w > p) << 1
        | int64(nw > p) << 2
        | int64(ne > p) << 3
        | int64(2 * w - ww > p) << 4
        | int64(2 * n - nn > p) << 5
    )
    return p, across + down, texture


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
