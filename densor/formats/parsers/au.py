"""Samples of AU files (Sun, NeXT) of 8 to 32 bits, linear.

Format: https://pubs.opengroup.org/external/auformat.html
"""

import struct

from densor.codec.audio.layout import Layout
from densor.formats.parsers.contents import Contents, Head, sound

_HEAD = struct.Struct(">4sIIIII")
_SIZES = {2: 1, 3: 2, 4: 3, 5: 4, 6: 4}  # bytes of a sample by its encoding
_FLOATS = 6
_UNKNOWN = 0xFFFFFFFF


def find(head: Head) -> Contents | None:
    """The samples of an AU file; None if it is none, or of another encoding."""
    first = head.first(_HEAD.size)
    if len(first) < _HEAD.size or first[:4] != b".snd":
        return None
    _, begin, size, kind, rate, channels = _HEAD.unpack(first)
    if kind not in _SIZES or begin < _HEAD.size or not channels:
        return None
    width = _SIZES[kind]
    layout = Layout(channels, width, big=width > 1, floats=kind == _FLOATS, rate=rate)
    return sound(layout, begin, None if size == _UNKNOWN else size, head.size)
