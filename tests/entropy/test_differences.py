"""Which of 64 elements differ."""

import numpy as np
import pytest
from numba import njit

from densor.entropy.differences import differing


@njit
def _differing(one, other, index):
    return differing(one, other, index)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
def test_bits_say_which_elements_differ(dtype: str) -> None:
    rng = np.random.default_rng(7)
    one = rng.integers(0, 256, 200).astype(dtype)
    other = one.copy()
    changed = np.array([1, 5, 63, 64, 65, 127, 130, 199])
    other[changed] ^= np.array(1 << 8 * one.itemsize - 1, dtype)
    for index in (0, 1, 64, 136):
        wanted = sum(1 << at - index for at in changed.tolist() if index <= at < index + 64)
        assert _differing(one, other, index) == wanted
        assert _differing(one, one, index) == 0
