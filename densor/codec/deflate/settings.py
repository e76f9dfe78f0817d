"""The settings of zlib that a stream was made with, found by making it again."""

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.deflate.framing import HEADER
from densor.codec.deflate.strategies import DEFAULT, FILTERED, FIXED, HEAP, HUFFMAN, RLE
from densor.entropy.deferred import deferred
from densor.errors import FormatError

_deflate = deferred("densor.codec.deflate.kernels", "deflate")

FIELDS = struct.Struct("<4B")
_SLACK = 64  # bytes that the kernel wants behind a stream
_USUAL_MEMORY = (8, 9)
_FIXED_CODES = 1  # a block type
_MEMORY = (7, 6, 5, 4, 3, 2, 1)


class Settings(NamedTuple):
    """As `deflateInit2` of zlib takes them."""

    level: int
    strategy: int
    window: int  # bits
    memory: int

    def pack(self) -> bytes:
        """As they stand in a payload."""
        return FIELDS.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "Settings":
        """From a payload; FormatError for impossible ones."""
        found = cls(*FIELDS.unpack(data))
        if (
            not 1 <= found.level <= 9
            or found.strategy > FIXED
            or not 9 <= found.window <= 15
            or not 1 <= found.memory <= 9
        ):
            raise FormatError("settings of a DEFLATE stream are impossible")
        return found


def bound(size: int) -> int:
    """Bytes that a stream of so many takes, at most: nine bits for each, and heads of blocks."""
    return size + size // 7 + 128


def made(settings: Settings, content: Bytes, most: int, expected: bytes = b"") -> Bytes | None:
    """The stream that zlib makes of `content`; None where it takes more than `most` bytes.

    `expected`: that stream, where it is known: None as soon as another one comes.
    """
    level, strategy, window, memory = settings
    out = np.empty(most + _SLACK, np.uint8)
    symbols = 1 << (memory + 6)
    size = _deflate(
        *(content, level, strategy, window, memory, np.frombuffer(expected, np.uint8), out),
        *(np.zeros(3, np.int64), np.zeros(1 << (memory + 7), np.int64)),
        *(np.zeros(1 << window, np.int64), np.empty(symbols, np.uint8)),
        *(np.empty(symbols, np.uint16), np.zeros((13, HEAP), np.int32)),
    )
    return out[:size] if 0 <= size <= most else None


def make(settings: Settings, content: Bytes, size: int, expected: bytes = b"") -> bytes | None:
    """The stream of `size` bytes that zlib makes of `content`; None where it makes another one.

    `expected`: that stream, where it is known.
    """
    stream = made(settings, content, size, expected)
    return stream.tobytes() if stream is not None and stream.size == size else None


def find(header: bytes, content: Bytes, stream: bytes, rows: bool) -> Settings | None:
    """The settings that make `stream` of `content`; None where no others than tried would.

    `header`: zlib's, which hints at them; empty where there is none. `rows`: whether content is
    filtered rows of an image.
    """
    fixed = (stream[0] >> 1) & 3 == _FIXED_CODES
    for settings in _candidates(header, rows, fixed):
        if make(settings, content, len(stream), stream) == stream:
            return settings
    return None


def _candidates(header: bytes, rows: bool, fixed: bool) -> Iterator[Settings]:
    """The likely ones first. `fixed`: whether the first block has fixed codes."""
    windows = [15]
    likely, others = _ways(header, rows)
    if fixed:
        others += [(level, FIXED) for level in range(9, 0, -1)]
    if header:
        bits = (header[0] >> 4) + 8
        windows = [max(bits, 9)] + [15] * (bits != 15)
    rounds: list[tuple[list[tuple[int, int]], tuple[int, ...]]]
    rounds = [(likely, _USUAL_MEMORY), (others, _USUAL_MEMORY)]
    if header:  # without its hint these would be too many
        rounds.append((likely, _MEMORY))
    for ways, memories in rounds:
        for window, memory, (level, strategy) in itertools.product(windows, memories, ways):
            yield Settings(level, strategy, window, memory)


def _ways(header: bytes, rows: bool) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Levels and strategies that the header tells, and all others."""
    usual = (FILTERED, DEFAULT) if rows else (DEFAULT, FILTERED)
    matching = [(level, strategy) for level in (6, 9, 1, 8, 7, 5, 4, 3, 2) for strategy in usual]
    apart = [(6, RLE), (6, HUFFMAN)]
    if len(header) < HEADER:
        return matching, apart
    told = {0: (1,), 1: (5, 4, 3, 2), 2: (6,), 3: (9, 8, 7)}[header[1] >> 6]
    likely = [(level, strategy) for level in told for strategy in usual]
    if told == (1,):
        likely += apart
    return likely, [way for way in matching + apart if way not in likely]
