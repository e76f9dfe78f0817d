"""Contexts of changes: which values of the base share a table, and what that costs."""

from typing import Any

import numpy as np
import numpy.typing as npt
from helpers import random_state

from densor.codec.delta.contexts import group


def _cost(rows: npt.NDArray[Any], of: npt.NDArray[Any]) -> float:
    """What rows of counts cost under these contexts, as `context_kernels` has it."""
    bits = 0.0
    for context in range(int(of.max()) + 1):
        sums = rows[of == context].sum(axis=0)
        seen = sums + float(np.float32(0.03))
        bits += float((sums * np.floor(65536 * np.log2(seen.sum() / seen))).sum()) / 65536
        bits += 9 * int((sums > 0).sum()) + 64
    return bits


def test_rows_of_three_kinds_get_three_contexts() -> None:
    """Rows that have all symbols, nearly none, and others; their order does not matter."""
    rng = random_state("contexts")
    kinds = np.zeros((3, 256), np.int64)
    kinds[0] = 40
    kinds[1, :2] = 9000, 700
    kinds[2, 100:200] = 90
    of = rng.permutation(np.repeat(np.arange(3), 20))
    rows = rng.poisson(kinds[of])
    found = group(rows, np.arange(60), 60, 1.0, 8)
    assert len(np.unique(found.mapped)) >= 3
    for context in np.unique(found.mapped):
        assert len(np.unique(of[found.mapped == context])) == 1
    assert np.isclose(found.bits, _cost(rows, found.mapped), rtol=1e-9)
    assert found.bits <= _cost(rows, of) + 1
