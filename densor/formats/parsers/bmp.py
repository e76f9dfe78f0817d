"""The headers of a BMP file without compression, of 8, 24 or 32 bits a pixel.

Format: https://learn.microsoft.com/en-us/windows/win32/gdi/bitmap-storage. Rows are padded to four
bytes and mostly go from the last to the first one, which is all the same here.
"""

import struct

from densor.codec.image.layout import Layout
from densor.formats.parsers.contents import Contents, Head, Stretch

_HEAD = struct.Struct("<2sIIIIiiHHI")
_CHANNELS = {8: 1, 24: 3, 32: 4}
_LEAST_INFO = 40
_PLAIN, _FIELDS = 0, 3  # ways of compression


def find(head: Head) -> Contents | None:
    """The rows of a BMP file; None if it is none, or a compressed one."""
    first = head.first(_HEAD.size)
    if len(first) < _HEAD.size or first[:2] != b"BM":
        return None
    _, _, _, begin, info, width, height, planes, bits, packing = _HEAD.unpack(first)
    if info < _LEAST_INFO or planes != 1 or packing not in (_PLAIN, _FIELDS):
        return None
    channels = _CHANNELS.get(bits)
    if channels is None or width <= 0 or height == 0 or begin < 14 + info:
        return None
    layout = Layout(width, channels, padding=-width * channels % 4)
    rows = abs(height)
    shape = (rows, layout.stride)
    return Contents([], [Stretch(begin, rows * layout.stride, "U8", shape, image=layout)])
