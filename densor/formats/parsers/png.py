"""The pixels of a PNG file: one DEFLATE stream in IDAT chunks.

Format: ISO/IEC 15948. Only the lengths of chunks are read; what their content is shows when the
stream is undone.
"""

import struct

from densor.codec.deflate.stream import MAX_STREAM, PNG, Stream
from densor.codec.image.layout import Layout
from densor.formats.parsers.contents import Contents, Head, Stretch, Window

MAGIC = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">8sI4sIIBBBBB")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by type of colour
_AROUND = 12  # bytes of a chunk around its content
_MAX_CHUNKS = 1 << 16


def find(head: Head) -> Contents | None:
    """The IDAT chunks of a PNG file; None if it is none, or one on a pipe."""
    first = head.first(_HEAD.size)
    if len(first) < _HEAD.size or not first.startswith(MAGIC) or head.random is None:
        return None
    _, _, kind, width, height, depth, colour, *_, interlaced = _HEAD.unpack(first)
    if kind != b"IHDR" or colour not in _CHANNELS or not width or not height:
        return None
    begin, end = _chunks(Window(head.random, 64), head.random.size)
    if not begin < end <= begin + MAX_STREAM:
        return None
    stream = _stream(width, _CHANNELS[colour], depth) if not interlaced else Stream(PNG)
    return Contents([], [Stretch(begin, end - begin, "U8", (end - begin,), stream=stream)])


def _stream(width: int, channels: int, depth: int) -> Stream:
    bits = channels * depth
    row = -(-width * bits // 8)
    layout = Layout(width, channels, depth // 8, big=depth == 16) if depth >= 8 else Layout(row)
    return Stream(PNG, row, max(1, bits // 8), layout)


def _chunks(window: Window, size: int) -> tuple[int, int]:
    """Where the IDAT chunks begin and end, which follow each other."""
    at, begin = len(MAGIC), 0
    for _ in range(_MAX_CHUNKS):
        if at + _AROUND > size:
            break
        length, kind = struct.unpack(">I4s", window.read(at, 8))
        if kind == b"IDAT":
            begin = begin or at
        elif begin:
            return begin, at
        at += _AROUND + length
    return 0, 0
