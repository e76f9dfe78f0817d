"""Arrays as tables: round trips, hostile input, and the decoder made from its text."""

import itertools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from arrow_files import flights, stream, table_in
from helpers import random_state
from reference import codecs as reference_codecs
from reference.reading import Refused
from table_chunks import both_ways, coded, decoded
from tables import resealed

from densor.codec.table.array_cells import fitting
from densor.codec.table.arrays import columns_of
from densor.codec.table.layout import BITS, CELLS, TEXTS_32, TEXTS_64, Layout
from densor.codec.table.params import parse
from densor.codec.table.payload import parse_head
from densor.codec.table.wire import Writer
from densor.errors import DensorError

Bytes = npt.NDArray[np.uint8]


def comes_back(data: Bytes, layout: Layout, level: int) -> int:
    payload = both_ways(data, layout, level)
    assert payload != data.tobytes(), "was not coded as a table"
    return len(payload)


def one_column(
    form: int, width: int, dtype: str, buffers: list[bytes], rows: int
) -> tuple[Bytes, Layout]:
    """A table of one column, with noise before, between and behind its buffers."""
    data, places = b"\xa5", []
    for buffer in buffers:
        places.append(len(data))
        data += buffer + b"\x5a\0"
    layout = Layout(1, 0, quote=0, widths=(width,), types=(dtype,), arrays=(form,), batches=(rows,),
                    places=tuple(places))  # fmt: skip
    return np.frombuffer(data, np.uint8), layout


@pytest.mark.parametrize(("batches", "level", "rows"), [(1, 3, 400), (3, 5, 200), (2, 9, 60)])
def test_arrays_come_back(batches: int, level: int, rows: int) -> None:
    data, layout = table_in(stream(*flights(rows, batches)))
    assert len(layout.batches) == batches
    assert {BITS, CELLS, TEXTS_32, TEXTS_64} == set(layout.arrays)
    assert comes_back(data, layout, level) < data.size / 2
    assert parse(coded(data, layout, level)[0]).arrays == layout.arrays


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 64, 65])
def test_bits_of_any_number_of_rows_come_back(rows: int) -> None:
    rng = random_state("bits", rows)
    for values in (rng.random(rows) > 0.5, np.ones(rows, np.bool_), np.zeros(rows, np.bool_)):
        packed = np.packbits(values, bitorder="little").tobytes()
        data, layout = one_column(BITS, 1, "U8", [packed], rows)
        for level in (3, 5):
            comes_back(data, layout, level)


@pytest.mark.parametrize(("form", "dtype"), [(TEXTS_32, "<i4"), (TEXTS_64, "<i8")])
def test_texts_come_back(form: int, dtype: str) -> None:
    cells = [b"", b"12", b"a\nb", bytes(40), b"", b"\xff\xfe", b"-7", b"12"] * 20
    offsets = np.cumsum([0, *map(len, cells)]).astype(dtype).tobytes()
    data, layout = one_column(form, 0, "", [offsets, b"".join(cells)], len(cells))
    different = [str(i * i).encode() for i in range(320)]
    more = np.cumsum([0, *map(len, different)]).astype(dtype).tobytes()
    other = one_column(form, 0, "", [more, b"".join(different)], 320)
    for level in (3, 5):
        comes_back(data, layout, level)
        comes_back(*other, level)


@pytest.mark.parametrize(("form", "dtype"), [(TEXTS_32, "<i4"), (TEXTS_64, "<i8")])
def test_offsets_whose_differences_overflow_are_bytes(form: int, dtype: str) -> None:
    most = int(np.iinfo(dtype).max)
    offsets = np.array([0, most - 5, -most, -1, 100], dtype).tobytes()
    assert fitting(*one_column(form, 0, "", [offsets, bytes(100)], 4)) is None


def test_columns_that_are_not_what_they_should_be_are_bytes() -> None:
    data, layout = table_in(stream(*flights(90)))
    assert fitting(data, layout) == layout
    buffers = columns_of(layout)
    for number, (column, is_data) in enumerate(buffers):
        form, at = layout.arrays[column], layout.places[number]
        bad = data.copy()
        if form == BITS:
            bad[at + 90 // 8] |= 0x80  # bits behind the last row
        elif form == CELLS or is_data:
            continue
        else:
            bad[at + 4 * form : at + 5 * form] = 0xFF  # an offset below the one before
        found = fitting(bad, layout)
        assert found is not None and found.columns == layout.columns - 1
        comes_back(bad, found, 3)
        assert coded(bad, layout, 3)[1] == bad.tobytes()
    every = bytes(range(256)) * 3
    offsets = np.arange(0, 769, 256, dtype="<i4").tobytes()
    assert fitting(*one_column(TEXTS_32, 0, "", [offsets, every], 3)) is None


def test_places_that_overlap_or_lie_outside_are_bytes() -> None:
    data, layout = table_in(stream(*flights(90)))
    places = layout.places
    for change in ((2, places[1]), (len(places) - 1, data.size), (0, -1), (3, 1 << 40)):
        moved = list(places)
        moved[change[0]] = change[1]
        lying = replace(layout, places=tuple(moved))
        found = fitting(data, lying)
        assert found is None or found.columns < layout.columns
        assert coded(data, lying, 3)[1] == data.tobytes()
    assert fitting(data[:-30], layout) != layout
    assert fitting(data[:0], layout) is None


@pytest.mark.parametrize("level", [3, 5])
def test_damage_is_refused_or_decoded_as_the_text_says(level: int) -> None:
    data, layout = table_in(stream(*flights(36, 2)))
    model, payload = coded(data, layout, level)
    for place, change in itertools.product(range(0, len(payload), 17), (1, 0xFF)):
        hostile = resealed(model, payload, data.size, place, change)
        _same_as_the_text_says(model, hostile, data.size, compare=level < 5 or place % 5 == 0)


def test_damaged_heads_are_refused_or_decoded_as_the_text_says() -> None:
    data, layout = table_in(stream(*flights(36, 2)))
    model, payload = coded(data, layout, 3)
    for place, change in itertools.product(range(120), (1, 2, 0x80, 0xFF)):
        hostile = bytearray(payload)
        hostile[place] ^= change
        _same_as_the_text_says(model, bytes(hostile), data.size, compare=True)
    for place, change in itertools.product(range(len(model)), (1, 4, 0x80, 0xFF)):
        bad = bytearray(model)
        bad[place] ^= change
        if place:
            _same_as_the_text_says(bytes(bad), payload, data.size, compare=True)


def _same_as_the_text_says(model: bytes, payload: bytes, size: int, compare: bool) -> None:
    try:
        found = decoded(model, payload, size)
    except DensorError:
        found = None
    if not compare:
        return
    try:
        wanted = reference_codecs.parse_model(model).decode(payload, size)
    except Refused:
        wanted = None
    assert found == wanted


def test_texts_that_grow_beyond_their_buffer_take_no_memory() -> None:
    cells = [b"x" * 1000, *[b"y"] * 400]
    offsets = np.cumsum([0, *map(len, cells)]).astype("<i4").tobytes()
    data, layout = one_column(TEXTS_32, 0, "", [offsets, b"".join(cells)], len(cells))
    model, payload = coded(data, layout, 3)
    head = parse_head(np.frombuffer(payload, np.uint8), parse(model), data.size)
    record = bytearray(head.records)
    for place in range(len(record) - 60, len(record)):
        for change in range(1, 256, 7):
            hostile = resealed(model, payload, data.size, place, change)
            _same_as_the_text_says(model, hostile, data.size, compare=False)


def test_more_buffers_than_there_may_be_are_refused() -> None:
    data, layout = table_in(stream(*flights(36)))
    model, payload = coded(data, layout, 3)
    out = Writer()
    out.byte(0)
    out.number(36)
    out.number(1 << 16)
    with pytest.raises(DensorError):
        decoded(model, out.bytes() + payload[3:], data.size)
    with pytest.raises(DensorError):
        decoded(model, payload, data.size + 1)
    with pytest.raises(DensorError):
        decoded(model, b"\1" + payload[1:], data.size)
