"""What both sides know of a chunk of pages."""

from typing import NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.batch import Bytes
from densor.codec.pages import recipe
from densor.codec.pages.layout import MAX_CONTENT, MAX_ROWS
from densor.codec.pages.values import ColumnRecipe
from densor.codec.table.layout import MAX_ARRAY_BYTES, MAX_CELLS
from densor.codec.table.wire import Reader, Writer
from densor.errors import FormatError, LimitError

FIRST, NEWER = range(2)  # forms of chunks; of the newer one, pages may be more
MAX_TABLES = 64
AS_BYTES, AS_TABLE = range(2)  # how the values of some rows are coded


class Table(NamedTuple):
    """The values of some rows. `model`: of a table, empty where they are bytes that are packed."""

    rows: int
    size: int
    model: bytes
    stored: bytes


class Payload(NamedTuple):
    """A chunk. `rest`: all bytes of it that are made of no values."""

    columns: list[ColumnRecipe]
    rest: bytes
    tables: list[Table]


def model_of(form: int) -> bytes:
    """The payload of a MODEL frame."""
    return bytes([registry.CODEC_PAGES, form])


def parse(payload: Bytes, size: int, form: int) -> Payload:
    """A chunk of `size` bytes; FormatError or LimitError for a bad one."""
    at = Reader(np.ascontiguousarray(payload))
    rows = at.number(MAX_ROWS)
    if not rows:
        raise FormatError("pages have no rows")
    columns = recipe.take(at, size, rows, form == NEWER)
    rest = at.packed(size)
    tables = [_table(at) for _ in range(at.number(MAX_TABLES))]
    if at.left or sum(table.rows for table in tables) != rows:
        raise FormatError("tables of pages do not have their rows")
    if sum(table.size for table in tables) > MAX_CONTENT:
        raise LimitError("tables of pages have too many bytes")
    cells = sum(1 + column.missing for column in columns)
    if any(table.rows * cells > MAX_CELLS for table in tables):
        raise LimitError("tables of pages have too many cells")
    if sum(c.before + sum(p.header for p in c.pages) for c in columns) > len(rest):
        raise FormatError("pages have more headers than there are")
    return Payload(columns, rest, tables)


def _table(at: Reader) -> Table:
    way, rows, size = at.byte(), at.number(MAX_ROWS), at.number(MAX_ARRAY_BYTES)
    if way > AS_TABLE:
        raise FormatError("values of pages are coded in an unknown way")
    if way == AS_BYTES:
        return Table(rows, size, b"", at.packed(size))
    return Table(rows, size, at.counted(), at.counted())


def pack_table(rows: int, size: int, model: bytes, stored: bytes) -> bytes:
    """The values of some rows; `stored`: packed, or the payload of a table of that model."""
    out = Writer()
    out.byte(AS_TABLE if model else AS_BYTES)
    out.number(rows)
    out.number(size)
    if model:
        out.counted(model)
        out.counted(stored)
    else:
        out.raw(stored)
    return out.bytes()
