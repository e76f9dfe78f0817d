"""The tables of the float context mixing codec, from integers and decimals alone.

So they are equal on every machine: `decimal` is exact arithmetic with rounding as specified, and
no entry lies so near a tie that its last digits could matter.
"""

import functools
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

import numpy as np
import numpy.typing as npt

from densor.entropy.arithmetic.logistic import rate_table, squash_table, stretch_table

COUNTS = 1024  # what a counter can count to
_STEPS = 32  # points of the normal distribution per standard deviation
_REACH = 8  # standard deviations on either side
_DIGITS = Context(prec=50, rounding=ROUND_HALF_EVEN)
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582")
_NOTHING = Decimal("1e-40")  # terms up to this change no entry

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
    squash = squash_table()
    above = [_normal(i) for i in range(_STEPS * _REACH + 1)]
    normal = [(1 << 30) - value for value in above[:0:-1]] + above
    inverse = [_inverse(i) for i in range(8)]
    log2 = [(m**16).bit_length() - 129 for m in range(256, 512)]
    parts = (squash, stretch_table(squash), normal, rate_table(COUNTS), inverse, log2)
    return np.concatenate(parts).astype(np.int32)


def _normal(i: int) -> int:
    """2^30 times the normal distribution function at i/32.

    It is 1/2 + phi(x) (x + x^3/3 + x^5/(3*5) + ...), whose terms are all positive.
    """
    with localcontext(_DIGITS):
        x = Decimal(i) / _STEPS
        term = total = x
        n = 1
        while term > _NOTHING:
            n += 2
            term *= x * x / n
            total += term
        density = (-x * x / 2).exp() / (2 * _PI).sqrt()
        value = (density * total + Decimal("0.5")) * (1 << 30)
        return int(value.to_integral_value(ROUND_HALF_EVEN))


def _inverse(i: int) -> int:
    """2^15 * 2^(-i/8) rounded down: the largest k with k^8 <= 2^(120 - i)."""
    k = 1 << 15
    while k**8 > 1 << (120 - i):
        k -= 1
    return k
