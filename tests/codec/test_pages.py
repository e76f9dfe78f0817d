"""Runs, blocks of Snappy and recipes of pages against the reference, and what is refused."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from helpers import random_state
from parquet_files import SNAPPY, file, flights
from parquet_files import Column as FileColumn
from reference import pages as reference
from reference.deflate import CLASSIC
from reference.lz4 import lz4 as reference_lz4

from densor.codec.levels import level_settings
from densor.codec.pages import compression, deltas, gzip, lz4, recipe, snappy
from densor.codec.pages.content import ColumnsReader, rows_of_tables
from densor.codec.pages.decoder import PagesDecoder, open_decoder
from densor.codec.pages.encoder import PagesCoder
from densor.codec.pages.kernels import split_texts, take_runs
from densor.codec.pages.layout import (
    DELTAS,
    DICTIONARY,
    INDICES,
    LENGTHS,
    MAX_ROWS,
    PLAIN,
    PLAIN_CODEC,
    RUNS,
    SHARED,
    SPLIT,
    Column,
    Page,
)
from densor.codec.pages.payload import pack_table
from densor.codec.pages.sizes import MOST_BEHIND
from densor.codec.pages.undo import undo
from densor.codec.pages.values import ColumnRecipe, PageMaker, PageRecipe, Values, fixed, runs
from densor.codec.table.layout import MAX_CELLS
from densor.codec.table.packing import Packer
from densor.codec.table.wire import Reader, Writer
from densor.errors import DensorError, FormatError, UnsupportedError
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers.plan import plan_file
from densor.runtime.memory import MEMORY
from densor.runtime.workers import Workers

WAYS = (8, 14, 15, 8 | 32, 14 | 32)


def contents() -> list[bytes]:
    rng = random_state("snappy")
    sizes = (0, 1, 4, 14, 15, 16, 17, 59, 60, 61, 256, 257, 300, 5000, 65536, 65537, 70_000)
    found = [bytes(size) for size in sizes]
    for size in sizes:
        found.append(rng.integers(0, 3, size, np.uint8).tobytes())
        found.append(np.cumsum(rng.integers(0, 4, size)).astype("<i4").tobytes()[:size])
    far = rng.integers(0, 256, 3000, np.uint8).tobytes()
    return [*found, far + far[:70] + far[100:164] + far[7:11] + bytes(2000) + far[:12] + bytes(40)]


@pytest.mark.parametrize("way", WAYS)
def test_blocks_of_snappy_are_those_of_the_reference(way: int) -> None:
    for data in contents():
        block = snappy.make(np.frombuffer(data, np.uint8), way).tobytes()
        assert block == reference.snappy(data, way)
        found = snappy.undo(np.frombuffer(block, np.uint8), len(data))
        assert found is not None and found.tobytes() == data


def test_bad_blocks_of_snappy() -> None:
    data = contents()[-1]
    good = snappy.make(np.frombuffer(data, np.uint8)).tobytes()
    rng = random_state("bad snappy")
    for _ in range(3000):
        bad = bytearray(good[: int(rng.integers(len(good) + 1))])
        for at in rng.integers(0, max(len(bad), 1), 3).tolist():
            bad[at : at + 1] = bytes([int(rng.integers(256))])
        snappy.undo(np.frombuffer(bytes(bad), np.uint8), len(data))
    short = b"", b"\xff" * 9, b"\4\1\0", b"\4\2\0\0", b"\1\4aa", b"\2\0a"
    for bad in (*short, b"\4\xfc\xff\xff\xff\xff"):
        assert snappy.undo(np.frombuffer(bad, np.uint8), 4) is None


def contents_of_lz4() -> list[bytes]:
    rng = random_state("lz4")
    sizes = (12, 13, 18, 19, 20, 34, 35, 290, 65546, 65547, 65548, 140_000)
    found = contents()
    for size in sizes:
        far = np.tile(rng.integers(0, 256, size // 3 + 1, np.uint8), 3)[:size].tobytes()
        found += [far, rng.integers(0, 2, size, np.uint8).tobytes(), bytes(size)]
    near = rng.integers(0, 256, 65535, np.uint8).tobytes()
    # As far back as matches may be, and a byte farther.
    return [*found, near + near[:5000], near + b"x" + near[:5000]]


def test_blocks_of_lz4_are_those_of_the_reference() -> None:
    for data in contents_of_lz4()[::2]:
        block = lz4.make(np.frombuffer(data, np.uint8)).tobytes()
        assert block == reference_lz4(data)
        found = lz4.undo(np.frombuffer(block, np.uint8), len(data))
        assert found is not None and found.tobytes() == data


def test_blocks_of_lz4_are_those_of_its_library() -> None:
    library = pytest.importorskip("pyarrow")
    for data in contents_of_lz4():
        made = lz4.make(np.frombuffer(data, np.uint8)).tobytes()
        assert made == library.compress(data, codec="lz4_raw", asbytes=True)


def test_bad_blocks_of_lz4() -> None:
    data = contents_of_lz4()[-1][65000:]
    good = lz4.make(np.frombuffer(data, np.uint8)).tobytes()
    rng = random_state("bad lz4")
    for _ in range(3000):
        bad = bytearray(good[: int(rng.integers(len(good) + 1))])
        for at in rng.integers(0, max(len(bad), 1), 3).tolist():
            bad[at : at + 1] = bytes([int(rng.integers(256))])
        lz4.undo(np.frombuffer(bytes(bad), np.uint8), len(data))
    short = b"", b"\x50abcd", b"\xf0", b"\xf0\xff", b"\x10a\0\0", b"\x10a\2\0", b"\x10a\1"
    for bad in (*short, b"\x1fa\1\0\xff", b"\x10a\1\0", b"\x10a\1\0\0\0", b"\x10a\x1f\1\0"):
        assert lz4.undo(np.frombuffer(bad, np.uint8), 4) is None


@pytest.mark.skipif(not CLASSIC, reason="another zlib, which writes other streams")
@pytest.mark.parametrize("strategy", range(5))
@pytest.mark.parametrize(("level", "memory"), [(1, 1), (3, 8), (6, 8), (9, 9), (4, 1)])
def test_members_of_gzip_are_those_of_the_reference(strategy: int, level: int, memory: int) -> None:
    """Also those that take more bytes than what they hold."""
    way = bytes([level, strategy, 15, memory, 0, 3])
    for data in (*contents()[::3], bytes([200 + i % 56 for i in range(3000)])):
        content = np.frombuffer(data, np.uint8)
        member = np.frombuffer(gzip.make(content, way), np.uint8)
        assert member.tobytes() == reference.gzip(data, way)
        found = gzip.undo(member, len(data))
        assert found is not None and found.tobytes() == data
        assert gzip.undo(member, len(data) + 1) is None
        assert not data or gzip.undo(member, len(data) - 1) is None


@pytest.mark.parametrize("way", [1, 7, 16, 63, 64, 65, 128, 129, 255])
def test_ways_that_no_page_is_made_in(way: int) -> None:
    known = {64: True, 128: True}
    for newer in (False, True):
        if newer and known.get(way):
            assert compression.take(Reader(bytes([way, 6, 0, 15, 8, 2, 3])), newer)[0] == way
            continue
        with pytest.raises(FormatError):
            compression.take(Reader(bytes([way, 6, 0, 15, 8, 2, 3])), newer)
    for bad in ((0, 0, 15, 8), (10, 0, 15, 8), (6, 5, 15, 8), (6, 0, 16, 8), (6, 0, 15, 10)):
        with pytest.raises(FormatError):
            compression.take(Reader(bytes([128, *bad, 2, 3])), True)
    with pytest.raises(FormatError):
        compression.take(Reader(bytes([128, 6, 0, 15, 8, 2])), True)


@pytest.mark.parametrize("payload", [b"\x11\3", b"\x11\xff"])
def test_forms_that_are_not_known_are_refused_by_name(payload: bytes) -> None:
    with pytest.raises(UnsupportedError, match="newer densor"):
        open_decoder(payload)


@pytest.mark.parametrize("bits", [0, 1, 3, 8, 9, 17, 24])
def test_runs_are_those_of_the_reference(bits: int) -> None:
    rng = random_state("runs", bits)
    for size in (0, 1, 7, 8, 9, 16, 503, 504, 505, 1500):
        for longest in (1, 3, 9, 40):
            lengths = rng.integers(1, longest + 1, size)
            values = np.repeat(rng.integers(0, 1 << bits, size), lengths)[:size].astype(np.int32)
            coded = runs(values, bits)
            assert coded.tobytes() == reference.runs(values.tolist(), bits)
            out, heads = np.empty(size + MOST_BEHIND, np.int32), np.empty(size + 2, np.int64)
            end, count, done = take_runs(coded, bits, size, out, heads)
            assert end == coded.size and out[:size].tolist() == values.tolist()
            cut = np.concatenate([[done - size], out[size:done], heads[:count]])
            again = runs(values, bits, cut).tobytes()
            assert again == coded.tobytes()
            assert again == reference.listed_runs(values.tolist(), bits, cut.tolist())


_CUTS = [[], [1], [-1, 8], [256], [0, 0], [0, 1], [0, 7], [0, 20], [0, 6, 9], [0, -8], [0, 1 << 60]]


@pytest.mark.parametrize("cut", _CUTS)
def test_runs_that_do_not_fit_their_values(cut: list[int]) -> None:
    with pytest.raises(FormatError):
        runs(np.zeros(8, np.int32), 3, np.array(cut, np.int64))


def test_bad_runs_and_texts() -> None:
    rng = random_state("bad runs")
    for _ in range(3000):
        data = rng.integers(0, 256, int(rng.integers(0, 30)), np.uint8)
        bits, count = int(rng.integers(0, 25)), int(rng.integers(0, 90))
        out, heads = np.empty(count + MOST_BEHIND, np.int32), np.empty(data.size, np.int64)
        assert take_runs(data, bits, count, out, heads)[0] <= data.size
        starts, lengths = np.empty((2, count), np.int32)
        data[2:4] = 0
        assert split_texts(data, starts, lengths) <= data.size


def test_ends_of_texts_whose_differences_overflow() -> None:
    ends = np.array([0, 2**31 - 1, -(2**31), -1, 100], "<i4").view(np.uint8)
    columns = ColumnsReader([ColumnRecipe(0, 0, False, False, ())])
    with pytest.raises(FormatError, match="impossible ends"):
        columns.add(np.concatenate([ends, np.zeros(100, np.uint8)]), 4)


@pytest.mark.parametrize(
    ("ways", "newer"),
    [((bytes([46]), b"\0"), False), ((b"\x40", bytes([128, 9, 0, 15, 8, 2, 3])), True)],
)
def test_recipes_come_back(ways: tuple[bytes, bytes], newer: bool) -> None:
    cut = np.array([1, 2, 30], np.int64)
    pages = (
        PageRecipe(9, DICTIONARY, 0, 0, False, b"\x0f"),
        PageRecipe(20, INDICES, 60, 7, True, ways[0], None, cut),
        PageRecipe(21, PLAIN, 40, 0, False, ways[1], cut),
    )
    columns = [
        ColumnRecipe(4, 8, True, True, pages, np.array([1, 0])),
        ColumnRecipe(0, -1, False, False, (PageRecipe(1, PLAIN, 100, 0, False, b"\0"),)),
    ]
    at = Reader(recipe.pack(columns, Packer(3)))
    assert repr(recipe.take(at, 1000, 100, newer)) == repr(columns) and not at.left
    for size, rows in ((1000, 101), (19, 100)):
        with pytest.raises(FormatError):
            recipe.take(Reader(recipe.pack(columns, Packer(3))), size, rows, newer)
    if newer:
        with pytest.raises(FormatError):
            recipe.take(Reader(recipe.pack(columns, Packer(3))), 1000, 100, False)


def numbers_of(kind: str, count: int) -> list[int]:
    rng = random_state(kind, count)
    if kind == "small":
        return rng.integers(-9, 9, count).tolist()
    if kind == "rising":
        return np.cumsum(rng.integers(0, 1000, count)).tolist()
    edges = [2**31 - 1, -(2**31), 0, -1]
    if kind == "edges":
        edges = [2**63 - 1, -(2**63), 2**62, -(2**62), 0]
    return [edges[i] for i in rng.integers(0, len(edges), count)]


@pytest.mark.parametrize("kind", ["small", "rising", "edges of 32 bits", "edges"])
@pytest.mark.parametrize("blocks", [(128, 4), (2048, 8), (8, 1), (65536, 1)])
def test_differences_are_those_of_the_reference(kind: str, blocks: tuple[int, int]) -> None:
    for count in (0, 1, 2, 129, 130, 700):
        numbers = numbers_of(kind, count)
        for bits in (32, 64) if kind != "edges" else (64,):
            made = deltas.put(np.array(numbers, np.int64), deltas.Blocks(*blocks, bits))
            assert made.tobytes() == reference.deltas(numbers, *blocks, bits)
            found = deltas.take(made, count, bits)
            assert found is not None and found[0].tolist() == numbers
            assert found[1:] == (deltas.Blocks(*blocks, bits), made.size)
            assert deltas.take(made, count + 1, bits) is None
            for size in {*range(min(40, made.size)), made.size - 1}:
                assert deltas.take(made[:size], count, bits) is None


def test_bad_heads_of_differences() -> None:
    good = bytes([128, 1, 4, 2, 6, 0, 1, 0, 0, 0, *[0] * 4])
    assert deltas.take(np.frombuffer(good, np.uint8), 2, 32) is not None
    for at, byte in ((0, 0x81), (2, 0), (2, 5), (3, 3), (6, 65)):
        bad = np.frombuffer(good[:at] + bytes([byte]) + good[at + 1 :], np.uint8)
        assert deltas.take(bad, 2, 32) is None
    for block in ([0], [255] * 9 + [1], [255] * 11, [128, 128, 8]):
        bad = np.array([*block, *good[2:]], np.uint8)
        assert deltas.take(bad, 2, 32) is None


def test_what_texts_share() -> None:
    texts = [b"", b"route", b"router", b"rout", b"x" * 300, b"x" * 200, b""]
    lengths = np.array([len(text) for text in texts], np.int32)
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    data = np.frombuffer(b"".join(texts), np.uint8)
    same = deltas.shared(data, starts, lengths)
    assert same.tolist() == [0, 0, 5, 4, 0, 200, 0]
    rest = np.frombuffer(b"".join(t[n:] for t, n in zip(texts, same, strict=True)), np.uint8)
    whole = deltas.joined(rest, same, lengths - same)
    assert whole is not None and whole.tobytes() == data.tobytes()
    same[1] = 1
    assert deltas.joined(rest, same, lengths - same) is None


@pytest.mark.parametrize(
    ("kind", "width", "bits", "blocks"),
    [
        (DELTAS, 0, 64, (128, 4)),
        (DELTAS, 8, 32, (128, 4)),
        (DELTAS, 12, 64, (128, 4)),
        (DELTAS, 4, 33, (128, 4)),
        (DELTAS, 4, 32, (128, 3)),
        (DELTAS, 4, 32, (0, 4)),
        (DELTAS, 4, 32, (128, 0)),
        (LENGTHS, 4, 32, (128, 4)),
        (SHARED, -1, 32, (128, 4)),
        (RUNS, 4, 1, None),
        (RUNS, 0, 25, None),
    ],
)
def test_pages_of_newer_encodings_that_cannot_be(
    kind: int, width: int, bits: int, blocks: tuple[int, int] | None
) -> None:
    def recipes(kind: int, width: int, bits: int, blocks: tuple[int, int] | None) -> Reader:
        cut = None if blocks is None else deltas.Blocks(*blocks, bits)
        page = PageRecipe(1, kind, 100, bits, False, b"\0", blocks=cut)
        return Reader(recipe.pack([ColumnRecipe(0, width, False, False, (page,))], Packer(3)))

    good = {DELTAS: 4, LENGTHS: 0, SHARED: 0, RUNS: -1}[kind], 0 if blocks is None else 32
    sound = kind, *good, None if blocks is None else (128, 4)
    assert recipe.take(recipes(*sound), 1000, 100, 2)[0].pages[0].kind == kind
    for bad, form in ((recipes(kind, width, bits, blocks), 2), (recipes(*sound), 1)):
        with pytest.raises(FormatError):
            recipe.take(bad, 1000, 100, form)


@pytest.mark.parametrize(("width", "newer"), [(8, False), (0, True), (-1, True)])
def test_values_that_cannot_be_split(width: int, newer: bool) -> None:
    pages = (PageRecipe(1, SPLIT, 100, 0, False, b"\0"),)
    good = recipe.pack([ColumnRecipe(0, 8, False, False, pages)], Packer(3))
    assert recipe.take(Reader(good), 1000, 100, True)[0].pages == pages
    bad = recipe.pack([ColumnRecipe(0, width, False, False, pages)], Packer(3))
    with pytest.raises(FormatError):
        recipe.take(Reader(bad), 1000, 100, newer)


def test_a_column_has_one_dictionary() -> None:
    """A few bytes could else ask zlib to compress the same values a thousand times."""
    dictionary = PageRecipe(0, DICTIONARY, 0, 0, False, bytes([128, 9, 0, 15, 8, 0, 0]))
    indices = PageRecipe(0, INDICES, 1, 0, False, b"\0")
    for count in (1, 2):
        column = ColumnRecipe(0, 0, False, False, (dictionary,) * count + (indices,))
        at = Reader(recipe.pack([column], Packer(3)))
        if count == 1:
            assert repr(recipe.take(at, 1000, 1, True)) == repr([column])
        else:
            with pytest.raises(FormatError):
                recipe.take(at, 1000, 1, True)


@pytest.mark.parametrize("empty", [False, True])
def test_a_column_of_two_dictionaries_stays_as_it_is(empty: bool) -> None:
    data = b"" if empty else bytes(4)
    dictionary = Page(0, len(data), len(data), DICTIONARY, len(data) // 4)
    levels = b"\2\0\0\0\2\0"  # one value, which is missing
    indices = Page(0, 7, 7, INDICES, 1)
    for count in (1, 2):
        column = Column(0, 4, "F32", PLAIN_CODEC, True, (dictionary,) * count + (indices,))
        found = undo(column, 1, np.frombuffer(data * count + levels + b"\0", np.uint8))
        assert (found is not None) == (empty and count == 1)


@pytest.mark.parametrize("order", [[0], [0, 0], [0, 2], [-1, 0], [0, 1, 2]])
def test_impossible_orders(order: list[int]) -> None:
    values = fixed(1, np.array([5, 6, 5], np.uint8), None)
    page = PageRecipe(0, INDICES, 3, 1, False, b"\0")
    with pytest.raises(FormatError):
        PageMaker(ColumnRecipe(0, 1, False, False, (page,), np.array(order)), values)


def test_pages_of_more_rows_or_values_than_there_are() -> None:
    values: Values = fixed(1, np.arange(9, dtype=np.uint8), None)
    for page in (
        PageRecipe(0, INDICES, 9, 3, False, b"\0"),
        PageRecipe(0, INDICES, 10, 8, False, b"\0"),
    ):
        with pytest.raises(FormatError):
            PageMaker(ColumnRecipe(0, 1, False, False, (page,)), values).page(page)


@pytest.mark.parametrize("rows", [MAX_CELLS // 3 - 1, MAX_CELLS // 3 * 2 + 1, 5 * MAX_CELLS // 6])
def test_tables_have_no_more_cells_than_may_be(rows: int) -> None:
    some = np.lib.stride_tricks.as_strided(np.zeros(1, np.int32), (rows,), (0,))
    missing = np.lib.stride_tricks.as_strided(np.zeros(1, np.bool_), (rows,), (0,))
    columns = [Values(-1, np.zeros(0, np.uint8), some, some, m) for m in (None, missing)]
    counts = rows_of_tables(columns, rows)
    assert sum(counts) == rows and max(counts) * 3 <= MAX_CELLS


@pytest.mark.parametrize("rows", [0, MAX_ROWS + 1])
def test_chunks_of_no_rows_or_too_many(rows: int) -> None:
    out = Writer()
    out.number(rows)
    out.raw(recipe.pack([ColumnRecipe(0, 8, False, False, ())], Packer(3)))
    out.raw(Packer(3).pack(b"") + b"\0")
    with pytest.raises(FormatError):
        PagesDecoder().decode(np.frombuffer(out.bytes(), np.uint8), np.zeros(9, np.uint8))


def test_texts_of_all_bytes_and_tables_of_bytes_alone() -> None:
    """What a table of arrays cannot hold is packed as bytes."""
    texts: list[bytes | None] = [bytes(range(256)) * (i % 3) for i in range(70)]
    data = file([FileColumn("a", "text", texts, False, 0)], PLAIN_CODEC, 70, 70)
    plan = plan_file(MemorySource(data), len(data), random=MemoryRandomSource(data))
    before, segment, *_ = plan.segments
    assert segment.kind.pages is not None and segment.size and before.size
    stretch = np.frombuffer(data, np.uint8)[before.size : before.size + segment.size]
    for level in (3, 5):
        coder = PagesCoder(segment.kind.pages, level_settings(level), Workers(1))
        payload, out = coder.encode(stretch, 0), np.empty_like(stretch)
        PagesDecoder().decode(payload, out)
        assert payload.size < stretch.size and out.tobytes() == stretch.tobytes()


def test_damaged_pages_end_in_no_crash() -> None:
    """Pages that a parser found whole, of which any byte is another."""
    data = file(flights(300), SNAPPY, 300, 300)
    plan = plan_file(MemorySource(data), len(data), random=MemoryRandomSource(data))
    before, segment, *_ = plan.segments
    assert segment.kind.pages is not None and segment.size and before.size
    stretch = np.frombuffer(data, np.uint8)[before.size : before.size + segment.size].copy()
    rng = random_state("damaged pages")
    for _ in range(300):
        column = segment.kind.pages.columns[int(rng.integers(len(segment.kind.pages.columns)))]
        bad = stretch.copy()
        for at in rng.integers(column.begin, column.begin + column.size, 2).tolist():
            bad[at] = rng.integers(256)
        try:
            undo(column, 300, bad)
        except DensorError:
            pytest.fail("an error where there is none")


def test_threads_wait_for_the_memory_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of few bytes may have many rows, which take memory while its pages are made."""
    rows, packer, borrowed = 1 << 16, Packer(3), []
    pages = (
        PageRecipe(0, DICTIONARY, 0, 0, False, b"\0"),
        PageRecipe(0, INDICES, rows, 1, False, b"\0"),
    )
    out = Writer()
    out.number(rows)
    out.raw(recipe.pack([ColumnRecipe(0, 1, False, False, pages)], packer))
    out.raw(packer.pack(b"") + b"\1" + pack_table(rows, rows, b"", packer.pack(bytes(rows))))

    @contextmanager
    def counted(size: int) -> Iterator[None]:
        borrowed.append(size)
        yield

    monkeypatch.setattr(MEMORY, "borrowed", counted)
    made = np.zeros(1 + 1 + 3 + 1, np.uint8)
    PagesDecoder().decode(np.frombuffer(out.bytes(), np.uint8), made)
    assert made.tobytes() == b"\0\1\x80\x80\x08\0" and sum(borrowed) >= 64 * rows
