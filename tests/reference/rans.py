"""A slow rANS coder, after docs/format/rans.md and nothing else.

Frequencies of a context: 256 numbers that add up to 4096, or are all 0.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate

from reference.reading import fail

BITS = 12
ONE = 1 << BITS
STATES = 32
FIRST = 1 << 16
Row = Sequence[int]


def slots(row: Row) -> tuple[list[int], list[int], list[int]]:
    """Owner of each slot, first slot of each symbol, frequency of each symbol."""
    freqs = list(row) if any(row) else [ONE] + [0] * 255
    firsts = list(accumulate(freqs[:-1], initial=0))
    owners = [symbol for symbol in range(256) for _ in range(freqs[symbol])]
    return owners, firsts, freqs


class Decoder:
    """Decodes the runs of a stream in order."""

    def __init__(self, stream: bytes, rows: Sequence[Row]) -> None:
        self._stream = stream
        self._contexts = [slots(row) for row in rows]
        self._at = 0
        self._states = [self._take(4) for _ in range(STATES)]
        if min(self._states) < FIRST:
            fail("a state below 2^16")

    def _take(self, size: int) -> int:
        taken = self._stream[self._at : self._at + size]
        if len(taken) < size:
            fail("the stream is too short")
        self._at += size
        return int.from_bytes(taken, "little")

    def run(self, contexts: Iterable[int]) -> bytes:
        """One run of symbols, under these contexts."""
        symbols = bytearray()
        for i, context in enumerate(contexts):
            owners, firsts, freqs = self._contexts[context]
            x = self._states[i % STATES]
            slot = x % ONE
            symbol = owners[slot]
            x = freqs[symbol] * (x // ONE) + slot - firsts[symbol]
            if x < FIRST:
                x = x * FIRST + self._take(2)
            self._states[i % STATES] = x
            symbols.append(symbol)
        return bytes(symbols)

    def finish(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._stream):
            fail("words are left")
        if any(state != FIRST for state in self._states):
            fail("a state does not end as it should")


def decode(stream: bytes, rows: Sequence[Row], contexts: Iterable[int]) -> bytes:
    """A stream of one run."""
    decoder = Decoder(stream, rows)
    symbols = decoder.run(contexts)
    decoder.finish()
    return symbols


def encode(runs: Sequence[tuple[bytes, Sequence[int]]], rows: Sequence[Row]) -> bytes:
    """The stream of runs of symbols, each with its contexts: every step of a decoder undone."""
    tables = [slots(row) for row in rows]
    states = [FIRST] * STATES
    words: list[bytes] = []
    for symbols, contexts in reversed(runs):
        for i in reversed(range(len(symbols))):
            _, firsts, freqs = tables[contexts[i]]
            symbol = symbols[i]
            freq = freqs[symbol]
            x = states[i % STATES]
            if x >= freq << 20:
                words.append((x % FIRST).to_bytes(2, "little"))
                x //= FIRST
            states[i % STATES] = (x // freq) * ONE + x % freq + firsts[symbol]
    return b"".join(state.to_bytes(4, "little") for state in states) + b"".join(reversed(words))


class Bits:
    """Bits of a text, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> int:
        """A number, its lowest bit first."""
        if self.at + count > 8 * len(self._data):
            fail("frequencies are cut short")
        first, end = self.at // 8, (self.at + count + 7) // 8
        value = int.from_bytes(self._data[first:end], "little") >> self.at % 8
        self.at += count
        return value & ((1 << count) - 1)

    def finish(self) -> int:
        """Bytes that were used; what is left of the last one must be 0."""
        if self.take(-self.at % 8):
            fail("unused bits are not 0")
        return self.at // 8


def _number(bits: Bits, order: int) -> int:
    zeros = 0
    while bits.take(1) == 0:
        zeros += 1
        if zeros > 13:
            fail("too long a number")
    high = 1 << zeros | bits.take(zeros)
    return (high - 1) << order | bits.take(order)


def unpack(data: bytes, contexts: int) -> tuple[list[list[int]], int]:
    """Frequencies at the start of `data`, and how many bytes they take."""
    bits = Bits(data)
    rows = []
    for _ in range(contexts):
        row = [0] * 256
        rows.append(row)
        if not bits.take(1):
            continue
        first, last = bits.take(8), bits.take(8)
        if last < first:
            fail("no symbol between first and last")
        freq, order = 0, 5
        for symbol in range(first, last + 1):
            u = _number(bits, order)
            freq += u // 2 if u % 2 == 0 else -(u + 1) // 2
            if not 0 <= freq <= ONE:
                fail("a frequency out of range")
            row[symbol] = freq
            order = (order + (u // 2).bit_length() + 1) // 2
        if sum(row) != ONE or not row[first] or not row[last]:
            fail("frequencies do not add up")
    return rows, bits.finish()


class BitWriter:
    """Undoes `Bits`."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def put(self, value: int, count: int) -> None:
        """The lowest `count` bits of a number, lowest first."""
        self._bits += [str(value >> bit & 1) for bit in range(count)]

    def finish(self) -> bytes:
        """All bits, in whole bytes."""
        text = "".join(self._bits)
        return int("0" + text[::-1], 2).to_bytes((len(text) + 7) // 8, "little")


def pack(rows: Iterable[Row]) -> bytes:
    """Undoes `unpack`; the frequencies may be wrong."""
    bits = BitWriter()
    for row in rows:
        used = [symbol for symbol in range(256) if row[symbol]]
        bits.put(bool(used), 1)
        if used:
            put_frequencies(bits, used[0], row[used[0] : used[-1] + 1])
    return bits.finish()


def put_frequencies(bits: BitWriter, first: int, freqs: Row) -> None:
    """The frequencies of the symbols from `first` on."""
    bits.put(first, 8)
    bits.put(first + len(freqs) - 1, 8)
    before, order = 0, 5
    for freq in freqs:
        d = freq - before
        before = freq
        u = 2 * d if d >= 0 else -2 * d - 1
        h = (u >> order) + 1
        bits.put(0, h.bit_length() - 1)
        bits.put(1, 1)
        bits.put(h, h.bit_length() - 1)
        bits.put(u, order)
        order = (order + (u // 2).bit_length() + 1) // 2


def even(symbols: Iterable[int]) -> list[int]:
    """Frequencies of these symbols, as equal as can be."""
    chosen = sorted(set(symbols))
    found = [0] * 256
    for i, symbol in enumerate(chosen):
        found[symbol] = ONE * (i + 1) // len(chosen) - ONE * i // len(chosen)
    return found
