"""How far an arithmetic coder has come."""

import math

import numpy as np
import numpy.typing as npt


def position(state: npt.NDArray[np.int64]) -> float:
    """How many bits were coded so far, to fractions: what later bits add is their cost."""
    low, high, at = (int(value) for value in state[:3])
    return 8 * at - math.log2(high - low + 1)
