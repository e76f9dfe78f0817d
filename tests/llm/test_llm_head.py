"""The head that learns: the same numbers as in numpy alone, at any rate, and fewer bits."""

from typing import Any

import numpy as np
import pytest
from reference import network as reference_network

from densor.files.language_models import load
from densor.llm import selftest
from densor.llm.head import MAX_RATE, Head, Rates, head_bytes, rates_of
from densor.llm.network import Logits, Network, Rows


@pytest.fixture(scope="module")
def tiny() -> Any:
    return selftest.tiny_model()


def random_rows(rng: np.random.Generator, count: int, hidden: int, shift: int) -> Rows:
    values = rng.integers(-(1 << 14) + 1, 1 << 14, (count, hidden), dtype=np.int16)
    return Rows(values, np.full(count, shift, np.int64))


def test_a_fresh_head_is_that_of_the_network(tiny: Any) -> None:
    rows = random_rows(np.random.default_rng(0), 9, tiny.shape.hidden, 5)
    found = Head(tiny, rates_of(tiny)).counts(rows)
    assert np.array_equal(found, Logits(tiny).counts(rows))


@pytest.mark.parametrize("rates", [(0, 0), (20000, 13), (MAX_RATE, 255), (1, 0), (0, 1)])
@pytest.mark.parametrize("shift", [0, 5, 29, 33])
def test_numpy_alone_learns_the_same(tiny: Any, rates: tuple[int, int], shift: int) -> None:
    rng = np.random.default_rng(shift)
    head, reference = Head(tiny, Rates(*rates)), reference_network.Head(tiny, *rates)
    for _ in range(12):
        rows = random_rows(rng, 3, tiny.shape.hidden, shift)
        found = head.counts(rows)
        wanted = [reference.counts(row.astype(np.int64), shift) for row in rows.values]
        assert np.array_equal(found, wanted)
        for number, token in enumerate(rng.integers(0, tiny.vocabulary.count, 3).tolist()):
            head.learn(rows, number, found[number], token)
            row = rows.values[number].astype(np.int64)
            reference.learn(row, shift, wanted[number], token)


@pytest.mark.parametrize("part", [(1, 0), (0, 1), (1, 1)])
def test_what_comes_again_becomes_likely(part: tuple[int, int]) -> None:
    """By the change alone, by the offsets alone, and by both."""
    model = load("sample")
    rates = rates_of(model)
    network = Network(model, 1, 64)
    head = Head(model, Rates(rates.change * part[0], rates.offsets * part[1]))
    tokens = np.array([model.start, *b"the zqzq"], np.int64)
    places = np.arange(tokens.size, dtype=np.int64)
    rows = network.read(tokens, np.zeros_like(tokens), places, 1)
    bits = []
    for _ in range(8):
        counts = head.counts(rows)
        bits.append(-np.log2((counts[0, ord("z") + 1] - counts[0, ord("z")]) / counts[0, -1]))
        head.learn(rows, 0, counts[0], ord("z"))
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < bits[0] - 0.2


def test_memory_is_what_is_said(tiny: Any) -> None:
    head = Head(tiny, rates_of(tiny))
    arrays = [value for value in vars(head).values() if isinstance(value, np.ndarray)]
    assert head_bytes(tiny) <= sum(a.nbytes for a in arrays) <= head_bytes(tiny) + 10000
