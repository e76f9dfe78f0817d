"""The span decoder against the ordinary one: the same data, and an error where that has one."""

import struct
import threading
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import xxhash
from helpers import bits_of, random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import planes_writer as reference
from reference.planes_writer import CONSTANT, RAW, Class
from span_tools import Taken, ordinary, take_apart

import densor
from densor.codec.planes.decoder import PlanesDecoder
from densor.codec.planes.params import parse
from densor.codec.spans import table as t
from densor.codec.spans.decode import SpanDecoder, error_of
from densor.codec.spans.table import SpanParameters, chunk_table
from densor.codec.spans.xxh3 import digest64
from densor.codec.zstd import zstd_compress
from densor.errors import ChecksumError, DensorError, FormatError
from densor.formats.container import wire
from densor.runtime.workers import Workers

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.densor"))
GUARD = 64
LAYOUT_NAMES = tuple(reference.LAYOUTS)


def bf16_array(*shape: int, seed: object = 0) -> Any:
    """Weights whose rows differ in scale."""
    rng = random_state("spans", seed)
    values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
    values *= np.exp(rng.normal(0, 0.4, (shape[0], *(1 for _ in shape[1:])))).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def packed(array: Any) -> Taken:
    return take_apart(np.frombuffer(densor.compress(array, level=3, dtype="BF16"), np.uint8))


def framed(payload: bytes, size: int, model: int) -> bytes:
    return wire.pack_frame(wire.CHUNK, payload, size, model) + payload


def one_chunk(model: bytes, payload: bytes, size: int, out: Any) -> int:
    """Decodes one chunk with its frame; the status."""
    data = np.frombuffer(framed(payload, size, 16), np.uint8)
    parameters = SpanParameters.of({16: parse(model)})
    columns = [np.array([x], np.int64) for x in (28, len(payload), 16, GUARD, size)]
    decoder = SpanDecoder(parameters, chunk_table(parameters, *columns))
    failed = decoder.decode(data, 0, 1, out)
    assert failed == (decoder.status[0] != 0)
    decoder.decode_rest(data, 0, 1, out)
    return int(decoder.status[0])


def compare(model: bytes, payload: bytes, size: int) -> bool:
    """Both decoders take the chunk, with the same result, or both refuse it; whether they do."""
    expected = np.full(size, 0xA5, np.uint8)
    error: DensorError | None = None
    try:
        PlanesDecoder(parse(model)).decode(np.frombuffer(payload, np.uint8), expected)
    except DensorError as found:
        error = found
    out = np.full(size + 2 * GUARD, 0x5A, np.uint8)
    status = one_chunk(model, payload, size, out)
    assert (out[:GUARD] == 0x5A).all() and (out[-GUARD:] == 0x5A).all()
    if error is None:
        assert status == 0
        assert out[GUARD:-GUARD].tobytes() == expected.tobytes()
        return True
    assert status != 0
    assert type(error_of(status)) is type(error)
    return False


# The hash


def test_hash_is_that_of_the_library() -> None:
    data = random_state("xxh3").integers(0, 256, 9000, np.uint8)
    for size in (*range(300), *range(1000, 1100), *range(2040, 2060), 4096, 8999, 9000):
        assert digest64(data[:size]) == xxhash.xxh3_64_intdigest(data[:size])
    for begin in range(70):  # any alignment
        assert digest64(data[begin : begin + 3000]) == xxhash.xxh3_64_intdigest(
            data[begin : begin + 3000].copy()
        )


# Whole archives


def check_archive(data: Any, least_mine: int = 0) -> None:
    taken = take_apart(data)
    table = taken.decoder.table
    out = np.full(taken.size, 0xEE, np.uint8)
    left = taken.decoder.decode_all(data, out, Workers(2))
    assert set(taken.decoder.status.tolist()) <= {0, t.NOT_MINE}
    assert (table[left, t.PARAMETERS] == t.OTHER).all()
    mine = np.flatnonzero(taken.decoder.status == 0).tolist()
    assert sorted([*mine, *left.tolist()]) == list(range(len(table)))
    assert len(mine) >= least_mine
    for chunk in mine:
        begin, size = table[chunk, [t.PLACE, t.SIZE]]
        assert out[begin : begin + size].tobytes() == ordinary(taken, chunk)


NAMED = [  # in the short form there are no frames to look at
    path
    for path in GOLDEN
    if not path.name.startswith("bad-") and not path.read_bytes()[12] & wire.SHORT
]


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.stem)
def test_golden_archives(path: Path) -> None:
    check_archive(np.fromfile(path, np.uint8))


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "dtype", ["BF16", "F16", "F32", "F64", "F8_E4M3", "I8", "I16", "I32", "I64"]
)
def test_archives_of_all_dtypes(tmp_path: Path, dtype: str, level: int) -> None:
    rng = random_state("spans", dtype, level)
    size = {"8": 1, "6": 2, "2": 4, "4": 8, "3": 1}[dtype[-1]]
    if dtype.startswith("I"):
        values = np.cumsum(rng.integers(-9, 9, 300_000)).astype(f"<i{size}")
    else:
        values = bits_of("weights", size, 300_000, rng)
    path = tmp_path / "a.densor"
    with densor.Writer(path, level=level) as writer:
        writer.add_tensor("x", values.reshape(600, 500), dtype=dtype)
        writer.add_tensor("small", values[:7], dtype=dtype)
    check_archive(np.fromfile(path, np.uint8), 1)


# Any planes and classes


@st.composite
def cases(draw: Any) -> tuple[bytes, bytes, bytes]:
    """SpanParameters, a payload and what it stands for."""
    name = draw(st.sampled_from(LAYOUT_NAMES))
    delta = draw(st.booleans()) and name in reference.WITH_DELTA
    n = draw(st.integers(1, 900))
    run = draw(st.one_of(st.integers(1, 40), st.integers(1, 1000), st.just(2**32 - 1)))
    rng = random_state("case", draw(st.integers(0, 2**32)))
    size = reference.SIZE[name]
    if draw(st.booleans()):
        elements = bits_of("weights", size, n, rng)
    else:
        elements = rng.integers(0, 5, n).astype(f"<u{size}")
    split = reference.differences(name, elements) if delta else elements
    planes, listed, sections = reference.planes_of(name, split), [], []
    for plane in planes:
        mode = draw(st.sampled_from([0, 2, 3, 3, 3]))
        if (plane == plane[0]).all() and draw(st.booleans()):
            mode = 1
        if mode == 2:
            listed.append([])
            sections.append((2, zstd_compress(plane, 3)))
            continue
        if mode != 3:
            listed.append([])
            sections.append((mode, plane.tobytes() if mode == 0 else plane[:1].tobytes()))
            continue
        runs = [plane[i : i + run] for i in range(0, n, run)]
        classes = [draw_class(draw, plane, rng) for _ in range(draw(st.integers(1, 16)))]
        classes[rng.integers(len(classes))] = draw_class(draw, plane, rng, CONSTANT)
        fitting = [
            [c for c, one in enumerate(classes) if one.kind != CONSTANT or (r == one.symbol).all()]
            for r in runs
        ]
        if not all(fitting):
            classes[0] = Class(RAW)
            fitting = [[*f, 0] if 0 not in f else f for f in fitting]
        of_run = [int(rng.choice(f)) for f in fitting]
        listed.append(classes)
        sections.append((3, reference.class_section(plane, classes, run, of_run)))
    model = bytes(reference.model(name, run, listed, delta))
    return model, reference.chunk(sections), elements.tobytes()


def draw_class(draw: Any, plane: Any, rng: Any, kind: int | None = None) -> Class:
    if kind is None:
        kind = draw(st.sampled_from([RAW, reference.HUFFMAN, reference.HUFFMAN]))
    if kind == CONSTANT:
        return Class(CONSTANT, int(plane[-1]))
    if kind == RAW:
        return Class(RAW)
    return Class.huffman(random_code(plane, rng))


def random_code(plane: Any, rng: Any) -> dict[int, int]:
    """A complete code, of whatever shape, for the symbols of a plane and perhaps others."""
    symbols = sorted({*plane.tolist(), int(rng.integers(256)), (int(plane[0]) + 1) & 255})
    lengths = [0]
    while len(lengths) < len(symbols):
        at = int(rng.integers(len(lengths))) if rng.random() < 0.5 else len(lengths) - 1
        if lengths[at] == 12:
            at = int(np.argmin(lengths))
        lengths[at : at + 1] = [lengths[at] + 1] * 2
    return dict(zip(symbols, lengths, strict=True))


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_any_planes_and_classes(case: tuple[bytes, bytes, bytes]) -> None:
    model, payload, expected = case
    out = np.full(len(expected) + 2 * GUARD, 0x5A, np.uint8)
    if len(payload) <= len(expected):
        assert one_chunk(model, payload, len(expected), out) == 0
        assert out[GUARD:-GUARD].tobytes() == expected
        assert compare(model, payload, len(expected))
    else:  # more than the format allows in a frame
        assert one_chunk(model, payload, len(expected), out) == t.HEADER_OTHER
    data = np.frombuffer(payload, np.uint8)
    parameters = SpanParameters.of({16: parse(model)})
    columns = [np.array([x], np.int64) for x in (0, data.size, 16, GUARD, len(expected))]
    decoder = SpanDecoder(parameters, chunk_table(parameters, *columns, checked=True))
    zstd = reference.PLANE_ZSTD in payload[: 5 * parse(model).layout.size : 5]
    assert decoder.decode(data, 0, 1, out) == zstd
    assert decoder.status[0] == (t.NOT_MINE if zstd else 0)
    decoder.decode_rest(data, 0, 1, out)
    assert decoder.status[0] == 0
    assert out[GUARD:-GUARD].tobytes() == expected
    assert (out[:GUARD] == 0x5A).all() and (out[-GUARD:] == 0x5A).all()


@settings(max_examples=400, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**32))
def test_damaged_payloads_are_refused_as_ever(case: tuple[bytes, bytes, bytes], seed: int) -> None:
    model, payload, expected = case
    rng = Random(seed)
    changed = bytearray(payload)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(changed))
        if rng.random() < 0.5:
            at = min(at, rng.randrange(60))
        changed[at] = rng.choice([0, 1, 2, 3, 255, changed[at] ^ 1 << rng.randrange(8)])
    if rng.random() < 0.3:
        del changed[rng.randrange(len(changed)) :]
    size = len(expected) + rng.choice([0, 0, 0, 1, -1, 8, -8])
    checked_compare(model, bytes(changed), max(size, 1))


def checked_compare(model: bytes, payload: bytes, size: int) -> None:
    """As `compare`, of a chunk whose frame was checked before, so that it may be of any length."""
    data = np.frombuffer(payload, np.uint8)
    parameters = SpanParameters.of({16: parse(model)})
    columns = [np.array([x], np.int64) for x in (0, data.size, 16, GUARD, size)]
    decoder = SpanDecoder(parameters, chunk_table(parameters, *columns, checked=True))
    out = np.full(size + 2 * GUARD, 0x5A, np.uint8)
    decoder.decode(data, 0, 1, out)
    decoder.decode_rest(data, 0, 1, out)
    assert (out[:GUARD] == 0x5A).all() and (out[-GUARD:] == 0x5A).all()
    status = int(decoder.status[0])
    expected = np.full(size, 0xA5, np.uint8)
    try:
        PlanesDecoder(parse(model)).decode(data, expected)
    except DensorError as error:
        assert status not in (0, t.NOT_MINE)
        assert type(error_of(status)) is type(error)
    else:
        assert status == 0
        assert out[GUARD:-GUARD].tobytes() == expected.tobytes()


# Frames and tables that lie


def test_a_damaged_frame_leaves_the_others() -> None:
    big = bf16_array(2000, 2000)
    taken = packed(big)
    table = taken.decoder.table
    assert len(table) > 4
    whole = np.zeros(taken.size, np.uint8)
    assert not taken.decoder.decode_all(taken.data, whole, Workers(1)).size
    assert whole.tobytes() == big.tobytes()
    places = {
        t.HEADER_DAMAGED: lambda row: row[t.HEAD] + 5,
        t.PAYLOAD_DAMAGED: lambda row: row[t.PAYLOAD] + row[t.STORED] // 2,
    }
    for status, place in places.items():
        for chunk in (0, 2, len(table) - 1):
            data = taken.data.copy()
            data[place(table[chunk])] ^= 4
            out = np.zeros(taken.size, np.uint8)
            decoder = SpanDecoder(taken.decoder.parameters, table)
            assert decoder.decode_all(data, out, Workers(2)).tolist() == [chunk]
            assert decoder.status[chunk] == status
            assert isinstance(error_of(status), ChecksumError)
            for other in set(range(len(table))) - {chunk}:
                begin, size = table[other, [t.PLACE, t.SIZE]]
                assert (out[begin : begin + size] == whole[begin : begin + size]).all()


def test_each_field_of_a_header_counts() -> None:
    values = bf16_array(3000)
    taken = packed(values)
    row = taken.decoder.table[0]
    head = int(row[t.HEAD])
    for at in range(24):
        data = taken.data.copy()
        data[head + at] ^= 1
        fields = data[head : head + 24]
        check = struct.pack("<I", xxhash.xxh3_64_intdigest(fields) & 0xFFFFFFFF)
        data[head + 24 : head + 28] = np.frombuffer(check, np.uint8)
        decoder = SpanDecoder(taken.decoder.parameters, taken.decoder.table)
        decoder.decode(data, 0, 1, np.empty(taken.size, np.uint8))
        assert decoder.status[0] == (t.HEADER_OTHER if at < 16 else t.PAYLOAD_DAMAGED)


LIES = [-(2**63), -1, 0, 1, 27, 28, 29, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1]


@pytest.mark.parametrize("checked", [False, True])
def test_tables_that_lie(checked: bool) -> None:
    values = bf16_array(3000)
    taken = packed(values)
    parameters = taken.decoder.parameters
    for column in range(t.COLUMNS):
        right = int(taken.decoder.table[0, column])
        for lie in [*LIES, right - 1, right + 1, taken.data.size, taken.size]:
            table = taken.decoder.table.copy()
            if checked:
                table[0, t.HEAD] = -1
            table[0, column] = min(lie, 2**63 - 1)
            out = np.full(taken.size + 2 * GUARD, 0x5A, np.uint8)
            inner = out[GUARD : GUARD + taken.size]
            decoder = SpanDecoder(parameters, table)
            decoder.decode(taken.data, 0, 1, inner)
            assert (out[:GUARD] == 0x5A).all() and (out[-GUARD:] == 0x5A).all()
            if decoder.status[0] == 0:
                assert inner.tobytes() == values.tobytes()


def test_overlapping_places_are_refused() -> None:
    parameters = SpanParameters.of({})
    ones = np.ones(3, np.int64)
    zeros = np.zeros(3, np.int64)
    for places, sizes, good in (
        ([0, 10, 20], [10, 10, 10], True),
        ([20, 0, 10], [10, 10, 10], True),
        ([0, 9, 20], [10, 10, 10], False),
        ([20, 0, 11], [10, 12, 9], False),
        ([0, 0, 0], [1, 1, 1], False),
        ([0, 10, 2**63 - 2], [10, 10, 1 << 26], True),  # outside of any result, seen later
        ([0, 10, 20], [10, 10, (1 << 26) + 1], False),
        ([-1, 10, 20], [10, 10, 10], False),
    ):
        columns = (30 * ones, ones, zeros, np.array(places), np.array(sizes))
        if good:
            assert len(chunk_table(parameters, *columns)) == 3
        else:
            with pytest.raises(FormatError):
                chunk_table(parameters, *columns)


def test_run_counts_are_bounded() -> None:
    n = (1 << 20) + 1
    plane = np.zeros(n, np.uint8)
    classes = [Class(RAW), Class(RAW)]
    model = bytes(reference.model("byte", 1, [classes]))
    section = bytes((n + 7) // 8) + plane.tobytes() + bytes(8)
    checked_compare(model, reference.chunk([(3, section)]), n)


def test_parameters_of_one_decoder_are_not_taken_for_those_of_another() -> None:
    for seed in range(6):
        values = bf16_array(3000, seed=seed)
        taken = packed(values)
        out = np.empty(taken.size, np.uint8)
        assert taken.decoder.decode(taken.data, 0, 1, out) == 0
        assert out.tobytes() == values.tobytes()


def test_spans_hold_all_chunks_once() -> None:
    parameters = SpanParameters.of({})
    rng = Random(3)
    random_sizes = [rng.randrange(1, 1 << 23) for _ in range(50)]
    for sizes in (
        [],
        [5],
        [1] * 100,
        [1 << 22] * 3,
        random_sizes,
    ):
        size = np.array(sizes, np.int64)
        zeros = np.zeros(size.size, np.int64)
        ends = np.cumsum(size)
        decoder = SpanDecoder(
            parameters, chunk_table(parameters, zeros + 28, zeros, zeros, ends - size, size)
        )
        for most in (1, 1 << 10, 1 << 22):
            spans = decoder.spans(most)
            assert [c for b, e in spans for c in range(b, e)] == list(range(size.size))
            assert all(b < e for b, e in spans)


def test_threads_get_the_same() -> None:
    big = bf16_array(3000, 2000)
    taken = packed(big)
    for threads in (1, 2, 5):
        out = np.zeros(taken.size, np.uint8)
        seen: list[tuple[int, int]] = []
        lock = threading.Lock()

        def finished(begin: int, end: int, seen: Any = seen, lock: Any = lock) -> None:
            with lock:
                seen.append((begin, end))

        left = taken.decoder.decode_all(taken.data, out, Workers(threads), finished)
        assert not left.size
        assert sorted(seen) == taken.decoder.spans()
        assert out.tobytes() == big.tobytes()
