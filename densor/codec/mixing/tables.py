"""The tables of the mixing codec, computed with integers alone so that they are equal everywhere.

Integers of 96 binary places stand for real numbers; all results are far from the ties where the
last of these places could matter.
"""

import functools
from math import isqrt

import numpy as np
import numpy.typing as npt

_PLACES = 96
_ONE = 1 << _PLACES
COUNTS = 1024  # what a counter can count to
_STEPS = 32  # points of the normal distribution per standard deviation
_REACH = 8  # standard deviations on either side

# Where each table begins.
SQUASH = 0
STRETCH = SQUASH + 4096
NORMAL = STRETCH + 4096
RATE = NORMAL + 2 * _STEPS * _REACH + 1
INVERSE = RATE + COUNTS
LOG2 = INVERSE + 8


@functools.cache
def tables() -> npt.NDArray[np.int32]:
    """All tables, one after the other; not to be written to.

    SQUASH, 4096: 2^16 / (1 + exp(-x)) at x = (i - 2048) / 256.
    STRETCH, 4096: its inverse, about 256 ln(p / (1 - p)) at p = (i + 1/2) / 4096; exactly the least
    j - 2048 for which SQUASH[j] is at least 16 i + 8, but within -2047 to 2047.
    NORMAL, 513: 2^30 times the normal distribution function at (i - 256) / 32.
    RATE, 1024: 2^16 / (n + 3/2), the step of a counter that has counted to n.
    INVERSE, 8: 2^15 * 2^(-i/8). LOG2, 256: 16 * log2(1 + i/256).
    """
    squash = [_squash(i - 2048) for i in range(4096)]
    stretch = np.searchsorted(squash, np.arange(4096) * 16 + 8) - 2048
    above = [_normal(i) for i in range(_STEPS * _REACH + 1)]
    normal = [(1 << 30) - value for value in above[:0:-1]] + above
    rate = [(2 << 16) // (2 * n + 3) for n in range(COUNTS)]
    inverse = [_inverse(i) for i in range(8)]
    log2 = [(m**16).bit_length() - 129 for m in range(256, 512)]
    parts = (squash, np.clip(stretch, -2047, 2047), normal, rate, inverse, log2)
    return np.concatenate(parts).astype(np.int32)


def _rounded(value: int, bits: int) -> int:
    """`value` in units of 2^-bits, to the nearest."""
    return (value + (1 << (_PLACES - bits - 1))) >> (_PLACES - bits)


def _exp_minus(numerator: int, denominator: int) -> int:
    """exp(-numerator / denominator): the power series of its 256th root."""
    x = numerator * _ONE // (denominator * 256)
    term = total = _ONE
    for n in range(1, 40):
        term = -term * x // (n * _ONE)
        total += term
    for _ in range(8):
        total = total * total // _ONE
    return total


def _squash(x: int) -> int:
    share = _ONE * _ONE // (_ONE + _exp_minus(abs(x), 256))
    p = _rounded(share, 16)
    return p if x >= 0 else 65536 - p


def _normal(i: int) -> int:
    """2^30 times the normal distribution function at i/32.

    It is 1/2 + phi(x) (x + x^3/3 + x^5/(3*5) + ...), whose terms are all positive.
    """
    x = i * _ONE // _STEPS
    term = total = x
    n = 1
    while term:
        n += 2
        term = term * x // _ONE * x // (n * _ONE)
        total += term
    density = _exp_minus(i * i, 2 * _STEPS * _STEPS) * _ONE // isqrt(2 * _pi() * _ONE)
    return (1 << 29) + _rounded(total * density // _ONE, 30)


@functools.cache
def _pi() -> int:
    """Machin's formula, with 32 places more."""
    return (4 * (4 * _arctan_of_inverse(5) - _arctan_of_inverse(239))) >> 32


def _arctan_of_inverse(n: int) -> int:
    power = total = (_ONE << 32) // n
    k = 1
    while power:
        power //= n * n
        total += (-power if k % 2 else power) // (2 * k + 1)
        k += 1
    return total


def _inverse(i: int) -> int:
    """2^15 * 2^(-i/8) rounded down: the largest k with k^8 <= 2^(120 - i)."""
    k = 1 << 15
    while k**8 > 1 << (120 - i):
        k -= 1
    return k
