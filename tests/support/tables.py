"""Tables as text, of many kinds."""

import json
from typing import Any

import numpy as np
import xxhash
from helpers import random_state

from densor.codec.table.params import parse
from densor.codec.table.payload import parse_head
from densor.codec.table.wire import Writer

MASK = 0xFFFFFFFF


def table(rows: int, separator: str = ",", end: str = "\n") -> bytes:
    """Columns that depend on each other: numbers, clocks, days, categories, missing cells."""
    rng = random_state("table", rows)
    day = np.sort(rng.integers(0, 300, rows))
    carrier = rng.integers(0, 5, rows)
    flight = carrier * 100 + rng.integers(0, 40, rows)
    planned = (6 + flight % 16) * 60 + flight % 60
    late = np.maximum(-9, rng.normal(2, 20, rows)).astype(int)
    dates = np.datetime_as_string((np.datetime64("2013-01-01") + day).astype("M8[D]"))
    lines = [
        separator.join(["id", "date", "carrier", "flight", "planned", "left", "late", "price"])
    ]
    for i in range(rows):
        a, b = planned[i], (planned[i] + late[i]) % 1440
        price = f"{flight[i] * 1.25 + 10:.2f}" if i % 37 else "NA"
        lines.append(
            separator.join(
                [
                    *(str(i + 1), str(dates[i]), ("AA", "UA", '"B, 6"', "DL", "WN")[carrier[i]]),
                    *(str(flight[i]), str(a // 60 * 100 + a % 60), str(b // 60 * 100 + b % 60)),
                    *(str(late[i]), price),
                ]
            )
        )
    return (end.join(lines) + end).encode()


def broken(text: bytes, every: int) -> bytes:
    """The table with a line in `every` too short, too long, empty, a comment or noise."""
    lines = text.split(b"\n")
    for i, place in enumerate(range(every, len(lines) - 1, every)):
        line = lines[place]
        lines[place] = (line[: len(line) // 2], line + b",1", b"", b"# " + line, b'"' + line)[i % 5]
    return b"\n".join(lines)


def _words(rows: int) -> bytes:
    rng = random_state("words", rows)
    words = ["salt", "river", "Köln", "New", "port", "saint", "de", "la", "ville", "burg"]
    names = [" ".join(rng.choice(words, 3)) + str(i * 7919 % 1000) for i in range(rows)]
    return "\n".join(f"{i % 3};{name};{i % 7 / 4}" for i, name in enumerate(names)).encode() + b"\n"


def _times(rows: int) -> bytes:
    times = np.datetime64("1999-12-31T20:00:00") + np.arange(rows) * 3600 // 4 * 4
    text = np.datetime_as_string(times)
    return "".join(
        f'{t}Z\t{t.replace("T", " ")}\t{t}\t{t[:10]}\t"{t[:10]}"\t{i % 5}\n'
        for i, t in enumerate(text)
    ).encode()


def _numbers(rows: int) -> bytes:
    rng = random_state("numbers", rows)
    lines = []
    for i in range(rows):
        x = int(rng.integers(-50, 50))
        lines.append(
            f'{x},{x / 4},{x / 8:.3f},"{x}",0{abs(x)},{10**17 + 3 * i},-0,{i % 2 or ""},{-i * 5}\n'
        )
    return "".join(lines).encode()


RECORDS = {
    "typical": table(120),
    "tabs, CRLF": table(60, "\t", "\r\n"),
    "words": _words(310),
    "times": _times(24),
    "numbers": _numbers(320),
    "two cells": b"a,b\n" * 40 + b"b,a\n",
    "empty cells": b",,\n" * 50 + b"1,,\n",
    "constant": b"x|y|\n" * 300,
    "quoted ends": b'1,"a\nb",3\n2,"c""d",4\n' * 60,
    "invalid UTF-8": b"1;\xff\xfe;3\n2;\x80;4\n" * 30,
}


def json_lines(rows: int, deep: bool = True) -> bytes:
    """Objects with the same keys, escapes, arrays, and others within."""
    rng = random_state("json", rows)
    lines = []
    for i in range(rows):
        found: dict[str, Any] = {"id": i, "kind": f'k"{rng.integers(3)}\\', "on": bool(i % 3)}
        found |= {"price": None if i % 29 == 0 else round(float(rng.gamma(9, 3)), 2), "tags": []}
        inner = {"day": str(np.datetime64("2020-02-20") + i // 9), "at": {"x": i % 7 - 3}}
        found |= {"in": inner if deep else [inner, {"]": "}"}]}
        lines.append(json.dumps(found, ensure_ascii=i % 2 == 0))
    return "\n".join(lines).encode() + b"\n"


def fixed_width(rows: int, end: str = "\n") -> bytes:
    """Cells of fixed widths: numbers at the right, names at the left, dates, missing ones."""
    rng = random_state("fixed", rows)
    lines = []
    for i in range(rows):
        price = "" if i % 31 == 0 else f"{rng.gamma(5, 9):.2f}"
        name = ("salt", "river", "Köln", "port")[rng.integers(4)]
        lines.append(
            f"{i:6} {name:8} {rng.integers(-99, 99):4} {price:>8}  2021-03-{i % 28 + 1:02}"
        )
    return (end.join(lines) + end).encode("latin-1")


def blocks(rows: int, columns: int = 12) -> bytes:
    """Cells that depend on a class of their row and one of their column, beside other columns."""
    rng = random_state("blocks", rows, columns)
    above, beside = rng.integers(0, 3, rows), rng.integers(0, 2, columns)
    shares = rng.dirichlet([0.4] * 3, (3, 2))
    ends = np.cumsum(shares, axis=2)[above[:, None], beside]
    cells = (rng.random((rows, columns, 1)) > ends).sum(axis=2).clip(0, 2)
    lines = [
        f"{i % 5},{','.join('abc'[c] for c in row)},{row[0] * 3}" for i, row in enumerate(cells)
    ]
    return "\n".join(lines).encode() + b"\n"


def _check(record: bytes | bytearray) -> bytes:
    return (xxhash.xxh3_64_intdigest(bytes(record)) & MASK).to_bytes(4, "little")


def resealed(model: bytes, payload: bytes, size: int, place: int, change: int) -> bytes:
    """The payload of a chunk with a byte of its records changed, and checks that fit again."""
    head = parse_head(np.frombuffer(payload, np.uint8), parse(model), size)
    records = bytearray(head.records.tobytes())
    if records:
        records[place % len(records)] ^= change
    listed = Writer()
    if head.latent:
        listed.number(head.latent_size)
        listed.raw(_check(records[: head.latent_size]))
        listed.number(len(head.order))
    for column in head.order:
        begin, end = head.range_of(column)
        listed.number(column)
        listed.number(end - begin)
        listed.raw(_check(records[begin:end]))
    front = len(payload) - len(records) - len(listed.bytes())
    return payload[:front] + listed.bytes() + bytes(records)
