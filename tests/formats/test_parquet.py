"""Parquet files: which pages are found, what becomes smaller, and files of all kinds come back."""

import contextlib
import struct
import weakref
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import parquet_files
import pytest
from helpers import random_state
from mutations import mutated
from parquet_files import GZIP, LZ4, PLAIN, SNAPPY, Column, file, flights, newest, thrift
from reference.deflate import CLASSIC

import densor
from densor.codec.kind import Segment
from densor.codec.levels import level_settings
from densor.codec.pages import encoder, gzip
from densor.codec.pages.decoder import PagesDecoder
from densor.codec.pages.undo import undo
from densor.errors import DensorError, FormatError
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers import parquet
from densor.formats.parsers.plan import plan_file
from densor.formats.parsers.thrift import MAX_DEPTH, Reader
from densor.runtime.workers import Workers


@pytest.fixture(autouse=True)
def any_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are taken for what they are however few their rows are."""
    monkeypatch.setattr(parquet, "FEWEST_OF_SEVERAL", 1)
    monkeypatch.setattr(parquet, "FEWEST_ROWS", 1)


def segments_of(data: bytes) -> list[Segment]:
    plan = plan_file(MemorySource(data), len(data), random=MemoryRandomSource(data))
    assert plan.format == "parquet"
    return plan.segments


def undone(data: bytes) -> list[bool]:
    """Of each column in each group of rows, whether it is taken apart."""
    found, at = [], 0
    for segment in segments_of(data):
        if segment.kind.pages is not None:
            assert segment.size is not None
            stretch = np.frombuffer(data, np.uint8)[at : at + segment.size]
            pages = segment.kind.pages
            found += [undo(column, pages.rows, stretch) is not None for column in pages.columns]
        at += segment.size or 0
    return found


def comes_back(tmp_path: Path, data: bytes, level: int) -> int:
    """Bytes of the archive of a file, which comes back from it."""
    (tmp_path / "a.parquet").write_bytes(data)
    densor.compress_file(tmp_path / "a.parquet", tmp_path / "a.densor", level=level, overwrite=True)
    densor.decompress_file(tmp_path / "a.densor", tmp_path / "b.parquet", overwrite=True)
    assert (tmp_path / "b.parquet").read_bytes() == data
    return (tmp_path / "a.densor").stat().st_size


by_gzip = pytest.param(GZIP, marks=pytest.mark.skipif(not CLASSIC, reason="another zlib"))


@pytest.mark.parametrize("codec", [PLAIN, SNAPPY, LZ4, by_gzip])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("level", [1, 5, 9])
def test_every_column_is_taken_apart(tmp_path: Path, codec: int, version: int, level: int) -> None:
    data = file(flights(600), codec, version=version)
    assert undone(data) == [True] * len(flights(600)) * 3
    comes_back(tmp_path, data, level)


@pytest.mark.parametrize("level", [1, 3, 5, 9])
def test_values_take_less_than_bytes(tmp_path: Path, level: int) -> None:
    data = file(flights(8_000), PLAIN, 3_000, 8_000)
    as_bytes = densor.compress(data, level=level)
    assert comes_back(tmp_path, data, level) < (0.8 if level < 9 else 1) * len(as_bytes)


@pytest.mark.parametrize("way", [15, 14, 14 | 32])
def test_all_ways_of_snappy_are_found(way: int) -> None:
    column = Column("a", "text", [b"%d %d" % (i % 977, i // 3) for i in range(20_000)], False)
    data = file([column, Column("b", "i4", [bytes(4)] * 20_000)], SNAPPY, 20_000, 20_000, way=way)
    assert undone(data) == [True, True]


@pytest.mark.skipif(not CLASSIC, reason="another zlib, which writes other streams")
@pytest.mark.parametrize("settings", [(1, 0, 8, 4, 3), (6, 0, 8, 0, 255), (5, 1, 9, 0, 0)])
def test_all_ways_of_gzip_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: tuple[int, ...]
) -> None:
    level, strategy, memory, told, system = settings
    way = bytes([level, strategy, 15, memory, told, system])
    monkeypatch.setattr(parquet_files, "GZIP_WAY", way)
    data = file(flights(2000), GZIP, 700, 2000)
    assert undone(data) == [True] * len(flights(1))
    comes_back(tmp_path, data, 3)


def test_pages_of_gzip_that_zlib_has_not_made(tmp_path: Path) -> None:
    """A time in the header, another checksum, bytes behind it, two members, another stream."""
    data = file(flights(5000)[:1], GZIP, 5000, 5000)
    at = data.index(bytes([31, 139, 8]))
    before, segment, *_ = segments_of(data)
    assert before.size and segment.size and segment.kind.pages is not None
    end = before.size + segment.size
    for place in (at + 4, at + 12, end - 8, end - 1):
        bad = bytearray(data)
        bad[place] ^= 1
        assert undone(bytes(bad)) == [False]
        comes_back(tmp_path, bytes(bad), 3)
    stored = zlib.compress(bytes(40), 0)[2:-4]
    for stream in (stored, b"", stored[:-1]):
        member = data[at : at + 10] + stream + struct.pack("<II", zlib.crc32(bytes(40)), 40)
        assert gzip.find(np.frombuffer(member, np.uint8), np.zeros(40, np.uint8), None) is None


@pytest.mark.parametrize("codec", [PLAIN, SNAPPY])
@pytest.mark.parametrize("version", [1, 2])
def test_values_that_are_split(tmp_path: Path, codec: int, version: int) -> None:
    columns = [replace(column, dictionary=False, split=True) for column in flights(900)
               if column.type not in ("text", "bool")]  # fmt: skip
    data = file(columns, codec, 250, 900, version)
    assert undone(data) == [True] * len(columns)
    assert comes_back(tmp_path, data, 3) < len(data) / 2
    found = densor.read_table(tmp_path / "a.densor", columns=["id"])
    assert found["id"].tolist() == [int.from_bytes(v or b"", "little") for v in columns[0].values]
    (stretch,) = (s.kind.pages for s in segments_of(data) if s.kind.pages)
    coder = encoder.PagesCoder(stretch, level_settings(3), Workers(1))
    assert coder.model() == bytes([17, 1])


@pytest.mark.parametrize("codec", [PLAIN, SNAPPY])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("wide", [(), (2048, 8)])
def test_values_in_newer_encodings(
    tmp_path: Path, codec: int, version: int, wide: tuple[int, ...]
) -> None:
    """Differences, lengths of texts, what these share and runs of truths; as cut by two writers."""
    plain = flights(900)
    numbers = random_state("deltas").integers(-(2**63), 2**63 - 1, 900)
    plain.append(Column("any", "i8", [number.tobytes() for number in numbers]))
    columns = newest(plain, *wide)
    data = file(columns, codec, 250, 900, version, other=bool(wide))
    assert undone(data) == [True] * len(columns)
    size = comes_back(tmp_path, data, 3)
    assert size < len(data)
    found = densor.read_table(tmp_path / "a.densor", columns=["any5", "tail6", "tail7", "flag3"])
    assert found["any5"].tolist() == numbers.tolist()
    texts = [value for value in plain[7].values]
    assert found["tail6"].tolist() == found["tail7"].tolist() == texts
    flags = [None if value is None else bool(value[0]) for value in plain[5].values]
    assert found["flag3"].tolist() == flags
    (stretch,) = (s.kind.pages for s in segments_of(data) if s.kind.pages)
    coder = encoder.PagesCoder(stretch, level_settings(3), Workers(1))
    assert coder.model() == bytes([17, 2])


def test_damaged_pages_of_newer_encodings(tmp_path: Path) -> None:
    """What is not made by rule stays as it is, and nothing is read beyond its end."""
    data = file(newest(flights(400)), PLAIN, 400, 400)
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    kept = set()
    for seed in range(40):
        damaged = bytearray(data)
        rng = random_state("newer", seed)
        for at in rng.integers(4, end, 1 + seed % 5):
            damaged[at] = rng.integers(256)
        kept.add(sum(undone(bytes(damaged))))
        comes_back(tmp_path, bytes(damaged), 1)
    assert sum(undone(data)) in kept and len(kept) > 1


@pytest.mark.parametrize("level", [1, 5])
def test_other_cuts_and_orders_are_kept(tmp_path: Path, level: int) -> None:
    """Runs that other writers cut otherwise, and dictionaries in another order."""
    data = file(flights(3000), SNAPPY, 900, 3000, other=True)
    found = undone(data)
    assert sum(found) >= len(found) - 1 and comes_back(tmp_path, data, level) < 0.7 * len(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [("codec", 6), ("type", 9), ("rows", 601), ("place", 1 << 40), ("file", b"x"), ("leaf", 2)],
)
def test_what_is_not_known_is_bytes(tmp_path: Path, name: str, value: object) -> None:
    """Codecs, types and places of which nothing can be made; columns that repeat."""
    column = flights(600)[1]
    if name == "leaf":
        column.repetition = 2
    data = file([column], PLAIN, 600, 600)
    size = int.from_bytes(data[-8:-4], "little")
    metadata = Reader(data[-8 - size : -8]).struct()
    chunk = metadata[4][0][1][0]
    if name == "file":
        chunk[1] = value
    elif name == "type":
        metadata[2][1][1] = value
    elif name != "leaf":
        chunk[3][{"codec": 4, "rows": 5, "place": 9}[name]] = value
        chunk[3].pop(11)
    whole = thrift(metadata)
    data = data[: -8 - size] + whole + len(whole).to_bytes(4, "little") + b"PAR1"
    assert not any(undone(data))
    comes_back(tmp_path, data, 3)


def test_metadata_that_lies() -> None:
    """Any change ends in a plan, and mostly of its metadata, which is at the end."""
    good = file(flights(50), SNAPPY, 50)
    begin = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    for seed in range(300):
        random = random_state("parquet", seed)
        metadata = bytes(mutated(good[begin:-8], random)) if seed % 4 else good[begin:-8]
        pages = good[:begin] if seed % 4 else bytes(mutated(good[:begin], random))
        data = pages + metadata + len(metadata).to_bytes(4, "little") + b"PAR1"
        plan = plan_file(MemorySource(data), len(data), random=MemoryRandomSource(data))
        assert sum(segment.size or 0 for segment in plan.segments) <= len(data)
        if plan.format == "parquet":
            undone(data)


def test_many_columns_are_coded_in_parts(tmp_path: Path) -> None:
    """Coding under each other takes time by the square of their number."""
    cells = [[bytes([i % 9, k % 5, 0, 0]) for k in range(40)] for i in range(300)]
    columns = [Column(f"c{i}", "i4", values) for i, values in enumerate(cells)]
    data = file(columns, SNAPPY, 40, 40)
    pages = [segment.kind.pages for segment in segments_of(data) if segment.kind.pages]
    assert [len(one.columns) for one in pages] == [128, 128, 44]
    assert all(undone(data))
    comes_back(tmp_path, data, 1)


def test_metadata_of_other_types() -> None:
    """Lists, texts and structures in each other's stead."""
    data = file(flights(20)[:2], PLAIN, 20)
    size = int.from_bytes(data[-8:-4], "little")
    others: list[Any] = [[], [1], b"", {}, {3: 1}, 7, -1, True]
    chunk = (4, 0, 1, 0)
    about = (*chunk, 3)
    places = [(2,), (4,), (2, 0), (2, 1), (4, 0), (4, 0, 1), (4, 0, 3), (2, 0, 5), (2, 1, 1)]
    for keys in (*places, chunk, about, (*about, 4), (*about, 7)):
        for other in others:
            metadata: Any = Reader(data[-8 - size : -8]).struct()
            place = metadata
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = other
            with contextlib.suppress(KeyError):  # lists of several types have no form
                whole = thrift(metadata)
            changed = data[: -8 - size] + whole + len(whole).to_bytes(4, "little") + b"PAR1"
            plan_file(MemorySource(changed), len(changed), random=MemoryRandomSource(changed))


@pytest.mark.parametrize("level", [1, 5])
def test_damaged_files_come_back(tmp_path: Path, level: int) -> None:
    good = file(flights(300), SNAPPY)
    for seed in range(12):
        comes_back(tmp_path, bytes(mutated(good, random_state("parquet", seed))), level)


@pytest.mark.parametrize("columns", [["id"], ["nothing"], ["constant", "flag"], ["tail"]])
def test_few_columns(tmp_path: Path, columns: list[str]) -> None:
    for rows in (1, 7, 8, 9, 505):
        chosen = [column for column in flights(rows) if column.name in columns]
        data = file(chosen, SNAPPY)
        assert all(undone(data))
        comes_back(tmp_path, data, 3)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x15", b"\x18\xff\xff\xff\xff\x0f", b"\x19\xfc\xff\xff\x7f", b"\x1f", b"\x15\xff"),
        *(b"\x1c" * 5000, b"\x19\x19" * 5000, b"\x1b\xff\xff\xff\x7f\xcc", b"\x15" + b"\x80" * 20),
    ],
)
def test_structures_that_do_not_end(data: bytes) -> None:
    with pytest.raises(FormatError):
        Reader(data).struct()
    assert MAX_DEPTH < 100


def test_pipes_and_bases(tmp_path: Path) -> None:
    """There is no metadata where a file is read in order, and changes are against bytes."""
    old, new = file(flights(400), SNAPPY), file(flights(401), SNAPPY)
    assert plan_file(MemorySource(new), None).format is None
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    densor.compress_file(tmp_path / "new", tmp_path / "a.densor", base=tmp_path / "old")
    densor.decompress_file(tmp_path / "a.densor", tmp_path / "b", base=tmp_path / "old")
    assert (tmp_path / "b").read_bytes() == new


def test_errors_are_those_of_densor() -> None:
    archive = bytearray(densor.compress(file(flights(300), SNAPPY)))
    for seed in range(40):
        with pytest.raises(DensorError):
            densor.decompress(bytes(mutated(bytes(archive), random_state("parquet", seed))))


def test_columns_at_one_place_are_not_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers of pages are read up to a limit, however many columns say that they are theirs."""
    header = thrift({1: 0, 2: 4, 3: 4, 5: {1: 1, 2: 0}, 6: bytes(3000)})
    page = header + bytes(4)
    about = {4: 0, 5: 1, 7: len(page), 9: 4}
    metadata = thrift({2: [{5: 1}, {1: 1, 3: 0}], 4: [{1: [{3: about}], 3: 1}] * 50})
    data = b"PAR1" + page + metadata + len(metadata).to_bytes(4, "little") + b"PAR1"
    reads: list[int] = []

    class Counted(Reader):
        def struct(self, depth: int = 0) -> dict[int, Any]:
            found = super().struct(depth)
            reads.append(self.at * (depth == 0))
            return found

    monkeypatch.setattr(parquet, "Reader", Counted)
    monkeypatch.setattr(parquet, "_MAX_HEADERS_SEEN", 10_000)
    assert any(segment.kind.pages for segment in segments_of(data))
    assert sum(reads) <= len(metadata) + 10_000 + len(page)


def test_values_of_columns_are_not_all_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of columns whose values are many times their pages, those that one chunk has room for."""
    rng = random_state("columns of one text")
    columns = [Column(f"c{i}", "text", [rng.bytes(2000)] * 100) for i in range(12)]
    data = file(columns, SNAPPY, 100, 100)
    _, segment, *_ = segments_of(data)
    pages = segment.kind.pages
    assert pages is not None and len(pages.columns) == 12
    monkeypatch.setattr(encoder, "MAX_CONTENT", 500_000)
    held: list[weakref.ref[Any]] = []
    most = 0

    def counted(*args: Any) -> Any:
        nonlocal most
        found = undo(*args)
        assert found is not None
        held.append(weakref.ref(found.values.data))
        most = max(most, sum(one() is not None for one in held))
        return found

    monkeypatch.setattr(encoder, "undo", counted)
    stretch = np.frombuffer(data, np.uint8)[4 : 4 + (segment.size or 0)]
    coder = encoder.PagesCoder(pages, level_settings(3), Workers(1))
    payload, out = coder.encode(stretch, 0), np.empty_like(stretch)
    PagesDecoder().decode(payload, out)
    assert out.tobytes() == stretch.tobytes()
    assert len(held) == 12 and most <= 6


@pytest.mark.parametrize(("group", "rows"), [(50, 50), (100, 2000)])
@pytest.mark.parametrize("codec", [PLAIN, SNAPPY])
def test_few_rows_take_no_more_than_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, rows: int, codec: int
) -> None:
    monkeypatch.undo()
    data = file(flights(rows), codec, group, group)
    for level in (3, 5, 9):
        as_bytes = comes_back(tmp_path, b"other" + data[5:], level)
        assert comes_back(tmp_path, data, level) <= as_bytes + 40


@pytest.mark.parametrize("level", [3, 5])
def test_columns_that_are_not_known_are_as_good_as_other_bytes(tmp_path: Path, level: int) -> None:
    """Lists, and what is compressed otherwise: context mixing is for these at levels 5 and 6."""
    data = file([replace(column, repetition=2) for column in flights(500)], PLAIN)
    assert not any(undone(data))
    as_bytes = comes_back(tmp_path, b"other" + data[5:], level)
    assert comes_back(tmp_path, data, level) <= as_bytes + 40
