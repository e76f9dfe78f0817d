"""Symbols under models of the caller's: exactness, size, and what is refused."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from helpers import random_state
from hypothesis import given, settings
from hypothesis import strategies as st

from densor.entropy.symbols import MAX_TOTAL, SymbolModel, decode_symbols, encode_symbols
from densor.errors import ArgumentError, FormatError


class Counting:
    """Symbols by how often they came before, one state that changes."""

    def __init__(self, alphabet: int) -> None:
        self.alphabet = alphabet

    def start(self) -> list[int]:
        return [1] * self.alphabet

    def distribution(self, state: list[int]) -> list[int]:
        return state

    def update(self, state: list[int], symbol: int) -> list[int]:
        state[symbol] += 3
        return state


class Fixed:
    """The same distribution again and again; the state is the number of symbols."""

    def __init__(self, frequencies: Sequence[int]) -> None:
        self.alphabet = len(frequencies)
        self.frequencies = frequencies

    def start(self) -> int:
        return 0

    def distribution(self, state: int) -> Sequence[int]:
        return self.frequencies

    def update(self, state: int, symbol: int) -> int:
        return state + 1


def round_trip(model: SymbolModel[object], symbols: list[int]) -> bytes:
    data = encode_symbols(model, symbols)
    assert decode_symbols(model, data, len(symbols)) == symbols
    return data


@given(st.integers(1, 300), st.data())
@settings(deadline=None)
def test_any_sequence(alphabet: int, data: st.DataObject) -> None:
    symbols = data.draw(st.lists(st.integers(0, alphabet - 1), max_size=200))
    round_trip(Counting(alphabet), symbols)


@pytest.mark.parametrize(
    "frequencies",
    [
        [1],
        [MAX_TOTAL],
        [1, MAX_TOTAL - 1],
        [MAX_TOTAL - 1, 1],
        [0, 3, 0, 0, 1, 0],
        [MAX_TOTAL // 3] * 3,
        np.array([5, 1, 2], np.uint32),
    ],
    ids=str,
)
def test_extreme_distributions(frequencies: Sequence[int]) -> None:
    possible = [i for i, f in enumerate(frequencies) if f]
    rng = random_state("symbols", str(frequencies))
    symbols = [int(s) for s in rng.choice(possible, 3000)]
    data = round_trip(Fixed(frequencies), symbols)
    total = sum(int(f) for f in frequencies)
    ideal = -sum(math.log2(Fraction(int(frequencies[s]), total)) for s in symbols) / 8
    assert ideal - 1 <= len(data) <= ideal * (1 + 2**-20) + 9


def test_carries_run_through_many_bytes() -> None:
    """Symbols at the upper end of the interval keep it on the edge of a carry."""
    model = Fixed([1, (1 << 31) - 1, 1])
    for last in ([], [2], [2, 2], [0]):
        round_trip(model, [1] * 40 + [2] * 5 + [1] * 2000 + last)


def test_nothing() -> None:
    assert decode_symbols(Counting(5), encode_symbols(Counting(5), []), 0) == []


@pytest.mark.parametrize(
    "frequencies",
    [[0, 0], [1, -1], [-1, 3], [1, MAX_TOTAL], [0.5, 0.5], [1], [1, 1, 1], [[1], [1]]],
    ids=str,
)
def test_distributions_that_are_none(frequencies: list[int]) -> None:
    model = Fixed(frequencies)
    model.alphabet = 2
    with pytest.raises(ArgumentError):
        encode_symbols(model, [0])


@pytest.mark.parametrize("symbol", [-1, 3, 1])
def test_symbols_without_probability(symbol: int) -> None:
    with pytest.raises(ArgumentError, match="no probability"):
        encode_symbols(Fixed([1, 0, 1]), [0, symbol])


def test_damage() -> None:
    symbols = [int(s) for s in random_state("damage").integers(0, 7, 500)]
    data = encode_symbols(Counting(7), symbols)
    for cut in range(len(data)):
        with pytest.raises(FormatError):
            decode_symbols(Counting(7), data[:cut], len(symbols))
    for wrong in (data + b"\0", b"\xff" * len(data), b""):
        with pytest.raises(FormatError):
            decode_symbols(Counting(7), wrong, len(symbols))
    for count in (0, len(symbols) - 100, len(symbols) + 100):
        with pytest.raises(FormatError):
            decode_symbols(Counting(7), data, count)
    with pytest.raises(FormatError):
        decode_symbols(Fixed([1, 0, 0, 0, 0, 0, 1]), data, len(symbols))
    for at in range(0, len(data) * 8, 5):
        broken = bytearray(data)
        broken[at // 8] ^= 1 << at % 8
        try:
            assert decode_symbols(Counting(7), bytes(broken), len(symbols)) != symbols
        except FormatError:
            continue
