"""The span encoder: what it writes is read by the package's decoder and by the reference."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import bits_of, random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import planes

from densor.codec import registry
from densor.codec.batch import Batch
from densor.codec.choose.candidates import encode_batch as encode_ordinary
from densor.codec.kind import kind_of
from densor.codec.levels import level_settings
from densor.codec.planes.decoder import PlanesDecoder
from densor.codec.planes.layout import LAYOUTS
from densor.codec.planes.params import parse
from densor.codec.spans.decode import SpanDecoder
from densor.codec.spans.encode import EncodedSpan, encode_batch, frame_room
from densor.codec.spans.table import SpanParameters, chunk_table
from densor.formats.container import wire
from densor.runtime.workers import Workers

BYTE, BF16, WORD16, FP32 = (
    registry.LAYOUT_BYTE,
    registry.LAYOUT_BF16,
    registry.LAYOUT_WORD16,
    registry.LAYOUT_FP32,
)
DTYPES = {BYTE: "F8_E4M3", BF16: "BF16", WORD16: "F16", FP32: "F32"}


def floats(layout: int, rows: int, columns: int, seed: object = 0, spread: float = 0.4) -> Any:
    """Weights whose rows differ in scale, as bytes."""
    rng = random_state("floats", layout, rows, columns, seed)
    values = rng.standard_normal((rows, columns)).astype(np.float32) * np.float32(0.02)
    values *= np.exp(rng.normal(0, spread, (rows, 1))).astype(np.float32)
    if layout == BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).ravel()
    if layout == WORD16:
        return values.astype(np.float16).view(np.uint8).ravel()
    if layout == FP32:
        return values.view(np.uint8).ravel()
    return bits_of("weights", 1, rows * columns, rng).view(np.uint8).ravel()


def check(encoded: EncodedSpan, data: Any, chunk: int, reference: bool = True) -> None:
    """All decoders read the frames, which are those of `data`, one after the other."""
    encoded.number(registry.FIRST_MODEL + 3)
    parameters = encoded.parameters
    decoder = PlanesDecoder(parse(parameters)) if parameters is not None else None
    rows: list[tuple[int, ...]] = []
    at = place = 0
    for offset, stored, own in encoded.made.tolist():
        assert offset == at
        header = wire.parse_frame(encoded.frames[at : at + wire.FRAME_SIZE].tobytes())
        assert (header.kind, header.stored) == (wire.CHUNK, stored)
        assert header.model == (registry.FIRST_MODEL + 3 if own else registry.MODEL_RAW)
        payload = encoded.frames[at + wire.FRAME_SIZE : at + wire.FRAME_SIZE + stored]
        wire.check_payload(header, payload)
        assert header.original == min(chunk, data.size - place)
        expected = data[place : place + header.original]
        if own:
            assert decoder is not None and parameters is not None
            assert stored < header.original
            out = np.empty(header.original, np.uint8)
            decoder.decode(payload, out)
            assert np.array_equal(out, expected)
            if reference:
                parsed = planes.parse_model(parameters)
                found = parsed.decode(payload.tobytes(), header.original)
                assert found == expected.tobytes()
        else:
            assert np.array_equal(payload, expected)
        rows.append((at + wire.FRAME_SIZE, stored, header.model, place, header.original))
        at += wire.FRAME_SIZE + stored
        place += header.original
    assert (at, place) == (encoded.frames.size, data.size)
    models = {registry.FIRST_MODEL + 3: parse(parameters)} if parameters is not None else {}
    found_parameters = SpanParameters.of(models)
    table = chunk_table(found_parameters, *np.array(rows, np.int64).T)
    whole = np.empty(data.size, np.uint8)
    assert not SpanDecoder(found_parameters, table).decode(encoded.frames, 0, len(rows), whole)
    assert np.array_equal(whole, data)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("layout", DTYPES)
def test_weights_are_read_by_every_decoder(layout: int, classes: int) -> None:
    size = LAYOUTS[layout].size
    for rows, columns, per_chunk in ((64, 128, 16), (41, 257, 7), (1, 5000, 1), (65, 64, 64)):
        data = floats(layout, rows, columns)
        encoded = encode_batch(data, layout, columns, per_chunk, classes)
        assert encoded is not None
        check(encoded, data, size * columns * per_chunk)


def test_last_chunks_of_any_length() -> None:
    for layout in DTYPES:
        size = LAYOUTS[layout].size
        for more in (1, 2, 3, 15, 16, 31, 63, 64, 65, 127):
            data = floats(layout, 1, 128 * 64 + more)
            encoded = encode_batch(data, layout, 128, 8)
            assert encoded is not None
            check(encoded, data, size * 128 * 8, reference=more < 4)


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(list(DTYPES)),
    content=st.sampled_from(["weights", "random", "sparse", "few_values", "steps", "constant"]),
    n=st.integers(4096, 20000),
    run=st.integers(64, 5000),
    rows=st.integers(1, 40),
    classes=st.sampled_from([1, 4]),
    careful=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_content_comes_back_or_is_refused(
    layout: int, content: str, n: int, run: int, rows: int, classes: int, careful: bool, seed: int
) -> None:
    rng = random_state("any", seed)
    size = LAYOUTS[layout].size
    data = np.ascontiguousarray(bits_of("weights", size, n, rng)).view(np.uint8).copy()
    strange = np.ascontiguousarray(bits_of(content, size, n, rng)).view(np.uint8)
    begin = int(rng.integers(0, n)) * size  # a stretch that samples may miss
    end = min(data.size, begin + int(rng.choice([1, 70, 3000, n])) * size)
    data[begin:end] = strange[begin:end]
    encoded = encode_batch(data, layout, run, rows, classes, careful)
    if encoded is not None:
        assert encoded.frames.size <= frame_room(data.size, size * run * rows)
        check(encoded, data, size * run * rows, reference=False)


def test_every_bit_pattern_comes_back() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    for layout in (BF16, WORD16):
        for begin in range(0, 1 << 16, 4096):
            data = floats(layout, 64, 1024, begin)
            data[5000 : 5000 + 8192] = patterns[begin : begin + 4096].view(np.uint8)
            encoded = encode_batch(data, layout, 1024, 16)
            if encoded is not None:
                check(encoded, data, 2 * 1024 * 16, reference=False)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize(
    ("layout", "mask"),
    [(BF16, 0xFFF8), (WORD16, 0xFFE0), (FP32, 0xFFFFE000), (FP32, 0xFFFFFF80), (FP32, 0xFFFFFE00)],
)
def test_planes_of_few_values_are_coded(layout: int, mask: int, classes: int) -> None:
    """Weights that had a shorter type once. Some have all bits, which the sample may miss: with
    several codes those are for the ordinary way, where rows without them get one of their own."""
    size = LAYOUTS[layout].size
    data = floats(layout, 600, 512)
    words = data.view(np.uint16 if size == 2 else np.uint32)
    whole = words[:3].copy()
    words &= words.dtype.type(mask)
    if size == 2:
        some = words.copy()
        some[1000:1003] = whole
        encoded = encode_batch(some.view(np.uint8), layout, 512, 100, classes)
        assert (encoded is None) == (classes > 1)
        if encoded is not None:
            check(encoded, some.view(np.uint8), size * 512 * 100)
    encoded = encode_batch(data, layout, 512, 100, classes)
    assert encoded is not None and encoded.parameters is not None
    check(encoded, data, size * 512 * 100)
    assert any(parse(encoded.parameters).planes[1:])
    assert stored_by(encoded) < 1.002 * ordinary(data, layout, 600, 512, classes)


def stored_by(encoded: EncodedSpan) -> int:
    assert encoded.parameters is not None
    return encoded.frames.size + len(encoded.parameters) + wire.FRAME_SIZE


def ordinary(data: Any, layout: int, rows: int, columns: int, classes: int) -> int:
    """What is stored of a batch that goes the ordinary way."""
    batch = Batch(data, kind_of(DTYPES[layout], (rows, columns)), Workers(1))
    level = replace(level_settings(3), spans=False, classes=classes)
    return encode_ordinary(batch, level).result().stored


def test_rare_symbols_that_spoil_a_code_are_for_the_ordinary_way() -> None:
    """FP16 made from BF16: numbers below its normal ones have all bits, though few in each row."""
    rows, columns = 512, 2048
    wide = floats(FP32, rows, columns, spread=0).view(np.uint32) + 0x8000 & 0xFFFF0000
    data = wide.astype(np.uint32).view(np.float32).astype(np.float16).view(np.uint8)
    one, several = (ordinary(data, WORD16, rows, columns, classes) for classes in (1, 4))
    assert several < 0.998 * one
    assert encode_batch(data, WORD16, columns, 64, 4) is None
    encoded = encode_batch(data, WORD16, columns, 64, 1)
    assert encoded is not None and stored_by(encoded) < 1.0005 * one


def test_one_code_of_the_first_plane_is_made_from_all_where_others_are_coded() -> None:
    """Scales that do not occur, between others that do, would have codes otherwise."""
    rows, columns = 90, 16384
    data = floats(WORD16, rows, columns)
    data.view(np.uint16)[:] &= 0xFCE0
    encoded = encode_batch(data, WORD16, 4096, 64, 1)
    assert encoded is not None and encoded.parameters is not None
    check(encoded, data, 2 * 4096 * 64)
    assert stored_by(encoded) < 1.0005 * ordinary(data, WORD16, rows, columns, 1)


def test_planes_of_few_elements_are_for_the_ordinary_way() -> None:
    for rows, taken in ((255, False), (256, True)):
        data = floats(FP32, rows, 512)
        data.view(np.uint32)[:] &= 0xFFFFE000
        assert (encode_batch(data, FP32, 512, 64) is not None) == taken


def test_values_that_the_sample_lacks() -> None:
    """Codes are made from a sample; what it does not hold is coded all the same."""
    data = floats(BF16, 4096, 512)
    words = data.view(np.uint16)
    rng = random_state("rare")
    for value in (0, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 1, 0x8001, 0x0080):
        words[int(rng.integers(words.size))] = value
    encoded = encode_batch(data, BF16, 512, 1024)
    assert encoded is not None
    check(encoded, data, 2 * 512 * 1024, reference=False)


@pytest.mark.parametrize("rare", [0.0, 0.03, 0.5])
def test_codes_of_eight_symbols_that_fit_in_a_word_or_not(rare: float) -> None:
    rng = random_state("words", rare)
    data = rng.integers(1, 17, 1 << 16).astype(np.uint8)
    seldom = np.repeat(rng.random(1 << 13) < rare, 8)
    data[seldom] = rng.integers(17, 256, np.count_nonzero(seldom))
    encoded = encode_batch(data, BYTE, 1000, 32, classes=1, careful=False)
    assert encoded is not None and encoded.parameters is not None
    check(encoded, data, 32000)
    (first,) = parse(encoded.parameters).planes
    assert first is not None
    bits = first.lengths[0][data[:8000]].reshape(-1, 8).astype(int).sum(1)
    assert bits.min() < 63 and (bits.max() > 64) == (rare > 0)


def test_noise_is_stored_raw() -> None:
    """A chunk that codes would enlarge, in a batch whose sample promised better."""
    data = floats(BF16, 4096, 512)
    rng = random_state("noise")
    noise = rng.integers(0, 1 << 16, 3 * 512, np.uint16)
    at = 2 * 512 * 1001  # between the rows that are counted
    data[at : at + noise.nbytes] = noise.view(np.uint8)
    encoded = encode_batch(data, BF16, 512, 1)
    assert encoded is not None
    assert not encoded.made[:, 2].all() and encoded.made[:, 2].any()
    check(encoded, data, 2 * 512, reference=False)


def test_what_is_not_for_it_is_refused() -> None:
    weights = floats(BF16, 64, 512)
    assert encode_batch(weights, BF16, 512, 8) is not None
    noise = random_state("noise").integers(0, 256, weights.size, np.uint8)
    repeated = np.tile(weights[:4096], weights.size // 4096)
    zeros = weights.copy().view(np.uint16)
    zeros[::7] = 0
    mixed = weights.copy().view(np.uint16)
    mixed[: mixed.size // 2] &= np.uint16(0xFFF0)  # one code would not suit both halves
    for data in (noise, repeated, np.zeros_like(weights), zeros.view(np.uint8)):
        assert encode_batch(data, BF16, 512, 8) is None
    assert encode_batch(mixed.view(np.uint8), BF16, 512, 8) is None
    for layout, run, rows in ((BF16, 63, 8), (BF16, 512, 0), (registry.LAYOUT_FP64, 512, 8)):
        assert encode_batch(weights, layout, run, rows) is None
    assert encode_batch(weights[:-1], BF16, 512, 8) is None
    assert encode_batch(weights[:8000], BF16, 512, 8) is None


def test_a_buffer_of_the_caller() -> None:
    data = floats(BF16, 64, 512)
    room = frame_room(data.size, 2 * 512 * 8)
    out = np.full(room + 64, 0x5A, np.uint8)
    encoded = encode_batch(data, BF16, 512, 8, out=out[:room])
    assert encoded is not None and np.shares_memory(encoded.frames, out)
    check(encoded, data, 2 * 512 * 8)
    assert (out[room:] == 0x5A).all()
    with pytest.raises(ValueError, match="small"):
        encode_batch(data, BF16, 512, 8, out=out[: room - 1])


def test_same_bytes_in_any_thread() -> None:
    """Work space that was used for other batches changes nothing."""
    batches = [(floats(layout, 200, 384, i), layout) for layout in DTYPES for i in range(3)]

    def encode(i: int) -> bytes:
        data, layout = batches[i]
        encoded = encode_batch(data, layout, 384, 100)
        assert encoded is not None
        encoded.number(16)
        return encoded.frames.tobytes() + (encoded.parameters or b"")

    once = [encode(i) for i in range(len(batches))]
    for threads in (1, 2, 3):
        workers = Workers(threads)
        order = random_state("order", threads).permutation(len(batches)).tolist()
        tasks = {i: workers.submit(encode, i) for i in order}
        assert [tasks[i].result() for i in range(len(batches))] == once


@pytest.mark.parametrize("layout", DTYPES)
def test_size_is_near_that_of_the_ordinary_way(layout: int) -> None:
    data = floats(layout, 2000, 512)
    dtype, size = DTYPES[layout], LAYOUTS[layout].size
    for level, classes in ((1, 1), (3, 4)):
        batch = Batch(data, kind_of(dtype, (2000, 512)), Workers(1))
        ordinary = encode_ordinary(batch, level_settings(level)).result()
        encoded = encode_batch(data, layout, 512, 1000 // size, classes)
        assert encoded is not None
        mine = encoded.frames.size + len(encoded.parameters or b"") + wire.FRAME_SIZE
        assert mine < 1.0015 * ordinary.stored


@pytest.mark.parametrize("run", [64, 100, 384])
@pytest.mark.parametrize("layout", [BF16, WORD16])
def test_rows_are_in_the_class_that_takes_the_fewest_bits(layout: int, run: int) -> None:
    data = floats(layout, 900, run, "classes", 1.0)
    size = LAYOUTS[layout].size
    rows = 450
    encoded = encode_batch(data, layout, run, rows)
    assert encoded is not None and encoded.parameters is not None
    classes = parse(encoded.parameters).planes[0]
    assert classes is not None and len(classes) == 4
    first = np.empty(data.size, np.uint8)
    LAYOUTS[layout].split(data, first)
    lengths = classes.lengths.astype(np.int64)
    symbols = first[: data.size // size].reshape(-1, run)
    bits = lengths[:, symbols].sum(axis=2)
    for chunk, (at, _, own) in enumerate(encoded.made.tolist()):
        assert own
        begin = at + wire.FRAME_SIZE + 5 * size
        packed = encoded.frames[begin : begin + -(-rows // 4)]
        found = (packed[:, None] >> np.array([0, 2, 4, 6]) & 3).ravel()[:rows]
        here = bits[:, chunk * rows : (chunk + 1) * rows]
        assert np.array_equal(found, here.argmin(axis=0))
        assert len(set(found.tolist())) == 4
