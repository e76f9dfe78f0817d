"""The header of a .npy file, and the .npy files in a .npz.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The header is a
Python literal, of which just what numpy writes for plain dtypes is recognised. It is not given to
`numpy.lib.format`, which evaluates it: nested input ends there in MemoryError or RecursionError,
and version 3.0 has no public function.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from densor import dtypes
from densor.codec.batch import Bytes
from densor.codec.table.layout import MAX_BYTES, MAX_CELLS
from densor.codec.table.layout import Layout as Table
from densor.dtypes import SIZES
from densor.errors import FormatError
from densor.formats.io.sources import RandomSource
from densor.formats.parsers import zip_members
from densor.formats.parsers.contents import Contents, Head, Stretch, Window
from densor.formats.parsers.numpy_pickle import arrays_in
from densor.formats.parsers.records import MAX_COLUMNS, RecordField, fields_of, types_of
from densor.formats.parsers.zip_members import Member, first_name, stored_members
from densor.formats.tensors import TensorInfo, View, c_strides

MAGIC = b"\x93NUMPY"
_PREFIX = len(MAGIC) + 2 + 4  # magic, version, length of the header
_MAX_HEADER = 1 << 16
_MAX_RECORD = 1 << 16  # bytes
_MAX_STRETCHES = 1 << 11  # of records
_TYPE = rb"([<>|=]?)([a-zA-Z])(\d{0,9})(\[\w{1,9}\])?"
_DESCR = re.compile(rb"""['"]descr['"]\s*:\s*['"]""" + _TYPE + rb"""['"]""")
_RECORD = re.compile(rb"""['"]descr['"]\s*:\s*(?=[\[(])""")
_ELEMENT = re.compile(_TYPE)
_ORDER = re.compile(rb"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(rb"""['"]shape['"]\s*:\s*\(([\d\s,]*)\)""")


# What numpy calls types of ml_dtypes, which have no letter of their own: only those are
# little-endian, all others that are nothing but bytes have no order.
_ML_DTYPES = {
    ("<", "V", 2): "BF16",
    ("<", "f", 1): "F8_E5M2",
    ("<", "c", 4): "C32",  # since its version 0.7
    (">", "c", 4): "C32",
}


# What columns of records are taken for whose type has no place in tables: bits of numbers.
SCALARS = {
    **{"C64": "F32", "C128": "F64", "C32": "U16"},
    **{"BOOL": "U8", "F16": "U16", "BF16": "U16", "F8_E5M2": "U8"},
}


class _Header(NamedTuple):
    begin: int  # of the data, in bytes from the start of the file
    dtype: str  # of the elements, as they are coded; empty where that is as bytes
    listed: str  # what they are; no type that is known where they cannot be listed as such
    little: bool
    fortran: bool
    shape: tuple[int, ...]
    item: int  # bytes of an element
    table: Table | None = None  # how elements lie that are records

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.item


def header_size(first: bytes) -> int | None:
    """Bytes before the data, from the first 12 bytes of a file; None if it is no .npy file."""
    if len(first) < _PREFIX or first[: len(MAGIC)] != MAGIC or first[6] not in (1, 2, 3):
        return None
    width = 2 if first[6] == 1 else 4
    size = 8 + width + int.from_bytes(first[8 : 8 + width], "little")
    return size if size <= _MAX_HEADER else None


def _parse(head: bytes) -> _Header | None:
    order, shape = _ORDER.search(head), _SHAPE.search(head)
    record = _RECORD.search(head)
    table = None if record is None else _record(head, record.end())
    found = _type(head) if record is None else ("", "record", True, table.stride if table else 0)
    if found is None or order is None or shape is None:
        return None
    try:
        dimensions = tuple(int(size) for size in shape[1].split(b",") if size.strip())
    except ValueError:
        return None
    if len(dimensions) > 64 or any(size >> 63 for size in dimensions):
        return None
    dtype, listed, little, item = found
    fortran = order[1] == b"True"
    return _Header(len(head), dtype, listed, little, fortran, dimensions, item, table)


def _type(head: bytes) -> tuple[str, str, bool, int] | None:
    """How elements are coded, what they are, whether little-endian, and their bytes."""
    descr = _DESCR.search(head)
    return None if descr is None else _type_of(descr)


def _record(head: bytes, at: int) -> Table | None:
    """How the fields of records lie; None where they are of types that are not known."""
    widths: list[int] = []
    types: list[str] = []
    try:
        elements = types_of(head, at)
    except FormatError:
        return None
    for element in elements:
        match = _ELEMENT.fullmatch(element.encode())
        found = None if match is None else _type_of(match)
        if found is None:
            return None
        dtype, _, little, item = found
        part = SCALARS.get(dtype, dtype)
        size = SIZES[part] if part else max(item, 1)
        widths += [size] * (item // size)
        types += [part if little else f">{part}"] * (item // size)
    if not widths or len(widths) > MAX_COLUMNS or sum(widths) > _MAX_RECORD:
        return None
    return Table(len(widths), 0, quote=0, widths=tuple(widths), records=True, types=tuple(types))


def _type_of(descr: re.Match[bytes]) -> tuple[str, str, bool, int] | None:
    """The same of one type, of elements that are bytes with no name for what is coded."""
    order, kind, size, unit = (part.decode() for part in descr.groups(b""))
    item, name = int(size or 1), f"{kind}{size}{unit}"
    if kind == "O":
        return None
    known = _ML_DTYPES.get((order, kind, item)) if not unit else None
    if known is None and kind not in "SUVMmOa":
        try:
            known = dtypes.from_numpy(np.dtype(f"{kind}{size}"))
        except (TypeError, ValueError):
            known = None
    if known is not None:
        item = dtypes.SIZES[known]
        return known, known, order != ">" or item == 1, item
    if kind in "Mm":  # counts of a unit of time
        return "I64", name, order != ">", 8
    if kind in "SUVa":
        return "", name, True, 4 * item if kind == "U" else item
    if kind == "W":  # two numbers, which numpy does not name
        return "F16", name, order != ">", item
    return None


def _contents(header: _Header, name: str, start: int) -> Contents:
    """What a file that begins at `start` holds.

    An array in Fortran order is coded as its transpose, which its bytes are, and listed as a view.
    """
    at, shape = start + header.begin, header.shape
    name_of = header.listed if header.little else f"{header.listed} big-endian"
    view = None
    if header.fortran and sum(size > 1 for size in shape) > 1:
        view = View(c_strides(shape[::-1])[::-1])
    tensor = TensorInfo(name, name_of, shape, at, header.size, view)
    known = tensor.plain and (tensor.dtype == header.dtype)
    if not dtypes.is_known(name_of):
        tensor = tensor._replace(view=None)
    stretch = _stretch(header, at, shape[::-1] if header.fortran else shape)
    return Contents([tensor] if known else [], stretch, [] if known else [tensor])


def _stretch(header: _Header, at: int, rows: tuple[int, ...]) -> list[Stretch]:
    """How the elements are coded: those of the other byte order as numbers, whatever they mean."""
    dtype, table = header.dtype, header.table
    if table is not None:
        return _of_records(table, at, header.size)
    if not dtype or not header.size:
        return []
    if not header.little:
        dtype = f"U{8 * dtypes.SIZES[dtype]}" if dtype[0] != "C" else "U8"
    parts = header.item // dtypes.SIZES[dtype]
    if parts > 1:
        rows = (*rows, parts) if header.little else (header.size,)
    return [Stretch(at, header.size, dtype, rows)]


def _of_records(table: Table, at: int, size: int) -> list[Stretch]:
    """Records in stretches that chunks can hold; 2048 at most, all beyond are bytes."""
    rows = min(MAX_BYTES // table.stride, MAX_CELLS // table.columns)
    step = rows * table.stride
    end = at + min(size, step * _MAX_STRETCHES)
    sizes = [(begin, min(step, end - begin)) for begin in range(at, end, step)]
    return [Stretch(begin, length, "U8", (), table=table) for begin, length in sizes]


def find(head: Head) -> Contents | None:
    """What a .npy file holds, of Python objects the arrays in them; None if it is none."""
    size = header_size(head.first(_PREFIX))
    if size is None:
        return None
    text = head.first(size)
    header = _parse(text) if len(text) == size else None
    if header is not None:
        return _contents(header, head.name, 0)
    inner = None if head.random is None else arrays_in(head.random, size, head.random.size)
    if inner is not None or (kind := _unknown(text)) is None:
        return inner
    return Contents([], [], [TensorInfo(head.name, kind, (), 0, 0)])


def _unknown(text: bytes) -> str | None:
    """The type of an array that is of objects, or of numbers that are not known here."""
    descr = _DESCR.search(text)
    if descr is None or _type_of(descr) is not None:
        return None
    if descr[2] == b"O":
        return "object"
    name = b"".join(descr.groups(b"")).decode()
    try:
        return np.dtype(name).str
    except (TypeError, ValueError):  # of a package that gives numpy more types
        return name


class Records(NamedTuple):
    """Records in a `.npy` file, from `begin` on; `table`: how columns lie in them."""

    begin: int
    rows: int
    table: Table
    fields: list[RecordField]


def records_in(read: Callable[[int, int], Bytes], size: int) -> Records | None:
    """The records of a `.npy` file of `size` bytes, of which `read` gives some; None without."""
    found = header_size(read(0, min(_PREFIX, size)).tobytes())
    text = b"" if found is None else read(0, min(found, size)).tobytes()
    header, record = _parse(text), _RECORD.search(text)
    if header is None or record is None or header.table is None:
        return None
    table = header.table
    fields = fields_of(text, record.end(), "utf-8" if text[6] == 3 else "latin-1")
    if any(field.offset + field.dtype.itemsize > table.stride for field in fields):
        return None
    rows = min(math.prod(header.shape), (size - header.begin) // table.stride)
    return Records(header.begin, rows, table, fields)


def find_npz(head: Head) -> Contents | None:
    """What the members of a .npz hold, of deflated ones the streams; None if it is none."""
    if head.random is None or not first_name(head).endswith(b".npy"):
        return None
    window = Window(head.random)
    tensors: list[TensorInfo] = []
    stretches: list[Stretch] = []
    others: list[TensorInfo] = []
    deflated: list[str] = []
    for member in stored_members(head, deflated):
        if not member.name.endswith(".npy"):
            continue
        header = _member_header(window, member)
        name = member.name.removesuffix(".npy")
        if header is None and (inner := _arrays(head.random, window, member)) is not None:
            stretches += inner.stretches
        if header is None or (header.item and header.begin + header.size != member.size):
            text = window.read(member.offset, min(_MAX_HEADER, member.size))
            others.append(TensorInfo(name, _unknown(text) or "object", (), 0, 0))
            continue
        found = _contents(header, name, member.offset)
        tensors += found.tensors
        stretches += found.stretches
        others += found.others
    for name in (name for name in deflated if name.endswith(".npy")):
        others.append(TensorInfo(name.removesuffix(".npy"), "deflated", (), 0, 0))
    streams = zip_members.find(head)
    stretches += [] if streams is None else streams.stretches
    return Contents(tensors, stretches, others) if tensors or stretches or others else None


def _arrays(random: RandomSource, window: Window, member: Member) -> Contents | None:
    """The arrays in a member of Python objects."""
    size = header_size(window.read(member.offset, min(_PREFIX, member.size)))
    if size is None or size > member.size:
        return None
    return arrays_in(random, member.offset + size, member.offset + member.size)


def _member_header(window: Window, member: Member) -> _Header | None:
    size = header_size(window.read(member.offset, min(_PREFIX, member.size)))
    if size is None or size > member.size:
        return None
    return _parse(window.read(member.offset, size))
