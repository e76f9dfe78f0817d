"""Mixed streams of tokens, after docs/format/tokens.md and nothing else."""

from collections import defaultdict
from collections.abc import Iterator
from ctypes import c_int32
from dataclasses import dataclass, field

from reference.arithmetic import SQUASH, STRETCH, clip
from reference.reading import Cursor, fail

HEAD = 6
_ODD, _MIX = 0x9E3779B97F4A7C15, 0x2545F4914F6CDD1D
_WORD = 2**64


class _Coder:
    """The decoder of a stream."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.value, self.width = data, 0, 0, 2**48 - 1

    def begin(self) -> None:
        for _ in range(3):
            self.value = self.value << 16 | self._pair()

    def _pair(self) -> int:
        pair = self.data[self.at : self.at + 2]
        if len(pair) < 2:
            fail("a CHUNK that ends too early")
        self.at += 2
        return int.from_bytes(pair, "big")

    def answer(self, p: int) -> int:
        part = (self.width >> 16) * p
        yes = self.value < part
        if yes:
            self.width = part
        else:
            self.value -= part
            self.width -= part
        if self.width < 2**32:
            self.width <<= 16
            self.value = self.value << 16 | self._pair()
        return int(yes)


class _Mixer:
    """Sets of weights."""

    def __init__(self, first: int, rate: int, size: int) -> None:
        self.rows: defaultdict[tuple[int | str | None, ...], list[int]]
        self.rows = defaultdict(lambda: [first] * size)
        self.rate = rate

    def answer(self, coder: _Coder, row: tuple[int | str | None, ...], inputs: list[int]) -> int:
        """A symbol under a set, whose weights learn."""
        weights, inputs = self.rows[row], [*inputs, 256]
        total = sum(w * x for w, x in zip(weights, inputs, strict=True))
        p = clip(SQUASH[clip(total >> 16, -2047, 2047) + 2048], 16, 65520)
        y = coder.answer(p)
        error = self.rate * (4096 * y - (p >> 4))
        for i, x in enumerate(inputs):
            weights[i] = c_int32(weights[i] + ((x * error + 8192) >> 14)).value
        return y


@dataclass
class _Slot:
    check: int | None = None
    tokens: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def under(self, check: int) -> list[int]:
        return self.tokens if self.check == check else []

    def state(self, check: int, token: int) -> int:
        if token not in self.under(check):
            return 0
        k, total = self.counts[self.tokens.index(token)], sum(self.counts)
        level = k if k <= 2 else 3 if k <= 4 else 4 if k <= 8 else 5
        return level + (0 if k == total else 5 if 2 * k < total else 10)

    def learn(self, check: int, token: int) -> None:
        if not self.under(check):
            self.check, self.tokens, self.counts = check, [token], [1]
            return
        counts = self.counts
        if self.tokens[0] == token:
            counts[0] = min(counts[0] + 2, 60)
            return
        if counts[0] > 3:
            counts[0] -= max(counts[0] >> 3, 1)
        if token in self.tokens:
            j = self.tokens.index(token)
            counts[j] = min(counts[j] + 2, 60)
            if counts[j] >= counts[j - 1]:
                for values in (self.tokens, counts):
                    values[j - 1], values[j] = values[j], values[j - 1]
        elif len(counts) < 4:
            self.tokens.append(token)
            counts.append(1)
        elif counts[3] > 2:
            counts[3] -= 1
        else:
            self.tokens[3], counts[3] = token, 1


class _Node:
    """Probabilities of a tree of four bits."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.renew(None)

    def renew(self, check: int | None) -> None:
        self.check, self.p, self.u = check, [2048] * 16, [0] * 16

    def said(self, place: int) -> int:
        u = self.u[place]
        return (STRETCH[self.p[place]] * (8 + min(u, 8))) >> 4

    def learn(self, place: int, y: int) -> None:
        step = 65536 // (self.u[place] + 2)
        self.p[place] += ((4095 * y - self.p[place]) * step + 32768) >> 16
        self.u[place] = min(self.u[place] + 1, self.most)


@dataclass
class _Stream:
    """What a stream has of its own. `keys`: numbers and checks of the slots and the match."""

    coder: _Coder
    next: int
    end: int
    before: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    keys: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)] * 3)
    length: int = 0
    source: int = field(init=False)
    history: int = 0


class _Chunk:
    """The state that streams share, and the tokens."""

    def __init__(self, model: "Model", pieces: list[bytes], n: int) -> None:
        self.model, self.count, self.tokens = model, n, dict[int, int]()
        self.part = part = -(-n // model.streams)
        self.streams = [
            _Stream(_Coder(piece), min(s * part, n), min((s + 1) * part, n))
            for s, piece in enumerate(pieces)
        ]
        self.slots: list[defaultdict[int, _Slot]] = [defaultdict(_Slot), defaultdict(_Slot)]
        self.matches: dict[int, tuple[int, int]] = {}
        self.flags: defaultdict[tuple[int | None, ...], list[int]] = defaultdict(
            lambda: [1 << 21, 0]
        )
        self.special: defaultdict[int, list[int]] = defaultdict(lambda: [1 << 21, 0])
        self.plain: defaultdict[tuple[int, int], _Node] = defaultdict(lambda: _Node(15))
        self.nodes: defaultdict[int, _Node] = defaultdict(lambda: _Node(13))
        self.of_candidates, self.of_digits = _Mixer(19660, 6, 3), _Mixer(26214, 4, 4)

    def decode(self) -> list[int]:
        turns = [self._turns(stream) for stream in self.streams]
        while turns:
            turns = [turn for turn in turns if next(turn, self) is not self]
        return [self.tokens[at] for at in range(self.count)]

    def _turns(self, stream: _Stream) -> Iterator[None]:
        """A stream's tokens, with a stop after every turn."""
        if stream.next < stream.end:
            stream.coder.begin()
        while stream.next < stream.end:
            expected = self._expected(stream)
            token = self._candidate(stream, expected)
            if token is None:
                token = 0
                for j in range(self.model.digits):
                    yield
                    token = 16 * token + self._digit(stream, j, token)
            self._learn(stream, token, expected)
            yield

    def _expected(self, stream: _Stream) -> int | None:
        if stream.length == 0:
            number, check = stream.keys[2]
            entry = self.matches.get(number)
            if entry is None or entry[0] != check:
                return None
            stream.length, stream.source = 1, entry[1]
        elif self.streams[stream.source // self.part].next <= stream.source:
            return None
        return self.tokens[stream.source]

    def _candidate(self, stream: _Stream, expected: int | None) -> int | None:
        (n2, c2), (n3, c3), _ = stream.keys
        slot2, slot3 = self.slots[0][n2], self.slots[1][n3]
        near = sum(stream.length > least for least in (2, 8, 24))
        tried: list[int] = []
        first = [] if expected is None else [expected]
        for token in [*first, *slot3.under(c3), *slot2.under(c2)]:
            if token in tried:
                continue
            f, from_match = len(tried), bool(first) and not tried
            s3, s2 = slot3.state(c3, token), slot2.state(c2, token)
            special = (256 * token + 16 * s3 + s2 + 1) * _MIX * _ODD % _WORD >> 48
            context = s3, s2, stream.history, min(near, 2) if from_match else None, min(f, 3)
            flags = self.flags[context], self.special[special]
            inputs = [STRETCH[flag[0] >> 10] for flag in flags]
            inputs[1] = (inputs[1] * min(2 * flags[1][1], 8)) >> 3
            kind = near if from_match else "order 3" if s3 else "order 2"
            yes = self.of_candidates.answer(stream.coder, (min(f, 7), kind), inputs)
            for flag in flags:
                flag[0] += ((yes * 2**22 - flag[0]) * (327680 // (5 * flag[1] + 8))) >> 16
                flag[1] = min(flag[1] + 1, 250)
            tried.append(token)
            if yes:
                stream.history = (4 * stream.history + (f > 0) + (f > 2)) % 16
                return token
        stream.history = (4 * stream.history + 3) % 16
        return None

    def _node(self, context: int, g: int, kind: int) -> _Node:
        hashed = (8 * (2**20 * context + g) + kind + 1) * _MIX * _ODD % _WORD
        node, check = self.nodes[hashed >> (64 - self.model.node_bits)], hashed >> 9 & 0x7FFF
        if node.check != check:
            node.renew(check)
        return node

    def _digit(self, stream: _Stream, j: int, g: int) -> int:
        plain, own = self.plain[j, g], self._node(stream.before[0], g, j)
        beside = self._node(stream.before[1], g, 6 + j) if j <= 1 else None
        place = 1
        while place < 16:
            inputs = [STRETCH[plain.p[place]], own.said(place), 0]
            seen = None
            if beside is not None:
                inputs[2], seen = beside.said(place), min(beside.u[place], 3)
            row = j, place, min(own.u[place], 3), seen
            y = self.of_digits.answer(stream.coder, row, inputs)
            for node in (beside, plain, own):
                if node is not None:
                    node.learn(place, y)
            place = 2 * place + y
        return place - 16

    def _learn(self, stream: _Stream, token: int, expected: int | None) -> None:
        at = stream.next
        self.tokens[at] = token
        (n2, c2), (n3, c3), (number, check) = stream.keys
        self.slots[1][n3].learn(c3, token)
        self.slots[0][n2].learn(c2, token)
        self.matches[number] = check, at
        if expected == token:
            stream.length, stream.source = stream.length + 1, stream.source + 1
            if stream.source % self.part == 0:
                stream.length = 0
        else:
            stream.length = 0
        stream.before = a, b, c, d = [token, *stream.before[:3]]
        x2 = (256 * a + 1) * 2**20 + b
        x3 = x2 * _MIX + c + 1
        x4 = x3 * _MIX + d + 1
        hashes = [x * _ODD % _WORD for x in (x2, x3, x4)]
        wide = [63, 63, 4095]
        bits = self.model.bits
        stream.keys = [(h >> (64 - bits), h >> 20 & m) for h, m in zip(hashes, wide, strict=True)]
        stream.next = at + 1


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    size: int
    digits: int
    bits: int
    node_bits: int
    streams: int

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """Streams -> tokens."""
        n, rest = divmod(original, self.size)
        if rest:
            fail("a CHUNK that holds no whole number of tokens")
        if n > 2**24:
            fail("a CHUNK with too many tokens")
        pieces = self._pieces(payload)
        chunk = _Chunk(self, pieces, n)
        tokens = chunk.decode()
        if any(stream.coder.at != len(stream.coder.data) for stream in chunk.streams):
            fail("a CHUNK that does not decode to its end")
        return b"".join(token.to_bytes(self.size, "little") for token in tokens)

    def _pieces(self, payload: bytes) -> list[bytes]:
        cursor = Cursor(payload)
        lengths = [cursor.u32() for _ in range(self.streams - 1)]
        return [*map(cursor.take, lengths), cursor.all()]


def parse_model(payload: bytes) -> Model:
    """The model of mixed streams."""
    cursor = Cursor(payload)
    cursor.take(1)
    size, digits, bits, node_bits, streams = (cursor.u8() for _ in range(5))
    cursor.finish()
    if size not in (2, 4) or not 1 <= digits <= min(5, 2 * size) or not 8 <= bits <= 21:
        fail("bytes, digits or bits of a model of tokens")
    if not 8 <= node_bits <= 22 or not 1 <= streams <= 16:
        fail("bits of nodes or streams of a model of tokens")
    return Model(size, digits, bits, node_bits, streams)
