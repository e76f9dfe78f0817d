"""Pages written by hand for `make_telling.py`: compression at its bounds, runs, fields of recipes.

What each page is made of is said in classes of the reference; the chunk around it is written here.
"""

import copy
import itertools
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random

import zstandard
from codec_cases import CodecCase
from reference import pages
from reference.pages import Column, Page
from telling_columns import number, numbers

Made = Iterator[CodecCase]
Values = Sequence[bytes | None]
FILL = bytes(500)  # behind the last page: makes a chunk longer than what it is coded in
GZIP = b"\x80\6\0\x0f\x08\0\3"


def packed(data: bytes) -> bytes:
    """Packed bytes, by Zstandard if they are many."""
    stored = zstandard.compress(data, 19)
    if len(stored) + 3 >= len(data):
        return b"\0" + number(len(data)) + data
    return b"\1" + number(len(data)) + number(len(stored)) + stored


@dataclass
class Chunk:
    """Columns with all their values; `cuts`: rows of tables, all in one if there are none."""

    columns: list[tuple[Column, Values]]
    rest: bytes = FILL
    form: int = 2
    cuts: tuple[int, ...] = ()
    rows: int | None = None  # as they are said, if otherwise than they are
    more: tuple[int, ...] = ()  # numbers behind all lists
    size: int = 0  # of a chunk that is refused

    def recipes(self) -> bytes:
        """Recipes of columns (2)."""
        out, lists = number(len(self.columns)), list[int]()

        def listed(found: list[int] | None) -> bytes:
            lists.extend(found or [])
            return b"" if found is None else number(len(found))

        for column, _ in self.columns:
            flags = column.optional | 2 * column.missing | 4 * (column.order is not None)
            out += number(column.before) + number(column.width + 1) + bytes([flags])
            out += listed(column.order) + number(len(column.pages))
            for page in column.pages:
                form = page.kind & 3 | (page.kind & 4) << 3 | 4 * page.outside
                form |= 8 * (page.levels is not None) | 16 * (page.indices is not None)
                out += bytes([form]) + number(page.header) + number(page.values)
                out += bytes([page.bits]) + b"".join(map(number, page.blocks)) * (
                    page.kind in DELTA
                )
                out += page.way + listed(page.levels) + listed(page.indices)
        lists += self.more
        return packed(out) + number(len(lists)) + numbers(lists)

    def case(self, name: str) -> CodecCase:
        """As long as its pages are."""
        rows = max((len(values) for _, values in self.columns), default=1)
        said = number(rows if self.rows is None else self.rows) + self.recipes() + packed(self.rest)
        parts = self.cuts or (rows,)
        said += number(len(parts))
        at = 0
        for count in parts:
            content = b"".join(content_of(*one, at, at + count) for one in self.columns)
            said += b"\0" + number(count) + number(len(content)) + packed(content)
            at += count
        size = self.size or max(len(said), len(self.rest))
        with suppress(Exception):
            size = len(self.rest)
            for column, values in self.columns:
                made = copy.copy(column)
                made.values = list(values)
                size += sum(len(body) for _, body in made.bodies())
        model = bytes([17, self.form])
        return CodecCase(f"telling-pages-{name}", model, said, max(size, len(said)))


DELTA = (pages.DELTAS, pages.LENGTHS, pages.SHARED)


def content_of(column: Column, values: Values, begin: int, end: int) -> bytes:
    """Values of some rows as a table has them (1)."""
    some = values[begin:end]
    there = [value is not None for value in some]
    known = [bytes(max(column.width, 0)) if value is None else value for value in some]
    out = bits_of(there) if column.missing else b""
    if column.width == pages.BITS:
        return out + bits_of([bool(value and value[0]) for value in known])
    if column.width == pages.TEXTS:
        ends = itertools.accumulate(map(len, known), initial=0)
        out += b"".join(struct.pack("<i", end) for end in ends)
    return out + b"".join(known)


def bits_of(found: Sequence[bool]) -> bytes:
    word = sum(bit << i for i, bit in enumerate(found))
    return word.to_bytes((len(found) + 7) // 8, "little")


def page(kind: int, values: int, way: bytes = b"\0", bits: int = 0, **more: object) -> Page:
    """A page without a header, unless that is among `more`."""
    others: dict[str, object] = {"header": 0, "outside": False, "levels": None, "indices": None}
    others["blocks"] = 0, 0
    return Page(kind=kind, values=values, bits=bits, way=way, **others | more)  # type: ignore[arg-type]


def column(width: int, made: list[Page], **more: object) -> Column:
    others: dict[str, object] = {"before": 0, "optional": False, "missing": False, "order": None}
    return Column(width=width, pages=made, **others | more)  # type: ignore[arg-type]


def plain(data: bytes, way: bytes, **more: object) -> Chunk:
    """A page of these bytes."""
    one = column(1, [page(pages.PLAIN, len(data), way)])
    return Chunk([(one, [data[i : i + 1] for i in range(len(data))])], **more)  # type: ignore[arg-type]


def columns_of_pages(rng: Random) -> Made:
    """All that follows."""
    yield from compressed(rng)
    yield from of_gzip(rng)
    yield from of_runs(rng)
    yield from of_differences(rng)
    yield from of_fields(rng)
    yield from of_many()


# Compression


def repeats(rng: Random, size: int) -> bytes:
    """Bytes with matches and literals of lengths at the bounds between ways to write them."""
    lengths = (3, 4, 5, 11, 12, 13, 18, 19, 20, 59, 60, 61, *range(63, 70), 75, 131, 132)
    fresh = (1, 2, 3, 14, 15, 16, 17, 29, 30, 31, 59, 60, 61, 62)
    out = bytearray(rng.randbytes(rng.choice(fresh)))
    while len(out) < size:
        length = rng.choice(lengths)
        begin = rng.randrange(max(1, len(out) - 4))
        out += (out[begin : begin + length] * (length // 4 + 1))[:length]
        out += rng.randbytes(rng.choice(fresh)) if rng.random() < 0.6 else bytes([out[-1] ^ 1])
    return bytes(out[:size])


def phrases(rng: Random, count: int) -> bytes:
    """Phrases that come again in another order."""
    found = [bytes(rng.choices(b"0123456789abcdef", k=7)) for _ in range(count)]
    return b"".join(found + rng.sample(found, count) + rng.sample(found, count))


def some_bytes(rng: Random) -> Iterator[tuple[str, bytes]]:
    """What is compressed."""
    for size in range(11, 20):
        yield f"zeros-{size}", bytes(size)
        yield f"mixed-{size}", (bytes(rng.choices(b"ab", k=4)) * 5)[:size]
    for size in (40, 80, 130, 255, 256, 257, 258, 300, 511, 512, 513, 700):
        yield f"repeats-{size}", repeats(rng, size)
        yield f"few-{size}", bytes(rng.choices(b"abc", k=size))
    for length in (59, 60, 61, 255, 256, 257, 269, 270, 271, 524, 525, 526):
        fresh = bytes(i * 7 & 255 for i in range(length))
        yield f"literals-{length}", fresh + bytes(60) + b"behind what repeats"
    for length in (*range(15, 22), 64, 65, 67, 68, 69, 131, 132, 133, 273, 274, 275, 528, 529, 530):
        yield f"match-{length}", b"abcdefgh" + b"x" * length + b"0123456789abcdef"
    for begin in range(5):  # matches that go back to the first byte
        phrase = b"a phrase that comes again"
        yield f"back-{begin}", bytes(range(begin)) + phrase + b"\xff" * 70 + bytes(1) + phrase * 2
    for length in (*range(50, 64), *range(240, 262)):
        yield f"literal-{length}", bytes(i * 7 & 255 for i in range(length)) + b"\1" * 40
    for length in (60, *range(63, 69), 70, 100, 128, 129, 130, 140, *range(191, 195), 200):
        fresh = bytes(i * 7 & 255 for i in range(length))
        yield f"misses-{length}", fresh + b"abcde" * 4 + fresh[::-1] + b"abcde" * 4
        yield f"few-{length}", bytes(rng.choices(b"abc", k=length))
    for turn in range(4):  # places that are taken by others
        yield f"phrases-{turn}", phrases(rng, 150)
    for between in (2030, 2040, 2045, 2046, 2047, 2048, 2049, 2050):
        yield f"far-{between}", b"ABCDEFG" + bytes(between - 7) + b"ABCDEFG" + b"and some more...."


def compressed(rng: Random) -> Made:
    """Snappy and LZ4."""
    ways = (8, 9, 14, 15, 40, 41, 46, 47, 64)
    for name, data in some_bytes(rng):
        for way in (47, 64, rng.choice(ways)):
            yield plain(data, bytes([way])).case(f"block-{way}-{name}")
    for way in ways:
        for turn in range(3):
            data = repeats(rng, 400)
            yield plain(data, bytes([way])).case(f"block-{way}-turn-{turn}")
    for way in (7, 8, 15, 16, 39, 40, 47, 48, 63, 64, 65, 96, 127, 129, 255):
        for form in (0, 1, 2):
            yield plain(bytes(40), bytes([way]), form=form).case(f"way-{way}-{form}")
    phrase = rng.randbytes(24)
    for back in (65534, 65535, 65536, 65537):
        data = b"." + phrase + b"abcd" * ((back - 24) // 4) + bytes((back - 24) % 4) + phrase
        for way in (15, 47, 64):
            yield plain(data + b"and what is behind", bytes([way])).case(f"long-{way}-{back}")
            yield plain(data + bytes(900), bytes([way])).case(f"longer-{way}-{back}")
    for size in (65545, 65546, 65547, 65548, 66000):
        data = phrases(rng, 150)
        yield plain(data + bytes(size - len(data)), b"\x40").case(f"phrases-of-{size}")
    for size in (65535, 65536, 65537, 65546, 65547, 65548):
        data = (phrase + b"this is not all the same" + bytes(range(40))) * 800
        for way in (15, 64):
            yield plain(data[:size], bytes([way])).case(f"size-{way}-{size}")
    data = b"".join(bytes(rng.choices(b"abcdefgh", k=6)) * 3 for _ in range(30)) + bytes(65000)
    yield plain(data + data[:500] + bytes(rng.choices(b"xyz", k=200)), b"\x40").case(
        "long-64-mixed"
    )


def of_gzip(rng: Random) -> Made:
    """Settings of zlib at their bounds."""
    data = repeats(rng, 150)
    for place, values in (
        (1, (0, 1, 2, 9, 10, 255)),
        (2, (1, 2, 3, 4, 5)),
        (3, (8, 9, 10, 15, 16)),
        (4, (0, 1, 2, 8, 9, 10)),
        (5, (1,)),
        (6, (0,)),
    ):
        for value in values:
            way = GZIP[:place] + bytes([value]) + GZIP[place + 1 :]
            for form in (0, 1):
                yield plain(data, way, form=form).case(f"gzip-{place}-{value}-{form}")
    for size in (0, 1):
        one = column(pages.TEXTS, [page(pages.INDICES, 1), page(pages.DICTIONARY, 0, GZIP)])
        yield Chunk([(one, [bytes(size)])]).case(f"gzip-of-{size}")


# Runs and differences


def of_runs(rng: Random) -> Made:
    """Runs of indices, of levels and of truths, by rule and listed."""
    lengths = (1, 2, 3, 7, 8, 9, 15, 16, 17, 60)
    for bits in (0, 1, 2, 3, 7, 8, 9, 16, 17, 24, 25):
        for turn in range(4):
            most = min(1 << min(bits, 3), 6)
            rows = [v for _ in range(9) for v in [rng.randrange(most)] * rng.choice(lengths)]
            yield indices(rows, bits).case(f"runs-{bits}-{turn}")
    for count in (503, 504, 505, 511, 512, 513, 1008, 1009):
        rows = [i % 3 for i in range(count)]
        yield indices(rows, 2).case(f"waiting-{count}")
        yield indices([*rows, *[1] * 7], 2).case(f"waiting-{count}-behind")
        yield indices([*rows, *[1] * 8, 2], 2).case(f"waiting-{count}-run")
    for high in (3, 4, 5):
        yield indices(list(range(high)) * 3, 2).case(f"index-{high}")
    rows = [0, 0, 0, 1, 2, 3, 1, 1, 1, 1, 2, 2]
    for name, cut in cuts_of(len(rows)):
        chunk = indices(rows, 2, list(cut))
        like = indices(rows, 2, list(LIKE[name])).case("") if name in LIKE else None
        yield replace(chunk, size=like.size if like else 0).case(f"cut-{name}")
        truths = column(pages.BITS, [page(pages.RUNS, 12, indices=list(cut))])
        bits = [bytes([row & 1]) for row in rows]
        yield Chunk([(truths, bits)]).case(f"cut-truths-{name}")
        for outside in (False, True):
            one = page(pages.PLAIN, 12, outside=outside, levels=list(cut))
            found = [b"x" if row else None for row in rows]
            levels = column(1, [one], optional=True, missing=True)
            yield Chunk([(levels, found)]).case(f"cut-levels-{outside}-{name}")
    for cut in ([0], [1], [0, 2], []):
        some = [page(pages.DICTIONARY, 0), page(1, 12, bits=2), page(1, 0, bits=2, indices=cut)]
        values: Values = [b"%c" % (97 + row) for row in rows]
        like = Chunk([(column(1, [*some[:2], page(1, 0, bits=2)]), values)]).case("")
        chunk = Chunk([(column(1, some), values)], size=like.size)
        yield chunk.case(f"none-{'-'.join(map(str, cut))}")
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 4], [-1, 0, 1, 2]):
        chunk = indices(rows, 2)
        chunk.columns[0][0].order = order
        yield chunk.case(f"order-{'-'.join(map(str, order))}")


def cuts_of(rows: int) -> Iterator[tuple[str, list[int]]]:
    """How runs of 12 values are cut, in good ways and bad ones; see (3)."""
    yield "packed", [0, 5]
    yield "packed-two", [0, 3, 3]
    yield "nine", [0, 6, 5]
    yield "nine-2", [0, 6, 3, 2]
    yield "over-first", [2, 4, 3, 5]
    yield "over-last", [2, 3, 4, 5]
    yield "equal", [0, 6, 3, 2, 4]
    yield "each", [0, *[2] * rows]
    yield "behind", [4, 0, 1, 1, 0, 5]
    yield "behind-most", [2, 3, 3, 5]
    yield "behind-under", [2, 3, -1, 5]
    yield "most-255", [255, *[1] * 255, 69]
    yield "over-256", [256, *[1] * 256, 69]
    yield "behind-missing", [3, 1, 1]
    yield "behind-alone", [2, 1, 1]
    yield "behind-own", [1, 1, 26]
    for name, heads in {
        "nothing": [], "short": [3], "long": [7], "longer": [5, 2], "end": [6, 18],
        "beyond": [6, 20], "zero": [0, 5], "one": [1, 5], "half": [6, 5, 3], "all": [24],
        "over": [26], "rest": [8, 3], "eight": [6, 2, 3], "eight-2": [6, 2, 5],
        "one-more": [2, 2, 2, 1, 3, 3], "negative": [-2, 5], "odd": [-1, 5],
    }.items():  # fmt: skip
        yield name, [0, *heads]
    yield "empty", []
    yield "count", [-1, 5]


LIKE = {  # what would be as long, if it were not refused
    "over-first": [2, 3, 3, 5], "over-last": [2, 3, 3, 5], "over-256": [255, *[1] * 255, 69],
    "one-more": [0, 2, 2, 2, 3, 3], "eight-2": [0, 6, 2, 3],
}  # fmt: skip


def indices(rows: list[int], bits: int, cut: list[int] | None = None) -> Chunk:
    """A page of indices behind its dictionary."""
    found = [b"%c%c" % (97 + row, 97 + row) for row in rows]
    made = [page(pages.DICTIONARY, 0), page(pages.INDICES, len(rows), bits=bits, indices=cut)]
    return Chunk([(column(2, made), found)])


def of_differences(rng: Random) -> Made:
    """Blocks of differences; texts by lengths."""
    blocks = ((8, 1), (16, 2), (64, 8), (16, 1), (24, 3))
    for width, bits in ((4, 32), (8, 64), (4, 64), (8, 32), (2, 32), (4, 31), (4, 33), (8, 65)):
        half = 1 << 8 * width - 1
        for name, found in {
            "none": [], "one": [-5], "two": [3, -half], "same": [7] * 20,
            "far": [half - 1, -half, half - 1, 0, -half, -1] * 3,
            "steps": [i * i - 300 for i in range(34)],
            "wide": [rng.randrange(-half, half) for _ in range(9)],
            "rise": [64 * i for i in range(17)],
            "falls": [-63, -64, -65, -127, -128, 0, 63, 64, 128, 8191, 8192],
        }.items():  # fmt: skip
            values: Values = [v.to_bytes(width, "little", signed=True) for v in found] or [None]
            one = page(pages.DELTAS, len(values), bits=bits, blocks=rng.choice(blocks))
            numbers_ = column(width, [one], optional=not found, missing=not found)
            yield Chunk([(numbers_, values)]).case(f"deltas-{width}-{bits}-{name}")
    for size, parts in ((0, 1), (8, 0), (8, 2), (12, 1), (2**16, 1), (2**16 + 8, 1), (16, 2)):
        one = page(pages.DELTAS, 3, bits=32, blocks=(size, parts))
        yield Chunk([(column(4, [one]), [bytes(4), b"1234", b"5678"])]).case(
            f"blocks-{size}-{parts}"
        )
    one = page(pages.DELTAS, 2, bits=32, blocks=(2**16, 2**13))
    yield Chunk([(column(4, [one]), [bytes(4), b"1234"])]).case("parts-most")
    texts = [b"a", b"abc", b"abcd", b"", b"abcdefgh" * 20, b"abcdefgh" * 20, b"b" * 130, b"bb"]
    for kind, width, bits in itertools.product(DELTA, (0, 3, -1), (32, 64)):
        found_ = {0: texts, 3: [b"abc", b"abd", b"abd", b"xbc"], -1: [b"\0", b"\1"]}[width]
        one = page(kind, len(found_), bits=bits, blocks=rng.choice(blocks))
        yield Chunk([(column(width, [one]), found_)]).case(f"texts-{kind}-{width}-{bits}")


# Fields


def of_fields(rng: Random) -> Made:
    """Kinds of pages of all forms and widths, levels, headers, tables."""
    shown: dict[int, Values] = {
        pages.BITS: [b"\1", b"\0"] * 6, pages.TEXTS: [b"", b"text", b"t"] * 4,
        4: [b"1234", b"5678", b"1238"] * 4, 3: [b"123", b"456", b"789"] * 4,
    }  # fmt: skip
    for width, values in shown.items():
        for kind, form in itertools.product(range(8), range(3)):
            bits, blocks = (64, (8, 1)) if kind in DELTA else (2, (0, 0))
            one = page(kind, 12 if kind else 0, bits=bits, blocks=blocks)
            chunk = Chunk([(column(width, [one]), values)], form=form)
            yield chunk.case(f"kind-{kind}-{width}-{form}")
        some = [None if i in (2, 7) else value for i, value in enumerate(values)]
        for optional, missing, outside in itertools.product((False, True), repeat=3):
            made = [page(pages.PLAIN, 5, b"\x0f", outside=outside), page(pages.PLAIN, 7, header=3)]
            one_ = column(width, made, optional=optional, missing=missing, before=2)
            chunk = Chunk([(one_, some if missing else values)], cuts=(8, 4))
            yield chunk.case(f"levels-{width}-{optional}-{missing}-{outside}")
    good = Chunk([(column(4, [page(2, 12, header=250)], before=250), shown[4])])
    yield good.case("headers")
    yield from edges(good.case("edges"), 30)
    yield from edges(indices([0, 1, 1], 1, [0, 3]).case("edges-of-indices"), 44)
    for header, before in ((251, 250), (250, 251), (500, 0), (501, 0)):
        one = column(4, [page(2, 12, header=header)], before=before)
        yield Chunk([(one, shown[4])]).case(f"headers-{header}-{before}")
    for cuts in ((11,), (13,), (6, 6), (0, 12), (12, 0)):
        yield replace(good, cuts=cuts).case(f"tables-{'-'.join(map(str, cuts))}")
    for rows in (0, 11, 13):
        yield replace(good, rows=rows).case(f"rows-{rows}")
    yield replace(good, more=(1,)).case("more")
    twice = [page(0, 0), page(0, 0), page(1, 12, bits=2)]
    for form in range(3):
        yield Chunk([(column(4, twice), shown[4])], form=form).case(f"dictionaries-{form}")
    for count in (7, 8, 9, 15, 16, 17):
        truths = [b"\1", b"\0", b"\1", *[b"\1"] * 15][:count]
        yield Chunk([(column(pages.BITS, [page(2, count)]), truths)]).case(f"bits-{count}")
        maybe = column(3, [page(2, count)], optional=True, missing=True)
        some_ = [None if i % 3 else b"abc" for i in range(count)]
        yield Chunk([(maybe, some_)]).case(f"maybe-{count}")
    every = page(pages.RUNS, 12, outside=True, levels=[0, 24], indices=[0, 5])
    yield Chunk([(column(pages.BITS, [every], optional=True), shown[-1])]).case("all-lists")
    yield Chunk([(column(1, [page(pages.SPLIT, 12)]), [b"x"] * 12)]).case("split-1")
    truth = column(pages.BITS, [page(pages.PLAIN, 12)])
    yield Chunk([(truth, shown[-1]), (column(0, [page(2, 12)]), shown[0])]).case("two")
    yield from bad_contents()


def edges(case: CodecCase, depth: int) -> Made:
    """A chunk with a byte of its head changed, or cut, or with something behind it."""
    for i in range(depth):
        for value in {0, 1, 2, 3, 8, 255, case.payload[i] ^ 32, case.payload[i] + 1 & 255}:
            changed = case.payload[:i] + bytes([value]) + case.payload[i + 1 :]
            yield replace(case, name=f"{case.name}-{i}-{value}", payload=changed)
    for cut in (1, 2, 5):
        yield replace(case, name=f"{case.name}-cut-{cut}", payload=case.payload[:-cut])
    yield replace(case, name=f"{case.name}-behind", payload=case.payload + b"\0")
    for size in (case.size - 1, case.size + 1):
        yield replace(case, name=f"{case.name}-size-{size}", size=size)
    for model in (b"\x11", b"\x11\0\0", b"\x11\3", b"\x11\2\0"):
        yield replace(case, name=f"{case.name}-model-{model.hex()}", model=model)


def bad_contents() -> Made:
    """Values of texts whose ends, and lengths, are wrong."""
    head = number(2) + Chunk([(column(0, [page(2, 2)]), [b"a", b"b"])]).recipes() + packed(FILL)
    for name, ends, data in (
        ("good", (0, 1, 2), b"ab"), ("first", (1, 1, 2), b"ab"), ("falls", (0, 2, 1), b"a"),
        ("negative", (0, -1, 2), b"ab"), ("short", (0, 1, 3), b"ab"), ("long", (0, 1, 1), b"ab"),
        ("none", (0, 0, 0), b""), ("few", (0, 1), b""), ("under", (-1, 0, 2), b"ab"),
    ):  # fmt: skip
        content = b"".join(struct.pack("<i", end) for end in ends) + data
        for way, more in itertools.product((0, 1, 2), (0, 1)):
            table = bytes([way]) + number(2) + number(len(content) + more) + packed(content)
            case = CodecCase("", b"\x11\2", head + b"\1" + table, 10 + len(FILL))
            yield replace(case, name=f"telling-pages-ends-{name}-{way}-{more}")


def of_many() -> Made:
    """As many of all as there may be, and one more."""
    for count in (4096, 4097):
        many = [(column(1, [page(2, 1)]), [b"x"])] * count
        yield Chunk(many).case(f"columns-{count}")
    for count in (2**16, 2**16 + 1):
        made = [page(2, 0)] * (count - 1) + [page(2, 1)]
        yield Chunk([(column(1, made), [b"x"])], rest=bytes(2**17)).case(f"pages-{count}")
    made = [page(2, 0)] * (2**15) + [page(2, 1)]
    two = [(column(1, made), [b"x"]), (column(1, made[1:]), [b"x"])]
    yield Chunk(two, rest=bytes(2**17)).case("pages-of-two-beyond")
    yield Chunk(two[1:] * 2, rest=bytes(2**17)).case("pages-of-two-most")
    for width in (65534, 65535, 65536):
        yield Chunk([(column(width, [page(2, 1)]), [bytes(width)])]).case(f"width-{width}")
    for count in (64, 65):
        one = column(1, [page(2, count)])
        yield Chunk([(one, [b"x"] * count)], cuts=(1,) * count).case(f"tables-{count}")
    rows = 2**20
    truth, maybe = column(-1, [page(2, rows)]), column(-1, [page(2, rows)], optional=True)
    maybe.missing = True
    for more in (3, 4):
        bits = [b"\0"] * rows
        columns_ = [(truth, bits)] * 2 + [(maybe, bits)] * more
        yield Chunk(columns_, rest=bytes(10)).case(f"cells-{2 + 2 * more}")
