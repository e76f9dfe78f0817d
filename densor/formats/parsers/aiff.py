"""Samples of AIFF and AIFF-C files that are not compressed.

Format: Apple, "Audio Interchange File Format AIFF-C" (1991). Chunks but SSND are just bytes.
"""

import struct

from densor.codec.audio.layout import Layout
from densor.formats.parsers.contents import Contents, Head, sound

_COMMON = struct.Struct(">HIH")
_MAX_CHUNKS = 1000
_BIG, _LITTLE, _FLOATS = (b"NONE", b"twos", b"in24", b"in32"), (b"sowt",), (b"fl32", b"FL32")


def find(head: Head) -> Contents | None:
    """The samples of an AIFF file; None if it is none, or a compressed one."""
    first = head.first(12)
    if len(first) < 12 or first[:4] != b"FORM" or first[8:] not in (b"AIFF", b"AIFC"):
        return None
    at, layout = 12, None
    for _ in range(_MAX_CHUNKS):
        chunk = head.part(at, 8)
        if len(chunk) < 8:
            return None
        name, (size,) = chunk[:4], struct.unpack(">I", chunk[4:])
        if name == b"COMM":
            layout = _layout(head.part(at + 8, min(size, 22)), first[8:] == b"AIFC")
        elif name == b"SSND":
            offset = head.part(at + 8, 4)
            if layout is None or len(offset) < 4:
                return None
            (gap,) = struct.unpack(">I", offset)
            known = size - 8 - gap if size >= 8 + gap else None
            return sound(layout, at + 16 + gap, known, head.size)
        at += 8 + size + (size & 1)
    return None


def _layout(text: bytes, compressed: bool) -> Layout | None:
    if len(text) < (22 if compressed else 18):
        return None
    channels, _, bits = _COMMON.unpack_from(text)
    kind = text[18:22] if compressed else _BIG[0]
    if not channels or not 1 <= bits <= 32 or kind not in _BIG + _LITTLE + _FLOATS:
        return None
    size = (bits + 7) // 8
    big = kind not in _LITTLE and size > 1
    return Layout(channels, size, big, floats=kind in _FLOATS, rate=_rate(text[8:18]))


def _rate(text: bytes) -> int:
    """A number of 80 bits as an integer; 0 for what is none below 2^31."""
    exponent, mantissa = struct.unpack(">HQ", text)
    places = 63 - (exponent - 16383)
    return mantissa >> places if 32 < places < 64 else 0
