"""Tables at bounds, for `make_telling.py`: long names, wide columns, many rows.

What is refused is as long as what it would decode to, so that nothing else is wrong with it.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from random import Random

import zstandard
from codec_cases import CodecCase
from reference import codecs
from reference.arithmetic import Arithmetic
from reference.reading import Refused
from telling_chunks import made
from telling_columns import (
    FILL,
    Table,
    as_long,
    cells,
    contexts,
    filled,
    lengths_of,
    number,
    numbers,
    packed,
    values,
)

Made = Iterator[CodecCase]
MOST = 2**25  # bytes of a cell


def table_bounds(rng: Random) -> Made:
    """All that follows."""
    yield from _models()
    yield from _numbers()
    yield from _long_columns(rng)


def _models() -> Made:
    """Names, literals, columns and widths at their limits, and one beyond."""
    one = b"\0" + b"cell of forty bytes, which are the same."
    good = replace(filled(3, one), names=bytes(2**15), flags=1).case("most-names")
    yield good
    more = replace(filled(3, one), names=bytes(2**15 + 1), flags=1)
    yield replace(more.case("more-names"), size=good.size + 1)
    for size in (2**15, 2**15 + 1):
        literals = number(size - 2) + bytes(size - 2) + number(1) + b"," + number(1) + b";"
        table = replace(filled(3, one), head=(2, 44, 0), more=literals)
        case = table.case(f"literals-{size}")
        if size == 2**15:
            length = case.size
        yield replace(case, size=length + 3 * (size - 2**15))
    for count in (4096, 4097):
        case = Table(9, {c: one for c in range(count)}).case(f"columns-{count}")
        if count == 4096:
            length = case.size
        yield replace(case, size=length + 9 * len(one) * (count - 4096))
    odd = filled(3, one, head=(5, 44, 0), more=number(40) + number(len(FILL))).case("form-5")
    yield odd
    yield replace(odd, name="telling-columns-form-7", model=odd.model[:1] + b"\7" + odd.model[2:])
    nothing = b"\1" + b"\0" + number(0) + packed(b"")
    rest = zstandard.compress(b"no row at all..." * 25)
    said = number(1) + numbers([0]) + numbers([400])
    said += b"\1" + number(400) + number(len(rest)) + rest
    for form, widths in (
        *((4, (MOST, 1)), (4, (MOST + 1, 1)), (6, (MOST - 1, 1)), (6, (MOST, 1)), (6, (MOST, 0))),
        *((6, (MOST - 2**24, 2**24)), (6, (2**24, 2**24 + 1))),
    ):
        table = Table(0, {0: nothing, 1: nothing}, (form, 0, 0), pieces=said)
        table.more = b"".join(map(number, widths))
        yield replace(table.case(f"widths-{form}-{widths[0]}-{widths[1]}"), size=400)
    for size in (2**24, 2**24 + 1, 2**25):
        case = filled(3, b"\1\0" + number(2) + b"\n\2" + number(size) + b"\2\1\xff").case("inner")
        yield replace(case, name=f"telling-columns-inner-{size}", size=2**25)
    arrays = replace(filled(3, one), head=(8, 0, 0), more=b"\0\3\0\x14").case("long-arrays")
    for size in (2**26, 2**26 + 1):
        yield replace(arrays, name=f"{arrays.name}-{size}", size=size)


def _numbers() -> Made:
    """Numbers of nine bytes."""
    for width in (8, 9):
        planes = bytes([width]) + packed(bytes([0, 1] * 10) + bytes(20 * (width - 1)))
        record = b"\1" + values([3, 5]) + b"\2\0" + planes
        case = filled(20, record).case(f"numbers-of-{width}")
        if width == 8:
            length = case.size
        yield replace(case, size=length)


def _long_columns(rng: Random) -> Made:
    """So many rows that chances, weights and counts get where they stay."""
    symbols = b"\1" + cells([b"a", b"b"]) + b"\0" + packed(b"\1\1")
    for kind, rows, limit, guessing, count in (
        *((0, 1500, 1023, 0, 6), (1, 1500, 1023, 0, 6), (2, 1400, 1000, 0, 4)),
        *((3, 1300, 700, 0, 3), (4, 1500, 1023, 1, 5), (5, 800, 1023, 0, 16), (6, 1500, 9, 0, 2)),
    ):
        every = [((), i % 4) for i in range(count)]
        head = symbols + number(limit) + bytes([guessing]) + contexts([], every)
        some = (1, 4, 40) if kind < 5 else (2, 3)
        turns = (rng.choice((b"\0", b"\xff")) * rng.choice(some) for _ in range(3000))
        code = (bytes(2000), b"\xff" * 2000)[kind] if kind < 2 else b"".join(turns)[:2000]
        yield from _as_taken(f"long-{kind}", rows, head, code)
    # Values that are all different, so that places are shared
    for kind, rows in ((0, 1500), (1, 1000), (2, 127), (3, 128), (4, 255), (5, 256)):
        steps = b"\2" + values([1]) + b"\0"
        count = 2 + kind % 2
        letters = [b"%c" % (97 + i) for i in range(count)]
        head = b"\1" + cells(letters) + b"\0" + packed(lengths_of(count, rng))
        head += number(1023) + b"\0" + contexts([(0, 1), (1, 1, 1)], [((1,), 0), ((1,), 1)])
        yield from _as_taken(f"shared-{kind}", rows, head, rng.randbytes(2000), steps)


def _as_taken(name: str, rows: int, head: bytes, code: bytes, beside: bytes | None = None) -> Made:
    """A column of mixed symbols, whose code is cut behind what is taken."""
    columns = {0: head + code} if beside is None else {1: beside, 0: head + code}
    table = filled(rows, head + code) if beside is None else Table(rows, columns)
    with made(Arithmetic) as coders, suppress(Refused):
        codecs.parse_model(table.model()).decode(table.payload(), 1 << 20)
    if coders and coders[-1].at <= len(code):
        table.columns[0] = head + code[: coders[-1].at]
        case = table.case(name)
        yield as_long(replace(case, size=1 << 20))
