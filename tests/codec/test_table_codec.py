"""The codec of tables: round trips, size, hostile input, and the decoder made from its text."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from helpers import random_state
from reference import codecs as reference_codecs
from reference.reading import Refused
from tables import RECORDS, blocks, broken, resealed, table

from densor.codec.batch import Batch
from densor.codec.choose.candidates import encode_batch
from densor.codec.kind import BYTES, kind_of_table
from densor.codec.levels import level_settings
from densor.codec.registry import CODEC_TABLE
from densor.codec.table import decoder, params
from densor.codec.table.cells import rows_of
from densor.codec.table.encoder import TableCoder
from densor.codec.table.latent_fitting import Group, fit
from densor.codec.table.latents import Coder
from densor.codec.table.layout import Layout
from densor.codec.table.payload import parse_head
from densor.errors import DensorError, FormatError
from densor.formats.parsers.csv import layout_of
from densor.runtime.workers import Workers

Bytes = npt.NDArray[np.uint8]
LEVELS = (3, 5, 7, 9)


def as_bytes(text: bytes) -> Bytes:
    return np.frombuffer(text, np.uint8)


def coded(text: bytes, level: int, layout: Layout | None = None) -> tuple[bytes, bytes]:
    """MODEL payload and payload of one chunk."""
    layout = layout or layout_of(text.split(b"\n"))
    assert layout is not None
    coder = TableCoder(layout, level_settings(level))
    return coder.model(), bytes(coder.encode(as_bytes(text), 0))


def decoded(model: bytes, payload: bytes, size: int) -> bytes:
    out = np.full(size, 0xA5, np.uint8)
    decoder.open_decoder(model).decode(as_bytes(payload), out)
    return out.tobytes()


def comes_back(text: bytes, level: int, layout: Layout | None = None, slowly: bool = True) -> int:
    model, payload = coded(text, level, layout)
    assert model[0] == CODEC_TABLE
    assert payload != text
    assert decoded(model, payload, len(text)) == text
    if slowly:
        assert reference_codecs.parse_model(model).decode(payload, len(text)) == text
    return len(payload)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", RECORDS)
def test_tables_come_back(name: str, level: int) -> None:
    comes_back(RECORDS[name], level, slowly=name != "words" or level == 3)


@pytest.mark.parametrize("level", LEVELS)
def test_tables_with_broken_lines_come_back(level: int) -> None:
    text = broken(table(200), 9)
    comes_back(text, level, layout_of(table(200).split(b"\n")))
    comes_back(text.rstrip(b"\n"), level, layout_of(table(200).split(b"\n")))


@pytest.mark.parametrize("level", LEVELS)
def test_one_broken_line_in_a_thousand_costs_little(level: int) -> None:
    text = table(20000)
    clean = comes_back(text, level, slowly=False)
    assert comes_back(broken(text, 1000), level, slowly=False) < 1.03 * clean
    assert clean < len(text) / 5


def test_chunks_are_decoded_by_several_threads_at_once() -> None:
    text = table(300)
    model, payload = coded(text, 7)
    opened = decoder.open_decoder(model)

    def one(_: int) -> bytes:
        out = np.empty(len(text), np.uint8)
        opened.decode(as_bytes(payload), out)
        return out.tobytes()

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(one, range(8))) == {text}


# Whole archives


@pytest.mark.parametrize("level", LEVELS)
def test_tables_in_archives_are_clearly_smaller(level: int) -> None:
    text = table(3000)
    kinds = (BYTES, kind_of_table(layout_of(text.split(b"\n"))))  # type: ignore[arg-type]
    as_bytes_, as_table = (
        encode_batch(Batch(as_bytes(text), kind, Workers(1)), level_settings(level)).result()
        for kind in kinds
    )
    assert as_table.stored < 0.8 * as_bytes_.stored


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["noise", "repeats", "prose"])
def test_what_is_hardly_a_table_is_no_larger_than_plain_bytes(name: str, level: int) -> None:
    rng = random_state("hardly", name)
    noise = rng.integers(32, 127, (60, 90)).astype(np.uint8)
    texts = {
        "noise": b"".join(row.tobytes() + b",x\n" for row in noise),
        "repeats": b"".join(row.tobytes() + b",x\n" for row in noise[:3]) * 400,
        "prose": b"".join(b"the cat, it sat %d times\n" % (i * i % 7) for i in range(400)),
    }
    data, layout = as_bytes(texts[name]), Layout(2, 44)
    settings = level_settings(level)
    plain, found = (
        encode_batch(Batch(data, kind, Workers(1)), settings).result().stored
        for kind in (BYTES, kind_of_table(layout))
    )
    assert found <= plain


# Hostile input


@pytest.mark.parametrize("level", LEVELS)
def test_damage_behind_the_checks_is_refused_or_decoded_as_the_text_says(level: int) -> None:
    """Each byte of a small chunk changed, or some of them, with checks that fit again."""
    text = table(24)
    model, payload = coded(text, level)
    for place, change in itertools.product(range(0, len(payload), 7), (1, 0x80, 0xFF)):
        hostile = resealed(model, payload, len(text), place, change)
        try:
            found = decoded(model, hostile, len(text))
        except DensorError:
            found = None
        if place % 5 == 0:
            try:
                wanted = reference_codecs.parse_model(model).decode(hostile, len(text))
            except Refused:
                wanted = None
            assert found == wanted


def test_damage_is_noticed_by_the_checks() -> None:
    text = table(50)
    model, payload = coded(text, 5)
    for place in range(len(payload) // 2, len(payload), 5):
        damaged = bytearray(payload)
        damaged[place] ^= 16
        with pytest.raises(DensorError):
            decoded(model, bytes(damaged), len(text))


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 16])
def test_columns_cannot_unpack_to_more_than_their_chunk(size: int) -> None:
    """Many columns of one row, each with a cell as long as the chunk."""
    out = bytearray(b"\0\1\0")
    record = b"\0" + b"x" * size
    check = (xxhash.xxh3_64_intdigest(record) & 0xFFFFFFFF).to_bytes(4, "little")
    count = len(record)
    number = bytes([count & 127 | 128, count >> 7 & 127 | 128, count >> 14])
    for column in range(50):
        out += bytes([column]) + number + check
    out += 50 * record
    model = params.pack(Layout(50))
    if 50 * (size + 1) == max(50 * (size + 1), 120):
        assert len(decoded(model, bytes(out), 50 * (size + 1))) == 50 * (size + 1)
    with pytest.raises(DensorError):
        decoded(model, bytes(out), max(120, size + 50))


@pytest.mark.parametrize(
    "model",
    [
        *(
            b"\r",
            b'\r\2,"\2\0',
            b'\r\0,"\0\0',
            b'\r\0,"\2\5ab',
            b'\r\0,"\x81\x40\0',
            b'\r\0,"\2\0x',
        ),
        *(b"\r\6\0\0\1\0\0", b"\r\7\0\0\1\0\4", b"\r\6\0\0\1\0\x81\x80\x80\x10"),
    ],
)
def test_bad_models_are_refused(model: bytes) -> None:
    with pytest.raises(FormatError):
        decoder.open_decoder(model)
    with pytest.raises(Refused):
        reference_codecs.parse_model(model)


# Reading of texts


ODD = {
    "nothing": b"",
    "a line feed": b"\n",
    "no line end": b"1,2\n3,4",
    "a quote that is never closed": b'1,2\n"3,4\n' + b"5,6\n" * 40,
    "only quotes": b'"' * 1000,
    "quotes and line ends": b'"\n' * 500,
    "pairs of quotes": b'1,""\n"",2\n' * 50,
    "zeros": b"\0,\0\n" * 100,
    "carriage returns": b"1,2\r\n3,4\n5\r,6\r\n" * 30,
    "short rows": b"1,2\n3\n4,5\n" * 30,
}


@pytest.mark.parametrize("quote", [0, 34])
@pytest.mark.parametrize("name", ODD)
def test_odd_texts_are_rows_and_pieces(name: str, quote: int) -> None:
    text = ODD[name]
    for returns in (False, True):
        layout = Layout(2, 44, returns, quote)
        for level in (3, 7):
            model, payload = coded(text, level, layout)
            if payload != text:
                assert decoded(model, payload, len(text)) == text


def test_a_cell_may_have_any_bytes_but_not_all_of_them() -> None:
    every = bytes(set(range(256)) - {10, 34, 44})
    text = b"".join(b'"%s%d",1\n' % (every + b"\n,", i) for i in range(9))
    assert coded(text, 3, Layout(2, 44))[1] == text  # given up
    comes_back(text.replace(b"\x07", b""), 3, Layout(2, 44))


def test_quotes_that_are_never_closed_take_no_time() -> None:
    text = b'"a\n' * 300000
    assert rows_of(as_bytes(text), Layout(2, 44)) is None


# Under latent classes


def coded_under_latents(text: bytes, level: int, columns: int) -> tuple[bytes, bytes]:
    coder = TableCoder(Layout(columns), level_settings(level, latents=True))
    return coder.model(), bytes(coder.encode(as_bytes(text), 0))


@pytest.mark.parametrize("level", [3, 5])
def test_cells_under_latent_classes_come_back(level: int) -> None:
    text = blocks(400)
    model, payload = coded_under_latents(text, level, 14)
    head = parse_head(as_bytes(payload), Layout(14), len(text))
    assert len(head.latent) >= 12 and head.order
    assert len(payload) < 0.95 * len(coded(text, level, Layout(14))[1])
    assert decoded(model, payload, len(text)) == text
    assert reference_codecs.parse_model(model).decode(payload, len(text)) == text


@pytest.mark.parametrize("level", [3, 9])
@pytest.mark.parametrize("name", RECORDS)
def test_latent_classes_are_taken_where_they_are_smaller_alone(name: str, level: int) -> None:
    text = RECORDS[name]
    layout = layout_of(text.split(b"\n"))
    assert layout is not None
    coder = TableCoder(layout, level_settings(level, latents=True))
    payload = bytes(coder.encode(as_bytes(text), 0))
    assert len(payload) <= len(coded(text, level, layout)[1])
    assert decoded(coder.model(), payload, len(text)) == text


def test_damage_of_latent_classes_is_refused_or_decoded_as_the_text_says() -> None:
    text = blocks(60)
    model, payload = coded_under_latents(text, 3, 14)
    assert parse_head(as_bytes(payload), Layout(14), len(text)).latent
    for place, change in itertools.product(range(0, len(payload), 3), (1, 0x80, 0xFF)):
        hostile = resealed(model, payload, len(text), place, change)
        try:
            found = decoded(model, hostile, len(text))
        except DensorError:
            found = None
        if place % 4 == 0:
            try:
                wanted = reference_codecs.parse_model(model).decode(hostile, len(text))
            except Refused:
                wanted = None
            assert found == wanted


def test_latent_classes_of_a_block_model_take_the_entropy() -> None:
    """Rows and columns of classes u and v, cells of Q(. | u, v): the bound is H(X, U, V)."""
    rng = random_state("block model")
    rows, columns, classes, size = 900, 500, 3, 3
    u, v = rng.integers(0, classes, rows), rng.integers(0, classes, columns)
    q = rng.dirichlet([0.5] * size, (classes, classes))
    cells = (rng.random((columns, rows, 1)) > np.cumsum(q, 2)[u, v[:, None]]).sum(axis=2)
    cells = cells.clip(0, size - 1).astype(np.int32)
    entropy = -(q * np.log2(q + 1e-300)).sum(axis=2)[u][:, v].sum()
    bound = entropy + (rows + columns) * np.log2(classes)
    found = fit(cells, [Group(np.arange(columns), size)])
    data = np.empty(2 * cells.size, np.uint8)
    coder = Coder(True, data, [size] * sum(found.classes), found.above)
    coder.classes(found.latents)
    coder.cells(found.latents, cells)
    assert found.above == classes and found.classes == [classes]
    realised = -np.log2(q[u, v[:, None], cells]).sum() + (rows + columns) * np.log2(classes)
    assert 8 * coder.end() < 1.002 * realised and abs(realised / bound - 1) < 0.01
