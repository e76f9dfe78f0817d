"""Small files and streams of Arrow, written by hand: columns of many types, in several batches."""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from helpers import random_state

from densor.codec.table.layout import Layout
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers.plan import plan_file

MAGIC = b"ARROW1\0\0"
Item = Any  # (form of struct, value), bytes for a text, Table, a list of these, or Structs


class Table(dict[int, Item]):
    """A table of a flatbuffer: what its fields are."""


class Structs(NamedTuple):
    """A vector of structures of so many numbers of 64 bits each."""

    each: int
    numbers: Sequence[int]


def flatbuffer(root: Table) -> bytes:
    """A flatbuffer; each field has 8 bytes in its table."""
    out = bytearray(8)
    struct.pack_into("<I", out, 0, _put(out, root))
    return bytes(out) + bytes(-len(out) % 8)


def _put(out: bytearray, item: Item) -> int:
    """Appends what an offset leads to; where it is."""
    out += bytes(-len(out) % 8)
    if isinstance(item, bytes):
        out += struct.pack("<I", len(item)) + item + b"\0"
        return len(out) - len(item) - 5
    if isinstance(item, Structs):
        out += bytes(4)
        out += struct.pack(f"<I{len(item.numbers)}q", len(item.numbers) // item.each, *item.numbers)
        return len(out) - 8 * len(item.numbers) - 4
    if isinstance(item, list):
        begin = len(out)
        out += struct.pack("<I", len(item)) + bytes(4 * len(item))
        for i, one in enumerate(item):
            _refer(out, begin + 4 + 4 * i, one)
        return begin
    count = max(item, default=-1) + 1
    places = [8 + 8 * i if i in item else 0 for i in range(count)]
    out += struct.pack(f"<HH{count}H", 4 + 2 * count, 8 + 8 * count, *places)
    out += bytes(-len(out) % 8)
    begin = len(out)
    out += bytes(8 + 8 * count)
    struct.pack_into("<i", out, begin, 4 + 2 * count + -(4 + 2 * count) % 8)
    for i, one in item.items():
        if isinstance(one, tuple) and not isinstance(one, Structs):
            struct.pack_into(one[0], out, begin + 8 + 8 * i, one[1])
        else:
            _refer(out, begin + 8 + 8 * i, one)
    return begin


def _refer(out: bytearray, at: int, item: Item) -> None:
    struct.pack_into("<I", out, at, _put(out, item) - at)


def message(kind: int, header: Table, body: bytes = b"") -> bytes:
    """A message with its body, as in a stream."""
    data = flatbuffer(Table({0: ("<h", 4), 1: ("<B", kind), 2: header, 3: ("<q", len(body))}))
    return b"\xff\xff\xff\xff" + struct.pack("<i", len(data)) + data + body


class Column(NamedTuple):
    """A column. `kind`, `type`: as in a schema; `buffers`: of each batch."""

    name: str
    kind: int
    type: Table
    buffers: list[list[bytes]]
    children: tuple["Column", ...] = ()
    dictionary: int = -1

    def field(self) -> Table:
        """As it stands in a schema."""
        children = [child.field() for child in self.children]
        found = Table({0: self.name.encode(), 2: ("<B", self.kind), 3: self.type, 5: children})
        if self.dictionary >= 0:
            index = Table({0: ("<i", 32), 1: ("<B", 1)})
            found[4] = Table({0: ("<q", self.dictionary), 1: index})
        return found


def integers(bits: int, signed: bool = True) -> Table:
    return Table({0: ("<i", bits), 1: ("<B", int(signed))})


def bits(values: npt.ArrayLike) -> bytes:
    """A bitmap."""
    return np.packbits(np.asarray(values, np.bool_), bitorder="little").tobytes()


def texts(values: Sequence[str], dtype: str = "<i4") -> list[bytes]:
    """Offsets, and texts."""
    data = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, data)])
    return [ends.astype(dtype).tobytes(), b"".join(data)]


def record_batch(columns: Sequence[Column], batch: int, rows: int) -> tuple[Table, bytes]:
    """What a message says of a batch, and its body."""
    nodes: list[int] = []
    spans: list[int] = []
    body = bytearray()
    for column in columns:
        valid = np.frombuffer(column.buffers[batch][0], np.uint8)
        known = np.unpackbits(valid, count=rows, bitorder="little") if valid.size else np.ones(rows)
        nodes += [rows, rows - int(known.sum())]
        for data in column.buffers[batch]:
            spans += [len(body), len(data)]
            body += data + bytes(-len(data) % 8)
    return Table({0: ("<q", rows), 1: Structs(2, nodes), 2: Structs(2, spans)}), bytes(body)


def schema(columns: Sequence[Column]) -> bytes:
    return message(1, Table({1: [column.field() for column in columns]}))


def stream(columns: Sequence[Column], rows: Sequence[int]) -> bytes:
    """A stream of batches with so many rows."""
    parts = [schema(columns)]
    for batch, count in enumerate(rows):
        parts.append(message(3, *record_batch(columns, batch, count)))
    return b"".join([*parts, b"\xff\xff\xff\xff", bytes(4)])


def file(columns: Sequence[Column], rows: Sequence[int]) -> bytes:
    """A file; its footer is none that a reader of Arrow takes."""
    return MAGIC + stream(columns, rows) + b"footer" + struct.pack("<i", 6) + MAGIC[:6]


def flights(rows: int, batches: int = 1) -> tuple[list[Column], list[int]]:
    """Columns that depend on each other, of every type, with missing cells."""
    rng = random_state("arrow", rows)
    counts = [len(part) for part in np.array_split(np.arange(rows), batches)]
    kind = rng.integers(0, 3, rows)
    there = rng.random(rows) > 0.1
    flight = kind * 100 + rng.integers(0, 40, rows)
    late = np.where(there, rng.integers(-9, 30, rows), 0).astype("<i8")
    price = np.where(there, flight * 1.25, np.nan)
    names = [("AA", f"Köln-{f % 7}", "")[k] for k, f in zip(kind, flight, strict=True)]
    dates = [str(np.datetime64("2013-01-01") + int(i) // 40) for i in range(rows)]
    seconds = (1_700_000_000 + 60 * np.arange(rows)) * 10**9
    words = [f"{k} of {f}" for k, f in zip(kind, flight, strict=True)]
    plain = Table()
    made: list[tuple[str, int, Table, Any]] = [
        ("id", 2, integers(64), [b"", np.arange(rows, dtype="<i8")]),
        ("kind", 5, plain, [b"", names]),
        ("flight", 2, integers(16, False), [there, flight.astype("<u2")]),
        ("late", 2, integers(32), [there, late.astype("<i4")]),
        ("price", 3, Table({0: ("<h", 2)}), [there, price]),
        ("half", 3, Table({0: ("<h", 1)}), [b"", (late / 2).astype("<f4")]),
        ("date", 20, plain, [there, dates]),
        ("when", 10, Table({0: ("<h", 3)}), [b"", seconds]),
        ("on", 6, plain, [there, kind == 1]),
        ("day", 8, Table({0: ("<h", 0)}), [b"", (15000 + np.arange(rows) // 9).astype("<i4")]),
        ("words", 4, plain, [b"", words]),
        (
            "sum",
            7,
            Table({0: ("<i", 9), 1: ("<i", 2)}),
            [b"", np.stack([late, late >> 63], axis=1)],
        ),
    ]
    columns = []
    for name, number, form, (valid, values) in made:
        found, at = [], 0
        for count in counts:
            part = values[at : at + count]
            first = valid if isinstance(valid, bytes) else bits(valid[at : at + count])
            if isinstance(part, list):
                rest = texts(part, "<i8" if number == 20 else "<i4")
            else:
                rest = [bits(part) if part.dtype == np.bool_ else part.tobytes()]
            found.append([first, *rest])
            at += count
        columns.append(Column(name, number, form, found))
    return columns, counts


def table_in(file: bytes) -> tuple[npt.NDArray[np.uint8], Layout]:
    """The first stretch of a file that is a table, and how it lies."""
    plan = plan_file(MemorySource(file), len(file), random=MemoryRandomSource(file))
    at = 0
    for segment in plan.segments:
        if segment.kind.table is not None:
            assert segment.size is not None
            return np.frombuffer(file, np.uint8)[at : at + segment.size], segment.kind.table
        at += segment.size or 0
    raise AssertionError("no table")
