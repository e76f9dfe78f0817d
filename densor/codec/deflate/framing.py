"""What stands around a DEFLATE stream: zlib's header and checksum, the chunks of a PNG file."""

import struct
import zlib
from typing import NamedTuple

from densor.codec.batch import Bytes
from densor.codec.deflate.stream import PNG, RAW
from densor.errors import FormatError

_WORD = struct.Struct(">I")
_AROUND = 12  # bytes of a chunk of PNG around its content
_IDAT = b"IDAT"
HEADER = 2  # bytes of zlib's


class Framed(NamedTuple):
    """A bare stream. `header`: zlib's; `piece`: bytes of each chunk of PNG but the last."""

    stream: bytes
    header: bytes
    piece: int
    check: bytes


def unwrap(form: int, data: Bytes) -> Framed | None:
    """What is in the frame; None where `wrap` would not make the same of it."""
    content = data.tobytes()
    piece = 0
    if form == PNG:
        pieces = _pieces(content)
        if not pieces:
            return None
        content = b"".join(pieces)
        piece = len(pieces[0])
    if form == RAW:
        return Framed(content, b"", 0, b"")
    if len(content) < HEADER + _WORD.size:
        return None
    stream = content[HEADER : -_WORD.size]
    framed = Framed(stream, content[:HEADER], piece, content[-_WORD.size :])
    return framed if form != PNG or _chunks(content, piece) == data.tobytes() else None


def wrap(form: int, stream: bytes, header: bytes, piece: int, content: Bytes) -> bytes:
    """The stream in its frame; `content`: what it holds, for the checksum."""
    if form == RAW:
        return stream
    framed = header + stream + _WORD.pack(zlib.adler32(content))
    return framed if form != PNG else _chunks(framed, piece)


def bare_size(form: int, size: int, piece: int) -> int:
    """Bytes of the stream in a frame of `size` bytes; FormatError where none fits."""
    if form == PNG:
        size -= _AROUND * -(-size // (piece + _AROUND))
    bare = size if form == RAW else size - HEADER - _WORD.size
    if bare < 1:
        raise FormatError("DEFLATE stream is too short")
    return bare


def _chunks(content: bytes, piece: int) -> bytes:
    parts = []
    for at in range(0, len(content), piece):
        body = _IDAT + content[at : at + piece]
        parts += [_WORD.pack(len(body) - len(_IDAT)), body, _WORD.pack(zlib.crc32(body))]
    return b"".join(parts)


def _pieces(data: bytes) -> list[bytes]:
    """The contents of chunks that follow each other; none where these are not that."""
    pieces = []
    at = 0
    while at < len(data):
        end = at + _AROUND + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] != _IDAT or end > len(data):
            return []
        pieces.append(data[at + 8 : end - 4])
        at = end
    return pieces if any(pieces[:1]) else []
