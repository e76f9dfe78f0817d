"""Sparse elements: when a bitmap is chosen, round trips, hostile models and chunks."""

import struct
from typing import Any

import numpy as np
import pytest
from helpers import MODEL, make_array, random_state, take_apart, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import codecs, container
from reference.reading import Refused
from test_blocks import assert_both_refuse, assert_decodes, chunk_of

import densor
from densor.codec import registry
from densor.codec.batch import Batch
from densor.codec.choose.candidates import encode_batch
from densor.codec.choose.trials import coded_bytes
from densor.codec.codecs import CODECS, decoder_for
from densor.codec.kind import kind_of
from densor.codec.levels import level_settings
from densor.codec.sparse.encoder import SparseEncoder
from densor.runtime.workers import Workers

LEVEL = level_settings(3)
DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32", "fp8": "F8_E4M3", "fp64": "F64"}


def pruned(kind: str, keep: Any, rows: int = 256, columns: int = 512) -> Any:
    """Weights of which those stay that `keep`, an array of Booleans, says."""
    bits = weights(kind, rows, columns)
    return np.where(keep, bits, bits.dtype.type(0))


def masks(rows: int = 256, columns: int = 512) -> dict[str, Any]:
    """What stays, for several ways to prune."""
    rng = random_state("masks")
    noise = rng.random((rows, columns))
    quarters = noise.reshape(rows, columns // 4, 4)
    two_of_four = (quarters.argsort(axis=2).argsort(axis=2) < 2).reshape(rows, columns)
    return {
        "half": noise < 0.5,
        "70 %": noise < 0.3,
        "90 %": noise < 0.1,
        "2:4": two_of_four,
        "rows": np.broadcast_to(noise[:, :1] < 0.4, noise.shape),
        "dense": np.ones_like(noise, bool),
    }


@pytest.mark.parametrize("kind", ["bf16", "fp32", "fp8"])
@pytest.mark.parametrize("mask", list(masks()))
def test_the_smaller_way_is_chosen(kind: str, mask: str) -> None:
    """Within 3 % of the better of both, by their real sizes."""
    bits = pruned(kind, masks()[mask])
    data = bits.reshape(-1).view(np.uint8)
    of = kind_of(DTYPES[kind], bits.shape)
    given = Batch(data, of, Workers(1))
    plain, sparse = (
        coded_bytes(given, LEVEL, number)
        for number in (registry.CODEC_PLANES_RANS, registry.CODEC_SPARSE)
    )
    batch = encode_batch(given, LEVEL).result()
    stored = sum(len(chunk.payload) for chunk in batch.chunks)
    assert stored <= 1.03 * min(plain, sparse) + 100
    if mask in ("70 %", "90 %"):
        assert batch.model is not None and batch.model[0] == registry.CODEC_SPARSE
        assert sparse < 0.98 * plain
    if mask == "rows":  # both ways are about as small
        known = (registry.CODEC_PLANES_HUFFMAN, registry.CODEC_SPARSE)
        assert batch.model is None or batch.model[0] in known
    if mask == "dense":
        assert batch.model is None or batch.model[0] == registry.CODEC_PLANES_HUFFMAN


def round_trip(bits: Any, dtype: str) -> None:
    """By the sparse coder whatever the content, in chunks of unequal numbers of values."""
    data = np.ascontiguousarray(bits).reshape(-1).view(np.uint8)
    kind = kind_of(dtype, bits.shape)
    coder = SparseEncoder(data, kind, LEVEL)
    step = max(1, data.size // kind.unit // 3) * kind.unit
    pieces = [data[i : i + step] for i in range(0, data.size, step)]
    coder.decide([coder.count(piece) for piece in pieces])
    chunks = [(coder.encode(piece, i).tobytes(), piece.size) for i, piece in enumerate(pieces)]
    assert_decodes(coder.model(), chunks, data.tobytes())


def test_chunks_without_values() -> None:
    bits = np.zeros(300, np.uint16)
    round_trip(bits, "BF16")
    bits[100:200] = weights("bf16", 1, 100)[0]  # only in the middle of three chunks
    round_trip(bits, "BF16")


def test_a_value_of_minus_zero_is_a_value() -> None:
    bits = np.zeros(4000, np.uint32)
    bits[::7] = 0x80000000
    archive = densor.compress(bits.view(np.float32))
    back = densor.decompress(archive)
    assert back.view(np.uint32).tolist() == bits.tolist()


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(["int8", "uint16", "float32", "float64"]),
    count=st.integers(1, 3000),
    keep=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_any_array(dtype: str, count: int, keep: float, seed: int) -> None:
    array = make_array(dtype, (count,), "weights" if dtype[0] == "f" else "random", seed)
    array[random_state(seed, count).random(count) >= keep] = 0
    assert densor.decompress(densor.compress(array)).tobytes() == array.tobytes()


def test_an_archive_is_sparse_and_read_by_the_reference() -> None:
    bits = pruned("bf16", masks()["70 %"])
    archive = densor.compress(bits, dtype="bf16", threads=2)
    assert [f.payload[0] for f in take_apart(archive) if f.kind == MODEL] == [6]
    (entry,) = container.decode(archive)
    assert entry.data == bits.tobytes()
    assert densor.decompress(archive).tobytes() == bits.tobytes()


def test_a_few_rows_that_a_sample_misses() -> None:
    """As gradients of embeddings have them: hardly any row is not 0."""
    rng = np.random.default_rng(1)
    gradients = np.zeros((6000, 384), np.uint16)
    rows = rng.choice(600, 60, replace=False)
    numbers = rng.normal(0, 1e-3, (60, 384)).astype(np.float32)
    gradients[rows] = numbers.view(np.uint32) >> 16
    for level in (1, 2, 3):
        packed = densor.compress(gradients, level, dtype="bf16")
        assert len(packed) < 0.012 * gradients.nbytes
        assert densor.decompress(packed).tobytes() == gradients.tobytes()


# Hostile models and chunks


def model_of(size: int, bitmap: bytes = b"", values: bytes = b"") -> bytes:
    parts = [struct.pack("<I", len(model)) + model for model in (bitmap, values)]
    return bytes([6, size]) + b"".join(parts)


def payload_of(count: int, *parts: tuple[int, bytes]) -> bytes:
    return struct.pack("<I", count) + chunk_of(*parts)


def test_what_the_specification_says() -> None:
    payload = payload_of(3, (0, bytes([0b00100101])), (0, b"aabbcc"))
    assert_decodes(model_of(2), [(payload, 14)], b"aa\0\0bb\0\0\0\0cc\0\0")
    assert_decodes(model_of(8), [(payload_of(0, (0, b"\0"), (0, b"")), 8)], bytes(8))


def test_what_the_specification_says_of_bands() -> None:
    """Two columns: a row of its own, a band, and a row behind it."""
    model = struct.pack("<BBIB", 6, 1 | 128, 2, 1) + model_of(1)[2:]
    payload = payload_of(4, (0, bytes([0b00001001, 0b00000100, 0b1000])), (0, b"abcd"))
    assert_decodes(model, [(payload, 20)], b"a\0\0bc" + bytes(14) + b"d")
    short = payload_of(1, (0, b"\x80\0"), (0, b"a"))
    assert_decodes(model, [(short, 15)], bytes(7) + b"a" + bytes(7))


@pytest.mark.parametrize(
    "model",
    [
        struct.pack("<BBIB", 6, 129, 0, 0) + model_of(1)[2:],
        struct.pack("<BBIB", 6, 129, (1 << 24) + 1, 0) + model_of(1)[2:],
        struct.pack("<BBIB", 6, 129, 4, 8) + model_of(1)[2:],
        struct.pack("<BBIB", 6, 131, 4, 0) + model_of(1)[2:],
        model_of(129)[:6],
        model_of(129),
        b"\6",
        model_of(0),
        model_of(3),
        model_of(16),
        model_of(2) + b"\0",
        model_of(2)[:-1],
        model_of(2, b"\2"),
        model_of(2, model_of(2)),  # nested too deep
        model_of(2, b"", bytes([5, 1, 1, 0, 0, 0, 0, 0])),
    ],
)
def test_hostile_models(model: bytes) -> None:
    with pytest.raises(densor.FormatError):
        decoder_for(model)
    with pytest.raises(Refused):
        codecs.parse_model(model)


def test_hostile_chunks() -> None:
    bitmap, values = (0, bytes([0b00100101])), (0, b"aabbcc")
    sound = payload_of(3, bitmap, values)
    for payload, original in (
        (sound, 13),
        (sound, 8),  # unused bits that are set
        (sound, 18),
        (payload_of(2, bitmap, values), 14),
        (payload_of(2, bitmap, (0, b"aabb")), 14),
        (payload_of(4, bitmap, (0, b"aabbccdd")), 14),
        (payload_of(0xFFFFFFFF, bitmap, values), 14),
        (payload_of(0, (0, b"\0"), (1, b"")), 14),
        (payload_of(3, bitmap, (2, b"aabbcc")), 14),
        (payload_of(3, (1, bitmap[1]), values), 14),
        (sound + b"\0", 14),
    ):
        assert_both_refuse(model_of(2), payload, original)
    assert_both_refuse(model_of(2), payload_of(3, (9, bitmap[1]), values), 14, "unsupported")


@pytest.mark.parametrize("level", range(1, 8))
def test_masks_of_two_values_take_their_entropy_at_all_levels(level: int) -> None:
    kept = np.random.default_rng(0).random(200_000) < 0.9
    as_bf16 = np.where(kept, np.uint16(0x3F8E), np.uint16(0))  # what dropout multiplies by
    blob = densor.compress(as_bf16, level, dtype="bf16")
    assert len(blob) < 0.035 * as_bf16.nbytes
    assert np.array_equal(densor.decompress(blob), as_bf16)
    blob = densor.compress(kept, level)
    assert len(blob) < 0.07 * kept.nbytes
    assert np.array_equal(densor.decompress(blob), kept)


def structured(n: int, m: int, rows: int, columns: int) -> Any:
    """`n` of `m` in each row."""
    order = random_state("structured", n, m).random((rows * columns // m, m)).argsort(1)
    return (order < n).reshape(rows, columns)


@pytest.mark.parametrize(("n", "m", "bits"), [(2, 4, 0.67), (1, 2, 0.52), (4, 8, 0.79)])
def test_structured_masks_take_as_little_down_columns(n: int, m: int, bits: float) -> None:
    along = structured(n, m, 640, 512)
    down = np.ascontiguousarray(along.T)
    for mask in (along, down, down.astype(np.uint8) * 255):
        for level in (3, 6):
            packed = densor.compress(mask, level)
            assert 8 * len(packed) < bits * mask.size
            restored = densor.decompress(packed)
            assert restored.tobytes() == mask.tobytes()


@pytest.mark.parametrize("shape", [(511, 640), (640, 100), (37, 8192), (16, 4096)])
@pytest.mark.parametrize("shift", [0, 3])
def test_weights_pruned_down_columns(shape: tuple[int, int], shift: int) -> None:
    rows, columns = shape
    keep = structured(2, 4, columns, 4 * (rows // 4 + 2)).T[shift : shift + rows]
    bits = weights("bf16", rows, columns) * keep
    archive = densor.compress(bits, dtype="bf16", threads=2)
    assert densor.decompress(archive).tobytes() == bits.tobytes()
    (entry,) = container.decode(archive)
    assert entry.data == bits.tobytes()


def test_bands_begin_where_they_are() -> None:
    keep = structured(2, 4, 512, 1024).T
    bits = np.where(keep, np.uint16(0x3F8E), np.uint16(0))
    for shift in range(4):
        batch = Batch(
            np.ascontiguousarray(bits[shift : 512 + shift]).reshape(-1).view(np.uint8),
            kind_of("BF16", (512, 512)),
            Workers(1),
        )
        encoder: Any = CODECS[registry.CODEC_SPARSE].propose(batch, LEVEL)
        model = encoder.encode().result().model
        assert model[1] == 2 | 128
        assert struct.unpack("<IB", model[2:7]) == (512, -shift % 4)
