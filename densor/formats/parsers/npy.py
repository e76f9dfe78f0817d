"""The header of a .npy file, and the .npy files in a .npz.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The header is a
Python literal, of which just what numpy writes for plain dtypes is recognised. It is not given to
`numpy.lib.format`, which evaluates it: nested input ends there in MemoryError or RecursionError,
and version 3.0 has no public function.
"""

import math
import re
from typing import NamedTuple

import numpy as np

from densor import dtypes
from densor.formats.parsers.contents import Contents, Head, Stretch, Window
from densor.formats.parsers.zip_members import Member, first_name, stored_members
from densor.formats.tensors import TensorInfo

MAGIC = b"\x93NUMPY"
_PREFIX = len(MAGIC) + 2 + 4  # magic, version, length of the header
_MAX_HEADER = 1 << 16
_DESCR = re.compile(rb"""['"]descr['"]\s*:\s*['"]([<>|=])([a-zA-Z]\d{1,2})['"]""")
_ORDER = re.compile(rb"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(rb"""['"]shape['"]\s*:\s*\(([\d\s,]*)\)""")


class _Header(NamedTuple):
    begin: int  # of the data, in bytes from the start of the file
    dtype: str
    little: bool
    fortran: bool
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * dtypes.SIZES[self.dtype]


def header_size(first: bytes) -> int | None:
    """Bytes before the data, from the first 12 bytes of a file; None if it is no .npy file."""
    if len(first) < _PREFIX or first[: len(MAGIC)] != MAGIC or first[6] not in (1, 2, 3):
        return None
    width = 2 if first[6] == 1 else 4
    size = 8 + width + int.from_bytes(first[8 : 8 + width], "little")
    return size if size <= _MAX_HEADER else None


def _parse(head: bytes) -> _Header | None:
    descr, order, shape = _DESCR.search(head), _ORDER.search(head), _SHAPE.search(head)
    if descr is None or order is None or shape is None:
        return None
    try:
        dtype = dtypes.from_numpy(np.dtype(descr[2].decode()))
        dimensions = tuple(int(size) for size in shape[1].split(b",") if size.strip())
    except (TypeError, ValueError):
        return None
    if dtype is None or len(dimensions) > 64 or any(size >> 63 for size in dimensions):
        return None
    little = descr[1] in b"<|=" or dtypes.SIZES[dtype] == 1
    return _Header(len(head), dtype, little, order[1] == b"True", dimensions)


def _contents(header: _Header, name: str, start: int) -> Contents:
    """What a file that begins at `start` holds.

    An array in Fortran order is coded as its transpose, which its bytes are; only an array that
    can be read alone as what it is gets listed: little-endian, in C order.
    """
    at, shape = start + header.begin, header.shape
    plain = header.little and (not header.fortran or len(shape) < 2)
    tensors = [TensorInfo(name, header.dtype, shape, at, header.size)] if plain else []
    rows = shape[::-1] if header.fortran else shape
    dtype = header.dtype
    if not header.little:  # planes of bytes, whatever they mean
        dtype = f"U{8 * dtypes.SIZES[dtype]}" if dtype[0] != "C" else "U8"
        rows = rows if dtype != "U8" else (header.size,)
    return Contents(tensors, [Stretch(at, header.size, dtype, rows)])


def find(head: Head) -> Contents | None:
    """What a .npy file holds; None if it is none, or none of a plain dtype."""
    size = header_size(head.first(_PREFIX))
    if size is None:
        return None
    text = head.first(size)
    header = _parse(text) if len(text) == size else None
    return None if header is None else _contents(header, head.name, 0)


def find_npz(head: Head) -> Contents | None:
    """What the stored (not deflated) members of a .npz file hold; None if it is none."""
    if head.random is None or not first_name(head).endswith(b".npy"):
        return None
    window = Window(head.random)
    tensors, stretches = [], []
    for member in stored_members(head):
        if not member.name.endswith(".npy"):
            continue
        header = _member_header(window, member)
        if header is None or header.begin + header.size != member.size:
            continue
        found = _contents(header, member.name.removesuffix(".npy"), member.offset)
        tensors += found.tensors
        stretches += found.stretches
    return Contents(tensors, stretches) if tensors or stretches else None


def _member_header(window: Window, member: Member) -> _Header | None:
    size = header_size(window.read(member.offset, min(_PREFIX, member.size)))
    if size is None or size > member.size:
        return None
    return _parse(window.read(member.offset, size))
