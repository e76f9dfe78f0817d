"""Tables written by hand for `make_telling.py`: columns by chance, fields at bounds."""

import itertools
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random

import xxhash
from codec_cases import CodecCase
from reference import codecs, table
from reference.arithmetic import Arithmetic
from reference.reading import Refused
from telling_chunks import made

Made = Iterator[CodecCase]
MASK = 0xFFFFFFFF
FILL = b"and so on, and so on"  # makes a table longer than what it is coded in
Context = tuple[Sequence[int], int]  # numbers of parents, flags


class Length(int):
    """Equal to any length, which it keeps."""

    found: int

    def __ne__(self, other: object) -> bool:
        assert isinstance(other, int)
        self.found = other
        return False

    __hash__ = int.__hash__


def number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def packed(data: bytes, way: int = 0) -> bytes:
    return bytes([way]) + number(len(data)) + data


def numbers(values: Sequence[int], width: int = 0) -> bytes:
    """Planes of numbers."""
    if not width:
        width = max(1, *(8 if v < 0 else -(-v.bit_length() // 8) for v in (*values, 0)))
    rows = [(v % 2**64).to_bytes(8, "little")[:width] for v in values]
    return bytes([width]) + packed(b"".join(bytes(row[k] for row in rows) for k in range(width)))


def texts(cells: Sequence[bytes], terminator: bytes = b"\n") -> bytes:
    return terminator + packed(b"".join(cell + terminator for cell in cells))


def values(
    found: Sequence[int], kind: int = 1, style: int = 0, others: Sequence[bytes] = ()
) -> bytes:
    """A dictionary of values that rise."""
    head = bytes([kind]) + number(len(found) + len(others)) + bytes([style]) + number(len(others))
    head += texts(others)
    if not found:
        return head
    gaps = [b - a for a, b in itertools.pairwise(found)]
    return head + bytes([found[0] < 0]) + number(abs(found[0])) + numbers(gaps)


def cells(found: Sequence[bytes]) -> bytes:
    """A dictionary of texts."""
    return b"\0" + number(len(found)) + texts(found)


def contexts(parents: Sequence[tuple[int, ...]], every: Sequence[Context]) -> bytes:
    out = number(len(parents)) + b"".join(
        bytes([one[0]]) + b"".join(map(number, one[1:])) for one in parents
    )
    out += number(len(every))
    for chosen, flags in every:
        out += bytes([len(chosen)]) + b"".join(map(number, chosen)) + bytes([flags])
    return out


def lengths_of(count: int, rng: Random) -> bytes:
    """Lengths of a complete code."""
    found = [0]
    while len(found) < count:
        at = rng.randrange(len(found)) if rng.random() < 0.7 else found.index(max(found))
        found[at] += 1
        found.append(found[at])
    rng.shuffle(found)
    return bytes(max(1, one) for one in found)


@dataclass
class Table:
    """A table on its way into a chunk; `head`: form, separator, quote."""

    rows: int
    columns: dict[int, bytes] = field(default_factory=dict)  # records in their order
    head: tuple[int, int, int] = (0, 44, 0)
    names: bytes = b""
    flags: int = 0
    more: bytes = b""  # of the model
    pieces: bytes = b"\0"

    def model(self, count: int = 0) -> bytes:
        head = bytes([13, *self.head]) + number(count or len(self.columns))
        return head + number(len(self.names)) + self.names + self.more

    def payload(self) -> bytes:
        out = bytes([self.flags]) + number(self.rows) + self.pieces
        for column, record in self.columns.items():
            check = xxhash.xxh3_64_intdigest(record) & MASK
            out += number(column) + number(len(record)) + struct.pack("<I", check)
        return out + b"".join(self.columns.values())

    def case(self, name: str, size: int = 400) -> CodecCase:
        """As long as its text, where it has one; else of this size."""
        name = f"telling-columns-{name}"
        return as_long(CodecCase(name, self.model(), self.payload(), 1 << 14), size)


def as_long(case: CodecCase, size: int = 400) -> CodecCase:
    """A case whose length is that of its text; of this size where it has none."""
    length = Length(case.size)
    with suppress(Refused):
        model = codecs.parse_model(case.model)
        assert isinstance(model, table.Model)
        chunk = table.Chunk(model, table.Fields(case.payload, model.parse), case.size)
        chunk.original = length
        chunk.text()
        return replace(case, size=length.found)
    return replace(case, size=max(len(case.payload), size))


def filled(rows: int, record: bytes, **fields: object) -> Table:
    """A table of one column beside one that fills it."""
    return Table(rows, {1: b"\0" + FILL, 0: record}, **fields)  # type: ignore[arg-type]


def columns(rng: Random) -> Made:
    """All that follows."""
    yield from of_numbers(rng)
    yield from of_symbols(rng)
    yield from any_columns(rng)
    yield from of_models(rng)
    yield from of_chunks(rng)
    yield from of_latents(rng)


def of_numbers(rng: Random) -> Made:
    """Dictionaries of values: styles, times, gaps, quotes, at their bounds."""
    plain = [-1234567, -100, -7, 0, 5, 10, 1200, 99999]
    most = 10**18
    lists = {"plain": plain, "most": [1 - most, most - 1], "beyond": [0, most], "one": [5]}
    lists |= {"under": [-most, 0], "negative": [-20, -10], "far": [1 - most, 0, most - 1]}
    lists |= {"wide gap": [-most + 1, most + 1], "none": []}
    for name, found in lists.items():
        for style in (0, 1, 2, 18, 19, 31, 32, 34, 50, 64, 98, 128, 130, 255):
            for others in ((), (b"NA", b"")):
                count = len(found) + len(others)
                if not count or (name != "plain" and style not in (0, 2, 18, 34)):
                    continue
                symbols = b"" if count < 2 else _direct([i % count for i in range(20)])
                record = b"\1" + values(found, 1, style, others) + symbols
                head = (0, 44, 34)
                name_ = f"numbers-{name}-{style}-{len(others)}"
                yield filled(20, record, head=head).case(name_)
                if name == "plain":
                    for width in (7, 8, 9):
                        more = bytes([width, len(FILL)])
                        wide = filled(20, record, head=(4, 44, 34), more=more)
                        size = 20 * (width + len(FILL) + 1)
                        yield wide.case(f"{name_}-wide-{width}", size)
    for style in (0, 128):  # digits under columns without a width
        record = b"\1" + values([1, 2, 3], 1, style) + _direct([i % 3 for i in range(20)])
        yield filled(20, record).case(f"digits-{style}", 20 * (len(FILL) + 3))
    days = [-719162, -719163, -1, 0, 1, 19000, 2932896, 2932897]
    seconds = [-62135596800, -62135596801, -1, 0, 59, 86399, 86400, 253402300799, 253402300800]
    for kind, edges in ((2, days), (3, seconds), (4, seconds), (5, seconds)):
        for style in (0, 1, 64, 65, 32):
            inner = [edge for edge in edges[2:-1]]
            record = (
                b"\1" + values(inner, kind, style) + _direct([i % len(inner) for i in range(20)])
            )
            yield filled(20, record, head=(0, 44, 39)).case(f"times-{kind}-{style}")
        for edge in edges:
            record = b"\1" + values([edge], kind)
            yield filled(20, record).case(f"times-{kind}-at-{edge}")
    record = b"\1" + values([-3, 5, 6]) + _direct([0, 1, 2, 2, 1] * 4)
    for place in range(len(record)):
        for value in {0, 1, 2, 255, record[place] ^ 1, (record[place] + 1) % 256} - {record[place]}:
            changed = record[:place] + bytes([value]) + record[place + 1 :]
            yield filled(20, changed).case(f"record-{place}-{value}")
    for count in (0, 1, 2, 5):  # steps
        for style in (0, 32, 64):
            found = [-4, -1, 0, 3, 50][: max(count, 1)]
            symbols = b"" if len(found) < 2 else _direct([i % len(found) for i in range(20)])
            record = b"\2" + values(found, 1, 0, (b"x",) if count == 0 else ()) + bytes([style])
            yield filled(20, record + symbols).case(f"steps-{count}-{style}")
    for step in (2**57, 2**58, 10**17 - 1, 5 * 10**16):
        record = b"\2" + values([step]) + b"\0"
        yield filled(20, record).case(f"steps-of-{step}")
        yield filled(2, record).case(f"steps-of-{step}-few")
    record = b"\2" + cells([b"a", b"b"]) + b"\0" + _direct([0, 1] * 10)
    yield filled(20, record).case("steps-of-texts")
    for way in range(3):
        inner = packed(FILL, way)
        record = b"\3\n" + inner
        yield filled(20, record).case(f"packed-{way}")
    for count in (19, 20, 21):
        found = [b"%d" % i for i in range(count)]
        yield filled(20, b"\3" + texts(found)).case(f"texts-{count}")
    yield filled(20, b"\3" + texts([b"a"] * 20) + b"\0").case("texts-behind")
    yield filled(20, b"\3\n" + packed(b"a\n" * 20 + b"b")).case("texts-open")
    yield filled(20, b"\4").case("kind-4")


def _direct(symbols: Sequence[int], differences: int = 0) -> bytes:
    """Symbols as they are, of way 2."""
    return bytes([2, differences]) + numbers(symbols)


def of_symbols(rng: Random) -> Made:
    """Ways 1 to 3, and faults of theirs."""
    for count in (2, 3, 5):
        head = b"\1" + cells([b"%c" % (97 + i) for i in range(count)])
        for symbol in (count - 1, count, count + 1):
            for differences in (0, 1, 2):
                symbols = [0] * 19 + [symbol]
                record = head + _direct(symbols, differences)
                yield filled(20, record).case(f"direct-{count}-{symbol}-{differences}")
        for number_ in range(5):
            lengths = lengths_of(count, rng)
            used = 8 * rng.choice((3, 4, 5)) if number_ else 0
            bits = rng.getrandbits(used) if used else 0
            record = head + b"\1" + bytes([number_ % 2]) + packed(lengths)
            record += bits.to_bytes(used // 8, "big")
            yield filled(20, record).case(f"codes-{count}-{number_}")
        for lengths in (bytes([1] * count), bytes([0] * count), bytes([30] * count), b"\1\2\2"):
            record = head + b"\1\0" + packed(lengths) + bytes(3)
            yield filled(20, record).case(f"lengths-{count}-{lengths.hex()}")
        record = head + b"\4" + bytes(20)
        yield filled(20, record).case(f"way-4-{count}")
    for length in (30, 31):
        lengths = bytes([*range(1, length + 1), length])
        head = b"\1" + cells([b"%d" % i for i in range(len(lengths))])
        record = head + b"\1\0" + packed(lengths) + b"\xff" * 8 + b"\0\xf0"
        yield filled(6, record).case(f"long-codes-{length}")
    for size in range(1, 12):  # bytes of codes, of which 20 bits are used
        record = b"\1" + cells([b"a", b"b"]) + b"\1\0" + packed(b"\1\1") + b"\x5a" * size
        yield filled(20, record).case(f"bytes-of-codes-{size}")
    yield from _functions(rng)


def _functions(rng: Random) -> Made:
    """Symbols that follow from others."""
    other = b"\1" + cells([b"x", b"y", b"zz"]) + _direct([i % 3 for i in range(24)])
    clocks = (
        b"\1" + values([0, 59, 100, 1200, 2359, 2400]) + _direct([i * 5 % 6 for i in range(24)])
    )
    text = b"\3" + texts([b"q%d" % i for i in range(24)])
    head = b"\1" + cells([b"no", b"yes", b"perhaps"]) + b"\3"
    every = (
        ((), 1), ((0,), 0), ((0,), 2), ((0,), 3), ((0,), 4), ((0, 1), 0), ((1,), 0), ((2,), 0),
        ((0, 1, 2), 1), ((0, 1, 2, 2), 1), ((3,), 0),
    )  # fmt: skip
    parents = [(0, 1), (1, 2, 2), (4, 2, 2)]
    for number_, one in enumerate(every):
        for gaps in ([0, 1, 2], [0] * 24, [0, 22], [0, 23], [24], []):
            symbols = [i % 3 for i in range(len(gaps))]
            record = head + contexts(parents, [one]) + number(len(gaps))
            record += numbers(gaps) + numbers(symbols)
            found = Table(24, {1: other, 2: clocks, 3: text, 4: b"\0" + FILL, 0: record})
            yield found.case(f"function-{number_}-{len(gaps)}-{sum(gaps)}")
    faults = {
        "text": [(0, 3)], "operation": [(5, 2, 2)], "cells": [(1, 1, 2)], "self": [(0, 0)],
        "column": [(0, 5)], "minus": [(2, 2, 2)], "mod": [(3, 2, 2)],
    }  # fmt: skip
    for name, parents in faults.items():
        record = (
            head + contexts(parents, [((0,), 0)]) + number(2) + numbers([0, 1]) + numbers([1, 2])
        )
        found = Table(24, {1: other, 2: clocks, 3: text, 4: b"\0" + FILL, 0: record})
        yield found.case(f"parents-{name}")
    for symbol in (2, 3, 4):
        record = head + contexts([], [((), 0)]) + number(2) + numbers([0, 1]) + numbers([1, symbol])
        yield filled(24, record).case(f"exceptions-{symbol}")
    record = head + contexts([], [((), 0)] * 2) + number(2) + numbers([0, 1]) + numbers([1, 2])
    yield filled(24, record).case("two-contexts")
    for count in (48, 49):
        record = head + contexts([(0, 1)] * count, [((0,), 0)])
        record += number(24) + numbers([0] * 24) + numbers([1] * 24)
        found = Table(24, {1: other, 2: b"\0" + FILL * 3, 0: record})
        yield found.case(f"{count}-parents")


def any_columns(rng: Random) -> Made:
    """Mixed symbols under contexts by chance; the stream is cut behind what was taken."""
    for number_ in range(70):
        rows = rng.choice((3, 30, 60, 110, 127, 130, 260)) if number_ % 7 else 1500
        count = rng.choice((2, 2, 3, 6, 20)) if rows < 1000 else 2
        first = rng.sample(range(-50, 2400), 5)
        numbered = b"\1" + values(sorted(first))
        numbered += _direct([rng.randrange(5) for _ in range(min(rows, 60))] * (rows // 60 + 1))
        if rows > 60:
            numbered = b"\2" + values([3]) + b"\0"
        if rows <= 60:
            numbered = (
                b"\1" + values(sorted(first)) + _direct([rng.randrange(5) for _ in range(rows)])
            )
        parents = [(0, 1), *((rng.randrange(1, 5), 1, 1) for _ in range(rng.choice((0, 2))))]
        if rows <= 60:
            numbered = b"\1" + values([-1, 0, 59, 100, 2359], 1, 0, (b"NA", b"?"))
            numbered += _direct([rng.randrange(7) for _ in range(rows)])
        every = [
            (
                tuple(rng.randrange(len(parents)) for _ in range(rng.choice((0, 1, 3)))),
                rng.randrange(4),
            )
            for _ in range(rng.choice((1, 2, 3, 5, 16)) if rows < 1000 else 2)
        ]
        limit, guessing = rng.choice((1, 2, 30, 250, 1023)), rng.randrange(2)
        if number_ % 7 == 0:  # as many contexts as rows, so that some share a place
            parents, limit, guessing = [(0, 1), (1, 1, 1)], 1023, number_ % 2
            every = [((1,), 0), ((0,), 3)][number_ % 4 // 2 :]
        head = b"\1" + cells([b"c%d" % i for i in range(count)])
        head += b"\0" + packed(lengths_of(count, rng)) + number(limit) + bytes([guessing])
        head += contexts(parents, every)
        for kind, code in enumerate(codes(rng, 3000)):
            found = Table(rows, {1: numbered, 2: b"\0" + FILL, 0: head + code})
            with made(Arithmetic) as coders, suppress(Refused):
                codecs.parse_model(found.model()).decode(found.payload(), 1 << 14)
            if coders and coders[-1].at <= len(code):
                found.columns[0] = head + code[: coders[-1].at]
                yield found.case(f"mixed-{number_}-{kind}")
    for limit in (0, 1, 1022, 1023, 1024):
        for guessing in (1, 2):
            for count in (1, 16, 17):
                head = b"\1" + cells([b"a", b"b"]) + b"\0" + packed(b"\1\1") + number(limit)
                head += bytes([guessing]) + contexts([], [((), i % 4) for i in range(count)])
                yield filled(20, head + b"\x35\x55").case(f"settings-{limit}-{guessing}-{count}")
    head = b"\1" + cells([b"a", b"b"]) + b"\0" + packed(b"\1\1") + number(9) + b"\0"
    yield filled(20, head + contexts([], []) + b"\x35\x55").case("no-contexts")


def codes(rng: Random, size: int) -> Iterator[bytes]:
    yield rng.randbytes(size)
    yield bytes(rng.choices((0, 0, 0, 1, 3, 255), k=size))
    yield bytes(rng.choices((255, 255, 254, 252, 0), k=size))


def of_models(rng: Random) -> Made:
    """Fields of MODEL frames."""
    plain = filled(12, b"\0one")
    for form in range(10):
        literals = number(1) + b"<" + number(2) + b"><" + number(1) + b">"
        arrays = b"\0\3\0\x14"
        for name, more in (
            ("", b""),
            ("literals", literals),
            ("widths", b"\3\x14"),
            ("arrays", arrays),
        ):
            for quote, names in ((0, b""), (34, b""), (0, b"id,x\n")):
                found = replace(plain, head=(form, 44, quote), more=more, names=names)
                found.flags = int(bool(names))
                size = 12 * (len(FILL) + 3 + (form & 1 or name == "literals")) + len(names)
                size += 12 * (name == "literals")
                yield found.case(f"form-{form}-{name}-{quote}-{len(names)}", size)
                size -= 12
                yield found.case(f"form-{form}-{name}-{quote}-{len(names)}-less", size)
                if form == 8:
                    for array in (
                        b"\1\0\x14",
                        b"\4\0\x14",
                        b"\x08\0\x14",
                        b"\2\0\x14",
                        b"\0\0\0\x14",
                    ):
                        yield replace(found, more=array).case(
                            f"array-{array.hex()}-{quote}-{names!r}"
                        )
    nothing = b"\1" + b"\0" + number(0) + packed(b"")
    said = number(1) + numbers([0]) + numbers([400]) + packed(b"no row at all..." * 25)
    for width in (2**23, 2**24, 2**25 - 1, 2**25, 2**25 + 1):  # and one more
        more = number(width - 1) + number(1)
        found = Table(0, {0: nothing, 1: nothing}, (6, 0, 0), more=more, pieces=said)
        yield found.case(f"widths-{width}")
    arrays = replace(plain, head=(8, 0, 0), more=b"\0\3\0\x14").case("large-arrays")
    yield replace(arrays, size=2**25 + 1)
    none = filled(20, b"\1" + cells([b"a", b"b"]) + b"\2\0\0" + packed(b""))
    yield none.case("no-width", 20 * (len(FILL) + 3))
    for count in (0, 1, 3, 4096, 4097):
        case = plain.case(f"columns-{count}")
        yield replace(case, model=bytes([13, 0, 44, 0]) + number(count) + b"\0")
    for size in (2**15, 2**15 + 1):
        case = replace(plain, names=bytes(size), flags=1).case(f"names-{size}")
        yield case
        literals = number(size) + bytes(size) + b"\0\0"
        yield replace(plain, head=(2, 44, 0), more=literals).case(f"literals-{size}")
    for width in (2**25 - 20, 2**25 - 19, 2**25, 2**25 + 1):
        for form in (4, 6):
            found = replace(plain, head=(form, 44, 0), more=number(width) + b"\x14")
            yield found.case(f"width-{form}-{width}")
    for size in (2**25, 2**25 + 1):
        yield replace(plain.case(f"text-{size}"), size=size)
    case = plain.case("no-model")
    for length in range(1, len(case.model)):
        yield replace(case, name=f"{case.name}-{length}", model=case.model[:length])
    yield replace(case, name=f"{case.name}-behind", model=case.model + b"\0")


def of_chunks(rng: Random) -> Made:
    """Fields of CHUNK frames: rows, pieces between them, columns."""
    record = b"\0one"
    for flags in range(5):
        yield replace(filled(12, record), flags=flags, names=b"id\n").case(f"flags-{flags}")
    for name, gaps, lengths in (
        ("some", [0, 3, 9], [4, 0, 2]),
        ("last", [12], [6]),
        ("beyond", [13], [6]),
        ("sum", [6, 7], [3, 3]),
        ("negative", [-1, 3], [3, 3]),
        ("less", [1], [5]),
        ("negative length", [0, 1], [-1, 7]),
        ("more", [1], [7]),
        ("all", [6, 6], [3, 3]),
    ):
        pieces = number(len(gaps)) + numbers(gaps) + numbers(lengths) + packed(b"# said")
        yield replace(filled(12, record), pieces=pieces).case(f"pieces-{name}")
    for rows in (0, 1, 11, 13):
        found = replace(filled(12, b"\3" + texts([b"z"] * 12)), rows=rows)
        yield found.case(f"rows-{rows}")
    for rows in (0, 1, 60):
        yield filled(rows, b"\0").case(f"constant-{rows}")
        yield filled(rows, b"\1" + cells([])).case(f"no-cells-{rows}")
        yield filled(rows, b"\1" + cells([b"a"])).case(f"one-cell-{rows}")
        yield filled(rows, b"\1" + cells([b"a"]) + b"\0").case(f"one-cell-behind-{rows}")
    for first, second in ((0, 0), (0, 2), (1, 1), (0, 3)):
        found = Table(12, {second: record, first: b"\0" + FILL})
        case = found.case(f"numbers-{first}-{second}")
        yield replace(case, model=Table(12, {0: b"", 1: b""}).model())
    case = filled(12, record).case("sizes")
    for place in range(len(case.payload)):
        for value in {0, 1, 2, 127, 128, 255, (case.payload[place] + 1) % 256}:
            payload = case.payload[:place] + bytes([value]) + case.payload[place + 1 :]
            yield replace(case, name=f"{case.name}-{place}-{value}", payload=payload)
    for size in (-1, 1):
        yield replace(case, name=f"{case.name}-off-{size}", size=case.size + size)
    wide = b"\0" + bytes(300)
    for size in (301, 300, 299):
        yield replace(Table(1, {0: wide}).case(f"cell-{size}"), size=size)
    for length in (2, 5, 9, 10, 11):  # bytes of a number
        payload = b"\0\x8c" + b"\x80" * (length - 2) + b"\0" + case.payload[2:]
        yield replace(case, name=f"{case.name}-long-{length}", payload=payload)
    bits = b"\1" + cells([b"\0", b"\1"]) + _direct([1, 0, 1] * 4)
    for form in (0, 1, 2):
        more = bytes([1, 0]) + number(len(FILL))
        found = replace(filled(12, bits), head=(8, 0, 0), more=more, pieces=_buffers(12, form))
        yield found.case(f"bits-{form}")
    for value in (1, 2):
        odd = b"\1" + cells([b"\0", bytes([value])]) + _direct([1, 0, 1] * 4)
        more = bytes([1, 0]) + number(len(FILL))
        found = replace(filled(12, odd), head=(8, 0, 0), more=more, pieces=_buffers(12, 0))
        yield found.case(f"odd-bits-{value}")


def _buffers(rows: int, form: int) -> bytes:
    """Batches, gaps and lengths of two columns without texts."""
    if form == 0:
        return number(1) + numbers([rows]) + numbers([0, 2, 1]) + numbers([]) + packed(b"abc")
    if form == 1:
        lists = numbers([5, rows - 5]) + numbers([0, 0, 1, 0, 2]) + numbers([])
        return number(2) + lists + packed(b"abc")
    return number(0) + numbers([]) + numbers([3]) + numbers([]) + packed(b"abc")


def of_latents(rng: Random) -> Made:
    """Columns under latents."""
    for number_ in range(24):
        rows, under = rng.choice((12, 40, 80)), rng.choice((1, 2, 4))
        kinds = rng.choice(((2,), (2, 3), (5, 1, 2)))
        counts = [rng.choice((1, 1, 2)) for _ in kinds]
        above = rng.choice((1, 2, 3, 7))
        record = number(len(kinds))
        for kind, count in zip(kinds, counts, strict=True):
            record += number(count)
            found = [b"%c" % (97 + i) * (i + 1) for i in range(kind)]
            record += cells(found) if rng.random() < 0.5 else values(list(range(kind)))
        record += number(above)
        for kind_of_code, code in enumerate(codes(rng, 900)):
            name = f"latents-{number_}-{kind_of_code}"
            yield from under(name, rows, under, record, code)
    one, two = cells([b"a"]), cells([b"a", b"b"])
    for code in (bytes(60), b"\xff" * 60):  # until their chances are at the bounds
        record = number(1) + number(1) + two + number(1)
        yield from under(f"latents-long-{code[0]}", 5000, 1, record, code)
    for name, classes, above in (
        ("none", [], 1),
        ("nothing above", [(1, one)], 0),
        ("empty", [(1, cells([]))], 1),
        ("count", [(0, one)], 1),
        ("255", [(255, one)], 1),
        ("256", [(255, one), (1, one)], 1),
        ("255 above", [(1, two)], 255),
    ):
        record = number(len(classes)) + b"".join(number(n) + found for n, found in classes)
        record += number(above)
        yield from under(f"latents-{name}", 30, 2, record, bytes(60))


def under(name: str, rows: int, under: int, record: bytes, code: bytes) -> Made:
    def case_of(code: bytes) -> CodecCase:
        whole = record + code
        fill = b"\0" + FILL
        out = b"\2" + number(rows) + b"\0" + number(len(whole))
        out += struct.pack("<I", xxhash.xxh3_64_intdigest(whole) & MASK) + number(1)
        check = xxhash.xxh3_64_intdigest(fill) & MASK
        out += number(under) + number(len(fill)) + struct.pack("<I", check) + whole + fill
        model = bytes([13, 0, 44, 0]) + number(under + 1) + b"\0"
        return CodecCase(f"telling-columns-{name}", model, out, 1 << 14)

    case = case_of(code)
    with made(Arithmetic) as coders, suppress(Refused):
        codecs.parse_model(case.model).decode(case.payload, case.size)
    if coders and coders[-1].at <= len(code):
        case = case_of(code[: coders[-1].at])
        yield as_long(case)
        yield as_long(replace(case_of(code[: coders[-1].at + 1]), name=case.name + "-behind"))
    else:
        yield as_long(case)
