"""Tokens: what a change of any size is cut into, a symbol of 8 bits and some extra bits.

Small changes have a token each, larger ones one per power of two and leading bits behind it, as
the hybrid integers of JPEG XL (ISO/IEC 18181-1, C.3.3) have.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DIFFERENCE = 1  # methods: by how much an element differs in its numeric order
XOR = 2  # which bits differ
UNSIGNED, SIGNED, FLOATS = 0, 1, 2  # numeric orders
OWN = 3  # the element itself, of which the base tells the context only

_SPLIT = {  # method and size of an element: bits of small changes, leading bits of larger ones
    DIFFERENCE: {1: (7, 0), 2: (5, 3), 4: (4, 2), 8: (3, 1)},
    XOR: {1: (8, 0), 2: (5, 4), 4: (4, 3), 8: (3, 2)},
    OWN: {1: (0, 0), 2: (0, 0), 4: (0, 0), 8: (0, 0)},
}


@dataclass(frozen=True)
class Method:
    """How changes of elements are turned into tokens.

    `size`: bytes of an element. `floats`: sign and magnitude, as in IEEE 754, not an integer.
    `drop`: low bits, always 0, that are left out. `direct`: changes below 2^direct have a token
    each; `mantissa`: bits behind the leading one of larger changes that are part of their token.
    """

    number: int
    size: int
    floats: bool
    drop: int
    direct: int
    mantissa: int

    @property
    def bits(self) -> int:
        """Bits of an element without those that are dropped."""
        return 8 * self.size - self.drop

    @property
    def arguments(self) -> tuple[int, bool, int, int, int, int]:
        """What the kernels of the coding side want to know."""
        return self.number, self.floats, self.drop, self.bits, self.direct, self.mantissa

    @property
    def plain(self) -> int:
        """Tokens below this stand for small changes, without extra bits."""
        if self.number == OWN:
            return 0
        return (2 << self.direct) - 1 if self.number == DIFFERENCE else 1 << self.direct

    def known(self) -> bool:
        """Whether the fields are possible; every change then has a token."""
        if self.size not in (1, 2, 4, 8) or not 0 <= self.drop <= 8 * self.size - 8:
            return False
        if self.number == OWN:
            return self.direct == self.mantissa == 0
        if not 0 <= self.mantissa <= self.direct <= self.bits:
            return False
        if self.number == DIFFERENCE:
            return self.direct < self.bits and self._kinds(self.bits - 1) <= 128
        return self.number == XOR and self._kinds(self.bits) <= 256

    def _kinds(self, bits: int) -> int:
        """How many tokens changes of so many bits have, without signs."""
        return (1 << self.direct) + ((bits - self.direct) << self.mantissa)


def method(number: int, size: int, floats: bool, drop: int = 0) -> Method:
    """The method as a writer uses it."""
    direct, mantissa = _SPLIT[number][size]
    bits = 8 * size - drop
    direct = min(direct, bits - 1 if number == DIFFERENCE else bits)
    return Method(number, size, floats, drop, direct, min(mantissa, direct))


@dataclass(frozen=True, eq=False)
class TokenTable:
    """What each token stands for."""

    starts: npt.NDArray[np.uint64]  # uint64[256]: the least change, in two's complement
    counts: npt.NDArray[np.uint8]  # uint8[256]: extra bits
    valid: npt.NDArray[np.bool_]  # bool[256]


def token_table(method: Method) -> TokenTable:
    """The tables of a method that is `known`."""
    return _token_table(method)


@functools.cache
def _token_table(method: Method) -> TokenTable:
    starts = np.zeros(256, np.uint64)
    counts = np.zeros(256, np.uint8)
    valid = np.zeros(256, np.bool_)
    for token in range(256):
        start, extra = _change_of(method, token)
        if abs(start) >> method.bits == 0:
            starts[token], counts[token], valid[token] = start % (1 << 64), extra, True
    return TokenTable(starts, counts, valid)


def _change_of(method: Method, token: int) -> tuple[int, int]:
    """The least change of a token, negative for one downwards, and its number of extra bits."""
    if method.number == OWN:
        extra = method.bits - 8
        return token << extra, extra
    kind, down = token, False
    if method.number == DIFFERENCE:
        kind, down = (token + 1) >> 1, bool(token & 1)
    start, extra = kind, 0
    if kind >> method.direct:
        above, leading = divmod(kind - (1 << method.direct), 1 << method.mantissa)
        extra = method.direct + above - method.mantissa
        start = (1 << method.mantissa | leading) << extra
    return (-start if down else start), extra


@functools.lru_cache(32)
def tokens_by_change(method: Method) -> npt.NDArray[np.uint8]:
    """The token of each change of elements of one or two bytes, uint8[65536].

    By the change as an unsigned integer: of differences 2 d, or -2 d - 1 where d is negative.
    Empty for what has no such table.
    """
    if method.size > 2 or method.number == OWN:
        return np.empty(0, np.uint8)
    found = np.zeros(1 << 16, np.uint8)
    table = token_table(method)
    for token in np.flatnonzero(table.valid).tolist():
        start, extra = _change_of(method, token)
        magnitudes = np.arange(abs(start), abs(start) + (1 << extra))
        if method.number == DIFFERENCE:
            magnitudes = 2 * magnitudes - 1 if token & 1 else 2 * magnitudes
        found[magnitudes[magnitudes < 1 << method.bits]] = token
    return found
