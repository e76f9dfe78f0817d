"""A slow decoder of float context mixing, after docs/format/float_cm.md and nothing else."""

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from reference.arithmetic import INVERSE, LOG2, NORMAL, RATE, SQUASH, STRETCH, Arithmetic, clip
from reference.reading import Refused, fail

CODEC = 4
FORMATS = {1: (2, 8, 7), 2: (2, 5, 10), 3: (4, 8, 23), 4: (1, 4, 3), 5: (1, 5, 2)}
USUAL = 3268


def is_model(model: bytes) -> bool:
    """Whether a decoder may accept this MODEL payload."""
    if len(model) != 4 or model[0] != 4 or model[1] not in FORMATS or model[3]:
        return False
    return model[2] <= min(4, FORMATS[model[1]][2])


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    payload: bytes

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        return decode(self.payload, payload, original)


def parse_model(payload: bytes) -> Model:
    """MODEL."""
    if len(payload) > 1 and payload[1] not in FORMATS:
        raise Refused("unsupported", f"format {payload[1]}")
    if not is_model(payload):
        fail("a MODEL of float context mixing")
    return Model(payload)


class Counters:
    """Counters by any key."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self.states: dict[tuple[object, ...], tuple[int, int]] = defaultdict(lambda: (1 << 21, 0))

    def update(self, key: tuple[object, ...], y: int, most: int = 255) -> None:
        p, n = self.states[key]
        p += (((y << 22) - p) * RATE[n]) >> 16
        self.states[key] = p, min(n + 1, most)

    def bit(self, key: tuple[object, ...], most: int = 255) -> int:
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
        return k // 2 if k % 2 == 0 else -(k + 1) // 2


class Prediction:
    """Section 7; kept from block to block."""

    def __init__(self) -> None:
        self.columns = 0  # of the latest matrix that predicted, 0 if it had several blocks
        self.G: list[list[int]] = []
        self.F: list[list[int]] = []
        self.rows = 0

    def start(self, w: int, whole: bool) -> None:
        size = range(w + 1)
        if whole and self.columns == w:
            self.G = [[g >> 2 for g in row] for row in self.G]
            self.rows >>= 2
        else:
            self.G = [[0] * (w + 1) for _ in size]
            self.F = [[0] * (w + 1) for _ in size]
            self.rows = 0
        self.columns = w if whole else 0
        self.w, self.fitted, self.x, self.y = w, self.rows, 0, 4096
        self.recent: list[list[int]] = []

    def start_row(self) -> None:
        self.share = clip((self.x << 8) // self.y, 0, 256)
        self.sum = [self.F[0][j + 1] << 10 for j in range(self.w)]
        self.dx = self.dy = 0
        self.z = [1024]

    def guess(self, c: int) -> int:
        return clip(self.sum[c] >> 18, -32768, 32767)

    def learn(self, c: int, value: int) -> None:
        z, g = clip(value >> 2, -8192, 8191), self.guess(c) >> 2
        self.z.append(z)
        self.dx += z * g
        self.dy += g * g
        for j in range(c + 1, self.w):
            self.sum[j] += (z - g) * self.F[c + 1][j + 1]

    def end_row(self) -> None:
        self.x += self.dx // self.w
        self.y += self.dy // self.w
        self.x -= self.x >> 6
        self.y -= self.y >> 6
        self.recent.append(self.z)
        if len(self.recent) < 16:
            return
        for i in range(self.w + 1):
            for j in range(i, self.w + 1):
                self.G[i][j] += sum(z[i] * z[j] for z in self.recent)
        self.recent = []
        self.rows += 16
        if self.rows - self.fitted >= max(16, self.fitted >> 3):
            self.fit()
            self.fitted = self.rows

    def fit(self) -> None:
        w, n = self.w, self.rows + self.w
        W = [[(g << 4) // n for g in row] for row in self.G]
        for i in range(w + 1):
            W[i][i] += (w << 24) // n
        for k in range(w + 1):
            d = max(W[k][k], 1 << 14)
            r = [clip(x, -(1 << 30), 1 << 30) for x in W[k]]
            for i in range(k + 1, w + 1):
                f = self.F[k][i] = clip((r[i] << 20) // d, -(1 << 24), 1 << 24)
                for j in range(i, w + 1):
                    W[i][j] -= (f * r[j]) >> 20


class Weight:
    """The distribution of the weight at hand, steps 2, 6 and 7."""

    def __init__(self, mean: int, spread: int, octaves: int) -> None:
        self.mean, self.precision, self.octaves = mean, 2**24 // spread, octaves
        k = 8
        y = spread
        while y >= 512:
            y, k = spread >> (k + 1 - 8), k + 1
        while y < 256:
            y, k = spread << (8 - (k - 1)), k - 1
        self.size = 2 * octaves + 16 * k + LOG2[y - 256] - 192
        self.low, self.high, self.middle = 0, 2**30, 0

    def below(self, x: int) -> int:
        u = clip(((x - self.mean) * self.precision) >> 15, -4096, 4095) + 4096
        i = u >> 4
        a = NORMAL[i]
        return a + (((NORMAL[i + 1] - a) * (u & 15)) >> 4)

    def above(self, x: int) -> int:
        self.middle = self.below(x)
        p = ((self.high - self.middle + 1) << 16) // (self.high - self.low + 2)
        return clip(p, 32, 65504)

    def scaled(self, s: int, e: int) -> int:
        h = e - (self.octaves >> 3) - 11
        x = s * INVERSE[self.octaves & 7]
        return min(x << min(h, 16) if h >= 0 else x >> min(-h, 31), 65535)

    def context(self) -> int:
        return clip((self.mean * self.precision) >> 22, -6, 6) + 6


class Decoder:
    """Decodes one chunk."""

    def __init__(self, model: bytes, payload: bytes, size: int) -> None:
        _, number, self.top_bits, _ = model
        self.bytes, self.E, self.M = FORMATS[number]
        groups = -(-(self.M - self.top_bits) // 8)
        count = int.from_bytes(payload[:2], "little")
        at = 2 + 8 * count
        if len(payload) < at + 1 + 2 * groups + 4 or size % self.bytes or size > 1 << 23:
            fail("impossible length")
        self.matrices = list(struct.iter_unpack("<II", payload[2:at]))
        self.zeros = payload[at]
        self.groups = list(zip(*[iter(payload[at + 1 : at + 1 + 2 * groups])] * 2, strict=True))
        at += 1 + 2 * groups
        (length,) = struct.unpack_from("<I", payload, at)
        at += 4
        if length > len(payload) - at or self.zeros > 1 or not self.groups_are_possible():
            fail("impossible header")
        self.arithmetic = Arithmetic(payload[at : at + length])
        self.length = length
        self.raw = int.from_bytes(payload[at + length :], "little")
        self.raw_length = len(payload) - at - length
        self.raw_at = 0
        self.counters = Counters(self.arithmetic)
        self.weights: dict[int, list[int]] = defaultdict(lambda: [45875, *[7864] * 4, 0])
        self.prediction = Prediction()
        self.elements = size // self.bytes

    def groups_are_possible(self) -> bool:
        bits = [8] * len(self.groups)
        bits[:1] = [(self.M - self.top_bits - 1) % 8 + 1] * len(bits[:1])
        return all(
            kind <= 2 and value < (1 << b if kind == 2 else 1)
            for (kind, value), b in zip(self.groups, bits, strict=True)
        )

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
        table = [[0] * C for _ in range(R)]
        for begin in range(0, C, width):
            w = min(width, C - begin)
            for r, row in enumerate(self.block(R, w, begin == 0, w == C)):
                table[r][begin : begin + w] = row
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
            mean = (self.prediction.guess(c) * self.prediction.share) >> 8
        spread = (((self.spread[c] >> 8) * ((self.found << 8) // self.usual) >> 8) * 321) >> 8
        now = Weight(mean, clip(spread, 64, 32768), octaves)
        zero = 0
        if self.zeros:
            which = 2 * min(self.above[c], 8) + int(self.left == 0)
            zero = self.counters.bit(("zero", which))
        bits, value = (0, 0) if zero else self.number(c, now)
        off = abs(value - mean)
        self.left = min((off * now.precision) >> 22, 15)
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
        place = 32 * min(self.above[c], 7) + 4 * min(self.left, 7) + (part >> 2)
        self.contexts = [("A", 16 * part + now.context()), ("B", c), ("C", place)]
        p = clip(now.below(0) >> 14, 32, 65504)
        sign = self.decision(0, 0, p)
        if sign:
            now.mean = -now.mean
        self.contexts[0] = ("A", 16 * part + now.context())
        now.low = now.below(0)
        e = self.exponent(now, near)
        if not 0 <= e < 2**self.E:
            fail("impossible exponent")
        m = self.mantissa(now, e, near)
        value = now.scaled((256 if e else 0) + ((m << 8) >> self.M), max(e, 1))
        bits = sign << (self.E + self.M) | e << self.M | m
        return bits, -value if sign else value

    def exponent(self, now: Weight, near: int) -> int:
        if self.split(now, 1, now.scaled(256, near), 32 * near):
            e, k = near, 0
            while e < 2**self.E - 1:
                if k == 5:
                    return e + self.counters.tree("far up", 8)
                if not self.split(now, 2 + k, now.scaled(256, e + 1), 32 * (e + 1)):
                    break
                e, k = e + 1, k + 1
            return e
        e, k = near - 1, 0
        while e > 0:
            if k == 12:
                return e - self.counters.tree("far down", 8)
            if self.split(now, 8 + k, now.scaled(256, e), 32 * e):
                break
            e, k = e - 1, k + 1
        return e

    def mantissa(self, now: Weight, e: int, near: int) -> int:
        node = 1
        first = 24 + 16 * clip(e - near + 7, 0, 10)
        for k in range(self.top_bits):
            s = (256 if e else 0) + ((((node << 1) | 1) << (7 - k)) & 255)
            point = now.scaled(s, max(e, 1))
            node = 2 * node + self.split(now, first + node, point, 32 * e + 16 + node)
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

    def split(self, now: Weight, d: int, point: int, by_value: int) -> int:
        y = self.decision(d, by_value, now.above(point))
        if y:
            now.low = now.middle
        else:
            now.high = now.middle
        return y

    def decision(self, d: int, by_value: int, p: int) -> int:
        keys = [(*context, d) for context in self.contexts] + [("value", by_value)]
        states = self.counters.states
        x = [STRETCH[p >> 4], *[STRETCH[states[key][0] >> 10] for key in keys], 256]
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
