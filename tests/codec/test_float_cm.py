"""The mixing codec: round trips, size, damage, and the slow decoder written from its text."""

import io
import struct

import numpy as np
import numpy.typing as npt
import pytest
from helpers import MODEL, random_state, take_apart, to_bf16
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import float_cm as reference_float_cm
from safetensors.numpy import save

import densor
from densor.codec.batch import Batch
from densor.codec.choose.candidates import encode_batch
from densor.codec.float_cm import params as mixing
from densor.codec.float_cm import tables
from densor.codec.float_cm.chunk_encoder import encode_chunk
from densor.codec.float_cm.decoder import FloatCmDecoder
from densor.codec.float_cm.params import Parameters, format_of
from densor.codec.kind import Kind, kind_of, matrices
from densor.codec.levels import level_settings
from densor.errors import DensorError, FormatError, LimitError, UnsupportedError
from densor.runtime.workers import Workers

DTYPES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "F8_E5M2": 1}
Bytes = npt.NDArray[np.uint8]
Shapes = list[tuple[int, int]]


def model_of(dtype: str, top: int = 3) -> Parameters:
    form = format_of(dtype)
    return Parameters(form, min(top, form.mantissa))


def weights_of(dtype: str, shape: tuple[int, int], seed: object = 0) -> Bytes:
    """Rows and columns of different scale, and columns that depend on each other."""
    rng = random_state(dtype, shape, seed)
    rows, columns = shape
    mixed = rng.standard_normal(shape) @ (np.eye(columns) + rng.standard_normal((columns,) * 2) / 8)
    numbers = (
        mixed * np.exp(rng.standard_normal((rows, 1)) / 3) * np.exp(rng.standard_normal(columns))
    )
    if dtype == "BF16":
        return to_bf16(numbers.astype(np.float32)).ravel().view(np.uint8)
    if dtype.startswith("F8"):
        e5m2 = numbers.astype("<f2").view("<u2") >> 8
        return e5m2.astype(np.uint8).ravel()
    return numbers.astype(f"<f{DTYPES[dtype]}").ravel().view(np.uint8)


def decoded(model: Parameters, payload: Bytes, size: int) -> bytes:
    out = np.full(size, 0xA5, np.uint8)
    FloatCmDecoder(model).decode(payload, out)
    return out.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shapes",
    [
        [(64, 48)],
        [(33, 96)],  # coded by columns
        [(1, 1), (1, 30), (40, 20), (3, 7), (50, 20), (48, 64)],  # goes on from matrix to matrix
        [(2, 600)],  # two blocks
        [(1, 1500)],
    ],
    ids=str,
)
def test_round_trip_of_weights(dtype: str, shapes: Shapes) -> None:
    data = np.concatenate([weights_of(dtype, shape, i) for i, shape in enumerate(shapes)])
    model = model_of(dtype)
    payload = encode_chunk(model, data, shapes)
    assert payload is not None and payload.size < data.size
    assert decoded(model, payload, data.size) == data.tobytes()
    assert (
        reference_float_cm.decode(mixing.pack(model), payload.tobytes(), data.size)
        == data.tobytes()
    )


@pytest.mark.parametrize("top", range(5))
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_any_number_of_top_bits(dtype: str, top: int) -> None:
    data = weights_of(dtype, (40, 24))
    model = Parameters(format_of(dtype), top)
    payload = encode_chunk(model, data, [(40, 24)])
    assert payload is not None
    assert decoded(model, payload, data.size) == data.tobytes()
    slow = reference_float_cm.decode(mixing.pack(model), payload.tobytes(), data.size)
    assert slow == data.tobytes()


def test_numbers_of_extreme_size_beside_each_other() -> None:
    rng = random_state("extreme")
    exponents = rng.choice([0, 1, 2, 60, 127, 128, 200, 254, 255], (48, 20)).astype("<u2")
    words = exponents << 7 | rng.integers(0, 128, (48, 20), np.uint16)
    words[:40] = 0x3F80  # else the chunk would not become smaller
    data = words.ravel().view(np.uint8)
    model = model_of("BF16")
    payload = encode_chunk(model, data, [(48, 20)])
    assert payload is not None
    assert decoded(model, payload, data.size) == data.tobytes()
    slow = reference_float_cm.decode(mixing.pack(model), payload.tobytes(), data.size)
    assert slow == data.tobytes()


def test_tables_are_those_of_the_text() -> None:
    found = tables.tables()
    for first, values in (
        (tables.SQUASH, reference_float_cm.SQUASH),
        (tables.STRETCH, reference_float_cm.STRETCH),
        (tables.NORMAL, reference_float_cm.NORMAL),
        (tables.RATE, reference_float_cm.RATE),
        (tables.INVERSE, reference_float_cm.INVERSE),
        (tables.LOG2, reference_float_cm.LOG2),
    ):
        assert found[first : first + len(values)].tolist() == values


def test_matrices_of_several_blocks() -> None:
    shapes = [(64, 64), (600, 600), (64, 64), (40, 1100), (20, 1030)]
    data = np.concatenate([weights_of("BF16", shape, i) for i, shape in enumerate(shapes)])
    model = model_of("BF16")
    payload = encode_chunk(model, data, shapes)
    assert payload is not None
    assert decoded(model, payload, data.size) == data.tobytes()


@pytest.mark.slow
def test_the_slow_decoder_on_matrices_of_several_blocks() -> None:
    shapes = [(514, 513), (64, 257)]
    data = np.concatenate([weights_of("BF16", shape, i) for i, shape in enumerate(shapes)])
    model = model_of("BF16")
    payload = encode_chunk(model, data, shapes)
    assert payload is not None
    slow = reference_float_cm.decode(mixing.pack(model), payload.tobytes(), data.size)
    assert slow == data.tobytes()


# Size


def test_dependent_columns_are_predicted() -> None:
    rng = random_state("low rank")
    numbers = rng.standard_normal((2048, 8)) @ rng.standard_normal((8, 64))
    numbers += rng.standard_normal(numbers.shape) / 4
    words = to_bf16(numbers.astype(np.float32))
    shuffled = rng.permutation(words.ravel())
    model = model_of("BF16")
    sizes = [
        len(encode_chunk(model, w.ravel().view(np.uint8), [(2048, 64)])) for w in (words, shuffled)
    ]
    assert sizes[0] < 0.87 * sizes[1]  # the order-0 bound of the same numbers is about the second


def test_zeros_cost_little() -> None:
    words = weights_of("BF16", (64, 64)).view("<u2").copy()
    words[random_state("zeros").random(words.size) < 0.9] = 0
    payload = encode_chunk(model_of("BF16"), words.view(np.uint8), [(64, 64)])
    assert payload is not None
    bound = words.size * 0.469 / 8 + 410 * 11 / 8  # entropy of the flags, and the other numbers
    assert payload.size < 1.1 * bound + 200


def test_bits_of_a_cast_cost_nothing() -> None:
    bf16 = weights_of("BF16", (64, 64))
    fp32 = (bf16.view("<u2").astype("<u4") << 16).view(np.uint8)
    small = encode_chunk(model_of("BF16"), bf16, [(64, 64)])
    large = encode_chunk(model_of("F32"), fp32, [(64, 64)])
    assert small is not None and large is not None
    assert large.size < small.size + 16


# Damage


def some_payload() -> tuple[Parameters, Bytes, Bytes]:
    data = np.concatenate([weights_of("F16", (40, 24)), weights_of("F16", (1, 100))])
    model = model_of("F16")
    payload = encode_chunk(model, data, [(40, 24), (1, 100)])
    assert payload is not None
    return model, payload, data


def test_streams_of_other_lengths() -> None:
    model, payload, data = some_payload()
    at = 2 + 8 * 2 + 1 + 2 * model.groups
    (length,) = struct.unpack_from("<I", payload, at)
    for other in {0, 1, length - 1, length + 1, payload.size - at - 4, 2**32 - 1} - {length}:
        changed = payload.copy()
        struct.pack_into("<I", changed, at, other)
        with pytest.raises(FormatError):
            decoded(model, changed, data.size)


@pytest.mark.parametrize(
    "shapes",
    [
        [(40, 24), (1, 99)],
        [(0, 24), (1, 1060)],
        [(40, 24)],
        [(2**32 - 1, 2**32 - 1)],
        [(2**31, 2), (2**31, 2)],
        [(1, 1)] * 65535,
        [],
    ],
    ids=lambda shapes: f"{len(shapes)}",
)
def test_lying_shapes(shapes: Shapes) -> None:
    model, payload, data = some_payload()
    head = struct.pack("<H", len(shapes)) + b"".join(struct.pack("<II", *s) for s in shapes)
    changed = np.concatenate([np.frombuffer(head, np.uint8), payload[2 + 16 :]])
    with pytest.raises(FormatError):
        decoded(model, changed, data.size)


def test_other_shapes_of_the_right_size_end_in_bounded_time() -> None:
    model, payload, data = some_payload()
    for shapes in ([(1, 1)] * 1060, [(1060, 1)], [(1, 1060)], [(530, 2)], [(20, 53)], [(53, 20)]):
        head = struct.pack("<H", len(shapes)) + b"".join(struct.pack("<II", *s) for s in shapes)
        changed = np.concatenate([np.frombuffer(head, np.uint8), payload[2 + 16 :]])
        with pytest.raises(FormatError):
            decoded(model, changed, data.size)


def test_chunk_beyond_the_limit() -> None:
    model, payload, _ = some_payload()
    with pytest.raises(LimitError):
        decoded(model, payload, mixing.MAX_CHUNK + 2)
    with pytest.raises(FormatError):
        decoded(model, payload, 2119)


@pytest.mark.parametrize(
    "payload", [b"", b"\4", b"\4\1\3", b"\4\1\3\0\0", b"\4\1\5\0", b"\4\1\3\1", b"\4\4\4\0"]
)
def test_bad_models(payload: bytes) -> None:
    with pytest.raises(FormatError):
        mixing.parse(payload)


def test_unknown_format() -> None:
    for payload in (b"\4\0\0\0", b"\4\6\0\0"):
        with pytest.raises(UnsupportedError):
            mixing.parse(payload)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), st.integers(0, 2**32), st.integers(1, 4))
def test_random_streams_never_crash(dtype: str, seed: int, count: int) -> None:
    rng = random_state(seed)
    model = model_of(dtype)
    shapes = [tuple(int(x) for x in rng.integers(1, 70, 2)) for _ in range(count)]
    groups = b"".join(bytes([k, 0]) for k in rng.integers(0, 2, model.groups).tolist())
    body = rng.integers(0, 256, int(rng.integers(0, 4000)), np.uint8).tobytes()
    head = struct.pack("<H", count) + b"".join(struct.pack("<II", *s) for s in shapes)
    coded = int(rng.integers(0, len(body) + 1))
    payload = head + bytes([int(rng.integers(0, 2))]) + groups + struct.pack("<I", coded) + body
    size = DTYPES[dtype] * sum(r * c for r, c in shapes)
    with pytest.raises(DensorError):
        decoded(model, np.frombuffer(payload, np.uint8), size)


# In archives


def stored(data: Bytes, kind: Kind, level: int) -> int:
    workers = Workers(1)
    try:
        return encode_batch(Batch(data, kind, workers), level_settings(level)).result().stored
    finally:
        workers.close()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_repeats_is_no_larger_than_at_the_default_level(dtype: str) -> None:
    kind = kind_of(dtype, (256, 128))
    row = weights_of(dtype, (1, 128))
    for data in (
        np.tile(row, 256),
        np.zeros(256 * row.size, np.uint8),
        np.tile(np.arange(16, dtype=np.uint8), 16 * row.size),
    ):
        assert stored(data, kind, 9) <= stored(data, kind, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(96, 200), (384, 384), (1100, 700)])
def test_numbers_without_structure_are_no_larger_than_at_level_6(
    dtype: str, shape: tuple[int, int]
) -> None:
    """There is nothing for a mixture of models to find."""
    numbers = random_state(dtype, shape).standard_normal(shape)
    if dtype == "BF16":
        data = to_bf16(numbers.astype(np.float32)).ravel().view(np.uint8)
    elif dtype.startswith("F8"):
        data = (numbers.astype("<f2").view("<u2") >> 8).astype(np.uint8).ravel()
    else:
        data = numbers.astype("<f2" if dtype == "F16" else "<f4").ravel().view(np.uint8)
    kind = kind_of(dtype, shape)
    assert stored(data, kind, 9) <= stored(data, kind, 6)


def test_groups_of_tensors_in_an_archive() -> None:
    rng = random_state("archive")
    tensors = {
        "a.bias": rng.standard_normal(100).astype(np.float16),
        "a.weight": weights_of("F16", (300, 70)).view(np.float16).reshape(300, 70),
        "b.bias": rng.standard_normal(1).astype(np.float16),
        "b.weight": rng.standard_normal((9, 8, 3, 3)).astype(np.float16),
        "c": weights_of("F32", (40, 3000)).view(np.float32).reshape(40, 3000),
    }
    plain = save(tensors)
    packed, unpacked = io.BytesIO(), io.BytesIO()
    densor.compress_file(io.BytesIO(plain), packed, level=9)
    codecs = [f.payload[0] for f in take_apart(packed.getvalue()) if f.kind == MODEL]
    assert len(codecs) == 2 and set(codecs) <= {3, 4} and 4 in codecs  # by rows, one by this codec
    densor.decompress_file(io.BytesIO(packed.getvalue()), unpacked)
    assert unpacked.getvalue() == plain


def test_matrices_of_a_group_are_exact() -> None:
    kind = Kind(None, dtype="F32", parts=((1, 100), (70, 100)))
    assert matrices(kind, 7100) == [(1, 100), (70, 100)]
