"""Tables in files of Arrow within archives, of which no more is read than what is asked for."""

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.registry import CODEC_TABLE
from densor.codec.table.arrays import Buffer
from densor.codec.table.layout import BITS, CELLS, Layout
from densor.codec.table.output import cells_in
from densor.codec.table.params import parse
from densor.codec.table.reading import StoredPart
from densor.errors import FileError, FormatError
from densor.formats.container.archive import Archive
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.parsers.arrow import Batch, Messages, Part, flat, messages_in
from densor.formats.parsers.arrow_schema import Field
from densor.tables.values import Values, nothing, objects, unread

_KEPT = 4  # chunks whose columns are kept: batches share chunks, and dictionaries are in others


class _Stored:
    """Buffers of a file in an archive, those of tables by their columns alone."""

    def __init__(self, archive: Archive, entry: IndexedEntry) -> None:
        self._archive = archive
        self._entry = entry
        self._chunks = list(archive.unread_chunks(entry))
        self._begins = [chunk.begin for chunk in self._chunks]
        self._known: dict[int, tuple[Layout, StoredPart, dict[int, Buffer]]] = {}  # the last ones
        self._last: tuple[int, StoredPart] | None = None  # in which messages were read

    def read(self, begin: int, end: int) -> Bytes:
        """Bytes of the file."""
        return self._archive.read(self._entry, begin, end)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._entry.size

    def read_at(self, offset: int, count: int) -> Bytes:
        """Bytes of the file, for which no column is decoded where they are in none."""
        number = bisect.bisect_right(self._begins, offset) - 1
        chunk = self._chunks[number] if self._chunks else None
        if chunk is not None and chunk.model[:1] == bytes([CODEC_TABLE]):
            if self._last is None or self._last[0] != number:
                layout = parse(chunk.model)
                self._last = number, StoredPart(layout, chunk.size, chunk.stored, chunk.read)
            begin = offset - chunk.begin
            found = self._last[1].between(begin, begin + count)
            if found is not None:
                return np.frombuffer(found, np.uint8)
        return self.read(offset, offset + count)

    def column(self, part: Part, rows: int) -> tuple[StoredPart, Buffer] | None:
        """The table that a buffer is in, and where, for its first rows; None for one in none."""
        number = bisect.bisect_right(self._begins, part.begin) - 1
        chunk = self._chunks[number]
        if chunk.model[:1] != bytes([CODEC_TABLE]):
            return None
        first = number not in self._known
        if first:
            layout = parse(chunk.model)
            stored = StoredPart(layout, chunk.size, chunk.stored, chunk.read)
            buffers = {b.begin: b for b in stored.buffers() if b.size}
        else:
            layout, stored, buffers = self._known.pop(number)
        found = buffers.get(part.begin - chunk.begin)
        if found is not None and not _lies_as(part, found, layout):
            found = None
        if found is not None and first:  # most likely all others are wanted for these rows, too
            stored.needed = min(found.first + rows, stored.rows)
        elif found is not None and found.first + rows > stored.needed:  # those of a later batch
            stored = StoredPart(layout, chunk.size, chunk.stored, chunk.read)
        self._known[number] = layout, stored, buffers
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return None if found is None else (stored, found)


def _lies_as(part: Part, found: Buffer, layout: Layout) -> bool:
    """Whether a buffer of a chunk has the form that the file says; a hostile archive's may not."""
    form = layout.arrays[found.column]
    same = form == part.form and (form != CELLS or layout.widths[found.column] == part.width)
    return same and not found.data


class ArrowTable:
    """A table in a file or stream of Arrow. `names`: of its columns."""

    def __init__(self, archive: Archive, entry: IndexedEntry) -> None:
        self._stored = _Stored(archive, entry)
        found = messages_in(self._stored, 1)  # no byte more: it may be in a table
        if found is None:
            raise FileError(f"{entry.meta.name}: this is no file of Arrow")
        self._messages: Messages = found
        self._fields = found.fields
        self.names = [field.name for field in self._fields]
        counts = (sum(1 for _ in flat([field])) for field in self._fields)
        self._places = list(accumulate(counts, initial=0))
        self._looked_up: dict[int, Values] = {}  # dictionaries, by the columns they are for

    def parts(self, columns: Sequence[int], begin: int, end: int) -> Iterator[list[Values]]:
        """Columns of rows `begin` to `end`, a batch at a time."""
        dictionaries: dict[int, Batch] = {}
        at = 0
        for batch in self._messages.every_batch():
            if batch.dictionary >= 0:
                if batch.added:
                    raise FileError("dictionaries of Arrow that grow cannot be read by columns")
                dictionaries[batch.dictionary] = batch
                self._looked_up.clear()
                continue
            low, high = max(begin - at, 0), min(end - at, batch.rows)
            at += batch.rows
            if low < high:
                parts = _by_column(batch)
                yield [self._column(i, batch, parts, low, high, dictionaries) for i in columns]
            if at >= end:
                return

    def nothing(self, number: int) -> Values:
        """A column of no rows; FileError for one that cannot be read."""
        field = self._fields[number]
        return nothing(_known(field if field.values is None else field.values))

    def _column(
        self,
        number: int,
        batch: Batch,
        parts: dict[int, dict[int, Part]],
        low: int,
        high: int,
        dictionaries: dict[int, Batch],
    ) -> Values:
        field = self._fields[number]
        found = self._values(field, batch, parts.get(self._places[number], {}), low, high)
        if field.values is None:
            return found
        cells = dictionaries.get(field.dictionary)
        if cells is None:
            raise FormatError("dictionary of Arrow is missing")
        missing = found.missing
        if cells.rows == 0 and missing is not None and missing.all():
            kind = field.values.dtype
            empty = np.zeros(missing.size, "O" if kind in ("", "text", "bytes") else kind)
            return Values(empty, missing)
        if number not in self._looked_up:
            own = _by_column(cells).get(0, {})
            self._looked_up[number] = self._values(field.values, cells, own, 0, cells.rows)
        values = self._looked_up[number]
        ids = found.cells if missing is None else np.where(missing, 0, found.cells)
        if cells.rows == 0 or (ids.size and not 0 <= ids.min() <= ids.max() < cells.rows):
            raise FormatError("cells of Arrow are not in their dictionary")
        taken = values.take(ids.astype(np.intp))
        if taken.missing is not None and missing is not None:  # in the dictionary, and in the rows
            missing = missing | taken.missing
        return taken if missing is None else taken._replace(missing=missing)

    def _values(
        self, field: Field, batch: Batch, parts: dict[int, Part], low: int, high: int
    ) -> Values:
        dtype = _known(field)
        if batch.compressed:
            raise unread(field.name)
        if any(part.rows != batch.rows for part in parts.values()):
            raise FormatError("columns of Arrow differ in their rows")
        missing = ~self._bits(parts[0], low, high) if 0 in parts else None
        if missing is not None and not missing.any():
            missing = None
        if dtype in ("text", "bytes"):
            return Values(self._texts(field, parts, low, high), missing)
        if 1 not in parts:
            raise FormatError("column of Arrow has no values")
        if dtype == "bool":
            return Values(self._bits(parts[1], low, high), missing)
        cells = self._cells(parts[1], low, high)
        if parts[1].width < np.dtype(dtype).itemsize:  # days in 32 bits
            return Values(cells.view("<i4").astype(dtype), missing)
        return Values(cells.view(dtype), missing)

    def _cells(self, part: Part, low: int, high: int) -> Bytes:
        found = self._stored.column(part, high)
        width = part.width
        if part.size < high * width:
            raise FormatError("column of Arrow is shorter than its batch")
        if found is None:
            return self._stored.read(part.begin + low * width, part.begin + high * width)
        stored, buffer = found
        size = (high - low) * width
        return cells_in(stored.column(buffer.column), buffer.first + low, buffer.first + high, size)

    def _bits(self, part: Part, low: int, high: int) -> npt.NDArray[np.bool_]:
        if part.form != BITS or part.size < (high + 7) // 8:
            raise FormatError("column of Arrow is shorter than its batch")
        found = self._stored.column(part, high)
        if found is None:
            packed = self._stored.read(part.begin + low // 8, part.begin + (high + 7) // 8)
            return np.unpackbits(packed, bitorder="little")[low % 8 :][: high - low].view(np.bool_)
        stored, buffer = found
        rows = buffer.first + low, buffer.first + high
        return cells_in(stored.column(buffer.column), *rows, high - low).astype(np.bool_)

    def _texts(self, field: Field, parts: dict[int, Part], low: int, high: int) -> npt.NDArray[Any]:
        """Texts as `str`, what is no text as `bytes`."""
        if 1 not in parts:
            raise FormatError("column of Arrow has no values")
        offsets, form = parts[1], parts[1].form
        found = self._stored.column(offsets, high) if 2 in parts else None
        if found is None:
            width = slice(offsets.begin + low * form, offsets.begin + (high + 1) * form)
            if offsets.size < (high + 1) * form:
                raise FormatError("column of Arrow is shorter than its batch")
            ends = self._stored.read(width.start, width.stop).view(f"<i{form}").astype(np.int64)
            size = parts[2].size if 2 in parts else 0
            if ends[0] < 0 or (ends[1:] < ends[:-1]).any() or ends[-1] > size:
                raise FormatError("texts of Arrow have impossible offsets")
            begin = parts[2].begin if 2 in parts else 0
            data = self._stored.read(begin + int(ends[0]), begin + int(ends[-1])) if size else b""
            return _objects(bytes(data), ends - ends[0], None, field.dtype == "text")
        stored, buffer = found
        column = stored.column(buffer.column)
        ids = column.ids[buffer.first + low : buffer.first + high]
        data = column.cells.blob.tobytes()
        return _objects(data, column.cells.offsets, ids, field.dtype == "text")


def _known(field: Field) -> str:
    """The type of a column; FileError for one of which values cannot be told."""
    if field.children or field.views or not field.dtype:
        raise unread(field.name)
    return field.dtype


def _by_column(batch: Batch) -> dict[int, dict[int, Part]]:
    """The buffers of a batch by their columns, and which of these they are."""
    found: dict[int, dict[int, Part]] = {}
    for part in batch.parts:
        found.setdefault(part.column, {})[part.place] = part
    return found


def _objects(data: bytes, offsets: npt.NDArray[np.int64], ids: Any, text: bool) -> npt.NDArray[Any]:
    """Cells one behind the other as objects; `ids`: which of them, by default all."""
    if ids is None:
        return objects(data, offsets[:-1], offsets[1:], None, text)
    used, ids = np.unique(ids, return_inverse=True)
    return objects(data, offsets[used], offsets[used + 1], ids.reshape(-1), text)
