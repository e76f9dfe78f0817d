"""Ways that are not tried where another takes less than they can: what is chosen is the same."""

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from densor.codec.batch import Batch, CodedBatch
from densor.codec.choose import matrices, planes
from densor.codec.choose.sizes import chunk_bytes
from densor.codec.history import History
from densor.codec.kind import kind_of
from densor.codec.levels import level_settings
from densor.codec.spans.matrices import MatrixSpan
from densor.runtime.workers import Workers

LEVEL = level_settings(6)
DTYPES = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def batch_of(dtype: str, rows: int, columns: int, spread: float) -> Batch:
    """Weights whose rows differ in scale."""
    rng = np.random.default_rng(rows)
    values = rng.standard_normal((rows, columns)) * np.exp(rng.normal(0, spread, (rows, 1)))
    data = np.ascontiguousarray(values.astype(DTYPES[dtype])).view(np.uint8).ravel()
    batch = Batch(data, kind_of(dtype, (rows, columns)), Workers(1), History())
    return batch.in_chunks_of(chunk_bytes(batch.kind, LEVEL))


@pytest.mark.parametrize("shape", [(96, 512), (384, 384), (300, 700)])
@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_choice_is_that_of_all_trials(
    dtype: str, spread: float, shape: tuple[int, int]
) -> None:
    batch = batch_of(dtype, *shape, spread)
    least = matrices.as_planes_or_spans(batch, LEVEL).result().stored
    for enough in (0, least // 2, least - 300, least - 1, least, least + 1, 2 * least, math.inf):
        found = matrices.as_planes_or_spans(batch, LEVEL, enough).result().stored
        assert min(found, enough) == min(least, enough)


def test_nothing_simpler_is_tried_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of("F8_E4M3", 384, 384, 0.5)
    tried: list[int] = []
    real = planes.smallest

    def counted(ways: list[CodedBatch]) -> CodedBatch:
        tried.append(len(ways))
        return real(ways)

    monkeypatch.setattr(planes, "smallest", counted)
    stored = matrices.as_planes_or_spans(batch, LEVEL).result().stored
    matrices.as_planes_or_spans(batch, LEVEL, 0.9 * stored).result()
    assert tried[-1] == 2 < tried[0]  # by rANS, and as it is


def test_what_planes_code_far_better_is_not_coded_by_scales(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second matrix is so small that scales, relative to its, do not reach those of the first."""
    batch = batch_of("BF16", 385, 384, 0.2)
    batch.data[-2 * 384 :].view(ml_dtypes.bfloat16)[:] *= 2.0**-60
    batch = batch.of_kind(replace(batch.kind, parts=((384, 384), (1, 384))))
    batch = batch.in_chunks_of(chunk_bytes(batch.kind, LEVEL))
    span = matrices.plan(batch, LEVEL)
    assert span is not None and span.bits > matrices.MAX_LOSS * span.by_planes

    def never(span: MatrixSpan) -> CodedBatch:
        raise AssertionError("a batch is coded in vain")

    monkeypatch.setattr(MatrixSpan, "encode", never)
    coding = matrices.as_matrix_spans(batch, LEVEL)
    assert coding is not None
    assert coding.result().stored == matrices.as_planes_or_spans(batch, LEVEL).result().stored
