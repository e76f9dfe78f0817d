"""The header of an IDX file of unsigned bytes, the format of MNIST.

Format: http://yann.lecun.com/exdb/mnist, "The IDX file format": two zeros, the type, the number of
dimensions, then the dimensions, big-endian.
"""

import math
import struct

from densor.codec.image.layout import layout_of
from densor.formats.parsers.contents import Contents, Head, Stretch

_MAGIC = b"\0\0\x08"
_MOST_DIMENSIONS = 4


def find(head: Head) -> Contents | None:
    """The images of an IDX file of bytes; None if it is none, or has fewer than two dimensions."""
    first = head.first(4)
    if len(first) < 4 or first[:3] != _MAGIC or not 2 <= first[3] <= _MOST_DIMENSIONS:
        return None
    begin = 4 + 4 * first[3]
    text = head.first(begin)
    if len(text) < begin:
        return None
    shape = struct.unpack(f">{first[3]}I", text[4:])
    size = math.prod(shape)
    if not size or (head.size is not None and begin + size > head.size):
        return None
    return Contents([], [Stretch(begin, size, "U8", shape, image=layout_of("U8", shape))])
