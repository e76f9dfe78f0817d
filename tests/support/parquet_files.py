"""Small Parquet files, by hand: columns of every type, in pages of both versions."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from helpers import random_state
from reference import pages as reference
from reference.lz4 import lz4

PLAIN, SNAPPY, GZIP, LZ4 = 0, 1, 2, 7
GZIP_WAY = bytes([9, 0, 15, 8, 2, 3])  # as pyarrow takes it: level, ..., what headers say
_STRUCT, _LIST, _BINARY, _I32, _I64, _TRUE = 12, 9, 8, 5, 6, 1
RLE, DELTAS, LENGTHS, SHARED = 3, 5, 6, 7  # encodings
BITS, TYPES = 0, {"bool": 0, "i4": 1, "i8": 2, "i12": 3, "f4": 4, "f8": 5, "text": 6, "fixed": 7}


def _zigzag(value: int) -> bytes:
    return reference.head(value << 1 if value >= 0 else (-value << 1) - 1)


def _value(value: Any) -> tuple[int, bytes]:
    """Type and bytes of a field of Thrift's compact protocol."""
    if value is True:
        return _TRUE, b""
    if isinstance(value, dict):
        return _STRUCT, thrift(value)
    if isinstance(value, list):
        kinds = {_value(item)[0] for item in value} or {_I32}
        head = bytes([min(len(value), 15) << 4 | kinds.pop()])
        head += reference.head(len(value)) if len(value) > 14 else b""
        return _LIST, head + b"".join(_value(item)[1] for item in value)
    if isinstance(value, bytes):
        return _BINARY, reference.head(len(value)) + value
    return _I64 if abs(value) >> 31 else _I32, _zigzag(value)


def thrift(fields: dict[int, Any]) -> bytes:
    """A structure."""
    out, last = b"", 0
    for number, value in sorted(fields.items()):
        kind, data = _value(value)
        out += bytes([(number - last) << 4 | kind]) + data
        last = number
    return out + b"\0"


@dataclass
class Column:
    """A column. `values`: bytes, or None; `repetition`: as in a schema."""

    name: str
    type: str
    values: Sequence[bytes | None]
    dictionary: bool = True
    repetition: int = 1
    split: bool = False
    newest: int = 0  # the encoding of deltas, lengths, shared beginnings or runs
    blocks: tuple[int, int, int] = (128, 4, 32)
    told: dict[int, Any] = field(default_factory=dict)  # in the schema, of its logical type

    @property
    def width(self) -> int:
        return {"bool": -1, "text": 0}.get(self.type, len(next(filter(None, self.values), b"1234")))


def _plain(width: int, values: Sequence[bytes]) -> bytes:
    column = reference.Column(0, width, False, False, None, [])
    return column._plain(list(values))


def _block(data: bytes, codec: int, way: int) -> bytes:
    if codec == GZIP:
        return reference.gzip(data, GZIP_WAY)
    if codec == LZ4:
        return lz4(data)
    return reference.snappy(data, way) if codec else data


def _runs(values: list[int], bits: int, other: bool) -> bytes:
    """Runs that are cut by rule, or one that goes on behind the last value."""
    if not other:
        return reference.runs(values, bits)
    behind = [(1 << bits) - 1 - i % 2 for i in range(-len(values) % 64)]
    return reference.packed_run(values + behind, bits)


def _newest(column: Column, there: list[bytes], other: bool) -> bytes:
    """Values in one of the newer encodings."""
    if column.newest == RLE:
        found = _runs([value[0] for value in there], 1, other)
        return len(found).to_bytes(4, "little") + found
    if column.newest == DELTAS:
        numbers = [int.from_bytes(value, "little", signed=True) for value in there]
        return reference.deltas(numbers, *column.blocks)
    return reference.by_lengths(there, column.newest == SHARED, *column.blocks)


def _chunk(
    column: Column, codec: int, rows: int, version: int, way: int, other: bool
) -> tuple[bytes, bool]:
    """The pages of a column, of so many rows each."""
    out = b""
    known: dict[bytes, int] = {}
    for value in column.values:
        if value is not None:
            known.setdefault(value, len(known))
    if other:
        known = {value: i for i, value in enumerate(sorted(known))}
    dictionary = column.dictionary and column.type != "bool"
    if dictionary:
        plain = _plain(column.width, list(known))
        stored = _block(plain, codec, way)
        head = {1: 2, 2: len(plain), 3: len(stored), 7: {1: len(known), 2: 0}}
        out += thrift(head) + stored
    for at in range(0, len(column.values), rows):
        part = column.values[at : at + rows]
        there = [value for value in part if value is not None]
        levels = _runs([int(v is not None) for v in part], 1, other) if column.repetition else b""
        if dictionary:
            bits = max(1, (len(known) - 1).bit_length())
            body = bytes([bits]) + _runs([known[value] for value in there], bits, other)
        else:
            body = reference.split(column.width, there) if column.split else _plain(
                column.width, there)  # fmt: skip
            if column.newest:
                body = _newest(column, there, other)
        encoding = 8 if dictionary else 9 if column.split else column.newest
        if version == 2:
            stored = levels + _block(body, codec, way)
            about = {1: len(part), 2: len(part) - len(there), 3: len(part), 4: encoding,
                     5: len(levels), 6: 0}  # fmt: skip
            head = {1: 3, 2: len(levels + body), 3: len(stored), 8: about}
        else:
            if column.repetition:
                body = len(levels).to_bytes(4, "little") + levels + body
            stored = _block(body, codec, way)
            about = {1: len(part), 2: encoding, 3: 3, 4: 3, 5: {2: len(part) - len(there)}}
            head = {1: 0, 2: len(body), 3: len(stored), 5: about}
        out += thrift(head) + stored
    return out, dictionary


def file(
    columns: Sequence[Column],
    codec: int = SNAPPY,
    page_rows: int = 100,
    group_rows: int = 250,
    version: int = 1,
    way: int = 15,
    other: bool = False,
) -> bytes:
    """A file of such columns; `other`: as by another writer, with runs and order of its own."""
    out = b"PAR1"
    total = len(columns[0].values)
    groups = []
    for begin in range(0, total, group_rows):
        chunks = []
        for column in columns:
            part = replace(column, values=column.values[begin : begin + group_rows])
            data, dictionary = _chunk(part, codec, page_rows, version, way, other)
            about = {1: TYPES[column.type], 2: [0, 3, 8], 3: [column.name.encode()], 4: codec,
                     5: len(part.values), 6: len(data), 7: len(data), 9: len(out)}  # fmt: skip
            if dictionary:
                about[11] = len(out)
            chunks.append({2: len(out), 3: about})
            out += data
        groups.append({1: chunks, 2: 0, 3: min(group_rows, total - begin)})
    schema: list[dict[int, Any]] = [{4: b"schema", 5: len(columns)}]
    for column in columns:
        schema.append({1: TYPES[column.type], 3: column.repetition, 4: column.name.encode(),
                       **column.told})  # fmt: skip
        if column.type == "fixed":
            schema[-1][2] = column.width
    metadata = thrift({1: 2, 2: schema, 3: total, 4: groups, 6: b"densor's tests"})
    return out + metadata + struct.pack("<I", len(metadata)) + b"PAR1"


def flights(rows: int) -> list[Column]:
    """Columns that depend on each other, of every type; missing, odd and few values among them."""
    rng = random_state("parquet", rows)
    kind = rng.integers(0, 3, rows)
    late = rng.integers(-20, 20, rows).astype("<i8")
    known = rng.random(rows) < 0.9
    price = kind * 1.25 + rng.integers(0, 9, rows)

    def cells(values: Any, dtype: str, there: Any = None) -> list[bytes | None]:
        found = np.asarray(values).astype(dtype)
        there = np.ones(rows) if there is None else there
        return [v.tobytes() if ok else None for v, ok in zip(found, there, strict=True)]

    names = [b"", "Kö".encode(), b"x" * 300]
    texts = [f"N{number}".encode() for number in rng.integers(0, 900, rows)]
    return [
        Column("id", "i8", cells(np.arange(rows) * 3 + 2**31, "<i8"), False, 0),
        Column("late", "i4", cells(late, "<i4", known)),
        Column("sum", "i8", cells(late + kind, "<i8", known)),
        Column("price", "f8", cells(price, "<f8")),
        Column("noise", "f4", cells(rng.normal(size=rows), "<f4"), False),
        Column("flag", "bool", cells(kind == 1, "u1", known), False),
        Column(
            "name", "text", [names[i] if ok else None for i, ok in zip(kind, known, strict=True)]
        ),
        Column("tail", "text", texts, False, 0),
        Column("when", "i12", [bytes([k, 1, 2]) * 4 for k in kind.tolist()], True, 0),
        Column("code", "fixed", [bytes([k] * 5) for k in kind.tolist()]),
        Column("constant", "i4", [bytes(4)] * rows),
        Column("nothing", "i4", [None] * rows),
    ]


def newest(columns: Sequence[Column], *wide: int) -> list[Column]:
    """Those of columns that have newer encodings, in these; `wide`: other blocks, of 64 bits."""
    found = []
    for column in columns:
        encodings = {"text": (LENGTHS, SHARED), "fixed": (SHARED,), "bool": (RLE,)}
        encodings |= {"i4": (DELTAS,), "i8": (DELTAS,)}
        for encoding in encodings.get(column.type, ()):
            bits = 64 if wide or column.type == "i8" else 32
            size, parts = wide or (128, 4)
            name = f"{column.name}{encoding}"
            made = replace(column, name=name, dictionary=False, newest=encoding)
            found.append(replace(made, blocks=(size, parts, bits)))
    return found
