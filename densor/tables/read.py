"""Some columns and rows of a table in an archive; the types of cells where its file has none."""

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.registry import CODEC_TABLE
from densor.codec.table.cells import rows_of
from densor.codec.table.layout import I64, Layout
from densor.codec.table.output import Column
from densor.codec.table.params import parse
from densor.codec.table.reading import Part, PlainPart, StoredPart, lines_of
from densor.errors import ArgumentError, FileError
from densor.file import File, only_file
from densor.formats.container.archive import Archive
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.parsers import json_lines
from densor.formats.parsers.tabular import FORMATS, SAMPLE, layout_in
from densor.options import ReadKeywords, ReadOptions, read_options
from densor.runtime.arguments import need, need_whole
from densor.runtime.workers import Task, settle
from densor.tables.arrow import ArrowTable
from densor.tables.parquet import ParquetTable
from densor.tables.records import RecordTable
from densor.tables.values import Values, holds, joined

Kind = Literal["numpy", "pandas", "polars", "arrow"]
TypedTable = ArrowTable | RecordTable | ParquetTable
# Files that tell the types of their columns, by format.
_TYPED: dict[str, Callable[[Archive, IndexedEntry], TypedTable]] = {
    "arrow": ArrowTable,
    "npy": RecordTable,
    "parquet": ParquetTable,
}
_UNITS_OF_POLARS = ("ms", "us", "ns")
_MISSING = {b"", b"NA", b"N/A", b"NaN", b"nan", b"null", b"NULL"}
_INTEGER = re.compile(rb"[+-]?\d{1,18}")
_FLOAT = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TIME = re.compile(rb"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d)?Z?")
_CONDITION = re.compile(r"\s*(.+?)\s*(==|!=|<=|>=|<|>)\s*(.*?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class _Condition(NamedTuple):
    """What a cell of a column must be."""

    column: int
    compare: Callable[[Any, Any], Any]
    value: str


class TableLatents(NamedTuple):
    """Latent classes that some rows of a table are coded under.

    `rows`: which rows; `row_classes`: int32, the class of each; `column_classes`: that of each
    column under them, by its name. Numbers mean something within these rows alone.
    """

    rows: slice
    row_classes: npt.NDArray[np.int32]
    column_classes: dict[str, int]


class Table:
    """A table in an open archive. `name`: of the file, where there are several.

    Rows are those of the table's form: lines of another number of cells count for nothing.
    """

    def __init__(self, archive: Archive, name: str | None = None) -> None:
        self._archive = archive
        self._entry = only_file(archive, name, FORMATS, "table")
        self._chunks = list(archive.unread_chunks(self._entry))
        self.layout = self._layout()
        first = self.layout.names.rstrip(b"\r\n")
        self._header = _split(first, self.layout) if first else []
        self.names = self._names()

    def _names(self) -> list[str]:
        if self._header:
            names = [_text(cell, self.layout) for cell in self._header]
            return [names[0].removeprefix("\ufeff"), *names[1:]]
        if self.layout.literals:
            return json_lines.names_of(self.layout)
        return [f"column{i + 1}" for i in range(self.layout.columns)]

    def _layout(self) -> Layout:
        for chunk in self._chunks:
            if chunk.model[:1] == bytes([CODEC_TABLE]):
                return parse(chunk.model)
        size = self._entry.size
        sample = self._archive.read(self._entry, 0, min(SAMPLE, size)).tobytes()
        found = layout_in(sample, len(sample) == size)
        if found is None:
            raise FileError(f"{self._entry.meta.name}: this is no table")
        return found

    def header(self, columns: Sequence[int]) -> bytes:
        """The line of names, of some columns; nothing where the table has none."""
        if not self._header:
            return b""
        end = b"\r\n" if self.layout.returns else b"\n"
        return bytes([self.layout.separator]).join(self._header[i] for i in columns) + end

    def select(
        self, columns: Sequence[int], rows: slice, where: Sequence[str] = ()
    ) -> Iterator[list[Column]]:
        """Columns of the rows that are asked for, of a part of the table at a time.

        As many parts are decoded at once as the archive has threads. `where`: conditions such as
        `price >= 10` or `cut == Ideal`, all of which must hold; `rows` counts before them.
        """
        conditions = [_condition(text, self.names) for text in where]
        workers = self._archive.workers
        tasks: deque[Task[list[Column]]] = deque()
        try:
            for part, low, high in self._parts_with(*_range(rows)):
                chosen = range(low, high)
                task = workers.submit(
                    _columns_where, part, chosen, columns, conditions, self.layout
                )
                tasks.append(task)
                if len(tasks) >= workers.threads:
                    yield from _first_of(tasks)
            while tasks:
                yield from _first_of(tasks)
        finally:
            settle(tasks)

    def _parts_with(self, begin: int, end: int) -> Iterator[tuple[Part, int, int]]:
        """The parts that have some of these rows, and which of a part's own rows those are."""
        at = 0
        for part in self._parts():
            low, high = max(begin - at, 0), min(end - at, part.rows)
            at += part.rows
            if low < high:
                yield part, low, high
            if at >= end:
                return

    def lines(self, columns: Sequence[int], rows: slice, where: Sequence[str]) -> Iterator[Bytes]:
        """The same as text."""
        layout = replace(self.layout, columns=len(columns))
        if layout.literals:
            names = [self.names[column] for column in columns]
            layout = replace(layout, literals=json_lines.literals_for(names))
        if layout.widths:
            layout = replace(layout, widths=tuple(layout.widths[column] for column in columns))
        for found in self.select(columns, rows, where):
            yield lines_of(found, np.arange(found[0].ids.size), layout)

    def latents(self) -> Iterator[TableLatents]:
        """The latent classes of each part that was coded under such, in order."""
        at = 0
        for part in self._parts():
            found = part.latents() if isinstance(part, StoredPart) else None
            if found is not None:
                latents, columns = found
                names = [self.names[column] for column in columns]
                below = dict(zip(names, latents.columns.tolist(), strict=True))
                yield TableLatents(slice(at, at + part.rows), latents.rows, below)
            at += part.rows

    def stored_sizes(self) -> tuple[int, list[int]]:
        """How many rows are coded by columns, and the stored bytes of each column."""
        rows, sizes = 0, [0] * len(self.names)
        for part in self._parts():
            if isinstance(part, StoredPart):
                rows += part.rows
                sizes = [size + part.stored_size(i) for i, size in enumerate(sizes)]
        return rows, sizes

    def _parts(self) -> Iterator[Part]:
        """The parts in order; a chunk that begins within a row is taken as text with that row."""
        left = b""
        for chunk in self._chunks:
            if not left and chunk.model[:1] == bytes([CODEC_TABLE]):
                part = StoredPart(parse(chunk.model), chunk.size, chunk.stored, chunk.read)
                yield part
                left = b"" if part.behind.endswith(b"\n") else part.behind.split(b"\n")[-1]
                continue
            end = chunk.begin + chunk.size
            text = left + self._archive.read(self._entry, chunk.begin, end).tobytes()
            whole = text.rfind(b"\n") + 1
            yield from self._of_text(text[:whole])
            left = text[whole:]
        if left:
            yield from self._of_text(left + b"\n")

    def _of_text(self, text: bytes) -> Iterator[Part]:
        found = rows_of(np.frombuffer(text, np.uint8), self.layout)
        if found is not None:
            yield PlainPart(found)


def _first_of(tasks: deque[Task[list[Column]]]) -> list[list[Column]]:
    """What the first task has found, if it has found rows; it is a task no more then."""
    found = tasks[0].result()
    tasks.popleft()
    return [found] if found else []


def _columns_where(
    part: Part,
    rows: range,
    columns: Sequence[int],
    conditions: Sequence[_Condition],
    layout: Layout,
) -> list[Column]:
    """Columns of those rows of a part for which all conditions hold; none where there are none."""
    if isinstance(part, StoredPart):
        part.needed = rows.stop
    chosen = np.arange(rows.start, rows.stop)
    for condition in conditions:
        column = part.column(condition.column)
        chosen = chosen[_holds(column, condition, chosen, layout)]
    if not chosen.size:
        return []
    found = [part.column(number) for number in columns]
    return [c._replace(ids=c.ids[chosen], values=None) for c in found]


def numbers_of(names: Sequence[str], columns: Sequence[str] | None) -> list[int]:
    """Which of all columns, whose `names` are given, are asked for; None: all.

    ArgumentError for a name that none has, or several have.
    """
    if columns is None:
        return list(range(len(names)))
    if not columns:
        raise ArgumentError("no columns are asked for")
    return [_number(column, names) for column in columns]


def _number(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ArgumentError(f"no column {name!r}; there are {', '.join(names[:40])}")
    if (count := names.count(name)) > 1:
        raise ArgumentError(f"{count} columns are called {name!r}")
    return names.index(name)


def _condition(text: str, names: Sequence[str]) -> _Condition:
    need(text, str, "a condition")
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ArgumentError(f"{text!r} is no condition such as 'price >= 10'")
    return _Condition(_number(match[1], names), _COMPARE[match[2]], match[3].strip("\"'"))


def _range(rows: slice) -> tuple[int, int]:
    begin = 0 if rows.start is None else rows.start
    end = 1 << 62 if rows.stop is None else rows.stop
    need_whole(**{"start of rows": begin, "end of rows": end})
    if begin < 0 or end < 0 or rows.step not in (None, 1):
        raise ArgumentError("rows are counted from the first one, without a step")
    return begin, end


def _split(line: bytes, layout: Layout) -> list[bytes]:
    """The cells of a line without line ends in it."""
    rows = rows_of(np.frombuffer(line + b"\n", np.uint8), Layout(
        layout.columns, layout.separator, False, layout.quote))  # fmt: skip
    if rows is None:
        return []
    return [cells.text(0) for cells in rows.cells()]


def _plain(cell: bytes, layout: Layout) -> bytes:
    """A cell without its quotes, or blanks around it."""
    if layout.literals:
        return json_lines.plain(cell)
    if layout.widths:
        return cell.strip(b" ")
    quote = layout.quote
    if quote and len(cell) > 1 and cell[0] == quote == cell[-1]:
        mark = bytes([quote])
        return cell[1:-1].replace(2 * mark, mark)
    return cell


def _text(cell: bytes, layout: Layout) -> str:
    return _plain(cell, layout).decode("utf-8", "surrogateescape")


def _texts(column: Column, layout: Layout) -> list[bytes]:
    """The different cells of a column."""
    data, offsets = column.cells.blob.tobytes(), column.cells.offsets.tolist()
    pairs = itertools.pairwise(offsets)
    return [_plain(data[begin:end], layout) for begin, end in pairs]


def _used(column: Column) -> tuple[Column, npt.NDArray[np.intp]]:
    """A column with those cells alone that occur, and which one is in each row."""
    used, ids = np.unique(column.ids, return_inverse=True)
    lengths = np.diff(column.cells.offsets)[used]
    offsets = np.zeros(used.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    at = np.arange(int(offsets[-1])) + np.repeat(column.cells.offsets[used] - offsets[:-1], lengths)
    cells = column.cells._replace(blob=column.cells.blob[at], offsets=offsets, numbers=None)
    return column._replace(cells=cells), ids.reshape(-1)


def _holds(
    column: Column, condition: _Condition, chosen: I64, layout: Layout
) -> npt.NDArray[np.bool_]:
    found, ids = _used(column._replace(ids=column.ids[chosen]))
    cells = _texts(found, layout)
    value = condition.value.encode("utf-8", "surrogateescape")
    if _FLOAT.fullmatch(value):
        wanted = _number_in(value)
        numbers = [_number_in(cell) for cell in cells]
        good = np.array([condition.compare(number, wanted) for number in numbers], np.bool_)
    else:
        good = np.array([condition.compare(cell, value) for cell in cells], np.bool_)
    held: npt.NDArray[np.bool_] = good[ids]
    return held


def _number_in(cell: bytes) -> int | float:
    """The number of a cell, exact where it is an integer; NaN for what is none."""
    if _INTEGER.fullmatch(cell):
        return int(cell)
    return float(cell) if _FLOAT.fullmatch(cell) else np.nan


def _typed(cells: list[bytes]) -> npt.NDArray[Any]:
    """Different cells as integers, floating-point numbers, times, or else texts."""
    known = [cell for cell in cells if cell not in _MISSING]
    if known and all(map(_FLOAT.fullmatch, known)):
        if len(known) == len(cells) and all(map(_INTEGER.fullmatch, known)):
            return np.array([int(cell) for cell in cells], np.int64)
        return np.array([np.nan if cell in _MISSING else float(cell) for cell in cells])
    if known and all(map(_TIME.fullmatch, known)):
        try:
            texts = ["NaT" if c in _MISSING else c.decode().rstrip("Z") for c in cells]
            return np.array(texts, "M8[s]")
        except ValueError:
            pass
    texts = [cell.decode("utf-8", "surrogateescape") for cell in cells]
    return np.array(texts, object)


def _joined(columns: list[Column], layout: Layout) -> npt.NDArray[Any]:
    """The values of a column in all parts."""
    cells: list[bytes] = []
    ids = []
    for column in columns:
        found, numbers = _used(column)
        ids.append(numbers + len(cells))
        cells += _texts(found, layout)
    if not ids:
        return np.array([], object)
    return _typed(cells)[np.concatenate(ids)]


def read_table(
    source: Any,
    name: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    rows: slice | None = None,
    where: str | Sequence[str] = (),
    to: Kind = "numpy",
    threads: int | None = None,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Any:
    """Columns of a CSV, Parquet, Arrow or `.npy` file in an archive; no more is decoded.

    `source`: path, URL, file object or bytes of an archive; `name`: of the file in it, where there
    are several. `columns`: names, by default all. `rows`: those of a slice, without a step, of the
    rows of the table. `where`: conditions such as `price >= 10` or `cut == Ideal`, of which all
    must hold. `to`: a dict of numpy arrays, or a table of `pandas`, `polars` or `arrow`, which must
    be installed. Cells are integers, floating-point numbers (also where some are missing), times or
    texts, whatever all of those that are read can be. Those of Parquet, Arrow and records have the
    types that the file says, and what is missing is NaN, NaT or None: integers some of which are
    missing are float64 in numpy, and exact in tables. Lines with another number of cells are passed
    over. Options are those of `densor.decompress_file`.

    ArgumentError for a column that is not there, or one of several of that name, FileError where
    the file is no table.
    """
    chosen = read_options(options, threads=threads, **keywords)
    if rows is not None:
        need(rows, slice, "rows")
    conditions = [where] if isinstance(where, str) else list(where)
    with File(source, options=chosen) as file:
        archive = file.archive
        typed, entry = typed_table(archive, name)
        archive.check_size({entry.number: entry.size})
        if typed is not None:
            values = _of_types(typed, columns, rows or slice(None), conditions)
            return _as(values, to)
        table = Table(archive, name)
        names = list(table.names if columns is None else columns)
        numbers = numbers_of(table.names, names)
        found = list(table.select(numbers, rows or slice(None), conditions))
        values = {
            column: Values(_joined([part[i] for part in found], table.layout))
            for i, column in enumerate(names)
        }
    return _as(values, to)


def typed_table(archive: Archive, name: str | None) -> tuple[TypedTable | None, IndexedEntry]:
    """The table in a file that tells the types of its columns, None where it does not; the file."""
    entry = only_file(archive, name, (*FORMATS, *_TYPED), "table")
    kind = _TYPED.get(entry.meta.format or "")
    return None if kind is None else kind(archive, entry), entry


def select_typed(
    table: TypedTable, columns: Sequence[int], rows: slice, where: Sequence[str]
) -> Iterator[list[Values]]:
    """Columns of the rows that are asked for, of a part of such a table at a time."""
    conditions = [_condition(text, table.names) for text in where]
    return _parts_where(table, columns, _range(rows), conditions)


def _parts_where(
    table: TypedTable, numbers: Sequence[int], rows: tuple[int, int], conditions: list[_Condition]
) -> Iterator[list[Values]]:
    every = [*(condition.column for condition in conditions), *numbers]
    for part in table.parts(every, *rows):
        good = np.ones(len(part[0].cells), np.bool_)
        for condition, values in zip(conditions, part, strict=False):
            good &= holds(values, condition.compare, condition.value)
        chosen = np.flatnonzero(good)
        yield [values.take(chosen) for values in part[len(conditions) :]]


def _of_types(
    table: TypedTable, columns: Sequence[str] | None, rows: slice, where: Sequence[str]
) -> dict[str, Values]:
    """Columns of a file that tells their types, as `read_table` gives them."""
    names = list(table.names if columns is None else columns)
    numbers = numbers_of(table.names, names)
    found = list(select_typed(table, numbers, rows, where))
    if not found:
        return {name: table.nothing(number) for name, number in zip(names, numbers, strict=True)}
    return {name: joined([part[i] for part in found]) for i, name in enumerate(names)}


def read_latents(
    source: Any,
    name: str | None = None,
    *,
    threads: int | None = None,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> list[TableLatents]:
    """The latent classes of rows and columns that a table was coded under, for each of its chunks.

    Tables have some where they were packed with `table_latents` and became smaller so; what is
    coded in other ways has none. Arguments are those of `read_table`.
    """
    with File(source, options=read_options(options, threads=threads, **keywords)) as file:
        table = Table(file.archive, name)
        file.archive.check_size({table._entry.number: table._entry.size})
        return list(table.latents())


def _as(values: dict[str, Values], to: Kind) -> Any:
    if to == "numpy":
        return {name: found.plain() for name, found in values.items()}
    if to == "pandas":
        import pandas

        return pandas.DataFrame({name: _for_pandas(found) for name, found in values.items()})
    if to == "arrow":
        import pyarrow

        columns = {name: _for_arrow(found) for name, found in values.items()}
        return pyarrow.table({name: pyarrow.array(*column) for name, column in columns.items()})
    if to == "polars":
        import polars

        return polars.DataFrame({name: _for_polars(found) for name, found in values.items()})
    raise ArgumentError(f"unknown kind of table {to!r}; known are numpy, pandas, polars, arrow")


def _for_pandas(values: Values) -> Any:
    """What pandas takes: integers and truths with its own mark of what is missing."""
    import pandas

    cells, missing = values
    if missing is not None and cells.dtype.kind in "iub":
        array = (
            pandas.arrays.BooleanArray if cells.dtype.kind == "b" else pandas.arrays.IntegerArray
        )
        return array(cells, missing)
    return _listed(values.plain())


def _for_arrow(values: Values) -> tuple[Any, ...]:
    """What `pyarrow.array` takes: values, their type, and which are missing."""
    cells, missing = values
    if cells.ndim > 1 or cells.dtype.kind in "cV":
        return (_listed(cells),)
    return (cells,) if missing is None else (cells, None, missing)


def _for_polars(values: Values) -> Any:
    """What polars takes: texts as a list, times in units that it knows."""
    import polars

    cells, missing = values
    if cells.dtype.kind in "mM" and np.datetime_data(cells.dtype)[0] not in _UNITS_OF_POLARS:
        cells = cells.astype(f"{cells.dtype.kind}8[ms]")
    if cells.dtype.kind in "iub" and missing is not None:
        found = polars.Series(cells)
        return polars.select(polars.when(polars.Series(~missing)).then(found)).to_series()
    plain = Values(cells, missing).plain()
    return plain.tolist() if plain.dtype.kind in "OSUVc" else _listed(plain)


def _listed(cells: npt.NDArray[Any]) -> Any:
    """Values that are arrays, or of a type that few know, as a list of them."""
    return list(cells) if cells.ndim > 1 or cells.dtype.kind in "cV" else cells
