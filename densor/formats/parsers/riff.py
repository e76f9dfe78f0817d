"""Samples of WAV files: RIFF, RF64 and BW64, PCM of 8 to 32 bits and floats of 32.

Format: Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0" (1991);
EBU Tech 3306 for RF64. Chunks but `data` are just bytes. Sizes that cannot be true are not
believed: the samples then go on to the end of the file.
"""

import struct

from densor.codec.audio.layout import Layout
from densor.formats.parsers.contents import Contents, Head, sound

_KINDS = (b"RIFF", b"RF64", b"BW64")
_FORMAT = struct.Struct("<HHIIHH")
_PCM, _FLOATS, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN = (0, 0xFFFFFFFF)
_MAX_CHUNKS = 1000
_GUID = bytes.fromhex("000000001000800000aa00389b71")  # what follows the kind in an extensible one


def find(head: Head) -> Contents | None:
    """The samples of a WAV file; None if it is none, or a compressed one."""
    first = head.first(12)
    if len(first) < 12 or first[:4] not in _KINDS or first[8:] != b"WAVE":
        return None
    at, layout, long_size = 12, None, 0
    for _ in range(_MAX_CHUNKS):
        chunk = head.part(at, 8)
        if len(chunk) < 8:
            return None
        name, (size,) = chunk[:4], struct.unpack("<I", chunk[4:])
        if name == b"fmt ":
            layout = _layout(head.part(at + 8, min(size, 40)))
        elif name == b"ds64" and size >= 16:
            _, long_size = struct.unpack("<QQ", head.part(at + 8, 16).ljust(16, b"\0"))
        elif name == b"data":
            known = long_size if first[:4] != b"RIFF" and size == _UNKNOWN[1] else size
            return None if layout is None else sound(layout, at + 8, known or None, head.size)
        at += 8 + size + (size & 1)
    return None


def _layout(text: bytes) -> Layout | None:
    if len(text) < _FORMAT.size:
        return None
    kind, channels, rate, _, stride, bits = _FORMAT.unpack_from(text)
    if kind == _EXTENSIBLE and len(text) >= 40 and text[26:40] == _GUID:
        (kind,) = struct.unpack("<H", text[24:26])
    if kind not in (_PCM, _FLOATS) or not channels or not stride or stride % channels:
        return None
    size = stride // channels
    if not 8 * (size - 1) < bits <= 8 * size and (bits, size) != (24, 4):
        return None
    return Layout(channels, size, unsigned=size == 1, floats=kind == _FLOATS, rate=rate)
