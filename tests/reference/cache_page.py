"""Pages of key-value caches, after docs/format/cache_page.md and nothing else."""

import math
from dataclasses import dataclass

import numpy as np
import xxhash

from reference import container
from reference.entries import ELEMENT_SIZE
from reference.reading import Cursor, Refused, fail

SINES = [round(math.sin(2 * math.pi * k / 4096) * 2**14) for k in range(4096)]  # none is a tie


@dataclass
class Page:
    """What a page holds: the bytes of [batch, heads, tokens, channels]."""

    which: int
    layer: int
    first: int
    shape: tuple[int, ...]
    data: bytes


def decode(page: bytes) -> Page:
    """A page."""
    if xxhash.xxh3_128_digest(page[:-16]) != page[-16:]:
        raise Refused("checksum", "a page")
    cursor = Cursor(page[:-16])
    if cursor.take(8) != b"\x89DPAGE\r\n":
        fail("no page")
    version, which, way, layer, first, *shape = cursor.fields("<HBBIQIIII")
    if version != 1 or which > 1 or way > 2:
        fail("the head of a page")
    if way == 2:
        data = _rotated(cursor, shape)
    else:
        (entry,) = container.decode(cursor.all())
        stored = shape if way == 0 else [*shape[:2], shape[3], shape[2]]
        if entry.meta.get("host") != "torch" or entry.meta["shape"] != stored:
            fail("a page holds something else than it says")
        width = ELEMENT_SIZE[entry.meta["dtype"]]
        rows = np.frombuffer(entry.data, np.uint8).reshape(*stored, width)
        data = entry.data if way == 0 else rows.swapaxes(2, 3).tobytes()
    return Page(which, layer, first, tuple(shape), data)


def _rotated(cursor: Cursor, shape: list[int]) -> bytes:
    """Way 2."""
    rows, tokens, channels, exponent, position = cursor.fields("<IIIhq")
    if [shape[0] * shape[1], *shape[2:]] != [rows, tokens, channels] or channels % 2:
        fail("means of another shape")
    half = channels // 2
    steps = cursor.fields(f"<{half}I")
    means = np.array(cursor.fields(f"<{rows * channels}h")).reshape(rows, channels).tolist()
    codes = np.array(cursor.fields(f"<{rows * channels}B")).reshape(rows, channels).tolist()
    (entry,) = container.decode(cursor.all())
    moved = np.frombuffer(entry.data, "<u2").tolist()
    if (
        entry.kind != "array"
        or entry.meta["dtype"] != "U16"
        or len(moved) != rows * tokens * channels
    ):
        fail("a page holds something else than it says")
    expected = []
    for row in range(rows):
        for token in range(tokens):
            turned = [
                _predicted(means[row], i, steps[i % half], position + token)
                for i in range(channels)
            ]
            expected += [_expected(p, codes[row][i], exponent) for i, p in enumerate(turned)]
    order = sorted(range(len(expected)), key=lambda i: expected[i][2])  # stable
    bits = [0] * len(expected)
    for place, value in zip(order, moved, strict=True):
        magnitude, negative, _ = expected[place]
        u = (value >> 8 & 127) << 6 | (value >> 6 & 3) << 13 | value & 63
        sign = (value >> 15) ^ negative
        bits[place] = sign << 15 | (u + magnitude - 6144) % (1 << 15)
    return np.array(bits, "<u2").tobytes()


def _predicted(means: list[int], i: int, step: int, position: int) -> int:
    half = len(means) // 2
    k = (position * step % (1 << 32)) >> 20
    s, c = SINES[k], SINES[(k + 1024) % 4096]
    a, b = means[i % half], means[i % half + half]
    return (a * c - b * s if i < half else a * s + b * c) >> 14


def _expected(p: int, code: int, exponent: int) -> tuple[int, int, int]:
    """Expected magnitude, whether the prediction is negative, and the context."""
    if code > 192:
        fail("the code of a scale")
    d = max(1, ((8 + code % 8) << code // 8) // 8)
    level = 2 * abs(p) + d
    n = level.bit_length() - 1
    mantissa = (level << 7 >> n) % 128
    return (n - 1 + exponent + 127) * 128 + mantissa, int(p < 0), min(63, 8 * abs(p) // d)
