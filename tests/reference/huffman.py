"""Huffman codes of a class and their streams (docs/format/container.md, section 7)."""

from reference.reading import Cursor, fail

MAX_CODE_LENGTH = 12

Table = tuple[tuple[int, int], ...]  # the next 12 bits of a stream -> (symbol, code length)


def parse_code_lengths(cursor: Cursor) -> dict[int, int]:
    """Symbol -> code length, for the symbols that occur (7)."""
    first, last = cursor.u8(), cursor.u8()
    if first >= last:
        fail("first and last symbol of a Huffman class")
    count = last - first + 1
    halves = [half for byte in cursor.take((count + 1) // 2) for half in (byte & 15, byte >> 4)]
    if any(halves[count:]):
        fail("an unused half byte is not 0")
    lengths = {first + i: length for i, length in enumerate(halves[:count]) if length}
    if any(length > MAX_CODE_LENGTH for length in lengths.values()):
        fail("a code length above 12")
    if len(lengths) < 2:
        fail("a Huffman class with fewer than two symbols")
    if sum(1 << (MAX_CODE_LENGTH - length) for length in lengths.values()) != 1 << MAX_CODE_LENGTH:
        fail("the sum of a Huffman code is not 1")
    return lengths


def canonical(lengths: dict[int, int]) -> dict[int, str]:
    """Canonical code of symbols by length (7): texts of 0 and 1, the first bit first."""
    code, previous = 0, 0
    codes: dict[int, str] = {}
    for length, symbol in sorted((length, symbol) for symbol, length in lengths.items()):
        code <<= length - previous
        codes[symbol] = f"{code:0{length}b}"
        code, previous = code + 1, length
    return codes


def huffman_table(lengths: dict[int, int]) -> Table:
    """Canonical code as a table: the next 12 bits of a stream -> (symbol, code length) (7).

    A code begins with its most significant bit and the first of the 12 bits is the lowest one, so
    the reversed code fills the low bits; the bits above it belong to the codes that follow.
    """
    table = [(0, 0)] * (1 << MAX_CODE_LENGTH)
    for symbol, code in canonical(lengths).items():
        step = 1 << len(code)
        table[int(code[::-1], 2) :: step] = [(symbol, len(code))] * (len(table) // step)
    return tuple(table)


class Stream:
    """A Huffman stream, bit k being bit k mod 8 of byte k div 8 (7)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.window = self.available = self.position = self.used = 0

    def read(self, count: int, table: Table) -> bytearray:
        """The next count symbols, by the code of table; behind the end there are bits of 0."""
        data, window, available = self.data, self.window, self.available
        position, used = self.position, self.used
        symbols = bytearray(count)
        for i in range(count):
            while available < MAX_CODE_LENGTH and position < len(data):
                window |= data[position] << available
                position += 1
                available += 8
            symbol, length = table[window & 0xFFF]
            symbols[i] = symbol
            window >>= length
            available -= length
            used += length
        self.window, self.available = window, available
        self.position, self.used = position, used
        return symbols

    def finish(self) -> None:
        """Nothing but unused bits of the last byte, which are 0, may be left."""
        if len(self.data) != (self.used + 7) // 8:
            fail("a Huffman stream of another length")
        if self.used % 8 and self.data[-1] >> self.used % 8:
            fail("an unused bit of a Huffman stream is not 0")
