"""A slow decoder of images, after docs/format/image.md and nothing else."""

import decimal
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from reference import rans
from reference.arithmetic import RATE, SQUASH, STRETCH, Arithmetic, clip, rounded
from reference.reading import Refused, fail

CODEC = 11
MASK = 2**64 - 1
THRESHOLDS = (1, 4, 9, 16, 25, 38, 55, 80, 116, 170, 260, 450)
TRUST = (0, 100, 160, 190, 210, 222, 232, 238, 242, 246, 248, 250, 252, 253, 254, 255)


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    method: int
    channels: int
    flags: int
    depth: int
    colour: int
    first: int
    second: int
    padding: int
    shift: int
    width: int
    values: tuple[int, ...]
    frequencies: list[list[int]]
    zoom: tuple[int, int] = (1, 1)

    @property
    def size(self) -> int:
        """Bytes of a sample."""
        return 1 + (self.flags & 1)

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        if self.zoom != (1, 1):
            return self._enlarged(payload, original)
        stride = self.width * self.channels * self.size + self.padding
        rows, rest = divmod(original, stride)
        if rest or not rows:
            fail("no whole rows")
        if self.method and original > 2**24:
            raise Refused("limit", "a CHUNK is too long")
        planes = [Plane(self.width) for _ in range(self.channels)]
        if self.method == 2:
            from reference.image_residual import by_residuals

            by_residuals(self, payload, planes, rows)
        elif self.method:
            mixed(self, payload, planes, rows)
        else:
            by_gradients(self, payload, planes, rows)
        return joined(self, planes, rows)

    def _enlarged(self, payload: bytes, original: int) -> bytes:
        """Pixels that stand for several (1)."""
        down, across = self.zoom
        pixel = self.channels * self.size
        stride = self.width * pixel
        if original % (stride * down * across):
            fail("no whole groups of rows")
        small = replace(self, zoom=(1, 1)).decode(payload, original // (down * across))
        out = bytearray()
        for at in range(0, len(small), stride):
            row = b"".join(small[x : x + pixel] * across for x in range(at, at + stride, pixel))
            out += row * down
        return bytes(out)


def parse_model(payload: bytes) -> Model:
    """MODEL (1)."""
    head = struct.Struct("<10BI")
    if len(payload) < head.size:
        fail("a MODEL that is too short")
    _, method, channels, flags, depth, colour, first, second, padding, shift, width = (
        head.unpack_from(payload)
    )
    size, rest = 1 + (flags & 1), payload[head.size :]
    if method > 3 or flags > 15 or flags & 3 == 2 or not 1 <= channels <= 64 or not width:
        fail("sizes")
    if not 1 <= depth <= 8 * size - shift or colour > 4 or (colour and channels < 3):
        fail("samples")
    zoom = (1, 1)
    if flags & 8:
        if len(rest) < 2 or padding:
            fail("pixels for several")
        zoom, rest = (rest[0], rest[1]), rest[2:]
        if zoom == (1, 1) or not all(1 <= factor <= 16 for factor in zoom):
            fail("pixels for several")
    values: tuple[int, ...] = ()
    if flags & 4:
        if size > 1 or padding or shift or len(rest) < 32:
            fail("values")
        values = tuple(i for i in range(256) if rest[i >> 3] >> (i & 7) & 1)
        rest = rest[32:]
        if not values:
            fail("no values")
    frequencies: list[list[int]] = []
    if method:
        contexts = 1 <= first <= 16 if method != 2 else not first
        if not contexts or second > 32 or rest or colour not in (0, 4):
            fail("parameters of mixing")
        if width * channels > 2**19:
            raise Refused("limit", "rows are too long")
        if method == 3 and (width + 7) // 8 * channels > 2**12:
            raise Refused("limit", "rows have too many sections")
    else:
        if not 1 <= first <= 16 or second > 8:
            fail("parameters of gradients")
        frequencies, used = rans.unpack(rest, 39)
        if used != len(rest) or any(any(row[164:]) for row in frequencies):
            fail("frequencies")
    fields = (method, channels, flags, depth, colour, first, second, padding, shift, width)
    return Model(*fields, values, frequencies, zoom)


class Plane:
    """Samples by row and column (2)."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: defaultdict[int, list[int]] = defaultdict(lambda: [0] * (width + 6))

    def at(self, y: int, x: int) -> int:
        return self.rows[y][x + 3]

    def begin(self, y: int) -> None:
        self.rows[y][:3] = [self.at(y - 1, 0)] * 3

    def put(self, y: int, x: int, sample: int) -> None:
        self.rows[y][x + 3] = sample
        if y == 0:
            self.rows[-1][x + 4] = self.rows[-1][x + 5] = self.rows[-2][x + 4] = sample
        if x == self.width - 1:
            self.rows[y][x + 4 :] = [sample] * 3


def joined(model: Model, planes: list[Plane], rows: int) -> bytes:
    """Rows of samples from planes (1, 3)."""
    out = bytearray()
    order = "big" if model.flags & 2 else "little"
    for y in range(rows):
        for x in range(model.width):
            pixel = uncoloured(model, [plane.at(y, x) for plane in planes])
            for sample in pixel:
                if model.values:
                    sample = model.values[min(sample, len(model.values) - 1)]
                sample = (sample << model.shift) % 256**model.size
                out += sample.to_bytes(model.size, "big" if order == "big" else "little")
        out += bytes(model.padding)
    return bytes(out)


def uncoloured(model: Model, pixel: list[int]) -> list[int]:
    if model.colour == 0:
        return pixel
    m = 2**model.depth
    p, q, t = pixel[:3]
    if model.colour == 1:
        rgb = [(p + q) % m, p, (p + t) % m]
    elif model.colour == 2:
        r = (p + q) % m
        rgb = [r, p, (t + ((r + p) >> 1)) % m]
    elif model.colour == 3:
        middle = (p - (q >> 1)) % m
        b = (middle - (t >> 1)) % m
        rgb = [(b + t) % m, (middle + q) % m, b]
    else:
        rgb = [q, p, t]
    return rgb + pixel[3:]


# 4. By gradients


class States:
    """States and words."""

    def __init__(self, payload: bytes, count: int) -> None:
        if len(payload) < 4 * count:
            fail("too few states")
        self.states: list[int] = list(struct.unpack_from(f"<{count}I", payload))
        self.words, self.position = payload, 4 * count
        if min(self.states) < 2**16:
            fail("a state below 2^16")

    def fill(self, i: int) -> None:
        if self.states[i] < 2**16:
            word = self.words[self.position : self.position + 2]
            if len(word) < 2:
                fail("too few words")
            self.states[i] = self.states[i] << 16 | int.from_bytes(word, "little")
            self.position += 2

    def token(self, i: int, row: tuple[list[int], list[int], list[int]]) -> int:
        owners, firsts, freqs = row
        slot = self.states[i] % 4096
        symbol: int = owners[slot]
        self.states[i] = freqs[symbol] * (self.states[i] // 4096) + slot - firsts[symbol]
        self.fill(i)
        return symbol

    def low(self, i: int, count: int) -> int:
        found = self.states[i] & ((1 << count) - 1)
        self.states[i] >>= count
        self.fill(i)
        return found


def steps(rows: int, width: int, wavefront: int) -> Iterator[tuple[int, int, int]]:
    """Row, j and column, in the order in which they are decoded."""
    for group in range(0, rows, wavefront):
        for t in range(width + 3 * wavefront):
            for j in range(min(wavefront, rows - group)):
                if 0 <= t - 3 * j < width:
                    yield group + j, j, t - 3 * j


def predicted(a: Plane, y: int, x: int, scale: int) -> tuple[int, int, int]:
    """Prediction, activity without errors, texture."""
    w, n, nw, ne = a.at(y, x - 1), a.at(y - 1, x), a.at(y - 1, x - 1), a.at(y - 1, x + 1)
    ww, nn, nne = a.at(y, x - 2), a.at(y - 2, x), a.at(y - 2, x + 1)
    across = abs(w - ww) + abs(n - nw) + abs(ne - n)
    down = abs(w - nw) + abs(n - nn) + abs(ne - nne)
    slope = (down - across) >> scale
    part = 4 if abs(slope) > 80 else 2 if abs(slope) > 32 else int(abs(slope) > 8)
    side = w if slope > 0 else n
    p = ((8 * (w + n) + 4 * (ne - nw)) * (4 - part) + 16 * side * part + 32) >> 6
    texture = sum((v > p) << i for i, v in enumerate((n, w, nw, ne, 2 * w - ww, 2 * n - nn)))
    return p, across + down, texture


def by_gradients(model: Model, payload: bytes, planes: list[Plane], rows: int) -> None:
    channels, wavefront, scale = model.channels, model.first, model.second
    states = States(payload, wavefront * channels)
    tables = [rans.slots(row) for row in model.frequencies]
    bias: defaultdict[tuple[int, int, int], int] = defaultdict(int)
    errors = [[0] * channels for _ in range(wavefront)]
    m = 2**model.depth
    for y, j, x in steps(rows, model.width, wavefront):
        for c, plane in enumerate(planes):
            if x == 0:
                plane.begin(y)
                errors[j][c] = 0
            low = -m // 2 if c in (1, 2) and 1 <= model.colour <= 3 else 0
            p, activity, texture = predicted(plane, y, x, scale)
            group = 0 if c == 0 else 2 if c == channels - 1 and channels % 2 == 0 else 1
            activity += 2 * errors[j][c]
            if group == 1:
                activity += 2 * errors[j][0] + (2 * errors[j][1] if c > 1 else 0)
            activity = min(activity, (512 << scale) - 1)
            level = sum(a << scale <= activity for a in THRESHOLDS)
            place = c, level, texture
            p = clip(p + ((bias[place] + 128) >> 8), low, low + m - 1)
            i = j * channels + c
            f = states.token(i, tables[13 * group + level])
            if f >= 128:
                k = ((f - 128) >> 2) + 5
                f = (4 | f & 3) << k | states.low(i, k)
            e = f >> 1 if f % 2 == 0 else -(f >> 1) - 1
            plane.put(y, x, (p + e - low) % m + low)
            bias[place] += ((e << 8) - bias[place]) >> 6
            errors[j][c] = abs(e)
    if states.position != len(payload) or any(state != 2**16 for state in states.states):
        fail("the stream does not end as it should")


# 5. By mixing: tables

with decimal.localcontext() as context:
    context.prec = 40

    def _f(z: Decimal) -> Decimal:
        return 1 / (1 + (-z).exp())

    _z = [Decimal(i - 256) / 16 for i in range(513)]
    NARROW = [rounded(2**22 * _f(z)) for z in _z]
    WIDE = [rounded(2**22 * (4 * _f(z * 5 / 4) + _f(z / 3)) / 5) for z in _z]
    for _table in (NARROW, WIDE):
        _table[:256] = [2**22 - _table[512 - i] for i in range(256)]
INVERSE = [((65536, 55109, 46341, 38968)[s % 4] << 11) >> (s // 4) for s in range(76)]


def class_of(a: int) -> int:
    if a < 8:
        return a
    b = a.bit_length()
    return min(47, 8 + 4 * (b - 4) + ((a >> (b - 3)) & 3))


def scale_of(m: int) -> int:
    a = (25 * m) >> 5
    if a < 8:
        return 0
    b = a.bit_length()
    h = a << 16 >> b
    return min(75, 4 * (b - 4) + sum(limit <= h for limit in (38968, 46341, 55109)))


def hashed(a: int, i: int) -> int:
    h: int = (a + i * 0x3C6EF372) * 0x2C1B3C6D9E3779B1 & MASK
    h ^= (h >> 29) & 0x7FFFFFFFF
    return ((h * 0x165667B19E3779F9 & MASK) >> 20) & 0xFFFFFFFF


def digits(values: list[int], bits: int) -> int:
    """Values of so many bits side by side, the first one the highest."""
    found = 0
    for value in values:
        found = found << bits | value
    return found


def median(a: int, b: int, c: int) -> int:
    return clip(a + b - c, min(a, b), max(a, b))


class Counter:
    """A pair (p, c) that counts to 250."""

    def __init__(self, p: int = 2**21) -> None:
        self.p, self.c = p, 0

    def update(self, y: int) -> None:
        self.p += (((y << 22) - y - self.p) * RATE[self.c]) >> 16
        self.c = min(self.c + 1, 250)


class Linear:
    """A linear predictor (6.1)."""

    def __init__(self, s: int, ridge: int) -> None:
        self.a = [2**15] + [0] * 23
        self.m = [[0] * 24 for _ in range(24)]
        self.r = [0] * 24
        self.j = 0
        self.s, self.ridge = s, ridge

    def sum(self, f: list[int]) -> int:
        return (sum(a * b for a, b in zip(self.a, f, strict=False)) + 2**11) >> 12

    def learn(self, g: list[int], goal: int, count: int) -> None:
        error = goal - self.sum(g)
        h, s = 1 << (self.s - 1), self.s
        self.gather(g, goal)
        for i, value in enumerate(g):
            for k, other in enumerate(g):
                self.m[i][k] += value * other - ((self.m[i][k] + h) >> s)
            r = self.r[i] + error * value - ((self.r[i] + h) >> s)
            self.r[i] = clip(r, -(2**40), 2**40)
        self.move(len(g), count)

    def gather(self, g: list[int], goal: int) -> None:
        """What windows need besides."""

    def move(self, features: int, count: int) -> None:
        for _ in range(count):
            j = self.j if self.j < features else 0
            d = clip((self.r[j] << 12) // (self.m[j][j] + self.ridge), -(2**17), 2**17)
            after = clip(self.a[j] + d, -(2**20), 2**20)
            d, self.a[j] = after - self.a[j], after
            for i in range(features):
                self.r[i] -= (self.m[j][i] * d) >> 12
            self.j = j + 1


Matrix = list[list[int]]  # a row for each feature; the last column is that of goals


def matrix(features: int) -> Matrix:
    return [[0] * (features + 1) for _ in range(features)]


def combined(of: Callable[..., int], *matrices: Matrix) -> Matrix:
    """A matrix, each element by those of others."""
    return [
        [of(*cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)
    ]


class Window(Linear):
    """A linear predictor that is learned from a window (6.7)."""

    def __init__(self, down: int, aside: int, width: int, features: int) -> None:
        super().__init__(31, 64)
        self.down, self.aside, self.features = down, aside, features
        self.count = (width + 7) // 8
        self.own = [matrix(features) for _ in range(self.count)]
        self.right = [matrix(features) for _ in range(self.count + 1)]
        self.left, self.fresh = matrix(features), matrix(features)

    def less(self, value: int) -> int:
        return value - (value >> self.aside)

    def begin(self, x: int) -> None:
        """Before the sample in column x."""
        if x % 8:
            return
        k = x // 8
        if k == 0:
            self.left = matrix(self.features)
        else:
            self.end(k - 1)
        around = self.left, self.own[k], self.right[k + 1]
        window = combined(lambda a, b, c: self.less(a) + b + self.less(c), *around)
        self.m = [row[:-1] for row in window]
        for i in range(self.features):
            said = sum(m * a for m, a in zip(self.m[i], self.a, strict=False))
            self.r[i] = 16 * window[i][-1] - (said >> 12)
        self.move(self.features, 24)

    def gather(self, g: list[int], goal: int) -> None:
        for i, value in enumerate(g):
            for k, other in enumerate(g):
                self.fresh[i][k] += value * other
            self.fresh[i][-1] += value * (goal >> 4)

    def end(self, k: int) -> None:
        """After the last sample of section k in a row."""
        self.own[k] = combined(lambda o, f: o - (o >> self.down) + f, self.own[k], self.fresh)
        self.left = combined(lambda a, o: self.less(a) + o, self.left, self.own[k])
        self.fresh = matrix(self.features)

    def end_row(self) -> None:
        self.end(self.count - 1)
        for k in range(self.count - 1, -1, -1):
            after = self.own[k], self.right[k + 1]
            self.right[k] = combined(lambda o, r: o + self.less(r), *after)


class Errors:
    """Errors of a prediction, for three rows in turns (6.3)."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows = [[0] * (width + 6) for _ in range(3)]

    def at(self, y: int, x: int) -> int:
        return self.rows[y % 3][x + 3]

    def begin(self, y: int) -> None:
        self.rows[y % 3][:3] = [self.at(y - 1, 0)] * 3
        self.rows[(y - 1) % 3][-3:] = [self.at(y - 1, self.width - 1)] * 3


class Mixers:
    """Weights and corrections of a plane (6.6)."""

    def __init__(self, shapes: bool, local: bool) -> None:
        first = [9750] * 8 if local else [13000] * 6
        first += [6500] * 13 + [0] + [6500 * shapes] * 4 + [0] * 6 * local
        self.local = local
        sets = 4 if shapes else 3
        self.weights = [defaultdict[int, list[int]](lambda: list(first)) for _ in range(sets)]
        self.final = defaultdict[int, list[int]](lambda: [65536 // sets] * sets)
        row = [SQUASH[(4096 * i + 15) // 31] for i in range(31)] + [SQUASH[4095]]
        self.cells = [defaultdict[int, list[int]](lambda: list(row)) for _ in range(2)]

    def bit(
        self, coder: Arithmetic, x: list[int], rows: tuple[int, ...], b: int, at: tuple[int, int]
    ) -> int:
        sets = [weights[row] for weights, row in zip(self.weights, rows, strict=False)]
        outputs = [
            clip(sum((a * w) >> 8 for a, w in zip(x, weights, strict=True)) >> 8, -2047, 2047)
            for weights in sets
        ]
        final = self.final[b]
        z = clip(sum(a * v for a, v in zip(outputs, final, strict=True)) >> 16, -2047, 2047)
        u = (z + 2048) * 31
        i, part = u >> 12, u & 4095
        p = 6 * SQUASH[z + 2048] + 4 if self.local else 2 * SQUASH[z + 2048] + 2
        cells = [table[place] for table, place in zip(self.cells, at, strict=True)]
        for row in cells:
            p += (row[i] * (4096 - part) + row[i + 1] * part) >> 12
        y = coder.bit(clip(p >> 3 if self.local else p >> 2, 24, 65512))
        for weights, output in zip(sets, outputs, strict=True):
            g = (3 * ((y << 16) - SQUASH[output + 2048])) >> 1
            for k, a in enumerate(x):
                weights[k] = clip(weights[k] + ((a * g + 2**15) >> 16), 1 - 2**19, 2**19 - 1)
        g = (y << 16) - SQUASH[z + 2048]
        for k, output in enumerate(outputs):
            final[k] = clip(final[k] + ((8 * output * g + 2**19) >> 20), -(2**20), 2**20)
        for row in cells:
            for cell in (i, i + 1):
                row[cell] += (65535 * y - row[cell]) >> 5
        return y


class Mixing:
    """The model of a chunk (6)."""

    def __init__(self, model: Model, planes: list[Plane], rows: int, coder: Arithmetic) -> None:
        self.model, self.planes, self.coder = model, planes, coder
        self.top = 16 * (2**model.depth - 1)
        self.q = max(0, model.depth - 8)
        channels = range(model.channels)
        self.local = model.method == 3
        self.count, self.centre = (8, 3) if self.local else (6, 0)
        self.linear = [[Linear(10, 64), Linear(12, 256)] for _ in channels]
        self.windows: list[list[Window]] = [[] for _ in channels]
        if self.local:
            sizes = (2, 0), (3, 2), (1, 1)
            self.linear = [[Linear(12, 256)] for _ in channels]
            for c in channels:
                features = len(self.features(c, 0, 0)[: self.few])
                self.windows[c] = [Window(*size, model.width, features) for size in sizes]
        self.errors = [[Errors(model.width) for _ in range(self.count)] for _ in channels]
        self.b = defaultdict[tuple[int, ...], list[int]](lambda: [0, 0])
        self.t = defaultdict[tuple[int, ...], list[int]](lambda: [0, 0])
        most = min(16, 22 - (model.channels * max(1, model.first) - 1).bit_length())
        self.lines = 2 ** clip((rows * model.width - 1).bit_length() - 1, 8, most)
        self.counters = defaultdict[tuple[int, ...], Counter](Counter)
        self.matches: dict[tuple[int, ...], Counter] = {}
        self.mixers = [Mixers(model.first > 12, self.local) for _ in channels]
        self.places = [0] * 2**16
        self.place = self.length = 0

    def expected(self, c: int) -> int:
        """The sample of a plane at the place of the match."""
        y, x = divmod(self.place, self.model.width + 6)
        return self.planes[c].rows[y - 3][x]

    def look_up(self, y: int, x: int) -> None:
        h = 0
        for plane in self.planes:
            for dy, dx in ((0, -1), (0, -2), (-1, -1), (-1, 0), (-1, 1)):
                h = hashed(h * 0x10001 + plane.at(y + dy, x + dx) + 1, 7)
        found = self.places[h % 2**16]
        self.places[h % 2**16] = (3 + y) * (self.model.width + 6) + 3 + x
        if not self.length:
            self.place, self.length = found, int(found > 0)

    def features(self, c: int, y: int, x: int) -> list[int]:
        own = [(-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-2, 1), (-1, -2), (-1, 2)]
        own += [(-2, -1), (-3, 0), (0, -3)]
        if self.model.channels == 1:
            own += [(-2, 2), (-2, -2), (-1, 3), (-1, -3), (-3, 1), (-3, -1)]
        other = [(0, 0), (-1, 0), (-1, -1), (-1, 1)]
        found = self.against_w(c, y, x, own)
        if c > 0:
            found += self.against_w(c - 1, y, x, other + [(0, -2), (-2, 0)] * (c == 1))
        if c > 1:
            found += self.against_w(c - 2, y, x, other)
        if self.model.channels >= 3 and c < 2:
            for k in range(c + 1, 3):
                found.append(self.planes[k].at(y, x - 1) - self.planes[k].at(y - 1, x))
        return found

    def against_w(self, c: int, y: int, x: int, near: list[tuple[int, int]]) -> list[int]:
        w = self.planes[c].at(y, x - 1)
        return [self.planes[c].at(y + dy, x + dx) - w for dy, dx in near]

    def predictions(self, c: int, y: int, x: int, f: list[int]) -> list[int]:
        w = self.near(c, y, x)[0]
        some = self.windows[c], f[: self.few]
        raw = [clip(16 * w + linear.sum(f), 0, self.top) for linear in self.linear[c]]
        found = [clip(16 * w + window.sum(some[1]), 0, self.top) for window in some[0]]
        raw += self.fixed(c, y, x)
        if self.local:
            raw = [raw[0], found[0], *raw[1:], *found[1:]]
            raw[3] = self.blend(c, y, x, raw)
        return raw

    @property
    def few(self) -> int:
        """Features that windows have."""
        return 12 if self.model.channels == 1 else 24

    def blend(self, c: int, y: int, x: int, raw: list[int]) -> int:
        sizes = []
        for i in range(8):
            size = self.size(c, i, y, x)
            if c > 0:
                size = (2 * size + 5 * abs(self.errors[c - 1][i].at(y, x))) >> 2
            sizes.append((size >> self.q) + 16)
        others = [i for i in range(8) if i != 3]
        least = min(sizes[i] for i in others)
        total = moved = 0
        for i in others:
            k = (least << 12) // sizes[i]
            g = ((((k * k) >> 12) * k) >> 12) * (3 if i in (0, 1, 6, 7) else 1)
            total += g
            moved += g * (raw[i] - raw[0])
        return clip(raw[0] + moved // total, 0, self.top)

    def size(self, c: int, i: int, y: int, x: int) -> int:
        e = self.errors[c][i]
        size = 2 * abs(e.at(y, x - 1)) + 2 * abs(e.at(y - 1, x)) + abs(e.at(y - 1, x - 1))
        return size + abs(e.at(y - 1, x + 1)) + abs(e.at(y, x - 2)) + abs(e.at(y - 2, x))

    def fixed(self, c: int, y: int, x: int) -> list[int]:
        w, n, nw, ne, ww, nn, nne = self.near(c, y, x)
        if c == 0:
            fixed = [
                8 * (w + n) + 4 * (ne - nw),
                16 * (n + ne - nne),
                8 * (2 * w - ww + 2 * n - nn),
            ]
            return [16 * median(w, n, nw), *(clip(p, 0, self.top) for p in fixed)]
        b0 = self.planes[c - 1].at(y, x)
        bw, bn, bnw, bne = self.near(c - 1, y, x)[:4]
        if c == 1:
            fourth = 8 * (w + n) + 4 * (ne - nw) + 16 * b0 - 8 * (bw + bn) - 4 * (bne - bnw)
        else:
            aw, an = self.near(c - 2, y, x)[:2]
            fourth = 8 * (w + n) + 8 * (2 * self.planes[c - 2].at(y, x) - aw - an)
        fixed = [
            16 * (median(w, n, nw) + b0 - median(bw, bn, bnw)),
            8 * (w + n) + 8 * (2 * b0 - bw - bn),
            fourth,
            8 * (w + n + ne - nw) + ((3 * (16 * b0 - 8 * (bw + bn + bne - bnw))) >> 2),
        ]
        return [clip(p, 0, self.top) for p in fixed]

    def near(self, c: int, y: int, x: int) -> list[int]:
        """w, n, nw, ne, ww, nn, nne"""
        places = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-2, 1))
        return [self.planes[c].at(y + dy, x + dx) for dy, dx in places]

    def sample(self, c: int, y: int, x: int) -> int:
        f = self.features(c, y, x)
        w, n, nw, ne, ww, nn, _ = self.near(c, y, x)
        for window in self.windows[c]:
            window.begin(x)
        raw = self.predictions(c, y, x, f)
        about = (raw[self.centre] + 8) >> 4
        texture = sum((v > about) << i for i, v in enumerate((w, n, nw, ne, ww, nn)))
        means, scales, kinds, b_keys, t_keys = [], [], [], [], []
        for i in range(self.count):
            size = self.size(c, i, y, x)
            if c > 0:
                size = (2 * size + 5 * abs(self.errors[c - 1][i].at(y, x))) // 3
            kind = class_of(size >> (3 + (self.q >> 1)))
            b_keys.append((c, i, texture, min(15, kind >> 1)))
            t_keys.append((c, i, kind))
            (b, count), (t, times) = self.b[b_keys[i]], self.t[t_keys[i]]
            means.append(clip(raw[i] + (b // count if count else 0), 0, self.top))
            scales.append(scale_of(4 * t // times if times else 64 + (size >> 2)))
            kinds.append(kind)
        outline, shapes = self.shapes(c, y, x, means[self.centre])
        hashes = self.hashes(c, y, x, means, kinds[self.centre], texture, shapes)
        v = self.bits(c, means, scales, kinds, texture, outline, hashes)
        for i in range(self.count):
            self.add(self.b[b_keys[i]], 16 * v - raw[i], 256)
            self.errors[c][i].rows[y % 3][x + 3] = 16 * v - means[i]
            self.add(self.t[t_keys[i]], abs(16 * v - means[i]), 1024)
        g = [(2 * value) >> self.q for value in f]
        goal = (32 * (v - w)) >> self.q
        for linear in self.linear[c]:
            linear.learn(g, goal, self.model.second)
        for window in self.windows[c]:
            window.learn(g[: self.few], goal, self.model.second)
            if x + 1 == self.model.width:
                window.end_row()
        return v

    def add(self, sums: list[int], value: int, most: int) -> None:
        sums[0] += value
        sums[1] += 1
        if sums[1] >= most:
            sums[:] = [sums[0] >> 1, sums[1] >> 1]

    def upper(self, c: int, y: int, x: int, near: list[tuple[int, int]]) -> list[int]:
        return [(self.planes[c].at(y + dy, x + dx) << 8) >> self.model.depth for dy, dx in near]

    def shapes(self, c: int, y: int, x: int, mean: int) -> tuple[int, list[int]]:
        """The outline, and the values of contexts 12 to 15."""
        six = self.upper(c, y, x, [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0)])
        ten = six + self.upper(c, y, x, [(-2, 1), (-2, -1), (-1, -2), (-1, 2)])
        all14 = ten + self.upper(c, y, x, [(0, -3), (-3, 0), (-2, 2), (-2, -2)])
        levels = [(u > 0) + (u > 84) + (u > 200) for u in ten]
        o = (mean + 8) >> 4
        halves = digits([u >> 7 for u in all14], 1) << 4 | (o << 8 >> self.model.depth) >> 4
        outline, eighths = digits(levels[:6], 2), digits([u >> 5 for u in six], 3)
        sixteenths = digits([u >> 4 for u in six], 4)
        if not c:
            return outline, [halves, digits(levels, 2), eighths, sixteenths]
        b0, (bw, bn) = self.planes[c - 1].at(y, x), self.near(c - 1, y, x)[:2]
        slopes = (((b0 - bw) >> 1) & 0x1FFFF) << 17 | ((b0 - bn) >> 1) & 0x1FFFF
        shapes = [halves, digits(levels, 2) << 16 | b0, o << 34 | slopes, sixteenths << 16 | b0]
        return outline, shapes

    def hashes(
        self,
        c: int,
        y: int,
        x: int,
        means: list[int],
        kind: int,
        texture: int,
        shapes: list[int],
    ) -> list[int]:
        w, n, nw, ne, ww, nn, _ = self.near(c, y, x)
        about = means[self.centre]
        o = [(mean + 8) >> 4 for mean in (about, *means[1:])]
        b0 = self.planes[c - 1].at(y, x) if c else 0
        e = self.errors[c][self.centre]
        beside = self.step(self.errors[c - 1][self.centre].at(y, x)) if c else 0
        if c > 1:
            ninth = b0 << 16 | self.planes[c - 2].at(y, x)
        else:
            ninth = b0 << 34 | ((2 * w - ww) & 0x1FFFF) << 17 | (2 * n - nn) & 0x1FFFF
        eighth = (((b0 >> 2) << 14 | w >> 2) << 14 | n >> 2) << 22 ^ (ne >> 2) << 14 ^ nw >> 2
        steps = self.step(e.at(y, x - 1)) << 8 | self.step(e.at(y - 1, x)) << 4 | beside
        values = [
            about >> 2,
            o[0] << 6 | kind,
            o[0] << 16 | o[1],
            o[0] << 16 | w,
            o[0] << 16 | n,
            b0 << 32 | w << 16 | n,
            o[2] << 16 | (b0 if c else ne),
            o[0] << 12 | texture << 6 | kind >> 1,
            eighth,
            ninth,
            o[0] << 16 | steps,
            o[3] << 16 | o[4],
            *shapes,
        ]
        return [hashed(value, i) for i, value in enumerate(values[: self.model.first])]

    def step(self, e: int) -> int:
        return clip(e >> (5 + self.q), -7, 7) + 8

    def bits(
        self,
        c: int,
        means: list[int],
        scales: list[int],
        kinds: list[int],
        texture: int,
        outline: int,
        hashes: list[int],
    ) -> int:
        low, node, slot = 0, 1, 1
        below, above = [0] * self.count, [2**22] * self.count
        expected = self.expected(c) if self.length else 0
        depth = self.model.depth
        for b in range(depth - 1, -1, -1):
            if (depth - 1 - b) % 4 == 0:
                lines = [hashed(h, node) % self.lines for h in hashes]
                slot = 1
            middle = low + 2**b
            x, shares = [], []
            for i in range(self.count):
                u = ((16 * middle - 8 - means[i]) * INVERSE[scales[i]]) >> 16
                u = clip(u + 65536, 0, 131071)
                table, j = NARROW if i % 2 else WIDE, u >> 8
                share = table[j] + (((table[j + 1] - table[j]) * (u & 255)) >> 8)
                share = clip(share, below[i], above[i])
                shares.append(share)
                whole, p = above[i] - below[i], 2048
                if whole > 8:
                    p = ((above[i] - share) * 4095 + (whole >> 1)) // whole
                x.append(STRETCH[p])
            counters = [self.counters[c, i, line, slot] for i, line in enumerate(lines)]
            for counter in counters:
                trust = TRUST[counter.c] if counter.c < 16 else 256
                x.append((STRETCH[counter.p >> 10] * trust) >> 8)
            x += [0] * (self.count + 16 - len(x))
            guess = (expected >> b) & 1
            fits = self.length > 0 and expected >> (b + 1) == low >> (b + 1)
            first = Counter(2**21 + (self.length << 16))
            match = self.matches.setdefault((c, self.length, b), first)
            said = STRETCH[match.p >> 10] if fits else 0
            match_at = self.count + 12
            x[match_at:] = [said if guess else -said, 256, *x[match_at:], *[0] * 6 * self.local]
            kind, about = kinds[self.centre], (means[self.centre] + 8) >> 4
            rows = min(255, node), b << 8 | kind, b << 8 | texture, outline
            off = clip((middle - about) >> self.q, -128, 127)
            at = kind << 16 | off & 0xFFFF, (b << 6 | texture) << 4 | min(15, kinds[2] >> 1)
            y = self.mixers[c].bit(self.coder, x, rows, b, at)
            for counter in counters:
                counter.update(y)
            if fits:
                match.update(int(y == guess))
            (below if y else above)[:] = shares
            low += y << b
            node, slot = 2 * node + y, 2 * slot + y
        return low


def mixed(model: Model, payload: bytes, planes: list[Plane], rows: int) -> None:
    coder = Arithmetic(payload)
    mixing = Mixing(model, planes, rows, coder)
    for y in range(rows):
        for errors in mixing.errors:
            for e in errors:
                e.begin(y)
        for x in range(model.width):
            mixing.look_up(y, x)
            right = mixing.length > 0
            for c, plane in enumerate(planes):
                if x == 0:
                    plane.begin(y)
                expected = mixing.expected(c)
                v = mixing.sample(c, y, x)
                plane.put(y, x, v)
                right = right and v == expected
            mixing.place += 1
            mixing.length = min(mixing.length + 1, 15) if right else 0
        if coder.at > len(payload):
            fail("the stream is used up")
    if coder.at != len(payload):
        fail("bytes after the stream")
