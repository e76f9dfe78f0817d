"""One conformance suite for every layout of the planar codec, and for the Huffman code under it.

The decoder is fed by the slow writer in `reference.planes_writer`, which knows the document only;
what both agree on is checked against `reference.container` as well.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xxhash
from bit_coder import code_lengths
from helpers import (
    CHUNK,
    MODEL,
    Frame,
    assert_same,
    bits_of,
    bytes_archive,
    entropy_bytes,
    random_state,
    to_bf16,
    weights,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import codecs, container
from reference import planes_writer as reference
from reference.planes_writer import CONSTANT, RAW, Class, kraft
from reference.reading import Refused
from test_planes import decode_both, huffman_classes, huffman_plane

import densor
from densor.codec.planes import params as planar_model
from densor.codec.planes.decoder import PlanesDecoder
from densor.codec.planes.layout import LAYOUTS, from_differences, to_differences
from densor.codec.planes.units import UnitParser, entry_points

LAYOUT_NAMES = tuple(reference.LAYOUTS)


def elements_for(layout: str, count: int, seed: object = 0) -> np.ndarray[Any, Any]:
    """Elements half of which are weights and half of which are noise."""
    size = reference.SIZE[layout]
    rng = random_state(layout, count, seed)
    some = bits_of("weights", size, count, rng)
    some[count // 2 :] = bits_of("random", size, count, rng)[count // 2 :]
    return some


# Layouts


@pytest.mark.parametrize("name", LAYOUT_NAMES)
def test_split_is_what_the_document_says(name: str) -> None:
    layout = LAYOUTS[reference.LAYOUTS[name]]
    assert (layout.name, layout.size) == (name, reference.SIZE[name])
    for count in (0, 1, 2, 3, 7, 8, 1001):
        elements = elements_for(name, count)
        planes = np.empty(elements.nbytes, np.uint8)
        layout.split(elements.view(np.uint8), planes)
        expected = np.concatenate([np.empty(0, np.uint8), *reference.planes_of(name, elements)])
        assert planes.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", reference.WITH_DELTA)
def test_differences_are_what_the_document_says(name: str) -> None:
    layout = LAYOUTS[reference.LAYOUTS[name]]
    for count in (1, 2, 5, 500):
        for elements in (elements_for(name, count), np.arange(count).astype(f"<u{layout.size}")):
            expected = reference.differences(name, elements)
            zigzag = to_differences(elements.view(np.uint8), layout)
            assert zigzag.tobytes() == expected.tobytes()
            restored = zigzag.copy()
            from_differences(restored, layout)
            assert restored.tobytes() == elements.tobytes()
            planes = reference.planes_of(name, expected)
            model = reference.model(name, 7, [[]] * len(planes), delta=True)
            payload = reference.chunk([(0, plane.tobytes()) for plane in planes])
            decode_both(bytes(model), payload, elements.tobytes())


# Classes


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 31, 4096, 100_003])
@pytest.mark.parametrize("symbols", [2, 3, 17, 256])
def test_streams_of_every_length_end_where_they_should(n: int, symbols: int) -> None:
    rng = random_state(n, symbols)
    code = reference.random_complete_code(rng, symbols)
    likely = np.array([2.0**-length for length in code.values()])
    plane = rng.choice(list(code), n, p=likely / likely.sum()).astype(np.uint8)
    one = Class.huffman(code)
    section = reference.class_section(plane, [one], n, [0])
    model = bytes(reference.model("byte", n, [[one]]))
    decode_both(model, reference.chunk([(3, section)]), plane.tobytes())


@pytest.mark.parametrize("limit", [11, 12])
def test_the_longest_codes_that_are_allowed(limit: int) -> None:
    # 1, 1, 2, 3, 4 ... limit, limit: the shape that Fibonacci-like counts give.
    code = {symbol: symbol + 1 for symbol in range(limit)} | {limit: limit}
    one = Class.huffman(code)
    for plane in (
        np.full(1000, limit, np.uint8),
        np.resize(np.arange(limit + 1, dtype=np.uint8), 1000),
        np.zeros(1000, np.uint8),
    ):
        section = reference.class_section(plane, [one], 1000, [0])
        model = bytes(reference.model("byte", 1000, [[one]]))
        decode_both(model, reference.chunk([(3, section)]), plane.tobytes())


def test_a_section_that_contradicts_its_model_is_refused() -> None:
    rng = random_state("contradictions")
    code = reference.random_complete_code(rng, 20)
    listed = [Class(RAW), Class.huffman(code), Class(CONSTANT, symbol=7)]
    plane = np.concatenate([rng.choice(list(code), 50), np.full(50, 7), rng.integers(0, 256, 50)])
    plane = plane.astype(np.uint8)
    section = reference.class_section(plane, listed, 50, [1, 2, 0])
    decoder = PlanesDecoder(planar_model.parse(bytes(reference.model("byte", 50, [listed]))))

    def refused(payload: bytes, size: int = 150) -> None:
        with pytest.raises(densor.FormatError):
            decoder.decode(np.frombuffer(payload, np.uint8), np.empty(size, np.uint8))

    good = reference.chunk([(3, section)])
    out = np.empty(150, np.uint8)
    decoder.decode(np.frombuffer(good, np.uint8), out)
    assert out.tobytes() == plane.tobytes()
    refused(b"\x04" + good[1:])  # no such mode
    refused(b"\x00" + good[1:])  # raw, but of another size
    refused(b"\x01" + good[1:])  # constant, but more than a byte
    refused(b"\x02" + good[1:])  # not Zstandard
    refused(good, 149)
    refused(good, 151)
    section_with = bytearray(section)
    section_with[0] = 0b00_11_10_01  # class 3 of 3
    refused(reference.chunk([(3, bytes(section_with))]))
    for stream in range(4):
        longer = bytearray(section)
        longer[1 + 4 * stream] += 1
        refused(reference.chunk([(3, bytes(longer))]))


@settings(max_examples=60)
@given(n=st.integers(1, 700), seed=st.integers(0, 1 << 30))
def test_unused_bits_at_the_end_of_a_stream_must_be_0(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    code = reference.random_complete_code(rng, int(rng.integers(2, 40)))
    plane = rng.choice(list(code), n).astype(np.uint8)
    section = reference.class_section(plane, [Class.huffman(code)], n, [0])
    model = bytes(reference.model("byte", n, [[Class.huffman(code)]]))
    good = reference.chunk([(3, section)])
    points = entry_points(model, np.frombuffer(good, np.uint8), n)
    assert points is not None
    parsed = planar_model.parse(model)
    end = len(good) - len(section) + 16
    q = -(-n // 4)
    for stream in range(4):
        bits = sum(code[int(symbol)] for symbol in plane[stream * q : (stream + 1) * q])
        end += -(-bits // 8)
        for bit in range(bits % 8, 8) if bits % 8 else ():
            bad = bytearray(good)
            bad[end - 1] |= 1 << bit
            payload = np.frombuffer(bytes(bad), np.uint8)
            with pytest.raises(densor.FormatError, match="unused bits"):
                PlanesDecoder(parsed).decode(payload, np.empty(n, np.uint8))
            with pytest.raises(Refused):
                codecs.parse_model(model).decode(bytes(bad), n)
            with pytest.raises(densor.FormatError, match="unused bits"):
                UnitParser(parsed).parse(payload, n)
            of_bad = xxhash.xxh3_64_intdigest(payload).to_bytes(8, "little") + points[8:]
            with pytest.raises(densor.FormatError, match="unused bits"):
                UnitParser(parsed).parse(payload, n, np.frombuffer(of_bad, np.uint8))


# Models


@pytest.mark.parametrize(
    "lengths",
    [
        {5: 1},
        {5: 12},
        {1: 1, 2: 2},  # incomplete
        {1: 1, 2: 1, 3: 1},  # too many
        {1: 1, 2: 13, 3: 13},
        {1: 15, 2: 1},
        dict.fromkeys(range(256), 9),
    ],
)
def test_codes_that_are_not_complete_are_refused(lengths: dict[int, int]) -> None:
    model = bytes(reference.model("byte", 1, [[Class.huffman(lengths)]]))
    with pytest.raises(densor.FormatError):
        planar_model.parse(model)
    with pytest.raises(Refused):
        codecs.parse_model(model)


# Huffman code lengths


def cost(counts: Sequence[int], lengths: np.ndarray[Any, Any]) -> int:
    return sum(int(c) * int(length) for c, length in zip(counts, lengths, strict=True))


def padded(counts: Sequence[int]) -> np.ndarray[Any, Any]:
    return np.array([*counts, *[0] * (256 - len(counts))], np.int64)


def fibonacci(count: int) -> list[int]:
    numbers = [1, 1]
    while len(numbers) < count:
        numbers.append(numbers[-1] + numbers[-2])
    return numbers


COUNTS = st.one_of(
    st.lists(st.integers(0, 5), min_size=2, max_size=256),
    st.lists(st.integers(0, 10_000), min_size=2, max_size=256),
    st.lists(st.integers(0, 50).map(lambda n: 2**n), min_size=2, max_size=256),
    st.permutations(fibonacci(40)),
)


@given(counts=COUNTS, limit=st.integers(9, 12))
def test_code_lengths_are_optimal_under_every_limit(counts: list[int], limit: int) -> None:
    lengths = code_lengths(padded(counts), limit)
    used = [count for count in counts if count]
    if len(used) < 2:
        assert not lengths.any()
        return
    assert all((length > 0) == (c > 0) for c, length in zip(padded(counts), lengths, strict=True))
    assert lengths.max() <= limit
    assert kraft([int(length) for length in lengths if length]) == 1
    assert cost(padded(counts), lengths) == reference.limited_cost(counts, limit)


@given(counts=st.lists(st.integers(0, 60), min_size=2, max_size=40))
def test_code_lengths_are_those_of_huffman_where_the_limit_does_not_bind(counts: list[int]) -> None:
    unlimited = reference.huffman_cost(counts)
    if sum(count > 0 for count in counts) < 2:
        return
    depths = reference.huffman_lengths(dict(enumerate(counts)))
    if max(depths.values()) <= 12:
        assert cost(padded(counts), code_lengths(padded(counts), 12)) == unlimited


def test_degenerate_alphabets() -> None:
    assert not code_lengths(padded([]), 12).any()
    assert not code_lengths(padded([0, 0, 5]), 12).any()
    assert list(code_lengths(padded([3, 0, 1]), 12)[:3]) == [1, 0, 1]
    assert set(code_lengths(padded([7] * 256), 12)) == {8}
    assert set(code_lengths(padded([7] * 256), 8)) == {8}


@pytest.mark.parametrize("limit", [11, 12])
def test_lengths_at_the_limit(limit: int) -> None:
    lengths = code_lengths(padded(fibonacci(30)), limit)
    assert lengths.max() == limit
    assert kraft([int(length) for length in lengths if length]) == 1


# Data whose planes are degenerate


@pytest.mark.parametrize("dtype", ["u8", "bf16", "f16", "f32", "f64", "u64"])
@pytest.mark.parametrize(
    "plane",
    [
        np.zeros(20_000, np.uint8),
        np.resize(np.array([3, 200], np.uint8), 20_000),
        np.resize(np.arange(256, dtype=np.uint8), 20_000),
        np.repeat(np.arange(25, dtype=np.uint8), fibonacci(25))[::-1][:200_000],
        np.concatenate([np.zeros(19_999, np.uint8), np.ones(1, np.uint8)]),
        np.concatenate([np.zeros(10_000, np.uint8), np.full(10_000, 255, np.uint8)]),
    ],
    ids=["one symbol", "two symbols", "all equal", "fibonacci", "one of another", "halves"],
)
@pytest.mark.parametrize("level", [1, 3])
def test_degenerate_planes_come_back(dtype: str, plane: reference.Bytes, level: int) -> None:
    shuffled = random_state("shuffle").permutation(plane)
    for data in (plane.tobytes(), shuffled.tobytes()):
        assert densor.decompress(densor.compress(data, level, dtype=dtype)) == data


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f64"])
def test_values_that_a_sample_would_miss_are_coded(dtype: str) -> None:
    """Symbols that occur once in a million elements, far from where a quick look would see them."""
    size = {"bf16": 2, "f32": 4, "f64": 8}[dtype]
    kind = {"bf16": "bf16", "f32": "fp32", "f64": "fp64"}[dtype]
    array = weights(kind, 300, 4096).copy()
    rng = random_state("rare")
    for row, value in enumerate(rng.integers(0, 1 << 8 * size, 300, np.uint64)):
        array[row, -1 - row % 3000] = value
    packed = densor.compress(array, dtype=dtype)
    assert_same(densor.decompress(packed), array)
    assert len(packed) < 0.97 * array.nbytes


@pytest.mark.parametrize("rows", [1, 3000, 9000])
def test_values_in_runs_that_the_search_for_classes_skips_are_coded(rows: int) -> None:
    """All rows alike, so one class is left; rare symbols in rows that the search did not see."""
    rng = random_state("skipped")
    exponent = rng.integers(118, 122, (rows, 1024)).astype(np.uint32)
    exponent[rows * 7 // 9, :5] = [1, 2, 3, 254, 200]
    bits = exponent << 23 | rng.integers(0, 1 << 23, exponent.shape).astype(np.uint32)
    array = bits.view(np.float32)
    assert_same(densor.decompress(densor.compress(array)), array)


# Sizes


@pytest.mark.parametrize("size", [0, 1, 5, 100, 4096, 100_000, 3_000_001])
@pytest.mark.parametrize("dtype", [None, "u8", "bf16", "f16", "f32", "f64", "i64"])
def test_noise_grows_by_no_more_than_the_frames_around_it(size: int, dtype: str | None) -> None:
    noise = random_state("noise", size).integers(0, 256, size, np.uint8).tobytes()
    packed = densor.compress(noise, dtype=dtype)
    assert densor.decompress(packed) == noise
    assert len(packed) <= size + 256 + 28 * (size >> 18)


def plane_entropies(layout: str, array: np.ndarray[Any, Any]) -> float:
    planes = np.empty(array.nbytes, np.uint8)
    LAYOUTS[reference.LAYOUTS[layout]].split(array.view(np.uint8).reshape(-1), planes)
    return sum(entropy_bytes(plane) for plane in planes.reshape(array.itemsize, -1))


@pytest.mark.parametrize(
    ("kind", "dtype", "layout"),
    [
        ("bf16", "bf16", "bf16"),
        ("fp16", "f16", "word16"),
        ("fp8", "f8_e4m3", "byte"),
        ("fp32", "f32", "fp32"),
        ("fp64", "f64", "fp64"),
        ("fp32_of_bf16", "f32", "fp32"),
        ("fp32_of_fp16", "f32", "fp32"),
        ("fp32_short", "f32", "fp32"),
        ("fp64_of_fp32", "f64", "fp64"),
    ],
)
def test_weights_shrink_to_the_entropy_of_their_planes(kind: str, dtype: str, layout: str) -> None:
    array = weights(kind, 512, 2048)
    packed = densor.compress(array, dtype=dtype)
    assert_same(densor.decompress(packed), array)
    assert len(packed) <= 1.01 * plane_entropies(layout, array) + 300


@pytest.mark.parametrize("kind", ["fp32_of_bf16", "fp32_of_fp16"])
def test_numbers_cast_up_take_hardly_more_than_before(kind: str) -> None:
    wide = weights(kind, 512, 2048)
    small = weights(kind.removeprefix("fp32_of_"), 512, 2048)
    dtype = {"fp32_of_bf16": "bf16", "fp32_of_fp16": "f16"}[kind]
    packed = len(densor.compress(wide, dtype="f32"))
    assert packed <= 1.02 * len(densor.compress(small, dtype=dtype)) + 1000


def test_row_classes_beat_one_code_for_all() -> None:
    rng = random_state("rows")
    scale = np.exp2(rng.integers(-6, 6, (400, 1)))
    rows = to_bf16((rng.standard_normal((400, 2048)) * scale).astype(np.float32))
    one, several = (len(densor.compress(rows, level, dtype="bf16")) for level in (1, 3))
    assert several < 0.95 * one
    assert several < 0.95 * plane_entropies("bf16", rows)


def test_integers_that_count_up_take_next_to_nothing() -> None:
    for dtype in ("<i2", "<i4", "<i8", "<u4"):
        array = (np.arange(100_000) * 3).astype(dtype)
        packed = densor.compress(array)
        assert_same(densor.decompress(packed), array)
        assert len(packed) < array.nbytes / 50


def test_equal_tensors_are_stored_once() -> None:
    array = weights("bf16", 300, 1000)
    sizes = []
    for copies in (1, 5):
        file = io.BytesIO()
        with densor.Writer(file) as writer:
            for number in range(copies):
                writer.add_tensor(f"layer.{number}", array, dtype="bf16")
        sizes.append(len(file.getvalue()))
        entries = container.decode(file.getvalue())
        assert [entry.data for entry in entries] == [array.tobytes()] * copies
        with densor.open(file) as opened:
            for name in opened:
                assert opened.get_tensor(name).tobytes() == array.tobytes()
    assert sizes[1] < sizes[0] + 4 * 600


def test_handmade_archives_are_read() -> None:
    """The way from model and chunk through the container, without the package's writer."""
    rng = random_state("handmade")
    listed = huffman_classes(rng, 5)
    class_of_run = rng.integers(0, 5, 100).tolist()
    plane = huffman_plane(rng, 1000, 10, listed, class_of_run)
    section = reference.class_section(plane, listed, 10, class_of_run)
    model = Frame(MODEL, bytes(reference.model("byte", 10, [listed])))
    chunk = Frame(CHUNK, reference.chunk([(3, section)]), 1000, 16)
    assert len(chunk.payload) <= 1000
    archive = bytes_archive([model, chunk, chunk], plane.tobytes() * 2)
    assert densor.decompress(archive) == plane.tobytes() * 2
    assert container.decode(archive)[0].data == plane.tobytes() * 2
