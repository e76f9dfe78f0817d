"""Doors to numcodecs, Zarr and fsspec, each with the real library."""

import importlib.metadata
import sys
import tomllib

import numpy as np
import pytest
from helpers import CONTENTS, NUMPY_DTYPES, bits_of, random_state
from paths import ROOT

import densor
from densor.errors import ArgumentError, DensorError, FormatError, UnsupportedError

GROUPS = ("numcodecs.codecs", "zarr.codecs", "vllm.general_plugins", "sglang.srt.plugins")


def arrays():
    """Arrays of all types, orders and sizes that a codec meets."""
    for dtype in NUMPY_DTYPES:
        yield np.arange(60).astype(dtype).reshape(4, 15)
    rng = random_state("integrations")
    for content in CONTENTS:
        yield bits_of(content, 4, 3000, rng).view(np.float32).reshape(30, 100)
    yield np.arange(12, dtype=">f4").reshape(3, 4)
    yield np.asfortranarray(np.arange(12, dtype="f4").reshape(3, 4))
    yield np.empty((0, 4), np.float32)
    yield np.array(3.5)


def equal(one, other):
    one, other = np.asarray(one), np.asarray(other)
    native = one.dtype.newbyteorder("=")
    assert one.shape == other.shape and native == other.dtype.newbyteorder("=")
    assert one.astype(native).tobytes() == other.astype(native).tobytes()


def test_entry_points_name_what_there_is():
    """Those of the project's file, which is what an installation is made from."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["project"]["entry-points"]
    assert sorted(listed) == sorted(GROUPS)
    for group, points in listed.items():
        pytest.importorskip(group.split(".")[0]) if group not in GROUPS[2:] else None
        for name, value in points.items():
            assert name in ("densor", "densor_image")
            assert importlib.metadata.EntryPoint(name, value, group).load()


def test_numcodecs():
    numcodecs = pytest.importorskip("numcodecs")
    import densor.integrations.numcodecs

    codec = numcodecs.get_codec({"id": "densor", "level": 2})
    assert type(codec) is densor.integrations.numcodecs.Densor
    assert codec.get_config() == {"id": "densor", "level": 2, "dtype": None, "threads": 1}
    assert numcodecs.get_codec(codec.get_config()) == codec
    assert repr(codec) == "Densor(dtype=None, level=2, threads=1)"
    for array in arrays():
        packed = codec.encode(array)
        equal(array, codec.decode(packed))
        equal(array, codec.decode(bytearray(packed)))
        out = np.empty(array.shape, array.dtype)
        if array.flags.c_contiguous:
            codec.decode(packed, out)
            equal(array, out)
    for data in (b"", b"abc", bytearray(b"x" * 9), memoryview(b"yy")):
        assert bytes(codec.decode(codec.encode(data))) == bytes(data)


def test_numcodecs_gets_bits_of_another_type():
    pytest.importorskip("numcodecs")
    from densor.integrations.numcodecs import Densor

    bits = bits_of("weights", 4, 20000, random_state("bf16")) >> 16
    bits = bits.astype(np.uint16)
    codec = Densor(dtype="bf16")
    assert len(codec.encode(bits)) < 0.8 * bits.nbytes
    equal(bits, codec.decode(codec.encode(bits)))


def test_numcodecs_refuses_bad_input():
    pytest.importorskip("numcodecs")
    from densor.integrations.numcodecs import Densor

    good = bytearray(Densor().encode(np.arange(3000.0)))
    good[-40] ^= 1
    for bad in (b"", bytes(good), bytes(good[:50])):
        with pytest.raises(DensorError):
            Densor().decode(bad)
    with pytest.raises(DensorError):
        Densor().decode(Densor().encode(np.arange(3000.0)), np.empty(10))
    with pytest.raises((DensorError, TypeError, ValueError)):
        Densor().encode(np.array([{}], object))


def test_numcodecs_dates_and_what_is_more_than_an_array():
    pytest.importorskip("numcodecs")
    from densor.integrations.numcodecs import Densor

    codec = Densor()
    for unit in ("ns", "s", "D"):
        for kind in ("M8", "m8"):
            dates = np.arange(-30, 30).astype(f"{kind}[{unit}]").reshape(4, 15)
            back = codec.decode(codec.encode(dates))
            assert back.dtype == dates.dtype and (back == dates).all()
            out = np.empty_like(dates)
            codec.decode(codec.encode(dates), out)
            assert (out == dates).all()
    with pytest.raises(TypeError):
        codec.encode(np.array([1, "a", None], object))
    with pytest.raises(ArgumentError):
        codec.encode(np.ma.array([1, 2, 3], mask=[0, 1, 0]))


def test_zarr(tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    from densor.integrations.zarr import DensorCodec

    for number, array in enumerate(arrays()):
        if not array.ndim:
            continue
        chunks = tuple(max(1, size * 2 // 3) for size in array.shape)
        made = zarr.create_array(
            tmp_path / str(number),
            data=array,
            chunks=chunks,
            serializer=DensorCodec(level=2),
            compressors=None,
        )
        again = zarr.open_array(tmp_path / str(number), mode="r+")
        assert again.metadata.codecs == made.metadata.codecs == (DensorCodec(level=2),)
        equal(array, again[...])
        if array.size:
            again[:1] = array[-1:]
            equal(array[-1:], zarr.open_array(tmp_path / str(number))[:1])


def test_zarr_within_shards(tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    from densor.integrations.zarr import DensorCodec

    array = bits_of("weights", 4, 6400, random_state("shards")).view(np.float32).reshape(80, 80)
    zarr.create_array(
        tmp_path / "a",
        data=array,
        chunks=(20, 20),
        shards=(40, 40),
        serializer=DensorCodec(),
        compressors=None,
    )
    found = zarr.open_array(tmp_path / "a")
    equal(array, found[...])
    equal(array[3:50, 7], found[3:50, 7])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shards", [None, (32, 8)])
def test_zarr_in_either_order(order, shards, tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    from zarr.codecs import TransposeCodec

    from densor.integrations.zarr import DensorCodec

    array = np.asarray(np.arange(256, dtype=">u2").reshape(32, 8), order=order)
    made = zarr.create_array(
        tmp_path / "a",
        shape=array.shape,
        dtype=array.dtype,
        chunks=(16, 8),
        shards=shards,
        fill_value=7,
        filters=[TransposeCodec(order=(1, 0))] if order == "F" else None,
        serializer=DensorCodec(),
        compressors=None,
        config={"order": order},
    )
    made[:20] = array[:20]  # a chunk in part, which is read before it is written
    equal(array[:20], zarr.open_array(tmp_path / "a")[:20])
    assert (made[20:] == 7).all()
    with zarr.config.set({"array.order": order}):
        found = zarr.open_array(tmp_path / "a")[...]
    assert found.flags[f"{order}_CONTIGUOUS"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_zarr_behind_a_filter_that_gives_flat_arrays(tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    from zarr.codecs import numcodecs

    from densor.integrations.zarr import DensorCodec

    array = np.arange(256, dtype="f4").reshape(16, 16)
    delta = numcodecs.Delta(dtype="float32")
    zarr.create_array(
        tmp_path / "a", data=array, filters=[delta], serializer=DensorCodec(), compressors=None
    )
    equal(array, zarr.open_array(tmp_path / "a")[...])
    rounded = [numcodecs.BitRound(keepbits=23)]  # which gives integers
    zarr.create_array(
        tmp_path / "b", data=array, filters=rounded, serializer=DensorCodec(), compressors=None
    )
    equal(array, zarr.open_array(tmp_path / "b")[...])


def test_zarr_configuration():
    pytest.importorskip("zarr", minversion="3")
    from densor.integrations.zarr import DensorCodec

    for codec in (DensorCodec(), DensorCodec(level=9, dtype="bf16")):
        assert DensorCodec.from_dict(codec.to_dict()) == codec
    for level in (0, 10, True, None):
        with pytest.raises(ArgumentError):
            DensorCodec(level=level)
    with pytest.raises(ArgumentError):
        DensorCodec.from_dict({"name": "zstd"})
    with pytest.raises(NotImplementedError):
        DensorCodec().compute_encoded_size(1, None)


def test_zarr_refuses_bad_chunks(tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    from densor.integrations.zarr import DensorCodec

    array = np.arange(400.0).reshape(20, 20)
    zarr.create_array(tmp_path / "a", data=array, serializer=DensorCodec(), compressors=None)
    (chunk,) = (path for path in (tmp_path / "a").rglob("*") if path.is_file() and path.name == "0")
    good = chunk.read_bytes()
    flipped = bytearray(good)
    flipped[-50] ^= 4
    for bad in (
        b"",
        bytes(flipped),
        good[:-9],
        densor.compress(b"abc"),
        densor.compress(array.astype(np.float32)),
        densor.compress(array[:10]),
        densor.compress(np.arange(40000.0).reshape(200, 200)),
    ):
        chunk.write_bytes(bad)
        with pytest.raises(DensorError):
            zarr.open_array(tmp_path / "a")[...]
    chunk.write_bytes(good)
    equal(array, zarr.open_array(tmp_path / "a")[...])


def test_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    from densor.integrations.fsspec import register

    register()
    register()
    content = bits_of("weights", 4, 20000, random_state("fsspec")).tobytes()
    for url in (f"file://{tmp_path}/a.densor", "memory://a.densor"):
        with fsspec.open(url, "wb", compression="infer") as file:
            file.write(content[:1000])
            file.write(content[1000:])
        with fsspec.open(url, "rb", compression="infer") as file:
            assert file.read(10) == content[:10]
            file.seek(500)
            assert file.read() == content[500:]
        with fsspec.open(url, "rb", compression="densor") as file:
            assert file.read() == content
    assert (tmp_path / "a.densor").stat().st_size < len(content)
    with fsspec.open(f"{tmp_path}/b.densor", "wt", compression="infer") as file:
        file.write("größe\n")
    with fsspec.open(f"{tmp_path}/b.densor", "rt", compression="infer") as file:
        assert file.read() == "größe\n"
    densor.decompress_file(tmp_path / "a.densor", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content


def test_fsspec_refuses_bad_input(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    from densor.integrations.fsspec import register

    register()
    (tmp_path / "bad.densor").write_bytes(b"not packed at all")
    with pytest.raises(FormatError), fsspec.open(tmp_path / "bad.densor", compression="infer") as f:
        f.read()


def test_fsspec_does_not_append(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    from densor.integrations.fsspec import open_file, register

    register()
    path = str(tmp_path / "log.densor")
    with fsspec.open(path, "wb", compression="infer") as file:
        file.write(b"first")
    for mode in ("ab", "at"):
        with pytest.raises(UnsupportedError), fsspec.open(path, mode, compression="infer") as file:
            file.write("second")
    with fsspec.open(path, "rb", compression="infer") as file:
        assert file.read() == b"first"
    with pytest.raises(UnsupportedError), open(path, "r+b") as file:
        open_file(file, "r+b")


def test_integrations_are_not_imported_before_they_are_used():
    import subprocess

    program = (
        "import sys, densor, densor.torch, densor.integrations\n"
        "assert not {'zarr', 'numcodecs', 'fsspec', 'numba', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("missing", "wanted", "extra"),
    [
        ("transformers", "import densor.hf", "hf"),
        ("torch", "import densor.hf", "hf"),
        ("torch", "from densor.torch import load_file", "torch"),
        ("zarr", "import densor.integrations.zarr", "zarr"),
        ("numcodecs", "import densor.integrations.numcodecs", "numcodecs"),
        ("fsspec", "import densor.integrations.fsspec", "fsspec"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, missing, wanted, extra):
    ours = ("densor.hf", "densor.torch", "densor.integrations")
    for name in ("hf", "torch", "integrations"):  # which an import sets anew
        if name in vars(densor):
            monkeypatch.setattr(densor, name, vars(densor)[name])
    for name in list(sys.modules):
        if name.startswith(ours):
            monkeypatch.delitem(sys.modules, name)
        if name.startswith(f"{missing}."):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UnsupportedError, match=rf"densor\[{extra}\]"):
        exec(wanted)
