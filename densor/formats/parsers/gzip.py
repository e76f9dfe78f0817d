"""The stream of a gzip file of one member. Format: RFC 1952."""

import struct

from densor.codec.deflate.stream import MAX_STREAM, RAW, Stream
from densor.formats.parsers.contents import Contents, Head, Stretch

_HEAD = struct.Struct("<2sBBIBB")
_MAGIC, _DEFLATE = b"\x1f\x8b", 8
_CRC, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16  # flags
_TRAILER = 8  # bytes
_MAX_HEADER = 1 << 16


def find(head: Head) -> Contents | None:
    """The stream behind the header, up to the checksum; None if this is no gzip file."""
    first = head.first(_HEAD.size)
    if len(first) < _HEAD.size or head.size is None:
        return None
    magic, method, flags, *_ = _HEAD.unpack(first)
    if magic != _MAGIC or method != _DEFLATE or flags > 31:
        return None
    begin = _header(head.first(_MAX_HEADER), flags)
    size = head.size - _TRAILER - begin if begin else 0
    if not 0 < size <= MAX_STREAM:
        return None
    return Contents([], [Stretch(begin, size, "U8", (size,), stream=Stream(RAW))])


def _header(data: bytes, flags: int) -> int:
    """Bytes of the header, 0 where it does not end."""
    at = _HEAD.size
    if flags & _EXTRA:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            at = data.find(b"\0", at) + 1
            if not at:
                return 0
    return at + 2 * bool(flags & _CRC)
