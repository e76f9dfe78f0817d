"""A slow decoder of sound by a cascade, after docs/format/audio.md, sections 7 to 9.

Without bounds that nothing reaches: r of section 7.2 is -39 to 15, what roots are taken of is below
2^62. Nor is the least W of section 9, at and below which E is 0 wherever it is not 2^30.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from reference.arithmetic import RATE, Arithmetic, clip
from reference.reading import fail

SETTINGS = (
    (16, 8, 64, ((32, 8389), (16, 8389))),
    (16, 16, 8, ((1024, 10486), (256, 8389), (32, 8389), (16, 8389))),
)
SHIFTS = [0] * 6 + [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7] + list(range(8, 28, 2))
MOST = 2**24 - 1
ONE = 2**30
KINDS = "uu", "zz", "uz", "zu"  # of sums


def signed(x: int, bits: int) -> int:
    """x modulo 2^bits, with a sign."""
    x %= 1 << bits
    return x - (1 << bits) if x >> (bits - 1) else x


def shifted(x: int, left: int) -> int:
    return x << left if left >= 0 else x >> -left


def exp_minus(z: int) -> int:
    from reference.audio import exp_minus as found

    return found(z)


def scaled(s: int, e: int, m: int) -> int:
    return clip(s >> (e - 30), -m, m) if e >= 30 else clip(clip(s, -m, m) << (30 - e), -m, m)


def level(v: int) -> int:
    v = max(v, 1)
    b = v.bit_length()
    return 4 * (b - 1) + ((4 * v >> (b - 1)) & 3)


class Sums:
    """Sums of products (8)."""

    def __init__(self) -> None:
        self.kept: list[list[int]] = []

    def take(self, first: int, others: Sequence[int], g: int) -> None:
        old = self.kept[0] if self.kept else [0] * 33
        row = [o - (o >> 9) + ((first * x) << g) for o, x in zip(old, others, strict=False)]
        self.kept = [row, *self.kept[:31]]

    def at(self, ago: int, lag: int) -> int:
        return self.kept[ago][lag] if ago < len(self.kept) else 0


class Stage:
    """An adaptive filter (7.3, 7.6)."""

    def __init__(self, taps: int, rate: int) -> None:
        self.taps, self.rate = taps, rate
        self.line, self.weights = [0] * taps, [0] * taps
        self.share = 2**16

    def say(self) -> int:
        total = sum(map(int.__mul__, self.weights, self.line))
        return clip(total >> 24, -MOST, MOST)

    def learn(self, left: int, given: int, f: int) -> None:
        size = sum(h * h for h in self.line) + ((self.taps << 2 * f) >> 3) + 1
        b = size.bit_length()
        step = ((left * self.rate) << 24) // shifted(size, 31 - b)
        step = clip(shifted(step, min(41 - b, 28)), 1 - 2**31, 2**31 - 1)
        self.weights = [
            clip(w + ((step * h + 2**29) >> 30), -(2**27), 2**27)
            for w, h in zip(self.weights, self.line, strict=True)
        ]
        self.line = [given, *self.line[:-1]]


@dataclass
class Channel:
    """What a channel has learned."""

    own: int
    other: int
    stages: list[Stage]
    averages: list[int]
    sums: dict[str, Sums] = field(default_factory=lambda: {k: Sums() for k in KINDS})
    v: list[int] = field(default_factory=lambda: [0] * 32)
    d: int = 0
    last: list[int] = field(default_factory=lambda: [0, 0])

    def linear(self, u: list[int], z: list[int], f: int) -> int:
        found = sum(a * b for a, b in zip(self.v[: self.own], u, strict=False)) >> (24 - f)
        more = sum(a * b for a, b in zip(self.v[self.own :][: self.other], z, strict=False))
        more = clip(more >> 8, -(2**42), 2**42)
        return found + shifted(more, self.d - (16 - f)) if self.other else found

    def solve(self, x: int, u: list[int], z: list[int], g: int) -> None:
        """The weights (8)."""
        uu, zz, uz, zu = (self.sums[kind] for kind in KINDS)
        own, n = self.own, self.own + self.other
        ridge = 2 ** (g + 9)
        most = [
            max([0, *(s.at(j, 0) for j in range(count))]) + ridge
            for s, count in ((uu, own), (zz, self.other))
        ]
        eo, ex = ((m.bit_length() + 1) // 2 for m in most)
        m = [[0] * n for _ in range(n)]
        for i in range(n):
            for j in range(i, n):
                if j < own:
                    m[i][j] = scaled(uu.at(i, j - i), 2 * eo, ONE)
                elif i >= own:
                    m[i][j] = scaled(zz.at(i - own, j - i), 2 * ex, ONE)
                else:
                    k = j - own
                    s = uz.at(i, k - i) if k >= i else zu.at(k, i - k)
                    m[i][j] = scaled(s, eo + ex, ONE)
            m[i][i] += scaled(ridge, 2 * eo if i < own else 2 * ex, ONE) + 4
        factor, roots = decomposed(m)
        y: list[int] = []
        for j in range(n):
            b, q = (uu.at(0, j + 1), u[j]) if j < own else (uz.at(0, j - own + 1), z[j - own])
            b = b - (b >> 9) + ((x * q) << g)
            total = signed(sum(y[k] * factor[j][k] for k in range(j)), 64)
            right = scaled(b, 2 * eo if j < own else eo + ex, 2**31)
            y.append(clip(signed((right << 30) - total, 64) // roots[j], -(2**31), 2**31))
        for j in reversed(range(n)):
            total = signed(sum(factor[i][j] * self.v[i] for i in range(j + 1, n)), 64)
            value = signed((y[j] << 24) - total, 64) // roots[j]
            self.v[j] = clip(value, 1 - 2**31, 2**31 - 1)
        self.d = eo - ex


def decomposed(m: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """L and R (8)."""
    n = len(m)
    factor = [[0] * n for _ in range(n)]
    roots: list[int] = []
    for j in range(n):
        t = [sum(factor[i][k] * factor[j][k] for k in range(j)) for i in range(n)]
        roots.append(math.isqrt(max(signed(ONE * m[j][j] - t[j], 64), 2**34)))
        b = roots[j].bit_length()
        inverse = 2 ** (30 + b) // roots[j]
        for i in range(j + 1, n):
            value = clip(signed(ONE * m[j][i] - t[i], 64) >> b, -ONE, ONE)
            factor[i][j] = clip(value * inverse >> 30, -ONE, ONE)
    return factor, roots


class Counters:
    """Counters of all sets, and decisions (9)."""

    def __init__(self, stream: Arithmetic, f: int) -> None:
        self.stream, self.f = stream, f
        self.found: dict[tuple[int, int, int], list[int]] = {}

    def first(self, m: int, node: int) -> list[int]:
        if node < 2:
            return [2**21, 0]
        k = (node - 2) >> 1
        unit = max(0, (m >> 2) - 1 - self.f)
        sizes = [1 << min(25, unit + t) for t in SHIFTS[: k + 1]]
        w = (4 | m & 3) << (m >> 2)
        e0, e1 = (
            exp_minus(min(2**21, (edge << self.f) * 363408 // w))
            for edge in (sum(sizes[:k]), sum(sizes))
        )
        share = e1 * (2**30 + e0) // max(1, (e0 * (2**30 + e1)) >> 22)
        return [clip(2**22 - share, 20971, 2**22 - 20971), 16]

    def decide(self, contexts: Sequence[int], node: int) -> int:
        three = []
        for i, context in enumerate(contexts):
            key = i, context, node
            if key not in self.found:
                self.found[key] = self.first(context >> 5, node)
            three.append(self.found[key])
        y = self.stream.bit(clip(sum(p for p, _ in three) // 192, 64, 65472))
        for counter in three:
            p, count = counter
            counter[:] = p + (((y * (2**22 - 1) - p) * RATE[count]) >> 16), min(count + 1, 250)
        return y


def error_of(counters: Counters, channel: Channel, predicted: int) -> int:
    """An error (9)."""
    f = counters.f
    fast, m, slow = (level(a >> 4) for a in channel.averages)
    last = sum(level(1 + a) for a in channel.last)
    unit = max(0, (m >> 2) - 1 - f)
    part = shifted((predicted + 2**f // 2) % 2**f, 5 - f)
    negative = 1 - counters.decide((32 * m + (part if unit < 3 else 0), 32 * fast, 32 * m), 0)
    parts = fast - m, (last - 2 * m) >> 2, slow - m
    contexts = [32 * m + clip(part + 16, 0, 31) for part in parts]
    low = 0
    for k in range(30):
        bits = min(25, unit + SHIFTS[k])
        if k == 29 or counters.decide(contexts, 2 * k + 2 + negative):
            break
        low += 1 << bits
    place = 0
    for _ in range(bits):
        place = place << 1 | counters.stream.bit(2**15)
    return -(low + place) - 1 if negative else low + place


def by_cascade(
    channels: int, depth: int, setting: int, payload: bytes, count: int
) -> list[list[int]]:
    """The coded samples of each channel (7)."""
    if not payload or payload[0] > (channels == 2):
        fail("the first channel")
    first = payload[0]
    own, other, every, stages = SETTINGS[setting]
    if channels == 1:
        own, other = own + other, 0
    f, g = min(8, 24 - depth), min(16, 54 - 2 * depth)
    stream = Arithmetic(payload[1:])
    counters = Counters(stream, f)
    state = [
        Channel(own, other, [Stage(*stage) for stage in stages], [(1024 << f) >> 8] * 3)
        for _ in range(channels)
    ]
    x: list[list[int]] = [[] for _ in range(channels)]
    order = [first, 1 - first] if channels == 2 else list(range(channels))
    for i in range(count):
        for c in order:
            partner, b = (1, 1) if c == 0 else (c - 1, 0)
            if channels == 2:
                partner, b = 1 - c, int(c == first)
            u = before(x[c], i)
            z = before(x[partner], i - b + 1) if channels > 1 else [0]
            sample(state[c], counters, x[c], u, z, (depth, f, g))
            if i % every == 0:
                state[c].solve(x[c][-1], u, z, g)
    if stream.at != len(payload) - 1:
        fail("the chunk does not end with its last sample")
    return x


def before(x: list[int], i: int) -> list[int]:
    """The 33 samples before the one of number i."""
    return [x[i - 1 - j] if i - 1 - j >= 0 else 0 for j in range(33)]


def sample(
    s: Channel,
    counters: Counters,
    x: list[int],
    u: list[int],
    z: list[int],
    sizes: tuple[int, int, int],
) -> None:
    """Decodes a sample (7)."""
    depth, f, g = sizes
    for kind, (a, b) in zip(KINDS, ((u, u), (z, z), (u, z), (z, u)), strict=True):
        s.sums[kind].take(a[0], b, g)
    low, high = -(2 ** (depth - 1 + f)), 2 ** (depth - 1 + f) - 2**f
    plain = clip(s.linear(u, z, f), low, high)
    said = [stage.say() for stage in s.stages]
    total = sum(stage.share * p for stage, p in zip(s.stages, said, strict=True))
    predicted = clip(plain + (total >> 16), low, high)
    centre = (predicted + 2**f // 2) >> f
    x.append(signed(centre + error_of(counters, s, predicted), depth))
    exact = x[-1] << f
    error = exact - predicted
    power = (s.averages[1] >> 4) ** 2 + 2 ** (2 * f) + sum(p * p for p in said)
    given = clip(exact - plain, -MOST, MOST)
    for stage, p in zip(s.stages, said, strict=True):
        left = clip(given - p, -MOST, MOST)
        stage.learn(left, given, f)
        move = ((error * p // ((power >> 16) + 1)) * 655) >> 16
        stage.share = clip(stage.share + move, -(2**18), 2**18)
        given = left
    for k, shift in enumerate((3, 5, 8)):
        s.averages[k] += ((abs(error) << 4) - s.averages[k]) >> shift
    s.last = [abs(error), s.last[0]]
