"""The frames of a FLAC file, behind its metadata. Format: RFC 9639, section 8."""

from densor.codec.audio.layout import Layout
from densor.codec.deflate.stream import FLAC, MAX_STREAM, Stream
from densor.formats.parsers.contents import Contents, Head, Stretch

_MAGIC = b"fLaC"
_INFO = 34  # bytes of STREAMINFO, which comes first
_DEPTHS = 8, 12, 16, 20, 24
_MOST_BLOCKS = 1 << 10


def find(head: Head) -> Contents | None:
    """All frames as one stream; None if this is no FLAC file, or one of samples of odd sizes."""
    first = head.first(8 + _INFO)
    if len(first) < 8 + _INFO or first[:4] != _MAGIC or first[4] & 127 or head.size is None:
        return None
    begin = _end_of_metadata(head)
    size = head.size - begin if begin else 0
    fields = int.from_bytes(first[18:26], "big")
    rate, channels, depth = fields >> 44, (fields >> 41 & 7) + 1, (fields >> 36 & 31) + 1
    if not 0 < size <= MAX_STREAM or depth not in _DEPTHS:
        return None
    layout = Layout(channels, (depth + 7) // 8, rate=rate)
    stream = Stream(FLAC, audio=layout, depth=depth)
    return Contents([], [Stretch(begin, size, "U8", (size,), stream=stream)])


def _end_of_metadata(head: Head) -> int:
    """Where frames begin, 0 where the blocks do not end."""
    at = len(_MAGIC)
    for _ in range(_MOST_BLOCKS):
        block = head.part(at, 4)
        if len(block) < 4:
            return 0
        at += 4 + int.from_bytes(block[1:], "big")
        if block[0] & 128:
            return at
    return 0
