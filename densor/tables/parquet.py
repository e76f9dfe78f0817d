"""Tables in files of Parquet within archives, of which no more is read than what is asked for."""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec.pages import values as pages
from densor.codec.pages.layout import BITS, TEXTS
from densor.codec.pages.reading import StoredPages
from densor.codec.pages.undo import values_of
from densor.codec.registry import CODEC_PAGES
from densor.errors import FileError, FormatError
from densor.formats.container.archive import Archive, EntrySource
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.parsers.parquet import Group, Leaf, Metadata, stored_size
from densor.formats.parsers.thrift import Struct
from densor.tables.values import Values, nothing, objects, unread

_KEPT = 4  # chunks that are kept: columns of a group may be in several
_I32, _I64, _I96, _TEXT, _FIXED = 1, 2, 3, 6, 7  # physical types
_PLAIN = {0: "bool", _I32: "<i4", _I64: "<i8", _I96: "M8[ns]", 4: "<f4", 5: "<f8"}
_UNITS = {1: "ms", 2: "us", 3: "ns"}
_DECIMAL = 5  # in both lists of logical types
# Logical types of old and of new files.
_CONVERTED = {6: "M8[D]", 7: "m8[ms]", 8: "m8[us]", 9: "M8[ms]", 10: "M8[us]", 11: "u1", 12: "u2",
              13: "<u4", 14: "<u8", 15: "i1", 16: "<i2", 17: "<i4", 18: "<i8"}  # fmt: skip
_TEXTS, _TEXTS_BEFORE = (1, 4, 12), (0, 4, 19)
_DATE, _TIME, _TIMESTAMP, _INTEGER, _HALF = 6, 7, 8, 10, 15
_EPOCH = 2_440_588  # 1970-01-01 as a day of Julius
_DAY = 86_400_000_000_000  # nanoseconds


class _Stored:
    """Chunks of pages of a file in an archive, each with where its columns begin in the file."""

    def __init__(self, archive: Archive, entry: IndexedEntry) -> None:
        self._chunks = list(archive.unread_chunks(entry))
        self._begins = [chunk.begin for chunk in self._chunks]
        self._known: dict[int, tuple[StoredPages, dict[int, int]]] = {}

    def column(self, begin: int) -> tuple[StoredPages, int] | None:
        """The chunk that has the values of a column, and which it is there; None for none."""
        number = bisect.bisect_right(self._begins, begin) - 1
        if number < 0 or self._chunks[number].model[:1] != bytes([CODEC_PAGES]):
            return None
        if number not in self._known:
            chunk = self._chunks[number]
            form = chunk.model[1] if len(chunk.model) == 2 else -1  # any other was refused before
            stored = StoredPages(form, chunk.size, chunk.stored, chunk.read)
            self._known[number] = stored, _places(stored) if stored.apart else {}
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        stored, places = self._known[number]
        place = places.get(begin - self._begins[number])
        return None if place is None else (stored, place)


def _places(stored: StoredPages) -> dict[int, int]:
    """Where the columns of a chunk begin in it, and their numbers."""
    found: dict[int, int] = {}
    rest = at = 0
    for number, column in enumerate(stored.columns):
        rest, at = rest + column.before, at + column.before
        found[at] = number
        for page in column.pages:
            at += page.header + stored_size(stored.rest[rest : rest + page.header])
            rest += page.header
    return found


class ParquetTable:
    """A table in a file of Parquet. `names`: of its columns, those within others `outer.inner`."""

    def __init__(self, archive: Archive, entry: IndexedEntry) -> None:
        self._source = EntrySource(archive, entry)
        self._stored = _Stored(archive, entry)
        try:
            self._metadata = Metadata(self._source)
        except FormatError as error:
            raise FileError(f"{entry.meta.name}: {error}") from error
        self.names = [leaf.name for leaf in self._metadata.leaves]
        self._dtypes = [_dtype(leaf.element) for leaf in self._metadata.leaves]

    def parts(self, columns: Sequence[int], begin: int, end: int) -> Iterator[list[Values]]:
        """Columns of rows `begin` to `end`, of a group of rows at a time."""
        at = 0
        for group in self._metadata.groups:
            low, high = max(begin - at, 0), min(end - at, group.rows)
            at += group.rows
            if low < high:
                yield [self._column(group, number, low, high) for number in columns]
            if at >= end:
                return

    def nothing(self, number: int) -> Values:
        """A column of no rows; FileError for one that cannot be read."""
        if not self._dtypes[number]:
            raise unread(self._metadata.leaves[number].name)
        return nothing(self._dtypes[number])

    def _column(self, group: Group, number: int, low: int, high: int) -> Values:
        leaf, dtype = self._metadata.leaves[number], self._dtypes[number]
        if not dtype:
            raise unread(leaf.name)
        found = self._stored.column(group.begins[number]) if leaf.known else None
        if found is not None:
            stored, place = found
            if stored.rows != group.rows or stored.columns[place].width != leaf.width:
                raise FormatError("columns of Parquet differ in their rows")
            return _typed(stored.values(place, low, high), leaf, dtype)
        column = self._metadata.column(group, number)
        if column is None:
            raise unread(leaf.name)
        data = self._source.read_at(column.begin, column.size)
        values = values_of(column._replace(begin=0), group.rows, data)
        if values is None:
            raise unread(leaf.name)
        return _typed(values, leaf, dtype).take(np.arange(low, high))


def _dtype(element: Struct) -> str:
    """The type of a column's values; "text", "bytes", or nothing for one that is not known."""
    kind, logical, before = element.get(1), element.get(10), element.get(6, -1)
    if not isinstance(kind, int) or not isinstance(before, int):
        return ""
    if (isinstance(logical, dict) and _DECIMAL in logical) or before == _DECIMAL:
        return ""
    if kind in (_TEXT, _FIXED):
        if isinstance(logical, dict) and _HALF in logical:
            return "<f2" if kind == _FIXED and element.get(2) == 2 else ""
        text = isinstance(logical, dict) and any(key in logical for key in _TEXTS)
        return "text" if text or before in _TEXTS_BEFORE else "bytes"
    if kind in (_I32, _I64):
        return _of_logical(logical) or _CONVERTED.get(before, "") or _PLAIN[kind]
    return _PLAIN.get(kind, "")


def _of_logical(logical: object) -> str:
    """The type that a new file tells; nothing where that is not known."""
    if not isinstance(logical, dict):
        return ""
    if _DATE in logical:
        return "M8[D]"
    for key, kind in ((_TIME, "m8"), (_TIMESTAMP, "M8")):
        unit = logical[key].get(2) if isinstance(logical.get(key), dict) else None
        for number, name in _UNITS.items():
            if isinstance(unit, dict) and number in unit:
                return f"{kind}[{name}]"
    about = logical.get(_INTEGER)
    if isinstance(about, dict) and about.get(1) in (8, 16, 32, 64):
        return f"{'<i' if about.get(2, False) else '<u'}{about[1] // 8}"
    return ""


def _typed(values: pages.Values, leaf: Leaf, dtype: str) -> Values:
    """The values of pages as those of the column's type."""
    missing = values.missing
    if leaf.width == TEXTS or dtype in ("text", "bytes"):
        return Values(_texts(values, dtype == "text"), missing)
    size = abs(leaf.width)
    items = np.ascontiguousarray(values.data[: values.rows * size])
    if leaf.width == BITS:
        return Values(items.astype(np.bool_), missing)
    if leaf.element.get(1) == _I96:
        return Values(_times(items), missing)
    kind = np.dtype(dtype)
    physical = items.view(f"<u{size}") if kind.kind == "u" else items.view(f"<i{size}")
    if kind.kind in "iu":
        return Values(physical.astype(kind), missing)
    if kind.kind in "mM":
        return Values(physical.astype(np.int64).view(kind), missing)
    return Values(items.view(kind), missing)


def _times(items: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Nanoseconds of a day, and that day."""
    found = items.reshape(-1, 12)
    nanoseconds = np.ascontiguousarray(found[:, :8]).view("<i8").reshape(-1)
    days = np.ascontiguousarray(found[:, 8:]).view("<i4").reshape(-1).astype(np.int64)
    times: npt.NDArray[Any] = ((days - _EPOCH) * _DAY + nanoseconds).view("M8[ns]")
    return times


def _texts(values: pages.Values, text: bool) -> npt.NDArray[np.object_]:
    """Texts as `str`, or as `bytes`, each different place made once."""
    both = values.starts.astype(np.int64) << 32 | values.lengths
    different, ids = np.unique(both, return_inverse=True)
    begins, lengths = different >> 32, different & 0xFFFFFFFF
    return objects(values.data.tobytes(), begins, begins + lengths, ids.reshape(-1), text)
