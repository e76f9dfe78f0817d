"""Small tensors that are entries of their own: gathered by the writer, read in runs."""

import io
from typing import Any

import numpy as np
import pytest

import densor
from densor.codec.history import History
from densor.codec.kind import kind_of_array
from densor.codec.levels import level_settings
from densor.codec.small import encode_small
from densor.codec.spans import alike
from densor.errors import ArgumentError, ChecksumError, DensorError, FormatError, LimitError
from densor.formats.container import strictjson, wire
from densor.formats.container.archive import Archive
from densor.formats.container.entry import TENSOR, parse_listed
from densor.formats.container.writer import ArchiveWriter
from densor.formats.io.sources import MemoryRandomSource

SHAPES = ((), (1,), (64,), (256,), (8, 16), (16, 64), (0, 3), (5,), (3, 5, 7), (1024,), (1025,))
DTYPES = ("float32", "float16", "uint16", "int64", "int32", "float64", "uint8", "bool", "complex64")


def tensors(count: int, seed: int = 0) -> dict[str, Any]:
    """Of many types and shapes, some of them constant or equal to others."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        shape = SHAPES[rng.integers(len(SHAPES))]
        values = rng.standard_normal(shape) * 100
        if rng.random() < 0.2:
            values = np.full(shape, float(rng.integers(3)))
        dtype = DTYPES[rng.integers(len(DTYPES))]
        values = np.abs(values) if dtype[0] == "u" else values
        found[f"t{number} é"] = np.asarray(values).astype(dtype)
    return found


def alike_tensors(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((count, 256), np.float32)
    return {f"t{number}": values[number] for number in range(count)}


def packed(given: dict[str, Any], level: int = 3, threads: int = 1, **keywords: Any) -> bytes:
    file = io.BytesIO()
    with densor.Writer(file, level, threads, **keywords) as writer:
        for name, tensor in given.items():
            writer.add_tensor(name, tensor)
    return file.getvalue()


def same(found: dict[str, Any], given: dict[str, Any]) -> bool:
    return found.keys() == given.keys() and all(
        found[name].shape == tensor.shape
        and found[name].dtype == tensor.dtype
        and found[name].tobytes() == tensor.tobytes()
        for name, tensor in given.items()
    )


@pytest.mark.parametrize(("level", "threads"), [(1, 1), (3, 1), (3, 2), (6, 1)])
def test_all_kinds_come_back(level: int, threads: int) -> None:
    given = tensors(400, level)
    blob = packed(given, level, threads)
    assert same(densor.load(blob), given)
    with densor.open(blob) as file:
        assert all(file.get_tensor(name).tobytes() == t.tobytes() for name, t in given.items())


def test_takes_no_more_than_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (alike_tensors(100), tensors(300), tensors(20)):
        together = packed(given)
        with monkeypatch.context() as patch:
            patch.setattr(ArchiveWriter, "add_small", lambda *_: False)
            apart = packed(given)
        assert len(together) <= len(apart) + wire.FRAME_SIZE  # the index differs by some bytes


def test_those_alike_share_parameters() -> None:
    archive = Archive(MemoryRandomSource(packed(alike_tensors(3000))))
    chunks = archive.frames.models[archive.frames.kinds == wire.CHUNK]
    assert np.count_nonzero(chunks) > 2900
    assert np.count_nonzero(archive.frames.kinds == wire.MODEL) <= 3


def test_parameters_stand_again_once_too_many_came_between() -> None:
    rng = np.random.default_rng(2)
    given = {}
    for number in range(900):  # a third alike, the others with parameters of their own
        values = rng.standard_normal(256 if number % 3 else 513 + number) / (1 + number % 97)
        given[f"t{number}"] = values.astype(np.float32 if number % 3 else np.float16)
    blob = packed(given)
    assert same(densor.load(blob), given)
    densor.verify_file(io.BytesIO(blob))


def test_what_is_added_is_copied() -> None:
    array = np.arange(100, dtype=np.float32)
    file = io.BytesIO()
    with densor.Writer(file) as writer:
        writer.add_tensor("a", array)
        array[:] = 0
        writer.add_tensor("b", array)
    found = densor.load(file.getvalue())
    assert found["a"].tolist() == list(range(100)) and not found["b"].any()


def test_names_are_refused_at_once() -> None:
    with densor.Writer(io.BytesIO()) as writer:
        writer.add_tensor("a", np.zeros(3))
        for name in ("a", "", "\0", "x" * 5000, "\ud800"):
            with pytest.raises(DensorError):
                writer.add_tensor(name, np.zeros(3))
        writer.add_tensor("b", np.zeros(3))


def test_sizes_count_what_is_gathered() -> None:
    file = io.BytesIO()
    writer = ArchiveWriter(file)
    assert writer.add_small("a", "F32", (4,), np.zeros(16, np.uint8))
    assert writer.original == 16
    assert writer.add_small("b", "F32", (4,), np.ones(16, np.uint8))
    assert len(writer.digests) == 2
    before = writer.written
    assert writer.add_small("c", "F32", (4,), np.full(16, 2, np.uint8))
    assert writer.written > before
    with pytest.raises(ArgumentError):
        writer.add_small("c", "F32", (4,), np.zeros(16, np.uint8))
    assert not writer.add_small("d", "F32", (5,), np.zeros(16, np.uint8))  # of another size
    writer.close()
    assert list(densor.load(file.getvalue())) == ["a", "b", "c"]


def test_other_options_code_each_by_itself() -> None:
    given = alike_tensors(40)
    blob = packed(given, hash="sha256")
    assert same(densor.load(blob), given)
    assert same(densor.load(packed(given, gpu_index=True)), given)


def test_pipes() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe, given = Pipe(), tensors(200)
    with densor.Writer(pipe) as writer:
        for name, tensor in given.items():
            writer.add_tensor(name, tensor)
    assert same(densor.load(pipe.getvalue()), given)
    densor.verify_file(io.BytesIO(pipe.getvalue()))


def test_damage_in_a_run_is_found() -> None:
    given = alike_tensors(500)
    blob = bytearray(packed(given))
    archive = Archive(MemoryRandomSource(bytes(blob)))
    entry = archive.entry("t77")
    at = int(archive.frames.offsets[entry.first_frame + 1]) + wire.FRAME_SIZE + 99
    blob[at] ^= 1
    with pytest.raises(ChecksumError):
        densor.load(bytes(blob))
    with densor.open(bytes(blob)) as file:
        assert file.get_tensor("t78").tobytes() == given["t78"].tobytes()
        with pytest.raises(ChecksumError):
            file.get_tensor("t77")


def test_entries_in_runs_are_those_alone() -> None:
    archive = Archive(MemoryRandomSource(packed(tensors(300) | alike_tensors(300))))
    chosen = archive.entries[3:250] + archive.entries[260:]
    for entry, data in zip(chosen, archive.read_each(chosen), strict=True):
        assert data.tobytes() == archive.read(entry, 0, entry.size).tobytes()
        assert data.ctypes.data % 16 == 0 or not data.size


def test_limit_of_output_holds() -> None:
    blob = packed(alike_tensors(50))
    with pytest.raises(LimitError):
        densor.load(blob, max_output_size=40_000)
    assert len(densor.load(blob, max_output_size=51_200)) == 50


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F8_E4M3"])
@pytest.mark.parametrize("columns", [64, 200, 1024])
def test_estimate_is_a_bound_of_what_is_stored_alone(dtype: str, columns: int) -> None:
    """Within what heads of streams differ by."""
    size = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1}[dtype]
    values = np.random.default_rng(3).standard_normal((64, columns), np.float32)
    data = values.view(np.uint8).reshape(64, columns, 4)[..., 4 - size :].reshape(-1).copy()
    kind = kind_of_array(dtype, (columns,))
    level = level_settings(3)
    assert kind.layout is not None
    least = np.empty(64, np.int64)
    run = alike.run_of(kind, columns * size) or 0
    alike.bytes_apart(data, kind.layout.number, size, columns, run, least, *alike._work())
    for number, part in enumerate(data.reshape(64, -1)):
        (payload,), (model,) = encode_small([part.tobytes()], [kind], level, History())
        stored = wire.FRAME_SIZE + len(payload)
        if isinstance(model, bytes):
            stored += wire.FRAME_SIZE + len(model)
        assert int(least[number]) <= stored


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [True, 4]},
        {"shape": [4.0]},
        {"shape": "4"},
        {"shape": [[4]]},
        {"size": 17},
        {"size": True},
        {"name": ""},
        {"name": 3},
        {"name": "\0"},
        {"dtype": "F99"},
        {"dtype": ["F32"]},
    ],
)
def test_entries_like_others_are_checked(change: dict[str, Any]) -> None:
    item = {"name": "a", "kind": TENSOR, "size": 16, "dtype": "F32", "shape": [4]}
    item |= {"frames": [0, 3], "digest": [1, "00"]}
    known: Any = {}
    parse_listed(item, known)
    assert parse_listed(item | {"name": "b"}, known).shape == (4,)
    with pytest.raises(FormatError):
        parse_listed(item | change, known)


def test_description_is_that_of_any_entry() -> None:
    """Gathered entries say what others say."""
    file = io.BytesIO()
    with densor.Writer(file) as writer:
        writer.add_tensor('a"b é', np.zeros((2, 3), np.float32))
    archive = Archive(MemoryRandomSource(file.getvalue()))
    said = strictjson.loads(archive.frame_bytes(0)[wire.FRAME_SIZE :].tobytes(), "entry")
    assert said == {"name": 'a"b é', "kind": "tensor", "size": 24, "dtype": "F32", "shape": [2, 3]}


@pytest.mark.parametrize("before", [0, 1 << 17])
def test_entries_without_chunks_are_read(before: int) -> None:
    wanted = {"a": np.arange(before, dtype=np.uint8)} if before else {}
    wanted |= {f"e{i}": np.empty((0, i), np.float32) for i in range(3)}
    file = io.BytesIO()
    with densor.Writer(file) as writer:
        for name, value in wanted.items():
            writer.add_tensor(name, value)
    found = densor.load(file.getvalue())
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in wanted.items()
    }


def test_an_archive_that_was_given_up_says_what_it_has() -> None:
    writer = ArchiveWriter(io.BytesIO())
    assert writer.add_small("a", "F32", (64,), np.zeros(256, np.uint8))
    writer.abort()
    assert writer.original == 0
