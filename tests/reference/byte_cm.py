"""A slow decoder of the text codec, after docs/format/byte_cm.md and nothing else."""

import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from reference.arithmetic import RATE, SQUASH, STRETCH, Arithmetic, clip
from reference.reading import Refused, fail

CODEC = 9
HEAD = struct.Struct("<BBBBI")  # codec, bits, sets of weights, reserved, contexts
MAX_SEGMENT = 2**24
MASK = 2**64 - 1
K1, K2, K3 = 0x1E3779B97F4A7C15, 0x56E8FEB86659FD93, 0x2545F4914F6CDD1D


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    payload: bytes

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        if original > MAX_SEGMENT:
            raise Refused("limit", "a CHUNK is too long")
        return decode(self.payload, payload, original)


def parse_model(payload: bytes) -> Model:
    """MODEL."""
    if len(payload) != HEAD.size:
        fail("length of a MODEL of byte context mixing")
    _, bits, sets, reserved, contexts = HEAD.unpack(payload)
    if bits < 12 or not 1 <= sets <= 6 or reserved or not 0 < contexts < 1 << 18:
        fail("a MODEL of byte context mixing")
    if bits > 28:
        raise Refused("limit", "the table of a MODEL is too large")
    return Model(payload)


# 3. Counters and bit histories


class Counter:
    """A pair (p, c)."""

    def __init__(self, p: int, most: int) -> None:
        self.p, self.c, self.most = p, 0, most

    def update(self, y: int) -> None:
        self.p += (((y << 22) - y - self.p) * RATE[self.c]) >> 16
        self.c = min(self.c + 1, self.most)

    def values(self) -> tuple[int, int]:
        return STRETCH[self.p >> 10], ((self.p >> 10) - 2048) >> 1


GREATER = (20, 48, 15, 8, 6, 5)  # at most, by the less of two counts
COUNTS = sorted(
    {
        counts
        for less, most in enumerate(GREATER)
        for greater in range(less, most + 1)
        for counts in ((less, greater), (greater, less))
    },
    key=lambda counts: (sum(counts), counts[1]),
)
PAIRS: list[tuple[int, int, int | None]] = []
for pair_of_counts in COUNTS:
    twice = min(pair_of_counts) > 0 and sum(pair_of_counts) <= 17
    PAIRS += [(*pair_of_counts, last) for last in ((0, 1) if twice else (None,))]
NUMBERS = {
    (a, b, bit): number
    for number, (a, b, last) in enumerate(PAIRS)
    for bit in ((0, 1) if last is None else (last,))
}


def state_after(state: int, bit: int) -> int:
    *counts, _ = PAIRS[state]
    s, o = counts[bit] + 1, counts[1 - bit]
    o = sum(limit <= o for limit in (1, 2, 3, 4, 5, 7, 8))
    while (s, o) not in COUNTS:
        more, less = max(s, o), min(s, o)
        if less < 2:
            more -= 1
        else:
            more, less = (more * (less - 1) + less // 2) // less, less - 1
        s, o = (more, less) if s >= o else (less, more)
    return NUMBERS[(o, s, 1) if bit else (s, o, 0)]


def first_meaning(state: int) -> int:
    a, b, _ = PAIRS[state]
    a, b = a * (2 if b == 0 else 1), b * (2 if a == 0 else 1)
    return ((2 * b + 1) << 22) // (2 * (a + b) + 2)


Node = tuple[int, ...]  # bits after those that the slot is found by


class Slot:
    """The states of up to four bits, by node."""

    def __init__(self) -> None:
        self.check = 0
        self.states: defaultdict[Node, int] = defaultdict(int)


class Histories:
    """The table of bit histories."""

    def __init__(self, bits: int) -> None:
        self.slots: defaultdict[tuple[int, int], Slot] = defaultdict(Slot)
        self.lines = 1 << (bits - 6)

    def find(self, h: int) -> Slot:
        line, check, f = (h >> 22) % self.lines, (h >> 8) & 255, (h >> 16) & 3
        slots = [self.slots[line, f ^ k] for k in range(4)]
        for slot in slots:
            if slot.check == check:
                return slot
        found = min(slots, key=lambda slot: slot.states[()])
        found.check = check
        found.states.clear()
        return found


# 4. Hashes


def pair(a: int, b: int) -> int:
    return (a * K3 + b) & MASK


def mix(v: int, s: int) -> int:
    h = (v * K1 + s * K3) & MASK
    h ^= h >> 32
    h = h * K2 & MASK
    return h ^ (h >> 29)


# 5. Contexts


def class_of(c: int) -> int:
    tests: tuple[Callable[[str], bool], ...] = (
        lambda x: "a" <= x <= "z",
        lambda x: "A" <= x <= "Z",
        lambda x: "0" <= x <= "9",
        lambda x: x == " ",
        lambda x: x == "\n",
        lambda x: ord(x) >= 128,
        lambda x: x in ".!?",
        lambda x: x in ",;:",
        lambda x: not ord(x) >> 5,
        lambda x: x in "\"'`",
        lambda x: x in "([{<",
        lambda x: x in ")]}>",
    )
    return next((i for i, test in enumerate(tests, 1) if test(chr(c))), 13)


class Text:
    """What is known of the bytes so far."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.last = self.word = self.word1 = self.word2 = self.gap = 0
        self.shape = self.letters = self.column = self.line = self.line1 = self.above = 0
        self.followed: defaultdict[int, int] = defaultdict(int)

    def take_in(self, c: int) -> None:
        x = self.last & 0xFFFF
        self.followed[x] = (self.followed[x] << 8 | c) % 2**24  # nobody asks for the highest byte
        self.last = (self.last << 8 | c) & MASK
        kind = class_of(c)
        self.shape = (self.shape << 4 | kind) % 2**32
        if kind in (1, 2, 6):
            self.word = (self.word + c + (32 if kind == 2 else 0) + 1) * K3 & MASK
            self.letters += 1
            self.gap = 0
        else:
            if self.word:
                self.word2, self.word1, self.word, self.letters = self.word1, self.word, 0, 0
            self.gap = (self.gap + c + 1) * K3 & MASK
        self.data.append(c)
        if c == 10:
            self.line1, self.line, self.column = self.line, len(self.data), 0
        else:
            self.column += 1
        place = self.line1 + self.column
        self.above = self.data[place] if place < self.line else 0

    def hashes(self) -> list[int]:
        last, word, c1 = self.last, self.word, self.last & 255
        followed = self.followed[last & 0xFFFF]
        values = [
            *(last % 256**k for k in range(1, 7)),
            pair(word, self.gap),
            pair(pair(word, self.word1), self.gap),
            pair(pair(pair(word, self.word1), self.word2), self.gap),
            pair(word, self.word2),
            pair(self.above << 8 | c1, min(self.column, 255)),
            followed,
            self.shape,
            pair(self.shape, c1),
            (last >> 8) & 0xFFFF,
            last & 0xFF00FF,
            (last >> 8) & 0xFFFFFF,
            pair(followed & 0xFFFF, c1),
        ]
        return [mix(value, i + 1) for i, value in enumerate(values)]


# 6. Match model


class Match:
    """What followed the latest place with the same last bytes."""

    def __init__(self, size: int) -> None:
        self.size = 2 ** clip((size - 1).bit_length(), 8, 20)
        self.long: defaultdict[int, int] = defaultdict(int)
        self.short: defaultdict[int, int] = defaultdict(int)
        self.length = self.pointer = self.expected = 0
        self.counters: dict[int, Counter] = {}

    def find(self, entries: defaultdict[int, int], h: int, data: bytearray) -> None:
        """The place under a hash, and how many bytes before it are those before the end.

        Nothing shows of the checks of entries: where they differ, so do the bytes. Nor does it show
        that a length has a most, as the bucket has.
        """
        self.pointer = entries[h % self.size]
        both = zip(reversed(data[: self.pointer]), reversed(data), strict=False)
        self.length = len(list(takewhile(lambda pair: pair[0] == pair[1], both)))

    def go_on(self, text: Text) -> None:
        h6, h4 = mix(text.last & 0xFFFFFFFFFFFF, 1), mix(text.last & 0xFFFFFFFF, 2)
        if self.length:
            self.length += 1
            self.pointer += 1
        else:
            self.find(self.long, h6, text.data)
            if self.length < 6:
                self.find(self.short, h4, text.data)
            if self.length < 4:
                self.length = 0
        for entries, h in ((self.long, h6), (self.short, h4)):
            entries[h % self.size] = len(text.data)
        if self.length:
            self.expected = text.data[self.pointer]

    @property
    def bucket(self) -> int | None:
        """Of the length; None without a match."""
        n = self.length
        return min(n, 12 + (n >> 2), 19 + (n >> 5), 31) if n else None

    @property
    def counter(self) -> Counter:
        """That of the bucket."""
        assert self.bucket is not None
        first = Counter((2048 + 64 * self.bucket) << 10, 1023)
        return self.counters.setdefault(self.bucket, first)


# 7. Prediction of a bit, 8. learning from it


Row = int | tuple[int | None, int]


class Decoder:
    """The model of a segment."""

    def __init__(self, model: bytes, stream: bytes, size: int) -> None:
        _, most, self.sets, _, contexts = HEAD.unpack(model)
        bits = min(most, max(12, size.bit_length() + 7))
        self.chosen = [i for i in range(contexts.bit_length()) if contexts >> i & 1]
        k = len(self.chosen)
        self.text, self.match, self.histories = Text(), Match(size), Histories(bits)
        self.meanings = [
            [Counter(first_meaning(s), 1023) for s in range(len(PAIRS))] for _ in range(k)
        ]
        self.direct: defaultdict[tuple[int, int], Counter] = defaultdict(
            lambda: Counter(2**21, 255)
        )
        first = [150000 // k, 0] * k + [150000 // k, 150000 // k, 0, 0]
        self.weights: list[defaultdict[Row, list[int]]] = [
            defaultdict(lambda: list(first)) for _ in range(self.sets)
        ]
        self.final: defaultdict[int, list[int]] = defaultdict(
            lambda: [65536 // self.sets] * self.sets
        )
        self.rows = 2 ** clip(bits - 9, 8, 16)
        row = [SQUASH[(4096 * i + 15) // 31] for i in range(31)] + [SQUASH[4095]]
        self.cells: list[defaultdict[int, list[int]]] = [
            defaultdict(lambda: list(row)) for _ in range(3)
        ]
        self.coder = Arithmetic(stream)

    def byte(self) -> int:
        hashes = [self.text.hashes()[i] for i in self.chosen]
        partial = 1
        for place in range(8):
            if place in (0, 4):
                slots = [self.histories.find(mix(h, partial)) for h in hashes]
                node: Node = ()
            bit = self.bit(slots, partial, node, place)
            partial, node = 2 * partial + bit, (*node, bit)
        self.text.take_in(partial & 255)
        self.match.go_on(self.text)
        return partial & 255

    def inputs(self, states: list[int], order1: tuple[int, int], expected_bit: int) -> list[int]:
        x: list[int] = []
        for counters, state in zip(self.meanings, states, strict=True):
            x += counters[state].values() if state else (0, 0)
        x.append(self.direct[order1].values()[0])
        if self.match.length:
            stretched, plain = self.match.counter.values()
            x += (stretched, plain) if expected_bit else (-stretched, -plain)
        else:
            x += (0, 0)
        return [*x, 256]

    def rows_at_hand(self, seen: int, partial: int, place: int) -> list[Row]:
        """Numbers of the document, taken apart."""
        text = self.text
        rows: list[Row] = [
            partial,
            (self.match.bucket, place),
            (text.shape >> 4) & 255,
            (seen, place),  # of at most 18, so that 32 rows tell all apart
            (min(text.letters, 31), place),
            min(text.column, 255),
        ]
        return rows[: self.sets]

    def corrections(self, partial: int) -> list[list[int]]:
        last, match = self.text.last, self.match
        bucket = match.bucket
        e = (256 | match.expected) << 5 | bucket if bucket is not None else 0
        hashes = (
            mix(e << 8 | partial, 5),
            mix((last & 255) << 8 | partial, 3),
            mix((last & 0xFFFF) << 8 | partial, 4),
        )
        return [table[h % self.rows] for table, h in zip(self.cells, hashes, strict=True)]

    def bit(self, slots: list[Slot], partial: int, node: Node, place: int) -> int:
        order1 = self.text.last & 255, partial
        states = [slot.states[node] for slot in slots]
        expected_bit = (self.match.expected >> (7 - place)) & 1
        x = self.inputs(states, order1, expected_bit)
        rows = self.rows_at_hand(sum(s > 0 for s in states), partial, place)
        sets = [self.weights[j][row] for j, row in enumerate(rows)]
        outputs = [
            clip(sum((a * w) >> 8 for a, w in zip(x, weights, strict=True)) >> 8, -2047, 2047)
            for weights in sets
        ]
        final = self.final[partial]
        total = sum(a * v for a, v in zip(outputs, final, strict=True))
        z = clip(total >> 16, -2047, 2047)
        u = (z + 2048) * 31
        i, f = u >> 12, u & 4095
        p = SQUASH[z + 2048] + 2
        cells = self.corrections(partial)
        for row in cells:
            p += (row[i] * (4096 - f) + row[i + 1] * f) >> 12
        y = self.coder.bit(self.settled(p >> 2, z, partial))
        self.learn(y, x, outputs, sets, final, z)
        for row in cells:
            for cell in (i, i + 1):
                row[cell] += (65535 * y - row[cell]) >> 5
        self.direct[order1].update(y)
        if self.match.length:
            self.match.counter.update(int(expected_bit == y))
            if expected_bit != y:
                self.match.length = 0
        for counters, state in zip(self.meanings, states, strict=True):
            counters[state].update(y)
        for k, slot in enumerate(slots):
            slot.states[node] = state_after(states[k], y)
        return y

    def settled(self, p: int, z: int, partial: int) -> int:
        """What is coded, of the corrected probability and what the mixers said."""
        return max(p, 16)  # the most is 65514, of which the text cuts nothing

    def steps(self) -> int:
        """The step of the weights."""
        return max(8, 60 - (len(self.text.data) >> 11))

    def learn(
        self,
        y: int,
        x: list[int],
        outputs: list[int],
        sets: list[list[int]],
        final: list[int],
        z: int,
    ) -> None:
        step = self.steps()
        for j, weights in enumerate(sets):
            g = ((y << 16) - SQUASH[outputs[j] + 2048]) * step >> 6
            for i, a in enumerate(x):
                weights[i] = clip(weights[i] + ((a * g + 2**15) >> 16), 1 - 2**19, 2**19 - 1)
        g = (y << 16) - SQUASH[z + 2048]
        for j, output in enumerate(outputs):
            final[j] = clip(final[j] + ((8 * output * g + 2**19) >> 20), -(2**20), 2**20)


def decode(model: bytes, payload: bytes, size: int) -> bytes:
    """The `size` bytes that a CHUNK payload stands for."""
    decoder = Decoder(model, payload, size)
    content = bytearray()
    for _ in range(size):
        content.append(decoder.byte())
        if decoder.coder.at > len(payload):
            fail("the stream is used up")
    if decoder.coder.at != len(payload):
        fail("bytes after the stream")
    return bytes(content)
