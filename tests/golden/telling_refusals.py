"""Chunks that are refused for one reason each, for `make_telling.py`: of tables, and of others."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from codec_cases import CodecCase
from telling_columns import (
    FILL,
    Table,
    cells,
    contexts,
    filled,
    number,
    numbers,
    packed,
    under,
    values,
)

Made = Iterator[CodecCase]
TWO = b"\1" + cells([b"a", b"b"])
ONE = b"\0" + FILL


def tables(rng: Random) -> Made:
    """Models, chunks, columns and symbols."""
    for name, table, size in (*_models(), *_chunks(), *_arrays(), *_columns(), *_symbols()):
        case = table.case(f"refused-{name}")
        yield replace(case, size=size or case.size)
    case = Table(20, {1: ONE, 0: ONE}).case("refused-twice")
    at = case.payload.index(b"\0" + number(len(ONE)), 3)
    yield replace(case, payload=case.payload[:at] + b"\1" + case.payload[at + 1 :])
    case = filled(20, ONE).case("refused-checksum")
    yield replace(case, payload=case.payload[:-1] + b"?")
    yield replace(case, name=f"{case.name}-size", payload=case.payload, size=case.size + 1)
    for name, record in (
        ("left", number(1) + number(1) + values(range(10**17, 10**17 + 40))),
        ("many", number(1) + number(255) + cells([b""] * 40) + number(255)),
    ):
        above = number(1) * (name == "left")
        case = next(under(f"refused-{name}", 40, 1, record + above, bytes(9)))
        yield replace(case, size=400)


Cases = Iterator[tuple[str, Table, int]]  # name, table, size or 0


def _models() -> Cases:
    yield "long", filled(20, ONE), 2**25 + 1
    literal = number(2**15 + 1) + bytes(2**15 + 1) + b"\0\0"
    yield "literals", filled(20, ONE, head=(2, 44, 0), more=literal), 2**16
    yield "quote", filled(20, ONE, head=(8, 0, 34), more=b"\0\1\0\1"), 0
    yield "names", filled(20, ONE, head=(8, 0, 0), names=b"a", more=b"\0\1\0\1"), 0
    yield "form", filled(20, ONE, head=(8, 0, 0), more=b"\2\0\1"), 0
    yield "width", filled(20, ONE, head=(8, 0, 0), more=b"\0\0\0\1"), 0


def _chunks() -> Cases:
    yield "flags", filled(20, ONE, flags=4), 0
    yield "cells", filled(201, ONE), 400
    yield "records", filled(20, ONE, head=(6, 0, 0), more=b"\x14\x14", flags=2), 0
    yield "rows", filled(11, ONE, head=(6, 0, 0), more=b"\x14\x14"), 439
    for name, gaps, lengths in (("gaps", [21], [3]), ("lengths", [20], [2]), ("minus", [-1], [3])):
        said = number(1) + numbers(gaps) + numbers(lengths) + packed(b"abc")
        yield name, filled(20, ONE, pieces=said), 0


def _arrays() -> Cases:
    """Buffers: rows of batches, gaps, bits, ends of texts."""

    def said(rows: Sequence[int], gaps: Sequence[int], lengths: Sequence[int] = ()) -> bytes:
        lists = numbers(rows) + numbers(gaps) + numbers(lengths)
        return number(len(rows)) + lists + packed(b"abc")

    head, fixed = (8, 0, 0), b"\0\x14\0\x14"
    for name, rows, gaps in (
        ("none", [], [3]),
        ("negative", [-1, 13], [0, 0, 0, 0, 3]),
        ("batches", [13], [0, 0, 3]),
        ("pieces", [12], [0, 0, 4]),
        ("sizes", [12], [0, 0, 3]),
    ):
        size = 484 if name == "sizes" else 483
        yield name, Table(12, {1: ONE, 0: ONE}, head, more=fixed, pieces=said(rows, gaps)), size
    odd = b"\1\0\2" + packed(b"\0\2") + b"\2\0" + numbers([1, 0, 1] * 4)
    bits = Table(12, {1: ONE, 0: odd}, head, more=b"\1\0\x14", pieces=said([12], [0, 0, 3]))
    yield "bits", bits, 2 + 240 + 3
    texts = said([12], [0, 0, 0, 3], [241])
    yield "ends", Table(12, {1: ONE, 0: ONE}, head, more=b"\4\0\x14", pieces=texts), 52 + 484


def _columns() -> Cases:
    yield "of-width", filled(20, b"\0abcd", head=(6, 0, 0), more=b"\5\x14"), 500
    yield "items", filled(20, b"\3" + packed(bytes(99)), head=(6, 0, 0), more=b"\5\x14"), 500
    big = b"\2" + values([10**16]) + b"\0"
    yield "cells-of-steps", Table(30, {0: big}), 400
    yield "gaps-of-values", filled(20, b"\1" + values([0, 2 * 10**18, 4 * 10**18])), 0
    yield "gap", filled(20, b"\1" + values([0, 2 * 10**18 + 1])), 0
    negative = b"\1\1\1\0\0" + b"\n" + packed(b"") + b"\2\5"
    yield "sign", filled(20, negative), 0
    wide = b"\1" + values([1, 2], 1, 128) + b"\2\0" + numbers([0, 1] * 10)
    yield "wide", filled(20, wide, head=(4, 44, 34), more=number(2**25) + b"\x14"), 440
    for width, kind, style in ((9, 6, 0), (4, 6, 1), (5, 7, 0), (4, 7, 19), (4, 7, 64)):
        record = bytes([1, kind, 1, style, 0]) + packed(b"") + b"\0\5" + numbers([])
        name = f"style-{width}-{kind}-{style}"
        more = bytes([width, 20])
        yield name, filled(20, record, head=(6, 0, 0), more=more), 20 * (width + 20)


def _symbols() -> Cases:
    """Contexts and settings of symbols that follow from others."""
    code = TWO + b"\0" + packed(b"\1\1")
    one, none = contexts([], [((), 0)]), contexts([], [])
    yield "no-context", filled(20, code + b"\5\0" + none + bytes(20)), 0
    yield "no-function", filled(20, TWO + b"\3" + none + b"\0" + numbers([]) * 2), 0
    yield "no-limit", filled(20, code + b"\0\0" + one + bytes(20)), 0
    yield "guessing", filled(20, code + b"\5\2" + one + bytes(20)), 0
    yield "behind", filled(20, code + b"\5\0" + one + bytes(40)), 0
    every = [(0, 0), (0, 1)] + [(o, a, b) for o in range(1, 5) for a in (0, 1) for b in (0, 1)]
    some = [(tuple(range(3 * i, 3 * i + 3)), 0) for i in range(6)]
    much = Table(2**21, {1: ONE, 0: code + b"\5\0" + contexts(every, some)})
    yield "parents", much, 2**22
