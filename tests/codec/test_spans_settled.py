"""Elements of any layout in spans: what is written is what is written chunk by chunk."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import random_state

from densor.codec import registry
from densor.codec.batch import Batch, CodedBatch
from densor.codec.chunks import CountingEncoder
from densor.codec.kind import Kind
from densor.codec.levels import level_settings
from densor.codec.planes.layout import LAYOUTS
from densor.codec.planes.propose import propose
from densor.codec.spans import settled
from densor.formats.container import wire
from densor.runtime.workers import Workers

ROWS, RUN, PER_CHUNK = 220, 320, 33


def elements(layout: int, content: str) -> Any:
    """Rows of unlike elements, as bytes; chunks and rows differ in what is in them."""
    size = LAYOUTS[layout].size
    rng = random_state("settled", layout, content)
    spread = np.exp(rng.normal(0, 0.5, (ROWS, 1)))
    numbers = rng.standard_normal((ROWS, RUN)) * spread
    if layout in (registry.LAYOUT_FP32, registry.LAYOUT_FP64):
        data = numbers.astype(f"<f{size}").view(np.uint8)
    elif layout == registry.LAYOUT_BF16:
        data = (numbers.astype("<f4").view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    else:
        data = np.rint(numbers * 12).astype(f"<i{size}").view(np.uint8)
    data = data.reshape(ROWS, RUN * size).copy()
    if content == "odd":
        data[PER_CHUNK : 2 * PER_CHUNK] = 5  # a chunk of one value
        noise = rng.integers(0, 256, (ROWS, RUN * size), dtype=np.uint8)
        data[::3] = noise[::3]
        data[1::3] = 77
        data[-PER_CHUNK:] = noise[-PER_CHUNK:]
    return data.reshape(-1)[: data.size - 7 * size]  # the last row is shorter


@pytest.mark.parametrize("content", ["rows", "odd"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bytes_as_chunk_by_chunk(layout: int, content: str) -> None:
    data = elements(layout, content)
    kind = Kind(LAYOUTS[layout], RUN)
    for classes, threads in ((1, 1), (2, 2), (4, 1), (4, 3)):
        level = replace(level_settings(3), classes=classes, try_zstd=False)
        chunk = PER_CHUNK * RUN * LAYOUTS[layout].size
        batch = Batch(data, kind, Workers(threads), chunk_bytes=chunk)
        encoder, ordinary = propose(batch, level), propose(batch, level)
        assert encoder is not None and ordinary is not None
        assert settled.suits(encoder.coder, batch)
        found, expected = encoder.encode().result(), CountingEncoder.encode(ordinary).result()
        assert found.model == expected.model
        assert [(bytes(c.payload), c.model, c.original) for c in found.chunks] == [
            (bytes(c.payload), c.model, c.original) for c in expected.chunks
        ]
        _check_frames(found)


def _check_frames(coded: CodedBatch) -> None:
    assert coded.frames is not None
    made = b"".join(piece.tobytes() for piece in coded.frames.number(registry.FIRST_MODEL + 3))
    expected = b""
    for chunk in coded.chunks:
        model = registry.FIRST_MODEL + 3 if chunk.own else chunk.model
        expected += wire.pack_frame(wire.CHUNK, chunk.payload, chunk.original, model)
        expected += bytes(chunk.payload)
    assert made == expected
