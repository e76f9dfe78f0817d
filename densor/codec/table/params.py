"""The parameters of a MODEL frame: what rows of a table look like."""

from densor.codec import registry
from densor.codec.table.layout import MAX_COLUMNS, Layout
from densor.codec.table.wire import Reader, Writer
from densor.errors import FormatError

MAX_NAMES = 1 << 15


def pack(layout: Layout) -> bytes:
    """The payload of a MODEL frame."""
    out = Writer()
    out.byte(registry.CODEC_TABLE)
    out.byte(int(layout.returns))
    out.byte(layout.separator)
    out.byte(layout.quote)
    out.number(layout.columns)
    out.counted(layout.names)
    return out.bytes()


def parse(payload: bytes) -> Layout:
    """The layout in a MODEL frame; FormatError for a bad one."""
    at = Reader(payload)
    at.byte()
    returns, separator, quote = at.byte(), at.byte(), at.byte()
    columns, names = at.number(MAX_COLUMNS), at.counted()
    if returns > 1 or not columns or len(names) > MAX_NAMES or at.left:
        raise FormatError("table model has impossible parameters")
    return Layout(columns, separator, bool(returns), quote, names)
