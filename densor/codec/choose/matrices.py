"""Floats in matrices: by rows, by scales, by spans, or as planes."""

import math
from dataclasses import replace

from densor.codec import registry
from densor.codec.batch import Batch, CodedBatch, Coding, Otherwise, Smallest
from densor.codec.choose.planes import (
    MAX_BYTES_OF_ZSTD,
    MIN_BYTES_OF_SPANS,
    as_planes,
    least_of_simpler,
)
from densor.codec.choose.sizes import chunk_bytes
from densor.codec.choose.trials import coded_bytes, proposed
from densor.codec.codecs import CODECS
from densor.codec.history import MAX_KEPT
from densor.codec.interfaces import Estimate
from densor.codec.kind import Data
from densor.codec.levels import DEFAULT_LEVEL, Level, level_settings, with_rans
from densor.codec.sampling import PIECES, sample
from densor.codec.spans.matrices import look, plan
from densor.codec.spans.propose import encode_span
from densor.codec.sparse.encoder import with_zeros
from densor.runtime.buffers import POOL
from densor.runtime.workers import Done

MIN_MATRICES = 4  # of a batch that holds several; a tensor alone has up to two parts
MAX_RANK = 128  # the lesser side of a matrix of an adapter
MAX_BYTES_OF_TRIAL = 1 << 17  # of floats by rows and by planes
MAX_BYTES_OF_FEWER_CODES = 1 << 18  # of floats by spans, under one code and under several
MAX_BYTES_OF_SIMPLER = 1 << 19  # of floats also as faster levels take them
FEW_ROWS = 64
MAX_LOSS = 1.05  # of what is estimated, over the simpler way, that a trial may still turn round
MAX_SIZE_UNTRIED = 0.995  # of what a sample of the other way takes; a whole trial above
MAX_UNLIKE = 0.002  # in that share, of batches of which one trial serves for all
ROWS_SAMPLE = 1 << 17  # bytes of such a sample, about


def look_ahead(batch: Batch, level: Level) -> Batch:
    """The batch, with what can be found of it before those in front of it are coded.

    That takes no more than to find it later, and may be done in any thread.
    """
    by_spans = level.floats == "matrix_spans" or (
        level.floats == "scale_context" and batch.data.size > MAX_BYTES_OF_TRIAL
    )
    if batch.kind.data is not Data.MATRICES or not by_spans:
        return batch
    return batch.looked_at(look(batch.in_chunks_of(chunk_bytes(batch.kind, level)), level))


def as_float_cm(batch: Batch, level: Level) -> Coding:
    # Planes first: their counting is waited for, and must not queue behind the slower coder.
    by_planes = as_planes(batch, level)
    ways = [proposed(registry.CODEC_FLOAT_CM, batch, level).encode(), by_planes]
    if _may_suit_scale_context(batch):  # which takes next to no time beside float_cm
        chunk = batch.kind.whole_rows(CODECS[registry.CODEC_SCALE_CONTEXT].chunk)
        batch = batch.in_chunks_of(chunk)
        ways.append(proposed(registry.CODEC_SCALE_CONTEXT, batch, level).encode())
    return Smallest(*ways)


def as_scale_context(batch: Batch, level: Level) -> Coding | None:
    if batch.data.size > MAX_BYTES_OF_TRIAL:
        coding = as_matrix_spans(batch, level)
        if coding is not None:
            return coding
    if not _may_suit_scale_context(batch):
        return None
    encoder = proposed(registry.CODEC_SCALE_CONTEXT, batch, level)
    expected = encoder.estimate()
    assert expected is not None
    small = batch.data.size <= MAX_BYTES_OF_TRIAL or _has_few_rows(batch)
    if not small and expected.bytes > MAX_LOSS * expected.otherwise:
        return None
    if small or not _clearly_smaller(expected, batch, level):
        by_planes = as_planes_or_spans(batch, level)
        coded = encoder.encode().result()
        if coded.stored - encoder.shared(coded) >= by_planes.result().stored:
            return by_planes
        encoder.keep()
        return Done(coded)
    encoder.keep()
    return encoder.encode()


def _has_few_rows(batch: Batch) -> bool:
    """Whether a small batch has so few rows that a sample of them says little."""
    size = batch.data.size
    return size <= MAX_BYTES_OF_SIMPLER and size < FEW_ROWS * batch.kind.run * batch.kind.unit


def as_matrix_spans(batch: Batch, level: Level) -> Coding | None:
    """Likewise, several times as fast; None for data that are unlike weights."""
    span = plan(batch, level)
    if span is None:
        return None
    if not _has_few_rows(batch) and span.smaller:
        span.keep()
        return Otherwise(span.encode(), lambda: as_planes(batch, level))
    if not _has_few_rows(batch) and span.bits > MAX_LOSS * span.by_planes:
        return as_planes_or_spans(batch, level)
    coded = span.encode().result()
    if coded is None:
        return as_planes_or_spans(batch, level)
    takes = coded.stored - span.shared(coded)
    by_planes = as_planes_or_spans(batch, level, takes)
    if takes >= by_planes.result().stored:
        POOL.give(coded.memory)
        return by_planes
    span.keep()
    return Done(coded)


def _clearly_smaller(expected: Estimate, batch: Batch, level: Level) -> bool:
    """Whether a batch takes fewer bytes than by planes, by a sample of its rows.

    Batches of an archive that gain as much over planes under one code as one before are like it.
    """
    gain, key = expected.bytes / max(expected.otherwise, 1), ("clear", batch.kind.dtype)
    if any(abs(gain - known) < MAX_UNLIKE for known in batch.history.kept(key)):
        return True
    run = batch.kind.run * batch.kind.unit
    size = min(ROWS_SAMPLE, batch.data.size // 4)
    rows = sample(batch.data, run, max(1, size // PIECES // run))
    trial = batch.alone(rows)
    by_planes = coded_bytes(trial, level, registry.CODEC_PLANES_RANS)
    clear = expected.bytes < MAX_SIZE_UNTRIED * by_planes * batch.data.size / rows.size
    if clear:
        batch.history.keep(key, gain)
    return clear


def as_small_matrices(batch: Batch, level: Level) -> Coding | None:
    """Many in a batch, as adapters have them: whole bits per symbol count there, time does not.

    Where spans are fast, rANS takes five times as long for .4 % of a batch: for those alone that
    are of low rank, then, as adapters are.
    """
    key = "small", registry.CODEC_PLANES_RANS
    parts = batch.kind.parts
    if len(parts) < MIN_MATRICES or batch.data.size < MIN_BYTES_OF_SPANS:
        return None
    if level.spans and any(min(part) > MAX_RANK for part in set(parts)):
        return None
    if len(batch.history.kept(key)) == MAX_KEPT:
        return None
    batch.history.keep(key, batch.data.size)
    simpler = (as_spans(batch, level) if level.spans else None) or as_planes(batch, level)
    return Smallest(simpler, as_planes(batch, with_rans(level)))


def as_spans(batch: Batch, level: Level) -> Coding | None:
    """Floats as most are, several times as fast; the ordinary way where it declines."""
    if batch.data.size < MIN_BYTES_OF_SPANS:
        return None
    task = batch.workers.submit(_small_span if _is_small(batch) else encode_span, batch, level)
    return Otherwise(task, lambda: as_planes(batch, level))


def _is_small(batch: Batch) -> bool:
    return batch.data.size <= MAX_BYTES_OF_FEWER_CODES


def _small_span(batch: Batch, level: Level) -> CodedBatch | None:
    """A batch by spans, under one code for each plane where the tables of more take more."""
    coded = encode_span(batch, level)
    if coded is None or level.classes == 1:
        return coded
    simpler = encode_span(batch, replace(level, classes=1))
    if simpler is None:
        return coded
    if simpler.stored < coded.stored:
        coded, simpler = simpler, coded
    POOL.give(simpler.memory)
    return coded


def as_planes_or_spans(batch: Batch, level: Level, enough: float = math.inf) -> Coding:
    """Where little is coded, the fast way may be smaller, and takes next to no time.

    `enough`: bytes of another way; those that will take more are not tried.
    """
    coded = as_planes(batch, level, enough)
    if level.spans or not MIN_BYTES_OF_SPANS <= batch.data.size <= MAX_BYTES_OF_SIMPLER:
        return coded
    if enough < math.inf and least_of_simpler(coded.result(), batch.kind) >= enough:
        return coded
    batch = batch.in_chunks_of(batch.kind.whole_runs)
    task = batch.workers.submit(encode_span, batch, level_settings(DEFAULT_LEVEL))
    return Smallest(coded, Otherwise(task, lambda: coded))


def _may_suit_scale_context(batch: Batch) -> bool:
    """Whether a batch is large enough for its parameters, and few of its elements are zero."""
    small = batch.data.size <= MAX_BYTES_OF_ZSTD
    return not small and with_zeros(batch.data, batch.kind) is None
