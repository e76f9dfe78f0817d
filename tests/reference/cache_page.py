"""Pages of key-value caches, after docs/format/cache_page.md and nothing else."""

import math
from dataclasses import dataclass
from typing import NamedTuple

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


class Expected(NamedTuple):
    """Of an element: its magnitude, whether it is negative, and how much the prediction says."""

    magnitude: int
    negative: int
    context: int


def decode(page: bytes) -> Page:
    """A page."""
    if xxhash.xxh3_128_digest(page[:-16]) != page[-16:]:
        raise Refused("checksum", "a page")
    cursor = Cursor(page[:-16])
    if cursor.take(8) != b"\x89DPAGE\r\n":
        fail("no page")
    version, which, way, layer, first, *shape = cursor.fields("<HBBIQIIII")
    if version != 1 or which > 1 or way > 3:
        fail("the head of a page")
    if way >= 2:
        data = _rotated(cursor, shape, way)
    else:
        (entry,) = container.decode(cursor.all())
        stored = shape if way == 0 else [*shape[:2], shape[3], shape[2]]
        if entry.meta.get("host") != "torch" or entry.meta["shape"] != stored:
            fail("a page holds something else than it says")
        width = ELEMENT_SIZE[entry.meta["dtype"]]
        rows = np.frombuffer(entry.data, np.uint8).reshape(*stored, width)
        data = entry.data if way == 0 else rows.swapaxes(2, 3).tobytes()
    return Page(which, layer, first, tuple(shape), data)


def _rotated(cursor: Cursor, shape: list[int], way: int) -> bytes:
    """Ways 2 and 3."""
    rows, tokens, channels, exponent, position = cursor.fields("<IIIhq")
    if [shape[0] * shape[1], *shape[2:]] != [rows, tokens, channels] or channels % 2:
        fail("means of another shape")
    half = channels // 2
    steps = cursor.fields(f"<{half}I")
    means = np.array(cursor.fields(f"<{rows * channels}h")).reshape(rows, channels).tolist()
    codes = np.array(cursor.fields(f"<{rows * channels}B")).reshape(rows, channels).tolist()
    expected = []
    for row in range(rows):
        for token in range(tokens):
            turned = [
                _predicted(means[row], i, steps[i % half], position + token)
                for i in range(channels)
            ]
            expected += [_expected(p, codes[row][i], exponent) for i, p in enumerate(turned)]
    bits = _sorted(cursor, expected) if way == 2 else _coded(cursor, expected)
    return np.array(bits, "<u2").tobytes()


def _sorted(cursor: Cursor, expected: list[Expected]) -> list[int]:
    """Way 2."""
    (entry,) = container.decode(cursor.all())
    moved = np.frombuffer(entry.data, "<u2").tolist()
    if entry.kind != "array" or entry.meta["dtype"] != "U16" or len(moved) != len(expected):
        fail("a page holds something else than it says")
    order = sorted(range(len(expected)), key=lambda i: min(63, expected[i].context))  # stable
    bits = [0] * len(expected)
    for place, value in zip(order, moved, strict=True):
        u = (value >> 8 & 127) << 6 | (value >> 6 & 3) << 13 | value & 63
        bits[place] = _element(value >> 15, u, expected[place])
    return bits


def _coded(cursor: Cursor, expected: list[Expected]) -> list[int]:
    """Way 3."""
    n = len(expected)
    q = (n + 3) // 4
    bounds = cursor.fields("<7B")
    (count,) = cursor.fields("<I")
    if count > n:
        fail("more escapes than elements")
    escapes = list(cursor.fields(f"<{count}H"))
    codes = [_code(cursor) for _ in range(8)]
    sizes = cursor.fields("<4I")
    packed = np.frombuffer(cursor.take(3 * q), np.uint8).reshape(3, q)
    lows = [*(packed & 63), packed[0] >> 6 | packed[1] >> 6 << 2 | packed[2] >> 6 << 4]
    bits: list[int] = []
    for stream in range(4):
        part = expected[stream * q : (stream + 1) * q]
        groups = [sum(one.context >= bound for bound in bounds) for one in part]
        symbols = _symbols(cursor.take(sizes[stream]), [codes[group] for group in groups])
        for symbol, low, one in zip(symbols, lows[stream].tolist(), part, strict=False):
            if symbol % 128:
                bits.append(_element(symbol >> 7, symbol % 128 << 6 | low, one))
            elif escapes:
                bits.append(escapes.pop(0))
            else:
                fail("too few escapes")
    if escapes or cursor.all() != bytes(8):
        fail("the end of a page")
    return bits


def _code(cursor: Cursor) -> dict[str, int]:
    """Symbols by code, the first bit first."""
    first, last = cursor.fields("<2B")
    if first > last:
        fail("a code")
    if first == last:
        return {"": first}
    count = last - first + 1
    lengths = [x for byte in cursor.take((count + 1) // 2) for x in (byte & 15, byte >> 4)][:count]
    if max(lengths) > 11 or sum(2 ** (11 - x) for x in lengths if x) != 2**11:
        fail("lengths of a code")
    found = {}
    code = length = 0
    for longer, symbol in sorted((x, first + i) for i, x in enumerate(lengths) if x):
        code <<= longer - length
        length = longer
        found[f"{code:0{length}b}"] = symbol
        code += 1
    return found


def _symbols(stream: bytes, codes: list[dict[str, int]]) -> list[int]:
    text = "".join(f"{byte:08b}"[::-1] for byte in stream)
    at = 0
    found = []
    for code in codes:
        length = 0
        while text[at : at + length] not in code:
            length += 1
            if length > 11 or at + length > len(text):
                fail("a stream ends too early")
        found.append(code[text[at : at + length]])
        at += length
    if (at + 7) // 8 != len(stream):
        fail("a stream is longer than its symbols")
    return found


def _element(sign: int, u: int, one: Expected) -> int:
    return (sign ^ one.negative) << 15 | (u + one.magnitude - 6144) % (1 << 15)


def _predicted(means: list[int], i: int, step: int, position: int) -> int:
    half = len(means) // 2
    k = (position * step % (1 << 32)) >> 20
    s, c = SINES[k], SINES[(k + 1024) % 4096]
    a, b = means[i % half], means[i % half + half]
    return (a * c - b * s if i < half else a * s + b * c) >> 14


def _expected(p: int, code: int, exponent: int) -> Expected:
    if code > 192:
        fail("the code of a scale")
    d = max(1, ((8 + code % 8) << code // 8) // 8)
    level = 2 * abs(p) + d
    n = level.bit_length() - 1
    mantissa = (level << 7 >> n) % 128
    return Expected((n - 1 + exponent + 127) * 128 + mantissa, int(p < 0), 8 * abs(p) // d)
