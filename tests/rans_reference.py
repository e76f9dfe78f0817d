"""rANS after densor/entropy/rans/spec.md and nothing else: slow, readable, in pure Python.

`unpack` and `Stream` read; ValueError for what the specification refuses. `pack` and `encode`
write, also what no sensible writer would choose.
"""

from collections.abc import Iterable, Sequence

SLOTS = 4096
STATES = 32
LEAST_STATE = 1 << 16
FIRST_ORDER = 5
MOST_ZEROS = 13

Frequencies = list[int]  # of 256 symbols; all 0 for a context without frequencies
Run = tuple[Sequence[int], Sequence[int]]  # contexts, symbols


class Bits:
    """Numbers from a string of bits, lowest bit of each byte and number first."""

    def __init__(self, data: bytes) -> None:
        self.bits = "".join(f"{byte:08b}"[::-1] for byte in data)
        self.position = 0

    def take(self, count: int) -> int:
        """The next number of `count` bits."""
        taken = self.bits[self.position : self.position + count]
        if len(taken) < count:
            raise ValueError("a string of bits is too short")
        self.position += count
        return int("0" + taken[::-1], 2)

    def finish(self) -> int:
        """The bytes used; the unused bits of the last one must be 0."""
        if self.take(-self.position % 8):
            raise ValueError("an unused bit is not 0")
        return self.position // 8


def unpack(data: bytes, contexts: int) -> tuple[list[Frequencies], int]:
    """The frequencies of so many contexts, and how many bytes of `data` they take."""
    bits = Bits(data)
    return [unpack_context(bits) for _ in range(contexts)], bits.finish()


def unpack_context(bits: Bits) -> Frequencies:
    """The frequencies of one context."""
    found = [0] * 256
    if not bits.take(1):
        return found
    first, last = bits.take(8), bits.take(8)
    if first > last:
        raise ValueError("the first symbol is beyond the last")
    frequency, order = 0, FIRST_ORDER
    for symbol in range(first, last + 1):
        u = unpack_golomb(bits, order)
        frequency += -(u + 1) // 2 if u % 2 else u // 2
        if not 0 <= frequency <= SLOTS:
            raise ValueError("a frequency beyond 0 to 4096")
        found[symbol] = frequency
        order = next_order(order, u)
    if sum(found) != SLOTS:
        raise ValueError("frequencies do not add up to 4096")
    if not found[first] or not found[last]:
        raise ValueError("the first or last symbol has no frequency")
    return found


def unpack_golomb(bits: Bits, order: int) -> int:
    """A number in Exp-Golomb code."""
    zeros = 0
    while not bits.take(1):
        zeros += 1
        if zeros > MOST_ZEROS:
            raise ValueError("too many zeros in a number")
    h = 1 << zeros | bits.take(zeros)
    return (h - 1) << order | bits.take(order)


def next_order(order: int, u: int) -> int:
    """The order of the code for the frequency after the one written as `u`."""
    return (order + (u // 2).bit_length() + 1) // 2


class Stream:
    """A stream, from which runs are taken."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 4 * STATES or len(data) % 2:
            raise ValueError("a stream of no possible length")
        self.states = [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(STATES)]
        if min(self.states) < LEAST_STATE:
            raise ValueError("a state below 2^16")
        self.words = [
            int.from_bytes(data[i : i + 2], "little") for i in range(4 * STATES, len(data), 2)
        ]
        self.position = 0

    def take(self, contexts: Iterable[int], frequencies: Sequence[Frequencies]) -> list[int]:
        """The symbols of a run, one per context."""
        slots: dict[int, list[tuple[int, int, int]]] = {}
        symbols = []
        for i, context in enumerate(contexts):
            if context not in slots:
                slots[context] = slots_of(frequencies[context])
            x = self.states[i % STATES]
            symbol, frequency, start = slots[context][x % SLOTS]
            x = frequency * (x // SLOTS) + x % SLOTS - start
            if x < LEAST_STATE:
                if self.position == len(self.words):
                    raise ValueError("a stream is too short")
                x = x << 16 | self.words[self.position]
                self.position += 1
            self.states[i % STATES] = x
            symbols.append(symbol)
        return symbols

    def finish(self) -> None:
        """After the last run: nothing is left, and every state is where the writer began."""
        if self.position != len(self.words):
            raise ValueError("a stream is too long")
        if any(x != LEAST_STATE for x in self.states):
            raise ValueError("a state does not end at 2^16")


def slots_of(frequencies: Frequencies) -> list[tuple[int, int, int]]:
    """For each slot: its symbol, the symbol's frequency and first slot."""
    found: list[tuple[int, int, int]] = []
    for symbol, frequency in enumerate(effective(frequencies)):
        found += [(symbol, frequency, len(found))] * frequency
    return found


def effective(frequencies: Frequencies) -> Frequencies:
    """A context without any frequency stands for f(0) = 4096."""
    return frequencies if any(frequencies) else [SLOTS] + [0] * 255


# The writer


class BitWriter:
    """The opposite of `Bits`."""

    def __init__(self) -> None:
        self.bits: list[str] = []

    def put(self, value: int, count: int) -> None:
        """A number of `count` bits."""
        self.bits += [str(value >> i & 1) for i in range(count)]

    def finish(self) -> bytes:
        """All bytes."""
        bits = "".join(self.bits)
        return int("0" + bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")


def pack(frequencies: Iterable[Frequencies]) -> bytes:
    """The frequencies as in a model, right or wrong."""
    bits = BitWriter()
    for context in frequencies:
        used = [symbol for symbol, frequency in enumerate(context) if frequency]
        bits.put(bool(used), 1)
        if used:
            pack_context(bits, used[0], context[used[0] : used[-1] + 1])
    return bits.finish()


def pack_context(bits: BitWriter, first: int, frequencies: Sequence[int]) -> None:
    """Frequencies from `first` on."""
    bits.put(first, 8)
    bits.put(first + len(frequencies) - 1, 8)
    before, order = 0, FIRST_ORDER
    for frequency in frequencies:
        d = frequency - before
        u = 2 * d if d >= 0 else -2 * d - 1
        h = (u >> order) + 1
        zeros = h.bit_length() - 1
        bits.put(1 << zeros, zeros + 1)
        bits.put(h, zeros)
        bits.put(u, order)
        before, order = frequency, next_order(order, u)


def encode(runs: Sequence[Run], frequencies: Sequence[Frequencies]) -> bytes:
    """The stream of these runs; every symbol must have a frequency under its context."""
    states = [LEAST_STATE] * STATES
    words: list[int] = []
    for contexts, symbols in reversed(runs):
        for i in reversed(range(len(symbols))):
            table, symbol, x = effective(frequencies[contexts[i]]), symbols[i], states[i % STATES]
            frequency = table[symbol]
            if x >= frequency << 20:
                words.append(x % LEAST_STATE)
                x //= LEAST_STATE
            x = x // frequency * SLOTS + x % frequency + sum(table[:symbol])
            states[i % STATES] = x
    return b"".join(x.to_bytes(4, "little") for x in states) + b"".join(
        word.to_bytes(2, "little") for word in reversed(words)
    )


def even(symbols: Iterable[int]) -> Frequencies:
    """Frequencies as equal as can be of the given symbols."""
    chosen = sorted(set(symbols))
    found = [0] * 256
    for i, symbol in enumerate(chosen):
        found[symbol] = SLOTS * (i + 1) // len(chosen) - SLOTS * i // len(chosen)
    return found
