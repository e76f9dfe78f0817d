"""Our coders against those of the `constriction` library: what the same symbols take.

The bytes differ, as the formats do; the sizes must not, but for what is stated in each test.
"""

from typing import Any

import constriction
import numpy as np
import numpy.typing as npt
import pytest
from bit_coder import code_lengths, encode_bits
from helpers import random_state

from densor.entropy.explicit import encode_categorical
from densor.entropy.huffman.code import fast_lengths
from densor.entropy.rans import kernels, tables
from densor.entropy.rans.encode import encode
from densor.entropy.symbols import encode_symbols

AnsCoder = constriction.stream.stack.AnsCoder
RangeEncoder = constriction.stream.queue.RangeEncoder
models = constriction.stream.model

Counts = npt.NDArray[np.int64]
SHAPES = ("normal", "skewed", "flat", "two", "sparse")


def symbols_of(shape: str, n: int = 60_000) -> npt.NDArray[np.uint8]:
    rng = random_state("oracle", shape)
    if shape == "normal":
        return np.clip(np.rint(rng.normal(120, 6, n)), 0, 255).astype(np.uint8)
    if shape == "skewed":
        return np.minimum(rng.geometric(0.4, n), 255).astype(np.uint8)
    if shape == "flat":
        return rng.integers(0, 256, n, np.uint8)
    if shape == "two":
        return (rng.random(n) < 0.1).astype(np.uint8)
    return rng.choice([3, 77, 200, 201], n, p=[0.9, 0.05, 0.03, 0.02]).astype(np.uint8)


def counted(symbols: npt.NDArray[np.uint8]) -> Counts:
    return np.bincount(symbols, minlength=256).astype(np.int64)


@pytest.mark.parametrize("shape", SHAPES)
def test_rans_takes_what_the_library_takes_with_the_same_frequencies(shape: str) -> None:
    symbols = symbols_of(shape)
    freqs = tables.quantise(counted(symbols)[None])
    ours = encode(symbols, np.zeros(symbols.size, np.uint8), freqs).size
    used = np.flatnonzero(freqs[0])
    known = models.Categorical(freqs[0][used] / 4096, perfect=False)
    library = AnsCoder()
    library.encode_reverse(np.searchsorted(used, symbols).astype(np.int32), known)
    states = 4 * kernels.STATES
    assert abs(ours - states - library.num_bits() / 8) < 0.001 * ours + states


@pytest.mark.parametrize("shape", SHAPES)
def test_huffman_codes_are_as_short_as_those_of_the_library(shape: str) -> None:
    symbols = symbols_of(shape, 5000)
    counts = counted(symbols)
    used = np.flatnonzero(counts)
    tree = constriction.symbol.huffman.EncoderHuffmanTree(counts[used].astype(np.float64))
    library = constriction.symbol.QueueEncoder()
    for symbol in np.searchsorted(used, symbols).tolist():
        library.encode_symbol(symbol, tree)
    _, least = library.get_compressed()
    free = code_lengths(counts, 20)
    assert int((counts * free).sum()) == least
    lengths, bits = fast_lengths(counts)
    assert least <= bits <= least * 1.001
    assert bits == int((counts * lengths).sum())


@pytest.mark.parametrize("p", [300, 9000, 32768, 65000])
def test_bits_take_what_the_library_takes(p: int) -> None:
    n = 50_000
    bits = (random_state("oracle bits", p).random(n) < p / 65536).astype(np.uint8)
    ours = encode_bits(bits, np.full(n, p, np.uint16)).size
    library = RangeEncoder()
    library.encode(bits.astype(np.int32), models.Bernoulli(p / 65536))
    assert abs(ours - library.num_bits() / 8) < 0.002 * ours + 8


class Adaptive:
    """Counts what it has seen."""

    alphabet = 5

    def start(self) -> Counts:
        return np.ones(self.alphabet, np.int64)

    def distribution(self, state: Counts) -> Counts:
        return state

    def update(self, state: Counts, symbol: int) -> Counts:
        state[symbol] += 3
        return state


def test_symbols_under_a_model_take_what_the_library_takes() -> None:
    n = 3000
    sequence = random_state("oracle symbols").choice(5, n, p=[0.5, 0.3, 0.1, 0.07, 0.03])
    ours = len(encode_symbols(Adaptive(), sequence.tolist()))
    rows: list[Any] = []
    model = Adaptive()
    state = model.start()
    for symbol in sequence.tolist():
        rows.append(state / state.sum())
        state = model.update(state, symbol)
    library = 4 * encode_categorical(sequence.astype(np.int32), np.array(rows)).size
    assert abs(ours - library) <= 8
