"""FP32 numbers that are BF16 in disguise: as they are, or times one factor, as after clipping."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.uint16]

_TOLERANCE = 2.0**-22
_SPREAD = 4  # units in the last place by which the factor that is found may be off
_SAMPLE = 1 << 12  # elements that are looked at before all are
_MEASURED = 1 << 14  # elements by which a factor is found


def split(x: Floats) -> tuple[Halves, np.float32] | None:
    """BF16 numbers and the factor that x is made of, each product rounded once; None if it is not.

    `x`: float32[n]. All bits are compared, so that `widened` gives them back.
    """
    bits = x.view(np.uint32)
    if not x.size:
        return None
    few = x[:: max(1, x.size // _SAMPLE)]
    if not np.any(few.view(np.uint32) & 0xFFFF):
        if np.any(bits & 0xFFFF):
            return None
        return (bits >> 16).astype(np.uint16), np.float32(1)
    with np.errstate(all="ignore"):
        factor = factor_of(x[:: max(1, x.size // (1 << 16))], _TOLERANCE)
        if factor is None:
            return None
        own = np.float32(factor).view(np.uint32)
        for ulps in sorted(range(-_SPREAD, _SPREAD + 1), key=abs):
            one = (own + np.uint32(ulps & 0xFFFFFFFF)).astype(np.uint32).view(np.float32)
            if _divided(few, one) is not None:
                found = _divided(x, one)
                if found is not None:
                    return found, one
    return None


def _divided(x: Floats, factor: np.float32) -> Halves | None:
    """BF16 numbers of which x is the product with the factor."""
    quotient = (x.astype(np.float64) / np.float64(factor)).astype(np.float32).view(np.uint32)
    halves = _nearest(quotient)
    made = widened(halves, factor).view(np.uint32)
    return halves if np.array_equal(made, x.view(np.uint32)) else None


def widened(gradient: Halves, factor: np.float32) -> Floats:
    """BF16 gradients times the factor."""
    wide = (gradient.astype(np.uint32) << 16).view(np.float32)
    return wide * factor


def rounded(x: npt.NDArray[Any]) -> Halves:
    """To BF16, to nearest even."""
    return _nearest(x.astype(np.float32).view(np.uint32))


def _nearest(bits: npt.NDArray[np.uint32]) -> Halves:
    """The upper halves of binary32 numbers, rounded to nearest even."""
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def factor_of(x: npt.NDArray[Any], tolerance: float) -> float | None:
    """A number in (0.5, 1] that x, divided by it, is about BF16 with; None if there is none.

    `tolerance`: of x, relative. Powers of two do not matter: BF16 has them.
    """
    x = np.abs(x[np.isfinite(x) & (x != 0)].astype(np.float64))[:_MEASURED]
    x = x[x > 2.0**-110]
    if x.size < 64:
        return None
    part = x[:: max(1, x.size // 64)][:64]
    mantissas, _ = np.frexp(part)  # in [0.5, 1)
    best, least = None, 0.6 * len(mantissas)
    for first in mantissas[:4]:
        for k in range(128, 256):
            factor = first * 256 / k
            while factor > 1:
                factor /= 2
            scaled = np.frexp(part / factor)[0] * 256
            fits = np.count_nonzero(np.abs(scaled - np.rint(scaled)) <= 256 * tolerance)
            if fits > least:
                best, least = float(factor), int(fits)
    return _refined(x, best) if best is not None else None


def _refined(x: npt.NDArray[np.float64], factor: float) -> float:
    """The mean of what each element says of the factor, outliers aside."""
    for _ in range(2):
        scaled, exponents = np.frexp(x / factor)
        whole = np.ldexp(np.rint(scaled * 256) / 256, exponents)
        says = x / whole
        factor = float(np.median(says))
    return factor
