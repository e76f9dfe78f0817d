"""Random access by name and row, from files, file objects and memory, with one and more threads."""

import gzip
import io
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import archives
import numpy as np
import pytest
from helpers import (
    CHUNK,
    INDEX,
    NUMPY_DTYPES,
    Frame,
    assert_same,
    make_array,
    model_file,
    one_object,
    put_together,
    safetensors_bytes,
    take_apart,
    weights,
    with_header,
)
from hypothesis import given
from hypothesis import strategies as st
from reference import container

import densor
from densor.codec.kind import BYTES, kind_of

MATRIX = weights("fp32", 30, 40).view(np.float32)
TENSORS = {
    "matrix": MATRIX,
    "vector": np.arange(1000, dtype=np.int16),
    "cube": make_array("float64", (5, 6, 7), "random"),
    "scalar": np.array(2.5),
    "nothing": np.empty((0, 3), np.uint8),
    "wide": make_array("complex64", (2, 500), "weights"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "tensors.densor"
    densor.save_file(TENSORS, path, {"author": "somebody", "größe": "1"})
    return path


def test_tensors_by_name(path: Path) -> None:
    with densor.open(path) as file:
        assert set(file.keys()) == set(TENSORS) == set(file)
        assert len(file) == len(TENSORS)
        assert "matrix" in file and "matrices" not in file
        assert file.metadata() == {"author": "somebody", "größe": "1"}
        assert file.files() == ["tensors.safetensors"]
        for name, tensor in TENSORS.items():
            assert_same(file.get_tensor(name), tensor)
            info = file.info(name)
            assert (info.name, info.shape, info.size) == (name, tensor.shape, tensor.nbytes)
            assert info.stored > 0 or not tensor.size
        for call in (file.get_tensor, file.get_slice, file.info, file.read_file):
            with pytest.raises(KeyError):
                call("matrices")


def test_every_dtype_by_name() -> None:
    tensors = {dtype: make_array(dtype, (7, 9), "random") for dtype in NUMPY_DTYPES}
    tensors |= {
        f">{name}": tensor.astype(tensor.dtype.newbyteorder(">"))
        for name, tensor in tensors.items()
        if tensor.itemsize > 1 and name[0] != "f"
    }
    blob = densor.save(tensors)
    for name, tensor in densor.load(blob).items():
        assert_same(tensor, tensors[name].astype(tensors[name].dtype.newbyteorder("=")))
    assert set(densor.load(blob)) == set(tensors)


def test_what_safetensors_reads_is_what_was_saved(path: Path, tmp_path: Path) -> None:
    numpy_of = pytest.importorskip("safetensors.numpy")
    densor.decompress_file(path, tmp_path / "plain")
    loaded = numpy_of.load_file(tmp_path / "plain")
    assert set(loaded) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert loaded[name].tobytes() == tensor.tobytes()
        assert loaded[name].shape == tensor.shape


@given(
    first=st.one_of(
        st.integers(-31, 31), st.builds(slice, *[st.one_of(st.none(), st.integers(-40, 40))] * 2)
    ),
    rest=st.lists(
        st.one_of(
            st.integers(-40, 39),
            st.builds(
                slice,
                *[st.one_of(st.none(), st.integers(-50, 50))] * 2,
                st.sampled_from([None, 1, 2, -1, -3]),
            ),
            st.just(Ellipsis),
        ),
        max_size=1,
    ),
    step=st.sampled_from([None, 1, 2, -1]),
)
def test_slices_are_those_of_numpy(path: Path, first: Any, rest: list[Any], step: Any) -> None:
    if isinstance(first, slice):
        first = slice(first.start, first.stop, step)
    key = (first, *rest) if rest else first
    with densor.open(path, threads=1) as file:
        try:
            expected = MATRIX[key]
        except IndexError:
            with pytest.raises(IndexError):
                file.get_slice("matrix")[key]
            return
        found = file.get_slice("matrix")[key]
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("key", [..., (), None, (..., 3), ([0, 2],), (2, ..., 1), np.int64(3)])
def test_unusual_keys(path: Path, key: Any) -> None:
    with densor.open(path) as file:
        view = file.get_slice("cube")
        assert view.get_shape() == [5, 6, 7]
        assert view.get_dtype() == "F64"
        assert view[key].tobytes() == TENSORS["cube"][key].tobytes()
        assert file.get_slice("scalar")[()] == 2.5
        assert file.get_slice("nothing")[:].shape == (0, 3)


def test_a_slice_decodes_only_the_chunks_it_needs(tiny_batches: Callable[[int], None]) -> None:
    tiny_batches(1 << 13)
    rows = weights("fp32", 500, 256).view(np.float32)
    blob = densor.save({"rows": rows})

    class Counting(io.BytesIO):
        taken = 0

        def readinto(self, buffer: Any) -> int:
            self.taken += len(buffer)
            return super().readinto(buffer)

    file = Counting(blob)
    with densor.open(file, threads=1) as opened:
        before = file.taken
        assert_same(opened.get_slice("rows")[123:125], rows[123:125])
        assert file.taken - before < 5 * 8192 < len(blob) // 5


@pytest.mark.parametrize("threads", [1, 2])
def test_many_threads_may_read_at_once(
    path: Path, threads: int, tiny_batches: Callable[[int], None], tmp_path: Path
) -> None:
    tiny_batches(1 << 12)
    many = {f"t{i}": weights("bf16", 20, 512, i).view(np.int16) for i in range(30)}
    other = tmp_path / "many.densor"
    densor.save_file(many, other)
    wrong: list[str] = []
    for source in (other, io.BytesIO(other.read_bytes()), other.read_bytes()):
        with densor.open(source, threads=threads) as file:

            def work(seed: int, file: Any = file) -> None:
                rng = np.random.default_rng(seed)
                for _ in range(60):
                    name = f"t{rng.integers(0, 30)}"
                    row = int(rng.integers(0, 19))
                    same = file.get_slice(name)[row].tobytes() == many[name][row].tobytes()
                    whole = file.get_tensor(name).tobytes() == many[name].tobytes()
                    if not (same and whole):
                        wrong.append(name)

            workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
    assert not wrong


def test_sources_of_many_kinds(path: Path) -> None:
    blob = path.read_bytes()
    with path.open("rb") as real, path.open("rb", buffering=0) as raw:
        wrapped = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(blob)))
        in_memory = (blob, bytearray(blob), memoryview(blob))
        for source in (str(path), path, *in_memory, real, raw, wrapped):
            with densor.open(source, threads=1) as file:
                assert_same(file.get_tensor("matrix"), MATRIX)
        assert not real.closed


def test_a_compressed_file_on_disk_is_read_through_its_wrapper(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with gzip.open(packed) as wrapped, densor.open(wrapped, threads=1) as file:
        assert_same(file.get_tensor("matrix"), MATRIX)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive " * 20)
    (tmp_path / "empty").write_bytes(b"")
    for source, error in (
        (tmp_path / "missing", densor.FileError),
        (tmp_path, densor.FileError),
        (tmp_path / "text", densor.FormatError),
        (tmp_path / "empty", densor.TruncatedError),
        (densor.compress(b"abc"), densor.UnsupportedError),
    ):
        with pytest.raises(error):
            densor.open(source)
    with pytest.raises(densor.ArgumentError):
        densor.open(tmp_path, "jax")
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(densor.FileError):
        densor.open(pipe)


def test_reading_after_close_is_an_error(path: Path) -> None:
    file = densor.open(path, threads=1)
    file.close()
    file.close()
    with pytest.raises((densor.DensorError, ValueError, RuntimeError)):
        file.get_tensor("matrix")


def test_the_largest_output_is_limited(path: Path) -> None:
    with densor.open(path, max_output_size=MATRIX.nbytes) as file:
        assert_same(file.get_tensor("matrix"), MATRIX)
        with pytest.raises(densor.LimitError):
            file.get_tensor("wide")
        assert_same(file.get_slice("wide")[0], TENSORS["wide"][0])
    blob = densor.compress(bytes(1000))
    assert densor.decompress(blob, max_output_size=1000) == bytes(1000)
    with pytest.raises(densor.LimitError):
        densor.decompress(blob, max_output_size=999)


def test_a_buffer_of_ones_own() -> None:
    array = weights("bf16", 64, 512)
    blob = densor.compress(array, dtype="bf16")
    out = np.zeros_like(array)
    assert densor.decompress(blob, out=out) is out
    assert_same(out, array)
    for wrong in (np.zeros(3, np.uint8), bytes(array.nbytes), np.zeros((64, 1024), "u2")[:, ::2]):
        with pytest.raises(densor.ArgumentError):
            densor.decompress(blob, out=wrong)
    text = bytearray(3)
    densor.decompress(densor.compress(b"abc"), out=text)
    assert text == b"abc"
    memory = np.zeros(1 << 17, np.uint8)
    saved = {"x": MATRIX, "y": TENSORS["cube"]}
    loaded = densor.load(densor.save(saved), out=memory)
    for name, tensor in saved.items():
        assert_same(loaded[name], tensor)
        assert np.shares_memory(loaded[name], memory)


# Writing


def test_writer_of_tensors_and_files(tmp_path: Path, model_path: Path) -> None:
    path = tmp_path / "mixed.densor"
    with densor.Writer(path) as writer:
        writer.add_tensor("ö/ä: any \\ name", MATRIX)
        writer.add_tensor("fortran", np.asfortranarray(MATRIX))
        writer.add_tensor("big", MATRIX.astype(">f4"))
        writer.add_tensor("view", MATRIX[::2, ::-3])
        writer.add_file(model_path)
        writer.add_file(model_path, "sub/again.bin")
    with densor.open(path) as file:
        assert_same(file.get_tensor("ö/ä: any \\ name"), MATRIX)
        assert_same(file.get_tensor("fortran"), MATRIX)
        assert_same(file.get_tensor("big"), MATRIX)
        assert_same(file.get_tensor("view"), np.ascontiguousarray(MATRIX[::2, ::-3]))
        assert file.files() == ["model.safetensors", "sub/again.bin"]
        assert file.read_file("sub/again.bin") == model_file()
        assert_same(file.get_tensor("steps"), np.arange(100))
        assert file.metadata() == {"format": "pt"}
    entries = container.decode(path.read_bytes())
    assert [entry.kind for entry in entries] == ["tensor"] * 4 + ["file"] * 2


def test_names_that_a_writer_refuses(tmp_path: Path, model_path: Path) -> None:
    path = tmp_path / "x.densor"
    with densor.Writer(path) as writer:
        writer.add_tensor("a", MATRIX)
        for name in ("a", "", "x" * 4097, "nul\0", "\ud800"):
            with pytest.raises(densor.ArgumentError):
                writer.add_tensor(name, MATRIX)
        for name in ("../x", "/x", "a\\b", "C:x", "a//b", "x\n"):
            with pytest.raises(densor.ArgumentError):
                writer.add_file(model_path, name)
        with pytest.raises(densor.ArgumentError):
            writer.add_tensor("strings", np.array(["a"]))
    assert list(densor.load_file(path)) == ["a"]
    for tensors, metadata in (
        ({"__metadata__": MATRIX}, None),
        ({"": MATRIX}, None),
        ({"x" * 5000: MATRIX}, None),
        ({5: MATRIX}, None),
        ({"a": np.array(["a"])}, None),
        ({"a": MATRIX}, {"loss": 0.5}),
        ({"a": MATRIX}, {"nested": {"a": "b"}}),
    ):
        with pytest.raises(densor.ArgumentError):
            densor.save(tensors, metadata)


def test_a_type_too_long_to_describe_is_refused() -> None:
    dtype = np.dtype([(f"field {i:050}", "<f4") for i in range(20_000)])
    with pytest.raises(densor.ArgumentError):
        densor.compress(np.zeros(1, dtype))


def test_a_writer_that_failed_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.densor"
    with pytest.raises(ZeroDivisionError), densor.Writer(path) as writer:
        writer.add_tensor("a", MATRIX)
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_an_entry_that_failed_spoils_the_archive(tmp_path: Path, monkeypatch: Any) -> None:
    """Half an entry cannot be taken back, so the archive must not look whole."""
    from densor.codec.planes.encoder import PlanesEncoder

    class Unlucky(Exception):
        pass

    def fail(*_: Any) -> None:
        raise Unlucky

    path = tmp_path / "x.densor"
    with pytest.raises(densor.FileError), densor.Writer(path, threads=1) as writer:
        writer.add_tensor("a", MATRIX)
        with monkeypatch.context() as patch, pytest.raises(Unlucky):
            patch.setattr(PlanesEncoder, "encode", fail)
            writer.add_tensor("b", MATRIX + 1)
        with pytest.raises(densor.ArgumentError):
            writer.add_tensor("c", MATRIX)
    assert not list(tmp_path.iterdir())


def test_a_closed_writer_takes_no_more(tmp_path: Path) -> None:
    writer = densor.Writer(tmp_path / "x.densor")
    writer.close()
    writer.close()
    with pytest.raises(densor.ArgumentError):
        writer.add_tensor("a", MATRIX)
    with densor.open(tmp_path / "x.densor") as file:
        assert len(file) == 0 and file.metadata() is None


def test_a_file_object_that_does_not_begin_at_zero() -> None:
    for make in (lambda out: densor.save_file({"x": MATRIX, "y": MATRIX}, out),):
        file = io.BytesIO(b"before")
        file.seek(6)
        make(file)
        blob = file.getvalue()
        assert blob[:6] == b"before"
        assert_same(densor.load(blob[6:])["y"], MATRIX)


# Hostile names


def hostile(name: str, kind: str = "file") -> bytes:
    meta = {"name": name, "kind": kind, "size": 4 if kind == "file" else 0}
    inner = [Frame(CHUNK, b"evil", 4)] if kind == "file" else []
    return one_object(meta, inner, b"evil" if inner else b"")


@pytest.mark.parametrize("kind", ["file", "dir"])
@pytest.mark.parametrize(
    "name",
    [
        *("..", "../evil", "a/../../evil", "/evil", "//evil", "", ".", "./evil", "a/./b", "a//b"),
        *("evil/", "a\\b", "..\\evil", "C:evil", "C:\\evil", "a/b:stream", "evil\0", "new\nline"),
        *("\x1b[31m", "\x7f", "\ud800", "x" * 5000),
    ],
)
def test_hostile_names_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    target = tmp_path / "inner" / "out"
    with pytest.raises(densor.FormatError):
        densor.extract(io.BytesIO(hostile(name, kind)), target)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["...", "a b", "-rf", "~", "$HOME", "größe", "CON", "a" * 255])
def test_odd_but_harmless_names_are_extracted(name: str, tmp_path: Path) -> None:
    assert densor.extract(io.BytesIO(hostile(name)), tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"evil"


def test_names_that_the_file_system_refuses(tmp_path: Path) -> None:
    with pytest.raises(densor.FileError):
        densor.extract(io.BytesIO(hostile("a" * 300)), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_symbolic_links_in_the_way_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"kept")
    target = tmp_path / "target"
    target.mkdir()
    (target / "link").symlink_to(outside)
    (target / "file").symlink_to(outside / "precious")
    (target / "dangling").symlink_to(outside / "new")
    for name in ("link/evil", "link/precious", "link"):
        for overwrite in (False, True):
            with pytest.raises(densor.FileError):
                densor.extract(io.BytesIO(hostile(name)), target, overwrite=overwrite)
    with pytest.raises(densor.FileError):
        densor.extract(io.BytesIO(hostile("link/sub", "dir")), target)
    for name in ("file", "dangling"):
        with pytest.raises(densor.FileError):
            densor.extract(io.BytesIO(hostile(name)), target)
        densor.extract(io.BytesIO(hostile(name)), target, overwrite=True)
        assert not (target / name).is_symlink()
        assert (target / name).read_bytes() == b"evil"
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_bytes() == b"kept"


def test_names_that_occur_twice_are_refused() -> None:
    blob = archives.written({"a": (b"x" * 100, BYTES), "b": (b"x" * 100, kind_of("U8", (100,)))})
    frames = [frame for frame in take_apart(blob) if frame.kind != INDEX]
    twice = [
        replace(frame, payload=frame.payload.replace(b'"name":"b"', b'"name":"a"'))
        for frame in frames
    ]
    with pytest.raises(densor.FormatError, match="two entries"):
        densor.verify_file(io.BytesIO(put_together(twice, blob[:32])))


# Safetensors files, odd ones among them: every one comes back byte for byte


def header_of(size: int = 8, **changes: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, size]} | changes}


DATA = weights("fp32", 1, 2).tobytes()
ODD_FILES = {
    "padding": with_header(header_of(), DATA, padding=100),
    "padding before": with_header(b"  " + json.dumps(header_of()).encode(), DATA),
    "tail": with_header(header_of(), DATA + b"something behind"),
    "gap before": with_header(header_of(data_offsets=[3, 11]), bytes(3) + DATA),
    "unaligned": with_header(json.dumps(header_of()).encode() + b" ", DATA),
    "truncated data": with_header(header_of(), DATA[:5]),
    "no data": with_header(header_of(), b""),
    "truncated header": with_header(header_of(), DATA)[:30],
    "truncated length": b"\x40\0\0",
    "only a length": b"\x40" + bytes(7),
    "no tensors": with_header({}, b""),
    "only metadata": with_header({"__metadata__": {"a": "b"}}, b""),
    "metadata last": with_header(header_of() | {"__metadata__": {"a": "b"}}, DATA),
    "metadata is no object": with_header(header_of() | {"__metadata__": 5}, DATA),
    "unknown dtype": with_header(header_of(dtype="F4"), DATA),
    "unknown among known": with_header(
        header_of() | {"y": {"dtype": "F6_E2M3", "shape": [3], "data_offsets": [8, 11]}},
        DATA + b"abc",
    ),
    "overlapping": with_header(
        header_of() | {"y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, DATA + DATA
    ),
    "same place": with_header(
        header_of() | {"y": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, DATA
    ),
    "descending": with_header(
        {
            "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        },
        DATA + b"abc",
    ),
    "zero size": with_header(
        header_of() | {"e": {"dtype": "F32", "shape": [0, 5], "data_offsets": [8, 8]}}, DATA
    ),
    "zero size inside": with_header(
        header_of() | {"e": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}}, DATA
    ),
    "zero size beyond": with_header(
        header_of() | {"e": {"dtype": "F32", "shape": [0], "data_offsets": [99, 99]}}, DATA
    ),
    "impossible shape": with_header(
        header_of() | {"e": {"dtype": "F32", "shape": [0, 2**62, 9], "data_offsets": [8, 8]}}, DATA
    ),
    "shape disagrees": with_header(header_of(shape=[3]), DATA),
    "negative shape": with_header(header_of(shape=[-1, -2]), DATA),
    "negative offsets": with_header(header_of(data_offsets=[-8, 0]), DATA),
    "reversed offsets": with_header(header_of(data_offsets=[8, 0]), DATA),
    "huge offsets": with_header(header_of(data_offsets=[0, 10**30]), DATA),
    "three offsets": with_header(header_of(data_offsets=[0, 4, 8]), DATA),
    "fractions": with_header(header_of(shape=[2.0]), DATA),
    "extra keys": with_header(header_of(extra=[1]), DATA),
    "many dimensions": with_header(header_of(shape=[2] + [1] * 70), DATA),
    "long name": with_header({"x" * 5000: header_of()["x"]}, DATA),
    "no name": with_header({"": header_of()["x"]}, DATA),
    "name with NUL": with_header({"a\0b": header_of()["x"]}, DATA),
    "name is no Unicode": with_header({"\ud800": header_of()["x"]}, DATA),
    "path as name": with_header({"../../x": header_of()["x"]}, DATA),
    "name twice": with_header(
        b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        b"ab",
    ),
    "a list": with_header([1], DATA),
    "not JSON": with_header(b"{not json}", DATA),
    "not UTF-8": with_header(b'{"\xff": 1}', DATA),
    "deep": with_header(b'{"a":' * 50_000, DATA),
    "tensor is a number": with_header({"x": 5}, DATA),
    "huge length": b"\xff" * 8 + b"{}",
    "length beyond the end": b"\xe8\x03" + bytes(6) + b"{}",
    "empty": b"",
    "scalar": with_header(header_of(4, shape=[]), DATA[:4]),
}


@pytest.mark.parametrize("known_size", [True, False], ids=["file", "pipe"])
@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_safetensors_files_come_back(name: str, known_size: bool, tmp_path: Path) -> None:
    data = ODD_FILES[name]
    plain, packed, restored = (tmp_path / part for part in ("x.safetensors", "packed", "restored"))
    plain.write_bytes(data)
    densor.compress_file(plain if known_size else io.BytesIO(data), packed, threads=1)
    densor.decompress_file(packed, restored)
    assert restored.read_bytes() == data
    (entry,) = container.decode(packed.read_bytes())
    assert entry.data == data
    container.read_index(packed.read_bytes())
    with densor.open(packed, threads=1) as file:
        for tensor in file:
            if name != "impossible shape" or tensor != "e":
                assert file.get_tensor(tensor).nbytes == file.info(tensor).size
                assert file.info(tensor).size in (0, 1, 3, 4, 8)


def test_what_is_well_formed_is_taken_apart() -> None:
    names = ("padding", "tail", "gap before", "metadata last", "zero size", "unknown among known")
    for name in names:
        file = io.BytesIO()
        densor.compress_file(io.BytesIO(ODD_FILES[name]), file)
        with densor.open(file) as opened:
            assert opened.get_tensor("x").tobytes() == DATA, name


def test_an_impossible_shape_is_an_error_when_it_is_read() -> None:
    file = io.BytesIO()
    densor.compress_file(io.BytesIO(ODD_FILES["impossible shape"]), file)
    with densor.open(file) as opened, pytest.raises(densor.FormatError):
        opened.get_tensor("e")


@given(
    sizes=st.lists(
        st.tuples(st.sampled_from(["U8", "F16", "BF16", "F32", "I64"]), st.integers(0, 3000)),
        max_size=12,
    ),
    padding=st.integers(0, 9),
    cut=st.integers(0, 20),
    known=st.booleans(),
)
def test_any_safetensors_file_comes_back(
    sizes: list[tuple[str, int]], padding: int, cut: int, known: bool
) -> None:
    width = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "I64": 8}
    rng = np.random.default_rng(len(sizes))
    data = {
        f"t{i}": (dtype, (n,), bytes(rng.integers(0, 90, n * width[dtype], np.uint8)))
        for i, (dtype, n) in enumerate(sizes)
    }
    file = safetensors_bytes(data, {"n": str(len(sizes))}, padding=padding)
    file = file[: len(file) - cut] if cut < 10 else file
    packed, restored = io.BytesIO(), io.BytesIO()
    densor.compress_file(io.BytesIO(file), packed, threads=1)
    packed.seek(0)
    densor.decompress_file(packed, restored, threads=1)
    assert restored.getvalue() == file
    if cut >= 10:
        with densor.open(packed, threads=1) as opened:
            assert list(opened) == list(data)
            for name, (_, _, content) in data.items():
                assert opened.get_tensor(name).tobytes() == content
