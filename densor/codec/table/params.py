"""The parameters of a MODEL frame: what rows of a table look like."""

from dataclasses import replace

from densor.codec import registry
from densor.codec.table.layout import (
    BITS,
    CELLS,
    MAX_BYTES,
    MAX_COLUMNS,
    TEXTS_32,
    TEXTS_64,
    Layout,
)
from densor.codec.table.wire import Reader, Writer
from densor.errors import FormatError

MAX_NAMES = 1 << 15  # bytes; also of all literals
SEPARATED, LITERALS, WIDTHS, RECORDS, ARRAYS = range(5)  # how cells are told apart


def pack(layout: Layout) -> bytes:
    """The payload of a MODEL frame."""
    out = Writer()
    out.byte(registry.CODEC_TABLE)
    out.byte(_kind(layout) << 1 | int(layout.returns))
    out.byte(layout.separator)
    out.byte(layout.quote)
    out.number(layout.columns)
    out.counted(layout.names)
    for literal in layout.literals:
        out.counted(literal)
    for column, width in enumerate(layout.widths):
        if layout.arrays:
            out.byte(layout.arrays[column])
        if not layout.arrays or layout.arrays[column] == CELLS:
            out.number(width)
    return out.bytes()


def _kind(layout: Layout) -> int:
    if layout.arrays:
        return ARRAYS
    if layout.records:
        return RECORDS
    return LITERALS if layout.literals else WIDTHS if layout.widths else SEPARATED


def parse(payload: bytes) -> Layout:
    """The layout in a MODEL frame; FormatError for a bad one."""
    at = Reader(payload)
    at.byte()
    form, separator, quote = at.byte(), at.byte(), at.byte()
    columns, names = at.number(MAX_COLUMNS), at.counted()
    kind = form >> 1
    literals = [at.counted() for _ in range(columns + 1)] if kind == LITERALS else []
    widths = [at.number(MAX_BYTES) for _ in range(columns)] if kind in (WIDTHS, RECORDS) else []
    arrays = [_array(at) for _ in range(columns)] if kind == ARRAYS else []
    size = max(len(names), sum(map(len, literals)))
    if kind > ARRAYS or not columns or size > MAX_NAMES or at.left:
        raise FormatError("table model has impossible parameters")
    if kind == RECORDS and (form & 1 or not all(widths) or sum(widths) > MAX_BYTES):
        raise FormatError("table model has impossible records")
    if kind == ARRAYS:
        if form & 1 or quote or names:
            raise FormatError("table model has impossible arrays")
        widths = [width for _, width in arrays]
    plain = Layout(columns, separator, bool(form & 1), quote, names)
    sizes = tuple(widths)
    forms = tuple(form for form, _ in arrays)
    records = kind == RECORDS
    return replace(plain, literals=tuple(literals), widths=sizes, records=records, arrays=forms)


def _array(at: Reader) -> tuple[int, int]:
    """How a column of arrays lies, and the bytes of each of its cells; 0 for texts."""
    form = at.byte()
    if form == CELLS:
        width = at.number(MAX_BYTES)
        if not width:
            raise FormatError("table model has impossible arrays")
        return form, width
    if form not in (BITS, TEXTS_32, TEXTS_64):
        raise FormatError("table model has arrays of an unknown form")
    return form, int(form == BITS)
