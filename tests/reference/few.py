"""Changes of few elements, after docs/format/delta_few.md and nothing else: slow and readable."""

import struct
from dataclasses import dataclass

from reference import delta, rans
from reference.reading import Refused, decode_zstd, fail

METHOD = 4
SAME, CODED = 0, 2
CLASSES = 64
MAX_CHUNK = 8388608
HEAD = struct.Struct("<10BH")
LOW = 1 << 31


@dataclass(frozen=True)
class Model:
    """The fields of a MODEL."""

    changes: delta.Model  # what a token means
    block: int  # elements
    mapped: bytes
    rates: list[int]
    counts: list[list[int]]
    tokens: list[list[int]]

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        if base is None:
            fail("changes in an entry without a base")
        return decode(self, payload, original, base)


def parse_model(payload: bytes) -> Model:
    """MODEL."""
    if len(payload) < HEAD.size:
        fail("too short")
    fields = HEAD.unpack_from(payload)
    _, size, flags, _, direct, mantissa, contexts, shift, bits, block_bits, length = fields
    if size not in (1, 2, 4, 8) or flags not in (0, delta.FLOATS):
        fail("size or flags")
    if not delta.splits_all(delta.DIFFERENCE, 8 * size, direct, mantissa):
        fail("direct or mantissa bits")
    if contexts > 16 or shift >= 8 * size or bits > 12 or not 3 <= block_bits <= 7:
        fail("contexts or blocks")
    packed, rest = payload[HEAD.size : HEAD.size + length], payload[HEAD.size + length :]
    if len(packed) < length:
        fail("map")
    both = decode_zstd(packed, 2 << bits)
    mapped, codes = both[: 1 << bits], both[1 << bits :]
    if max(mapped) >= contexts or max(codes) > 151:
        fail("a context or a rate that is not there")
    frequencies, used = rans.unpack(rest, CLASSES + contexts)
    if used != len(rest):
        fail("too long")
    counts, tokens = frequencies[:CLASSES], frequencies[CLASSES:]
    changes = delta.Model(
        size, flags == delta.FLOATS, delta.DIFFERENCE, 0, direct, mantissa, shift, b"\0", []
    )
    if any(any(row[(1 << block_bits) + 1 :]) for row in counts):
        fail("more changes than elements")
    for row in tokens:
        if row[0] or any(row[t] and delta.meaning(changes, t) is None for t in range(256)):
            fail("a symbol that stands for no change")
    rates = [max(1, ((8 + c % 8) << c // 8) // 16) for c in codes]
    return Model(changes, 1 << block_bits, mapped, rates, counts, tokens)


class Stream:
    """The rANS coder of a chunk."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 8 or len(data) % 4:
            fail("length of the stream")
        self._words: list[int] = [word for (word,) in struct.iter_unpack("<I", data)]
        self._x: int = self._words[0] + (self._words[1] << 32)
        self._at = 2
        if not LOW <= self._x < 1 << 63:
            fail("state")

    def slot(self, bits: int) -> int:
        return int(self._x % (1 << bits))

    def take(self, first: int, slots: int, bits: int) -> None:
        self._x = slots * (self._x >> bits) + self.slot(bits) - first
        if self._x < LOW:
            if self._at == len(self._words):
                fail("the stream is too short")
            self._x = self._x << 32 | self._words[self._at]
            self._at += 1

    def symbol(self, row: list[int]) -> int:
        first, slot = 0, self.slot(12)
        for symbol, slots in enumerate(row):
            if slot < first + slots:
                self.take(first, slots, 12)
                return symbol
            first += slots
        raise AssertionError("slots of a row add up to all")

    def bits(self, count: int) -> int:
        value, filled = 0, 0
        while filled < count:
            part = min(16, count - filled)
            found = self.slot(part)
            self.take(found, 1, part)
            value |= found << filled
            filled += part
        return value

    def finish(self) -> None:
        if self._x != LOW or self._at != len(self._words):
            fail("the stream does not end as it should")


def quarters(x: int) -> int:
    """L(x)."""
    y = 4 * x
    n = y.bit_length() - 1
    return 4 * (n - 2) + (y >> (n - 2)) % 4


def decode(model: Model, payload: bytes, original: int, base: bytes) -> bytes:
    """CHUNK."""
    size = model.changes.size
    if len(payload) < 9 or original % size:
        fail("length")
    offset, mode = struct.unpack_from("<QB", payload)
    if offset + original > len(base):
        fail("beyond the end of the base")
    if original > MAX_CHUNK:
        raise Refused("limit", "more bytes than a chunk may have")
    before = base[offset : offset + original]
    if mode == SAME and len(payload) == 9:
        return before
    if mode != CODED or len(payload) < 10 or payload[9] > 127:
        fail("mode")
    f = payload[9]
    elements = [int.from_bytes(before[i : i + size], "little") for i in range(0, original, size)]
    stream = Stream(payload[10:])
    happened, expected = ((4 + f % 4) << f // 4) // 4, 1 << 21
    d = quarters(happened) - quarters(expected)
    every = 2048 // model.block
    for block, begin in enumerate(range(0, len(elements), model.block)):
        part = range(begin, min(begin + model.block, len(elements)))
        places = [(elements[i] >> model.changes.shift) % len(model.mapped) for i in part]
        rates = [model.rates[place] for place in places]
        total = sum(rates)
        row = model.counts[min(63, max(0, quarters(total) + d - 28))]
        count = stream.symbol(row) if any(row) else 0
        next_one = 0
        for _ in range(count):
            next_one = change(model, stream, elements, begin, places, rates, next_one) + 1
        happened += count << 18
        expected += total
        if block % every == every - 1:
            while expected > 1 << 24:
                happened //= 2
                expected //= 2
            happened = max(1, happened)
            d = quarters(happened) - quarters(expected)
    stream.finish()
    return b"".join(x.to_bytes(size, "little") for x in elements)


def change(
    model: Model,
    stream: Stream,
    elements: list[int],
    begin: int,
    places: list[int],
    rates: list[int],
    next_one: int,
) -> int:
    """Step 3: the place of the next change in the block."""
    if next_one == len(rates):
        fail("no element is left")
    q = (1 << 48) // sum(rates[next_one:])
    slot, low, s = stream.slot(24), 0, 0
    for i in range(next_one, len(rates)):
        s += rates[i]
        high = s * q >> 24
        if slot < high:
            break
        low = high
    else:
        fail("no element owns the slot")
    stream.take(low, high - low, 24)
    row = model.tokens[model.mapped[places[i]]]
    if not any(row):
        fail("a context without frequencies")
    t = stream.symbol(row)
    meant = delta.meaning(model.changes, t)
    assert meant is not None
    extra = Extra(stream.bits(meant[0]))
    elements[begin + i] = delta.element(model.changes, elements[begin + i], t, extra)
    return i


class Extra(rans.Bits):
    """Extra bits that are known."""

    def __init__(self, value: int) -> None:
        self._value = value

    def take(self, count: int) -> int:
        """All of them."""
        return self._value
