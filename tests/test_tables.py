"""`densor.read_table` and `densor table`: columns and rows of tables in archives."""

import csv
import io
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import written
from tables import RECORDS, blocks, broken, table

import densor
from densor.cli.dispatch import dispatch
from densor.codec.choose import sizes
from densor.codec.kind import kind_of_table
from densor.codec.table.layout import Layout
from densor.codec.table.output import Column
from densor.codec.table.reading import StoredPart, lines_of
from densor.errors import ArgumentError, DensorError, FileError
from densor.file import File
from densor.formats.io.sources import MemoryRandomSource
from densor.formats.parsers.csv import layout_of
from densor.options import ReadOptions
from densor.tables import Table, read

ROWS = 3000
TEXT = table(ROWS)
NAMES, *LINES = csv.reader(io.StringIO(TEXT.decode()))
LEVELS = (1, 5, 7)


@pytest.fixture(params=[*LEVELS, "raw"], ids=str)
def archive(request: pytest.FixtureRequest, tmp_path: Path, small: None) -> Path:
    """The table in an archive of several chunks, or as plain bytes."""
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT)
    target = tmp_path / "t.densor"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "raw":
            patch.setattr("densor.formats.parsers.tabular.layout_in", lambda *_: None)
        level = 1 if request.param == "raw" else request.param
        densor.pack([path], target, level=level)
    return target


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so small that tables have several, which are cut within rows at some places."""
    monkeypatch.setattr(sizes, "SMALL_TABLE_CHUNK", 1 << 14)
    monkeypatch.setattr(sizes, "TABLE_CHUNK", 3 << 14)


def column(name: str, kind: Callable[[str], Any] = str) -> list[Any]:
    return [kind(line[NAMES.index(name)]) for line in LINES]


def test_parts_are_decoded_at_once(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_bytes(TEXT)
    target = tmp_path / "t.densor"
    densor.pack([tmp_path / "t.csv"], target, level=1)
    both, calls, decode = threading.Barrier(2), itertools.count(), read._columns_where

    def together(*given: Any) -> list[Column]:
        if next(calls) < 2:
            both.wait(60)  # until another part is at the same place
        return decode(*given)

    monkeypatch.setattr(read, "_columns_where", together)
    for threads in (2, 1):
        found = densor.read_table(target, columns=["id"], where="late >= 20", threads=threads)
        lines = zip(column("id", int), column("late", int), strict=True)
        assert found["id"].tolist() == [i for i, late in lines if late >= 20]
    assert next(calls) > 3


@pytest.mark.parametrize("level", [*LEVELS, 9])
@pytest.mark.parametrize("latents", [False, True])
def test_rows_behind_those_that_are_needed_are_not_decoded(
    level: int, latents: bool, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_bytes(TEXT)
    target = tmp_path / "t.densor"
    densor.pack([tmp_path / "t.csv"], target, level=level, table_latents=latents)
    for needed in (1, 2, 700, ROWS - 1):
        with File(target, options=ReadOptions()) as file:
            (whole,) = Table(file.archive)._parts()
            (part,) = Table(file.archive)._parts()
            assert isinstance(part, StoredPart)
            part.needed = needed
            sizes = set()
            for number in reversed(range(len(NAMES))):
                found, wanted = part.column(number), whole.column(number)
                sizes.add(found.ids.size)
                first = np.arange(needed)
                lines = [lines_of([one], first, Layout(1)).tobytes() for one in (found, wanted)]
                assert lines[0] == lines[1]
            assert min(sizes) == needed


def test_all_of_a_table_is_read(archive: Path) -> None:
    found = densor.read_table(archive)
    assert list(found) == NAMES
    assert found["id"].dtype == np.int64 and found["id"].tolist() == column("id", int)
    assert found["carrier"].tolist() == column("carrier")
    dates = found["date"]
    assert dates.dtype == "M8[s]" and dates.astype("M8[D]").astype(str).tolist() == column("date")
    price = column("price", lambda cell: np.nan if cell == "NA" else float(cell))
    assert np.array_equal(found["price"], price, equal_nan=True)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(470, 1650), slice(2990, 5000), slice(9, 9)])
def test_rows_of_columns_are_read(archive: Path, rows: slice) -> None:
    found = densor.read_table(archive, columns=["late", "flight"], rows=rows)
    assert list(found) == ["late", "flight"]
    assert found["late"].tolist() == column("late", int)[rows]


def test_rows_are_chosen_by_conditions(archive: Path) -> None:
    where = ["carrier == B, 6", "late >= 20"]
    found = densor.read_table(archive, columns=["id"], where=where)
    lines = zip(column("id", int), column("carrier"), column("late", int), strict=True)
    assert found["id"].tolist() == [
        i for i, carrier, late in lines if carrier == "B, 6" and late >= 20
    ]
    none = densor.read_table(archive, columns=["id"], where="date < 1999")
    assert none["id"].size == 0


def test_lines_that_are_no_rows_are_passed_over(tmp_path: Path, small: None) -> None:
    text = broken(TEXT, 100)
    (tmp_path / "t.csv").write_bytes(text.rstrip(b"\n"))
    densor.pack([tmp_path / "t.csv"], tmp_path / "t.densor", level=2)
    found = densor.read_table(tmp_path / "t.densor", columns=["id", "flight"])
    assert 0.97 * ROWS < found["id"].size <= ROWS


def test_rows_in_two_batches_are_read(small: None) -> None:
    layout = layout_of(TEXT.split(b"\n"))
    assert layout is not None
    packed = written({"t": (TEXT, kind_of_table(layout))}, level=1)
    assert densor.read_table(packed, columns=["id"])["id"].tolist() == column("id", int)


def test_little_is_read_for_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SMALL_TABLE_CHUNK", 1 << 17)
    (tmp_path / "t.csv").write_bytes(table(30000))
    densor.pack([tmp_path / "t.csv"], tmp_path / "t.densor", level=1)
    data = (tmp_path / "t.densor").read_bytes()
    read = 0

    def counted(self: MemoryRandomSource, offset: int, count: int) -> Any:
        nonlocal read
        read += count
        return original(self, offset, count)

    original = MemoryRandomSource.read_at
    monkeypatch.setattr(MemoryRandomSource, "read_at", counted)
    for asked in ({"columns": ["date"]}, {"rows": slice(9000, 10000)}):
        read = 0
        densor.read_table(data, **asked)  # type: ignore[arg-type]
        assert 0 < read < 0.25 * len(data)


def test_damaged_columns_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(TEXT)
    densor.pack([tmp_path / "t.csv"], tmp_path / "t.densor", level=1)
    data = (tmp_path / "t.densor").read_bytes()
    wanted = densor.read_table(data)
    for place in range(200, len(data), 997):
        damaged = bytearray(data)
        damaged[place] ^= 64
        try:
            found = densor.read_table(bytes(damaged))
        except DensorError:
            continue
        assert all(np.array_equal(found[name], wanted[name], equal_nan=name == "price")
                   for name in NAMES)  # fmt: skip


def test_frames_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    (tmp_path / "t.csv").write_bytes(TEXT)
    densor.pack([tmp_path / "t.csv"], tmp_path / "t.densor")
    found = densor.read_table(tmp_path / "t.densor", to="pandas")
    wanted = pandas.read_csv(io.BytesIO(TEXT), parse_dates=["date"])
    pandas.testing.assert_frame_equal(found, wanted, check_dtype=False)


def test_wrong_questions(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(TEXT)
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 9)
    densor.pack([tmp_path / "t.csv", tmp_path / "noise"], tmp_path / "t.densor")
    for wrong in (
        {"columns": ["none"]},
        {"columns": []},
        {"where": "late"},
        {"where": "none > 1"},
        {"rows": slice(0, 9, 2)},
        {"rows": slice(-1, 9)},
        {"to": "paper"},
    ):
        with pytest.raises(ArgumentError):
            densor.read_table(tmp_path / "t.densor", "t.csv", **wrong)  # type: ignore[arg-type]
    with pytest.raises(FileError):
        densor.read_table(tmp_path / "t.densor", "noise")
    with pytest.raises(FileError):
        densor.read_table(tmp_path / "t.densor", "none")


def shown(capfdbinary: pytest.CaptureFixture[bytes], *words: str) -> bytes:
    assert dispatch(["table", *words]) == 0
    return capfdbinary.readouterr().out


def test_the_command_writes_cells_as_they_stand(
    archive: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert shown(capfdbinary, "cat", str(archive)) == TEXT
    lines = TEXT.split(b"\n")
    part = shown(capfdbinary, "cat", str(archive), "--rows", "1000:1010")
    assert part == b"\n".join([lines[0], *lines[1001:1011], b""])
    columns = ["--columns", "late,id", "--where", "late > 30", "--rows", ":500"]
    wanted = [f"{line[6]},{line[0]}" for line in LINES[:500] if int(line[6]) > 30]
    found = shown(capfdbinary, "cat", str(archive), *columns)
    assert found.decode().split("\n") == ["late,id", *wanted, ""]
    assert shown(capfdbinary, "columns", str(archive)).decode().split() == NAMES
    assert dispatch(["table", "cat", str(archive), "--rows", "7"]) == 2


@pytest.mark.parametrize("name", ["tabs, CRLF", "times", "quoted ends", "constant"])
def test_other_kinds_of_tables(
    name: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = RECORDS[name]
    (tmp_path / "t.csv").write_bytes(text)
    densor.pack([tmp_path / "t.csv"], tmp_path / "t.densor", level=6)
    assert shown(capfdbinary, "cat", str(tmp_path / "t.densor")) == text


def test_latent_classes_are_told(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"k," + b",".join(b"x%d" % i for i in range(12)) + b",l\n"
                                     + blocks(900))  # fmt: skip
    densor.pack([tmp_path / "b.csv"], tmp_path / "plain")
    sizes = densor.pack([tmp_path / "b.csv"], tmp_path / "latent", table_latents=True)
    assert densor.read_latents(tmp_path / "plain") == []
    assert sizes.stored < (tmp_path / "plain").stat().st_size
    (found,) = densor.read_latents(tmp_path / "latent")
    assert found.rows == slice(0, 900) and found.row_classes.size == 900
    assert {f"x{i}" for i in range(12)} <= set(found.column_classes)
    columns = ["x3", "k"]
    values = [densor.read_table(tmp_path / name, columns=columns) for name in ("plain", "latent")]
    assert all(np.array_equal(values[0][name], values[1][name]) for name in columns)
    densor.extract(tmp_path / "latent", tmp_path / "out")
    assert (tmp_path / "out" / "b.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    dispatch(["-f", "-k", "--table-latents", str(tmp_path / "b.csv")])
    assert densor.read_latents(tmp_path / "b.csv.densor")


def test_columns_of_the_same_name(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = b"x,y,x\n" + b"".join(b"%d,%d,%d\n" % (i, i % 7, 2 * i) for i in range(600))
    (tmp_path / "a.csv").write_bytes(text)
    densor.pack([tmp_path / "a.csv"], tmp_path / "a.densor")
    assert shown(capfdbinary, "cat", str(tmp_path / "a.densor")) == text
    assert densor.read_table(tmp_path / "a.densor", columns=["y"])["y"].size == 600
    with pytest.raises(ArgumentError, match="2 columns are called 'x'"):
        densor.read_table(tmp_path / "a.densor")
