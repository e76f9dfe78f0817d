"""Tables as text: which files are taken for one, and how they are cut."""

from pathlib import Path

import pytest
from tables import RECORDS, broken, table

import densor
from densor.codec.table.layout import Layout
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers import tabular
from densor.formats.parsers.contents import Head
from densor.formats.parsers.csv import layout_of


def found_in(text: bytes) -> Layout | None:
    source = MemoryRandomSource(text)
    contents = tabular.find_of("csv")(Head(MemorySource(text), len(text), source, "name"))
    return None if contents is None else contents.stretches[0].table


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_and_line_ends_are_found(separator: str, end: str) -> None:
    text = table(60, separator, end)
    names = text[: text.index(b"\n") + 1]
    # a comma between quotes does not count where the table has another separator
    assert found_in(text) == Layout(8, ord(separator), end == "\r\n", 34, names)


def test_names_are_told_from_rows() -> None:
    names = b"a,b\n"
    rows = b"1,x\n" * 300
    assert (layout_of((names + rows).split(b"\n")) or Layout(1)).names == names
    assert (layout_of(rows.split(b"\n")) or Layout(1)).names == b""


def test_cells_with_line_ends_in_them_are_cells() -> None:
    found = layout_of(RECORDS["quoted ends"].split(b"\n"))
    assert found is not None and found.columns == 3


@pytest.mark.parametrize(
    "text",
    [b"", b"a,b\n", bytes(range(256)) * 40, b"one word\n" * 300, b"a,b\n" + b"c\n" * 400],
    ids=["nothing", "short", "binary", "words", "a comma"],
)
def test_other_texts_are_no_tables(text: bytes) -> None:
    assert found_in(text) is None


def test_too_many_columns_are_plain_bytes() -> None:
    assert found_in((b"1," * 10**5 + b"2\n") * 12) is None


def test_large_files_are_cut_at_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular, "MAX_BYTES", 1 << 17)
    text = table(9000)
    head = Head(MemorySource(text), len(text), MemoryRandomSource(text), "name")
    contents = tabular.find_of("csv")(head)
    assert contents is not None and len(contents.stretches) > 2
    at = 0
    for stretch in contents.stretches:
        assert stretch.offset == at and (not at or text[at - 1] == 10)
        at += stretch.size
    assert at == len(text)


@pytest.mark.parametrize("level", [2, 6])
def test_files_come_back(tmp_path: Path, level: int) -> None:
    text = broken(table(1500), 100)
    (tmp_path / "a.csv").write_bytes(text)
    packed, back = tmp_path / "a.densor", tmp_path / "b.csv"
    densor.compress_file(tmp_path / "a.csv", packed, level=level)
    assert packed.stat().st_size < len(text) / 5
    densor.decompress_file(packed, back)
    assert back.read_bytes() == text
