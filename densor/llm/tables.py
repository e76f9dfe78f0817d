"""Integer tables of functions, from decimal arithmetic alone: equal on every machine.

Numbers of 40 digits and more stand for real ones; no entry lies so near a tie that the last of
these digits could matter.
"""

import functools
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

import numpy as np
import numpy.typing as npt

from densor.errors import UnsupportedError

EXP_STEPS = 1 << 10  # of the exponential, per octave
SIGMOID_STEPS = 1 << 8  # of the logistic function, per unit
SIGMOID_REACH = 16  # units on either side
_DIGITS = Context(prec=50, rounding=ROUND_HALF_EVEN)
_PLACES = 96


def _rounded(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_HALF_EVEN))


@functools.cache
def exp2_table(one: int) -> npt.NDArray[np.int64]:
    """int64[1024]: `one` times 2^(-i/1024); not to be written to."""
    with localcontext(_DIGITS):
        step = -Decimal(2).ln() / EXP_STEPS
        entries = [_rounded(one * (i * step).exp()) for i in range(EXP_STEPS)]
    return np.array(entries, np.int64)


@functools.cache
def sigmoid_table() -> npt.NDArray[np.int64]:
    """int64[8193]: 2^16 / (1 + exp(-x)) at x = i/256 - 16."""
    half = SIGMOID_REACH * SIGMOID_STEPS
    with localcontext(_DIGITS) as context:
        context.prec = 40
        upper = [
            _rounded((1 << 16) / (1 + (-Decimal(i) / SIGMOID_STEPS).exp())) for i in range(half + 1)
        ]
    return np.array([(1 << 16) - p for p in upper[:0:-1]] + upper, np.int64)


@functools.cache
def logit_tables() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]:
    """`sigmoid_table` as int32[8193], and its inverse, int16[65536].

    For a probability i of at least 1/2, in units of 2^-16, the least x, in 1/256, at which it is at
    least i; for others what 1 - i has, negated.
    """
    squash = sigmoid_table()
    upper = np.searchsorted(squash, np.arange(1 << 15, 1 << 16)) - SIGMOID_REACH * SIGMOID_STEPS
    lower = -upper[:0:-1]
    return squash.astype(np.int32), np.concatenate([lower[:1], lower, upper]).astype(np.int16)


def log2_e_over_root(size: int, places: int) -> int:
    """log2(e) / sqrt(size) in units of 2^-places."""
    with localcontext(_DIGITS):
        return _rounded((1 << places) / (Decimal(2).ln() * Decimal(size).sqrt()))


@functools.lru_cache(8)
def turns(theta: float, size: int, positions: int) -> npt.NDArray[np.int32]:
    """int32[positions, 2, size / 2]: cosine and sine of position * theta^(-2i/size), times 2^15.

    Of rotary position embedding (Su et al., RoFormer). Each is a power of the first position's.
    """
    if not 1.0 < theta < 1e12:
        raise UnsupportedError(f"rotary positions have an impossible base, {theta}")
    table = np.empty((positions, 2, size // 2), np.int32)
    one = 1 << _PLACES
    half = 1 << (_PLACES - 16)
    for i in range(size // 2):
        with localcontext(_DIGITS):
            angle = (Decimal(theta).ln() * (-2 * i) / size).exp()
            c, s = (_rounded(part * one) for part in _cos_sin(angle))
        x, y = one, 0
        for position in range(positions):
            table[position, 0, i] = (x + half) >> (_PLACES - 15)
            table[position, 1, i] = (y + half) >> (_PLACES - 15)
            x, y = (x * c - y * s) >> _PLACES, (x * s + y * c) >> _PLACES
    return table


def _cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """By their power series, for angles up to 1."""
    parts = [Decimal(0), Decimal(0)]
    term = Decimal(1)
    for n in range(1, 48):
        parts[(n - 1) % 2] += -term if (n - 1) % 4 > 1 else term
        term = term * angle / n
    return parts[0], parts[1]
