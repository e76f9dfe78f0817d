"""The codec of tokens, after docs/format/tokens.md and nothing else."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from reference import tokens_mixed
from reference.reading import Cursor, fail

CODEC = 14
_ODD, _MIX = 0x9E3779B97F4A7C15, 0x2545F4914F6CDD1D
_WEIGHTS = ((127, 28), (63, 27), (31, 26), (15, 24), (7, 22), (3, 20))
_SHIFTS = ((2, 2), (4, 3), (12, 4), (40, 5))


def _hashed(x: int, bits: int) -> int:
    return (x * _ODD % 2**64) >> (64 - bits)


class _Coder:
    """The range decoder."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.value, self.width = data, 0, 0, 2**32 - 1
        for _ in range(4):
            self.value = self.value << 8 | self._byte()

    def _byte(self) -> int:
        if self.at == len(self.data):
            fail("a CHUNK that ends too early")
        self.at += 1
        return self.data[self.at - 1]

    def symbol(self, borders: list[int]) -> int:
        """The symbol of those whose parts but the first begin at `borders`."""
        unit = self.width >> 16
        found = sum(unit * border <= self.value for border in borders)
        begin = unit * [0, *borders][found]
        self.value -= begin
        self.width = (unit * borders[found] if found < len(borders) else self.width) - begin
        while self.width < 1 << 24:
            self.width <<= 8
            self.value = (self.value << 8 | self._byte()) % 2**32
        return found


@dataclass
class _Node:
    count: int = 0
    borders: list[int] = field(default_factory=lambda: [4096 * k for k in range(1, 16)])

    def learn(self, digit: int) -> None:
        shift = next((shift for most, shift in _SHIFTS if self.count < most), 6)
        for k, border in enumerate(self.borders):
            self.borders[k] += (k + 1 + 65520 * (k >= digit) - border) >> shift
        self.count += 1


@dataclass
class _Slot:
    size: int
    tokens: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def state(self, token: int) -> int:
        if token not in self.tokens:
            return 0
        k, total = self.counts[self.tokens.index(token)], sum(self.counts)
        level = k if k <= 2 else 3 if k <= 4 else 4 if k <= 8 else 5
        return level + (0 if k == total else 5 if 2 * k < total else 10)

    def learn(self, token: int) -> None:
        at = self.tokens.index(token) if token in self.tokens else None
        if at == 0:
            self.counts[0] = min(self.counts[0] + 2, 60)
            return
        if self.counts and self.counts[0] > 3:
            self.counts[0] -= max(self.counts[0] >> 3, 1)
        if at is not None:
            self.counts[at] = min(self.counts[at] + 2, 60)
            if self.counts[at] >= self.counts[at - 1]:
                for values in (self.tokens, self.counts):
                    values[at - 1], values[at] = values[at], values[at - 1]
        elif len(self.tokens) < self.size:
            self.tokens.append(token)
            self.counts.append(1)
        elif self.counts[-1] > 2:
            self.counts[-1] -= 1
        else:
            self.tokens[-1], self.counts[-1] = token, 1


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    size: int
    digits: int
    bits: int
    rows: int
    columns: int

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """A stream -> tokens."""
        n, rest = divmod(original, self.size)
        if rest or (self.rows > 1 and n % (self.rows * self.columns)):
            fail("a CHUNK that holds no whole number of tokens")
        if n > 2**24:
            fail("a CHUNK with too many tokens")
        coder = _Coder(payload)
        tokens = _Sequence(self, coder, n).decode()
        if coder.at != len(payload):
            fail("a CHUNK that does not decode to its end")
        return b"".join(token.to_bytes(self.size, "little") for token in tokens)


class _Sequence:
    """The tokens of a chunk."""

    def __init__(self, model: Model, coder: _Coder, n: int) -> None:
        self.model, self.coder = model, coder
        self.tokens = [0] * n
        self.slots: list[defaultdict[int, _Slot]] = [
            defaultdict(partial(_Slot, size)) for size in (2, 4, 4)
        ]
        self.flags: defaultdict[tuple[int | None, ...], list[int]] = defaultdict(
            lambda: [1 << 21, 0]
        )
        self.special: defaultdict[int, list[int]] = defaultdict(lambda: [1 << 21, 0])
        self.plain: defaultdict[tuple[int, int, int], _Node] = defaultdict(_Node)
        self.own: defaultdict[int, _Node] = defaultdict(_Node)
        self.matches: dict[int, int] = {}
        self.tables = min(model.rows, 32) if model.digits <= 3 else 1

    def _places(self) -> Iterator[tuple[int, int, list[int]]]:
        """Place, row and contexts of each token, in the order of coding."""
        tokens, rows, columns = self.tokens, self.model.rows, self.model.columns
        if rows == 1:
            for i in range(len(tokens)):
                yield i, 0, [tokens[i - k] if i >= k else 0 for k in (1, 2, 3, 4)]
            return
        for item in range(0, len(tokens), rows * columns):
            for t in range(columns):
                for r in range(rows):
                    at = item + r * columns + t
                    a = tokens[at - 1] if t else 0
                    b = tokens[at - columns] if r else 0
                    c = tokens[at - 2 * columns] if r > 1 else 0
                    d = tokens[at - 2] if t > 1 else 0
                    yield at, r, [a, b, c, d]

    def decode(self) -> list[int]:
        bits, length, source = self.model.bits, 0, 0
        for at, r, (a, b, c, d) in self._places():
            x1 = 256 * a + r + 1
            x2 = (x1 << 20) + b
            x3 = _MIX * x2 + c + 1
            x4 = _MIX * x3 + d + 1
            keys = _hashed(x1, min(bits, 16)), _hashed(x2, bits), _hashed(x3, bits)
            slots = [table[key] for table, key in zip(self.slots, keys, strict=True)]
            match = _hashed(x4, bits)
            if length == 0 and match in self.matches:
                length, source = 1, self.matches[match]
            self.matches[match] = at
            expected = self.tokens[source] if length else None
            near = sum(length > least for least in (2, 8))
            token = self._candidate(slots, expected, near)
            if token is None:
                token = self._digits(r, b if r else a)
            self.tokens[at] = token
            if self.model.rows == 1 and expected == token:
                length, source = length + 1, source + 1
            else:
                length = 0
            for slot in slots:
                slot.learn(token)
        return self.tokens

    def _candidate(self, slots: list[_Slot], expected: int | None, near: int) -> int | None:
        tried: list[int] = []
        following = [token for slot in reversed(slots) for token in slot.tokens]
        for token in [*([] if expected is None else [expected]), *following]:
            if token in tried:
                continue
            s1, s2, s3 = (slot.state(token) for slot in slots)
            first = None if expected is None or tried else near
            context = s3, s2, s1, first, min(len(tried), 3)
            special = _hashed(_MIX * (256 * token + 16 * s3 + s2 + 1), min(self.model.bits, 18))
            values = self.flags[context], self.special[special]
            share = min(values[1][1], 6)
            p = ((values[0][0] >> 6) * (16 - share) + (values[1][0] >> 6) * share) >> 4
            p = min(max(p, 32), 65504)
            yes = not self.coder.symbol([p])
            for value in values:
                value[0] += ((yes * 2**22 - value[0]) * (327680 // (5 * value[1] + 8))) >> 16
                value[1] = min(value[1] + 1, 250)
            if yes:
                return token
            tried.append(token)
        return None

    def _digits(self, r: int, beside: int) -> int:
        h = 0
        for j in range(self.model.digits):
            plain = self.plain[r % self.tables, j, h]
            nodes, borders = [plain], plain.borders
            if j < max(self.model.digits - 1, 3):
                key = 2**44 * r + 8 * (2**20 * beside + h) + j + 1
                own = self.own[_hashed(_MIX * key, self.model.bits)]
                if own.count == 0:
                    own.borders = list(plain.borders)
                w = next((w for least, w in _WEIGHTS if own.count >= least), 18)
                pairs = zip(plain.borders, own.borders, strict=True)
                nodes, borders = [plain, own], [((32 - w) * p + w * q) >> 5 for p, q in pairs]
            digit = self.coder.symbol(borders)
            for node in nodes:
                node.learn(digit)
            h = 16 * h + digit
        return h


def parse_model(payload: bytes) -> Model | tokens_mixed.Model:
    """The model of tokens (docs/format/tokens.md)."""
    if len(payload) == tokens_mixed.HEAD:
        return tokens_mixed.parse_model(payload)
    cursor = Cursor(payload)
    cursor.take(1)
    size, digits, bits = cursor.u8(), cursor.u8(), cursor.u8()
    rows, columns = cursor.u32(), cursor.u32()
    cursor.finish()
    if size not in (2, 4) or not 1 <= digits <= min(5, 2 * size) or not 8 <= bits <= 20:
        fail("bytes, digits or bits of a model of tokens")
    if not 1 <= rows <= 128 or columns > 2**24 or (rows == 1) != (columns == 0):
        fail("rows or columns of a model of tokens")
    return Model(size, digits, bits, rows, columns)
