"""Files and streams of Arrow: what is found in them, whatever they say; and round trips."""

import struct
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from arrow_files import (
    MAGIC,
    Column,
    Structs,
    Table,
    file,
    flatbuffer,
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
from densor.codec.kind import Segment
from densor.codec.table.layout import BITS, CELLS, TEXTS_32, TEXTS_64
from densor.errors import FormatError
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers import flatbuffers
from densor.formats.parsers.plan import plan_file


def segments_of(data: bytes) -> list[Segment]:
    plan = plan_file(MemorySource(data), len(data), random=MemoryRandomSource(data))
    assert plan.format == "arrow"
    return plan.segments


def tables_of(data: bytes) -> list[Segment]:
    return [segment for segment in segments_of(data) if segment.kind.table is not None]


@pytest.mark.parametrize("whole", [file, stream])
@pytest.mark.parametrize("level", [1, 5])
def test_files_come_back(tmp_path: Path, whole: type, level: int) -> None:
    path = tmp_path / "a.arrow"
    path.write_bytes(whole(*flights(900, 2)))
    densor.compress_file(path, tmp_path / "a.densor", level=level)
    densor.decompress_file(tmp_path / "a.densor", tmp_path / "b.arrow")
    assert (tmp_path / "b.arrow").read_bytes() == path.read_bytes()
    assert path.stat().st_size > 3 * (tmp_path / "a.densor").stat().st_size


def test_every_buffer_is_a_column() -> None:
    (segment,) = tables_of(stream(*flights(1000)))
    table = segment.kind.table
    assert table is not None and table.batches == (1000,)
    forms = [CELLS, TEXTS_32, BITS, CELLS, BITS, CELLS, BITS, CELLS, CELLS, BITS, TEXTS_64, CELLS]
    assert table.arrays == (*forms, BITS, BITS, CELLS, TEXTS_32, CELLS)
    assert [t for t in table.types if t not in ("", "U8")] == [
        *("I64", "U16", "I32", "F64", "F32", "I64", "I32"),
    ]


def test_small_batches_share_a_table() -> None:
    columns, counts = flights(3000, 40)
    (segment,) = tables_of(stream(columns, counts))
    assert segment.kind.table is not None and segment.kind.table.batches == tuple(counts)


def test_dictionaries_and_what_counts_in_them_are_columns() -> None:
    names = [f"city {i}" for i in range(500)]
    values = Column("", 5, Table(), [[b"", *texts(names)]])
    numbers = random_state("cities").integers(0, 500, 4000).astype("<i4")
    column = Column("city", 5, Table(), [[b"", numbers.tobytes()]], dictionary=7)
    header, body = record_batch([values], 0, 500)
    first = message(2, Table({0: ("<q", 7), 1: header}), body)
    data = schema([column]) + first + message(3, *record_batch([column], 0, 4000))
    dictionary, rows = (segment.kind.table for segment in tables_of(data))
    assert dictionary is not None and dictionary.arrays == (TEXTS_32,)
    assert rows is not None and rows.arrays == (CELLS,) and rows.types == ("I32",)
    assert densor.decompress(densor.compress(data)) == data


def test_lists_and_what_is_within_are_elements() -> None:
    rng = random_state("lists")
    floats = rng.normal(size=20000).astype("<f4")
    ends = np.sort(rng.integers(0, 20001, 2001)).astype("<i4")
    ends[[0, -1]] = 0, 20000
    item = Column("item", 3, Table({0: ("<h", 1)}), [[b"", floats.tobytes()]])
    lists = Column("many", 12, Table(), [[b"", ends.tobytes()]], (item,))
    ids = Column("id", 2, integers(64), [[b"", np.arange(2000, dtype="<i8").tobytes()]])
    flat = Column("many", 12, Table(), [[*lists.buffers[0], *item.buffers[0]]])
    header, body = record_batch([ids, flat], 0, 2000)
    header[1] = Structs(2, [2000, 0, 2000, 0, 20000, 0])
    data = schema([ids, lists]) + message(3, header, body)
    segments = segments_of(data)
    assert [s.kind.dtype for s in segments if s.kind.layout] == ["U32", "F32"]
    assert len(tables_of(data)) == 1
    assert densor.decompress(densor.compress(data)) == data


def test_compressed_and_big_endian_columns_are_bytes() -> None:
    columns, counts = flights(900)
    header, body = record_batch(columns, 0, 900)
    header[3] = Table({0: ("<b", 0)})
    data = schema(columns) + message(3, header, body)
    assert len(segments_of(data)) == 1
    fields = [column.field() for column in columns]
    big = message(1, Table({0: ("<h", 1), 1: fields})) + stream(columns, counts)
    plan = plan_file(MemorySource(big), len(big), random=MemoryRandomSource(big))
    assert len(plan.segments) == 1


def test_flatbuffers_that_lead_elsewhere_are_refused() -> None:
    good = flatbuffer(Table({0: ("<q", 5), 1: b"text", 2: [Table({0: ("<h", 1)})]}))
    table = flatbuffers.Table.root(good)
    assert (table.number(0, "<q"), table.text(1)) == (5, b"text")
    assert [inner.number(0, "<h") for inner in table.tables(2, 9)] == [1]
    assert table.number(9, "<i", 3) == 3 and table.table(7) is None
    with pytest.raises(FormatError):
        table.tables(2, 0)
    for data in (b"", b"\4\0\0\0", bytes(40), b"\xff" * 40, good[:20], b"\0\0\0\x80" + good[4:]):
        with pytest.raises(FormatError):
            flatbuffers.Table.root(data).text(1)


def test_circles_and_depth_end() -> None:
    inner = Table({0: b"x", 2: ("<B", 13), 3: Table()})
    for _ in range(40):
        inner = Table({0: b"x", 2: ("<B", 13), 3: Table(), 5: [inner]})
    data = bytearray(message(1, Table({1: [inner]})))
    assert _formats(bytes(data)) == [None]
    for place in range(8, len(data) - 4, 4):  # offsets that lead back
        circle = bytearray(data)
        for back in (0, 4, 1 << 32):
            struct.pack_into("<I", circle, place, back - 4 if back > 4 else back)
        _formats(bytes(circle))


def _formats(data: bytes) -> list[str | None]:
    plan = plan_file(MemorySource(data), len(data), random=MemoryRandomSource(data))
    return [plan.format]


def test_columns_that_share_a_long_name_are_refused() -> None:
    field = Table({0: b"x", 2: ("<B", 2), 3: integers(8)})
    head = {0: ("<h", 4), 1: ("<B", 1), 3: ("<q", 0)}
    data = bytearray(flatbuffer(Table({**head, 2: Table({1: [field] * 40})})))
    name = struct.pack("<I", 200_000) + bytes(200_004)
    header = flatbuffers.Table.root(bytes(data)).table(2)
    assert header is not None
    for column in header.tables(1, 40):
        at = column.place(0)
        struct.pack_into("<I", data, at, len(data) - at)
    data += name
    whole = b"\xff\xff\xff\xff" + struct.pack("<i", len(data)) + data
    assert _formats(whole + b"\xff\xff\xff\xff" + bytes(4)) != ["arrow"]


def test_many_columns_take_little_time() -> None:
    field = Table({0: b"x", 2: ("<B", 2), 3: integers(8)})
    begin = time.process_time()
    few = message(1, Table({1: [field] * 4000}))
    assert len(few) < 1 << 22
    assert _formats(few + b"\xff\xff\xff\xff" + bytes(4)) == ["arrow"]
    many = bytearray(flatbuffer(Table({1: [field] * 9})))
    many += bytes(4_000_000 - len(many))
    place = many.index(struct.pack("<I", 9))
    struct.pack_into("<I", many, place, 900_000)  # tables that all begin at zeros
    assert _formats(b"\xff\xff\xff\xff" + struct.pack("<i", len(many)) + many) != ["arrow"]
    columns, _ = flights(64)
    one = message(3, *record_batch(columns, 0, 64))
    assert len(tables_of(schema(columns) + 6000 * one)) > 0
    assert time.process_time() - begin < 20


def test_files_with_changes_are_still_planned_and_restored() -> None:
    good = file(*flights(300, 2))
    rng = Random("arrow")
    metadata = [i for i in range(len(good) - 4) if good[i : i + 4] == b"\xff\xff\xff\xff"]
    for number in range(300):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 5))):
            place = min(rng.choice(metadata) + rng.randrange(4, 2000), len(data) - 8)
            if number % 2:
                data[place] = rng.choice((0, 1, 4, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            else:
                value = rng.choice((0, 1, -1, 2**31 - 1, 2**63 - 1, -(2**63), 300, 1 << 20))
                struct.pack_into("<q", data, place & ~7, value)
        data = bytearray(data[: rng.choice((len(data), len(data), rng.randrange(8, len(data))))])
        plan = plan_file(MemorySource(data), len(data), random=MemoryRandomSource(bytes(data)))
        assert sum(segment.size or 0 for segment in plan.segments) <= len(data)
        if number % 4 == 0:
            assert densor.decompress(densor.compress(bytes(data))) == data


def test_what_is_no_stream_is_bytes() -> None:
    for data in (b"\xff" * 5000, MAGIC + bytes(5000), MAGIC, b"\xff\xff\xff\xff", MAGIC[:6] * 900):
        assert densor.decompress(densor.compress(data)) == data
        assert _formats(data) != ["arrow"]
