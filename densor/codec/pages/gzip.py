"""Members of gzip (RFC 1952) as zlib writes them, undone and made again.

Around the stream of DEFLATE stand a header without a name or a time, and a checksum.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.deflate import settings as deflate
from densor.codec.deflate.settings import FIELDS, Settings
from densor.codec.deflate.strategies import DEFAULT, FILTERED, HUFFMAN, RLE
from densor.codec.deflate.stream import MAX_RAW
from densor.errors import FormatError

_MAGIC = bytes([31, 139, 8, 0, 0, 0, 0, 0])
HEADER = len(_MAGIC) + 2
_TAIL = struct.Struct("<II")
WAY = FIELDS.size + 2  # bytes that tell how a member is made
_WINDOW, _MEMORY = 15, (8, 9)
# By what a header says of them: strategies that are tried with each level.
_SLOWEST, _FASTEST = 2, 4
_LEVELS = {_SLOWEST: (9,), _FASTEST: (1,)}
_OTHERS = (6, 5, 4, 3, 2, 7, 8, 9, 1)


def undo(data: Bytes, size: int) -> Bytes | None:
    """What a member holds, `size` bytes; None where it is none of zlib, or has bytes behind it."""
    member = data.tobytes()
    if member[: len(_MAGIC)] != _MAGIC or size > MAX_RAW:
        return None
    inflater = zlib.decompressobj(-15)
    try:
        found = inflater.decompress(member[HEADER:], size + 1)
    except zlib.error:
        return None
    if not inflater.eof or len(found) != size or inflater.unused_data != _tail(found):
        return None
    return np.frombuffer(found, np.uint8)


def find(data: Bytes, content: Bytes, known: bytes | None) -> bytes | None:
    """How a member is made; None where zlib does not make it. `known`: a way that is likely."""
    member = data.tobytes()
    header, stream = member[len(_MAGIC) : HEADER], member[HEADER : -_TAIL.size]
    for settings in _candidates(header[0], known):
        if deflate.make(settings, content, len(stream), stream) == stream:
            return settings.pack() + header
    return None


def _candidates(told: int, known: bytes | None) -> Iterator[Settings]:
    if known is not None:
        yield Settings.unpack(known[: FIELDS.size])
    strategies = (DEFAULT, FILTERED, HUFFMAN, RLE) if told == _FASTEST else (DEFAULT, FILTERED)
    for strategy in strategies:
        for memory in _MEMORY:
            for level in _LEVELS.get(told, _OTHERS):
                yield Settings(level, strategy, _WINDOW, memory)


def check(way: bytes) -> None:
    """FormatError where a member cannot be made in such a way."""
    Settings.unpack(way[: FIELDS.size])


def make(content: Bytes, way: bytes) -> bytes:
    """A member that is made in such a way; FormatError where that is impossible."""
    if content.size > MAX_RAW:
        raise FormatError("page is too long for gzip")
    settings = Settings.unpack(way[: FIELDS.size])
    stream = deflate.made(settings, content, deflate.bound(content.size))
    if stream is None:
        raise FormatError("page does not make a stream of gzip")
    return _MAGIC + way[FIELDS.size :] + stream.tobytes() + _tail(content)


def _tail(content: Bytes | bytes) -> bytes:
    return _TAIL.pack(zlib.crc32(content), len(content))
