"""Tables at bounds, for `make_telling.py`: long names, wide columns, many rows.

What is refused is as long as what it would decode to, so that nothing else is wrong with it.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from random import Random
from unittest import mock

import xxhash
import zstandard
from chosen_bits import Choose, Chosen
from codec_cases import CodecCase
from reference import codecs
from reference import table as reference_table
from reference.reading import Refused
from telling_columns import (
    FILL,
    MASK,
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
        case = Table(24, {c: one for c in range(count)}).case(f"columns-{count}")
        case = as_long(replace(case, size=1 << 23))
        if count == 4096:
            length = case.size
        yield replace(case, size=length + 24 * len(one) * (count - 4096))
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
    number_ = 0
    for rare in (0.0, 0.01, 0.1, 0.5, 1.0):
        for rows, limit, guessing, count in (
            (1500, 1023, 0, 6),
            (900, 1023, 1, 16),
            (1300, 9, 0, 2),
        ):
            number_ += 1
            every = [((), i % 4) for i in range(count)]
            head = symbols + number(limit) + bytes([guessing]) + contexts([], every)
            yield from _chosen(f"long-{number_}", filled(rows, head), _mostly(rare, rng))
    # Values that are all different, so that places are shared
    for kind, rows in enumerate((1500, 1000, 127, 128, 255, 256)):
        letters = [b"%c" % (97 + i) for i in range(2 + kind % 2)]
        head = b"\1" + cells(letters) + b"\0" + packed(lengths_of(len(letters), rng))
        head += number(1023) + b"\0" + contexts([(0, 1), (1, 1, 1)], [((1,), 0), ((1,), 1)])
        table = Table(rows, {1: b"\2" + values([1]) + b"\0", 0: head})
        yield from _chosen(f"shared-{kind}", table, _mostly(0.3, rng))
    # Latents whose symbols are nearly always the same
    two = cells([b"a", b"b"])
    for first in (0, 1):
        turns = iter([first] * 3000 + [1 - first] * 3 + [first] * 3000 + [1 - first, first] * 3000)
        record = number(1) + number(1) + two + number(2)
        table = Table(3200, {0: record, 1: b"\0" + FILL}, flags=2)
        yield from _chosen(f"latents-{first}", table, _in_turn(turns))


def _in_turn(bits: Iterator[int]) -> Choose:
    return lambda p: next(bits)


def _mostly(rare: float, rng: Random) -> Choose:
    """The likelier bit but for a share; all as the model says for a share of 1."""

    def choose(p: int) -> int:
        if rare == 1:
            return int(rng.random() * 65536 < p)
        return int((p >= 32768) != (rng.random() < rare))

    return choose


def _chosen(name: str, table: Table, choose: Choose) -> Made:
    """A table whose column 0 is followed by the code of bits that are chosen."""
    coder = Chosen(choose)
    with mock.patch.object(reference_table, "Arithmetic", lambda data: coder), suppress(Refused):
        codecs.parse_model(table.model()).decode(_payload(table), 1 << 20)
    table.columns[0] += coder.finish()
    case = CodecCase(f"telling-columns-{name}", table.model(), _payload(table), 1 << 20)
    yield as_long(case)


def _payload(table: Table) -> bytes:
    """As `Table` gives it; of flag 2, with column 0 as the record of the latents of all others."""
    if not table.flags & 2:
        return table.payload()
    listed = replace(table, columns={n: one for n, one in table.columns.items() if n})
    latents = table.columns[0]
    check = xxhash.xxh3_64_intdigest(latents) & MASK
    head = bytes([2]) + number(table.rows) + table.pieces
    head += number(len(latents)) + struct.pack("<I", check) + number(len(listed.columns))
    rest = listed.payload()[len(bytes([2]) + number(table.rows) + table.pieces) :]
    cut = len(rest) - sum(map(len, listed.columns.values()))
    return head + rest[:cut] + latents + rest[cut:]
