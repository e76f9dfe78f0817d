"""Floats in matrices by compiled calls: read by the package's decoder and by the reference."""

from typing import Any

import numpy as np
import pytest
from helpers import random_state, to_bf16, to_fp8
from reference import codecs
from reference import scale_context as reference

from densor.codec import registry
from densor.codec.batch import Batch, CodedBatch
from densor.codec.choose.matrices import look_ahead
from densor.codec.choose.sizes import chunk_bytes
from densor.codec.codecs import CODECS
from densor.codec.history import History
from densor.codec.kind import Kind, kind_of
from densor.codec.levels import level_settings
from densor.codec.scale_context.decoder import open_decoder
from densor.codec.scale_context.encoder import low_coder
from densor.codec.spans.matrices import MatrixSpan, plan
from densor.formats.container import wire
from densor.runtime.workers import Workers

LEVEL = level_settings(6)
DTYPES = ("BF16", "F16", "F32", "F8_E4M3", "F8_E5M2")
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "F8_E5M2": 1}


def weights(dtype: str, rows: int, columns: int, seed: object = 0) -> Any:
    """Bit patterns of weights whose rows and columns differ in scale; uint8[]."""
    rng = random_state("matrices", dtype, rows, columns, seed)
    scale = np.exp(rng.normal(0, 0.5, (rows, 1))) * np.exp(rng.normal(0, 0.3, (1, columns)))
    values = (rng.standard_normal((rows, columns)) * scale * 0.02).astype(np.float32)
    if dtype == "BF16":
        return to_bf16(values).view(np.uint8).ravel()
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint8).ravel()
    if dtype == "F32":
        return values.view(np.uint8).ravel()
    if dtype == "F8_E4M3":
        return to_fp8(values * 100.0).view(np.uint8).ravel()
    return (values.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8).ravel()


def batch_of(data: Any, kind: Kind, threads: int = 1, history: History | None = None) -> Batch:
    """As `choose/candidates.py` makes it."""
    workers = Workers(threads)
    batch = Batch(data, kind, workers, History() if history is None else history)
    return batch.in_chunks_of(chunk_bytes(kind, LEVEL))


def planned(data: Any, kind: Kind, threads: int = 1, history: History | None = None) -> MatrixSpan:
    span = plan(batch_of(data, kind, threads, history), LEVEL)
    assert span is not None
    return span


def check(coded: CodedBatch | None, data: Any, with_reference: bool = False) -> int:
    """All decoders read the frames, which are those of `data`; how many chunks are raw."""
    assert coded is not None
    assert coded.frames is not None
    frames = np.concatenate(coded.frames.number(registry.FIRST_MODEL + 3))
    model = coded.model
    at = place = raw = 0
    for chunk in coded.chunks:
        header = wire.parse_frame(frames[at : at + wire.FRAME_SIZE].tobytes())
        payload = frames[at + wire.FRAME_SIZE : at + wire.FRAME_SIZE + header.stored]
        wire.check_payload(header, payload)
        assert np.array_equal(payload, chunk.payload)
        expected = data[place : place + header.original]
        if chunk.own:
            assert model is not None
            out = np.empty(header.original, np.uint8)
            open_decoder(model).decode(payload, out)
            assert np.array_equal(out, expected)
            if with_reference:
                parsed = reference.parse_model(model, codecs.parse_model)
                found = reference.decode(parsed, payload.tobytes(), header.original)
                assert found == expected.tobytes()
        else:
            raw += 1
            assert np.array_equal(payload, expected)
        at += wire.FRAME_SIZE + header.stored
        place += header.original
    assert (at, place) == (frames.size, data.size)
    return raw


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_reads_it(dtype: str) -> None:
    data = weights(dtype, 61, 131)
    span = planned(data, kind_of(dtype, (61, 131)))
    check(span.encode().result(), data, with_reference=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4097, 64), (300, 65), (1, 5000), (7, 33, 80), (3, 20011)])
def test_shapes(dtype: str, shape: tuple[int, ...]) -> None:
    """Rows that are no multiple of a block, a last row of its own, one row only."""
    rows = int(np.prod(shape[:-1]))
    data = weights(dtype, rows, shape[-1])
    check(planned(data, kind_of(dtype, shape)).encode().result(), data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_rare(dtype: str) -> None:
    """Numbers far from others, zeros of both signs; in small formats NaN: all escapes."""
    data = weights(dtype, 700, 260).copy()
    size = SIZES[dtype]
    words = data.view(f"<u{size}")
    rng = random_state("rare", dtype)
    places = rng.integers(0, words.size, words.size // 100)
    words[places] = rng.integers(0, 1 << (8 * size), places.size, np.uint64).astype(words.dtype)
    if dtype in ("BF16", "F32"):  # greater ones than 2^8 make scales of no use
        words[places] &= words.dtype.type(0xC3FFFFFF >> (32 - 8 * size))
    words[rng.integers(0, words.size, words.size // 200)] = 1 << (8 * size - 1)
    assert check(planned(data, kind_of(dtype, (700, 260))).encode().result(), data) == 0


def test_rows_that_no_sample_has() -> None:
    """Numbers that differ from all that were counted; a chunk that is raw for it."""
    data = weights("BF16", 6000, 1024).copy()
    words = data.view("<u2").reshape(6000, 1024)
    noise = random_state("noise").integers(0, 1 << 16, (1100, 1024), np.uint16)
    words[1000:1001] = noise[:1]
    words[4090:5120] = noise[1:1031]
    span = planned(data, kind_of("BF16", (6000, 1024)))
    assert check(span.encode().result(), data) == 1


def test_matrices_of_several_parts() -> None:
    sizes = ((300, 384), (1, 384), (1, 1024), (1, 77))
    data = np.concatenate([weights("BF16", *size) for size in sizes])
    kind = kind_of("BF16", (300, 384))
    kind = Kind(kind.layout, kind.run, dtype="BF16", parts=sizes)
    check(planned(data, kind).encode().result(), data)


def with_low_halves(which: str, rows: int, columns: int) -> Any:
    """FP32 weights whose low halves are worth coding; uint8[]."""
    words = weights("F32", rows, columns).copy().view("<u4").reshape(rows, columns)
    if which == "zeros":
        words &= np.uint32(0xFFFF0000)
    elif which == "upper":
        words &= np.uint32(0xFFFFFF00)
    elif which == "lower":
        words &= np.uint32(0xFFFF00FF)
    elif which == "rows":  # rounded differently from row to row
        words &= np.uint32(0xFFFFFFFF) << (np.arange(rows, dtype=np.uint32) % 13)[:, None]
    else:  # less even in some rows
        rng = random_state("low halves", rows, columns)
        words[::3] &= rng.integers(0, 1 << 32, words[::3].shape, np.uint32) | np.uint32(0xFFFF0000)
    return words.reshape(-1).view(np.uint8)


LOW_HALVES = ("zeros", "upper", "lower", "rows", "uneven")


@pytest.mark.parametrize("which", LOW_HALVES)
@pytest.mark.parametrize("shape", [(61, 131), (1100, 1000), (9001, 80), (2, 30011)])
def test_low_halves(which: str, shape: tuple[int, int]) -> None:
    """They are coded under a model of their own, as the ordinary encoder does it."""
    data = with_low_halves(which, *shape)
    kind = kind_of("F32", shape)
    span = planned(data, kind)
    assert span.low is not None
    small = data.size < 1 << 16
    assert check(span.encode().result(), data, with_reference=small) == 0
    coder = low_coder(data, kind, LEVEL)
    assert coder is not None
    chunk = chunk_bytes(kind, LEVEL)
    halves = [
        np.ascontiguousarray(data[at : at + chunk].view("<u2")[::2]).view(np.uint8)
        for at in range(0, data.size, chunk)
    ]
    coder.decide([coder.count(some) for some in halves])
    assert coder.model() == span.low.model()
    coded = span.encode().result()
    assert coded is not None
    for number, (some, stored) in enumerate(zip(halves, coded.chunks, strict=True)):
        payload = coder.encode(some, number)
        assert np.array_equal(payload, np.asarray(stored.payload)[-payload.size :])


@pytest.mark.parametrize("dtype", ["F16", "F8_E4M3"])
@pytest.mark.parametrize("shape", [(384, 384), (1536, 384), (1024, 2048)])
def test_what_byte_planes_take_is_known_without_coding_them(
    dtype: str, shape: tuple[int, int]
) -> None:
    rng = random_state("expected", dtype, *shape)
    values = rng.standard_normal(shape) * np.exp(rng.normal(0, 0.3, (shape[0], 1))) * 0.02
    one = values.astype(np.float16) if dtype == "F16" else to_fp8(values.astype(np.float32) * 100)
    data = np.ascontiguousarray(one).view(np.uint8).ravel()
    kind = kind_of(dtype, shape)
    span = planned(data, kind)
    stored = 8 * data.size - span.elements * span.form.bits
    planes = batch_of(data, kind).in_chunks_of(kind.whole_runs)
    encoder = CODECS[registry.CODEC_PLANES_RANS].propose(planes, LEVEL)
    assert encoder is not None
    taken = 8 * encoder.encode().result().stored
    assert taken * 0.9965 < span.by_planes + stored < taken * 1.001


def test_every_context_is_counted_where_rows_are_few() -> None:
    """Wide rows of different scales take hardly more than was expected."""
    data = weights("F16", 64, 8192)
    span = planned(data, kind_of("F16", (64, 8192)))
    coded = span.encode().result()
    check(coded, data)
    assert coded is not None
    expected = (span.bits + 8 * data.size - span.elements * span.form.bits) / 8
    assert coded.stored < 1.001 * expected


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_threads_change_nothing(dtype: str) -> None:
    data = weights("BF16", 5000, 1024) if dtype == "BF16" else with_low_halves("rows", 2500, 1024)
    kind = kind_of(dtype, (data.size // SIZES[dtype] // 1024, 1024))
    found = [planned(data, kind, threads) for threads in (1, 2, 5)]
    assert len({span.choice.freqs.tobytes() for span in found}) == 1
    coded = [span.encode().result() for span in found]
    assert len({one.model for one in coded if one}) == 1
    assert len({b"".join(bytes(c.payload) for c in one.chunks) for one in coded if one}) == 1
    for one in coded:
        check(one, data)


def test_a_look_ahead_changes_nothing() -> None:
    """It takes nothing from batches in front, and is used for the batch that it is of alone."""
    data, other = weights("BF16", 500, 384), weights("BF16", 500, 384, "other")
    kind = kind_of("BF16", (500, 384))
    ahead = look_ahead(batch_of(data, kind), LEVEL)
    assert ahead.looked is not None
    assert ahead.looked.found is not None
    span = plan(ahead, LEVEL)
    assert span is not None
    assert span.scales is ahead.looked.found.scales
    assert np.array_equal(span.choice.freqs, planned(data, kind).choice.freqs)
    check(span.encode().result(), data)
    for unlike in (ahead.alone(other).in_chunks_of(ahead.chunk_bytes), ahead.in_chunks_of(1 << 16)):
        span = plan(unlike, LEVEL)
        assert span is not None
        assert span.scales is not ahead.looked.found.scales
        check(span.encode().result(), unlike.data)


def test_later_batches_share_frequencies() -> None:
    history = History()
    kind = kind_of("BF16", (500, 384))
    first = planned(weights("BF16", 500, 384), kind, history=history)
    first.keep()
    data = weights("BF16", 500, 384, "other")
    second = planned(data, kind, history=history)
    assert np.array_equal(first.choice.freqs, second.choice.freqs)
    coded = second.encode().result()
    check(coded, data)
    assert coded is not None
    assert second.shared(coded) == wire.FRAME_SIZE + len(coded.model or b"")


def test_what_it_declines() -> None:
    """Zeros, what repeats, coded mantissa bits that are not noise, too few elements."""
    kind = kind_of("BF16", (500, 384))
    data = weights("BF16", 500, 384)
    zeros = data.copy().view("<u2")
    zeros[::10] = 0
    for unlike in (zeros.view(np.uint8), np.tile(data[:1000], 384)):
        assert plan(batch_of(unlike, kind), LEVEL) is None
    short = weights("F32", 500, 384).copy().view("<u4") & np.uint32(0xFFF80000)
    assert plan(batch_of(short.view(np.uint8), kind_of("F32", (500, 384))), LEVEL) is None
    assert plan(batch_of(data[:4096], kind_of("BF16", (32, 64))), LEVEL) is None


@pytest.mark.parametrize(("share", "taken"), [(0.5, True), (1.0, False)])
def test_second_bytes_that_are_nearly_noise(share: float, taken: bool) -> None:
    """As of gradients, whose last bits are 0 more often than 1: byte planes save that."""
    data = weights("BF16", 300, 256)
    bits = data.view(np.uint16)
    rng = random_state("last bits")
    bits &= np.where(rng.random(bits.size) < share, 0xFFFE, 0xFFFF).astype(np.uint16)
    span = plan(batch_of(data, kind_of("BF16", (300, 256))), LEVEL)
    assert (span is not None) == taken
    if span is not None:
        counts = np.bincount(bits & 1)
        saved = 1 + (counts / bits.size * np.log2(counts / bits.size)).sum()
        even = planned(weights("BF16", 300, 256), kind_of("BF16", (300, 256)))
        assert even.by_planes - span.by_planes == pytest.approx(saved * bits.size, rel=0.2)
        check(span.encode().result(), data)
