"""The search for contexts of a delta ends, whatever was counted."""

import numpy as np
import pytest
from helpers import to_bf16
from hypothesis import given
from hypothesis import strategies as st

import densor
from densor.codec.delta import contexts, encoder


@pytest.mark.parametrize("changed", [0, 1, 2, 3, 5])
def test_few_changes(changed: int) -> None:
    old = np.random.default_rng(0).standard_normal((384, 384)).astype(np.float16)
    new = old.copy()
    new.reshape(-1).view(np.uint16)[:changed] ^= 1
    packed = densor.compress(new, base=old)
    assert np.array_equal(densor.decompress(packed, base=old).view("u2"), new.view("u2"))


def test_a_sample_meets_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 64 of 1024 columns are unlike the others, and change at a rate of their own."""
    rng = np.random.default_rng(3)
    old = to_bf16((rng.standard_normal((1024, 1024)) * 0.02).astype(np.float32))
    old[:, :64] = to_bf16((rng.standard_normal((1024, 64)) * 20).astype(np.float32))
    rates = 0.02 * np.exp2((old >> 7 & 255).astype(float) - 118)
    changed = rng.random(old.shape) < np.clip(rates, 0, 0.5)
    changed[:, :64] = rng.random((1024, 64)) < 0.006
    new = old + changed.astype(np.uint16)
    packed = densor.compress(new, dtype="bf16", base=old)
    monkeypatch.setattr(encoder, "propose_few", lambda batch: None)
    assert len(packed) <= 1.001 * len(densor.compress(new, dtype="bf16", base=old)) + 34


@given(st.integers(0, 2**32), st.integers(1, 64), st.sampled_from([1.0, 0.5, 0.02]))
def test_any_counts(seed: int, values: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, rng.choice([2, 10, 1 << 20]), (values, 256))
    counts[rng.random(counts.shape) > density] = 0
    counts[:, 0] += 1
    found = contexts.group(counts, np.arange(values), values, 1.0, 32)
    assert found.mapped.size == values and found.mapped.max() < 32
