"""Columns and rows of Parquet files, read from archives."""

import csv
import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_state
from mutations import mutated
from parquet_files import LZ4, PLAIN, SNAPPY, Column, file, flights, thrift

import densor
from densor.cli.dispatch import dispatch
from densor.codec.pages.decoder import PagesDecoder
from densor.codec.pages.reading import StoredPages
from densor.codec.table.reading import StoredPart
from densor.errors import ArgumentError, DensorError, FileError
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers import parquet
from densor.formats.parsers.contents import Head
from densor.tables import lines_of
from densor.tables import parquet as parquet_tables
from densor.tables.values import Values

TYPES = {"i4": "<i4", "i8": "<i8", "f4": "<f4", "f8": "<f8"}


def packed(tmp_path: Path, data: bytes, level: int) -> Path:
    (tmp_path / "a.parquet").write_bytes(data)
    densor.pack([tmp_path / "a.parquet"], tmp_path / "a.densor", level=level, overwrite=True)
    return tmp_path / "a.densor"


def cells(column: Column) -> list[Any]:
    """The values of a column; None for those that are missing."""

    def cell(value: bytes) -> Any:
        if column.type in TYPES:
            return np.frombuffer(value, TYPES[column.type])[0].item()
        if column.type == "bool":
            return bool(value[0])
        if column.type == "i12":
            days = int.from_bytes(value[8:], "little", signed=True) - 2_440_588
            nanoseconds = int.from_bytes(value[:8], "little", signed=True)
            return ((days * 86_400_000_000_000 + nanoseconds) + 2**63) % 2**64 - 2**63
        return value

    return [None if value is None else cell(value) for value in column.values]


def same(found: Any, wanted: list[Any]) -> bool:
    if found.dtype.kind in "mM":
        found = found.view(np.int64)
    gone = [cell is None for cell in wanted]
    if found.dtype.kind == "f":
        return np.isnan(found).tolist() == gone and [
            cell for cell in found.tolist() if cell == cell
        ] == [cell for cell in wanted if cell is not None]
    return bool(found.tolist() == wanted)


@pytest.fixture(autouse=True)
def any_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "FEWEST_OF_SEVERAL", 1)


@pytest.mark.parametrize(
    ("codec", "version", "level"), [(PLAIN, 1, 5), (SNAPPY, 2, 3), (LZ4, 1, 1)]
)
def test_all_types_and_groups(tmp_path: Path, codec: int, version: int, level: int) -> None:
    columns = flights(2500)
    archive = packed(tmp_path, file(columns, codec, 400, 1000, version), level)
    found = densor.read_table(archive)
    assert list(found) == [column.name for column in columns]
    for column in columns:
        assert same(found[column.name], cells(column)), column.name
    some = densor.read_table(archive, columns=["name", "late"], rows=slice(900, 2100))
    for column in columns:
        if column.name in some:
            assert same(some[column.name], cells(column)[900:2100]), column.name
    assert {len(cells) for cells in densor.read_table(archive, rows=slice(9999, 9)).values()} == {0}


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = flights(6000)
    archive = packed(tmp_path, file(columns, SNAPPY, 1000, 6000), 3)
    read: list[int] = []
    record = StoredPart.record

    def counted(self: StoredPart, column: int) -> Any:
        found = record(self, column)
        read.append(found.size)
        return found

    def forbidden(*_: Any) -> None:
        pytest.fail("pages are made")

    monkeypatch.setattr(StoredPart, "record", counted)
    monkeypatch.setattr(PagesDecoder, "decode", forbidden)
    found = densor.read_table(archive, columns=["tail"], rows=slice(10, 20))
    assert found["tail"].tolist() == cells(columns[7])[10:20]
    assert 0 < sum(read) < archive.stat().st_size / 2


def test_conditions(tmp_path: Path) -> None:
    columns = flights(1500)
    late = np.array([np.nan if cell is None else cell for cell in cells(columns[1])])
    archive = packed(tmp_path, file(columns, SNAPPY, 500, 700), 3)
    found = densor.read_table(archive, columns=["id"], where=["late >= 5", "flag == true"])
    flags = np.array([cell is True for cell in cells(columns[5])])
    assert found["id"].tolist() == np.array(cells(columns[0]))[(late >= 5) & flags].tolist()


def test_logical_types(tmp_path: Path) -> None:
    """As old files tell them, as new ones do, and both."""
    days = [bytes([i % 50, 40, 0, 0]) for i in range(600)]
    many = [day + bytes(4) for day in days]
    texts = ["Zürich".encode() + bytes([65 + i % 9]) for i in range(600)]
    small = [bytes([i % 100, 0, 0, 0]) for i in range(600)]
    kinds: list[tuple[str, list[bytes], dict[int, Any], str]] = [
        ("i4", days, {6: 6}, "M8[D]"),
        ("i4", days, {10: {6: {}}}, "M8[D]"),
        ("i8", many, {6: 10}, "M8[us]"),
        ("i8", many, {10: {8: {1: True, 2: {3: {}}}}}, "M8[ns]"),
        ("i8", many, {6: 9, 10: {8: {2: {1: {}}}}}, "M8[ms]"),
        ("i4", days, {10: {7: {2: {1: {}}}}}, "m8[ms]"),
        ("i4", small, {6: 15}, "i1"),
        ("i4", small, {6: 12}, "u2"),
        ("i8", many, {6: 14}, "u8"),
        ("fixed", [day[:2] for day in days], {10: {15: {}}}, "f2"),
        ("text", texts, {6: 0}, "O"),
        ("text", texts, {10: {1: {}}}, "O"),
        ("i8", many, {10: {13: {}}}, "i8"),
    ]
    columns = [Column(f"c{i}", kind, cells, told=told)
               for i, (kind, cells, told, _) in enumerate(kinds)]  # fmt: skip
    found = densor.read_table(packed(tmp_path, file(columns, SNAPPY, 200, 600), 3))
    for column, (_, values, _, dtype) in zip(columns, kinds, strict=True):
        read = found[column.name]
        assert read.dtype == np.dtype(dtype), column
        if dtype == "O":
            assert read.tolist() == [text.decode() for text in texts]
        elif dtype in ("i1", "u2"):
            assert read.tolist() == [value[0] for value in small]
        elif dtype == "f2":
            assert read.tobytes() == b"".join(values)
        else:
            numbers = [int.from_bytes(value, "little") for value in values]
            assert read.astype(np.int64).tolist() == numbers


@pytest.mark.parametrize("told", [{6: 5}, {10: {5: {1: 2, 2: 9}}}, {6: b"x"}])
def test_types_that_cannot_be_read(
    tmp_path: Path, told: dict[int, Any], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    columns = [Column("a", "i4", [bytes([i % 9, 0, 0, 0]) for i in range(600)], told=told)]
    columns.append(Column("b", "i4", columns[0].values))
    archive = packed(tmp_path, file(columns, SNAPPY, 200, 600), 3)
    for rows in (None, slice(600, 700)):
        with pytest.raises(FileError, match="whole file"):
            densor.read_table(archive, rows=rows)
    assert densor.read_table(archive, columns=["b"])["b"].tolist() == [i % 9 for i in range(600)]
    assert dispatch(["table", "cat", str(archive), "-f"]) == 1
    assert capsysbinary.readouterr().out == b""


def test_no_rows_have_the_types_of_their_columns(tmp_path: Path) -> None:
    archive = packed(tmp_path, file(flights(800), SNAPPY, 400, 400), 3)
    some, none = (densor.read_table(archive, rows=slice(n, n + 9)) for n in (40, 800))
    assert {cells.size for cells in none.values()} == {0}
    for name, read in some.items():
        whole = read.dtype == np.float64 and none[name].dtype.kind == "i"  # with missing ones
        assert read.dtype == none[name].dtype or whole or name == "flag", name
    assert none["flag"].dtype == np.bool_ and none["late"].dtype == np.int32


@pytest.mark.parametrize("rows", [70, 3000])
def test_columns_whose_pages_are_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Those of few rows, and those that cannot be made again; lists are refused by name."""
    monkeypatch.setattr(parquet, "FEWEST_ROWS", rows + 1)
    columns = flights(rows)
    columns[3].repetition = 2
    archive = packed(tmp_path, file(columns, LZ4, rows, rows), 3)
    for column in columns:
        if column.repetition == 2:
            with pytest.raises(FileError, match="whole file"):
                densor.read_table(archive, columns=[column.name])
        else:
            found = densor.read_table(archive, columns=[column.name])
            assert same(found[column.name], cells(column)), column.name


@pytest.mark.parametrize("damaged", ["archive", "metadata"])
def test_damage_ends_in_an_error_or_the_right_answer(tmp_path: Path, damaged: str) -> None:
    columns = flights(900)
    data = file(columns, SNAPPY, 300, 900)
    archive = packed(tmp_path, data, 3)
    good = {column.name: cells(column) for column in columns}
    bytes_of = archive.read_bytes()
    begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for seed in range(60 if damaged == "archive" else 25):
        random = random_state("parquet tables", seed)
        if damaged == "archive":
            archive.write_bytes(bytes(mutated(bytes_of, random)))
        else:
            metadata = bytes(mutated(data[begin:-8], random))
            tail = metadata + len(metadata).to_bytes(4, "little") + b"PAR1"
            packed(tmp_path, data[:begin] + tail, 3)
        for name in ("late", "tail"):
            try:
                found = densor.read_table(archive, columns=[name], rows=slice(100, 700))
            except DensorError:
                continue
            assert damaged == "metadata" or same(found[name], good[name][100:700])


def test_few_chunks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_tables, "_KEPT", 1)
    made: list[int] = []

    class Counted(StoredPages):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self.rows)

    monkeypatch.setattr(parquet_tables, "StoredPages", Counted)
    archive = packed(tmp_path, file(flights(3000), SNAPPY, 500, 1000), 3)
    densor.read_table(archive, columns=["id", "late", "sum"])
    assert made == [1000] * 3


def test_cat(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    columns = flights(800)
    columns[6].told = {6: 0}
    archive = packed(tmp_path, file(columns, SNAPPY, 400, 400), 3)
    assert dispatch(["table", "columns", str(archive)]) == 0
    assert capsysbinary.readouterr().out.decode().split() == [column.name for column in columns]
    words = "--columns", "id,name,flag,price", "--rows", "390:410", "-f"
    assert dispatch(["table", "cat", str(archive), *words]) == 0
    out = capsysbinary.readouterr().out.decode()
    head, *lines = list(csv.reader(io.StringIO(out)))
    assert head == ["id", "name", "flag", "price"]
    wanted = [cells(columns[i])[390:410] for i in (0, 6, 5, 3)]
    flags = {True: "true", False: "false", None: ""}
    names = ["" if cell is None else cell.decode() for cell in wanted[1]]
    rows = zip(map(str, wanted[0]), names, map(flags.get, wanted[2]), map(str, wanted[3]),
               strict=True)  # fmt: skip
    assert lines == [list(row) for row in rows] and ',"",' in out
    assert dispatch(["table", "cat", str(archive), "--columns", "none", "-f"]) == 1
    assert capsysbinary.readouterr().out == b""
    words = "--columns", "id", "--rows", "5000:", "-f"
    assert dispatch(["table", "cat", str(archive), *words]) == 0
    assert capsysbinary.readouterr().out == b"id\n"


def test_columns_of_the_same_name(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    columns = flights(600)[:2]
    columns[1].name = columns[0].name = "id"
    archive = packed(tmp_path, file(columns, SNAPPY, 300, 600), 3)
    assert dispatch(["table", "cat", str(archive), "--rows", "0:20", "-f"]) == 0
    rows = zip(*(cells(column)[:20] for column in columns), strict=True)
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in rows]
    assert capsysbinary.readouterr().out.decode().split() == ["id,id", *lines]
    for words in ({}, {"columns": ["id"]}, {"where": "id > 3"}):
        with pytest.raises(ArgumentError, match="2 columns are called 'id'"):
            densor.read_table(archive, **words)


def test_lines_are_made_of_few_rows_at_a_time() -> None:
    numbers = Values(np.arange(100_000) % 7, np.arange(100_000) % 5 == 0)
    texts = Values(np.array(["x" * 5000], object)[np.zeros(100_000, np.intp)])
    tracemalloc.start()
    try:
        found = [(part.count(b"\n"), part[:8]) for part in lines_of([numbers, texts])]
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()
    assert sum(count for count, _ in found) == 100_000
    row = np.cumsum([0, *(count for count, _ in found)])[:-1]
    wanted = [("" if i % 5 == 0 else str(i % 7)) + ",xxxxxxxx" for i in row]
    assert [start for _, start in found] == [line[:8].encode() for line in wanted]


def test_long_names_of_many_columns(tmp_path: Path) -> None:
    """Columns within one take its name, which is kept once."""
    outer = [{4: b"schema", 5: 1}, {3: 0, 4: b"n" * 100_000, 5: 400}]
    metadata = thrift({1: 2, 2: [*outer, *[{1: 2, 3: 0, 4: b"a"}] * 400], 3: 0, 4: []})
    data = b"PAR1" + metadata + len(metadata).to_bytes(4, "little") + b"PAR1"
    tracemalloc.start()
    try:
        parquet.find(Head(MemorySource(data), len(data), MemoryRandomSource(data), ""))
        assert tracemalloc.get_traced_memory()[1] < 32 * len(data)
    finally:
        tracemalloc.stop()
    archive = packed(tmp_path, data, 1)
    with pytest.raises(DensorError, match="too long"):
        densor.read_table(archive)


def test_group_without_rows(tmp_path: Path) -> None:
    """Whose pages are nowhere, as some write it."""
    about = {1: 2, 2: [0], 3: [b"a"], 4: 0, 5: 0, 6: 0, 7: 0, 9: 0}
    groups = [{1: [{2: 0, 3: about}], 2: 0, 3: 0}]
    schema = [{4: b"schema", 5: 1}, {1: 2, 3: 0, 4: b"a"}]
    metadata = thrift({1: 2, 2: schema, 3: 0, 4: groups})
    data = b"PAR1" + metadata + len(metadata).to_bytes(4, "little") + b"PAR1"
    found = densor.read_table(packed(tmp_path, data, 3))
    assert list(found) == ["a"] and found["a"].size == 0
