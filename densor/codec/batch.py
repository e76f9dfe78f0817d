"""Batches: up to 24 MiB of one tensor, or of plain bytes, that share a model.

This is where the codecs meet: a batch comes back as an optional model and a list of chunks, each
the smallest of what was tried.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from densor.codec import registry
from densor.codec.levels import Level
from densor.codec.planar import analyse, model
from densor.codec.planar.encode import PlanarEncoder
from densor.codec.planar.layout import Bytes, Layout, layout_for
from densor.codec.zstd import zstd_compress
from densor.parallel import Workers

BATCH_BYTES = 3 << 23  # below the size from which allocators return memory at once
_INTEGERS = frozenset({"U8", "I8", "BOOL", "U16", "I16", "U32", "I32", "U64", "I64"})
_OWN_MODEL = -1  # a chunk that uses the batch's model
_SMALL = 1 << 12  # bytes up to which the model must prove its worth


class Chunk(NamedTuple):
    """A coded chunk: `model` is a fixed model number or `Chunk.OWN` for the batch's own."""

    model: int
    payload: bytes | Bytes
    original: int

    @property
    def own(self) -> bool:
        """Whether the chunk uses the batch's model."""
        return self.model == _OWN_MODEL


class CodedBatch(NamedTuple):
    """A model, if any chunk uses one, and the chunks in order."""

    model: bytes | None
    chunks: list[Chunk]


@dataclass(frozen=True)
class Kind:
    """What a batch is made of: elements of a dtype in runs, or plain bytes (no layout)."""

    layout: Layout | None
    run: int = 1
    integers: bool = False

    @property
    def chunk_bytes(self) -> int:
        """Original bytes per chunk."""
        if self.layout is None:
            return 1 << 22
        return analyse.chunk_elements(self.layout, self.run) * self.layout.size

    @property
    def batch_bytes(self) -> int:
        """Original bytes per batch, whole chunks."""
        return max(1, BATCH_BYTES // self.chunk_bytes) * self.chunk_bytes


BYTES = Kind(None)


def kind_of(dtype: str, shape: Sequence[int]) -> Kind:
    """How to treat a tensor of this safetensors dtype and shape."""
    layout = layout_for(dtype)
    if layout is None:
        return BYTES
    rows = tuple(shape)
    if dtype in ("C64", "C128"):
        rows = (*rows, 2)
    return Kind(layout, analyse.run_length(rows), dtype in _INTEGERS)


def encode_batch(
    data: Bytes, kind: Kind, level: Level, workers: Workers
) -> Callable[[], CodedBatch]:
    """Starts coding `data`, at most `kind.batch_bytes` of it; call the result to wait for it."""
    chunks = [data[i : i + kind.chunk_bytes] for i in range(0, data.size, kind.chunk_bytes)]
    layout = kind.layout
    if layout is None:
        futures = [workers.submit(_bytes_chunk, chunk, level) for chunk in chunks]
        return lambda: CodedBatch(None, [future.result() for future in futures])
    if len(chunks) == 1:
        future = workers.submit(_small_batch, data, layout, kind, level)
        return future.result
    plan = analyse.look(data, layout, kind.run, level, kind.integers)
    if plan.whole_zstd:
        return encode_batch(data, BYTES, level, workers)
    counting = [workers.submit(analyse.count, plan, chunk) for chunk in chunks]
    analyse.decide(plan, [future.result() for future in counting], level)
    encoder = PlanarEncoder(plan, level)
    runs = kind.chunk_bytes // layout.size // kind.run
    coding = [
        workers.submit(_planar_chunk, encoder, plan, chunk, i * runs, level)
        for i, chunk in enumerate(chunks)
    ]
    return lambda: _with_model(plan, [future.result() for future in coding])


def _with_model(plan: analyse.Plan, chunks: list[Chunk]) -> CodedBatch:
    own = any(chunk.own for chunk in chunks)
    return CodedBatch(model.pack(plan.model()) if own else None, chunks)


def _bytes_chunk(chunk: Bytes, level: Level) -> Chunk:
    packed = zstd_compress(chunk, level.zstd)
    if len(packed) < chunk.size:
        return Chunk(registry.MODEL_ZSTD, packed, chunk.size)
    return Chunk(registry.MODEL_RAW, chunk, chunk.size)


def _planar_chunk(
    encoder: PlanarEncoder, plan: analyse.Plan, chunk: Bytes, first_run: int, level: Level
) -> Chunk:
    payload = encoder.encode(chunk, first_run)
    if plan.repeats:
        plain = _bytes_chunk(chunk, level)
        if len(plain.payload) < len(payload):
            return plain
    if len(payload) < chunk.size:
        return Chunk(_OWN_MODEL, payload, chunk.size)
    return Chunk(registry.MODEL_RAW, chunk, chunk.size)


def _small_batch(data: Bytes, layout: Layout, kind: Kind, level: Level) -> CodedBatch:
    """A batch of one chunk, where the model counts and Zstandard may beat it."""
    plan = analyse.look(data, layout, kind.run, level, kind.integers)
    if plan.whole_zstd:
        return CodedBatch(None, [_bytes_chunk(data, level)])
    analyse.decide(plan, [analyse.count(plan, data)], level)
    coded = _with_model(plan, [_planar_chunk(PlanarEncoder(plan, level), plan, data, 0, level)])
    if data.size > _SMALL or coded.model is None:
        return coded
    plain = _bytes_chunk(data, level)
    frame_header = 28
    smaller = len(coded.model) + frame_header + len(coded.chunks[0].payload) >= len(plain.payload)
    return CodedBatch(None, [plain]) if smaller else coded
