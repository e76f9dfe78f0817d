"""The parameters of a MODEL frame: what rows of a table look like."""

from dataclasses import replace

from densor.codec import registry
from densor.codec.table.layout import MAX_BYTES, MAX_COLUMNS, Layout
from densor.codec.table.wire import Reader, Writer
from densor.errors import FormatError

MAX_NAMES = 1 << 15  # bytes; also of all literals
SEPARATED, LITERALS, WIDTHS, RECORDS = range(4)  # how cells are told apart


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
    for width in layout.widths:
        out.number(width)
    return out.bytes()


def _kind(layout: Layout) -> int:
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
    widths = [at.number(MAX_BYTES) for _ in range(columns)] if kind >= WIDTHS else []
    size = max(len(names), sum(map(len, literals)))
    if kind > RECORDS or not columns or size > MAX_NAMES or at.left:
        raise FormatError("table model has impossible parameters")
    if kind == RECORDS and (form & 1 or not all(widths) or sum(widths) > MAX_BYTES):
        raise FormatError("table model has impossible records")
    plain = Layout(columns, separator, bool(form & 1), quote, names)
    sizes = tuple(widths)
    return replace(plain, literals=tuple(literals), widths=sizes, records=kind == RECORDS)
