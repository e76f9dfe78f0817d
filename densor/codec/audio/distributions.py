"""The distributions of tokens that contexts may have: three shapes at four scales to an octave.

All of it in integers, so that the tables are equal everywhere. See audio.md, section 4.
"""

import functools

import numpy as np
import numpy.typing as npt

from densor.codec.audio.kernels import SHAPES, TRIED
from densor.codec.audio.lane_kernels import DIRECT, ESCAPE
from densor.entropy.arithmetic.logistic import exp_minus, rounded
from densor.entropy.rans.tables import ONE, Freqs

I64 = npt.NDArray[np.int64]

SCALES = 44  # mean sizes of errors in steps of a quarter of an octave, from 2^-4 on
_ESCAPES = 2  # share of them
_TOKENS = DIRECT + 8
_PLACES = 30  # of shares
_FINE = 16  # of arguments
_QUARTERS = (65536, 77936, 92682, 110218)  # 2^16 times 2^(i / 4)
# z^2 / (2 s^2), z / s and |z| / a for a mean size of 1, times 2^16
_NORMAL, _LOGISTIC, _LAPLACE = 20861, 90852, 65536


@functools.cache
def _powers() -> I64:
    """exp(-2^i / 2^16) with 30 places, for i from 0 to 20."""
    return np.array([rounded(exp_minus(1 << i, 1 << _FINE), _PLACES) for i in range(21)], np.int64)


def exp_minus_of(z: I64) -> I64:
    """exp(-z) with 30 places, for z with 16; 0 from 32 on."""
    found = np.full(z.shape, 1 << _PLACES, np.int64)
    for i, power in enumerate(_powers()):
        found = np.where(z >> i & 1, (found * power) >> _PLACES, found)
    return np.where(z >> 21, 0, found)


@functools.cache
def frequencies() -> Freqs:
    """uint16[SHAPES * SCALES, 256]: shapes within scales."""
    tokens = np.arange(_TOKENS)
    sizes, widths = (tokens + 1) >> 1, np.ones(_TOKENS, np.int64)
    far = tokens >= DIRECT
    octave = ((tokens - DIRECT) >> 2) + 5
    begin = (4 | tokens & 3) << octave
    sizes = np.where(far, (2 * begin + (1 << octave)) >> 2, sizes)
    widths = np.where(far, np.int64(1) << octave, widths)
    i = np.arange(SCALES)
    scales = np.array(_QUARTERS, np.int64)[i % 4] << (i // 4)  # 2^-20
    ratio = (sizes[None, :].astype(np.int64) << 36) // scales[:, None]  # with 16 places
    near = np.minimum(ratio, 1 << 22)
    normal = exp_minus_of((near * near >> 16) * _NORMAL >> 16)
    root = exp_minus_of(near * _LOGISTIC >> 16)
    logistic = (root << _PLACES) // (((1 << _PLACES) + root) ** 2 >> _PLACES)
    laplace = exp_minus_of(near * _LAPLACE >> 16)
    shares = np.stack([normal, logistic, laplace], 1) * widths
    return _quantised(shares.reshape(SHAPES * SCALES, _TOKENS))


def _quantised(shares: I64) -> Freqs:
    """Frequencies; tokens of less than half a unit have none, the likeliest takes what is left."""
    found = np.zeros((shares.shape[0], 256), np.uint16)
    total = shares.sum(1, keepdims=True)
    freqs = (shares * (2 * (ONE - _ESCAPES)) // total + 1) >> 1
    freqs[np.arange(len(freqs)), freqs.argmax(1)] += ONE - _ESCAPES - freqs.sum(1)
    found[:, :_TOKENS] = freqs
    found[:, ESCAPE] = _ESCAPES
    return found


@functools.cache
def costs(depth: int) -> npt.NDArray[np.float64]:
    """Bits of each token in each distribution; those without a frequency escape.

    float64[256 * SHAPES * SCALES + TRIED], by tokens.
    """
    freqs = frequencies().astype(np.float64)
    bits = 12 - np.log2(np.maximum(freqs, 1))
    bits = np.where(freqs > 0, bits, 12 - np.log2(_ESCAPES) + depth)
    return np.concatenate([bits.T.reshape(-1), np.zeros(TRIED)])
