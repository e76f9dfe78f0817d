"""Chunks of elements in other forms, at the bounds of what `notation.md` allows and beyond."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import zstandard
from codec_cases import CodecCase
from reference.reading import Refused

Made = Iterator[CodecCase]


def all_cases() -> Made:
    """All of them."""
    rng = Random("edges of notations")
    yield from _forms()
    yield from _runs(rng)
    yield from _places(rng)
    yield from _models()


def _forms() -> Made:
    """Every form, each with all kinds of items."""
    for unit in (1, 2, 4, 8):
        bounds = {0, 1, (1 << 8 * unit) - 1, 1 << 8 * unit - 1, (1 << 8 * unit - 1) - 1}
        bounds |= {value for k in range(1, 10) for value in ((1 << 7 * k) - 1, 1 << 7 * k)}
        values = sorted(value for value in bounds if value < 1 << 8 * unit)
        plain = b"".join(value.to_bytes(unit, "little") for value in values)
        for option in (0, 1):
            yield _case(f"varints-{unit}-{option}", (1, unit, option), plain, [(0, len(values))])
    every = bytes(range(256))
    yield _case("latin", (2, 1, 0), every, [(0, 256)])
    for option in (0, 1):
        yield _case(f"hex-{option}", (4, 1, option), every, [(3, 200), (5, 56)], b"0123456789", 0)
        bits = bytes(
            sum(i + j << 18 - 6 * j for j in range(4)).to_bytes(4, "big")[k]
            for i in range(0, 64, 4)
            for k in (1, 2, 3)
        )
        yield _case(f"base64-{option}", (3, 3, option), bits, [(0, 16)])


def _runs(rng: Random) -> Made:
    """Literal bytes between items, and items that a chunk has in part."""
    lines = [(3 * (i > 0), 1 + i % 3) for i in range(24)]
    yield _case("lines", (3, 3, 0), rng.randbytes(3 * 48), lines, b"abc" * 24, padding=400)
    lines = [(4 * (i > 0), 10) for i in range(24)]
    yield _case("runs", (4, 1, 0), rng.randbytes(240), lines, b"abcd" * 24)
    for skipped, left in ((0, 0), (1, 0), (2, 2), (0, 2), (2, 0)):
        plain = rng.randbytes(skipped + 60 + left)
        yield _case(f"inner-{skipped}-{left}", (3, 3, 0), plain, [(0, 20)], b"", skipped)


def _places(rng: Random) -> Made:
    """Items, literal bytes and runs that are more or fewer than others tell."""
    yield _case("skips-an-item", (3, 3, 0), rng.randbytes(63), [(0, 20)], b"", 3, 80)
    yield _case("leaves-an-item", (3, 3, 0), rng.randbytes(63), [(0, 20)], b"", 0, 80)
    yield _case("lacks-an-item", (3, 3, 0), rng.randbytes(60), [(0, 21)], b"", 0, 84)
    yield _case("skips-all", (4, 1, 0), rng.randbytes(60), [(0, 59)], b"", 1, 118)
    yield _case("only-literals", (4, 1, 0), b"", [], b"x" * 70, 0, 70, padding=0)
    yield _case("no-literal", (4, 1, 0), rng.randbytes(60), [(0, 30), (0, 30)], b"", 0, 120)
    yield _case("no-item", (4, 1, 0), rng.randbytes(60), [(0, 0), (1, 60)], b"a", 0, 121)
    yield _case("no-last-item", (4, 1, 0), rng.randbytes(60), [(0, 60), (1, 0)], b"a", 0, 121)
    yield _case("more-literals", (4, 1, 0), rng.randbytes(60), [(302, 60)], b"a", 0, 121)
    yield _case("literals-around", (4, 1, 0), rng.randbytes(60), [(2**32 - 1, 60)], b"a", 0, 121)
    yield _case("long", (4, 1, 0), rng.randbytes(60), [(0, 60)], b"", 0, 121)
    yield _case("short", (4, 1, 0), rng.randbytes(60), [(0, 60)], b"", 0, 119)
    yield _case("short-item", (1, 8, 1), b"\xff" * 80, [(0, 10)], b"", 0, 99)
    yield _case("literals-beyond", (4, 1, 0), b"", [], b"x" * 71, 0, 70, padding=0)
    listed = [(int(k > 0), 1) for k in range(22)]  # as many as a chunk of 320 bytes may have
    for size in (320, 319):
        literals = b"-" * (size - 44)
        yield _case(f"runs-of-{size}", (4, 1, 0), bytes(22), listed, literals, 0, size, padding=0)
    for size, count in ((100, 102), (100, 103)):
        name = f"elements-{size}-{count}"
        yield _case(name, (4, 1, 0), bytes(count), [(0, count)], b"", 0, size, padding=0)
    for size in (88, 87):
        yield _case(f"threes-{size}", (3, 3, 0), bytes(270), [(0, 90)], b"", 0, size, padding=0)


def _models() -> Made:
    """A model of the elements, and heads of models that are refused."""
    good = _case("model", (1, 1, 0), bytes(300), [(0, 300)], model=b"\6\1" + bytes(8))
    yield good
    for name, model in (
        ("no-form", b"\x13\0\1\0"),
        ("unknown-form", b"\x13\5\1\0"),
        ("varints-of-3", b"\x13\1\3\0"),
        ("varints-of-16", b"\x13\1\x10\0"),
        ("latin-of-2", b"\x13\2\2\0"),
        ("base64-of-1", b"\x13\3\1\0"),
        ("hex-of-2", b"\x13\4\2\0"),
        ("hex-option", b"\x13\4\1\2"),
        ("latin-option", b"\x13\2\1\1"),
        ("short", b"\x13\4\1"),
        ("itself", b"\x13\4\1\0" + struct.pack("<I", 8) + b"\x13\4\1\0"),
        ("pages", b"\x13\4\1\0" + struct.pack("<I", 2) + b"\x11\0"),
        ("unknown", b"\x13\4\1\0" + struct.pack("<I", 2) + b"\xf0\0"),
    ):
        wrong = model if len(model) != 4 else model + bytes(4)
        yield replace(good, name=f"edge-notation-model-{name}", model=wrong)
    yield replace(good, name="edge-notation-model-long", model=good.model + b"\0")
    yield replace(good, name="edge-notation-cut", payload=good.payload[:12])
    with_mode = good.payload[:13] + b"\2" + good.payload[14:]
    yield replace(good, name="edge-notation-mode", payload=with_mode)


def _case(
    name: str,
    form: tuple[int, int, int],
    plain: bytes,
    runs: list[tuple[int, int]],
    literals: bytes = b"",
    skipped: int = 0,
    size: int = 0,
    model: bytes = b"",
    padding: int = 300,  # literal bytes behind, without which a chunk would not become smaller
) -> CodecCase:
    listed = b"".join(struct.pack("<II", *run) for run in runs)
    literals += b"z" * padding
    parts = [(int(len(part) > 60), part) for part in (listed, literals)]
    parts.append((int(not any(plain) and len(plain) > 60), plain))
    if model:
        parts[2] = (2, _sparse_zeros(len(plain)))
    stored = [(mode, _zstd(part) if mode == 1 else part) for mode, part in parts]
    head = struct.pack("<BIII", skipped, len(runs), len(literals), len(plain))
    heads = b"".join(struct.pack("<BI", mode, len(part)) for mode, part in stored)
    payload = head + heads + b"".join(part for _, part in stored)
    whole = b"\x13" + bytes(form) + struct.pack("<I", len(model)) + model
    made = CodecCase(f"edge-notation-{name}", whole, payload, size + padding)
    return made if size else replace(made, size=_fitting(made))


def _fitting(made: CodecCase) -> int:
    """The length that a chunk has, by trial."""
    for size in range(max(1, len(made.payload)), 4000):
        try:
            replace(made, size=size).by_reference()
        except Refused:
            continue
        return size
    return len(made.payload)


def _sparse_zeros(size: int) -> bytes:
    bits = -(-size // 8)
    return struct.pack("<IBIBI", 0, 1, len(_zstd(bytes(bits))), 0, 0) + _zstd(bytes(bits))


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)
