"""Batches of floats, as `choose/candidates.py` knows them, for the span encoder."""

from densor.codec.batch import Batch, CodedBatch
from densor.codec.levels import Level
from densor.codec.spans.encode import encode_batch, frame_room
from densor.runtime.buffers import POOL


def encode_span(batch: Batch, level: Level) -> CodedBatch | None:
    """The batch as frames in memory of the pool; None where it is not for this encoder."""
    kind = batch.kind
    assert kind.layout is not None
    run = kind.run
    rows = batch.chunk_bytes // (run * kind.layout.size)
    if rows < 1:
        return None
    step = rows * run * kind.layout.size
    memory = POOL.take(frame_room(batch.data.size, step))

    classes, careful = level.classes, level.try_zstd
    encoded = encode_batch(batch.data, kind.layout.number, run, rows, classes, careful, memory)
    if encoded is None:
        POOL.give(memory)
        return None
    return CodedBatch(encoded.parameters, encoded.chunks, memory, encoded)
