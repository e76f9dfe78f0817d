"""Records as tables: round trips, sizes, hostile input, and the decoder made from its text."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from helpers import random_state
from record_arrays import layout_of_records, npy, records
from reference import codecs as reference_codecs
from reference.reading import Refused
from table_chunks import both_ways, coded, decoded
from tables import resealed

from densor.codec.table import decoder
from densor.codec.table.items import FLOATS, INTEGERS
from densor.codec.table.layout import Layout
from densor.codec.table.payload import parse_head
from densor.errors import DensorError

LEVELS = (3, 5, 9)
Bytes = npt.NDArray[np.uint8]


def comes_back(data: Bytes, layout: Layout, level: int) -> int:
    payload = both_ways(data, layout, level)
    assert len(payload) < data.size
    return len(payload)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("align", [False, True])
def test_records_come_back(align: bool, level: int) -> None:
    array = records(400, align)
    layout = layout_of_records(npy(array))
    assert layout.stride == array.itemsize
    data = array.view(np.uint8).reshape(-1)
    comes_back(data, layout, level)
    comes_back(data[:-5], layout, level)


def dictionaries(data: Bytes, layout: Layout) -> list[int]:
    """First bytes of the records of columns, with the kind where they have a dictionary."""
    model, payload = coded(data, layout, 3)
    head = parse_head(
        np.frombuffer(payload, np.uint8), decoder.open_decoder(model).layout, data.size
    )
    found = []
    for column in range(layout.columns):
        begin, _ = head.range_of(column)
        method, kind = head.records[begin : begin + 2].tolist()
        found.append(kind if method in (1, 2) else -method)
    return found


@pytest.mark.parametrize(
    ("dtype", "values", "kind"),
    [
        ("<i4", range(-70, 70), INTEGERS),
        (">i4", range(-70, 70), INTEGERS),
        ("<u8", [2**63 + 1, 5, 2**64 - 1, 0], INTEGERS),
        ("<i8", [-(2**63), 2**63 - 1, 10**18, 1, -1], INTEGERS),
        ("<f8", [i / 100 for i in range(-50, 50)], FLOATS),
        (">f8", [i / 100 for i in range(-50, 50)], FLOATS),
        ("<f4", [i / 1000 for i in range(-50, 50)], FLOATS),
        ("<f8", [1e300, -0.0, 0.0, 1.5, 2.5, 3.25, 4, 5, np.inf, np.nan, 2.0**60], FLOATS),
        ("<f4", [1e-12 * np.pi**i for i in range(-9, 9)], INTEGERS),
        ("<f8", [np.pi**i for i in range(-9, 9)], 0),
    ],
)
def test_cells_are_numbers_where_they_can_be(dtype: str, values: list[float], kind: int) -> None:
    rng = random_state("cells")
    array = np.zeros(900, [("a", dtype), ("b", "u1")])
    array["a"] = rng.choice(np.array(list(values), dtype), 900)
    array["b"] = rng.integers(0, 5, 900)
    data = array.view(np.uint8).reshape(-1)
    layout = layout_of_records(npy(array))
    assert dictionaries(data, layout)[0] == kind
    for level in (3, 5):
        comes_back(data, layout, level)


def test_ascending_integers_are_steps() -> None:
    array = np.zeros(3000, [("a", "<i8"), ("b", ">u4")])
    array["a"] = np.arange(3000) * 1000 - 10**9
    array["b"] = np.arange(3000)
    data = array.view(np.uint8).reshape(-1)
    assert comes_back(data, layout_of_records(npy(array)), 3) < 300


@pytest.mark.parametrize("level", [3, 5])
def test_damage_is_refused_or_decoded_as_the_text_says(level: int) -> None:
    array = records(36)
    layout = layout_of_records(npy(array))
    data = array.view(np.uint8).reshape(-1)
    model, payload = coded(data, layout, level)
    for place, change in itertools.product(range(0, len(payload), 11), (1, 0xFF)):
        hostile = resealed(model, payload, data.size, place, change)
        try:
            found = decoded(model, hostile, data.size)
        except DensorError:
            found = None
        if level > 3 and place % 3:
            continue
        try:
            wanted = reference_codecs.parse_model(model).decode(hostile, data.size)
        except Refused:
            wanted = None
        assert found == wanted


def test_more_records_than_the_chunk_holds_are_refused() -> None:
    array = records(40)
    layout = layout_of_records(npy(array))
    data = array.view(np.uint8).reshape(-1)
    model, payload = coded(data, layout, 3)
    with pytest.raises(DensorError):
        decoded(model, payload, data.size - 1)
    with pytest.raises(DensorError):
        decoded(model, payload[:1] + bytes([41]) + payload[2:], data.size)
