"""Tables of the logistic domain, computed with integers alone so that they are equal everywhere.

Integers of 96 binary places stand for real numbers; all results are far from the ties where the
last of these places could matter.
"""

import numpy as np
import numpy.typing as npt

PLACES = 96
ONE = 1 << PLACES

I32 = npt.NDArray[np.int32]


def rounded(value: int, bits: int) -> int:
    """`value` in units of 2^-bits, to the nearest."""
    return (value + (1 << (PLACES - bits - 1))) >> (PLACES - bits)


def exp_minus(numerator: int, denominator: int) -> int:
    """exp(-numerator / denominator): the power series of its 256th root."""
    x = numerator * ONE // (denominator * 256)
    term = total = ONE
    for n in range(1, 40):
        term = -term * x // (n * ONE)
        total += term
    for _ in range(8):
        total = total * total // ONE
    return total


def squash_table() -> I32:
    """int32[4096]: 2^16 / (1 + exp(-x)) at x = (i - 2048) / 256."""
    return np.array([_squash(i - 2048) for i in range(4096)], np.int32)


def stretch_table(squash: I32) -> I32:
    """int32[4096]: the inverse, about 256 ln(p / (1 - p)) at p = (i + 1/2) / 4096.

    Exactly the least j - 2048 for which squash[j] is at least 16 i + 8, within -2047 to 2047.
    """
    inverse = np.searchsorted(squash, np.arange(4096) * 16 + 8) - 2048
    return np.clip(inverse, -2047, 2047).astype(np.int32)


def rate_table(counts: int) -> I32:
    """int32[counts]: 2^16 / (n + 3/2), the step of a counter that has counted to n."""
    return np.array([(2 << 16) // (2 * n + 3) for n in range(counts)], np.int32)


def _squash(x: int) -> int:
    share = ONE * ONE // (ONE + exp_minus(abs(x), 256))
    p = rounded(share, 16)
    return p if x >= 0 else 65536 - p
