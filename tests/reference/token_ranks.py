"""Ranks of tokens, after docs/format/token_ranks.md and nothing else."""

import struct
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from reference.reading import Cursor, fail

CODEC, MORE = 18, 20  # with more contexts
_ODD, _MIX = 0x9E3779B97F4A7C15, 0x2545F4914F6CDD1D
_WORD = 2**64
_BLOCK, _SEGMENT = 512, 2**18
_COUNTS = (60, 32, 16, 8, 4, 2, 1, 0)
_RANK, _DIGITS = 0, (1, 2, 3, 4, 4)
_SECOND = (
    (73, 36, 26, 20, 14, 10, 9, 0),
    (79, 42, 31, 23, 12, 8, 8, 0),
    (162, 57, 40, 27, 18, 13, 10, 0),
    (292, 113, 84, 60, 43, 32, 26, 0),
    (802, 594, 329, 218, 154, 119, 88, 0),
)
_THIRD = (
    (25, 24, 20, 17, 16, 15, 12, 0),
    (30, 19, 9, 8, 3, 3, 2, 0),
    (38, 31, 19, 15, 8, 7, 6, 0),
    (14,) * 8,
    (21,) * 8,
)


_MASSES = (
    (
        (0, 24, 31, 38, 60, 87, 110, 126),
        (0, 40, 62, 50, 72, 77, 73, 61),
        (0, 45, 51, 55, 73, 81, 100, 130),
        (0, 18, 32, 53, 93, 142, 191, 262),
    ),
    (
        (0, 18, 20, 28, 47, 70, 85, 214),
        (0, 7, 8, 8, 13, 18, 28, 43),
        (0, 6, 7, 8, 9, 15, 24, 35),
        (10, 10, 10, 10, 10, 10, 10, 10),
    ),
    (
        (0, 27, 33, 49, 69, 107, 150, 620),
        (0, 10, 13, 17, 25, 37, 52, 64),
        (0, 10, 11, 14, 20, 26, 43, 63),
        (10, 10, 10, 10, 10, 10, 10, 10),
    ),
    (
        (0, 132, 154, 197, 252, 333, 362, 788),
        (0, 33, 34, 36, 54, 68, 96, 173),
        (0, 21, 21, 25, 33, 48, 68, 133),
        (86, 86, 86, 86, 86, 86, 86, 86),
    ),
    (
        (0, 337, 437, 531, 775, 1126, 1495, 2593),
        (0, 59, 59, 77, 103, 161, 243, 532),
        (0, 37, 37, 46, 65, 97, 147, 413),
        (96, 96, 96, 96, 96, 96, 96, 96),
    ),
)


class _Coder:
    """The decoder of a segment."""

    def __init__(self, cursor: Cursor) -> None:
        (count,) = struct.unpack("<I", cursor.take(4))
        self.states = list(struct.unpack("<4Q", cursor.take(32)))
        self.words = struct.unpack(f"<{count}I", cursor.take(4 * count))
        self.at = self.number = 0

    def symbol(self, borders: list[int]) -> int:
        """The symbol of 16 whose parts begin at `borders`."""
        which = self.number % 4
        self.number += 1
        x = self.states[which]
        low = x % 2**15
        k = max(k for k in range(16) if borders[k] <= low)
        end = borders[k + 1] if k < 15 else 2**15
        x = (end - borders[k]) * (x >> 15) + low - borders[k]
        if x < 2**31:
            word = self.words[self.at] if self.at < len(self.words) else 0
            x = x << 32 | word
            self.at += 1
        self.states[which] = x
        return k

    def finish(self) -> None:
        if self.at != len(self.words) or any(x != 2**31 for x in self.states):
            fail("a CHUNK that does not decode to its end")


def _part(d: int, w: int) -> int:
    return (d * w + 2**14) >> 15


def _share(borders: list[int], y: int) -> int:
    return (borders[y + 1] if y < 15 else 2**15) - borders[y]


def _without(borders: list[int], none: Collection[int]) -> list[int]:
    """Where parts begin without those of some symbols."""
    if not none:
        return borders
    shares = [0 if k in none else _share(borders, k) for k in range(16)]
    factor = 2**31 // sum(shares)
    return [min((sum(shares[:k]) * factor) >> 16, 2**15 - 1) for k in range(16)]


@dataclass
class _Node:
    limit: int
    check: int = 0
    u: int = 0
    borders: list[int] = field(default_factory=lambda: [2048 * k for k in range(16)])

    def learn(self, y: int) -> None:
        rate = 163840 // (5 * self.u + 8)
        for k in range(1, 16):
            self.borders[k] += _part(k + (32752 if k > y else 0) - self.borders[k], rate)
        self.u = min(self.u + 1, self.limit)


_Table = defaultdict[tuple[int, ...], _Node]


@dataclass
class _Slot:
    """Places are values: 2^21 for each count, 2^20 for a mark, and the token."""

    check: int = 0
    places: list[int] = field(default_factory=lambda: [0] * 4)

    def under(self, check: int) -> list[tuple[int, int]]:
        """Tokens and counts of the places that are not empty."""
        if self.check != check:
            return []
        return [(place % 2**20, place >> 21) for place in self.places if place]

    def state(self, check: int, token: int | None) -> int:
        found = self.under(check)
        k = sum(count for other, count in found if other == token)
        total = sum(count for _, count in found)
        if k == 0:
            return 0
        level = k if k <= 2 else 3 if k <= 4 else 4 if k <= 8 else 5
        return level + (0 if k == total else 5 if 2 * k < total else 10)

    def learn(self, check: int, token: int) -> None:
        if self.check != check:
            self.check, self.places = check, [0] * 4
        p = self.places = [place >> 21 << 21 | place % 2**20 for place in self.places]
        at = [j for j in range(4) if p[j] and p[j] % 2**20 == token]
        if at != [0] and p[0] >> 21 > 3:
            p[0] -= max(p[0] >> 24, 1) << 21
        if at:
            p[at[0]] = min((p[at[0]] >> 21) + 2, 30) << 21 | 2**20 | token
        elif p[3] >> 21 > 2:
            p[3] -= 2**21
        else:
            p[3] = 2**21 | 2**20 | token
        for j in (3, 2, 1):
            if p[j] > p[j - 1]:
                p[j - 1], p[j] = p[j], p[j - 1]


@dataclass
class _Stream:
    """What a stream has of its own. `keys`: numbers and checks of the slots and the match."""

    tokens: list[int] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)] * 4)
    length: int = 0
    source: tuple[int, int] = (0, 0)
    expected: int | None = None
    candidates: list[int] = field(default_factory=list)
    history: int = 0
    token: int = 0

    def before(self, nearness: int) -> int:
        return self.tokens[-nearness] if len(self.tokens) >= nearness else 0


class _Chunk:
    """The state that streams share."""

    def __init__(self, model: "Model") -> None:
        self.model = model
        self.streams = [_Stream() for _ in range(model.streams)]
        self.slots: list[defaultdict[int, _Slot]] = [defaultdict(_Slot) for _ in range(3)]
        self.matches: dict[int, tuple[int, tuple[int, int], int]] = {}
        self.direct: _Table = defaultdict(lambda: _Node(255))
        self.fast: _Table = defaultdict(lambda: _Node(3))
        self.masses = [[[m << 18 for m in row] for row in kind] for kind in _MASSES]
        self.nodes: defaultdict[int, _Node] = defaultdict(lambda: _Node(60))

    def turn(self, coder: _Coder) -> None:
        missed = []
        for stream in self.streams:
            self._find(stream)
        for stream in self.streams:
            if not self._rank(stream, coder):
                stream.token = 0
                missed.append(stream)
        for j in range(self.model.digits):
            for stream in missed:
                stream.token = 16 * stream.token + self._digit(stream, coder, j)
        for number, stream in enumerate(self.streams):
            self._learn(number, stream)

    def _find(self, stream: _Stream) -> None:
        number, check = stream.keys[3]
        entry = self.matches.get(number)
        stream.expected = None
        if stream.length:
            which, place = stream.source
            stream.expected = self.streams[which].tokens[place]
        elif entry is not None and entry[0] == check:
            stream.length, stream.source, stream.expected = 1, entry[1], entry[2]
        found = [] if stream.expected is None else [stream.expected]
        for slots, (at, mark) in zip(self.slots, stream.keys, strict=False):
            found += [token for token, _ in slots[at].under(mark)]
        stream.candidates = list(dict.fromkeys(found))

    def _said(self, stream: _Stream) -> int:
        first = stream.candidates[0] if stream.candidates else None
        keyed = zip(self.slots, stream.keys, strict=False)
        s3, s2, s1 = (slots[at].state(mark, first) for slots, (at, mark) in keyed)
        return 256 + s1 if s3 == s2 == 0 else 16 * s3 + s2

    def _rank(self, stream: _Stream, coder: _Coder) -> bool:
        """Whether the token is a candidate, which it is then."""
        f, n = len(stream.candidates), sum(stream.length > least for least in (0, 2, 8, 24))
        v = self._said(stream)
        first = self.direct[n, v, stream.history, (f > 0) + (f > 1) + (f > 3)]
        own = 512 * (stream.candidates[0] if f else 0) + v
        beside = 4 * stream.before(1) + min(n, 2)
        keys = (own, 7), (beside, 8)
        if self.model.more:
            r = self._mixed(coder, _RANK, first, (*keys, *self._further(stream, n, v)))
        else:
            r = self._symbol(coder, _RANK, first, keys)
        if r > f:
            fail("a CHUNK with a rank of no candidate")
        outcome = 3 if r == 0 else (r > 1) + (r > 3)
        stream.history = (4 * stream.history + outcome) % 16
        if r:
            stream.token = stream.candidates[r - 1]
        return r > 0

    def _further(self, stream: _Stream, n: int, v: int) -> tuple[tuple[int, int], ...]:
        """The further nodes of a rank."""
        f = len(stream.candidates)
        first, second = (*stream.candidates, 0, 0)[:2]
        s3, s2 = 0, 0
        if f > 1:
            keyed = zip(self.slots[:2], stream.keys, strict=False)
            s3, s2 = (slots[at].state(mark, second) for slots, (at, mark) in keyed)
        said = 256 * (272 * n + v) + 16 * s3 + s2
        return (2**20 * first + second, 9), (4 * said + (f > 0) + (f > 1) + (f > 3), 10)

    def _digit(self, stream: _Stream, coder: _Coder, j: int) -> int:
        g, first = stream.token, self.direct[j, stream.token]
        own = 2**20 * stream.before(1) + g, j
        if self.model.more:
            under = 2**20 * stream.before(2) + g, j + (5 if j < 2 else 9)
            third = 2**44 + 2**20 * stream.before(3) + g, j
            last = j == self.model.digits - 1
            none = {c % 16 for c in stream.candidates if last and c >> 4 == g}
            keys = own, under, third
            return self._mixed(coder, _DIGITS[j], first, keys, self.fast[j, g], none)
        if j < 2:
            beside = 2**20 * stream.before(2) + g, 5 + j
            return self._symbol(coder, _DIGITS[j], first, (own, beside))
        return self._symbol(coder, _DIGITS[j], first, (own,), self.fast[j, g])

    def _symbol(
        self,
        coder: _Coder,
        kind: int,
        first: _Node,
        keys: tuple[tuple[int, int], ...],
        third: _Node | None = None,
    ) -> int:
        hashes = [(16 * x + t + 1) * _MIX * _ODD % _WORD for x, t in keys]
        places = [hashed >> (64 - self.model.node_bits) for hashed in hashes]
        found = [first]
        for place, hashed in zip(places, hashes, strict=True):
            check, node = hashed >> 8 & 0x3FF | 1, self.nodes[place]
            known = node.check == check
            u, borders = (node.u, node.borders) if known else (0, first.borders)
            found.append(_Node(60, check, u, list(borders)))
        found += [] if third is None else [third]
        borders = first.borders
        second, last = found[1:]
        column = [next(i for i, u in enumerate(_COUNTS) if node.u >= u) for node in found[1:]]
        a, b = _SECOND[kind][column[0]], _THIRD[kind][column[1]]
        for node, w in ((second, 32768 * a // (32 + a)), (last, 32768 * b // (32 + a + b))):
            pairs = zip(borders, node.borders, strict=True)
            borders = [mine + _part(other - mine, w) for mine, other in pairs]
        y = coder.symbol(borders)
        for node in found:
            node.learn(y)
        for place, node in zip(places, found[1:], strict=False):
            self.nodes[place] = node
        return y

    def _mixed(
        self,
        coder: _Coder,
        kind: int,
        first: _Node,
        keys: tuple[tuple[int, int], ...],
        fast: _Node | None = None,
        none: Collection[int] = (),
    ) -> int:
        """A symbol under more contexts."""
        found, places, of_nodes = [], [], []
        borders, total = first.borders, 2**24
        for row, (x, t) in enumerate(keys if fast is None else (*keys, (0, 0))):
            if row < len(keys):
                hashed = (16 * x + t + 1) * _MIX * _ODD % _WORD
                place, check = hashed >> (64 - self.model.node_bits), hashed >> 8 & 0x3FF | 1
                node = self.nodes[place]
                known = node.check == check
                u, own = (node.u, node.borders) if known else (0, borders)
                node = _Node(60, check, u, list(own))
                places.append(place)
            else:
                assert fast is not None
                node = fast
            column = 7 - next(i for i, u in enumerate(_COUNTS) if node.u >= u)
            mass = self.masses[kind][row][column]
            total += mass
            pairs = zip(borders, node.borders, strict=True)
            borders = [a + _part(b - a, 2**15 * mass // total) for a, b in pairs]
            found.append(node)
            of_nodes.append((row, column))
        y = coder.symbol(_without(borders, none))
        coded = _share(borders, y)
        for node, (row, column) in zip(found, of_nodes, strict=True):
            mass = self.masses[kind][row][column]
            if mass:
                part = (mass * (_share(node.borders, y) - coded) * 2**16) // (total * coded)
                mass = max(2**17, min(mass + ((mass * part) >> 24), 2**31))
                self.masses[kind][row][column] = mass
        for node in (first, *found):
            node.learn(y)
        for place, node in zip(places, found, strict=False):
            self.nodes[place] = node
        return y

    def _learn(self, number: int, stream: _Stream) -> None:
        token = stream.token
        for slots, (at, mark) in zip(self.slots, stream.keys, strict=False):
            slots[at].learn(mark, token)
        at, check = stream.keys[3]
        self.matches[at] = check, (number, len(stream.tokens)), token
        if stream.length and stream.expected == token:
            stream.length = min(stream.length + 1, 60)
            stream.source = stream.source[0], stream.source[1] + 1
        else:
            stream.length = 0
        stream.tokens.append(token)
        a, b, c, d = (stream.before(nearness) for nearness in (1, 2, 3, 4))
        x2 = (256 * a + 1) * 2**20 + b
        x3 = (x2 * _MIX + c + 1) % _WORD
        x4 = (x3 * _MIX + d + 1) % _WORD
        bits = self.model.bits
        stream.keys = [
            (x * _ODD % _WORD >> (64 - most), x * _ODD % _WORD >> 20 & mask)
            for x, most, mask in (
                *((x3, bits, 63), (x2, bits, 63)),
                *((a + 1, min(bits, 16), 63), (x4, bits, 4095)),
            )
        ]


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    size: int
    digits: int
    bits: int
    node_bits: int
    streams: int
    more: bool = False

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """Segments -> tokens."""
        n, rest = divmod(original, self.size)
        if rest:
            fail("a CHUNK that holds no whole number of tokens")
        if n > 2**24:
            fail("a CHUNK with too many tokens")
        rounds, left = divmod(n, self.streams * _BLOCK)
        last = -(-left // self.streams)
        cursor, chunk = Cursor(payload), _Chunk(self)
        step, turns = _SEGMENT // self.streams, rounds * _BLOCK + last
        for begin in range(0, turns, step):
            coder = _Coder(cursor)
            for _ in range(begin, min(begin + step, turns)):
                chunk.turn(coder)
            coder.finish()
        cursor.finish()
        blocks = [(i * _BLOCK, (i + 1) * _BLOCK) for i in range(rounds)]
        blocks.append((rounds * _BLOCK, turns))
        dealt = [stream.tokens for stream in chunk.streams]
        tokens = [t for begin, end in blocks for own in dealt for t in own[begin:end]]
        if any(tokens[n:]):
            fail("a CHUNK that goes on behind its end")
        return b"".join(token.to_bytes(self.size, "little") for token in tokens[:n])


def parse_model(payload: bytes) -> Model:
    """The model of ranks."""
    cursor = Cursor(payload)
    codec, size, digits, bits, node_bits, streams = (cursor.u8() for _ in range(6))
    cursor.finish()
    if size not in (2, 4) or not 1 <= digits <= min(5, 2 * size) or not 8 <= bits <= 22:
        fail("bytes, digits or bits of a model of tokens")
    if not 8 <= node_bits <= 23 or not 1 <= streams <= 16:
        fail("bits of nodes or streams of a model of tokens")
    return Model(size, digits, bits, node_bits, streams, codec == MORE)
