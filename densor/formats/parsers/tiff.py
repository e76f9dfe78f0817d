"""The first image of a TIFF file whose strips are not compressed and follow each other.

Format: TIFF, revision 6.0 (Adobe, 1992), sections 2, 3 and 7. Further images are just bytes.
"""

import struct

from densor.codec.image.layout import MAX_CHANNELS, Layout
from densor.errors import FormatError
from densor.formats.parsers.contents import Contents, Head, Stretch, Window

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS = 256, 257, 258, 259, 273
_CHANNELS, _COUNTS, _PLANAR, _FORMAT = 277, 279, 284, 339
_MEANT = {_BITS: (1,), _COMPRESSION: (1,), _CHANNELS: (1,), _PLANAR: (1,), _FORMAT: (1,)}
_SIZES = {3: ("H", 2), 4: ("I", 4)}  # types of numbers: letter for struct, bytes
_MAX_FIELDS, _MAX_STRIPS = 200, 1 << 20
_Fields = dict[int, tuple[int, ...]]


def find(head: Head) -> Contents | None:
    """The rows of a TIFF file; None if it is none, or a compressed one."""
    first = head.first(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(first[:4])
    if order is None or len(first) < 8 or head.random is None:
        return None
    (at,) = struct.unpack(order + "I", first[4:])
    fields = _MEANT | _fields(Window(head.random), order, at)
    layout = _layout(fields, order)
    begin = _begin_of_strips(fields)
    if layout is None or begin is None:
        return None
    height = fields[_HEIGHT][0]
    dtype = "U16" if layout.size == 2 else "U8"
    shape = (height, layout.width, layout.channels)
    size = height * layout.stride
    if sum(fields[_COUNTS]) != size:
        return None
    return Contents([], [Stretch(begin, size, dtype, shape, image=layout)])


def _fields(window: Window, order: str, at: int) -> _Fields:
    """Numbers of the first directory by their tags."""
    (count,) = struct.unpack(order + "H", window.read(at, 2))
    if count > _MAX_FIELDS:
        raise FormatError("directory of a TIFF file is too long")
    found: _Fields = {}
    for i in range(count):
        entry = window.read(at + 2 + 12 * i, 12)
        tag, kind, length = struct.unpack(order + "HHI", entry[:8])
        if kind not in _SIZES or not 1 <= length <= _MAX_STRIPS:
            continue
        letter, size = _SIZES[kind]
        data = entry[8 : 8 + length * size]
        if length * size > 4:
            data = window.read(struct.unpack(order + "I", entry[8:])[0], length * size)
        found[tag] = struct.unpack(f"{order}{length}{letter}", data)
    return found


def _layout(fields: _Fields, order: str) -> Layout | None:
    if not {_WIDTH, _HEIGHT, _OFFSETS, _COUNTS} <= fields.keys():
        return None
    plain = fields[_COMPRESSION][0] == 1 and set(fields[_FORMAT]) == {1}
    width, channels, bits = fields[_WIDTH][0], fields[_CHANNELS][0], set(fields[_BITS])
    together = fields[_PLANAR][0] == 1 or channels == 1
    if not plain or not together or bits not in ({8}, {16}):
        return None
    if not width or not fields[_HEIGHT][0] or not 1 <= channels <= MAX_CHANNELS:
        return None
    size = 2 if bits == {16} else 1
    return Layout(width, channels, size, big=size == 2 and order == ">")


def _begin_of_strips(fields: _Fields) -> int | None:
    """Where strips begin that follow each other; None where they do not."""
    offsets, counts = fields.get(_OFFSETS, ()), fields.get(_COUNTS, ())
    if not offsets or len(offsets) != len(counts):
        return None
    at = offsets[0]
    for offset, count in zip(offsets, counts, strict=True):
        if offset != at:
            return None
        at += count
    return offsets[0]
