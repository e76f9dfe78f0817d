"""FP32 numbers that are BF16 in disguise: as they are, or times one factor, as after clipping."""

import numpy as np

from densor.torch.replay import Floats, Halves, factor_of, widened

_TOLERANCE = 2.0**-22
_SPREAD = 4  # units in the last place by which the factor that is found may be off
_SAMPLE = 1 << 12


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
    halves = ((quotient + 0x7FFF + ((quotient >> 16) & 1)) >> 16).astype(np.uint16)
    made = widened(halves, factor).view(np.uint32)
    return halves if np.array_equal(made, x.view(np.uint32)) else None
