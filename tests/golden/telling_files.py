"""Chunks of FLAC files and DEFLATE streams for `make_telling.py`: fields at bounds, odd frames."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from random import Random
from unittest import mock

import numpy as np
import zstandard
from codec_cases import CodecCase
from flac_files import flac_frames
from reference import audio, deflate, flac
from reference.reading import Refused

from densor.codec.audio.flac_encoder import FlacCoder
from densor.codec.audio.layout import Layout
from densor.codec.levels import level_settings

Made = Iterator[CodecCase]


# FLAC

HEAD = struct.Struct("<6I")


def flac_chunks(rng: Random) -> Made:
    """Frames of some files, what they say changed byte by byte: as long as they then are."""
    for number in range(40):
        channels, depth = rng.choice((1, 2, 2, 3)), rng.choice((8, 12, 16, 20, 24))
        data = np.frombuffer(flac_frames(rng, channels, depth, rng.choice((1, 2))), np.uint8)
        if data.size > 700:
            continue
        coder = FlacCoder(Layout(channels, (depth + 7) // 8), depth, level_settings(3))
        coder.decide([coder.count(data)])
        payload = bytes(coder.encode(data, 0))
        if payload == data.tobytes():
            continue
        case = CodecCase(f"telling-flac-{number}", coder.model(), payload, data.size)
        yield case
        yield from _said_otherwise(case, rng)
        if number % 5 == 0:
            yield from _sizes(case)


def _said_otherwise(case: CodecCase, rng: Random) -> Made:
    """What the frames say with a byte more, less, or another one."""
    count, heads, params, weights, packed, tail = HEAD.unpack_from(case.payload)
    total = heads + params + 2 * weights + tail
    data = zstandard.decompress(case.payload[24 : 24 + packed], total)
    rest = case.payload[24 + packed :]

    def case_of(name: str, sizes: tuple[int, int, int, int], said: bytes) -> CodecCase:
        stored = zstandard.compress(said)
        payload = HEAD.pack(count, *sizes[:3], len(stored), sizes[3]) + stored + rest
        return as_long(replace(case, name=f"{case.name}-{name}", payload=payload))

    sizes = heads, params, weights, tail
    for place in range(total):
        near = (data[place] + 1) % 256, (data[place] - 1) % 256
        for value in {*rng.choices(near, k=1), *rng.sample(range(256), 2), data[place] ^ 16}:
            said = data[:place] + bytes([value]) + data[place + 1 :]
            yield case_of(f"{place}-{value}", sizes, said)
    yield case_of(
        "heads-more", (heads + 1, params, weights, tail), data[:heads] + b"\0" + data[heads:]
    )
    yield case_of(
        "heads-less", (heads - 1, params, weights, tail), data[: heads - 1] + data[heads:]
    )
    yield case_of("tail", (heads, params, weights, tail + 2), data + b"ab")
    yield case_of("short", sizes, data[:-1])
    for place in (0, 3, 5):  # bytes of a frame that are left out, which moves all others
        said = data[:place] + data[place + 1 :]
        yield case_of(f"without-{place}", (heads - 1, params, weights, tail), said)
        said = data[:place] + bytes([rng.randrange(256)]) + data[place:]
        yield case_of(f"with-{place}", (heads + 1, params, weights, tail), said)


def as_long(case: CodecCase) -> CodecCase:
    """A case with the length of what its frames make; itself where they make none."""
    made: list[int] = []
    frames = flac.frames

    def noted(*arguments: object) -> bytes:
        found = frames(*arguments)  # type: ignore[arg-type]
        made.append(len(found))
        return found

    with mock.patch.object(flac, "frames", noted), suppress(Refused, IndexError):
        audio.parse_model(case.model).decode(case.payload, case.size)
    if not made:
        return case
    length = made[0] + HEAD.unpack_from(case.payload)[5]
    return replace(case, size=length) if length >= len(case.payload) else case


def _sizes(case: CodecCase) -> Made:
    """The head of a chunk, field by field."""
    fields = HEAD.unpack_from(case.payload)
    for i, value in enumerate(fields):
        for other in (0, 1, value - 1, value + 1, 64 + 16 * case.size, 1 << 20, (1 << 25) + 1):
            if other < 0:
                continue
            changed = [*fields[:i], other, *fields[i + 1 :]]
            payload = HEAD.pack(*changed) + case.payload[24:]
            yield replace(case, name=f"{case.name}-field-{i}-{other}", payload=payload)
    for length in (0, 23, 24, 25):
        yield replace(case, name=f"{case.name}-cut-{length}", payload=case.payload[:length])
    for place in range(min(12, len(case.model))):
        for value in (0, 1, 2, 3, 4, 5, 8, 9, 12, 16, 20, 24):
            model = case.model[:place] + bytes([value]) + case.model[place + 1 :]
            yield replace(case, name=f"{case.name}-model-{place}-{value}", model=model)
    for length in (1, 2, 3, 4):
        yield replace(case, name=f"{case.name}-model-{length}", model=case.model[:length])
    for change in (-1, 1):
        yield replace(case, name=f"{case.name}-size-{change}", size=case.size + change)


# DEFLATE

FIELDS = struct.Struct("<BIIIB4B2s")
PLAIN_MODEL = b"\x0f" + bytes(8)


def deflate_chunks(rng: Random) -> Made:
    """Streams of all settings, rows under all filters, fields at their bounds."""
    yield from deflate_bounds(rng)
    for number in range(60):
        form = number % 3
        row, pixel = rng.choice(((0, 0), (0, 0), (5, 1), (9, 3), (4, 4))) if form else (0, 0)
        rows = rng.choice((1, 3, 8))
        settings = (
            rng.randrange(1, 10),
            rng.randrange(5),
            rng.randrange(9, 16),
            rng.randrange(1, 10),
        )
        piece = rng.choice((1, 2, 7, 40)) if form == deflate.PNG else 0
        header = rng.randbytes(2) if form else b"\0\0"
        filters = bytes(rng.randrange(5) for _ in range(rows)) if row else b""
        phrase = bytes(rng.choices(range(40 if row else 9), k=rng.choice((30, 300, 700))))
        content = (phrase * 99)[: rows * row] if row else (phrase * 4)[:1500]
        fields = form, len(filters) + len(content), row, piece, pixel, *settings, header
        case = deflate_case(f"telling-deflate-{number}", fields, filters, content)
        if len(case.payload) > case.size:
            continue
        yield case
        if number in (2, 5, 9, 10, 11, 14):
            yield from _deflate_edges(case)


def deflate_case(
    name: str, fields: tuple[int | bytes, ...], filters: bytes, content: bytes
) -> CodecCase:
    """A chunk whose filters are raw, and whose content is whatever is shorter."""
    packed = zstandard.compress(content)
    mode, stored = (1, packed) if len(packed) < len(content) else (0, content)
    heads = struct.pack("<BIBI", 0, len(filters), mode, len(stored))
    payload = FIELDS.pack(*fields) + heads + filters + stored
    form, _, row, piece, pixel, level, strategy, window, memory, _ = fields
    assert isinstance(row, int) and isinstance(pixel, int) and isinstance(piece, int)
    raw = deflate._filtered(filters, content, row, pixel) if row else content
    deflater = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)  # type: ignore
    size = len(deflater.compress(raw) + deflater.flush()) + (6 if form else 0)
    if form == deflate.PNG:
        size += 12 * -(-size // piece)
    return CodecCase(name, PLAIN_MODEL, payload, size)


def deflate_bounds(rng: Random) -> Made:
    """Settings, rows and sizes a step within what there may be, and a step beyond."""
    row, rows = 5, 8
    pixels = bytes(rng.choices(range(9), k=row * rows))
    every = bytes([0, 1, 2, 3, 4, 4, 3, 1])
    for kinds in (every, bytes([4] * 8), bytes([1] * 8), every[:7] + b"\5"):
        for pixel in (0, 1, 3, 5, 6):
            fields = deflate.PNG, rows * (row + 1), row, 3, pixel, 6, 0, 15, 8, b"\x78\x01"
            name = f"telling-deflate-rows-{pixel}-{kinds.hex()}"
            with suppress(IndexError):
                yield deflate_case(name, fields, kinds, pixels)
    for level, strategy, window, memory in (
        (0, 0, 15, 8),
        (1, 4, 9, 1),
        (9, 3, 14, 9),
        (10, 0, 15, 8),
        (6, 5, 15, 8),
        (6, 0, 8, 8),
        (6, 0, 16, 8),
        (6, 0, 15, 0),
        (6, 0, 15, 10),
    ):
        good = deflate.PNG, 40, 0, 2, 0, min(level, 9), 0, 15, 8, b"ab"
        case = deflate_case("", good, b"", pixels)
        with suppress(ValueError, zlib.error):
            fields = (*good[:5], level, strategy, window, memory, b"ab")
            case = deflate_case("", fields, b"", pixels)
        fields = (*good[:5], level, strategy, window, memory, b"ab")
        payload = FIELDS.pack(*fields) + case.payload[FIELDS.size :]
        name = f"telling-deflate-settings-{level}-{strategy}-{window}-{memory}"
        yield replace(case, name=name, payload=payload)
    plain = deflate_case("", (deflate.PNG, 40, 0, 2, 0, 6, 0, 15, 8, b"ab"), b"", pixels)
    for size, original in ((1032 * 90, 90), (1032 * 90 + 1, 90), (1 << 26, 70000)):
        payload = plain.payload[:1] + struct.pack("<I", size) + plain.payload[5:]
        name = f"telling-deflate-raw-{size}"
        yield replace(plain, name=name, payload=payload, size=original)
    payload = plain.payload[:1] + struct.pack("<I", (1 << 26) + 1) + plain.payload[5:]
    yield replace(plain, name="telling-deflate-raw-beyond", payload=payload, size=70000)
    packed = zstandard.compress(b"")
    heads = struct.pack("<BIBI", 1, len(packed), 0, len(pixels))
    payload = plain.payload[: FIELDS.size] + heads + packed + pixels
    yield replace(plain, name="telling-deflate-empty-part", payload=payload)


def _deflate_edges(case: CodecCase) -> Made:
    for place in range(FIELDS.size + 10):
        now = case.payload[place]
        for value in {*range(17), 255, (now + 1) % 256, (now - 1) % 256} - {now}:
            payload = case.payload[:place] + bytes([value]) + case.payload[place + 1 :]
            yield replace(case, name=f"{case.name}-at-{place}-{value}", payload=payload)
    filters = case.payload[FIELDS.size + 10 :]
    if filters:
        for value in (4, 5, 255):
            payload = case.payload[: FIELDS.size + 10] + bytes([value]) + filters[1:]
            yield replace(case, name=f"{case.name}-filter-{value}", payload=payload)
    for size in (1, 1032, 1033, 60000):
        for original in (58, 59, 1, 2):
            payload = case.payload[:1] + struct.pack("<I", size) + case.payload[5:]
            name = f"{case.name}-raw-{size}-{original}"
            yield replace(case, name=name, payload=payload[:original], size=original)
    payload = case.payload[:1] + struct.pack("<I", (1 << 26) + 1) + case.payload[5:]
    yield replace(case, name=f"{case.name}-most", payload=payload, size=1 << 26)
    for length in (1, 2, 8, 9, 10):
        model = (PLAIN_MODEL + b"\0")[:length]
        yield replace(case, name=f"{case.name}-model-{length}", model=model)
    for change in (-1, 1):
        yield replace(case, name=f"{case.name}-size-{change}", size=case.size + change)
    for extra in (b"\0",):
        yield replace(case, name=f"{case.name}-behind", payload=case.payload + extra)
    yield replace(case, name=f"{case.name}-cut", payload=case.payload[:-1])
