"""Batches: up to 24 MiB of one tensor, or of plain bytes, that share a model.

This is where the codecs meet: a batch comes back as an optional model and a list of chunks, each
the smallest of what was tried.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from densor.codec import registry
from densor.codec.coder import BatchCoder, Bytes
from densor.codec.kind import BYTES, Kind
from densor.codec.levels import Level
from densor.codec.mixing.coder import MixingCoder
from densor.codec.planar.coder import PlanarCoder
from densor.codec.text.coder import TextCoder, is_worth_it
from densor.codec.zstd import zstd_compress
from densor.parallel import Workers

_OWN_MODEL = -1  # a chunk that uses the batch's model
_SMALL = 1 << 12  # bytes up to which the model must prove its worth
_FRAME_HEADER = 28  # bytes in front of each model and each chunk


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

    @property
    def stored(self) -> int:
        """Bytes that it takes in an archive."""
        headers = _FRAME_HEADER * (len(self.chunks) + (self.model is not None))
        return headers + len(self.model or b"") + sum(len(c.payload) for c in self.chunks)


def encode_batch(
    data: Bytes, kind: Kind, level: Level, workers: Workers
) -> Callable[[], CodedBatch]:
    """Starts coding `data`, at most a batch of this kind; call the result to wait for it."""
    matrix_coder = _coder_for(kind, level)
    if matrix_coder is not None:
        return _matrix_batch(matrix_coder, data, kind, level, workers)
    step = kind.chunk_bytes(level)
    chunks = [data[i : i + step] for i in range(0, data.size, step)]
    layout = kind.layout
    if layout is None and level.bytes == "text":
        return _text_batch(chunks, level, workers)
    if layout is None:
        futures = [workers.submit(_bytes_chunk, chunk, level) for chunk in chunks]
        return lambda: CodedBatch(None, [future.result() for future in futures])
    if len(chunks) == 1:
        return workers.submit(_small_batch, data, kind, level).result
    coder = PlanarCoder(data, layout, kind.run, level, kind.integers)
    if coder.whole_zstd:
        return encode_batch(data, BYTES, level, workers)
    counting = [workers.submit(coder.count, chunk) for chunk in chunks]
    coder.decide([future.result() for future in counting])
    coding = [
        workers.submit(_coded_chunk, coder, chunk, i, level, coder.repeats)
        for i, chunk in enumerate(chunks)
    ]
    return lambda: _with_model(coder, [future.result() for future in coding])


def _with_model(coder: BatchCoder, chunks: list[Chunk]) -> CodedBatch:
    return CodedBatch(coder.model() if any(chunk.own for chunk in chunks) else None, chunks)


def _bytes_chunk(chunk: Bytes, level: Level) -> Chunk:
    packed = zstd_compress(chunk, level.zstd)
    if len(packed) < chunk.size:
        return Chunk(registry.MODEL_ZSTD, packed, chunk.size)
    return Chunk(registry.MODEL_RAW, chunk, chunk.size)


def _text_batch(chunks: list[Bytes], level: Level, workers: Workers) -> Callable[[], CodedBatch]:
    """A batch of plain bytes by context mixing, or by Zstandard where that is smaller."""
    coder = TextCoder(max(chunk.size for chunk in chunks))
    futures = [
        workers.submit(_text_chunk, coder, chunk, i, level) for i, chunk in enumerate(chunks)
    ]
    return lambda: _with_model(coder, [future.result() for future in futures])


def _text_chunk(coder: BatchCoder, chunk: Bytes, index: int, level: Level) -> Chunk:
    plain = _bytes_chunk(chunk, level)
    if not is_worth_it(chunk, len(plain.payload)):
        return plain
    payload = coder.encode(chunk, index)
    if len(payload) + _FRAME_HEADER + len(coder.model()) < len(plain.payload):
        return Chunk(_OWN_MODEL, payload, chunk.size)
    return plain


def _coded_chunk(
    coder: BatchCoder, chunk: Bytes, index: int, level: Level, try_zstd: bool
) -> Chunk:
    payload = coder.encode(chunk, index)
    if try_zstd:
        plain = _bytes_chunk(chunk, level)
        if len(plain.payload) < len(payload):
            return plain
    if len(payload) < chunk.size:
        return Chunk(_OWN_MODEL, payload, chunk.size)
    return Chunk(registry.MODEL_RAW, chunk, chunk.size)


def _small_batch(data: Bytes, kind: Kind, level: Level) -> CodedBatch:
    """A batch of one chunk, where the model counts and Zstandard may beat it."""
    assert kind.layout is not None
    coder = PlanarCoder(data, kind.layout, kind.run, level, kind.integers)
    if coder.whole_zstd:
        return CodedBatch(None, [_bytes_chunk(data, level)])
    coder.decide([coder.count(data)])
    coded = _with_model(coder, [_coded_chunk(coder, data, 0, level, coder.repeats)])
    if data.size > _SMALL or coded.model is None:
        return coded
    plain = _bytes_chunk(data, level)
    others = CodedBatch(None, [plain])
    return others if others.stored <= coded.stored else coded


def _coder_for(kind: Kind, level: Level) -> BatchCoder | None:
    """A coder that this level has for matrices of floats, None where planes are to be coded."""
    if kind.coded_by_rows(level) and level.floats == "mixing":
        return MixingCoder(kind)
    return None


def _matrix_batch(
    coder: BatchCoder, data: Bytes, kind: Kind, level: Level, workers: Workers
) -> Callable[[], CodedBatch]:
    """A batch of matrices, also coded by planes: what repeats is better off there."""
    step = kind.chunk_bytes(level)
    chunks = [data[i : i + step] for i in range(0, data.size, step)]
    coder.decide([coder.count(chunk) for chunk in chunks])
    coding = [
        workers.submit(_coded_chunk, coder, chunk, i, level, False)
        for i, chunk in enumerate(chunks)
    ]
    by_planes = encode_batch(data, replace(kind, parts=()), level, workers)

    def result() -> CodedBatch:
        by_rows = _with_model(coder, [future.result() for future in coding])
        return min(by_rows, by_planes(), key=lambda coded: coded.stored)

    return result
