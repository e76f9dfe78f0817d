"""The types of columns in Arrow's streams and files: which buffers each has.

Format: https://arrow.apache.org/docs/format/Columnar.html, and Schema.fbs beside it.
"""

from typing import NamedTuple

from densor.codec.table.layout import BITS, CELLS, TEXTS_32, TEXTS_64
from densor.errors import FormatError
from densor.formats.parsers.flatbuffers import Table

MAX_FIELDS = 4096  # of a schema, those within others counted
_MAX_NAMES = 1 << 22  # bytes of all names, which columns may share: each has its own here
_MAX_DEPTH = 16
_INTEGER, _FLOAT, _BINARY, _UTF8, _BOOL, _DECIMAL, _DATE, _TIME, _TIMESTAMP = range(2, 11)
_NULL, _INTERVAL, _LIST, _STRUCT, _FIXED_BINARY, _FIXED_LIST, _MAP = 1, 11, 12, 13, 15, 16, 17
_DURATION, _LARGE_BINARY, _LARGE_UTF8, _LARGE_LIST, _BINARY_VIEW, _UTF8_VIEW = (
    18,
    19,
    20,
    21,
    23,
    24,
)
_FLOATS = ((2, "U16", "<f2"), (4, "F32", "<f4"), (8, "F64", "<f8"))
_INTERVALS = (4, 8, 16)  # bytes, by unit
_UNITS = ("s", "ms", "us", "ns")
OTHER = -1  # a form of buffers that are no column: offsets of lists, texts of views


class Field(NamedTuple):
    """A column. `forms`: of its buffers behind that of validity, which `valid` says there is.

    Of each form: how the column lies in a table, or `OTHER`; bytes of a cell; the type that it is
    coded as. `dtype`: of its values for numpy, `text`, `bytes` or `bool`, empty where it is none of
    these. `views`: whether more buffers follow, which each batch counts. `dictionary`: the number
    of the dictionary that cells count in, -1 for none. `values`: of that.
    """

    name: str
    forms: tuple[tuple[int, int, str], ...]
    dtype: str = ""
    children: tuple["Field", ...] = ()
    valid: bool = True
    views: bool = False
    dictionary: int = -1
    values: "Field | None" = None


def fields_of(schema: Table) -> list[Field]:
    """The columns of a schema; FormatError for what is not known, or too much."""
    if schema.number(0, "<h"):
        raise FormatError("columns of Arrow are big-endian")
    left = [MAX_FIELDS, _MAX_NAMES]
    return [_field(table, left, 0) for table in schema.tables(1, MAX_FIELDS)]


def _field(table: Table, left: list[int], depth: int) -> Field:
    left[0] -= 1
    left[1] -= table.vector(0, 1)[1]
    if min(left) < 0 or depth > _MAX_DEPTH:
        raise FormatError("Arrow has too many columns")
    kind, inner = table.number(2, "<B"), table.table(3)
    children = tuple(_field(child, left, depth + 1) for child in table.tables(5, MAX_FIELDS))
    name = table.text(0).decode("utf-8", "surrogateescape")
    if inner is None:
        raise FormatError("column of Arrow has no type")
    found = _typed(Field(name, (), children=children), kind, inner)
    encoding = table.table(4)
    if encoding is None:
        return found
    index = encoding.table(1)
    form, dtype = ((CELLS, 4, "I32"), "<i4") if index is None else _integer(index)
    return Field(name, (form,), dtype, dictionary=encoding.number(0, "<q"), values=found)


def _typed(field: Field, kind: int, inner: Table) -> Field:
    """A column of a type."""
    if kind == _NULL:
        return field._replace(valid=False)
    if kind in (_STRUCT, _FIXED_LIST):
        return field
    if kind in (_LIST, _MAP, _LARGE_LIST):
        width = 8 if kind == _LARGE_LIST else 4
        return field._replace(forms=((OTHER, width, f"U{8 * width}"),))
    if field.children:
        raise FormatError("column of Arrow has columns within")
    if kind in (_BINARY_VIEW, _UTF8_VIEW):
        return field._replace(forms=((CELLS, 16, ""),), views=True)
    if kind in (_UTF8, _LARGE_UTF8, _BINARY, _LARGE_BINARY):
        texts = TEXTS_64 if kind in (_LARGE_UTF8, _LARGE_BINARY) else TEXTS_32
        dtype = "text" if kind in (_UTF8, _LARGE_UTF8) else "bytes"
        return field._replace(forms=((texts, 0, ""), (OTHER, 1, "U8")), dtype=dtype)
    if kind == _BOOL:
        return field._replace(forms=((BITS, 1, "U8"),), dtype="bool")
    form, dtype = _cells(kind, inner)
    return field._replace(forms=(form,), dtype=dtype)


def _cells(kind: int, inner: Table) -> tuple[tuple[int, int, str], str]:
    """How cells of one width lie, and their type for numpy."""
    unit = inner.number(0, "<h")
    if kind == _INTEGER:
        return _integer(inner)
    if kind == _FLOAT and 0 <= unit < len(_FLOATS):
        width, coded, dtype = _FLOATS[unit]
        return (CELLS, width, coded), dtype
    if kind == _DATE:
        unit = inner.number(0, "<h", 1)
        return ((CELLS, 8, "I64"), "<M8[ms]") if unit else ((CELLS, 4, "I32"), "<M8[D]")
    if kind == _TIME:
        width = inner.number(1, "<i", 32) // 8
        unit = inner.number(0, "<h", 1)
        if width in (4, 8) and 0 <= unit < len(_UNITS):
            return (CELLS, width, f"I{8 * width}"), f"<i{width}"
    if kind in (_TIMESTAMP, _DURATION):
        unit = inner.number(0, "<h", 0 if kind == _TIMESTAMP else 1)
        if 0 <= unit < len(_UNITS):
            return (CELLS, 8, "I64"), f"<{'M' if kind == _TIMESTAMP else 'm'}8[{_UNITS[unit]}]"
    width = 0
    if kind == _INTERVAL and 0 <= unit < len(_INTERVALS):
        width = _INTERVALS[unit]
    elif kind == _DECIMAL:
        width = inner.number(2, "<i", 128) // 8
    elif kind == _FIXED_BINARY:
        width = inner.number(0, "<i")
    if not 1 <= width <= 1 << 16:
        raise FormatError("column of Arrow has a type that is not known")
    return (CELLS, width, f"I{8 * width}" if width in (4, 8) else ""), ""


def _integer(inner: Table) -> tuple[tuple[int, int, str], str]:
    width, signed = inner.number(0, "<i") // 8, inner.number(1, "<B")
    if width not in (1, 2, 4, 8):
        raise FormatError("integers of Arrow have an impossible width")
    return (
        CELLS,
        width,
        f"{'I' if signed else 'U'}{8 * width}",
    ), f"<{'i' if signed else 'u'}{width}"
