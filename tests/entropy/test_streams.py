"""Four streams of Huffman codes, up to the last bytes that may be read."""

import numpy as np
import numpy.typing as npt
import pytest

from densor.entropy.huffman.decode import MIN_BITS
from densor.entropy.huffman.kernels import NARROW, NARROW_BITS, decode_streams

# Bits of the code of each symbol: any number of symbols in a look-up; and few
WIDE = (*range(1, 12), 12, 12)
LONG = (*[4] * 15, *range(5, 12), 12, 12)
ROOM = 400  # symbols: no stream has them all
SIZE = 48  # bytes that streams are in


def codes_of(lengths: tuple[int, ...]) -> dict[tuple[int, int], int]:
    """Symbols by the length and the bits of their codes, of which the lowest comes first."""
    found, code, before = {}, 0, 0
    for symbol, length in enumerate(lengths):
        code <<= length - before
        found[length, int(f"{code:0{length}b}"[::-1], 2)] = symbol
        code, before = code + 1, length
    return found


def first_of(codes: dict[tuple[int, int], int], window: int) -> tuple[int, int]:
    """The first symbol in a window of bits, and the length of its code."""
    for length in range(1, 13):
        symbol = codes.get((length, window & ((1 << length) - 1)))
        if symbol is not None:
            return symbol, length
    raise AssertionError("code is not complete")


def table_of(codes: dict[tuple[int, int], int], width: int, narrow: bool) -> npt.NDArray[np.uint64]:
    """For each window all whole symbols, up to as many as an entry holds."""
    entries = []
    for window in range(1 << width):
        used, symbols = 0, []
        while len(symbols) < (2 if narrow else 6):
            symbol, length = first_of(codes, window >> used)
            if used + length > width:
                break
            used += length
            symbols.append(symbol)
        packed = sum(symbol << 8 * i for i, symbol in enumerate(symbols))
        if narrow:
            entries.append(packed | used << 16 | len(symbols) << 24)
        else:
            entries.append(used | packed << 8 | len(symbols) << 60)
    if narrow:
        return np.array(entries, np.uint32).view(np.uint64)
    return np.array(entries, np.uint64)


@pytest.mark.parametrize("narrow", [False, True])
def test_streams_up_to_the_end_of_their_source(narrow: bool) -> None:
    """The symbols are those of the codes, one by one; and no byte behind the source is read, which
    `mutations` sees under NUMBA_BOUNDSCHECK=1."""
    lengths = LONG if narrow else WIDE
    codes, bits = codes_of(lengths), NARROW_BITS if narrow else MIN_BITS + 1
    table = table_of(codes, bits, narrow)
    of_symbols = np.zeros(256, np.uint8)
    of_symbols[: len(lengths)] = lengths
    rng = np.random.default_rng(0)
    for trial, mask in enumerate((0xFF, 0x11, 0xFE, 0)):
        source = rng.integers(0, 256, SIZE, np.uint8) & np.uint8(mask)
        number = int.from_bytes(source.tobytes(), "little")
        for begin in range(0, 8 * (SIZE - 8) + 8, 1 if trial < 2 else 5):
            out, at = np.zeros(4 * ROOM, np.uint8), np.full(4, begin, np.uint64)
            width = bits | NARROW if narrow else bits
            decode_streams(source, at, table, width, of_symbols, out, 0, out.size)
            place, expected = begin, []
            while place >> 3 <= SIZE - 8 and len(expected) < ROOM:
                symbol, length = first_of(codes, number >> place)
                expected.append(symbol)
                place += length
            for row, end in zip(out.reshape(4, -1).tolist(), at.tolist(), strict=True):
                assert row[: len(expected)] == expected
                assert end == place if place >> 3 <= SIZE - 8 else end >> 3 > SIZE - 8


def with_bounds_checks() -> None:
    """What `mutations` runs."""
    for narrow in (False, True):
        test_streams_up_to_the_end_of_their_source(narrow)
