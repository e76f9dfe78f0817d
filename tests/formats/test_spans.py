"""Spans of chunks: how many chunks and parameters one may gather."""

from typing import Any

import numpy as np
import pytest

from densor.codec import registry
from densor.codec.spans.decode import SPAN
from densor.formats.container import spans, tensor_blob, wire
from densor.formats.container.spans import LONE, MAX_CHUNKS, Coder, Span


def header(model: int, size: int = 1) -> wire.FrameHeader:
    return wire.FrameHeader(wire.CHUNK, size, size, model, 0)


@pytest.mark.parametrize(("models", "most"), [(1, MAX_CHUNKS), (1 << 20, registry.MODEL_WINDOW)])
def test_tiny_chunks_do_not_pile_up(models: int, most: int) -> None:
    span, count = Span(), 0
    while span.has_room(header(registry.FIRST_MODEL + count % models), Coder.RANS):
        span.add(header(registry.FIRST_MODEL + count % models), 28 * count, None, Coder.RANS)
        count += 1
        assert count <= most
    assert len(span) == count == most


def test_one_chunk_of_any_size_has_room() -> None:
    span, large = Span(), header(registry.MODEL_RAW, wire.CHUNK_LIMIT)
    assert span.has_room(large, Coder.ANY)
    span.add(large, 60, None, Coder.ANY)
    assert not span.has_room(header(registry.MODEL_RAW), Coder.ANY)


def test_chunks_of_two_coders_do_not_share_a_span() -> None:
    """Raw chunks go with either."""
    raw, own = header(registry.MODEL_RAW), header(registry.FIRST_MODEL)
    for coder, other in ((Coder.RANS, Coder.HUFFMAN), (Coder.HUFFMAN, Coder.RANS)):
        span = Span()
        span.add(raw, 60, None, Coder.ANY)
        assert span.has_room(own, coder)
        span.add(own, 120, None, coder)
        assert span.has_room(raw, Coder.ANY)
        span.add(raw, 180, None, Coder.ANY)
        assert span.has_room(own, coder)
        assert not span.has_room(own, other)


@pytest.mark.parametrize(("threads", "most"), [(1, LONE), (2, SPAN)])
def test_a_thread_that_decodes_alone_does_so_in_few_calls(
    monkeypatch: pytest.MonkeyPatch, threads: int, most: int
) -> None:
    calls: list[int] = []
    decode_rows = spans.decode_rows

    def noted(rows: Any, *rest: Any) -> None:
        calls.append(int(rows[:, 4].sum()))
        decode_rows(rows, *rest)

    monkeypatch.setattr(spans, "decode_rows", noted)
    data = np.random.default_rng(0).standard_normal((3 << 20,)).astype(np.float32)
    tensor = tensor_blob.Tensor("w", "F32", (3 << 10, 1 << 10), data.nbytes, None)
    blob = np.frombuffer(tensor_blob.encode(tensor, data.view(np.uint8)), np.uint8)
    found = tensor_blob.decode(blob, tensor, threads)
    assert np.array_equal(found, data.view(np.uint8))
    assert sum(calls) == data.nbytes and max(calls) <= most
    assert len(calls) == 1 if threads == 1 else len(calls) >= 3
