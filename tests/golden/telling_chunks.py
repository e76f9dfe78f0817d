"""Chunks that no encoder makes, of images, sound and circuits: candidates for `make_telling.py`.

A stream of random bytes takes a decoder to places to which no data of ours does. Where a chunk
has to end with its stream, the stream is cut behind what was taken; where states of rANS have to
end at their first value, symbols are drawn first and coded afterwards.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import zstandard
from circuits import any_circuit
from codec_cases import CodecCase
from reference import audio, circuit, codecs, image, rans
from reference.arithmetic import Arithmetic
from reference.reading import Refused

from densor.codec.circuit.model import Size, pack

Made = Iterator[CodecCase]


def streams(rng: Random, size: int) -> Iterator[bytes]:
    """Codes of several kinds, one of each."""
    yield rng.randbytes(size)
    yield bytes(rng.choices((0, 0, 0, 1, 3, 255), k=size))
    yield bytes(rng.choices((255, 255, 254, 252, 0), k=size))
    yield b"".join(rng.choice((b"\0", b"\xff")) * rng.randrange(1, 20) for _ in range(size))[:size]


@contextmanager
def made(kind: type) -> Iterator[list[Any]]:
    """The objects of a class that are made meanwhile."""
    found: list[Any] = []
    first = kind.__init__  # type: ignore[misc]

    def init(self: Any, *arguments: Any) -> None:
        found.append(self)
        first(self, *arguments)

    with mock.patch.object(kind, "__init__", init):
        yield found


def cut(case: CodecCase, head: int, kind: type = Arithmetic) -> CodecCase | None:
    """A case whose stream, behind `head` bytes, is as long as what it decodes to takes."""
    with made(kind) as coders, suppress(Refused):
        codecs.parse_model(case.model).decode(case.payload, case.size)
    if not coders or head + coders[-1].at > len(case.payload):
        return None
    payload = case.payload[: head + coders[-1].at]
    return replace(case, payload=payload) if len(payload) <= case.size else None


class Drawn:
    """Stands for the states of rANS: symbols by chance, which are coded at the end."""

    def __init__(self, rng: Random, count: int) -> None:
        self.rng = rng
        self.states, self.words, self.position, self.at = [rans.FIRST] * count, b"", 0, 0
        self.taken: list[tuple[int, int, int]] = []  # state, first of 4096 or value, frequency
        self.bits: list[int] = []  # of values; 0 for symbols

    def token(self, i: int, row: tuple[list[int], list[int], list[int]]) -> int:
        owners, firsts, freqs = row
        some = [symbol for symbol, count in enumerate(freqs) if count]
        every = self.rng.random() < 0.3
        symbol = self.rng.choice(some) if every else owners[self.rng.randrange(4096)]
        self.taken.append((i, firsts[symbol], freqs[symbol]))
        self.bits.append(0)
        return symbol

    def low(self, i: int, count: int) -> int:
        value = self.rng.getrandbits(count) if count else 0
        self.taken.append((i, value, 0))
        self.bits.append(count)
        return value

    def tokens(self, distributions: list[int]) -> list[int]:
        return [self.token(lane, audio.slots(d)) for lane, d in enumerate(distributions)]

    def raw(self, counts: list[int]) -> list[int]:
        return [self.low(lane, count) for lane, count in enumerate(counts)]

    def code(self) -> bytes:
        """First states, then words."""
        states, words = list(self.states), []
        for (i, first, frequency), count in zip(
            reversed(self.taken), reversed(self.bits), strict=True
        ):
            limit = frequency << 20 if frequency else 1 << (32 - count)
            if states[i] >= limit:
                words.append(states[i] & 0xFFFF)
                states[i] >>= 16
            x = states[i]
            if frequency:
                states[i] = (x // frequency << 12) + x % frequency + first
            else:
                states[i] = x << count | first
        return struct.pack(f"<{len(states)}I", *states) + b"".join(
            word.to_bytes(2, "little") for word in reversed(words)
        )


# Images

Head = tuple[int, int, int, int, int, int, int, int, int, int]
Sizes = tuple[tuple[int, int], ...]


def images(rng: Random) -> Made:
    """All methods; few rows, of one to four channels."""
    yield from image_heads(rng)
    yield from _any_images("telling-image", 120, ((1, 3), (3, 7), (5, 5), (9, 3), (4, 12)), rng)


def small_images(rng: Random) -> Made:
    """Of some pixels, which take the slow decoder little time."""
    yield from _any_images("telling-image-small", 90, ((1, 2), (3, 2), (3, 4), (5, 3)), rng)


def _any_images(name_of_all: str, count: int, sizes: Sizes, rng: Random) -> Made:
    """Heads by chance, streams of all kinds; `sizes`: width and rows."""
    for number in range(count):
        method = (1, 2, 0)[number % 3]
        channels, wide = rng.choice((1, 1, 2, 3, 3, 4)), rng.random() < 0.4
        flags = rng.choice((1, 3)) if wide else rng.choice((0, 0, 0, 4))
        shift = rng.choice((0, 0, 3)) if flags != 4 else 0
        depth = rng.choice((8 + 8 * wide - shift, rng.randrange(1, 9 + 8 * wide - shift)))
        colour = 0 if channels < 3 else rng.choice((0, 4) if method else (0, 1, 2, 3, 4))
        width, rows = rng.choice(sizes)
        padding = rng.choice((0, 0, 2)) if flags != 4 else 0
        first = (rng.choice((1, 2, 4, 16)), rng.choice((1, 5, 9, 11, 12)), 0)[method]
        second = rng.randrange(0, 9) if method == 0 else rng.choice((0, 1, 3, 32))
        head = method, channels, flags, depth, colour, first, second, padding, shift, width
        values = rng.randbytes(32) if flags == 4 else b""
        name = f"{name_of_all}-{number}"
        if method == 0:
            case = by_gradients(name, head, values, rows, rng)
            if case is not None:
                yield case
            continue
        for kind, code in enumerate(streams(rng, 4000)):
            model = struct.pack("<10BI", 11, *head) + values
            size = rows * (width * channels * (1 + wide) + padding)
            found = cut(CodecCase(f"{name}-{kind}", model, code, size), 0)
            if found is not None:
                yield found


def image_heads(rng: Random) -> Made:
    """Fields of heads at their bounds, one chunk of one row each."""
    plain = [1, 1, 0, 8, 0, 1, 0, 0, 0, 3]
    edges = (
        (0, (2, 3)),
        (1, (0, 1, 2, 3, 4, 64, 65)),
        (2, (1, 2, 3, 4, 5, 7, 8, 12, 16)),
        (3, (0, 1, 9, 16)),
        (4, (1, 4, 5)),
        (5, (0, 1, 2, 12, 13, 16, 17)),
        (6, (8, 9, 32, 33)),
        (7, (1, 255)),
        (8, (1, 7, 8)),
        (9, (0, 1, 2)),
    )
    for method, zoom in (
        (1, b""),
        (2, b""),
        (1, b"\2\3"),
        (1, b"\1\1"),
        (1, b"\x10\1"),
        (2, b"\x11\2"),
    ):
        base = list(plain)
        base[0], base[5], base[2] = method, int(method == 1), 8 if zoom else 0
        for field, values in ((0, (method,)), *edges):
            for value in values:
                for depth in (8, 7, 16) if field in (2, 8) else (base[3],):
                    head = list(base)
                    head[3] = depth
                    head[field] = value
                    yield from _of_head(head, zoom, rng)
        head = list(base)
        head[1], head[4], head[5] = 3, 4, 0 if method == 2 else 2
        yield from _of_head(head, zoom, rng)
        head[1] = 2
        yield from _of_head(head, zoom, rng)


def _of_head(head: list[int], zoom: bytes, rng: Random) -> Made:
    model = struct.pack("<10BI", 11, *head)
    more = bytes(32), b"\1" + bytes(31), bytes(31) + b"\x80", bytes(31)
    for tail in (b"", *(more if head[2] & 4 else (b"\0",))):
        size = max(1, 2 * head[9] * head[1]) * (1 + head[2] % 2) + 2 * head[7]
        if len(zoom) == 2:
            size *= max(1, zoom[0] * zoom[1])
        name = "telling-image-head-" + (model[1:] + zoom + tail[:1] + tail[-1:]).hex()
        case = CodecCase(name, model + zoom + tail, rng.randbytes(60), size)
        found = cut(case, 0)
        yield found if found is not None else replace(case, payload=case.payload[:size])


def by_gradients(name: str, head: Head, values: bytes, rows: int, rng: Random) -> CodecCase | None:
    """A chunk of rANS; its distributions are those of a good model, with wide ones among them."""
    _, channels, flags, _, _, first, _, padding, _, width = head
    frequencies = []
    for _ in range(39):
        row = [0] * 256
        some = rng.sample(range(164), rng.choice((2, 5, 40)))
        for symbol in some:
            row[symbol] = 1
        row[some[0]] += 4096 - len(some)
        frequencies.append(row)
    model = struct.pack("<10BI", 11, *head) + values + rans.pack(frequencies)
    size = rows * (width * channels * (1 + (flags & 1)) + padding)
    drawn = Drawn(rng, first * channels)
    with mock.patch.object(image, "States", lambda *_: drawn):
        try:
            codecs.parse_model(model).decode(b"", size)
        except Refused:
            return None
    payload = drawn.code()
    return CodecCase(name, model, payload, size) if len(payload) <= size else None


# Sound


def put_golomb(bits: rans.BitWriter, value: int, order: int) -> None:
    """A number for `audio.Bits.golomb`."""
    high = (value >> order) + 1
    zeros = high.bit_length() - 1
    for part, count in ((1 << zeros, zeros + 1), (high, zeros), (value, order)):
        bits.put(part & ((1 << count) - 1), count)


def folded(value: int) -> int:
    return -2 * value - 1 if value < 0 else 2 * value


def sounds(rng: Random) -> Made:
    """Lanes and both cascades; samples of all sizes and flags."""
    yield from sound_heads(rng)
    for number in range(90):
        size = rng.choice((1, 2, 2, 3, 4))
        flags = rng.choice((0, 1, 2, 3)) if size > 1 else rng.choice((0, 2))
        channels, places = rng.choice((1, 2, 2, 3, 4)), rng.choice((0, 0, 2, 7))
        if size == 4 and rng.random() < 0.5:
            flags = rng.choice((4, 5))
        elif size < 3 and not places and rng.random() < 0.3:
            flags |= 8
        depth = rng.choice((1, 2, 8 * size - places, rng.randrange(1, 8 * size - places + 1)))
        name = f"telling-audio-{number}"
        if number % 3:
            depth = min(depth, 24)
            setting = (number // 3) % 2
            head = struct.pack("<8BI", 12, 1, channels, size, flags, depth, places, setting, 0)
            count = rng.choice((9, 20)) if setting else rng.choice((1, 20, 70))
            model = head + values_of(flags, rng)
            first = bytes([rng.randrange(2) if channels == 2 else 0])
            for kind, code in enumerate(streams(rng, 3000)):
                case = CodecCase(f"{name}-{kind}", model, first + code, count * channels * size)
                found = cut(case, 1)
                if found is not None:
                    yield found
            continue
        head = struct.pack("<8BI", 12, 0, channels, size, flags, depth, places, 0, 0)
        case = by_lanes(name, head + values_of(flags, rng), channels, depth, size, rng)
        if case is not None:
            yield case


def values_of(flags: int, rng: Random) -> bytes:
    """The values of a sample, where there is a list of them."""
    if not flags & 8:
        return b""
    bitmap = bytes(rng.choices((0, 0, 1, 130), k=rng.choice((1, 4, 30)))) + b"\x81"
    packed = zstandard.compress(bitmap)
    return (
        struct.pack("<iHI", rng.choice((-65536, -100, 0, 65536)), len(bitmap), len(packed)) + packed
    )


def by_lanes(
    name: str, model: bytes, channels: int, depth: int, size: int, rng: Random
) -> CodecCase | None:
    """A chunk of rANS in sixteen lanes, under weights and levels by chance."""
    contexts, first, last = rans.BitWriter(), *rng.choice(((0, 255), (40, 90), (9, 9), (200, 255)))
    usual = audio.contexts_of(audio.Cursor(b"\1\0"))
    for i in range(first, last + 1):
        scale = rng.choice((0, 43, rng.randrange(44), usual[i] // 3))
        put_golomb(contexts, rng.randrange(3), 0)
        put_golomb(contexts, folded(scale - usual[i] // 3), 1)
    model += bytes([first, last]) + contexts.finish()
    logarithm, count = 8, rng.choice((1, 15, 16, 17, 40, 100, 300, 520))
    p, q = rng.choice((0, 1, 2, 32)), rng.choice((0, 1, 32)) if channels > 1 else 0
    weights = rans.BitWriter()
    for _ in range(max(1, count >> logarithm) * channels):
        weights.put(rng.randrange(16), 4)
        for limit in (p, q):
            amount, order = rng.choice((limit, limit, min(limit, 1))), 9
            weights.put(amount, 6)
            for _ in range(amount):
                value = folded(rng.choice((0, 1, -1, rng.randrange(-900, 900))))
                put_golomb(weights, value, order)
                order = (order + (value >> 1).bit_length() + 1) >> 1
    levels = [rng.choice((0, 1, 60, 239, rng.randrange(240))) for _ in range(channels)]
    width = -(-depth // 8)
    starts = b"".join(
        rng.randrange(-(1 << (depth - 1)), 1 << (depth - 1)).to_bytes(width, "little", signed=True)
        for _ in range(16 * channels)
    )
    turn = rng.randrange(2) if channels == 2 else 0
    packed = weights.finish()
    head = struct.pack("<BBBBI", logarithm, turn, p, q, len(packed))
    head += bytes(levels) + starts + packed
    drawn = Drawn(rng, 16)
    with mock.patch.object(audio, "States", lambda _: drawn):
        try:
            codecs.parse_model(model).decode(head, count * channels * size)
        except Refused:
            return None
    payload = head + drawn.code()
    total = count * channels * size
    return CodecCase(name, model, payload, total) if len(payload) <= total else None


def sound_heads(rng: Random) -> Made:
    """Fields of heads at their bounds, one chunk of a few samples each."""
    edges = (
        (1, (0, 1, 2, 3)),
        (2, (0, 1, 2, 32, 33)),
        (3, (0, 1, 4, 5)),
        (4, (0, 1, 2, 3, 4, 5, 6, 8, 12, 15, 16)),
        (5, (0, 1, 8, 16, 17, 24, 25, 32, 33)),
        (6, (0, 1, 7, 8, 15, 63, 64)),
        (7, (1, 2)),
    )
    for method, size, flags in ((1, 2, 0), (0, 2, 0), (1, 1, 0), (0, 4, 4), (1, 4, 4), (1, 3, 2)):
        base = [12, method, 2, size, flags, 8, 0, 0]
        for field, values in edges:
            for value in values:
                head = list(base)
                head[field] = value
                yield from _of_sound(head, rng)
        for depth, places in (
            (8 * size - 1, 1),
            (8 * size - 1, 2),
            (8 * size, 0),
            (1, 8 * size - 1),
        ):
            yield from _of_sound([12, method, 1, size, flags, depth, places, 0], rng)


def _of_sound(head: list[int], rng: Random) -> Made:
    model = struct.pack("<8BI", *head, 0) + values_of(head[4], rng)
    total = 40 * max(1, head[2] * head[3])
    name = "telling-audio-head-" + model.hex()
    if head[1]:
        case = CodecCase(name[:90], model, b"\0" + rng.randbytes(400), total)
        found = cut(case, 1)
        yield found if found is not None else replace(case, payload=case.payload[:total])
        for tail in (b"\0",):
            yield replace(case, name=name[:80] + "-more", model=model + tail, payload=b"\0")
        return
    found = None
    if 0 < head[5] <= 32 and 0 < head[2] <= 32:
        found = by_lanes(name[:90], model, head[2], head[5], head[3], rng)
    yield found or CodecCase(name[:90], model + b"\1\0", rng.randbytes(total), total)


# Circuits


def circuits(rng: Random) -> Made:
    """Circuits of all shapes with streams by chance, and such as are none."""
    shapes = (
        (1, 1, 1),
        (1, 1, 4),
        (2, 2, 3),
        (3, 2, 1),
        (5, 1, 2),
        (1, 6, 1),
        (4, 4, 1),
        (3, 4, 2),
    )
    for number in range(60):
        size, states = Size(*rng.choice(shapes)), rng.choice((1, 2, 3, 5))
        leaves, bins = rng.choice((1, 2, 4, 9)), rng.choice((1, 2, 4, 7))
        drawn = any_circuit(
            size, states, leaves, bins, residual=number % 2 == 0, seed=f"telling {number}"
        )
        if number % 3 == 0:  # probabilities at both ends
            drawn.emissions[:] = rng.choice((0, 95))
            drawn.emissions[..., 0] = rng.choice((0, 95))
            drawn.transitions[...] = 95 * np.eye(states, dtype=np.uint8)
        yield from _with_streams(f"telling-circuit-{number}", pack(drawn), size, rng)
        if number in (3, 4, 8):
            yield from _wrong_circuits(f"telling-circuit-bad-{number}", pack(drawn), size, rng)


def circuit_images(rng: Random) -> Made:
    """A few images by chance under larger trees, all neighbours of samples among their features."""
    shapes = (5, 3, 2), (4, 4, 1), (3, 3, 3), (6, 5, 1), (2, 3, 4), (7, 2, 2), (2, 8, 2), (1, 9, 3)
    for number in range(72):
        size, states = Size(*shapes[number % 8]), rng.choice((1, 2, 2, 3))
        leaves, bins = rng.choice((3, 9, 16)), rng.choice((2, 5, 9))
        seed = f"telling images {number}"
        drawn = any_circuit(size, states, leaves, bins, residual=number % 3 > 0, seed=seed)
        drawn.emissions[..., 0, :] //= 5  # often, so that images become smaller
        if number % 4 == 1:
            drawn.thresholds[:] = rng.choice((-1, 0, 1))
        packed = pack(drawn)
        model = bytes([16]) + struct.pack("<HHB", size.height, size.width, size.channels)
        model += circuit.know(packed)
        codes = []
        for code in streams(rng, 300):
            with made(circuit.Coder) as coders, suppress(Refused):
                circuit.decode_image(circuit.Circuit(packed), code)
            codes.append(code[: coders[-1].at].rstrip(b"\0"))
        for some in (codes, codes[1:2], codes[2:3], codes[3:]):
            payload = of_sizes([len(code) for code in some]) + b"".join(some)
            total = size.samples * len(some)
            name = f"telling-circuit-images-{number}-{codes.index(some[0])}-{len(some)}"
            if len(payload) <= total:
                yield CodecCase(name, model, payload, total, circuit=packed)


def circuit_edges(rng: Random) -> Made:
    """Circuits at bounds: each feature alone, full ranges of weights, many bins, sizes, limits."""
    for number in range(76):
        feature = number % 19
        size, residual = Size(*rng.choice(((4, 4, 1), (3, 3, 2), (2, 3, 3)))), number > 40
        bins = 60 if number % 5 == 0 else 4
        drawn = any_circuit(size, 2, 5, bins, residual=residual, seed=f"telling edges {number}")
        inner = drawn.features != circuit.LEAF
        drawn.features[inner] = feature
        around = (-1, 0, 1, 254, 255, 120) if feature != 1 else (0, 300, 600, 1000, 1300)
        drawn.thresholds[:] = rng.choices(around, k=len(inner))
        if number % 4 == 1:
            drawn.weights[:] = np.reshape(
                rng.choices(range(-128, 128), k=drawn.weights.size), drawn.weights.shape
            )
        if number % 4 == 3:
            drawn.thresholds[inner] = rng.choices(
                (-32768, -16385, 16383, 16384, 32767, 0), k=int(inner.sum())
            )
        low = rng.choices(range(7), k=256)
        drawn.shares[:] = low
        drawn.emissions[..., 0, :] //= 9
        if number % 3 == 0:
            drawn.shares[::9] = 95
            drawn.emissions[..., 1, :] = 95
            drawn.transitions[..., 0] = rng.randrange(7)
        yield from _few_images(f"telling-circuit-edges-{number}", pack(drawn), size, rng)
    for states, bins in ((1, 1), (31, 1), (32, 1), (33, 1), (0, 1), (1, 255), (1, 256), (1, 257)):
        ends = bytes(range(256 - bins, 256)) if bins < 257 else bytes(257)
        packed = b"DCIR\1\0" + struct.pack("<HHBBHH", 1, 1, 1, states, 1, bins) + bytes(2 + 11)
        packed += b"\xff" + bytes(2) + ends + bytes(255) + b"\0" + bytes(states + states * bins)
        case = _one_image(f"telling-circuit-tiny-{states}-{bins}", packed, Size(1, 1, 1), 1)
        yield replace(case, payload=of_sizes([0] * 16), size=16)
        yield replace(
            case, name=f"{case.name}-one", payload=of_sizes([1] * 16) + b"\x80" * 16, size=16
        )
    for height, states, nodes, bins in (
        (128, 16, 1, 1),
        (128, 17, 1, 1),
        (129, 1, 1, 1),
        (1, 16, 2047, 256),
        (1, 17, 2047, 256),
    ):
        packed = b"DCIR\1\0" + struct.pack("<HHBBHH", height, 128, 1, states, nodes, bins)
        name = f"telling-circuit-limits-{height}-{states}-{nodes}"
        case = _one_image(name, packed, Size(height, 128, 1), height * 128)
        yield replace(case, payload=of_sizes([0] * 8))


def _few_images(name: str, packed: bytes, size: Size, rng: Random) -> Made:
    """Images by chance, the sizes of their streams as short as may be and longer."""
    model = bytes([16]) + struct.pack("<HHB", size.height, size.width, size.channels)
    model += circuit.know(packed)
    codes = []
    for code in streams(rng, 300):
        with made(circuit.Coder) as coders, suppress(Refused):
            circuit.decode_image(circuit.Circuit(packed), code)
        codes.append(code[: coders[-1].at].rstrip(b"\0"))
    codes = sorted(codes, key=len)[:2] * 3
    payload = of_sizes([len(code) for code in codes]) + b"".join(codes)
    total = size.samples * len(codes)
    case = CodecCase(name, model, payload, total, circuit=packed)
    if len(payload) <= total:
        yield case
    for bits in (24, 25):
        wide = of_sizes([len(code) for code in codes], bits) + b"".join(codes)
        if len(wide) <= total:
            yield replace(case, name=f"{name}-{bits}", payload=wide)


def _with_streams(name: str, packed: bytes, size: Size, rng: Random) -> Made:
    model = bytes([16]) + struct.pack("<HHB", *(size.height, size.width, size.channels))
    model += circuit.know(packed)
    samples = size.height * size.width * size.channels
    codes = []
    for code in streams(rng, 200):
        with made(circuit.Coder) as coders:
            try:
                circuit.decode_image(circuit.Circuit(packed), code)
            except Refused:
                pass
            except IndexError:
                return
        if coders and coders[-1].at <= len(code):
            codes.append(code[: coders[-1].at].rstrip(b"\0"))
    if not codes:
        return
    for some in (codes[:1], codes):  # as often as makes them shorter than their images
        many = min(60, -(-max(1, sum(map(len, some)) + 8) // samples))
        every = [code for _ in range(many) for code in some][:60]
        payload = of_sizes([len(code) for code in every]) + b"".join(every)
        yield CodecCase(f"{name}-{len(some)}", model, payload, samples * len(every), circuit=packed)


def of_sizes(sizes: list[int], bits: int = 0) -> bytes:
    """The sizes of streams, in so many bits at least."""
    least, bits = min(sizes), max(bits, (max(sizes) - min(sizes)).bit_length())
    fields = sum((length - least) << i * bits for i, length in enumerate(sizes))
    packed = fields.to_bytes(-(-len(sizes) * bits // 8), "little")
    return struct.pack("<IB", least, bits) + packed


def _wrong_circuits(name: str, packed: bytes, size: Size, rng: Random) -> Made:
    samples = size.height * size.width * size.channels
    head = 15 + 2 * samples
    places = [*range(head), *rng.sample(range(head, len(packed)), 40), len(packed) - 1]
    for place in places:
        for value in (0, 1, 2, 96, 255, packed[place] + 1 & 255, packed[place] - 1 & 255):
            wrong = packed[:place] + bytes([value]) + packed[place + 1 :]
            yield _one_image(f"{name}-{place}-{value}", wrong, size, samples)
    for length in (0, 4, 14, 15, 16, len(packed) - 1):
        yield _one_image(f"{name}-cut-{length}", packed[:length], size, samples)
    yield _one_image(f"{name}-behind", packed + b"\0", size, samples)


def _one_image(name: str, packed: bytes, size: Size, samples: int) -> CodecCase:
    model = bytes([16]) + struct.pack("<HHB", *(size.height, size.width, size.channels))
    code = b"\x80"
    payload = of_sizes([1] * 8) + code * 8
    return CodecCase(name, model + circuit.know(packed), payload, samples * 8, circuit=packed)
