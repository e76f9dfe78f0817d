"""Chunks at the bounds of what the specifications allow, a step within and a step beyond."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import notation_edges
import numpy as np
import zstandard
from codec_cases import CodecCase
from reference import delta, scale_context
from reference import planes_writer as planar

Made = Iterator[CodecCase]
SIZE = 512  # bytes of changes, more than the states of a stream take


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def row(symbols: list[int]) -> list[int]:
    """Frequencies of some symbols, about the same of each."""
    found = [0] * 256
    for i, symbol in enumerate(symbols):
        found[symbol] = 4096 // len(symbols) + (i < 4096 % len(symbols))
    return found


def changes() -> Made:
    """Of the codec of changes."""
    rng = Random("edges of changes")
    base = rng.randbytes(SIZE)
    plain = delta.Model(1, False, delta.DIFFERENCE, 0, 4, 3, 0, b"\0", [row([0, 1, 2])])

    def case(name: str, model: delta.Model, edit: int = 0, to: int = 0) -> CodecCase:
        count = SIZE // model.size
        under = replace(model, frequencies=model.frequencies[:1])
        symbols = [rng.randrange(2) for _ in range(count)]
        payload = delta.chunk(under, 0, [0] * count, symbols, [0] * count)
        head = bytearray(delta.pack_model(model, zstd))
        if edit:
            head[edit] = to
        return CodecCase(f"edge-delta-{name}", bytes(head), payload, SIZE, base)

    many = plain.frequencies
    yield case("plain", plain)
    yield case(
        "64-contexts", replace(plain, mapped=bytes(range(64)), shift=1, frequencies=many * 64)
    )
    yield case("65-contexts", replace(plain, mapped=bytes(128), frequencies=many * 65))
    yield case("12-bits", replace(plain, mapped=bytes(4096), frequencies=many * 2))
    yield case("13-bits", replace(plain, mapped=bytes(8192), frequencies=many * 2))
    yield case("context-beyond", replace(plain, mapped=b"\0\1\2\0", frequencies=many * 2))
    yield case("bits-of-one-context", plain, 9, 1)
    yield case("no-width", replace(plain, dropped=1, direct=3))
    yield case("shift", replace(plain, shift=7))
    yield case("shift-beyond", replace(plain, shift=8))
    yield case("symbol-255", replace(plain, direct=3, frequencies=[row([0, 1, 2, 255])]))
    yield case("129-kinds", replace(plain, size=2, dropped=7, direct=7, mantissa=0))
    yield case("direct-as-wide", replace(plain, direct=8, mantissa=7))
    yield case("direct-beyond", replace(plain, direct=7, mantissa=7))
    for direct in range(9):
        for mantissa in range(direct + 1):
            for method in (delta.DIFFERENCE, delta.XOR):
                kinds = (1 << direct) + ((8 - direct) << mantissa)
                name = f"{method}-{direct}-{mantissa}"
                if direct in (0, 7, 8) or kinds in (128, 129, 256, 257):
                    changed = replace(plain, method=method, direct=direct, mantissa=mantissa)
                    yield case(name, replace(changed, frequencies=[row([0, 1])]))
    wide = replace(plain, size=2, dropped=7, method=delta.XOR, direct=8, mantissa=0)
    yield case("257-kinds", wide)
    xor = replace(plain, method=delta.XOR, direct=2, mantissa=1)
    for symbol in (15, 16, 17):
        yield case(f"xor-symbol-{symbol}", replace(xor, frequencies=[row([0, 1, symbol])]))
    good = case("cut", plain)
    for length in (0, 8, 9, 12, 13, 14):
        yield replace(good, name=f"edge-delta-payload-{length}", payload=good.payload[:length])
    for length in (1, 2, 3, 4, 11, 12):
        yield replace(good, name=f"edge-delta-model-{length}", model=good.model[:length])


def matrices() -> Made:
    """Of scale contexts."""
    rng = Random("edges of scale contexts")
    form = scale_context.FORMS[3]
    rows = [row([0, 1, 8, 9]), row([126, 128, 130]), row([127, 128, 129])]
    plain = scale_context.Model(form, 0, 0, 1, 0, rows)

    def case(
        name: str, model: scale_context.Model, lines: list[scale_context.Matrix], edit: int = 0
    ) -> CodecCase:
        n = sum(m.rows * m.columns for m in lines)
        offsets = [rng.choice((126, 130) if c == 1 else (127, 129)) for c in _lines(lines)]
        tops = [(rng.choice((0, 1, 8)), 0) for _ in range(n)]
        signs = rng.randbytes(4 * -(-n // 32))
        chunk = scale_context.write(plain, lines, 3, offsets, tops, (b"", signs))
        head = bytearray(scale_context.pack_model(model))
        if edit:
            head[2] = edit
        return CodecCase(f"edge-scales-{name}", bytes(head), chunk.pack(), n * form.size)

    one = [scale_context.Matrix(40, 17, 3, 9, 2)]
    yield case("plain", plain, one)
    yield case("lines", plain, [*one, scale_context.Matrix(4, 3, 15, 0, 255)])
    yield case("no-exponents", replace(plain, exponents=0), one)
    yield case("256-symbols", replace(plain, exponents=31, tails=6), one)
    yield case("257-symbols", replace(plain, exponents=31, tails=7), one)
    yield case("258-symbols", replace(plain, exponents=31, tails=8), one)
    yield case("flags", plain, [scale_context.Matrix(40, 17, 16, 9, 2)])
    yield case("reserved", plain, [scale_context.Matrix(40, 17, 0, 9, 2, 1)])
    yield case("no-rows", plain, [*one, scale_context.Matrix(0, 3, 0, 0, 0)])
    yield case("no-columns", plain, [*one, scale_context.Matrix(3, 0, 0, 0, 0)])
    seven = replace(plain, phase=7, frequencies=[*rows[:1] * 128, *rows[1:]])
    yield case("phase-7", seven, one)
    good = case("cut", plain, one)
    for length in (1, 2, 5, 6):
        yield replace(good, name=f"edge-scales-model-{length}", model=good.model[:length])


def _lines(lines: list[scale_context.Matrix]) -> Iterator[int]:
    """1 for each row of which the scale is coded, 2 for each column."""
    for matrix in lines:
        yield from [1] * matrix.rows * (matrix.flags & 1)
        yield from [2] * matrix.columns * (matrix.flags >> 1 & 1)


def planes() -> Made:
    """Of byte planes under Huffman codes: numbers of classes, lengths of codes."""
    rng = Random("edges of planes")
    short = {symbol: 2 for symbol in (3, 90, 200, 255)}
    long = {symbol: min(symbol + 1, 12) for symbol in range(13)}
    longer = {symbol: min(symbol + 1, 13) for symbol in range(14)}

    def case(name: str, kinds: list[planar.Class], beyond: int = 0) -> CodecCase:
        run, runs = 5, 37
        chosen = [rng.randrange(len(kinds)) for _ in range(runs)]
        chosen[:3] = [len(kinds) - 1] * 3
        plane = np.empty(run * runs - 2, np.uint8)
        for r, c in enumerate(chosen):
            part = plane[r * run : (r + 1) * run]
            options = {0: range(256), 1: [kinds[c].symbol], 2: [s for s, _ in kinds[c].lengths]}
            part[:] = [rng.choice(list(options[kinds[c].kind])) for _ in part]
        section = planar.class_section(plane, kinds, run, chosen)
        if beyond:
            section = bytes([section[0] | beyond]) + section[1:]
        model = bytes(planar.model("byte", run, [kinds], False))
        payload = planar.chunk([(3, section)])
        return CodecCase(f"edge-planes-{name}", model, payload, max(plane.size, len(payload)))

    def fitted(found: CodecCase, size: int = 5 * 37 - 2) -> CodecCase:
        return replace(found, size=size)

    constants = [planar.Class(1, symbol=7 * i) for i in range(18)]
    for count in (1, 2, 3, 4, 5, 15, 16, 17):
        yield fitted(case(f"{count}-classes", constants[:count]))
    yield fitted(case("class-3-of-3", constants[:3], 3))
    yield fitted(case("class-5-of-5", constants[:5], 15))
    mixed = [planar.Class.huffman(short), constants[2], planar.Class.huffman(long)]
    yield fitted(case("huffman", mixed))
    for name, code in (("12", long), ("13", longer)):
        yield fitted(case(f"length-{name}", [planar.Class.huffman(code), constants[1]]))
    good = fitted(case("model", mixed[:1]))
    at = 8 + 1 + 1  # the first symbol
    for name, first, last in (("one-symbol", 3, 3), ("backwards", 4, 3), ("two", 3, 4)):
        model = good.model[:at] + bytes([first, last]) + good.model[at + 2 :]
        yield replace(good, name=f"edge-planes-{name}", model=model)
    single = good.model[:at] + bytes([3, 4, 0x01])
    yield replace(good, name="edge-planes-one-of-two", model=single)
    noise = planar.chunk([(0, rng.randbytes(9))])
    yield replace(good, name="edge-planes-raw", payload=noise, size=14)
    words = bytes(planar.model("word16", 3, [constants[:2], constants[:1]], True))
    halves = [(1, b"\2"), (0, rng.randbytes(40))]
    yield CodecCase("edge-planes-words", words, planar.chunk(halves), 80)


def fields() -> Made:
    """Of blocks: numbers of fields, orders and what these need."""
    rng = Random("edges of blocks")
    blocks = 96

    def part(size: int) -> bytes:
        kinds = [rng.randbytes(size) for _ in range(12)]
        return b"".join((kinds * blocks)[:blocks])

    def case(name: str, *listed: tuple[int, int, int, int]) -> CodecCase:
        model = bytes([5, len(listed)]) + b"".join(struct.pack("<HBBII", *one, 0) for one in listed)
        stored = [zstd(part(one[0])) for one in listed]
        heads = b"".join(struct.pack("<BI", 1, len(one)) for one in stored)
        size = blocks * sum(one[0] for one in listed)
        return CodecCase(f"edge-blocks-{name}", model, heads + b"".join(stored), size)

    plain, two = (16, 0, 0, 0), (2, 0, 0, 0)
    for count in (1, 2, 7, 8, 9):
        yield case(f"{count}-fields", *[plain] * count)
    yield replace(case("no-fields", plain), model=bytes([5, 0]))
    for width in (0, 1, 2, 3, 4, 5, 7, 8, 9, 16):
        yield case(f"width-{width}", plain, (144, 1, width, 1 if width else 3))
        yield case(f"columns-{width}", plain, (48, 1, width, 6))
    yield case("width-beside", plain, (4, 1, 8, 3))
    yield case("odd-columns", plain, (4, 1, 4, 7))
    for order in range(5):
        yield case(f"columns-of-{order}", plain, two, two, (16, order, 0, 1))
        yield case(f"width-of-{order}", plain, two, two, (16, order, 1, 0))
        yield case(f"order-{order}", plain, two, two, (16, order, 0, 0))
        yield case(f"order-{order}-alone", (16, order, 0, 0), plain)
        yield case(f"order-{order}-after-one", two, (16, order, 0, 0))
        yield case(f"order-{order}-after-others", (4, 0, 0, 0), two, (16, order, 0, 0))
        yield case(f"order-{order}-after-four", two, (4, 0, 0, 0), (16, order, 0, 0))
        yield case(f"order-{order}-of-bytes", (1, 0, 0, 0), (1, 0, 0, 0), (16, order, 0, 0))
    yield case("empty-field", plain, (0, 0, 0, 0))
    clipped = [*range(-3, 4), *range(125, 131), *range(252, 259)]
    rng.shuffle(clipped)
    steps = (clipped * blocks)[:blocks]
    pairs = [struct.pack("<HH", 0x4000, 0x4000 + 64 * (step - 128)) for step in steps]
    parts = [b"".join(pair[at : at + 2] for pair in pairs) for at in (0, 2)]
    stored = [zstd(one) for one in (*parts, part(16))]
    heads = b"".join(struct.pack("<BI", 1, len(one)) for one in stored)
    good = case("clipped", two, two, (16, 3, 0, 0))
    yield replace(good, payload=heads + b"".join(stored))


def sparse() -> Made:
    """Of sparse elements: bands and their bounds, parts of one byte and of none."""
    rng = Random("edges of sparse elements")

    def case(name: str, head: bytes, n: int, modes: tuple[int, int] = (0, 0)) -> CodecCase:
        used = [rng.randrange(4) == 0 for _ in range(n)] if modes[1] == 0 else [False] * n
        if modes == (1, 0):
            used = [i == 3 for i in range(n)]
        bits = sum(one << i for i, one in enumerate(used)).to_bytes(-(-n // 8), "little")
        size = head[0] % 128
        parts = [bits, rng.randbytes(sum(used) * size)]
        parts = [zstd(part) if mode else part for part, mode in zip(parts, modes, strict=True)]
        heads = [
            bytes([m]) + len(p).to_bytes(4, "little") for m, p in zip(modes, parts, strict=True)
        ]
        payload = sum(used).to_bytes(4, "little") + b"".join(heads) + b"".join(parts)
        return CodecCase(f"edge-sparse-{name}", b"\6" + head + bytes(8), payload, n * size)

    def bands(columns: int, first: int) -> bytes:
        return b"\x82" + columns.to_bytes(4, "little") + bytes([first])

    yield case("plain", b"\2", 77)
    for columns, first, n in (
        (1, 0, 17),
        (1, 7, 31),
        (5, 3, 99),
        (5, 3, 94),
        (5, 3, 95),
        (5, 0, 88),
    ):
        yield case(f"bands-{columns}-{first}-{n}", bands(columns, first), n)
    yield case("no-columns", bands(0, 0), 40)
    yield case("rows-beyond", bands(1, 8), 40)
    yield case("most-columns", bands(1 << 24, 7), 40)
    yield case("columns-beyond", bands((1 << 24) + 1, 0), 40)
    yield replace(case("no-size", b"\x80" + bands(3, 0)[1:], 40), size=40)
    yield case("one-byte", b"\x08", 8, (1, 0))
    yield case("empty-part", b"\x08", 8, (0, 1))


def all_cases(_: Random) -> Made:
    """All of them."""
    yield from notation_edges.all_cases()
    yield from sparse()
    yield from changes()
    yield from matrices()
    yield from planes()
    yield from fields()
