"""Columns of Arrow's files (Feather) and streams, where their buffers are not compressed.

Format: https://arrow.apache.org/docs/format/Columnar.html. Messages are read one after the other,
also in files, whose footer only repeats where they are. The columns of a record batch are coded as
a table; small batches one behind the other share one.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from typing import NamedTuple

from densor.codec.table.layout import (
    BITS,
    CELLS,
    MAX_ARRAY_BYTES,
    MAX_BUFFERS,
    MAX_CELLS,
    MAX_COLUMNS,
    Layout,
)
from densor.errors import FormatError, TruncatedError
from densor.formats.io.sources import RandomSource
from densor.formats.parsers.arrow_schema import OTHER, Field, fields_of
from densor.formats.parsers.contents import Contents, Head, Stretch, Window
from densor.formats.parsers.flatbuffers import Table

MAGIC = b"ARROW1\0\0"
_CONTINUATION = b"\xff\xff\xff\xff"
_END = _CONTINUATION + bytes(4)
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3  # kinds of messages
_MAX_METADATA = 1 << 22  # bytes of a message
_MAX_MESSAGES = 1 << 16
_MAX_BUFFERS = 1 << 18  # of all batches; what comes behind is bytes
_MAX_ROWS = 1 << 21  # of a table: columns of more are elements, of which chunks are made
_JOINED = 1 << 23  # bytes of small batches that make one table
_AHEAD = 1 << 14  # bytes that are read at once where messages are near each other
_MIN_ELEMENTS = 1 << 12  # bytes of a buffer that are worth a stretch of their own


class Part(NamedTuple):
    """A buffer in the file. `form`, `width`, `dtype`: as in `Field`; `rows`: cells of its column.

    `column`: which field it belongs to, counted as in a batch, those within others too; `place`:
    which of its buffers it is, 0 that of validity.
    """

    begin: int
    size: int
    form: int
    width: int
    dtype: str
    rows: int
    column: int
    place: int


class Batch(NamedTuple):
    """Rows of a table, or of the dictionary of that number, to which they are `added`.

    `compressed`: no parts are known.
    """

    rows: int
    parts: list[Part]
    dictionary: int = -1
    added: bool = False
    compressed: bool = False


class Messages:
    """What is in a file or stream, in order. `fields`: the columns."""

    def __init__(self, window: Window, size: int, begin: int) -> None:
        self._window = window
        self._size = size
        kind, header, self._at, _ = self._message(begin)
        if kind != _SCHEMA:
            raise FormatError("Arrow begins without a schema")
        self.fields = fields_of(header)
        self._dictionaries = dict(_dictionaries(self.fields))

    def batches(self) -> Iterator[Batch]:
        """The batches of rows and of dictionaries, up to what cannot be read, or is too much."""
        left = _MAX_BUFFERS
        with suppress(FormatError, TruncatedError):
            for batch in islice(self.every_batch(), _MAX_MESSAGES):
                left -= len(batch.parts)
                if left < 0:
                    return
                yield batch

    def every_batch(self) -> Iterator[Batch]:
        """All of them; FormatError or TruncatedError where one cannot be read."""
        at = self._at
        while at < self._size and self._read(at, 8) != _END:
            kind, header, end, body = self._message(at)
            if kind not in (_DICTIONARY, _RECORDS):
                raise FormatError("Arrow has a message that is no batch")
            yield self._batch(kind, header, body, end)
            at = end

    def _message(self, at: int) -> tuple[int, Table, int, int]:
        """The kind of a message, what it says, and where its body ends and begins."""
        head = self._read(at, 8)
        size = struct.unpack("<i", head[4:])[0]
        if head[:4] != _CONTINUATION or not 0 < size <= _MAX_METADATA:
            raise FormatError("Arrow has no message here")
        message = Table.root(self._read(at + 8, size))
        header = message.table(2)
        body = at + 8 + size
        length = message.number(3, "<q")
        if header is None or not 0 <= length <= self._size - body:
            raise FormatError("message of Arrow is longer than the file")
        return message.number(1, "<B"), header, body + length, body

    def _read(self, at: int, count: int) -> bytes:
        if at + count > self._size:
            raise TruncatedError("Arrow ends within a message")
        return self._window.read(at, count)

    def _batch(self, kind: int, header: Table, body: int, end: int) -> Batch:
        number, added, fields = -1, False, self.fields
        if kind == _DICTIONARY:
            number, records = header.number(0, "<q"), header.table(1)
            added = bool(header.number(2, "<B"))
            if records is None or number not in self._dictionaries:
                raise FormatError("dictionary of Arrow has no column")
            header, fields = records, [self._dictionaries[number]]
        rows = header.number(0, "<q")
        if rows < 0:
            raise FormatError("batch of Arrow has an impossible number of rows")
        if header.place(3):
            return Batch(rows, [], number, added, compressed=True)
        return Batch(rows, _parts(fields, header, body, end), number, added)


def _dictionaries(fields: Sequence[Field]) -> Iterator[tuple[int, Field]]:
    """All columns that are dictionaries, by their number."""
    for field in fields:
        if field.values is not None:
            yield field.dictionary, field.values
            yield from _dictionaries([field.values])
        yield from _dictionaries(field.children)


def _parts(fields: Sequence[Field], records: Table, body: int, end: int) -> list[Part]:
    """The buffers of a batch in the order of the file, those of no bytes left out."""
    nodes = _integers(records, 1)[::2]
    spans = _integers(records, 2)
    buffers = iter(zip(spans[::2], spans[1::2], strict=True))
    counts = iter(_integers(records, 4, 1))
    found: list[Part] = []
    for column, field in enumerate(flat(fields)):
        if column >= len(nodes):
            raise FormatError("batch of Arrow has too few columns")
        first = 0 if field.valid else 1
        valid = ((BITS, 1, "U8"),) * field.valid
        more = next(counts, 0) if field.views else 0
        if not 0 <= more <= len(spans):
            raise FormatError("batch of Arrow has too few buffers")
        forms = (*valid, *field.forms, *((OTHER, 1, "U8"),) * more)
        for place, (form, width, dtype) in enumerate(forms, first):
            offset, size = next(buffers, (-1, 0))
            if offset < 0 or size < 0 or size > end - body - offset:
                raise FormatError("buffer of Arrow is not in its message")
            if size:
                lies = form, width, dtype, nodes[column], column, place
                found.append(Part(body + offset, size, *lies))
    if any(a.begin + a.size > b.begin for a, b in pairwise(found)):
        raise FormatError("buffers of Arrow overlap")
    return found


def flat(fields: Sequence[Field]) -> Iterator[Field]:
    """All columns as a batch counts them: each before those within it."""
    for field in fields:
        yield field
        yield from flat(field.children)


def _integers(table: Table, field: int, each: int = 2) -> tuple[int, ...]:
    """A vector of structures of `each` numbers of 64 bits."""
    begin, count = table.vector(field, 8 * each)
    return struct.unpack_from(f"<{each * count}q", table.data, begin) if count else ()


class _Run(NamedTuple):
    """Neighbouring buffers that are columns of one table, of one batch or several."""

    batches: tuple[int, ...]
    columns: tuple[tuple[int, int, str], ...]
    parts: list[Part]  # two for texts

    @property
    def begin(self) -> int:
        return self.parts[0].begin

    @property
    def end(self) -> int:
        return self.parts[-1].begin + self.parts[-1].size

    def stretch(self) -> Stretch:
        forms, widths, types = zip(*self.columns, strict=True)
        begin = self.begin
        layout = Layout(
            len(self.columns), 0, quote=0, widths=widths, types=types, arrays=forms,
            batches=self.batches, places=tuple(part.begin - begin for part in self.parts),
        )  # fmt: skip
        return Stretch(begin, self.end - begin, "U8", (), table=layout)

    def joined(self, other: "_Run") -> "_Run | None":
        """The table of both; None where they do not fit together."""
        rows = sum(self.batches) + sum(other.batches)
        if (
            self.columns != other.columns
            or other.end - self.begin > _JOINED
            or rows > _MAX_ROWS
            or rows * len(self.columns) > MAX_CELLS
            or len(self.parts) + len(other.parts) > MAX_BUFFERS
        ):
            return None
        return _Run(self.batches + other.batches, self.columns, self.parts + other.parts)


def _stretches(batches: Iterator[Batch]) -> Iterator[Stretch]:
    """Tables and arrays of elements, in order."""
    last: _Run | None = None
    for batch in batches:
        found = list(_of_batch(batch))
        only = found[0] if len(found) == 1 else None
        if isinstance(only, _Run):
            both = last.joined(only) if last is not None else None
            if last is not None and both is None:
                yield last.stretch()
            last = both or only
            continue
        if last is not None:
            yield last.stretch()
        last = None
        yield from (one.stretch() if isinstance(one, _Run) else one for one in found)
    if last is not None:
        yield last.stretch()


def _of_batch(batch: Batch) -> Iterator[_Run | Stretch]:
    """Tables of the columns that have all rows; other buffers as elements where these are many."""
    columns: list[tuple[int, int, str]] = []
    parts: list[Part] = []
    for column in _columns(batch.parts):
        one = column[0]
        if _is_column(column, batch.rows):
            full = (len(columns) + 1) * batch.rows > MAX_CELLS or len(columns) == MAX_COLUMNS
            if parts and (full or _end(column) - parts[0].begin > MAX_ARRAY_BYTES):
                yield _Run((batch.rows,), tuple(columns), parts)
                columns, parts = [], []
            columns.append((one.form, one.width, one.dtype))
            parts += column
        elif _end(column) - one.begin >= _MIN_ELEMENTS:
            if parts:
                yield _Run((batch.rows,), tuple(columns), parts)
                columns, parts = [], []
            yield from _elements(column, batch.rows)
    if parts:
        yield _Run((batch.rows,), tuple(columns), parts)


def _columns(parts: list[Part]) -> Iterator[list[Part]]:
    """Buffers that belong together: offsets and their texts, all others by themselves."""
    at = 0
    while at < len(parts):
        one = parts[at]
        text = one.form not in (CELLS, BITS, OTHER)
        both = text and at + 1 < len(parts) and parts[at + 1].column == one.column
        yield parts[at : at + 1 + both]
        at += 1 + both


def _end(column: list[Part]) -> int:
    return column[-1].begin + column[-1].size


def _is_column(column: list[Part], rows: int) -> bool:
    """Whether buffers are a column of so many rows."""
    one = column[0]
    if one.rows != rows or not 0 < rows <= _MAX_ROWS or _end(column) - one.begin > MAX_ARRAY_BYTES:
        return False
    if one.form == CELLS:
        return one.size >= rows * one.width
    if one.form == BITS:
        return one.size >= (rows + 7) // 8
    return one.form != OTHER and len(column) == 2 and one.size >= (rows + 1) * one.form


def _elements(column: list[Part], rows: int) -> Iterator[Stretch]:
    """Elements by their type, those of lists of one length as a matrix."""
    for part in column:
        width = part.form if part.form > BITS else part.width
        dtype = part.dtype or (f"U{8 * width}" if width in (4, 8) else "U8")
        if part.form != BITS and dtype != "U8":
            count = part.size // (int(dtype[1:]) // 8)
            shape = (count,) if rows < 2 or count % rows else (rows, count // rows)
            yield Stretch(part.begin, count * int(dtype[1:]) // 8, dtype, shape)


def messages_in(source: RandomSource, ahead: int) -> Messages | None:
    """The messages of a file or stream of Arrow; None if it is none.

    `ahead`: bytes that are read at once, where less would do.
    """
    window = Window(source, ahead)
    first = window.read(0, min(len(MAGIC), source.size))
    if first != MAGIC and first[:4] != _CONTINUATION:
        return None
    return Messages(window, source.size, len(MAGIC) if first == MAGIC else 0)


def find(head: Head) -> Contents | None:
    """The columns of a file or stream of Arrow; None if it is none, or read from a pipe."""
    first = head.first(len(MAGIC))
    if head.random is None or (first != MAGIC and first[:4] != _CONTINUATION):
        return None
    messages = messages_in(head.random, _AHEAD)
    return None if messages is None else Contents([], list(_stretches(messages.batches())))
