"""The slow decoder of images by residuals, after docs/format/image.md, section 7."""

from collections import defaultdict

from reference.arithmetic import RATE, SQUASH, STRETCH, Arithmetic, clip
from reference.image import (
    INVERSE,
    NARROW,
    TRUST,
    WIDE,
    Counter,
    Errors,
    Linear,
    Mixing,
    Model,
    Plane,
    class_of,
    hashed,
    scale_of,
)
from reference.reading import fail

FAR = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))


def by_residuals(model: Model, payload: bytes, planes: list[Plane], rows: int) -> None:
    coder = Arithmetic(payload)
    residuals = Residuals(model, planes, rows, coder)
    for y in range(rows):
        for edges in (*residuals.missed, residuals.corrected):
            for e in edges:
                e.begin(y)
        for x in range(model.width):
            for c, plane in enumerate(planes):
                if x == 0:
                    plane.begin(y)
                plane.put(y, x, residuals.found(c, y, x))
        if coder.at > len(payload):
            fail("the stream is used up")
    if coder.at != len(payload):
        fail("bytes after the stream")


class Share:
    """A distribution about a mean, and what of it is left (7.5)."""

    def __init__(self, table: list[int], mean: int, scale: int) -> None:
        self.table, self.mean, self.inverse = table, mean, INVERSE[scale]
        self.below, self.above, self.share = 0, 2**19, 0

    def input(self, t: int) -> int:
        u = clip((((16 * t - 8 - self.mean) * self.inverse) >> 16) + 65536, 0, 131071)
        a, b = self.table[u >> 8 : (u >> 8) + 2]
        self.share = clip((a + (((b - a) * (u & 255)) >> 8)) >> 3, self.below, self.above)
        whole = self.above - self.below
        return STRETCH[(self.above - self.share) * 4095 // whole if whole > 8 else 2048]

    def learn(self, y: int) -> None:
        if y:
            self.below = self.share
        else:
            self.above = self.share


class Residuals(Mixing):
    """The model of a chunk (7)."""

    def __init__(self, model: Model, planes: list[Plane], rows: int, coder: Arithmetic) -> None:
        super().__init__(model, planes, rows, coder)
        channels = range(model.channels)
        self.linear = [[Linear(11, 64)] for _ in channels]
        self.missed = [[Errors(model.width) for _ in range(5)] for _ in channels]
        self.corrected = [Errors(model.width) for _ in channels]
        self.means = [[self.first_mean(kind) for kind in range(48)] for _ in channels]
        self.bias = defaultdict[tuple[int, ...], list[int]](lambda: [0, 0])
        self.lines_each = 2 ** clip((rows * model.width - 1).bit_length() - 1, 8, 12)
        first = [14000] * 2 + [9000] * 5 + [0]
        self.rows = defaultdict[tuple[int, ...], list[int]](lambda: list(first))
        cells = [SQUASH[(4096 * i + 15) // 31] for i in range(31)] + [SQUASH[4095]]
        self.cells = defaultdict[tuple[int, ...], list[int]](lambda: list(cells))

    def first_mean(self, kind: int) -> int:
        a = kind if kind < 8 else (4 + (kind & 3)) << ((kind - 8) // 4 + 1)
        return (96 * a << (self.q >> 1)) + 64

    def features(self, c: int, y: int, x: int) -> list[int]:
        own = [(-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-2, 1), (-1, -2), (-1, 2)]
        if c == 0:
            own += [(-2, -1), (-3, 0), (0, -3)]
            if self.model.channels == 1:
                own += [(-2, 2), (-2, -2)]
        found = self.against_w(c, y, x, own)
        if c > 0:
            found += self.against_w(c - 1, y, x, [(0, 0), (-1, 0), (-1, -1), (-1, 1)])
        if c > 1:
            found += self.against_w(c - 2, y, x, [(0, 0), (-1, 0)])
        if self.model.channels >= 3 and c < 2:
            for plane in self.planes[c + 1 : 3]:
                found.append(plane.at(y, x - 1) - plane.at(y - 1, x))
        return found

    def near_by(self, errors: Errors, y: int, x: int) -> int:
        weights = (2, 2, 1, 1, 1, 1)
        return sum(k * abs(errors.at(y + a, x + b)) for k, (a, b) in zip(weights, FAR, strict=True))

    def found(self, c: int, y: int, x: int) -> int:
        """A sample."""
        f = self.features(c, y, x)
        p = self.predictions(c, y, x, f)
        z = [self.near_by(e, y, x) for e in self.missed[c]]
        size = self.near_by(self.corrected[c], y, x)
        if c > 0:
            z = [(2 * a + 5 * e.at(y, x)) >> 2 for a, e in zip(z, self.missed[c - 1], strict=True)]
            size = (2 * size + 5 * abs(self.corrected[c - 1].at(y, x))) // 3
        blend = self.blended(p, z)
        near = self.near(c, y, x)[:6]
        texture = sum((v > (blend + 8) >> 4) << i for i, v in enumerate(near))
        kind = class_of(size >> (3 + (self.q >> 1)))
        pairs = [self.bias[key] for key in self.bias_keys(c, y, x, texture, kind)]
        mean = clip(blend + ((pairs[0][0] + pairs[1][0] + 64) >> 7), 0, self.top)
        self.shares = [
            Share(WIDE, mean, scale_of(self.means[c][kind] >> 4)),
            Share(NARROW, p[0], scale_of((z[0] >> 1) + 4)),
        ]
        lines = self.lines_of(c, y, x, mean, p[0], z[0], kind)
        g = max(0, (scale_of(self.means[c][kind] >> 4) - 14) >> 2)
        v = self.decisions(c, mean, g, kind, texture, lines)
        self.learn_sample(c, y, x, v, mean, blend, kind, p, pairs)
        w = self.planes[c].at(y, x - 1)
        scaled = [(2 * value) >> self.q for value in f]
        self.linear[c][0].learn(scaled, (32 * (v - w)) >> self.q, self.model.second)
        return v

    def blended(self, p: list[int], z: list[int]) -> int:
        total = moved = 0
        for i in range(5):
            k = (((min(z) >> self.q) + 16) << 12) // ((z[i] >> self.q) + 16)
            g = ((((k * k) >> 12) * k) >> 12) * (3 if i == 0 else 1)
            total += g
            moved += g * (p[i] - p[0])
        return p[0] + moved // total

    def bias_keys(
        self, c: int, y: int, x: int, texture: int, kind: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        left = self.coarse(self.corrected[c].at(y, x - 1))
        first, second = left, self.coarse(self.corrected[c].at(y - 1, x))
        if c > 0:
            first, second = self.coarse(self.corrected[c - 1].at(y, x)), left
        return (c, 0, texture, min(15, kind >> 1)), (c, 1, first, second, min(3, kind >> 3))

    def coarse(self, e: int) -> int:
        return clip(e >> (4 + self.q), -7, 7) + 8

    def lines_of(
        self, c: int, y: int, x: int, mean: int, own: int, z: int, kind: int
    ) -> list[tuple[int, ...]]:
        w, n, _, ne = (v >> self.q for v in self.near(c, y, x)[:4])
        m, r = mean >> (4 + self.q), self.q >> 1
        before = self.planes[c - 1].at(y, x) >> self.q if c else ne
        second = n << 16 | m
        if c > 1:
            second = before << 32 | (self.planes[c - 2].at(y, x) >> self.q) << 16 | m
        values = w << 16 | m, second, before << 16 | m
        between = clip(((own - mean) >> r) + 40, 0, 79) // 5
        return [
            *((c, i, hashed(value, i) % self.lines_each) for i, value in enumerate(values)),
            (c, 3, kind, mean & 15),
            (c, 4, class_of(z >> (3 + r)), between),
        ]

    def decisions(
        self, c: int, mean: int, g: int, kind: int, texture: int, lines: list[tuple[int, ...]]
    ) -> int:
        low, high, stage = 0, 2**self.model.depth, "side"
        side = steps = inside = 0
        path = 1
        while high - low > 1:
            step = 1 << (g + clip(steps - 2, 0, 6))
            node: int | None = None
            if stage == "side":
                t, node = (mean >> 4) + 1, 0
            elif stage == "up":
                t, node = low + step, 1 + min(steps, 6)
            elif stage == "down":
                t, node = high - step, 8 + min(steps, 6)
            else:
                t = (low + high + 1) >> 1
                if steps < 2 and inside < 2:
                    node = 15 + 3 * (2 * side + steps) + path - 1
                elif inside == 0:
                    node = 27 + min(1, steps - 2) + 2 * side
            if t <= low or t >= high:
                stage = "down" if stage == "side" else "inside"
                continue
            y = self.decision(c, t, node, kind, texture, lines)
            low, high = (t, high) if y else (low, t)
            if stage == "side":
                side, stage = y, "up" if y else "down"
            elif stage == "inside":
                inside, path = inside + 1, 2 * path + y
            elif y == (stage == "up"):
                steps += 1
            else:
                stage = "inside"
        return low

    def decision(
        self,
        c: int,
        t: int,
        node: int | None,
        kind: int,
        texture: int,
        lines: list[tuple[int, ...]],
    ) -> int:
        x = [share.input(t) for share in self.shares]
        if node is None:
            z = (3 * x[0] + x[1]) >> 2
            y = self.coder.bit(clip(SQUASH[z + 2048], 32, 65504))
        else:
            y = self.with_contexts(x, c, node, kind, texture, lines)
        for share in self.shares:
            share.learn(y)
        return y

    def with_contexts(
        self,
        x: list[int],
        c: int,
        node: int,
        kind: int,
        texture: int,
        lines: list[tuple[int, ...]],
    ) -> int:
        counters: list[Counter] = [self.counters[(*line, node)] for line in lines]
        for counter in counters:
            trust = TRUST[counter.c] if counter.c < 16 else 256
            x.append((STRETCH[counter.p >> 10] * trust) >> 8)
        x.append(256)
        sets = [self.rows[c, 0, kind, node], self.rows[c, 1, texture, node]]
        outputs = [
            clip(sum((a * w) >> 8 for a, w in zip(x, row, strict=True)) >> 8, -2047, 2047)
            for row in sets
        ]
        o = sum(outputs) >> 1
        row, u = self.cells[c, kind, node], (o + 2048) * 31
        i, part = u >> 12, u & 4095
        q = (row[i] * (4096 - part) + row[i + 1] * part) >> 12
        y = self.coder.bit(clip((SQUASH[o + 2048] + q + 1) >> 1, 32, 65504))
        for weights, output in zip(sets, outputs, strict=True):
            g = (3 * ((y << 16) - SQUASH[output + 2048])) >> 1
            for k, a in enumerate(x):
                weights[k] = clip(weights[k] + ((a * g + 2**15) >> 16), 1 - 2**19, 2**19 - 1)
        for j in (i, i + 1):
            row[j] += (65535 * y - row[j]) >> 5
        for counter in counters:
            counter.update(y)
        return y

    def learn_sample(
        self,
        c: int,
        y: int,
        x: int,
        v: int,
        mean: int,
        blend: int,
        kind: int,
        p: list[int],
        pairs: list[list[int]],
    ) -> None:
        for errors, each in zip(self.missed[c], p, strict=True):
            errors.rows[y % 3][x + 3] = abs(16 * v - each)
        error = 16 * v - mean
        self.corrected[c].rows[y % 3][x + 3] = error
        self.means[c][kind] += (64 * abs(error) - self.means[c][kind] + 64) >> 7
        for pair in pairs:
            pair[0] += ((64 * (16 * v - blend) - pair[0]) * RATE[pair[1]]) >> 16
            pair[1] = min(pair[1] + 1, 60)
