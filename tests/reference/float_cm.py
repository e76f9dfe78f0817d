"""A slow decoder of float context mixing, after docs/format/float_cm.md and nothing else."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from reference.arithmetic import INVERSE, LOG2, NORMAL, RATE, SQUASH, STRETCH, Arithmetic, clip
from reference.reading import Cursor, Refused, fail

CODEC = 4
FORMATS = {1: (2, 8, 7), 2: (2, 5, 10), 3: (4, 8, 23), 4: (1, 4, 3), 5: (1, 5, 2)}
USUAL = 3268
Key = tuple[object, ...]  # of counters and decisions; numbers of the document, taken apart


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    payload: bytes

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        return decode(self.payload, payload, original)


def parse_model(payload: bytes) -> Model:
    """MODEL."""
    if len(payload) != 4:
        fail("length of a MODEL of float context mixing")
    _, number, top, reserved = payload
    if number not in FORMATS:
        raise Refused("unsupported", f"format {number}")
    if top > min(4, FORMATS[number][2]) or reserved:
        fail("a MODEL of float context mixing")
    return Model(payload)


class Counters:
    """Counters by any key."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self.states: dict[Key, tuple[int, int]] = defaultdict(lambda: (1 << 21, 0))

    def update(self, key: Key, y: int, most: int = 255) -> None:
        p, n = self.states[key]
        p += (((y << 22) - p) * RATE[n]) >> 16
        self.states[key] = p, min(n + 1, most)

    def bit(self, key: Key, most: int = 255) -> int:
        y = self.arithmetic.bit(clip(self.states[key][0] >> 6, 16, 65520))
        self.update(key, y, most)
        return y

    def tree(self, name: object, bits: int) -> int:
        node = 1
        for _ in range(bits):
            node = 2 * node + self.bit((name, node))
        return node - (1 << bits)

    def signed(self, name: object) -> int:
        k = 0
        while k < 24 and self.bit((name, k), 60):
            k += 1
        if k == 24:
            more = 0
            for _ in range(16):
                more = 2 * more + self.arithmetic.bit(32768)
            k += more
        half, odd = divmod(k, 2)
        return ~half if odd else half


class Prediction:
    """Section 7; kept from block to block."""

    def __init__(self) -> None:
        self.columns: int | None = None  # of the latest matrix that predicted in one block
        self.rows: int
        self.G: list[list[int]]
        self.F: list[list[int]]

    def start(self, w: int, whole: bool) -> None:
        if whole and self.columns == w:
            self.G = [[g >> 2 for g in row] for row in self.G]
            self.rows >>= 2
        else:
            self.G = [[0] * (w + 1 - i) for i in range(w + 1)]  # from j = i on
            self.F = [rest for _, *rest in self.G]  # from j = i + 1 on
            self.rows = 0
        self.columns = w if whole else None
        self.w, self.fitted, self.x, self.y = w, self.rows, 0, 4096
        self.recent: list[list[int]] = []

    def start_row(self) -> None:
        self.share = clip((self.x << 8) // self.y, 0, 256)
        self.sum = [f << 10 for f in self.F[0]]  # from the column at hand on
        self.dx = self.dy = 0
        self.z = [1024]

    def guess(self) -> int:
        return clip(self.sum[0] >> 18, -32768, 32767)

    def learn(self, c: int, value: int) -> None:
        z, g = clip(value >> 2, -8192, 8191), self.guess() >> 2
        self.z.append(z)
        self.dx += z * g
        self.dy += g * g
        factors = zip(self.sum[1:], self.F[c + 1], strict=True)
        self.sum = [s + (z - g) * f for s, f in factors]

    def end_row(self) -> None:
        self.x += self.dx // self.w
        self.y += self.dy // self.w
        self.x -= self.x >> 6
        self.y -= self.y >> 6
        self.recent.append(self.z)
        if len(self.recent) < 16:
            return
        self.G = [
            [g + sum(z[i] * z[i + k] for z in self.recent) for k, g in enumerate(row)]
            for i, row in enumerate(self.G)
        ]
        self.recent = []
        self.rows += 16
        if self.rows - self.fitted >= self.fitted >> 3:  # and at least 16, as it always is
            self.fit()
            self.fitted = self.rows

    def fit(self) -> None:
        n = self.rows + self.w
        W = [[(g << 4) // n for g in row] for row in self.G]
        for row in W:
            row[0] += (self.w << 24) // n
        self.F = []
        while W:
            (d, *r), *W = W
            d, r = max(d, 1 << 14), [clip(x, -(1 << 30), 1 << 30) for x in r]
            factors = [clip((x << 20) // d, -(1 << 24), 1 << 24) for x in r]
            self.F.append(factors)
            W = [
                [x - ((f * other) >> 20) for x, other in zip(row, r[i:], strict=True)]
                for i, (row, f) in enumerate(zip(W, factors, strict=True))
            ]


def sixteenth(p: int) -> int:
    """Of a probability from 32 to 65504, of which no more is used."""
    return clip(p >> 4, 2, 4094)


class Weight:
    """The distribution of the weight at hand, steps 2, 6 and 7."""

    def __init__(self, mean: int, spread: int, octaves: int) -> None:
        self.mean, self.precision, self.octaves = mean, 2**24 // spread, octaves
        k = spread.bit_length() - 1
        self.size = 2 * octaves + 16 * k + LOG2[(spread << 8 >> k) - 256] - 192
        self.low: int
        self.high = 2**30

    def below(self, x: int) -> int:
        u = clip(((x - self.mean) * self.precision) >> 15, -4096, 4095) + 4096
        i = u >> 4
        a = NORMAL[i]
        return a + (((NORMAL[i + 1] - a) * (u & 15)) >> 4)

    def above(self, x: int) -> int:
        self.middle = self.below(x)
        p = ((self.high - self.middle + 1) << 16) // (self.high - self.low + 2)
        return sixteenth(p)

    def scaled(self, s: int, e: int) -> int:
        """That shifts are bounded shows nowhere: the result is 0, or 65535, long before."""
        h = e - (self.octaves >> 3) - 11
        x = s * INVERSE[self.octaves & 7]
        return min(x << max(h, 0) >> max(-h, 0), 65535)

    def context(self) -> int:
        """That of A, without 6 and the part."""
        return clip((self.mean * self.precision) >> 22, -6, 6)


class Decoder:
    """Decodes one chunk."""

    def __init__(self, model: bytes, payload: bytes, size: int) -> None:
        _, number, self.top_bits, _ = model
        self.bytes, self.E, self.M = FORMATS[number]
        if size % self.bytes:
            fail("impossible length")
        if size > 1 << 23:
            raise Refused("limit", "a chunk is too long")
        cursor = Cursor(payload)
        self.matrices = [(cursor.u32(), cursor.u32()) for _ in range(cursor.u16())]
        self.zeros = cursor.u8()
        groups = range(-(-(self.M - self.top_bits) // 8))
        self.groups = [(cursor.u8(), cursor.u8()) for _ in groups]
        stream, raw = cursor.take(cursor.u32()), cursor.all()
        if self.zeros > 1 or not self.groups_are_possible():
            fail("impossible header")
        self.arithmetic = Arithmetic(stream)
        self.length, self.raw_length = len(stream), len(raw)
        self.raw = int.from_bytes(raw, "little")
        self.raw_at = 0
        self.counters = Counters(self.arithmetic)
        self.weights: dict[Key, list[int]] = defaultdict(lambda: [45875, *[7864] * 4, 0])
        self.prediction = Prediction()
        self.elements = size // self.bytes

    def groups_are_possible(self) -> bool:
        left = self.M - self.top_bits
        for kind, value in self.groups:
            bits = (left - 1) % 8 + 1
            left -= bits
            if kind > 2 or value >> (bits if kind == 2 else 0):
                return False
        return True

    def decode(self) -> bytes:
        if sum(r * c for r, c in self.matrices) != self.elements:
            fail("matrices do not add up")
        if not all(r and c for r, c in self.matrices):
            fail("an empty matrix")
        out = b"".join(self.matrix(r, c) for r, c in self.matrices)
        if self.arithmetic.at != self.length or -(-self.raw_at // 8) != self.raw_length:
            fail("streams have other lengths")
        if self.raw >> self.raw_at:
            fail("unused bits are not 0")
        return out

    def matrix(self, rows: int, columns: int) -> bytes:
        transposed = columns > rows >= 32
        R, C = (columns, rows) if transposed else (rows, columns)
        width = -(-C // -(-C // 512))
        self.row_scales: list[int] = []
        table: list[list[int]] = [[] for _ in range(R)]
        for begin in range(0, C, width):
            w = min(width, C - begin)
            for r, row in enumerate(self.block(R, w, begin == 0, w == C)):
                table[r] += row
        if transposed:
            table = [list(column) for column in zip(*table, strict=True)]
        return b"".join(v.to_bytes(self.bytes, "little") for row in table for v in row)

    def block(self, R: int, w: int, first: bool, whole: bool) -> Iterator[list[int]]:
        self.predicts = R >= 32 and w >= 16
        if self.predicts:
            self.prediction.start(w, whole)
        self.column_scales = [0] * w
        last = 0
        if R >= 16:
            for c in range(w):
                last = clip(last + self.counters.signed("columns"), -(2**20), 2**20)
                self.column_scales[c] = last
        self.spread, self.seen, self.above = [USUAL * 256] * w, [3] * w, [4] * w
        for r in range(R):
            if first:
                before = self.row_scales[-1] if self.row_scales else 0
                scale = clip(before + self.counters.signed("rows"), -(2**20), 2**20)
                self.row_scales.append(scale)
            yield self.row(self.row_scales[r], w)

    def row(self, scale: int, w: int) -> list[int]:
        self.found = self.usual = 32 * USUAL
        self.left = 4
        if self.predicts:
            self.prediction.start_row()
        row = [self.weight(c, 2 * (scale + self.column_scales[c])) for c in range(w)]
        if self.predicts:
            self.prediction.end_row()
        return row

    def weight(self, c: int, octaves: int) -> int:
        mean = 0
        if self.predicts:
            mean = (self.prediction.guess() * self.prediction.share) >> 8
        spread = (((self.spread[c] >> 8) * ((self.found << 8) // self.usual) >> 8) * 321) >> 8
        now = Weight(mean, clip(spread, 64, 32768), octaves)
        zero = 0
        if self.zeros:
            zero = self.counters.bit(("zero", min(self.above[c], 8), not self.left))
        bits, value = (0, 0) if zero else self.number(c, now)
        off = abs(value - mean)
        self.left = (off * now.precision) >> 22  # nobody asks beyond 8
        self.above[c] = 8 if zero else self.left
        off = min(off, 32768)
        self.spread[c] += (((off << 8) - self.spread[c]) * RATE[self.seen[c]]) >> 16
        self.seen[c] = min(self.seen[c] + 1, 250)
        self.found += off
        self.usual += self.spread[c] >> 8
        if self.predicts:
            self.prediction.learn(c, value)
        return bits

    def number(self, c: int, now: Weight) -> tuple[int, int]:
        near, part = clip(now.size >> 4, 1, 2**self.E - 1), now.size & 15
        place = min(self.above[c], 7), min(self.left, 7), part >> 2
        others: list[Key] = [("B", c), ("C", *place)]
        self.contexts = [("A", part, now.context()), *others]
        sign = self.decision(("sign",), ("sign",), sixteenth(now.below(0) >> 14))
        if sign:
            now.mean = -now.mean
        self.contexts = [("A", part, now.context()), *others]
        now.low = now.below(0)
        e = self.exponent(now, near)
        if not 0 <= e < 2**self.E:
            fail("impossible exponent")
        m = self.mantissa(now, e, near)
        value = now.scaled((256 if e else 0) + ((m << 8) >> self.M), max(e, 1))
        bits = sign << (self.E + self.M) | e << self.M | m
        return bits, -value if sign else value

    def exponent(self, now: Weight, near: int) -> int:
        if self.split(now, ("at least",), now.scaled(256, near), (near,)):
            e, k = near, 0
            while e < 2**self.E - 1:
                if k == 5:
                    return e + self.counters.tree("far up", 8)
                if not self.split(now, ("up", k), now.scaled(256, e + 1), (e + 1,)):
                    break
                e, k = e + 1, k + 1
            return e
        e, k = near - 1, 0
        while e > 0:
            if k == 12:
                return e - self.counters.tree("far down", 8)
            if self.split(now, ("down", k), now.scaled(256, e), (e,)):
                break
            e, k = e - 1, k + 1
        return e

    def mantissa(self, now: Weight, e: int, near: int) -> int:
        node = 1
        beside = clip(e - near, -7, 3)
        for k in range(self.top_bits):
            s = ((2 * node + 1) << (7 - k)) - (0 if e else 256)
            point = now.scaled(s, max(e, 1))
            node = 2 * node + self.split(now, ("top", beside, node), point, (e, node))
        m = node - (1 << self.top_bits)
        left = self.M - self.top_bits
        for g, (kind, value) in enumerate(self.groups):
            bits = (left - 1) % 8 + 1
            left -= bits
            if kind == 0:
                part = (self.raw >> self.raw_at) & (2**bits - 1)
                self.raw_at += bits
            else:
                part = self.counters.tree(("group", g), bits) if kind == 1 else value
            m = m << bits | part
        return m

    def split(self, now: Weight, d: Key, point: int, by_value: Key) -> int:
        y = self.decision(d, by_value, now.above(point))
        if y:
            now.low = now.middle
        else:
            now.high = now.middle
        return y

    def decision(self, d: Key, by_value: Key, p: int) -> int:
        keys: list[Key] = [(context, d) for context in self.contexts] + [("value", by_value)]
        states = self.counters.states
        x = [STRETCH[p], *[STRETCH[states[key][0] >> 10] for key in keys], 256]
        w = self.weights[d]
        total = sum(a * b for a, b in zip(x, w, strict=True))
        P = SQUASH[clip(total >> 16, -2047, 2047) + 2048]
        y = self.arithmetic.bit(P)
        error = ((y << 16) - P) * 10
        self.weights[d] = [
            clip(b + ((a * error + 2**21) >> 22), -(2**24), 2**24)
            for a, b in zip(x, w, strict=True)
        ]
        for key in keys:
            self.counters.update(key, y)
        return y


def decode(model: bytes, payload: bytes, size: int) -> bytes:
    """The `size` original bytes of a chunk."""
    return Decoder(model, payload, size).decode()
