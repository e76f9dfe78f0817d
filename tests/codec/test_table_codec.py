"""The codec of tables: round trips, size, hostile input, and the slow decoder made from its text."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from helpers import random_state
from reference import codecs as reference_codecs
from reference.reading import Refused
from tables import RECORDS, broken, table

import densor
from densor.codec.choose import encode_batch
from densor.codec.batch import Batch
from densor.codec.kind import BYTES, kind_of_table
from densor.codec.levels import level_settings
from densor.codec.registry import CODEC_TABLE
from densor.codec.table import decoder, params
from densor.codec.table.cells import rows_of
from densor.codec.table.encoder import TableCoder
from densor.codec.table.layout import Layout
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
    comes_back(RECORDS[name], level)


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
