"""Entry points that are stored with chunks: right ones are used, no others lead to wrong data."""

import io
import os
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import CHUNK, END, INDEX, MODEL, Frame, put_together, random_state, take_apart
from reference import points as reference

import densor
from densor.codec.planes import units
from densor.codec.planes.units import entry_points
from densor.errors import ChecksumError, DensorError, FormatError
from densor.formats.container import wire
from densor.formats.container.packed_array import PackedArray
from densor.formats.damage.salvage import salvage
from densor.gpu import Block, Packed, emulate, read_blob, read_packed, samples
from densor.gpu.emulate import EmulatedBackend

DTYPES = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
}
FLAGS = os.environ.get("DENSOR_EMULATOR_FLAGS", "").split()  # of test_gpu_sanitizers
needs_compiler = pytest.mark.skipif(emulate.compiler() is None, reason="no C++ compiler")


def array_of(dtype: str = "BF16", rows: int = 100) -> Any:
    return samples.weights(dtype, rows * 96, 96).view(DTYPES[dtype]).reshape(rows, 96)


def points_of(archive: bytes) -> list[tuple[Frame, bytes | None]]:
    """All chunks with the payload of the POINTS frame behind each."""
    frames = take_apart(archive)
    return [
        (one, after.payload if after.kind == wire.POINTS else None)
        for one, after in pairwise(frames)
        if one.kind == CHUNK
    ]


def with_points(archive: bytes, change: Callable[[bytes], bytes | None]) -> bytes:
    """An archive whose POINTS are changed, or left out."""
    frames = []
    for frame in take_apart(archive):
        if frame.kind == wire.POINTS:
            payload = change(frame.payload)
            if payload is None:
                continue
            frame = Frame(frame.kind, payload)
        frames.append(frame)
    return put_together(frames, archive[:32])


def decoded(blob: Any, order: str = "up") -> bytes:
    """What the kernels make of the only tensor."""
    on = EmulatedBackend(order, flags=FLAGS)
    (found,) = Block([read_blob(blob)], on).decode().values()
    return bytes(found.tobytes())


@pytest.fixture
def no_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> int:
        raise AssertionError("streams are decoded to find entry points")

    monkeypatch.setattr(units, "find_entries", fails)


# What is written.


@pytest.mark.parametrize("level", [1, 3, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_points_are_those_of_the_document(dtype: str, level: int) -> None:
    archive = densor.compress(array_of(dtype, 300), level, gpu_index=True)
    models = [frame.payload for frame in take_apart(archive) if frame.kind == MODEL]
    found = 0
    for chunk, points in points_of(archive):
        wanted = reference.points_of(models[chunk.model - 16], chunk.payload, chunk.original)
        assert (None if points is None else reference.unpacked(points)) == wanted
        found += points is not None
    assert found
    assert with_points(archive, lambda points: None) == densor.compress(array_of(dtype, 300), level)


def test_classes_and_planes() -> None:
    """Chunks of several classes, of all kinds, in all planes; runs of any length."""
    rng = random_state("points classes")
    rows = samples.weights("BF16", 400 * 77, 77).view(np.uint16).reshape(400, 77)
    rows[::3] = rng.integers(0, 1 << 16, (134, 77))
    rows[1::3] = 0x3F80 | rng.integers(0, 128, (133, 77))
    few = rng.integers(0, 3, 4 * 7000, np.uint8) * np.uint8(85)
    for packed in (
        samples.planar(rows.view(np.uint8).reshape(-1), "BF16", 77, 77 * 130, 6),
        samples.planar(few, "F32", 100, 2300),
    ):
        for chunk in packed.chunks:
            points = entry_points(chunk.model, chunk.payload, chunk.size)
            wanted = reference.points_of(chunk.model, chunk.payload.tobytes(), chunk.size)
            assert points is not None and reference.unpacked(points) == wanted


def test_what_has_no_points() -> None:
    """Integers, differences, FP64, raw bytes, other codecs."""
    steps = np.arange(9000, dtype=np.int32) ** 2
    for array, level in (
        (steps, 3),
        (array_of().astype(np.float64), 3),
        (random_state("points").integers(0, 256, 9000, np.uint8), 3),
        (array_of(rows=1000), 6),
        (array_of(), 9),
    ):
        assert densor.compress(array, level, gpu_index=True) == densor.compress(array, level)


def test_ways_of_writing(tmp_path: Path) -> None:
    tensors = {"a": array_of(), "b": array_of("F32")}
    densor.save_file(tensors, tmp_path / "a", gpu_index=True)
    with densor.Writer(tmp_path / "b", gpu_index=True) as writer:
        writer.add_tensor("a", tensors["a"])
    (tmp_path / "model.safetensors").write_bytes(densor.decompress(densor.save(tensors)))
    densor.compress_file(
        tmp_path / "model.safetensors", tmp_path / "c", gpu_index=True, verify=True
    )
    densor.pack([tmp_path / "model.safetensors"], tmp_path / "d", gpu_index=True)
    for name in "abcd":
        archive = (tmp_path / name).read_bytes()
        assert any(points is not None for _, points in points_of(archive))
        with densor.open(archive) as file:
            assert file.get_tensor("a").tobytes() == tensors["a"].tobytes()
            packed = read_packed(file.archive, ["a"])
            assert all(chunk.points is not None for chunk in packed[0].chunks[:1])
        densor.verify_file(tmp_path / name)


def test_threads_make_no_difference() -> None:
    array = array_of("BF16", 60_000)
    assert densor.compress(array, 1, 1, gpu_index=True) == densor.compress(
        array, 1, 4, gpu_index=True
    )


def test_damage_beside_chunks_costs_nothing(tmp_path: Path) -> None:
    """Whoever salvages an archive does without the points."""
    archive = bytearray(densor.save({"a": array_of()}, gpu_index=True))
    at = archive.index(next(p for _, p in points_of(bytes(archive)) if p is not None))
    archive[at + 3] ^= 1
    (tmp_path / "x").write_bytes(archive)
    with pytest.raises(ChecksumError):
        densor.verify_file(tmp_path / "x")
    damage = salvage(tmp_path / "x", tmp_path / "out")
    assert not damage.sound and all(entry.verified for entry in damage.entries)
    restored = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert restored == densor.decompress(densor.save({"a": array_of()}))


# What is read.


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_points_are_used(dtype: str, no_counting: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stream is decoded on the CPU; the same in blobs and archives, in repeated chunks too."""
    monkeypatch.undo()
    blob = densor.compress(array_of(dtype), gpu_index=True)
    saved = densor.save({"t": array_of(dtype)}, gpu_index=True)

    def fails(*args: Any) -> int:
        raise AssertionError("streams are decoded to find entry points")

    monkeypatch.setattr(units, "find_entries", fails)
    assert decoded(blob) == array_of(dtype).tobytes()
    found = densor.gpu.decode(saved, backend=EmulatedBackend(flags=FLAGS))
    assert found["t"].tobytes() == array_of(dtype).tobytes()
    with pytest.raises(AssertionError, match="entry points"):
        decoded(with_points(blob, lambda points: None))


@needs_compiler
def test_other_units_and_places_mean_nothing() -> None:
    """Those of another size, and frames that do not stand behind a chunk."""
    blob = densor.compress(array_of(), gpu_index=True)
    other = with_points(blob, lambda p: p[:8] + struct.pack("<I", 512) + b"whatever")
    frames = take_apart(other)
    for frame in (Frame(wire.POINTS, b""), Frame(wire.POINTS, b"x" * 99)):
        spread = [part for one in frames for part in (Frame(200, b""), frame, one)]
        assert decoded(put_together(spread, blob[:32])) == array_of().tobytes()


def lies(rng: np.random.Generator, points: bytes) -> bytes:
    """Points that lead to the ends of the streams, with others in between."""
    raw = bytearray(reference.unpacked(points))
    count = struct.unpack_from("<I", raw, 12)[0]
    halves = np.frombuffer(raw, np.uint8, offset=16).reshape(2, count).astype(np.int64)
    bits = halves[0] | halves[1] << 8
    per_stream = count // 4  # of one class
    for _ in range(int(rng.integers(1, 4))):
        stream = int(rng.integers(0, 4)) * per_stream
        one, other = stream + rng.choice(per_stream, 2, replace=False)
        move = min(int(rng.integers(1, 40)), int(bits[one]))
        bits[one] -= move
        bits[other] += move
    raw[16:] = np.concatenate([bits & 255, bits >> 8]).astype(np.uint8).tobytes()
    return reference.packed(bytes(raw))


@needs_compiler
@pytest.mark.parametrize("order", emulate.ORDERS)
def test_lies_are_told_by_the_kernels(order: str) -> None:
    """Every entry point but the true ones makes the unit before it end elsewhere."""
    rng = random_state("points lies", order)
    blob = densor.compress(array_of("BF16", 128), 1, gpu_index=True)  # one class, 12 units each
    for _ in range(25):
        changed = with_points(blob, lambda points: lies(rng, points))
        if changed == blob:
            continue
        with pytest.raises(ChecksumError, match="last symbol"):
            decoded(changed, order)
    assert densor.decompress(changed).tobytes() == array_of("BF16", 128).tobytes()  # does not look


@needs_compiler
def test_contradictions_are_refused() -> None:
    blob = densor.compress(array_of(), 1, gpu_index=True)
    payload = next(points for _, points in points_of(blob) if points is not None)
    plain = reference.unpacked(payload)
    count = struct.unpack_from("<I", payload, 12)[0]

    def numbers(count: int, body: bytes) -> bytes:
        return reference.packed(plain[:12] + struct.pack("<I", count) + body)

    low, high = plain[16 : 16 + count], plain[16 + count :]
    wrong = [
        b"",
        payload[:15],
        payload[:16],
        payload[:-3],
        bytes([payload[0] ^ 1]) + payload[1:],  # of another chunk
        payload[:12] + struct.pack("<I", 0xFFFFFFFF) + payload[16:],
        payload[:12] + struct.pack("<I", count + 1) + payload[16:],
        numbers(count, bytes(2 * count)),
        numbers(count, b"\xff" * (2 * count)),
        numbers(count, bytes([low[0] ^ 16]) + low[1:] + high),
        numbers(count - 1, low[1:] + high[1:]),
        numbers(count + 1, low + b"\0" + high + b"\0"),
        numbers(0, b""),
    ]
    for points in wrong:
        with pytest.raises(DensorError) as error:
            decoded(with_points(blob, lambda _, points=points: points))
        assert type(error.value) is FormatError


@needs_compiler
def test_random_points_never_give_wrong_data() -> None:
    rng = random_state("points random")
    array = array_of("F32", 64)
    blob = densor.compress(array, 3, gpu_index=True)
    refused = 0
    for _ in range(60):

        def change(points: bytes) -> bytes:
            raw = bytearray(reference.unpacked(points))
            for _ in range(int(rng.integers(1, 3))):
                raw[int(rng.integers(8, len(raw)))] ^= 1 << int(rng.integers(0, 8))
            return reference.packed(bytes(raw))

        try:
            assert decoded(with_points(blob, change)) == array.tobytes()
        except DensorError:
            refused += 1
    assert refused > 40


def test_packed_arrays_hand_them_on() -> None:
    blob = densor.compress(array_of(), gpu_index=True)
    (chunk,) = PackedArray(blob).chunks()
    assert chunk[4] is not None and chunk[4].tobytes() == points_of(blob)[0][1]
    assert isinstance(read_blob(blob), Packed)
    kinds = [frame.kind for frame in take_apart(densor.save({"t": array_of()}, gpu_index=True))]
    assert kinds.count(wire.POINTS) == 1 and kinds[-2:] == [INDEX, END]
    assert densor.decompress(io.BytesIO(blob).getvalue()).tobytes() == array_of().tobytes()
