"""Columns and rows of Arrow files, read from archives."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrow_files import (
    Column,
    Structs,
    Table,
    file,
    flights,
    integers,
    message,
    record_batch,
    schema,
    stream,
    texts,
)
from helpers import random_state

import densor
from densor.codec.table.decoder import TableDecoder
from densor.codec.table.reading import StoredPart
from densor.errors import ArgumentError, FileError
from densor.formats.parsers import arrow
from densor.tables import arrow as arrow_tables

TYPES = {"id": "<i8", "flight": "<u2", "late": "<i4", "price": "<f8", "half": "<f4"}


def packed(tmp_path: Path, data: bytes, level: int) -> Path:
    (tmp_path / "a.arrow").write_bytes(data)
    densor.pack([tmp_path / "a.arrow"], tmp_path / "a.densor", level=level, overwrite=True)
    return tmp_path / "a.densor"


def expected(column: Column, counts: list[int]) -> list[Any]:
    """The cells of a column from its buffers; None for those that are missing."""
    cells: list[Any] = []
    for (valid, *rest), rows in zip(column.buffers, counts, strict=True):
        if column.name in TYPES:
            found = np.frombuffer(rest[0], TYPES[column.name]).tolist()
        elif column.kind == 6:
            found = np.unpackbits(np.frombuffer(rest[0], np.uint8), count=rows, bitorder="little")
            found = found.astype(bool).tolist()
        else:
            ends = np.frombuffer(rest[0], "<i8" if column.kind == 20 else "<i4").tolist()
            found = [rest[1][a:b] for a, b in pairwise(ends)]
            found = found if column.kind == 4 else [cell.decode() for cell in found]
        there = np.ones(rows) if not valid else np.unpackbits(
            np.frombuffer(valid, np.uint8), count=rows, bitorder="little")  # fmt: skip
        cells += [c if known else None for c, known in zip(found, there, strict=True)]
    return cells


def same(found: Any, wanted: list[Any]) -> bool:
    cells = [None if cell is None or cell != cell else cell for cell in found.tolist()]
    return cells == [None if cell != cell else cell for cell in wanted]


@pytest.mark.parametrize(("rows", "batches", "level"), [(500, 1, 3), (900, 3, 5)])
def test_columns_and_rows_are_those_of_the_file(
    tmp_path: Path, rows: int, batches: int, level: int
) -> None:
    columns, counts = flights(rows, batches)
    archive = packed(tmp_path, file(columns, counts), level)
    known = {c.name: expected(c, counts) for c in columns if c.name not in ("when", "day", "sum")}
    for part in (slice(None), slice(7, 8), slice(rows // 3 - 2, rows - 5), slice(rows, None)):
        found = densor.read_table(archive, columns=list(known), rows=part)
        for name, wanted in known.items():
            assert same(found[name], wanted[part]), name
    times = densor.read_table(archive, columns=["when", "day"])
    assert times["when"].dtype == "M8[ns]" and times["day"].dtype == "M8[D]"
    assert times["day"][9] == np.datetime64("2011-01-27")
    none = densor.read_table(archive, columns=["when", "id"], rows=slice(rows, None))
    assert (none["when"].dtype, none["id"].dtype) == ("M8[ns]", "<i8")


def test_conditions_choose_rows(tmp_path: Path) -> None:
    columns, counts = flights(700, 2)
    archive = packed(tmp_path, file(columns, counts), 3)
    known = {c.name: expected(c, counts) for c in columns if c.name in ("late", "kind", "on", "id")}
    rows = list(zip(known["id"], known["late"], known["kind"], known["on"], strict=True))
    where = ["late >= 10", "kind == AA"]
    found = densor.read_table(archive, columns=["id"], where=where)["id"].tolist()
    assert found == [i for i, late, kind, _ in rows if late is not None and late >= 10
                     and kind == "AA"]  # fmt: skip
    found = densor.read_table(archive, columns=["id"], where="on != true")["id"].tolist()
    assert found == [i for i, _, _, on in rows if on is False]
    days = densor.read_table(archive, columns=["id"], where="day < 2011-01-27")["id"]
    assert days.tolist() == list(range(9))
    for bad in ("late >= x", "nothing == 1", "late"):
        with pytest.raises(ArgumentError):
            densor.read_table(archive, columns=["id"], where=bad)


def test_little_is_read_for_one_column(tmp_path: Path) -> None:
    columns, counts = flights(60000)
    archive = packed(tmp_path, file(columns, counts), 3)

    class Counted:
        def __init__(self) -> None:
            self.file = archive.open("rb")
            self.read_bytes = 0

        def seek(self, *where: int) -> int:
            return self.file.seek(*where)

        def tell(self) -> int:
            return self.file.tell()

        def seekable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            found = self.file.read(size)
            self.read_bytes += len(found)
            return found

    counted = Counted()
    found = densor.read_table(counted, columns=["id"])
    assert found["id"].tolist() == list(range(60000))
    assert counted.read_bytes < archive.stat().st_size / 4


def test_dictionaries_are_looked_up(tmp_path: Path) -> None:
    names = [f"city {i}" for i in range(300)]
    values = Column("", 5, Table(), [[b"", *texts(names)]])
    numbers = random_state("cities").integers(0, 300, 4000).astype("<i4")
    column = Column("city", 5, Table(), [[b"", numbers.tobytes()]], dictionary=7)
    header, body = record_batch([values], 0, 300)
    last = message(3, *record_batch([column], 0, 4000))
    whole = schema([column]) + message(2, Table({0: ("<q", 7), 1: header}), body) + last
    found = densor.read_table(packed(tmp_path, whole, 3), rows=slice(100, 4000))
    assert found["city"].tolist() == [names[i] for i in numbers[100:]]
    without = packed(tmp_path, schema([column]) + last, 5)
    with pytest.raises(densor.DensorError):
        densor.read_table(without)


@pytest.mark.parametrize("also_rows", [False, True])
def test_cells_are_missing_where_their_dictionary_says_so(tmp_path: Path, also_rows: bool) -> None:
    values = Column("", 5, Table(), [[b"\x05", *texts(["a", "", "c"])]])
    numbers = random_state("cities").integers(0, 3, 4000).astype("<i4")
    there = np.ones(4000, np.uint8)
    there[::5] = not also_rows
    valid = np.packbits(there, bitorder="little").tobytes() if also_rows else b""
    column = Column("city", 5, Table(), [[valid, numbers.tobytes()]], dictionary=7)
    header, body = record_batch([values], 0, 3)
    first = message(2, Table({0: ("<q", 7), 1: header}), body)
    whole = schema([column]) + first + message(3, *record_batch([column], 0, 4000))
    archive = packed(tmp_path, whole, 3)
    cells = [["a", None, "c"][n] if t else None for n, t in zip(numbers, there, strict=True)]
    assert densor.read_table(archive)["city"].tolist() == cells
    found = densor.read_table(archive, where="city != a")["city"].tolist()
    assert found == ["c"] * cells.count("c")


@pytest.mark.parametrize("missing", [True, False])
def test_a_dictionary_of_nothing(tmp_path: Path, missing: bool) -> None:
    values = Column("", 5, Table(), [[b"", bytes(4), b""]])
    valid = bytes(500) if missing else bytes(499) + b"\x80"
    column = Column("city", 5, Table(), [[valid, bytes(16000)]], dictionary=7)
    header, body = record_batch([values], 0, 0)
    first = message(2, Table({0: ("<q", 7), 1: header}), body)
    whole = schema([column]) + first + message(3, *record_batch([column], 0, 4000))
    archive = packed(tmp_path, whole, 3)
    if missing:
        assert densor.read_table(archive)["city"].tolist() == [None] * 4000
    else:
        with pytest.raises(densor.DensorError):
            densor.read_table(archive)


def test_large_integers_are_compared_as_they_are(tmp_path: Path) -> None:
    first = (1 << 53) - 100  # up to which each is a floating-point number
    numbers = np.arange(first, first + 500)
    column = Column("id", 2, integers(64), [[b"", numbers.tobytes()]])
    whole = schema([column]) + message(3, *record_batch([column], 0, 500))
    lines = ["id,name", *(f"{number},a{number % 7}" for number in numbers)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    densor.pack([tmp_path / "a.csv"], tmp_path / "csv.densor")
    for archive in (packed(tmp_path, whole, 3), tmp_path / "csv.densor"):
        for wanted in (first + 1, first + 101, first + 301):
            found = densor.read_table(archive, columns=["id"], where=f"id == {wanted}")
            assert found["id"].tolist() == [wanted]
            found = densor.read_table(archive, columns=["id"], where=f"id > {wanted}")
            assert found["id"].tolist() == list(range(wanted + 1, first + 500))
        found = densor.read_table(archive, columns=["id"], where=f"id < {first + 1.5}")
        assert found["id"].tolist() == [first, first + 1]


def test_what_cannot_be_read_by_columns_is_refused(tmp_path: Path) -> None:
    columns, counts = flights(500)
    archive = packed(tmp_path, file(columns, counts), 3)
    for rows in (None, slice(500, 600)):
        with pytest.raises(FileError):
            densor.read_table(archive, columns=["sum"], rows=rows)
    header, body = record_batch(columns, 0, 500)
    header[3] = Table({0: ("<b", 0)})
    with pytest.raises(FileError):
        densor.read_table(packed(tmp_path, schema(columns) + message(3, header, body), 3))
    short = Column("a", 2, integers(64), [[b"", bytes(8 * 400)]])
    lying = schema([short]) + message(3, *record_batch([short], 0, 500))
    with pytest.raises(densor.DensorError):
        densor.read_table(packed(tmp_path, lying, 3))


def test_batches_share_what_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"city {i}" for i in range(300)]
    values = Column("", 5, Table(), [[b"", *texts(names)]])
    numbers = random_state("cities").integers(0, 300, (30, 400)).astype("<i4")
    column = Column("city", 5, Table(), [[b"", few.tobytes()] for few in numbers], dictionary=7)
    header, body = record_batch([values], 0, 300)
    last = b"".join(message(3, *record_batch([column], i, 400)) for i in range(30))
    whole = schema([column]) + message(2, Table({0: ("<q", 7), 1: header}), body) + last
    archive = packed(tmp_path, whole, 3)
    opened = []

    class Counted(StoredPart):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            opened.append(self)

    monkeypatch.setattr(arrow_tables, "StoredPart", Counted)
    whole_chunks = []
    decode = TableDecoder.decode

    def counted(self: TableDecoder, *arguments: Any) -> None:
        whole_chunks.append(self)
        decode(self, *arguments)

    monkeypatch.setattr(TableDecoder, "decode", counted)
    found = densor.read_table(archive)
    assert found["city"].tolist() == [names[i] for i in numbers.reshape(-1)]
    assert 2 <= len(opened) <= 6 and not whole_chunks


def test_the_file_says_how_columns_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = random_state("lies").integers(0, 9, 4000).astype("<i4")
    data = stream([Column("a", 2, integers(32), [[b"", numbers.tobytes()]])], [4000])
    honest = arrow._Run.stretch

    def lying(run: arrow._Run) -> Any:
        found = honest(run)
        assert found.table is not None
        table = replace(found.table, widths=(8,), types=("I64",), batches=(2000,))
        return found._replace(table=table)

    monkeypatch.setattr(arrow._Run, "stretch", lying)
    archive = packed(tmp_path, data, 3)
    assert densor.read_table(archive)["a"].tolist() == numbers.tolist()
    assert densor.read_table(archive, rows=slice(3, 9))["a"].tolist() == numbers[3:9].tolist()


def test_integers_are_compared_exactly(tmp_path: Path) -> None:
    numbers = np.arange(2**53, 2**53 + 3000, dtype="<i8")
    data = file([Column("a", 2, integers(64), [[b"", numbers.tobytes()]])], [3000])
    archive = packed(tmp_path, data, 3)
    for value in (2**53 + 1, 2**53 + 2):
        assert densor.read_table(archive, where=f"a == {value}")["a"].tolist() == [value]
    assert len(densor.read_table(archive, where=f"a > {2**53 + 1}")["a"]) == 2998
    assert len(densor.read_table(archive, where="a < 1.5e300")["a"]) == 3000
    assert len(densor.read_table(archive, where=f"a < {2**80}")["a"]) == 3000


def test_what_a_damaged_file_has_is_not_cut_short(tmp_path: Path) -> None:
    values = Column("", 2, integers(32), [[b"", bytes(4 * 2000)]])
    column = Column("a", 2, integers(32), [[b"", bytes(4 * 2000)]], dictionary=7)
    header, body = record_batch([values], 0, 2000)
    header[0], header[1] = ("<q", -5), Structs(2, [-5, 0])
    last = message(3, *record_batch([column], 0, 2000))
    negative = schema([column]) + message(2, Table({0: ("<q", 7), 1: header}), body) + last
    plain = Column("a", 2, integers(32), [[b"", bytes(4 * 2000)]] * 2)
    whole = stream([plain], [2000, 2000])
    for data in (negative, whole[:-3000], whole[:-8] + whole[:-8], whole[:-8] + bytes(8)):
        archive = packed(tmp_path, data, 3)
        with pytest.raises(densor.DensorError):
            densor.read_table(archive)
    ended = packed(tmp_path, whole[:-8], 3)  # a stream may end without saying so
    assert densor.read_table(ended)["a"].size == 4000


def test_any_number_of_batches_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, counts = flights(900, 30)
    for limit in ("_MAX_MESSAGES", "_MAX_BUFFERS"):
        with monkeypatch.context() as few:
            few.setattr(arrow, limit, 7)
            archive = packed(tmp_path, stream(columns, counts), 3)
            found = densor.read_table(archive, columns=["id"])
        assert found["id"].tolist() == list(range(900))


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_integers_of_which_some_are_missing_are_exact_in_frames(tmp_path: Path, kind: str) -> None:
    pytest.importorskip(kind)
    cells = np.array([2**62 + 1, 0, -7] * 40, "<i8")
    valid = np.packbits(cells != 0, bitorder="little").tobytes()
    times = cells % 9 + 1_600_000_000_000_000_001
    column = Column("big", 2, integers(64), [[valid, cells.tobytes()]])
    when = Column("when", 10, Table({0: ("<h", 3)}), [[b"", times.tobytes()]])
    archive = packed(tmp_path, file([column, when], [cells.size]), 3)
    found = densor.read_table(archive, to="arrow" if kind == "pyarrow" else kind)  # type: ignore[arg-type]
    values = found["big"].to_pylist() if kind == "pyarrow" else list(found["big"])
    known = [value for value in values if isinstance(value, (int, np.integer))]
    assert known == cells[cells != 0].tolist() and len(values) == cells.size
    assert times[0] in np.asarray(found["when"]).astype("M8[ns]").astype(np.int64)
