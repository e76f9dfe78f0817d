"""Batches: up to 24 MiB of one tensor, or of plain bytes, that share a model.

This is where the codecs meet: a batch comes back as an optional model and a list of chunks, each
the smallest of what was tried.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.blocks.encoder import FieldsCoder
from densor.codec.byte_cm.encoder import LEAST_TEXT, TextCoder
from densor.codec.coder import BatchCoder, Bytes
from densor.codec.delta.encoder import ChangeCoder
from densor.codec.float_cm.encoder import MixingCoder
from densor.codec.kind import BYTES, Kind, is_plain
from densor.codec.language_model.encoder import LlmCoder
from densor.codec.language_model.session import Session
from densor.codec.levels import Level
from densor.codec.planes.encoder import STAGES, PlaneCoder
from densor.codec.planes.layout import Layout, layout_numbered
from densor.codec.registry import LAYOUT_WORD16
from densor.codec.scale_context.encoder import ScalesCoder
from densor.codec.scale_context.tables import History
from densor.codec.sparse.encoder import SparseCoder, with_zeros
from densor.codec.zstd import zstd_compress
from densor.llm.vocabulary import readable
from densor.runtime.workers import Workers

_OWN_MODEL = -1  # a chunk that uses the batch's model
_CLEARLY = 0.98  # the bitmap of zeros must save this much
_FAST_ZSTD = 3  # a level that costs little more than the fastest
_SLOW_ZSTD = 19  # where time is of no concern
_NEAR = 1.25  # what slow levels save against the fastest, at most
_SMALL = 1 << 12  # bytes up to which the model must prove its worth
_MEDIUM = 1 << 16  # bytes up to which Huffman codes may be smaller, for their simpler model
_TRIED = 1 << 19  # bytes up to which floats are coded both by rows and by planes
_LEAST_ASKED = 128  # bytes that a language model is asked about
_LEAST_TEXT = 0.5  # share of them that reads like a text; of noise, .38 does
_LOOK, _LOOKS = 1 << 12, 32  # bytes of a sample, and samples
_QUICK_ZSTD = 9  # the fastest level that looks for distant repeats
_REPEATS = 500  # to one: Zstandard has done it all
_DENSE = 0.99  # what Zstandard finds nothing in, others rarely do
_FAR = 0.7  # of what the quick level takes; a slow one took less of 1 in 333 files of many kinds
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


class Before(NamedTuple):
    """What a batch may be coded against: as many bytes, from `offset` of the base on."""

    data: Bytes
    offset: int


def encode_batch(
    data: Bytes,
    kind: Kind,
    level: Level,
    workers: Workers,
    history: History | None = None,
    base: Before | None = None,
    llm: Session | None = None,
) -> Callable[[], CodedBatch]:
    """Starts coding `data`, at most a batch of this kind; call the result to wait for it.

    `history`: of the archive, None if there is just one batch. Batches are given in the order that
    they will have there.
    """
    history = History() if history is None else history
    step = kind.chunk_bytes(level)
    if base is not None:
        size = 1 if kind.layout is None else kind.layout.size
        changes = ChangeCoder(data, base.data, base.offset, kind.dtype, size)
        if changes.pays:
            return _changes(changes, data, base.data, workers)
    chunks = [data[i : i + step] for i in range(0, data.size, step)]
    if is_plain(kind):
        if llm is not None:
            return _llm_batch(data, kind, level, workers, llm)
        if level.bytes != "zstd" and data.size >= LEAST_TEXT:
            return _text_batch(data, chunks, level, workers)
        futures = [workers.submit(_bytes_chunk, chunk, level) for chunk in chunks]
        return lambda: CodedBatch(None, [future.result() for future in futures])
    if kind.coded_by_rows(level) and level.floats == "mixing":
        return _mixed(data, chunks, kind, level, workers)
    if kind.coded_by_rows(level) and data.size > _SMALL and with_zeros(data, kind) is None:
        by_rows = _by_rows(data, chunks, kind, level, workers, history)
        if by_rows is not None:
            return by_rows
    if len(chunks) == 1:
        return workers.submit(_small_batch, data, kind, level).result
    coder = _coder_for(data, kind, level)
    if coder is None:
        return encode_batch(data, BYTES, replace(level, bytes="zstd"), workers, history)
    counting = [workers.submit(coder.count, chunk) for chunk in chunks]
    coder.decide([future.result() for future in counting])
    return _start_chunks(coder, chunks, level, workers)


def _start_chunks(
    coder: BatchCoder, chunks: list[Bytes], level: Level, workers: Workers
) -> Callable[[], CodedBatch]:
    coding = [
        workers.submit(_coded_chunk, coder, chunk, i, level) for i, chunk in enumerate(chunks)
    ]
    return lambda: _with_model(coder, [future.result() for future in coding])


def _mixed(
    data: Bytes, chunks: list[Bytes], kind: Kind, level: Level, workers: Workers
) -> Callable[[], CodedBatch]:
    """Starts context mixing, and coding by planes too: what repeats is better off there."""
    # Planes first: their counting is waited for, and must not queue behind the slower coder.
    by_planes = encode_batch(data, replace(kind, parts=()), level, workers)
    coder = MixingCoder(kind)
    by_rows = _start_chunks(coder, chunks, level, workers)
    return lambda: min(by_rows(), by_planes(), key=lambda coded: coded.stored)


def _by_rows(
    data: Bytes,
    chunks: list[Bytes],
    kind: Kind,
    level: Level,
    workers: Workers,
    history: History,
) -> Callable[[], CodedBatch] | None:
    """Starts coding floats in matrices; None where planes are estimated to be smaller.

    Counting is waited for here, so that batches choose from tables in the order of the archive,
    whatever the number of threads.
    """
    assert kind.layout is not None
    planar = _plane_coder(data, kind.layout, kind, level)
    low = _low_coder(data, kind, level)
    coder = ScalesCoder(kind, history, low, repeats=planar.repeats)
    counting = [workers.submit(coder.count, chunk) for chunk in chunks]
    coder.decide([future.result() for future in counting])
    elements = data.size // kind.layout.size
    planes = min(2, kind.layout.size)
    if len(chunks) == 1 and data.size <= _TRIED:
        return _smaller_way(coder, data, kind, level, workers)
    if coder.bits > elements * planar.element_bits(planes):
        return None
    coder.keep()
    return _start_chunks(coder, chunks, level, workers)


def _smaller_way(
    coder: ScalesCoder, data: Bytes, kind: Kind, level: Level, workers: Workers
) -> Callable[[], CodedBatch]:
    """A small batch of one chunk by rows or by planes, whatever is smaller in the end."""
    planes = workers.submit(_small_batch, data, kind, level)
    rows = _with_model(coder, [_coded_chunk(coder, data, 0, level)])
    model = _FRAME_HEADER + len(rows.model or b"")
    if rows.stored - model * coder.free < planes.result().stored:
        coder.keep()
        return lambda: rows
    return planes.result


def _low_coder(data: Bytes, kind: Kind, level: Level) -> BatchCoder | None:
    """A coder for the low halves of elements of 4 bytes, if anything is to be gained there."""
    if kind.layout is None or kind.layout.size != 4:
        return None
    low = np.ascontiguousarray(data.view("<u2")[::2]).view(np.uint8)
    level = replace(level, try_zstd=False)
    coder = _plane_coder(low, layout_numbered(LAYOUT_WORD16), kind, level)
    return coder if coder.useful else None


def _coder_for(data: Bytes, kind: Kind, level: Level) -> BatchCoder | None:
    """The coder that suits a batch best; None where that is Zstandard on plain bytes."""
    if kind.fields:
        return FieldsCoder(data, kind, level, _element_coder)
    zeros = with_zeros(data, kind)
    if zeros is not None:
        plain = _tried_size(_element_coder(zeros, kind, level), zeros, level)
        sparse = SparseCoder(zeros, kind, level, _element_coder)
        if _tried_size(sparse, zeros, level) < _CLEARLY * plain:
            return SparseCoder(data, kind, level, _element_coder)
    return _element_coder(data, kind, level)


def _element_coder(data: Bytes, kind: Kind, level: Level) -> BatchCoder | None:
    """The coder of elements of one type, all of them."""
    assert kind.layout is not None
    coder = _plane_coder(data, kind.layout, kind, level)
    return None if coder.whole_zstd else coder


def _plane_coder(data: Bytes, layout: Layout, kind: Kind, level: Level) -> PlaneCoder[Any]:
    return PlaneCoder(STAGES[level.planes], data, layout, kind.run, level, kind.integers)


def _tried_size(coder: BatchCoder | None, sample: Bytes, level: Level) -> int:
    """Bytes that a sample takes when it is coded alone; models count for nothing."""
    if coder is None:
        return len(_bytes_chunk(sample, level).payload)
    coder.decide([coder.count(sample)])
    return len(_coded_chunk(coder, sample, 0, level).payload)


def _changes(
    coder: ChangeCoder, data: Bytes, base: Bytes, workers: Workers
) -> Callable[[], CodedBatch]:
    step = coder.chunk_bytes
    pieces = [(data[i : i + step], base[i : i + step], i) for i in range(0, data.size, step)]
    for task in [workers.submit(coder.count, new, old) for new, old, _ in pieces]:
        task.result()
    coder.decide()
    coding = [workers.submit(_changed_chunk, coder, *piece) for piece in pieces]
    return lambda: _with_model(coder, [future.result() for future in coding])


def _changed_chunk(coder: ChangeCoder, chunk: Bytes, base: Bytes, begin: int) -> Chunk:
    payload = coder.encode(chunk, base, begin)
    if payload.size < chunk.size:
        return Chunk(_OWN_MODEL, payload, chunk.size)
    return Chunk(registry.MODEL_RAW, chunk, chunk.size)


def _with_model(coder: BatchCoder | ChangeCoder, chunks: list[Chunk]) -> CodedBatch:
    return CodedBatch(coder.model() if any(chunk.own for chunk in chunks) else None, chunks)


def _bytes_chunk(chunk: Bytes, level: Level) -> Chunk:
    packed = zstd_compress(chunk, level.zstd)
    if len(packed) < chunk.size:
        return Chunk(registry.MODEL_ZSTD, packed, chunk.size)
    return Chunk(registry.MODEL_RAW, chunk, chunk.size)


def _text_batch(
    data: Bytes, chunks: list[Bytes], level: Level, workers: Workers
) -> Callable[[], CodedBatch]:
    """Starts coding plain bytes by context mixing, or by Zstandard where that is smaller."""
    coder = TextCoder(data, light=level.bytes == "light")
    tasks = [workers.submit(_text_chunk, coder, chunk, i, level) for i, chunk in enumerate(chunks)]
    return lambda: _with_model(coder, [task.result() for task in tasks])


def _text_chunk(coder: TextCoder, chunk: Bytes, index: int, level: Level) -> Chunk:
    quick = _bytes_chunk(chunk, replace(level, zstd=_QUICK_ZSTD))
    if len(quick.payload) * _REPEATS < chunk.size:
        return _bytes_chunk(chunk, level)
    if len(quick.payload) > _DENSE * chunk.size and not coder.promises(chunk):
        return quick
    payload = coder.encode(chunk, index)
    coded = Chunk(_OWN_MODEL, payload, chunk.size)
    if len(payload) < _FAR * len(quick.payload):
        return coded
    plain = quick if level.zstd == _QUICK_ZSTD else _bytes_chunk(chunk, level)
    model = _FRAME_HEADER + len(coder.model())
    return coded if len(payload) + model < len(plain.payload) else plain


def _llm_batch(
    data: Bytes, kind: Kind, level: Level, workers: Workers, session: Session
) -> Callable[[], CodedBatch]:
    """A batch of plain bytes under a language model, or without it where that is smaller."""
    level = replace(level, bytes="full", zstd=max(level.zstd, _SLOW_ZSTD))
    without = encode_batch(data, kind, level, workers)
    packed = len(zstd_compress(data, _FAST_ZSTD))
    if data.size < _LEAST_ASKED or packed * _REPEATS < data.size or not _holds_text(data):
        session.moved((1 + session.check) * data.size)
        return without
    coder = LlmCoder(data, session, workers)

    def result() -> CodedBatch:
        chunks = [Chunk(_OWN_MODEL, payload, size) for payload, size in coder.payloads()]
        return min(CodedBatch(coder.model(), chunks), without(), key=lambda coded: coded.stored)

    return result


def _holds_text(data: Bytes) -> bool:
    """Whether a fifth of the bytes or more seem to belong to texts, by samples from all over."""
    step = max(_LOOK, data.size // _LOOKS)
    samples = b"".join(data[at : at + _LOOK].tobytes() for at in range(0, data.size, step))
    return readable(samples) >= _LEAST_TEXT


def _zstd_has_a_chance(chunk: Bytes, coded: int, level: Level) -> bool:
    """Whether the fastest level of Zstandard comes near enough for a slow one to be tried."""
    return level.zstd <= _FAST_ZSTD or len(zstd_compress(chunk, 1)) < _NEAR * coded


def _coded_chunk(coder: BatchCoder, chunk: Bytes, index: int, level: Level) -> Chunk:
    payload = coder.encode(chunk, index)
    if coder.repeats and _zstd_has_a_chance(chunk, len(payload), level):
        plain = _bytes_chunk(chunk, level)
        if len(plain.payload) < len(payload):
            return plain
    if len(payload) < chunk.size:
        return Chunk(_OWN_MODEL, payload, chunk.size)
    return Chunk(registry.MODEL_RAW, chunk, chunk.size)


def _small_batch(data: Bytes, kind: Kind, level: Level) -> CodedBatch:
    """A batch of one chunk, where the model counts and a simpler way may beat it."""
    coder = _coder_for(data, kind, level)
    if coder is None:
        return CodedBatch(None, [_bytes_chunk(data, level)])
    coder.decide([coder.count(data)])
    ways = [_with_model(coder, [_coded_chunk(coder, data, 0, level)])]
    if level.planes == "rans" and data.size <= _MEDIUM:
        ways.append(_small_batch(data, kind, replace(level, planes="huffman")))
    if data.size <= _SMALL and ways[0].model is not None:
        ways.append(CodedBatch(None, [_bytes_chunk(data, level)]))
    return min(ways, key=lambda coded: coded.stored)
