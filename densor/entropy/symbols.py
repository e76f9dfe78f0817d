"""Any sequence of symbols, coded under any probability model that the caller has.

A range coder with carry (G. N. N. Martin, "Range encoding", 1979) in Python's integers: as exact as
the model, on every machine. It comes within 2^-24 of the model's bits per symbol, and 8 bytes.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError, FormatError

S = TypeVar("S")
Frequencies = Sequence[int] | npt.NDArray[np.integer[Any]]

MAX_TOTAL = 1 << 32  # of the frequencies of one distribution
_BITS = 64
_MASK = (1 << _BITS) - 1
_MIN_WIDTH = 1 << (_BITS - 8)


class SymbolModel(Protocol[S]):
    """Tells how likely each symbol is to come next. Symbols are numbers from 0 to `alphabet` - 1.

    Whoever decodes must have a model that gives the very same integers. A state is anything; a
    model may keep one state and change it, since states are used one after the other.
    """

    alphabet: int

    def start(self) -> S:
        """The state before the first symbol."""

    def distribution(self, state: S) -> Frequencies:
        """How frequent each symbol is, `alphabet` integers from 0 on with a sum of 1 to 2^32.

        A symbol of frequency 0 cannot be coded.
        """

    def update(self, state: S, symbol: int) -> S:
        """The state after one more symbol."""


def encode_symbols(model: SymbolModel[S], sequence: Iterable[int]) -> bytes:
    """Codes `sequence` in about as many bits as the model is surprised.

    Neither the model nor the number of symbols is stored. ArgumentError for a symbol that the model
    rules out, or a distribution that is none.
    """
    out = bytearray()
    low, width = 0, _MASK
    state = model.start()
    for symbol in sequence:
        bounds = cumulative(model, state)
        if not 0 <= symbol < model.alphabet or bounds[symbol] == bounds[symbol + 1]:
            raise ArgumentError(f"symbol {symbol} has no probability")
        unit = width // bounds[-1]
        low += unit * bounds[symbol]
        width = unit * (bounds[symbol + 1] - bounds[symbol])
        if low > _MASK:
            low &= _MASK
            _carry(out)
        while width < _MIN_WIDTH:
            out.append(low >> (_BITS - 8))
            low, width = low << 8 & _MASK, width << 8
        state = model.update(state, symbol)
    return bytes(out) + low.to_bytes(_BITS // 8, "big")


def decode_symbols(model: SymbolModel[S], data: bytes, count: int) -> list[int]:
    """The `count` symbols that `data` holds under the same model; FormatError if it holds others.

    Damage that happens to give other symbols of just this length is not noticed.
    """
    at = _BITS // 8
    if len(data) < at:
        raise FormatError("symbols end too early")
    code, width = int.from_bytes(data[:at], "big"), _MASK
    state = model.start()
    symbols: list[int] = []
    for _ in range(count):
        bounds = cumulative(model, state)
        unit = width // bounds[-1]
        if code >= unit * bounds[-1]:
            raise FormatError("symbols are damaged, or of another model")
        symbol = bisect_right(bounds, code // unit) - 1
        code -= unit * bounds[symbol]
        width = unit * (bounds[symbol + 1] - bounds[symbol])
        while width < _MIN_WIDTH:
            if at == len(data):
                raise FormatError("symbols end too early")
            code, width = code << 8 | data[at], width << 8
            at += 1
        symbols.append(symbol)
        state = model.update(state, symbol)
    if at != len(data) or code:
        raise FormatError("symbols are damaged, or of another model")
    return symbols


def cumulative(model: SymbolModel[S], state: S) -> list[int]:
    """The sums of frequencies before each symbol, and of all; ArgumentError if they are none."""
    frequencies = np.asarray(model.distribution(state))
    if frequencies.shape != (model.alphabet,) or frequencies.dtype.kind not in "iu":
        raise ArgumentError(f"a distribution has {model.alphabet} integers")
    bounds = list(accumulate(frequencies.tolist(), initial=0))
    if frequencies.min() < 0 or not 1 <= bounds[-1] <= MAX_TOTAL:
        raise ArgumentError("frequencies are from 0 on, with a sum of 1 to 2^32")
    return bounds


def _carry(out: bytearray) -> None:
    """Adds 1 to the bytes so far, which have room for it."""
    at = len(out) - 1
    while out[at] == 255:
        out[at] = 0
        at -= 1
    out[at] += 1
