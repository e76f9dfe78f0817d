"""Chunks of the codecs that mix contexts, made bit by bit, for `make_telling.py`.

Each leads the models to bounds that it is named for, a step within and a step beyond.
"""

import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from random import Random

from chosen_bits import Steer, Steered, floats, text, values
from codec_cases import CodecCase

Made = Iterator[CodecCase]
EVERY = (1 << 18) - 1  # contexts of text
FAR = 32779  # the most that a scale goes up; one more down


# Floats (codec 4)


def _surely(d: Steered, p: int) -> int:
    if d.deciding[0] == "sign":
        return d.weights_seen & 1
    return 0 if d.deciding[0] in ("far up", "far down") else int(p >= 32768)


def _as_model(rng: Random, low_scales: bool = False) -> Steer:
    """Bits as likely as the model says."""

    def steer(d: Steered, p: int) -> int:
        if low_scales and d.deciding[0] in ("rows", "columns", "far up", "far down"):
            return 0
        return int(rng.random() * 65536 < p)

    return steer


def _steps(which: str, numbers: list[int], other: Steer) -> Steer:
    """Scales that change by these numbers, and the other bits by `other`."""
    bits: list[int] = []
    left = list(numbers)

    def steer(d: Steered, p: int) -> int:
        if d.deciding[0] != which:
            return 0 if d.deciding[0] in ("rows", "columns") else other(d, p)
        if not bits:
            n = left.pop(0) if left else 0
            k = 2 * n if n >= 0 else -2 * n - 1
            bits.extend([1] * min(k, 24))
            bits.extend([0] if k < 24 else [k - 24 >> i & 1 for i in range(15, -1, -1)])
        return bits.pop(0)

    return steer


def _node(d: Steered) -> int:
    node = d.deciding[-1]
    assert isinstance(node, int)
    return node


def _two(
    rng: Random, rows: int, firsts: list[int], ratio: int, noise: int, third: int = 0
) -> list[int]:
    """Rows of 16 columns, of which only a second one, and a third, are like the first."""
    found = []
    for _ in range(rows):
        a = rng.choice(firsts)
        b = ratio * a + rng.randrange(-noise, noise + 1)
        found += [a, *[0] * 4, b, *[0] * 5, third * a, *[0] * 4]
    return found


def _related(rng: Random, factors: list[float], rows: int, size: float) -> list[int]:
    """Rows whose columns are each like the first, some of the last far beyond the others."""
    found = []
    for r in range(rows):
        a, b = rng.gauss(0, size), rng.gauss(0, size / 2)
        a *= 40 if r > rows - 5 else 1
        row = [f * a + b * (i % 3 - 1) + rng.gauss(0, size / 10) for i, f in enumerate(factors)]
        found += [max(-2047, min(2047, int(x))) for x in [a, *row[1:]]]
    return found


def mixed_floats(rng: Random) -> Made:
    """All parts of the model of floats."""
    usual, low = _as_model(rng), _as_model(rng, low_scales=True)
    factors = [rng.uniform(-4, 4) for _ in range(33)]
    yield floats("usual", (1, 4, 1), [(1, 0)], [(34, 17)], usual, rng)
    yield floats("usual-24", (3, 0, 0), [(0, 0), (1, 0), (2, 200)], [(5, 9)], usual, rng)
    yield floats("e5m2", (5, 2, 1), [], [(7, 9), (15, 2), (16, 2)], usual, rng)
    yield floats("e4m3", (4, 1, 0), [(2, 3)], [(16, 4)], low, rng)
    yield floats("tall", (1, 1, 1), [(1, 0)], [(300, 1)], usual, rng)
    yield floats("wide", (4, 2, 1), [(1, 0)], [(2, 513), (1, 512)], _sparse(rng), rng)
    related = [_related(rng, factors[:c], r, 60) for r, c in ((48, 16), (40, 16), (33, 17))]
    steer = values([*chain(*related)])
    yield floats("related", (1, 4, 1), [(1, 0)], [(48, 16), (40, 16), (33, 17)], steer, rng)
    steer = values(_related(rng, factors[:16], 270, 60))
    yield floats("long", (5, 2, 0), [], [(270, 16)], steer, rng)
    turned = [_related(rng, factors[:32], rows, 60) for rows in (33, 32)]
    yield floats(
        "turned", (5, 1, 1), [(1, 0)], [(32, 33), (32, 32)], values([*chain(*turned)]), rng
    )
    big = _two(rng, 32, [*range(-130, -90), *range(90, 130)], 15, 9)
    small = _two(rng, 5 * 32, [-2, -1, 1, 2], 15, 1)
    steer = values(big + small + big + _two(rng, 32, [-9, 9], -15, 0))
    yield floats("shares", (1, 4, 1), [(1, 0)], [(32, 16)] * 8, steer, rng)
    steep = _two(rng, 288, [-32, 32], 63, 0, -63)
    yield floats("steep", (1, 4, 1), [(2, 0)], [(288, 16)], values(steep), rng)
    ends = [-3, 5, 99, -2000] * 5
    yield floats("still", (1, 4, 0), [(2, 0)], [(620, 1)], values([0] * 600 + ends), rng)
    below = values([-2047] * 600 + ends)
    yield floats("still-below", (1, 4, 0), [(2, 7)], [(620, 1)], below, rng)
    outliers = values(rng.choices((0, 0, 3, -3, 2000, -40, 700), k=360))
    yield floats("outliers", (1, 4, 1), [(2, 0)], [(40, 9)], outliers, rng)
    yield from _scales(rng)
    yield from _exponents(rng, usual)
    yield from _heads(rng)


def _sparse(rng: Random) -> Steer:
    usual = _as_model(rng)
    return lambda d, p: int(rng.random() < 0.9) if d.deciding[0] == "zero" else usual(d, p)


def _scales(rng: Random) -> Made:
    """To the bounds of scales and back."""
    turn = FAR * 32 - (1 << 20) - FAR
    numbers = [FAR] * 33 + [-FAR] * 31 + [turn] + [3] * 5
    numbers += [-FAR] * 33 + [FAR] * 31 + [-turn] + [5] * 20
    steer, shape = _steps("rows", numbers, _surely), (len(numbers), 1)
    yield floats("rows-bounds", (3, 0, 0), [(2, 0)] * 3, [shape], steer, rng)
    steer, shape = _steps("columns", numbers, _surely), (16, len(numbers))
    yield floats("columns-bounds", (1, 0, 0), [(2, 0)], [shape], steer, rng)
    steer = _steps("rows", [12, -13, 11, -12, 13, -14, 12, 0, 12], _surely)
    yield floats("rows-just-far", (1, 2, 0), [(2, 3)], [(12, 9)], steer, rng)


def _exponents(rng: Random, usual: Steer) -> Made:
    """Far from those that are near, the first and the last, and beyond."""

    def down(d: Steered, p: int) -> int:
        if d.deciding[0] == "far down":
            return 0 if _node(d) < 4 else rng.randrange(2)
        shares = {"down": 0.06, "at least": 0.2}
        name = str(d.deciding[0])
        return int(rng.random() < shares[name]) if name in shares else usual(d, p)

    steer = _steps("rows", [470, 3, -2, 4], down)
    yield floats("far-down", (1, 2, 0), [(2, 3)], [(4, 40)], steer, rng)

    def top(d: Steered, p: int) -> int:
        upwards = d.deciding[0] in ("at least", "up")
        return int(rng.random() < 0.8) if upwards else _surely(d, p)

    steer = _steps("rows", [900, 0, -870, 7, 9, 11, 13, 20], top)
    yield floats("top", (2, 2, 0), [(2, 3)], [(8, 15)], steer, rng)
    for e, scale in ((256, 860), (-1, 130)):
        steer = _steps("rows", [scale], _last_exponent(e, 40))
        yield floats(f"exponent-{e}", (1, 0, 1), [(2, 0)], [(1, 40)], steer, rng)


def _last_exponent(e: int, count: int) -> Steer:
    """Zeros, and such an exponent of the last weight."""

    def steer(d: Steered, p: int) -> int:
        name = d.deciding[0]
        if name == "zero":
            return int(d.weights_seen < count - 1)
        if name in ("far up", "far down"):
            far = e - d.near - 5 if name == "far up" else d.near - 13 - e
            return far >> (8 - _node(d).bit_length()) & 1
        return int(name in ("at least", "up") and e > 0)

    return steer


def _heads(rng: Random) -> Made:
    """Fields of models and chunks."""

    def case(
        name: str,
        form: tuple[int, int, int],
        groups: list[tuple[int, int]],
        at: int = 0,
        to: int = 0,
    ) -> CodecCase:
        one = floats(name, form, groups, [(4, 9)], _surely, rng)
        changed = one.payload[:at] + bytes([to]) + one.payload[at + 1 :]
        return replace(one, payload=changed) if at else one

    yield case("top-5", (1, 5, 0), [(0, 0)])
    yield case("e5m2-top-2", (5, 2, 0), [])
    yield case("e5m2-top-3", (5, 3, 0), [])
    yield case("e4m3-top-3", (4, 3, 0), [])
    yield case("f16-top-0", (2, 0, 0), [(1, 0), (2, 255)])
    yield case("f16-top-1", (2, 1, 0), [(2, 1), (1, 0)])
    for bits, top in ((7, 0), (3, 4), (6, 1)):
        yield case(f"constant-{bits}", (1, top, 0), [(2, (1 << bits) - 1)])
        yield case(f"constant-{bits}-beyond", (1, top, 0), [(2, 0)], 12, 1 << bits)
    yield case("value-of-tree", (1, 4, 0), [(1, 0)], 12, 1)
    yield case("value-of-raw", (1, 4, 0), [(0, 0)], 12, 1)
    yield case("kind-3", (1, 4, 0), [(2, 0)], 11, 3)
    yield case("flags-2", (1, 4, 1), [(2, 0)], 10, 2)
    good = case("raw", (1, 2, 0), [(0, 0)])
    yield good

    def other(name: str, **fields: object) -> CodecCase:
        return replace(good, name=f"telling-float_cm-{name}", **fields)  # type: ignore[arg-type]

    model, payload = good.model, good.payload
    for length in (1, 2, 3):
        yield other(f"model-{length}", model=model[:length])
    yield other("model-5", model=model + b"\0")
    yield other("model-3-of-no-format", model=bytes([4, 9, 0]))
    for number in (0, 6):
        yield other(f"format-{number}", model=bytes([4, number, 2, 0]))
    yield other("reserved", model=bytes([4, 1, 2, 1]))
    for name, shape in (("no-rows", (0, 7)), ("no-columns", (7, 0))):
        more = b"\2\0" + payload[2:10] + struct.pack("<II", *shape) + payload[10:]
        yield other(name, payload=more)
    yield other("too-few", size=good.size - 2)
    yield other("odd", size=good.size + 1)
    yield other("longest", size=1 << 23)
    yield other("too-long", size=(1 << 23) + 2)
    yield other("unused", payload=payload[:-1] + bytes([payload[-1] | 128]))
    yield other("left", payload=payload + b"\0")
    yield other("cut", payload=payload[:-1])
    length = int.from_bytes(payload[13:17], "little")
    code, raw = payload[17 : 17 + length], payload[17 + length :]
    for name, stream in (("stream-cut", code[:-1]), ("stream-long", code + b"\0")):
        yield other(name, payload=payload[:13] + struct.pack("<I", len(stream)) + stream + raw)


# Bytes (codec 9)


def mixed_texts(rng: Random) -> Made:
    """All parts of the model of bytes."""
    classes = b"az`{AZ@[09/: \n\x7f\x80\xff.!?,;:\x1f \"'`([{<)]}>-_\x00|~"
    yield text("fifteen", bytes([1, 0, 2, *[0] * 12]), EVERY, 6, 28)
    yield text("thirty", b"Ab ab, Ab ab.\nBb ab:0Ab ab!\x80\xff", EVERY, 6, 12)
    yield text("classes", bytes(rng.sample(classes * 3, 3 * len(classes))), EVERY, 6, 12)
    words = [b"The", b"the", b"THE", b"than", b"Than", b"\xc3\xa4th", b"@then", b"[hen"]
    ends = [b" ", b" ", b", ", b".\n", b" ("]
    prose = b"".join(rng.choice(words) + rng.choice(ends) for _ in range(60))
    yield text("prose", prose + bytes(rng.choices(classes, k=70)), EVERY, 6, 12)
    long = b" ".join([b"a" * 30, b"b" * 31, b"C" * 32, b"d" * 33, b"xy" * 160]) + b"\nq"
    yield text("long", long + bytes(rng.choices(b"abq", k=30)), 1 << 9 | 1 << 10 | 1, 6, 14)
    yield text("zeros", bytes(700) + rng.randbytes(60) + bytes(40), 1, 6, 25)
    yield text("ones", b"\xff" * 300 + rng.randbytes(20), 3, 6, 25)
    counts = bytes(30) + b"\x80" + bytes(90) + b"\x80" + bytes(20) + rng.randbytes(12)
    counts += b"\xff" * 25 + b"\0" + b"\xff" * 60 + b"\0\xff\xff"
    yield text("counts", counts, 1, 3, 16)
    alike = (b"ab", b"`a", b"\0\1", b"AB")
    pairs = bytes(rng.choice(two) for _ in range(70) for two in alike)
    yield text("pairs", pairs, EVERY & ~63, 6, 12)
    phrase = bytes(rng.choices(b"etaoin shrdlu,.\n", k=23))
    yield text("match", phrase * 26 + b"!" + phrase + rng.randbytes(9), 1 << 6, 2, 12)
    turns = b"".join(bytes([rng.choice((0, 255))]) * rng.randrange(1, 30) for _ in range(24))
    yield text("turns", turns, 2, 6, 16)
    yield text("noise", rng.randbytes(64) + bytes(190) + rng.randbytes(64), EVERY, 6, 12)
    bits = bytes(rng.choices(b"ab", k=1100)) + bytes(960) + bytes(rng.choices(b"ab", k=70))
    yield text("bits", bits, 1, 1, 25)
    later = b"".join(rng.choice((b"\xff" * 9, b"\xff\xff\x7f", b"\xff\0")) for _ in range(30))
    yield text("ones-later", later + b"\xff" * 150 + rng.randbytes(9), 7, 6, 12)
    for size in (256, 512, 513):
        far = b""
        while len(far) < size:
            noise = bytes(rng.choices(b"0123456789abcdef", k=rng.randrange(50, 90)))
            far += b"The same words begin" + noise
        yield text(f"far-{size}", far[:size], 1, 1, 12)
    yield text("five", b"abcdePzbcdeQ\0abcdeQQPP\0abcdeP", 1, 1, 12)
    run = bytes(rng.choices(b"abcdefgh", k=58))
    runs = b"".join(run + bytes([rng.choice(b"XYZ")]) for _ in range(16))
    yield text("runs", runs, 1, 2, 12)
    yield from _text_heads()


def _text_heads() -> Made:
    plain = text("plain", b"abcabcab" * 3, 1, 1, 12)

    def head(name: str, *fields: int, size: int = plain.size) -> CodecCase:
        model = struct.pack("<BBBBI", 9, *fields)
        return replace(plain, name=f"telling-byte_cm-{name}", model=model, size=size)

    for bits in (11, 28, 29):
        yield head(f"bits-{bits}", bits, 1, 0, 1)
    for sets in (0, 7):
        yield head(f"sets-{sets}", 12, sets, 0, 1)
    yield head("reserved", 12, 1, 1, 1)
    for contexts in (0, 1 << 18):
        yield head(f"contexts-{contexts}", 12, 1, 0, contexts)
    yield head("longest", 12, 1, 0, 1, size=1 << 24)
    yield head("too-long", 12, 1, 0, 1, size=(1 << 24) + 1)
    good = replace(plain, name="telling-byte_cm-plain")
    for name, model in (("model-7", good.model[:7]), ("model-9", good.model + b"\0")):
        yield replace(good, name=f"{good.name}-{name}", model=model)
    for name, payload in (("used-up", good.payload[:-1]), ("left", good.payload + b"\0")):
        yield replace(good, name=f"{good.name}-{name}", payload=payload)
