"""Files of records: how fields are found in the header, whatever that says; and sizes."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
from record_arrays import npy, records

import densor
from densor.codec.kind import Segment
from densor.errors import FormatError
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers.plan import plan_file
from densor.formats.parsers.records import MAX_COLUMNS, types_of


def segments_of(data: bytes) -> list[Segment]:
    plan = plan_file(MemorySource(data), len(data), random=MemoryRandomSource(data))
    assert plan.format == "npy"
    return plan.segments


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("level", [1, 5, 9])
def test_files_of_records_come_back(tmp_path: Path, align: bool, level: int) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(npy(records(900, align).reshape(30, 30)))
    densor.compress_file(path, tmp_path / "a.densor", level=level)
    densor.decompress_file(tmp_path / "a.densor", tmp_path / "b.npy")
    assert (tmp_path / "b.npy").read_bytes() == path.read_bytes()
    assert path.stat().st_size > 1.5 * (tmp_path / "a.densor").stat().st_size


def test_every_field_is_a_column() -> None:
    data = npy(records(100))
    (table,) = [s.kind.table for s in segments_of(data) if s.kind.table]
    types = ("U32", "I64", "", "F64", ">I16", "F32", "F32", ">F64", "U8", "U16", "F32", "F32")
    assert table.types == (*types, "U64", "", "I8", "")
    assert table.widths == (4, 8, 3, 8, 2, 4, 4, 8, 1, 2, 4, 4, 8, 8, 1, 3)
    aligned = records(100, align=True)
    (table,) = [s.kind.table for s in segments_of(npy(aligned)) if s.kind.table]
    assert table.stride == aligned.itemsize and table.columns > 16


def test_halves_of_complex_numbers_are_columns() -> None:
    """Of numbers of ml_dtypes, of two bytes each, which tables take for their bits."""
    pairs = npy(np.zeros(900, [("a", "<c8"), ("b", "u1")]))
    (table,) = [s.kind.table for s in segments_of(pairs.replace(b"<c8", b"<c4")) if s.kind.table]
    assert table.types == ("U16", "U16", "U8") and table.widths == (2, 2, 1)


def test_what_is_no_column_of_records_is_bytes() -> None:
    objects = npy(records(100)).replace(b"'<u4'", b"'|O4'", 1)
    many = npy(np.zeros(9, [("a", "u1", (MAX_COLUMNS + 1,)), ("b", "u1")]))
    wide = npy(np.zeros(9, [("a", "V70000"), ("b", "u1")]))
    for data in (objects, many, wide, npy(np.zeros(9, [("a", "V0")]))):
        assert not any(segment.kind.table for segment in segments_of(data))


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"[", b"(", b"['a'", b"[('a',)]", b"[('a', 1)]", b"[('a', '<f4', 'x')]", b"[1]"),
        *(b"[('a', '<f4'), x]", b"[('a' '<f4')]", b"('a', '<f4')", b"[('a', ('<f4', 2))]"),
        *(b"[" * 60000, b"[('a', " * 9000, b"[('a', '<f4', (2000, 2000))]", b"'" + 60000 * b"\\"),
    ],
)  # fmt: skip
def test_hostile_types_are_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        types_of(text, 0)


def test_types_are_read_whatever_the_names_are() -> None:
    text = rb"""[('a\'],', '<f4'), (("title", 'b'), '>i2', (2, 3,)), ("", [('c', '|S1', 0)]),]"""
    assert types_of(text, 0) == ["<f4", *[">i2"] * 6]


def test_headers_with_a_change_are_still_planned_and_restored(tmp_path: Path) -> None:
    good = npy(records(64))
    rng = Random("headers")
    size = len(good) - records(64).nbytes
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(10, size)] = rng.choice(b"'\"[](),0123456789<>|fiuSVOx ")
        plan = plan_file(MemorySource(data), len(data), random=MemoryRandomSource(bytes(data)))
        assert sum(segment.size or 0 for segment in plan.segments) <= len(data)
        assert densor.decompress(densor.compress(bytes(data))) == data


def test_more_records_than_any_file_has_take_no_time() -> None:
    array = records(64)
    data = npy(array).replace(b"(64,), }", b"(%d,), }" % (1 << 62))
    for size in (len(data), None):
        plan = plan_file(MemorySource(data), size, random=size and MemoryRandomSource(data))
        assert len(plan.segments) < 1 << 12
    assert densor.decompress(densor.compress(data)) == data


def test_records_of_a_large_file_are_cut_into_what_chunks_hold() -> None:
    rows = (1 << 23) // 2 + 5
    head = npy(np.zeros(0, [("a", "u1"), ("b", "u1")])).replace(b"(0,)", b"(%d,)" % rows)
    tables = [s for s in segments_of(head + bytes(2 * rows)) if s.kind.table]
    assert [segment.size for segment in tables] == [1 << 23]  # the rest is too little
