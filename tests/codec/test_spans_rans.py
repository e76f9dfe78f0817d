"""The span decoder of rANS against the ordinary one: the same data, errors where that has one."""

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from helpers import random_state
from span_tools import Taken, ordinary, take_apart

import densor
from densor.codec import registry
from densor.codec.codecs import decoder_for
from densor.codec.spans import table as t
from densor.codec.spans.decode import SpanDecoder, error_of
from densor.codec.spans.rans_table import RansParameters
from densor.codec.spans.table import chunk_table
from densor.errors import DensorError
from densor.formats.container import wire
from densor.runtime.workers import Workers

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.densor"))
NAMED = [  # in the short form there are no frames to look at
    path
    for path in GOLDEN
    if not path.name.startswith("bad-") and not path.read_bytes()[12] & wire.SHORT
]
GUARD = 64
TYPES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
INTEGERS = {"I8": 1, "I16": 2, "I32": 4, "I64": 8}


def packed(values: Any, dtype: str) -> Any:
    return np.frombuffer(densor.compress(values, level=6, dtype=dtype, threads=1), np.uint8)


def check_archive(data: Any) -> int:
    """How many chunks under rANS there are; all are what the ordinary decoder makes of them."""
    taken = take_apart(data, rans=True)
    table = taken.decoder.table
    out = np.full(taken.size, 0xEE, np.uint8)
    taken.decoder.decode_all(data, out, Workers(2))
    assert set(taken.decoder.status.tolist()) <= {0, t.NOT_MINE}
    mine = np.flatnonzero(taken.decoder.status == 0).tolist()
    for chunk in mine:
        begin, size = table[chunk, [t.PLACE, t.SIZE]]
        assert out[begin : begin + size].tobytes() == ordinary(taken, chunk)
    return int((table[mine, t.PARAMETERS] >= 0).sum())


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.stem)
def test_golden_archives(path: Path) -> None:
    check_archive(np.fromfile(path, np.uint8))


def weights(dtype: str, rows: int, columns: int, *seed: object) -> Any:
    rng = random_state("rans", dtype, *seed)
    size = (TYPES | INTEGERS)[dtype]
    if dtype in INTEGERS:
        steps = rng.integers(-9, 9, rows * columns)
        values = np.cumsum(steps) if size > 1 else steps
        return values.astype(f"<i{size}").reshape(rows, columns)
    scales = np.exp(rng.normal(0, 0.4, (rows, 1)))
    normal = rng.standard_normal((rows, columns)) * scales * 0.02
    if size == 1:
        return (normal.astype(np.float16).view(np.uint16) >> np.uint16(8)).astype(np.uint8)
    if dtype == "BF16":
        return (normal.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return normal.astype(f"<f{size}").view(f"<u{size}")


@pytest.mark.parametrize("dtype", [*TYPES, *INTEGERS])
@pytest.mark.parametrize("shape", [(900, 1001), (2100, 1024), (1, 70_001), (65, 64)])
def test_archives_of_all_dtypes(dtype: str, shape: tuple[int, int]) -> None:
    values = weights(dtype, *shape, shape)
    count = check_archive(packed(values, dtype))
    assert count > 0 or shape == (65, 64)
    if dtype == "F32":  # low halves that are worth coding, or constant
        for drop in (8, 13, 16):
            check_archive(packed(values >> np.uint32(drop) << np.uint32(drop), dtype))


def test_what_is_rare() -> None:
    """Zeros, tiny and huge numbers, infinities and NaNs among weights."""
    for dtype, infinity in (("BF16", 0x7F80), ("F16", 0x7C00), ("F8_E5M2", 0x7C)):
        values = weights(dtype, 700, 513).reshape(-1)
        for place, value in enumerate((0, 1, infinity - 1, infinity, infinity + 3, infinity << 1)):
            values[place * 11 :: 997 + place] = value & (2 ** (8 * values.itemsize) - 1)
        assert check_archive(packed(values.reshape(700, 513), dtype)) > 0, dtype


# Damage


def samples() -> Iterator[Taken]:
    for dtype in ("BF16", "F16", "F32", "F8_E4M3", "I16", "F64"):
        yield take_apart(packed(weights(dtype, 61, 1000), dtype), rans=True)
    twice = weights("F32", 61, 1000) >> np.uint32(13) << np.uint32(13)
    yield take_apart(packed(twice, "F32"), rans=True)


def decoded(model: bytes, parsed: Any, payload: Any, size: int, others: int) -> tuple[int, Any]:
    """Status and result of a payload whose frame was checked, between others of the same kind."""
    parameters = RansParameters.of({16: parsed})
    count = 1 + others
    columns = [np.zeros(count, np.int64), np.full(count, payload.size), np.full(count, 16)]
    columns += [GUARD + size * np.arange(count), np.full(count, size)]
    decoder = SpanDecoder(parameters, chunk_table(parameters, *columns, checked=True))
    out = np.full(count * size + 2 * GUARD, 0x5A, np.uint8)
    decoder.decode(payload, 0, count, out)
    assert (out[:GUARD] == 0x5A).all() and (out[-GUARD:] == 0x5A).all()
    assert len(set(decoder.status.tolist())) == 1
    status = int(decoder.status[0])
    results = out[GUARD:-GUARD].reshape(count, size)
    assert status or (results == results[0]).all()
    return status, results[0]


@pytest.mark.parametrize("others", [0, 1, 2])
def test_damaged_payloads_are_refused_as_ever(others: int) -> None:
    rng = Random(others)
    refused = 0
    for taken in samples():
        for row in taken.decoder.table.tolist():
            model = taken.models.get(row[t.MODEL])
            if row[t.PARAMETERS] < 0 or model is None:
                continue
            decoder: Any = decoder_for(model)
            sound = taken.data[row[t.PAYLOAD] : row[t.PAYLOAD] + row[t.STORED]]
            for _ in range(60):
                payload = sound.copy()
                for _ in range(rng.choice([0, 1, 1, 2])):
                    at = rng.randrange(payload.size)
                    if rng.random() < 0.6:
                        at = min(at, rng.randrange(60))
                    payload[at] = rng.choice([0, 1, 255, int(payload[at]) ^ 1 << rng.randrange(8)])
                if rng.random() < 0.2:
                    payload = payload[: rng.randrange(1, payload.size + 1)].copy()
                size = row[t.SIZE] + rng.choice([0, 0, 0, 0, 8, -8])
                status, found = decoded(model, decoder.model, payload, size, others)
                expected = np.empty(size, np.uint8)
                try:
                    decoder.decode(payload, expected)
                except DensorError as error:
                    assert status and (
                        status == t.NOT_MINE or type(error_of(status)) is type(error)
                    )
                    refused += 1
                else:
                    assert status in (0, t.NOT_MINE)
                    assert status or found.tobytes() == expected.tobytes()
    assert refused > 100


@pytest.mark.parametrize("turn", [0, 1])
def test_a_malformed_chunk_leaves_the_one_beside_it(turn: int) -> None:
    """Two are decoded at a time, here of different payloads: all below the checksums."""
    rng = Random(turn)
    refused = 0
    for taken in samples():
        row = taken.decoder.table[0].tolist()
        model: Any = decoder_for(taken.models[row[t.MODEL]])
        sound = taken.data[row[t.PAYLOAD] : row[t.PAYLOAD] + row[t.STORED]].tobytes()
        parameters = RansParameters.of({16: model.model})
        for _ in range(20):
            spoilt = bytearray(sound[: rng.choice([len(sound), rng.randrange(len(sound))])])
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
            payloads = [sound, bytes(spoilt)][:: 1 - 2 * turn]
            stored = np.array([len(each) for each in payloads], np.int64)
            sizes = np.full(2, row[t.SIZE])
            columns = [np.cumsum(stored) - stored, stored, np.full(2, 16)]
            columns += [np.cumsum(sizes) - sizes, sizes]
            decoder = SpanDecoder(parameters, chunk_table(parameters, *columns, checked=True))
            out = np.empty(2 * row[t.SIZE], np.uint8)
            decoder.decode(np.frombuffer(b"".join(payloads), np.uint8), 0, 2, out)
            assert decoder.status[turn] == 0
            assert out.reshape(2, -1)[turn].tobytes() == ordinary(taken, 0)
            refused += int(decoder.status[1 - turn] not in (0, t.NOT_MINE))
    assert refused > 70


def test_a_damaged_chunk_leaves_the_one_beside_it() -> None:
    data = packed(weights("BF16", 4096, 1024), "BF16").copy()
    sound = take_apart(data, rans=True)
    chunks = np.flatnonzero(sound.decoder.table[:, t.PARAMETERS] >= 0).tolist()
    assert len(chunks) >= 4
    for damaged in chunks[:3]:
        row = sound.decoder.table[damaged]
        spoilt = data.copy()
        spoilt[row[t.PAYLOAD] + row[t.STORED] // 2] ^= 1
        out = np.zeros(sound.size, np.uint8)
        decoder = SpanDecoder(sound.decoder.parameters, sound.decoder.table)
        assert decoder.decode(spoilt, 0, len(decoder.table), out) == 1
        assert decoder.status[damaged] == t.PAYLOAD_DAMAGED
        for chunk in chunks:
            begin, size = decoder.table[chunk, [t.PLACE, t.SIZE]]
            same = out[begin : begin + size].tobytes() == ordinary(sound, chunk)
            assert same == (chunk != damaged)


def test_spans_of_chunks_that_are_not_alike() -> None:
    """Several sets of parameters and raw chunks in turn, in an archive that is read as a whole."""
    rng = random_state("rans", "mixed")
    tensors = {}
    for i in range(9):
        dtype = ("BF16", "F16", "I16")[i % 3]
        tensors[f"{i}"] = weights(dtype, 300, 256, i), dtype
        tensors[f"raw{i}"] = rng.integers(0, 256, (300, 256), np.uint8), "U8"
    file = io.BytesIO()
    with densor.Writer(file, level=6, threads=1) as writer:
        for name, (values, dtype) in tensors.items():
            writer.add_tensor(name, values, dtype=dtype)
    assert check_archive(np.frombuffer(file.getbuffer(), np.uint8)) >= 9
    assert registry.CODEC_SCALE_CONTEXT in {
        model[0] for model in take_apart(np.frombuffer(file.getbuffer(), np.uint8)).models.values()
    }
