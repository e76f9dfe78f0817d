"""A slow decoder of the text codec, after docs/format/byte_cm.md and nothing else."""

import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from reference.arithmetic import RATE, SQUASH, STRETCH, Arithmetic, clip
from reference.reading import Refused, fail

CODEC = 9
MAX_SEGMENT = 2**24
MASK = 2**64 - 1
K1, K2, K3 = 0x1E3779B97F4A7C15, 0x56E8FEB86659FD93, 0x2545F4914F6CDD1D


def is_model(model: bytes) -> bool:
    """Whether the MODEL payload is well-formed; its table may still be larger than allowed."""
    if len(model) != 8 or model[0] != 9:
        return False
    bits, sets, reserved, contexts = struct.unpack("<BBBI", model[1:])
    return bits >= 12 and 1 <= sets <= 6 and not reserved and 0 < contexts < 1 << 18


def is_too_large(model: bytes) -> bool:
    """Whether a well-formed model asks for a table beyond the limit."""
    return model[1] > 28


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
    if not is_model(payload):
        fail("a MODEL of byte context mixing")
    if is_too_large(payload):
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


def exists(a: int, b: int) -> bool:
    less, greater = sorted((a, b))
    return less < 6 and greater <= (20, 48, 15, 8, 6, 5)[less]


PAIRS: list[tuple[int, int, int | None]] = []
for total in range(50):
    for ones in range(total + 1):
        pair_of_counts = (total - ones, ones)
        if exists(*pair_of_counts):
            twice = min(pair_of_counts) > 0 and total <= 17
            PAIRS += [(*pair_of_counts, last) for last in ((0, 1) if twice else (None,))]
NUMBERS = {
    (a, b, bit): number
    for number, (a, b, last) in enumerate(PAIRS)
    for bit in ((0, 1) if last is None else (last,))
}


def state_after(state: int, bit: int) -> int:
    counts = PAIRS[state][:2]
    s, o = counts[bit] + 1, counts[1 - bit]
    o = sum(limit <= o for limit in (1, 2, 3, 4, 5, 7, 8))
    while not exists(s, o):
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


class Histories:
    """The table of bit histories."""

    def __init__(self, bits: int) -> None:
        self.lines: defaultdict[int, list[list[int]]] = defaultdict(
            lambda: [[0] * 16 for _ in range(4)]
        )
        self.count = 1 << (bits - 6)

    def find(self, h: int) -> list[int]:
        line = self.lines[(h >> 22) % self.count]
        check, f = (h >> 8) & 255, (h >> 16) & 3
        slots = [line[f ^ k] for k in range(4)]
        for slot in slots:
            if slot[0] == check:
                return slot
        found = min(slots, key=lambda slot: slot[1])
        found[:] = [check] + [0] * 15
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
        lambda x: ord(x) < 32,
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
        self.followed[x] = (self.followed[x] << 8 | c) % 2**32
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
            followed & 0xFFFFFF,
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
        self.length = self.pointer = self.expected = self.bucket = 0
        self.counters = [Counter(min(2048 + 64 * j, 4095) << 10, 1023) for j in range(32)]

    def place(self, entries: dict[int, int], h: int) -> int:
        entry = entries[h % self.size]
        return entry >> 8 if entry & 255 == (h >> 32) & 255 else 0

    def common(self, data: bytearray, place: int) -> int:
        at, length = len(data), 0
        while length < min(400, place) and data[place - length - 1] == data[at - length - 1]:
            length += 1
        return length

    def go_on(self, text: Text) -> None:
        h6, h4 = mix(text.last & 0xFFFFFFFFFFFF, 1), mix(text.last & 0xFFFFFFFF, 2)
        if self.length:
            self.length = min(self.length + 1, 65535)
            self.pointer += 1
        else:
            self.pointer = self.place(self.long, h6)
            self.length = self.common(text.data, self.pointer)
            if self.length < 6:
                self.pointer = self.place(self.short, h4)
                self.length = self.common(text.data, self.pointer)
            if self.length < 4:
                self.length = 0
        for entries, h in ((self.long, h6), (self.short, h4)):
            entries[h % self.size] = len(text.data) << 8 | (h >> 32) & 255
        if self.length:
            self.expected = text.data[self.pointer]
            self.bucket = bucket_of(self.length)


def bucket_of(length: int) -> int:
    if length < 16:
        return length
    return 16 + ((length - 16) >> 2) if length < 32 else min(20 + ((length - 32) >> 5), 31)


# 7. Prediction of a bit, 8. learning from it


class Decoder:
    """The model of a segment."""

    def __init__(self, model: bytes, stream: bytes, size: int) -> None:
        most, self.sets, _, contexts = struct.unpack("<BBBI", model[1:])
        bits = min(most, max(12, size.bit_length() + 7))
        self.chosen = [i for i in range(18) if contexts >> i & 1]
        k = len(self.chosen)
        self.text, self.match, self.histories = Text(), Match(size), Histories(bits)
        self.meanings = [
            [Counter(first_meaning(s), 1023) for s in range(len(PAIRS))] for _ in range(k)
        ]
        self.direct: defaultdict[int, Counter] = defaultdict(lambda: Counter(2**21, 255))
        first = [150000 // k, 0] * k + [150000 // k, 150000 // k, 0, 0]
        self.weights: list[defaultdict[int, list[int]]] = [
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
                node = 1
            bit = self.bit(slots, partial, node, place)
            partial, node = 2 * partial + bit, 2 * node + bit
        self.text.take_in(partial & 255)
        self.match.go_on(self.text)
        return partial & 255

    def inputs(self, states: list[int], order1: int, expected_bit: int) -> list[int]:
        x: list[int] = []
        for counters, state in zip(self.meanings, states, strict=True):
            x += counters[state].values() if state else (0, 0)
        x.append(self.direct[order1].values()[0])
        if self.match.length:
            stretched, plain = self.match.counters[self.match.bucket].values()
            x += (stretched, plain) if expected_bit else (-stretched, -plain)
        else:
            x += (0, 0)
        return [*x, 256]

    def rows_at_hand(self, seen: int, partial: int, place: int) -> list[int]:
        text, match = self.text, self.match
        rows = [
            partial,
            8 * (match.bucket if match.length else 0) + place,
            (text.shape >> 4) & 255,
            8 * min(32 * seen // (len(self.chosen) + 1), 31) + place,
            8 * min(text.letters, 31) + place,
            min(text.column, 255),
        ]
        return rows[: self.sets]

    def corrections(self, partial: int) -> list[list[int]]:
        last, match = self.text.last, self.match
        e = (256 | match.expected) << 5 | match.bucket if match.length else 0
        hashes = (
            mix(e << 8 | partial, 5),
            mix((last & 255) << 8 | partial, 3),
            mix((last & 0xFFFF) << 8 | partial, 4),
        )
        return [table[h % self.rows] for table, h in zip(self.cells, hashes, strict=True)]

    def bit(self, slots: list[list[int]], partial: int, node: int, place: int) -> int:
        order1 = (self.text.last & 255) << 8 | partial
        states = [slot[node] for slot in slots]
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
            self.match.counters[self.match.bucket].update(int(expected_bit == y))
            if expected_bit != y:
                self.match.length = 0
        for counters, state in zip(self.meanings, states, strict=True):
            counters[state].update(y)
        for k, slot in enumerate(slots):
            slot[node] = state_after(states[k], y)
        return y

    def settled(self, p: int, z: int, partial: int) -> int:
        """What is coded, of the corrected probability and what the mixers said."""
        return clip(p, 16, 65520)

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
