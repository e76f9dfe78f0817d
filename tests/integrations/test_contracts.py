"""What other projects ask of whatever stands in their place: codecs, compressed files, readers."""

import array
import io
import pickle
from typing import Any

import numpy as np
import pytest

import densor
from densor.errors import ArgumentError, DensorError, FileError

numcodecs = pytest.importorskip("numcodecs")
fsspec = pytest.importorskip("fsspec")

RNG = np.random.default_rng(0)
DATES = RNG.integers(-(2**63), -(2**63) + 20, 300)
ARRAYS = {
    "integers": np.arange(1000, dtype="i4"),
    "floats": np.linspace(1000, 1001, 1000),
    "matrix": RNG.normal(1000, 1, (100, 10)),
    "fortran": np.asfortranarray(RNG.integers(0, 2, (100, 10)).astype(bool)),
    "strings": RNG.choice([b"a", b"bb", b"ccc"], 1000).reshape(10, 10, 10),
    "times": DATES.view("M8[ns]"),
    "spans": DATES.view("m8[m]"),
    "nothing": np.empty((0, 3), "f4"),
}
CODECS = ("densor", "densor_image")


def codec_of(name: str) -> Any:
    import densor.integrations.numcodecs

    assert densor.integrations.numcodecs
    return numcodecs.get_codec({"id": name})


def same(array: Any, found: Any) -> bool:
    """Whether the bytes of an array came back, in whatever form."""
    found = numcodecs.compat.ensure_ndarray(found)
    return bool(found.tobytes(order="A") == array.tobytes(order="A"))


@pytest.mark.parametrize("codec_name", CODECS)
@pytest.mark.parametrize("name", ARRAYS)
def test_codecs_take_and_fill_any_buffer(name: str, codec_name: str) -> None:
    codec, given = codec_of(codec_name), ARRAYS[name]
    raw = given.tobytes(order="A")
    for form in (given, raw, bytearray(raw), array.array("b", raw), memoryview(raw)):
        packed = codec.encode(form)
        for blob in (
            packed,
            bytearray(packed),
            array.array("b", packed),
            np.array(list(packed), "u1"),
        ):
            assert same(given, codec.decode(blob))
        outs: list[Any] = [np.empty_like(given), bytearray(given.nbytes)]
        for out in outs:
            codec.decode(packed, out=out)
            assert same(given, out)


@pytest.mark.parametrize("name", CODECS)
def test_codecs_refuse_what_is_no_buffer(name: str) -> None:
    codec = codec_of(name)
    with pytest.raises(TypeError):
        codec.encode(["foo", "bar"])
    with pytest.raises(TypeError):
        codec.encode(np.array(["foo", "bar"], object))
    with pytest.raises(TypeError):
        codec.decode(codec.encode(np.arange(10)), out=np.empty(10, object))
    with pytest.raises(ValueError):
        codec.encode(np.arange(1000)[::2])
    with pytest.raises(ArgumentError):
        codec.encode(np.ma.array([1, 2, 3], mask=[0, 1, 0]))
    assert codec == codec_of(name) and codec != "foo"
    assert numcodecs.get_codec({**codec.get_config(), "level": 9}) != codec


def test_compressed_files_are_files(tmp_path: Any) -> None:
    import densor.integrations.fsspec

    densor.integrations.fsspec.register()
    path, text = str(tmp_path / "a.densor"), "foobar\n" * 100
    with fsspec.open(path, "wt", compression="infer") as file:
        file.write(text)
    for compression in ("infer", "densor"):
        with fsspec.open(path, "rt", compression=compression) as file:
            assert file.read() == text
    with fsspec.open(path, "wb", compression="infer") as file:
        assert file.writable() and not file.readable()
        for piece in (b"01", bytearray(b"23"), memoryview(b"4567")):
            file.write(piece)
        assert file.tell() == 8
    with pytest.raises(ValueError):
        file.write(b"more")
    with pickle.loads(pickle.dumps(fsspec.open(path, "rb", compression="infer"))) as file:
        assert file.readable() and file.seekable() and not file.writable()
        assert file.seek(-3, io.SEEK_END) == 5 and file.read() == b"567"
        assert file.seek(1) == 1 and file.tell() == 1 and file.read(2) == b"12"
        out = bytearray(2)
        assert file.readinto(out) == 2 and out == b"34" and file.read1(1) == b"5"
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
    assert file.closed
    with pytest.raises(FileNotFoundError), fsspec.open(f"{path}x", "rb", compression="densor"):
        pass


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
@pytest.mark.parametrize("packed", [True, False])
def test_files_behind_a_cache(cache: str, packed: bool, tmp_path: Any) -> None:
    """What a cache keeps is packed where the file is, and original where the cache restores it."""
    import densor.integrations.fsspec

    densor.integrations.fsspec.register()
    data = b"some lines\n" * 1000
    with fsspec.open(str(tmp_path / "data"), "wb", compression="densor") as file:
        file.write(data)
    settings = {"same_names": True, "cache_storage": str(tmp_path / "cache")}
    outer = {"compression": "densor"} if packed else {}
    inner = settings if packed else {**settings, "compression": "densor"}
    with fsspec.open(f"{cache}::{tmp_path}/data", "rb", **outer, **{cache: inner}) as file:
        assert file.read() == data
    kept = (tmp_path / "cache" / "data").read_bytes()
    assert kept == (data if not packed else (tmp_path / "data").read_bytes())


def test_files_of_tensors_as_safetensors_has_them(tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    import densor.torch

    whole = torch.arange(60.0).reshape(10, 6)
    tensors = {"a": whole[1:], "b": whole[:1], "c": torch.zeros(2, 0), "d": whole.new_zeros(0)}
    path = tmp_path / "x.safetensors"
    densor.torch.save_packed_file(tensors, path)  # parts of one storage that do not overlap
    with densor.torch.safe_open(path) as file:
        found = file.get_tensors()
        part = file.get_slice("a")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    for call in (file.keys, file.offset_keys, file.metadata, lambda: file.get_tensor("a")):
        with pytest.raises(FileError, match="closed"):
            call()
    with pytest.raises(FileError, match="closed"):
        part[0]
    for overlapping in (whole[:2], whole.T[:3], whole[1, 2:3]):
        with pytest.raises(ArgumentError, match="share memory"):
            densor.torch.save_packed_file({"a": whole[1:], "b": overlapping}, path, overwrite=True)
    with pytest.raises(FileNotFoundError):
        densor.torch.safe_open(tmp_path / "none")


def test_more_than_an_array_is_refused_at_every_door(tmp_path: Any) -> None:
    from densor import chunk

    class Named(np.ndarray):
        pass

    masked = np.ma.array(np.zeros(12, "u1"), mask=np.eye(1, 12, dtype=bool)[0])
    for odd in (masked, np.zeros(12, "u1").view(Named), np.array([1, "a"], object)):
        doors: list[Any] = [
            lambda odd=odd: chunk.compress(odd),
            lambda odd=odd: densor.compress(odd),
            lambda odd=odd: densor.compress(np.zeros(12, "u1"), base=odd),
            lambda odd=odd: densor.decompress(densor.compress(np.zeros(12, "u1")), out=odd),
            lambda odd=odd: densor.save({"a": odd}),
            lambda odd=odd: densor.save_file({"a": odd}, tmp_path / "a"),
            lambda odd=odd: densor.Writer(io.BytesIO()).add_tensor("a", odd),
        ]
        for door in doors:
            with pytest.raises(ArgumentError):
                door()
    with pytest.raises(ArgumentError):
        densor.decompress(densor.compress(b"abc"), out="abc")
    for view in (memoryview(np.array([None])), memoryview(np.arange(9)[::2])):
        with pytest.raises(ArgumentError):
            densor.compress(view)


def test_wrapped_tensors_are_refused_at_every_door(tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    import densor.torch
    from densor.torch.pages import KEYS, Page

    class Named(torch.Tensor):  # type: ignore[name-defined, misc]
        pass

    plain = torch.ones(1, 1, 4, 2)
    for odd in (plain.as_subclass(Named), plain.to_sparse(), plain.to("meta")):
        for door in (
            lambda odd=odd: densor.torch.save_packed_file({"a": odd}, tmp_path / "a"),
            lambda odd=odd: densor.torch.pack_tensor(odd),
            lambda odd=odd: densor.torch.pack_page(Page(KEYS, 0, 0, odd)),
            lambda odd=odd: densor.decompress(densor.compress(np.zeros(8, "f4")), out=odd),
        ):
            with pytest.raises(DensorError):
                door()
    with pytest.raises(ArgumentError):
        densor.torch.pack_tensor(np.ones(4))  # type: ignore[arg-type]
