"""A slow decoder of sound, after docs/format/audio.md and nothing else."""

import decimal
import functools
import struct
from dataclasses import dataclass
from decimal import Decimal

from reference import flac, rans
from reference.audio_cascade import SETTINGS, by_cascade
from reference.reading import Cursor, decode_zstd, fail

CODEC = 12
LANES = 16
SCALES = 44
QUARTERS = (65536, 77936, 92682, 110218)


def signed(x: int, bits: int) -> int:
    """x modulo 2^bits, with a sign."""
    x %= 1 << bits
    return x - (1 << bits) if x >> (bits - 1) else x


def unfolded(u: int) -> int:
    return -(u >> 1) - 1 if u & 1 else u >> 1


@dataclass(frozen=True)
class Model:
    """A MODEL frame (1)."""

    channels: int
    size: int
    flags: int
    depth: int
    shift: int
    values: tuple[int, ...]
    contexts: list[int]  # none of a cascade
    setting: int

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        count, rest = divmod(original, self.channels * self.size)
        if rest or not count:
            fail("no whole instants")
        if self.contexts:
            channels = by_lanes(self, payload, count)
        else:
            channels = by_cascade(self.channels, self.depth, self.setting, payload, count)
        return b"".join(self.sample(c[i]) for i in range(count) for c in channels)

    def sample(self, c: int) -> bytes:
        """The bytes of a coded sample."""
        order = "big" if self.flags & 1 else "little"
        if self.flags & 4:
            if abs(c) > 2**24:
                fail("a number that is no float")
            return struct.pack(">f" if self.flags & 1 else "<f", c * 2.0**-self.shift)
        if self.values:
            c = self.values[min(c + (1 << (self.depth - 1)), len(self.values) - 1)]
        else:
            c <<= self.shift
        if self.flags & 2:
            c += 1 << (8 * self.size - 1)
        c %= 1 << (8 * self.size)
        return c.to_bytes(self.size, "big" if order == "big" else "little")


@dataclass(frozen=True)
class Flac:
    """A MODEL frame of FLAC files (10)."""

    depth: int
    samples: Model

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """CHUNK."""
        model = self.samples
        count, said, tail, rest = flac.parse_said(payload, model.channels, model.size, original)
        data = model.decode(rest, count * model.channels * model.size)
        wide = [
            signed(int.from_bytes(data[at : at + model.size], "little"), 8 * model.size)
            for at in range(0, len(data), model.size)
        ]
        channels = [wide[c :: model.channels] for c in range(model.channels)]
        made = flac.frames(channels, self.depth, said) + tail
        if len(made) != original or any(said.parts.values()):
            fail("frames of another length")
        return made


def parse_model(payload: bytes) -> "Model | Flac":
    """MODEL (1, 10)."""
    if payload[1:2] != b"\2":
        return parse_samples(payload)
    if len(payload) < 3:
        fail("a model that is too short")
    depth, model = payload[2], parse_samples(payload[3:])
    if depth not in (8, 12, 16, 20, 24) or model.channels > 8 or model.flags & 7:
        fail("samples that FLAC does not have")
    if model.size != (depth + 7) // 8:
        fail("samples that FLAC does not have")
    return Flac(depth, model)


def parse_samples(payload: bytes) -> Model:
    """MODEL of samples (1)."""
    cursor = Cursor(payload)
    _, method, channels, size, flags, depth, places, setting, _ = cursor.fields("<8BI")
    if method > 1 or setting >= (len(SETTINGS) if method else 1):
        fail("method")
    if flags > 15 or not 1 <= channels <= 32 or not 1 <= size <= 4:
        fail("sizes")
    if (flags & 1 and size == 1) or (flags & 4 and (flags & 2 or size != 4 or places > 63)):
        fail("samples")
    if not 1 <= depth <= 8 * size - (0 if flags & 4 else places) or (method and depth > 24):
        fail("bits")
    values: tuple[int, ...] = ()
    if flags & 8:
        if flags & 4 or size > 2 or places:
            fail("values")
        least, count, packed = cursor.fields("<iHI")
        if abs(least) > 65536 or count > 8192:
            fail("values")
        bitmap = decode_zstd(cursor.take(packed), count)
        values = tuple(least + i for i in range(8 * count) if bitmap[i >> 3] >> (i & 7) & 1)
        if not values:
            fail("no values")
    contexts = [] if method else contexts_of(cursor)
    cursor.finish()
    return Model(channels, size, flags, depth, places, values, contexts, setting)


class Bits:
    """A string of bits."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> int:
        if self.at + count > 8 * len(self.data):
            fail("too few bits")
        found = 0
        for i in range(count):
            found |= (self.data[self.at >> 3] >> (self.at & 7) & 1) << i
            self.at += 1
        return found

    def golomb(self, order: int) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 20:
                fail("a number that is too long")
        high = self.take(zeros) | 1 << zeros
        return (high - 1) << order | self.take(order)

    def finish(self) -> None:
        left = 8 * len(self.data) - self.at
        if left >= 8 or self.take(left):
            fail("bits are left")


def contexts_of(cursor: Cursor) -> list[int]:
    """Contexts (5)."""
    found = []
    for i in range(256):
        v = i >> 1
        scale = v - 4 * max(0, (v >> 2) - 9) - 8
        found.append(3 * min(max(scale, 0), SCALES - 1))
    first, last = cursor.u8(), cursor.u8()
    bits = Bits(cursor.all())
    for i in range(first, last + 1):
        shape = bits.golomb(0)
        scale = found[i] // 3 + unfolded(bits.golomb(1))
        if shape > 2 or not 0 <= scale < SCALES:
            fail("a distribution that there is not")
        found[i] = 3 * scale + shape
    bits.finish()
    return found


@functools.cache
def powers() -> list[int]:
    with decimal.localcontext(prec=60):
        return [
            int(((-(Decimal(2) ** (i - 16))).exp() * 2**30).to_integral_value()) for i in range(21)
        ]


def exp_minus(z: int) -> int:
    if z >= 1 << 21:
        return 0
    f = 1 << 30
    for i in range(21):
        if z >> i & 1:
            f = (f * powers()[i]) >> 30
    return f


@functools.cache
def frequencies(d: int) -> list[int]:
    """Distributions (4)."""
    scale, shape = divmod(d, 3)
    m = QUARTERS[scale % 4] << (scale // 4)
    shares = []
    for u in range(136):
        size, width = (u + 1) >> 1, 1
        if u >= 128:
            o = ((u - 128) >> 2) + 5
            begin = (4 | u & 3) << o
            size, width = (2 * begin + (1 << o)) >> 2, 1 << o
        r = min((size << 36) // m, 1 << 22)
        if shape == 0:
            share = exp_minus((r * r >> 16) * 20861 >> 16)
        elif shape == 1:
            e = exp_minus(r * 90852 >> 16)
            share = (e << 30) // ((2**30 + e) ** 2 >> 30)
        else:
            share = exp_minus(r)
        shares.append(share * width)
    found = [(8188 * share // sum(shares) + 1) >> 1 for share in shares]
    found[found.index(max(found))] += 4094 - sum(found)
    return found + [0] * 119 + [2]


@dataclass(frozen=True)
class Weights:
    shift: int
    own: list[int]
    other: list[int]


def weights_of(
    model: Model, data: bytes, blocks: int, most: tuple[int, int]
) -> list[list[Weights]]:
    """Weights of all blocks and channels (3)."""
    bits = Bits(data)
    found: list[list[Weights]] = []
    for _ in range(blocks):
        found.append([])
        for _ in range(model.channels):
            shift = bits.take(4)
            lists: list[list[int]] = []
            for limit in most:
                size, order = bits.take(6), 9
                weights: list[int] = []
                if size > 32:
                    fail("too many weights")
                for _ in range(size):
                    u = bits.golomb(order)
                    if u >= 2**21:
                        fail("a weight that is too large")
                    weights.append(unfolded(u))
                    order = (order + (u >> 1).bit_length() + 1) >> 1
                if any(weights[limit:]):
                    fail("more weights than there may be")
                lists.append(weights)
            if sum(abs(w) for w in lists[0] + lists[1]) >= 1 << (16 if model.depth <= 16 else 20):
                fail("weights that are too large")
            found[-1].append(Weights(shift, *lists))
    bits.finish()
    return found


class States:
    """rANS of lanes, and the words."""

    def __init__(self, cursor: Cursor) -> None:
        self.states = list(cursor.fields("<16I"))
        if min(self.states) < rans.FIRST:
            fail("a state below 2^16")
        self.words = cursor.all()
        self.at = 0

    def fill(self) -> None:
        """Lanes that are below 2^16 take a word each."""
        for lane, x in enumerate(self.states):
            if x < rans.FIRST:
                if self.at + 2 > len(self.words):
                    fail("too few words")
                self.states[lane] = x << 16 | int.from_bytes(self.words[self.at :][:2], "little")
                self.at += 2

    def tokens(self, distributions: list[int]) -> list[int]:
        found = []
        for lane, d in enumerate(distributions):
            owners, firsts, freqs = slots(d)
            x = self.states[lane]
            token = owners[x % 4096]
            self.states[lane] = freqs[token] * (x >> 12) + x % 4096 - firsts[token]
            found.append(token)
        self.fill()
        return found

    def raw(self, counts: list[int]) -> list[int]:
        found = []
        for lane, n in enumerate(counts):
            found.append(self.states[lane] % (1 << n))
            self.states[lane] >>= n
        self.fill()
        return found


@functools.cache
def slots(d: int) -> tuple[list[int], list[int], list[int]]:
    return rans.slots(frequencies(d))


class Lane:
    """Averages of a channel's lane (6)."""

    def __init__(self, level: int) -> None:
        v = level >> 1
        self.fast = self.slow = ((4 | v & 3) << (v >> 2)) >> 2

    def context(self, depth: int) -> tuple[int, int]:
        """The context and k."""
        f = (self.fast + self.slow) >> 1 | 1
        spare = max(0, f.bit_length() - 24)
        if spare:
            half, low = 1 << (spare - 1), f % (1 << spare)
            f >>= spare
            f += low > half or (low == half and f & 1)
            f <<= spare
        h = f.bit_length() - 1
        v = 4 * h + ((4 * f >> h) & 3)
        return 2 * v + (self.slow < self.fast), max(0, h + max(0, depth - 24) - 9)

    def learn(self, e: int, depth: int) -> None:
        a = (abs(e) >> max(0, depth - 24)) << 6
        self.fast += (a - self.fast) >> 4
        self.slow += (a - self.slow) >> 7


def by_lanes(model: Model, payload: bytes, count: int) -> list[list[int]]:
    """The coded samples of each channel (2)."""
    cursor, channels, depth = Cursor(payload), model.channels, model.depth
    logarithm, first, p, q, size = cursor.fields("<BBBBI")
    if not 8 <= logarithm <= 20 or first > (channels == 2) or max(p, q) > 32:
        fail("sizes")
    if channels == 1 and q:
        fail("weights of no partner")
    levels = cursor.take(channels)
    if max(levels) >= 240:
        fail("levels")
    width = -(-depth // 8)
    x: list[list[list[int]]] = [[[] for _ in range(LANES)] for _ in range(channels)]
    for c in range(channels):
        for lane in range(LANES):
            value = int.from_bytes(cursor.take(width), "little", signed=True)
            if signed(value, depth) != value:
                fail("a first sample of too many bits")
            x[c][lane] = [value]
    blocks = max(1, count >> logarithm)
    weights = weights_of(model, cursor.take(size), blocks, (p, q))
    states = States(cursor)
    lanes = [[Lane(level) for _ in range(LANES)] for level in levels]
    steps = -(-count // LANES)
    order = [first, 1 - first] if channels == 2 else list(range(channels))
    for t in range(1, steps):
        for c in order:
            errors = errors_of(model, lanes[c], states)
            for lane in range(LANES):
                block = min((lane * steps + t) >> logarithm, blocks - 1)
                found = predicted(x, c, lane, t, weights[block][c], first) + errors[lane]
                x[c][lane].append(signed(found, depth))
                lanes[c][lane].learn(errors[lane], depth)
    if states.at != len(states.words) or set(states.states) != {rans.FIRST}:
        fail("the chunk does not end with its last sample")
    return [[s for lane in channel for s in lane][:count] for channel in x]


def predicted(
    x: list[list[list[int]]], c: int, lane: int, t: int, weights: Weights, first: int
) -> int:
    """Prediction (3)."""
    partner, behind = (1, 1) if c == 0 else (c - 1, 0)
    if len(x) == 2:
        partner, behind = 1 - c, int(c == first)
    total = sum(w * x[c][lane][max(0, t - 1 - i)] for i, w in enumerate(weights.own))
    if len(x) > 1:
        there = x[partner][lane]
        total += sum(w * there[max(0, t - behind - i)] for i, w in enumerate(weights.other))
    return total >> weights.shift


def errors_of(model: Model, lanes: list[Lane], states: States) -> list[int]:
    """The errors of a step (6)."""
    depth = model.depth
    contexts = [lane.context(depth) for lane in lanes]
    tokens = states.tokens([model.contexts[context] for context, _ in contexts])
    counts = []
    for token, (_, k) in zip(tokens, contexts, strict=True):
        extra = 0 if token < 128 else (token >> 2) - 27
        counts.append(depth if token == 255 else min(31, k + extra))
    if depth > 16:
        low = states.raw([min(n, 16) for n in counts])
        high = states.raw([n - min(n, 16) for n in counts])
        raw = [a | b << 16 for a, b in zip(low, high, strict=True)]
    else:
        raw = states.raw(counts)
    found = []
    for token, n, r, (_, k) in zip(tokens, counts, raw, contexts, strict=True):
        e = r
        if token != 255:
            y = token if token < 128 else 4 | token & 3
            y = (y << (n - k) | r >> k) % 2**32
            e = unfolded(y) << k | r % (1 << k)
        found.append(signed(e, depth))
    return found
