"""Products of pairs of words, by each instruction and without one, against numpy."""

from typing import Any

import numpy as np
import pytest
from helpers import random_state
from numba import njit

from densor.entropy import vectors as v
from densor.entropy import word_pairs


@njit  # type: ignore[untyped-decorator]
def products(a: Any, b: Any, out: Any) -> None:
    v.store_u32(out, 0, word_pairs.multiply_pairs(v.load_u32(a, 0), v.load_u32(b, 0)))


@pytest.mark.parametrize("without", [(), ("avx512bw",), ("avx512bw", "avx2")])
def test_products(without: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    known = v.features_of
    monkeypatch.setattr(
        word_pairs, "features_of", lambda c: (known(c)[0], known(c)[1] - set(without))
    )
    compiled = njit(products.py_func)
    rng = random_state("pairs of words", *without)
    for case in range(50):
        words = rng.integers(-32768, 32768, (2, 32)).astype(np.int16)
        words[:, : 2 * case % 32] = -32768  # whose products add up to 2^31
        out = np.zeros(16, np.uint32)
        compiled(*words.view(np.uint32), out)
        wanted = words.astype(np.int64).prod(0).reshape(16, 2).sum(1)
        assert (out == wanted.astype(np.uint32)).all()
