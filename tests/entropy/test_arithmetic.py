"""The binary arithmetic coder, and integers under explicit distributions."""

import numpy as np
import pytest
from bit_coder import decode_bits, encode_bits
from helpers import random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.float_cm import Arithmetic

from densor.entropy.explicit import (
    decode_categorical,
    decode_normal,
    encode_categorical,
    encode_normal,
)
from densor.errors import ArgumentError, FormatError

# Bits


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 65535)), max_size=300))
def test_round_trip(pairs: list[tuple[int, int]]) -> None:
    bits = np.array([bit for bit, _ in pairs], np.uint8)
    probabilities = np.array([p for _, p in pairs], np.uint16)
    data = encode_bits(bits, probabilities)
    assert decode_bits(data, probabilities).tolist() == bits.tolist()
    slow = Arithmetic(data.tobytes())
    assert [slow.bit(p) for _, p in pairs] == bits.tolist()
    assert slow.at == data.size


@pytest.mark.parametrize("p", [1, 2, 300, 32768, 65000, 65535])
def test_size_is_close_to_the_entropy(p: int) -> None:
    n = 100_000
    bits = (random_state("entropy", p).random(n) < p / 65536).astype(np.uint8)
    data = encode_bits(bits, np.full(n, p, np.uint16))
    ones = int(bits.sum())
    ideal = -(ones * np.log2(p / 65536) + (n - ones) * np.log2(1 - p / 65536)) / 8
    assert ideal - 1 < data.size < 1.002 * ideal + 8


@pytest.mark.parametrize("p", [1, 65535])
def test_improbable_bits_only(p: int) -> None:
    bits = np.full(5000, int(p == 1), np.uint8)
    probabilities = np.full(5000, p, np.uint16)
    data = encode_bits(bits, probabilities)
    assert data.size <= 2 * 5000 + 8
    assert (decode_bits(data, probabilities) == bits).all()


def test_a_stream_has_exactly_its_bytes() -> None:
    rng = random_state("exact")
    bits = rng.integers(0, 2, 1000, np.uint8)
    probabilities = rng.integers(1, 65536, 1000).astype(np.uint16)
    data = encode_bits(bits, probabilities)
    for wrong in (data[:-1], data[:0], data[:3], np.append(data, np.uint8(0))):
        with pytest.raises(FormatError):
            decode_bits(wrong, probabilities)
    with pytest.raises(FormatError):
        decode_bits(data, probabilities[:500])


def test_bad_probabilities_and_bits() -> None:
    one = np.ones(1, np.uint8)
    for bits, probabilities in ((one, [0]), (one, []), (2 * one, [5])):
        with pytest.raises(ArgumentError):
            encode_bits(bits, np.array(probabilities, np.uint16))
    with pytest.raises(ArgumentError):
        decode_bits(one, np.zeros(1, np.uint16))


# Explicit distributions


def test_normal_round_trip_and_size() -> None:
    rng = random_state("normal")
    means, stds = rng.normal(0, 30, 20_000), np.exp(rng.normal(2, 1, 20_000))
    symbols = np.clip(np.rint(rng.normal(means, stds)), -500, 500).astype(np.int32)
    words = encode_normal(symbols, means, stds, -500, 500)
    assert (decode_normal(words, means, stds, -500, 500) == symbols).all()
    bits = np.log2(stds * np.sqrt(2 * np.pi * np.e)).sum()  # differential entropy, bins of 1
    assert 0.97 * bits < 32 * words.size < 1.03 * bits


def test_normal_symbols_far_from_the_mean() -> None:
    symbols = np.array([-1000, 1000, 0], np.int32)
    means, stds = np.array([1000.0, -1e6, 1e300]), np.array([1e-3, 1.0, 1e-300])
    words = encode_normal(symbols, means, stds, -1000, 1000)
    assert decode_normal(words, means, stds, -1000, 1000).tolist() == symbols.tolist()


def test_categorical_round_trip_and_size() -> None:
    rng = random_state("categorical")
    probabilities = rng.dirichlet(np.ones(5), 5000)
    symbols = np.array([rng.choice(5, p=p) for p in probabilities], np.int32)
    words = encode_categorical(symbols, probabilities)
    assert (decode_categorical(words, probabilities) == symbols).all()
    bits = -np.log2(probabilities[np.arange(5000), symbols]).sum()
    assert bits - 64 < 32 * words.size < 1.01 * bits + 64


def test_categorical_symbol_of_probability_0() -> None:
    symbols = np.array([1, 0], np.int32)
    probabilities = np.array([[1.0, 0.0], [0.0, 3.0]])
    words = encode_categorical(symbols, probabilities)
    assert decode_categorical(words, probabilities).tolist() == [1, 0]


def test_nothing() -> None:
    none, no_rows = np.empty(0), np.empty((0, 3))
    assert (
        decode_normal(encode_normal(np.empty(0, np.int32), none, none, 0, 1), none, none, 0, 1).size
        == 0
    )
    assert decode_categorical(encode_categorical(np.empty(0, np.int32), no_rows), no_rows).size == 0


@pytest.mark.parametrize(
    ("symbol", "mean", "std", "low", "high"),
    [
        (11, 0.0, 1.0, -10, 10),
        (0, np.nan, 1.0, -10, 10),
        (0, 0.0, 0.0, -10, 10),
        (0, 0.0, -1.0, -10, 10),
        (0, 0.0, np.inf, -10, 10),
        (0, 0.0, 1.0, 10, -10),
        (0, 0.0, 1.0, -(2**30), 2**30),
    ],
)
def test_bad_normal(symbol: int, mean: float, std: float, low: int, high: int) -> None:
    with pytest.raises(ArgumentError):
        encode_normal(np.array([symbol], np.int32), np.array([mean]), np.array([std]), low, high)


@pytest.mark.parametrize("row", [[0.5, -0.1], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [1.0]])
def test_bad_categorical(row: list[float]) -> None:
    with pytest.raises(ArgumentError):
        encode_categorical(np.zeros(1, np.int32), np.array([row]))


def test_counts_that_do_not_match() -> None:
    with pytest.raises(ArgumentError):
        encode_normal(np.zeros(2, np.int32), np.zeros(1), np.ones(1), 0, 1)
    with pytest.raises(ArgumentError):
        encode_categorical(np.zeros(2, np.int32), np.ones((1, 2)))
    with pytest.raises(ArgumentError):
        encode_categorical(np.full(1, 2, np.int32), np.ones((1, 2)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_any_words_decode_or_are_refused(words: list[int]) -> None:
    data = np.array(words, np.uint32)
    try:
        symbols = decode_normal(data, np.zeros(30), np.full(30, 5.0), -100, 100)
    except FormatError:
        return
    assert symbols.shape == (30,) and abs(symbols).max() <= 100
