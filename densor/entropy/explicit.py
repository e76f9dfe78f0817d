"""Integers under distributions that a model gives one by one, with the `constriction` library.

A range coder, that is a queue: what was coded first is decoded first. The library turns the
parameters into probabilities in floating-point arithmetic, so parameters must be bit for bit those
of the coding side. Models that stand in archives use integers instead (`entropy.arithmetic`), and
so do those of callers, whose frequencies add up to as much as 2^32 (`entropy.symbols`); the library
has 24 bits.
"""

from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError, FormatError

Symbols = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint32]
Reals = npt.NDArray[np.float64]

_MAX_SYMBOLS = 1 << 22  # of a range: each needs one of 2^24 slots, and some for the likely ones


def encode_normal(symbols: Symbols, means: Reals, stds: Reals, low: int, high: int) -> Words:
    """Codes `symbols`, int32[n], each under a normal distribution of its own.

    The distribution is cut into bins of width 1 around the integers from `low` to `high`, none of
    which has probability 0. `means`, `stds`: float64[n]. ArgumentError if symbols are outside, or
    parameters not finite or not positive.
    """
    model = _normal_model(means, stds, symbols.size, low, high)
    _check_range(symbols, low, high)
    return _encode(symbols, model, means, stds)


def decode_normal(words: Words, means: Reals, stds: Reals, low: int, high: int) -> Symbols:
    """The symbols, int32[n]. FormatError if `words` are longer than these take."""
    return _decode(words, _normal_model(means, stds, means.size, low, high), means, stds)


def encode_categorical(symbols: Symbols, probabilities: Reals) -> Words:
    """Codes `symbols`, int32[n], each from 0 to k - 1, under its row of `probabilities`.

    `probabilities`: float64[n, k], not negative, of any positive sum per row; those near 0 are
    rounded up to what the coder can express. ArgumentError for others.
    """
    model = _categorical_model(probabilities)
    if symbols.size != len(probabilities):
        raise ArgumentError("every symbol needs probabilities")
    _check_range(symbols, 0, probabilities.shape[1] - 1)
    return _encode(symbols, model, probabilities)


def decode_categorical(words: Words, probabilities: Reals) -> Symbols:
    """The symbols, int32[n]. FormatError if `words` are longer than these take."""
    return _decode(words, _categorical_model(probabilities), probabilities)


def _normal_model(means: Reals, stds: Reals, count: int, low: int, high: int) -> Any:
    if not (means.shape == stds.shape == (count,)):
        raise ArgumentError("every symbol needs a mean and a standard deviation")
    if not (np.isfinite(means).all() and np.isfinite(stds).all() and (stds > 0).all()):
        raise ArgumentError("means must be finite, standard deviations finite and positive")
    if not (-(1 << 31) <= low < high < 1 << 31 and high - low < _MAX_SYMBOLS):
        raise ArgumentError(f"range from {low} to {high} cannot be coded")
    return constriction.stream.model.QuantizedGaussian(low, high)


def _categorical_model(probabilities: Reals) -> Any:
    if probabilities.ndim != 2 or not 2 <= probabilities.shape[1] <= _MAX_SYMBOLS:
        raise ArgumentError("probabilities must have two dimensions, with at least two per symbol")
    sums = probabilities.sum(axis=1)
    if not np.isfinite(sums).all() or (probabilities < 0).any() or (sums <= 0).any():
        raise ArgumentError("probabilities must be finite and not negative, with a positive sum")
    return constriction.stream.model.Categorical(perfect=False)


def _check_range(symbols: Symbols, low: int, high: int) -> None:
    if symbols.size and not low <= int(symbols.min()) <= int(symbols.max()) <= high:
        raise ArgumentError(f"symbols must be from {low} to {high}")


def _encode(symbols: Symbols, model: Any, *parameters: Reals) -> Words:
    coder = constriction.stream.queue.RangeEncoder()
    if symbols.size:
        coder.encode(np.ascontiguousarray(symbols, np.int32), model, *parameters)
    words: Words = coder.get_compressed()
    return words


def _decode(words: Words, model: Any, *parameters: Reals) -> Symbols:
    coder = constriction.stream.queue.RangeDecoder(np.ascontiguousarray(words, np.uint32))
    symbols = np.empty(0, np.int32)
    if len(parameters[0]):
        try:
            symbols = coder.decode(model, *parameters)
        except (AssertionError, ValueError, KeyError) as error:
            raise FormatError(f"words cannot be decoded: {error}") from None
    if not coder.maybe_exhausted():
        raise FormatError("words are left after the last symbol")
    return symbols
