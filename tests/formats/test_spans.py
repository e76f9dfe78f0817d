"""Spans of chunks: how many chunks and parameters one may gather."""

import pytest

from densor.codec import registry
from densor.formats.container import wire
from densor.formats.container.spans import MAX_CHUNKS, Span


def header(model: int, size: int = 1) -> wire.FrameHeader:
    return wire.FrameHeader(wire.CHUNK, size, size, model, 0)


@pytest.mark.parametrize(("models", "most"), [(1, MAX_CHUNKS), (1 << 20, registry.MODEL_WINDOW)])
def test_tiny_chunks_do_not_pile_up(models: int, most: int) -> None:
    span, count = Span(), 0
    while span.has_room(header(registry.FIRST_MODEL + count % models)):
        span.add(header(registry.FIRST_MODEL + count % models), 28 * count, None)
        count += 1
        assert count <= most
    assert len(span) == count == most


def test_one_chunk_of_any_size_has_room() -> None:
    span, large = Span(), header(registry.MODEL_RAW, wire.CHUNK_LIMIT)
    assert span.has_room(large)
    span.add(large, 60, None)
    assert not span.has_room(header(registry.MODEL_RAW))
