"""A slow writer of byte planes by Huffman, after section 7 of container.md and nothing else.

It makes payloads that the package's own writer would never choose: any map of classes, any code.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from reference.huffman import canonical

Bytes = npt.NDArray[np.uint8]
Lengths = dict[int, int]  # symbol to code length

RAW, CONSTANT, HUFFMAN = range(3)
PLANE_RAW, PLANE_CONSTANT, PLANE_ZSTD, PLANE_CLASSES = range(4)
LAYOUTS = {"byte": 1, "bf16": 2, "word16": 3, "fp32": 4, "word32": 5, "fp64": 6, "word64": 7}
SIZE = {"byte": 1, "bf16": 2, "word16": 2, "fp32": 4, "word32": 4, "fp64": 8, "word64": 8}
WITH_DELTA = ("byte", "word16", "word32", "word64")


@dataclass(frozen=True)
class Class:
    """A class of a plane."""

    kind: int
    symbol: int = 0
    lengths: tuple[tuple[int, int], ...] = ()  # symbol, code length

    @classmethod
    def huffman(cls, lengths: Lengths) -> "Class":
        return cls(HUFFMAN, lengths=tuple(sorted(lengths.items())))


def planes_of(layout: str, elements: npt.NDArray[Any]) -> list[Bytes]:
    """The split of the table of layouts. `elements`: unsigned integers."""
    bits = 8 * SIZE[layout]
    values = [int(v) for v in elements]
    rows: list[tuple[int, ...]]
    if layout == "bf16":
        rows = [((v >> 7) & 255, ((v >> 8) & 128) | (v & 127)) for v in values]
    elif layout == "fp32":
        rows = [
            ((v >> 23) & 255, ((v >> 24) & 128) | ((v >> 16) & 127), (v >> 8) & 255, v & 255)
            for v in values
        ]
    elif layout == "fp64":
        rows = []
        for v in values:
            e = (((v >> 52) & 2047) - 896) % 2048
            head = (e & 255, ((v >> 56) & 128) | ((v >> 45) & 127), (e >> 8 << 5) | (v >> 40) & 31)
            rows.append(head + tuple((v >> shift) & 255 for shift in (32, 24, 16, 8, 0)))
    else:
        rows = [tuple((v >> shift) & 255 for shift in range(bits - 8, -8, -8)) for v in values]
    return [np.array(plane, np.uint8) for plane in zip(*rows, strict=True)]


def differences(layout: str, elements: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What DELTA puts in the place of the elements."""
    modulus = 1 << 8 * SIZE[layout]
    previous, found = 0, []
    for v in map(int, elements):
        d = (v - previous) % modulus
        found.append(2 * d if d < modulus // 2 else 2 * (modulus - d) - 1)
        previous = v
    return np.array(found, elements.dtype)


def model(
    layout: str, run: int, planes: Sequence[Sequence[Class]], delta: bool = False
) -> bytearray:
    """The payload of a MODEL frame."""
    out = bytearray([2, LAYOUTS[layout], delta, SIZE[layout]]) + run.to_bytes(4, "little")
    for classes in planes:
        out.append(len(classes))
        for one in classes:
            out.append(one.kind)
            if one.kind == CONSTANT:
                out.append(one.symbol)
            elif one.kind == HUFFMAN:
                out += pack_lengths(dict(one.lengths))
    return out


def pack_lengths(lengths: Lengths) -> bytes:
    """First symbol, last symbol, code lengths of 4 bits each."""
    first, last = min(lengths), max(lengths)
    halves = [lengths.get(symbol, 0) for symbol in range(first, last + 1)] + [0]
    pairs = zip(halves[::2], halves[1::2], strict=False)
    return bytes([first, last, *(low | high << 4 for low, high in pairs)])


def chunk(planes: Sequence[tuple[int, bytes]]) -> bytes:
    """The payload of a planar CHUNK. `planes`: mode and section."""
    heads = [bytes([mode]) + len(section).to_bytes(4, "little") for mode, section in planes]
    return b"".join(heads) + b"".join(section for _, section in planes)


def class_section(
    plane: Bytes, classes: Sequence[Class], run: int, class_of_run: Sequence[int]
) -> bytes:
    """A plane stored by classes."""
    runs = [plane[i : i + run] for i in range(0, len(plane), run)]
    assert len(runs) == len(class_of_run)
    members = [
        np.concatenate(
            [np.empty(0, np.uint8)]
            + [data for data, c in zip(runs, class_of_run, strict=True) if c == number]
        )
        for number in range(len(classes))
    ]
    streams = ["", "", "", ""]
    raw = b""
    coded = False
    for one, data in zip(classes, members, strict=True):
        if one.kind == RAW:
            raw += data.tobytes()
        elif one.kind == HUFFMAN and len(data):
            coded = True
            codes = canonical(dict(one.lengths))
            m, q = len(data), -(-len(data) // 4)
            for j in range(4):
                piece = data[min(j * q, m) : min((j + 1) * q, m)]
                streams[j] += "".join(codes[int(symbol)] for symbol in piece)
    packed = [pack_bits(stream) for stream in streams]
    sizes = b"".join(len(stream).to_bytes(4, "little") for stream in packed) if coded else b""
    return class_map(class_of_run, len(classes)) + sizes + raw + b"".join(packed) + bytes(8)


def class_map(class_of_run: Sequence[int], classes: int) -> bytes:
    """Numbers of 0, 1, 2 or 4 bits, the first in the lowest bits."""
    width = 0 if classes == 1 else 1 if classes == 2 else 2 if classes <= 4 else 4
    total = sum(number << i * width for i, number in enumerate(class_of_run)) if width else 0
    return total.to_bytes((len(class_of_run) * width + 7) // 8, "little")


def pack_bits(bits: str) -> bytes:
    """Bit k of the text becomes bit k mod 8 of byte k div 8."""
    return int("0" + bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")


def kraft(lengths: Sequence[int]) -> float:
    """The sum of 2^-length, 1 for a complete code."""
    return sum(2.0**-length for length in lengths)


def huffman_cost(counts: Sequence[int]) -> int:
    """Bits of an optimal prefix code without a limit (Huffman 1952): the sum of all inner nodes."""
    heap = [c for c in counts if c > 0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


def limited_cost(counts: Sequence[int], limit: int) -> int:
    """Bits of an optimal code of at most `limit` bits, by the coin collector's way.

    Larmore and Hirschberg 1990: from coins of value 2^-1 to 2^-limit for each symbol, buy n - 1
    as cheaply as can be.
    """
    coins = sorted((c,) for c in counts if c > 0)
    n = len(coins)
    packages: list[tuple[int, ...]] = []
    for _ in range(limit):
        merged = sorted(coins + packages, key=lambda coin: coin[0])
        packages = [(a[0] + b[0],) for a, b in zip(merged[::2], merged[1::2], strict=False)]
    return sum(package[0] for package in packages[: n - 1])


def huffman_lengths(counts: dict[int, int]) -> Lengths:
    """Code lengths of an optimal code without a limit; at least two symbols."""
    serial = count()
    heap = [(c, next(serial), {symbol: 0}) for symbol, c in counts.items() if c > 0]
    heapq.heapify(heap)
    while len(heap) > 1:
        a, _, left = heapq.heappop(heap)
        b, _, right = heapq.heappop(heap)
        joined = {symbol: depth + 1 for symbol, depth in (left | right).items()}
        heapq.heappush(heap, (a + b, next(serial), joined))
    return heap[0][2]


def random_complete_code(rng: np.random.Generator, symbols: int, limit: int = 12) -> Lengths:
    """A complete code, by splitting leaves at random."""
    depths = [1, 1]
    while len(depths) < symbols:
        open_leaves = [i for i, depth in enumerate(depths) if depth < limit]
        i = int(rng.choice(open_leaves))
        depths[i] += 1
        depths.append(depths[i])
    chosen = rng.choice(256, symbols, replace=False)
    return {int(s): depth for s, depth in zip(chosen, depths, strict=True)}
