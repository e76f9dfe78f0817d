"""What both sides know of a chunk of pages."""

from collections.abc import Sequence
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

FIRST, NEWER, NEWEST = range(3)  # forms of chunks; of each one, pages may be more
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


class Head(NamedTuple):
    """What a chunk begins with. `rest`: all bytes of it that are made of no values."""

    rows: int
    columns: list[ColumnRecipe]
    rest: bytes
    tables: int


def parse(payload: Bytes, size: int, form: int) -> Payload:
    """A chunk of `size` bytes; FormatError or LimitError for a bad one."""
    at = Reader(np.ascontiguousarray(payload))
    head = take_head(at, size, form)
    tables = [_table(at) for _ in range(head.tables)]
    if at.left:
        raise FormatError("tables of pages do not have their rows")
    check(head, [(table.rows, table.size) for table in tables])
    return Payload(head.columns, head.rest, tables)


def take_head(at: Reader, size: int, form: int) -> Head:
    """The head of a chunk of `size` bytes; FormatError or LimitError for a bad one."""
    rows = at.number(MAX_ROWS)
    if not rows:
        raise FormatError("pages have no rows")
    columns = recipe.take(at, size, rows, form)
    return Head(rows, columns, at.packed(size), at.number(MAX_TABLES))


def check(head: Head, tables: Sequence[tuple[int, int]]) -> None:
    """FormatError or LimitError for tables, of which rows and bytes are given, that do not fit."""
    if sum(rows for rows, _ in tables) != head.rows:
        raise FormatError("tables of pages do not have their rows")
    if sum(size for _, size in tables) > MAX_CONTENT:
        raise LimitError("tables of pages have too many bytes")
    cells = sum(1 + column.missing for column in head.columns)
    if any(rows * cells > MAX_CELLS for rows, _ in tables):
        raise LimitError("tables of pages have too many cells")
    if sum(c.before + sum(p.header for p in c.pages) for c in head.columns) > len(head.rest):
        raise FormatError("pages have more headers than there are")


def take_table(at: Reader) -> tuple[int, int, int]:
    """How the values of some rows are coded, how many rows and bytes; FormatError for bad ones."""
    way, rows, size = at.byte(), at.number(MAX_ROWS), at.number(MAX_ARRAY_BYTES)
    if way > AS_TABLE:
        raise FormatError("values of pages are coded in an unknown way")
    return way, rows, size


def _table(at: Reader) -> Table:
    way, rows, size = take_table(at)
    if way == AS_BYTES:
        return Table(rows, size, b"", at.packed(size))
    return Table(rows, size, take_model(at), at.counted())


def take_model(at: Reader) -> bytes:
    """The model of a table; FormatError for an empty one."""
    model = at.counted()
    if not model:
        raise FormatError("table of pages has no model")
    return model


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
