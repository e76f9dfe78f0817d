"""Blocks of fields: round trips, the reference decoder, hostile models and chunks."""

import struct
from typing import Any

import numpy as np
import pytest
from helpers import CHUNK, MODEL, entropy_bytes, random_state, take_apart, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import codecs
from reference.reading import Refused

import densor
from densor.codec import registry
from densor.codec.batch import Batch
from densor.codec.blocks.block import MAX_FIELDS, Field, columns
from densor.codec.blocks.order import MAX_SORTED, earlier
from densor.codec.choose.candidates import encode_batch
from densor.codec.choose.sizes import batch_bytes
from densor.codec.codecs import decoder_for
from densor.codec.kind import Kind, kind_of, kind_of_blocks
from densor.codec.levels import level_settings
from densor.formats.container.chunk_decoders import Models
from densor.formats.container.wire import MAX_MODEL
from densor.formats.parsers.gguf import BLOCKS
from densor.runtime.workers import Workers

Bytes = Any
Q4 = (Field("F16", 2), Field("U8", 16))


def blocks(fields: tuple[Field, ...], count: int, seed: object = 0) -> Bytes:
    """Blocks whose fields are distributed like quantised weights."""
    rng = random_state("blocks", fields, count, seed)
    parts = []
    for field in fields:
        if field.dtype == "F16":
            numbers = np.exp(rng.standard_normal((count, field.size // 2)) / 3) / 100
            parts.append(numbers.astype("<f2").view(np.uint8))
        elif field.dtype == "F32":
            numbers = np.exp(rng.standard_normal((count, field.size // 4)) / 3) / 100
            parts.append(numbers.astype("<f4").view(np.uint8))
        else:
            numbers = np.clip(rng.standard_normal((2, count, field.size)) * 2.6 + 7.5, 0, 15)
            low, high = numbers.astype(np.uint8)
            parts.append(low | high << 4)
    return np.concatenate(parts, axis=1).reshape(-1)


def planes(column: Any) -> Bytes:
    """The bytes of a field one after the other."""
    return np.ascontiguousarray(column).view(np.uint8)


def coded(data: Bytes, kind: Kind, level: int = 3) -> tuple[bytes, list[tuple[bytes, int]]]:
    """Parameters and chunks (payload, original length) of a batch; all must use the model."""
    batch = encode_batch(Batch(data, kind, Workers(1)), level_settings(level)).result()
    assert batch.model is not None and len(batch.model) <= MAX_MODEL
    assert all(chunk.own for chunk in batch.chunks)
    return batch.model, [(bytes(chunk.payload), chunk.original) for chunk in batch.chunks]


def assert_decodes(model: bytes, chunks: list[tuple[bytes, int]], expected: bytes) -> None:
    """The package and the reference decoder both give `expected`."""
    decoder, reference = decoder_for(model), codecs.parse_model(model)
    at = 0
    for payload, original in chunks:
        out = np.empty(original + 1, np.uint8)[1:]  # at an odd address
        decoder.decode(np.frombuffer(payload, np.uint8), out)
        assert out.tobytes() == expected[at : at + original]
        found = reference.decode(payload, original)
        assert found == expected[at : at + original]
        at += original
    assert at == len(expected)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=lambda block: block.name)
def test_every_type_of_block_comes_back(block: Any) -> None:
    data = blocks(block.fields, 601)
    model, chunks = coded(data, kind_of_blocks(block.fields, 1))
    assert_decodes(model, chunks, data.tobytes())
    stored = sum(len(payload) for payload, _ in chunks)
    sizes = [field.size for field in block.fields]
    ideal = sum(entropy_bytes(planes(column)) for column in columns(data, sizes))
    assert stored < 1.06 * ideal + 500


@pytest.mark.parametrize("level", [1, 3, 6, 9])
def test_several_chunks_of_several_rows(level: int) -> None:
    """More than a chunk, an odd number of rows, and classes of rows that run across chunks."""
    row = 24
    data = blocks(Q4, row * 5003)
    scaled = data.reshape(-1, row, 18)
    scaled[::3, :, 2:] &= 0x33  # rows of another kind
    kind = kind_of_blocks(Q4, row)
    model, chunks = coded(data, kind, level)
    assert len(chunks) > 2 and kind.run == row
    decoder = decoder_for(model)
    out = np.empty_like(data)
    at = 0
    for payload, original in chunks:
        decoder.decode(np.frombuffer(payload, np.uint8), out[at : at + original])
        at += original
    assert out.tobytes() == data.tobytes()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(
            st.sampled_from(["U8", "I8", "F16", "U16", "F32"]),
            st.integers(1, 5),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=MAX_FIELDS,
    ),
    rows=st.integers(1, 30),
    row=st.integers(1, 20),
    odd=st.integers(0, 1),
    seed=st.integers(0, 9),
)
def test_any_blocks(
    sizes: list[tuple[str, int, int]], rows: int, row: int, odd: int, seed: int
) -> None:
    width = {"U8": 1, "I8": 1, "F16": 2, "U16": 2, "F32": 4}
    fields: list[Field] = []
    for dtype, n, order in sizes:
        known = [field.size for field in fields[-earlier(order) :]] if earlier(order) else []
        possible = known == [2] * earlier(order)
        fields.append(Field(dtype, width[dtype] * n, order if possible else 0))
    data = blocks(tuple(fields), rows * row + odd, seed)
    kind = kind_of_blocks(tuple(fields), row)
    batch = encode_batch(Batch(data, kind, Workers(1)), level_settings(3)).result()
    if batch.model is not None and batch.chunks[0].own:
        chunks = [(bytes(chunk.payload), chunk.original) for chunk in batch.chunks]
        assert_decodes(batch.model, chunks, data.tobytes())


def test_a_row_longer_than_a_chunk() -> None:
    row = 1 << 18
    data = np.tile(blocks(Q4, 1 << 10), 1 << 8)
    data[::18] ^= np.arange(row, dtype=np.uint32).astype(np.uint8)
    kind = kind_of_blocks(Q4, row)
    assert batch_bytes(kind, level_settings(3)) < 1 << 25
    model, chunks = coded(data, kind)
    assert len(chunks) > 3
    out = np.empty_like(data)
    at = 0
    for payload, original in chunks:
        decoder_for(model).decode(np.frombuffer(payload, np.uint8), out[at : at + original])
        at += original
    assert out.tobytes() == data.tobytes()


def test_too_many_blocks_to_sort() -> None:
    count = MAX_SORTED + 1
    payload = chunk_of((0, bytes(2 * count)), (0, bytes(count)))
    model = model_of((2, b""), (1, b"", 2))
    assert_both_refuse(model, payload, 3 * count, "limit")


def test_models_that_do_not_fit_are_left_out(monkeypatch: Any) -> None:
    monkeypatch.setattr(registry, "MODEL_BYTES", 250)
    fields = (Field("F32", 4), Field("F16", 2), Field("U8", 16))
    data = blocks(fields, 4000)
    model, chunks = coded(data, kind_of_blocks(fields, 1))
    assert len(model) <= 250
    assert_decodes(model, chunks, data.tobytes())
    assert len(chunks[0][0]) < data.size


# Hostile models and chunks


def model_of(*fields: tuple[Any, ...]) -> bytes:
    """A fields model of (bytes per block, model, order, width, columns) each."""
    parts = []
    for size, model, *order in fields:
        order = [*order, *[0, 0, 0][len(order) :]]
        parts.append(struct.pack("<HBBII", size, *order, len(model)) + model)
    return struct.pack("<BB", 5, len(fields)) + b"".join(parts)


def chunk_of(*parts: tuple[int, bytes]) -> bytes:
    """A payload of (mode, stored) each."""
    heads = [struct.pack("<BI", mode, len(stored)) for mode, stored in parts]
    return b"".join(heads) + b"".join(stored for _, stored in parts)


GOOD = model_of((2, b""), (3, b""))
PLANAR = bytes([2, 1, 0, 1, 1, 0, 0, 0, 1, 1, 7])  # bytes, all of which are 7


def assert_both_refuse(model: bytes, payload: bytes, original: int, reason: str = "format") -> None:
    error = {
        "format": densor.FormatError,
        "unsupported": densor.UnsupportedError,
        "limit": densor.LimitError,
    }[reason]
    with pytest.raises(error):
        decoder_for(model).decode(np.frombuffer(payload, np.uint8), np.empty(original, np.uint8))
    with pytest.raises(Refused) as refused:
        codecs.parse_model(model).decode(payload, original)
    assert refused.value.reason == reason


def test_what_the_specification_says() -> None:
    payload = chunk_of((0, b"abcd"), (0, b"efghij"))
    assert_decodes(GOOD, [(payload, 10)], b"abefgcdhij")
    columns = model_of((4, b"", 1, 2, 3))  # "ab" "cd" of two blocks do not make rows of three
    assert_both_refuse(columns, chunk_of((0, bytes(8))), 8)
    assert_decodes(columns, [(chunk_of((0, b"aAbBcCdDeEfF")), 12)], b"aAcCeEbBdDfF")
    tens, third = (2, b""), (1, b"", 2)
    payload = chunk_of((0, b"\0\x30\1\x20\2\x30"), (0, b"xyz"))  # keys 48, 32, 48
    assert_decodes(model_of(tens, third), [(payload, 9)], b"\0\x30y\1\x20x\2\x30z")
    ones, twos = struct.pack("<3H", 0x3C00, 0x3C00, 0xBC00), struct.pack("<3H", 0x4000, 0, 0xBC00)
    payload = chunk_of((0, ones), (0, twos), (0, b"xyz"))  # keys 144, 0, 128
    whole = [ones[i : i + 2] + twos[i : i + 2] for i in (0, 2, 4)]
    expected = whole[0] + b"z" + whole[1] + b"x" + whole[2] + b"y"
    assert_decodes(model_of(tens, tens, (1, b"", 3)), [(payload, 15)], expected)
    model = model_of((2, PLANAR), (3, b""))
    seven = chunk_of((2, struct.pack("<BI", 3, 8) + bytes(8)), (0, b"efghij"))
    assert_decodes(model, [(seven, 10)], b"\7\7efg\7\7hij")


@pytest.mark.parametrize(
    "model",
    [
        b"\5",
        model_of(),
        model_of((0, b"")),
        model_of(*[(1, b"")] * (MAX_FIELDS + 1)),
        GOOD + b"\0",
        GOOD[:-1],
        GOOD[:-5],
        model_of((2, b"\2")),
        model_of((2, PLANAR + b"\0")),
        model_of((2, GOOD)),  # nested too deep
        model_of((2, bytes([6, 1]) + bytes(8))),
        struct.pack("<BBHBBII", 5, 1, 2, 0, 0, 0, 0xFFFFFFFF),  # longer than there is
        model_of((4, b"", 1, 3, 1)),  # width
        model_of((3, b"", 1, 2, 1)),
        model_of((4, b"", 1, 2, 0)),  # columns
        model_of((4, b"", 0, 2, 0)),
        model_of((4, b"", 0, 0, 9)),
        model_of((4, b"", 2)),  # nothing before
        model_of((4, b""), (4, b"", 2)),
        model_of((2, b""), (4, b"", 3)),
        model_of((1, b""), (2, b""), (4, b"", 3)),
    ],
)
def test_hostile_models(model: bytes) -> None:
    with pytest.raises(densor.FormatError):
        Models().append(model)
    with pytest.raises(Refused):
        codecs.parse_model(model)


def test_models_of_unknown_codecs_in_parts() -> None:
    assert_both_refuse(model_of((2, b"\xc8")), b"", 0, "unsupported")
    assert_both_refuse(model_of((2, b"", 4)), b"", 0, "unsupported")


def test_hostile_chunks() -> None:
    sound = chunk_of((0, b"abcd"), (0, b"efghij"))
    for payload, original in (
        (sound, 9),
        (sound, 15),
        (sound + b"\0", 10),
        (chunk_of((0, b"abc"), (0, b"efghijk")), 10),
        (chunk_of((1, b"abcd"), (0, b"efghij")), 10),
        (chunk_of((2, b"abcd"), (0, b"efghij")), 10),  # there is no model
        (struct.pack("<BIBI", 0, 0xFFFFFFFF, 0, 6) + sound[10:], 10),
    ):
        assert_both_refuse(GOOD, payload, original)
    assert_both_refuse(GOOD, chunk_of((3, b"abcd"), (0, b"efghij")), 10, "unsupported")


def test_decoders_of_many_parts_are_forgotten_sooner() -> None:
    models = Models()
    for _ in range(20):
        models.append(model_of(*[(1, PLANAR)] * MAX_FIELDS))
    assert len(models._ready) == 2
    assert models.known(16) is not None  # made anew


def test_elements_never_become_blocks() -> None:
    """The odd end of what is called blocks is plain bytes, and arrays are not blocks."""
    assert kind_of("U8", (4, 18)).fields == ()
    archive = densor.compress(weights("bf16", 8, 128), dtype="bf16")
    frames = take_apart(archive)
    assert [frame.payload[0] for frame in frames if frame.kind == MODEL] == [2]
    assert sum(frame.original for frame in frames if frame.kind == CHUNK) == 2048
