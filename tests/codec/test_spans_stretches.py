"""Batches of FP32 whose low bytes are noise in some chunks only."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import random_state

import densor
from densor.codec.choose import matrices
from densor.codec.kind import kind_of
from densor.codec.levels import level_settings
from densor.codec.spans.stretches import stretches
from densor.formats.container import writer

COLUMNS = 384
ROWS = 682  # of a chunk


def weights(rows: int, columns: int = COLUMNS) -> Any:
    rng = random_state("stretches", rows, columns)
    return (0.02 * rng.standard_normal((rows, columns))).astype(np.float32)


def narrow(values: Any) -> None:
    """As if they had been BF16."""
    values.view(np.uint32)[:] &= 0xFFFF0000


def cuts(values: Any, level: int = 3) -> list[tuple[int, int]]:
    """Of a batch, in chunks."""
    kind = kind_of("F32", values.shape)
    data = values.reshape(-1).view(np.uint8)
    found = stretches(data, kind, level_settings(level))
    assert found[0][0] == 0 and found[-1][1] == data.size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    assert all(begin % kind.whole_runs == 0 for begin, _ in found)
    return [(begin // kind.whole_runs, -(-end // kind.whole_runs)) for begin, end in found]


def test_noise_is_one_stretch() -> None:
    assert cuts(weights(8 * ROWS)) == [(0, 8)]


def test_stretches_end_where_rows_cease_to_be_noise() -> None:
    values = weights(8 * ROWS + 5)
    narrow(values[:100])
    narrow(values[5 * ROWS + 300 : 6 * ROWS + 50])
    assert cuts(values) == [(0, 1), (1, 5), (5, 7), (7, 9)]
    assert [cuts(values, level) for level in (4, 6, 9)] == [[(0, 9)]] * 3


@pytest.mark.parametrize("columns", [16, 1000, 4096, 65536])
@pytest.mark.parametrize("rest", [0, 1])
def test_rows_of_any_length(columns: int, rest: int) -> None:
    chunk = kind_of("F32", (1 << 22, columns)).whole_runs
    values = weights(-(-5 * chunk // (4 * columns)) + rest, columns)
    narrow(values[: len(values) // 5])
    found = cuts(values)
    assert found == [(0, 1), (1, found[-1][1])] or columns < 64


def test_few_chunks_and_many_stretches_are_left_as_they_are() -> None:
    values = weights(3 * ROWS)
    narrow(values[:ROWS])
    assert cuts(values) == [(0, 3)]
    values = weights(20 * ROWS)
    for chunk in range(0, 20, 2):
        narrow(values[chunk * ROWS : (chunk + 1) * ROWS])
    assert cuts(values) == [(0, 20)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("level", [1, 3])
def test_they_take_less_and_come_back(
    level: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = weights(6 * ROWS + 100)
    narrow(values[:700])
    by_spans = []
    encode: Callable[..., Any] = matrices.encode_span

    def counted(batch: Any, *arguments: Any) -> Any:
        coded = encode(batch, *arguments)
        by_spans.append(0 if coded is None else batch.data.size)
        return coded

    monkeypatch.setattr(matrices, "encode_span", counted)
    packed = densor.save({"a": values, "b": values[:3]}, level=level, threads=threads)
    assert sum(by_spans) > 0.6 * values.nbytes
    found = densor.load(packed)
    assert np.array_equal(found["a"].view(np.uint32), values.view(np.uint32))
    monkeypatch.setattr(writer, "stretches", lambda data, *_: [(0, data.size)])
    by_spans.clear()
    whole = densor.save({"a": values, "b": values[:3]}, level=level, threads=threads)
    assert sum(by_spans) == 0 and len(packed) < 1.0005 * len(whole)
