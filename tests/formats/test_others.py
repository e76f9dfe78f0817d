"""Tensors that do not lie in their file as they are: views, packed elements, unknown types.

Each comes back as its own library has it, or is refused by name; none is left out silently.
"""

import io
import json
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_state, safetensors_bytes

import densor
import densor.torch
from densor.errors import ArgumentError, FormatError, LimitError, UnsupportedError
from densor.formats.container import entry
from densor.formats.parsers import torch_pickle
from densor.formats.tensors import TensorInfo, View
from densor.gpu import read_packed
from densor.integrations import checkpoint

torch: Any = pytest.importorskip("torch")


def packed(path: Path, level: int = 3) -> Path:
    """Packs a file and checks that it comes back."""
    target = path.with_name(path.name + ".densor")
    densor.compress_file(path, target, level, overwrite=True, verify=True)
    back = io.BytesIO()
    densor.decompress_file(target, back)
    assert back.getvalue() == path.read_bytes()
    return target


def bits(tensor: Any) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def noise(name: str, count: int) -> Any:
    return random_state(name).integers(0, 256, count, np.uint8)


# Views


def complex_of(dtype: Any) -> Any:
    size = torch.empty(0, dtype=dtype).element_size()
    return torch.from_numpy(noise("complex", 60 * size)).view(dtype).reshape(5, 12)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_flags_of_torch_tensors(dtype: Any, zipped: bool, tmp_path: Path) -> None:
    plain = complex_of(dtype)
    views = {
        "conj": plain.conj(),
        "neg": torch._neg_view(plain),
        "both": torch._neg_view(plain.conj()),
        "column": plain.conj()[:, 3],
        "transposed": plain.conj().T,
        "part": plain.conj()[2:4],
    }
    path = tmp_path / "x.pt"
    torch.save(views, path, _use_new_zipfile_serialization=zipped)
    with densor.open(packed(path), framework="torch") as file:
        assert set(file.keys()) == set(views)
        for name, wanted in views.items():
            found = file.get_tensor(name)
            assert found.shape == wanted.shape and found.dtype == wanted.dtype
            assert bits(found) == bits(wanted), name
            assert bits(file.get_slice(name)[0]) == bits(wanted[0]), name
    imaginary = {"i": plain.conj().imag}
    torch.save(imaginary, tmp_path / "i.pt", _use_new_zipfile_serialization=zipped)
    assert imaginary["i"].is_neg()
    (found,) = densor.load_file(packed(tmp_path / "i.pt"), "torch").values()
    assert bits(found) == bits(imaginary["i"])
    loaded = densor.load_file(tmp_path / "x.pt.densor", "torch")
    assert {name: bits(t) for name, t in loaded.items()} == {n: bits(t) for n, t in views.items()}


@pytest.mark.parametrize("zipped", [True, False])
def test_strided_torch_tensors(zipped: bool, tmp_path: Path) -> None:
    base = torch.from_numpy(noise("strided", 2 * 6 * 8 * 10)).view(torch.bfloat16).reshape(6, 8, 10)
    views = {
        "permuted": base.permute(2, 0, 1),
        "steps": base[1::2, :, ::3],
        "expanded": base[0, 0, :1].expand(7),
        "empty": base[:, :0],
        "last": base.reshape(-1)[-1:],
        "scalar": base[2, 3, 4],
    }
    path = tmp_path / "x.pt"
    torch.save(views, path, _use_new_zipfile_serialization=zipped)
    loaded = densor.load_file(packed(path), "torch")
    assert set(loaded) == set(views)
    for name, wanted in views.items():
        assert loaded[name].shape == wanted.shape and bits(loaded[name]) == bits(wanted), name


def test_arrays_in_fortran_order(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    array = np.asfortranarray(noise("fortran", 4 * 60).view(np.uint32).reshape(3, 4, 5))
    np.save(path, array)
    (found,) = densor.load_file(packed(path)).values()
    assert found.shape == array.shape and (found == array).all()


def test_members_of_an_npz_that_are_deflated(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(50), b=np.array([{}], object))
    packed_array = io.BytesIO()
    np.save(packed_array, np.ones(99))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("c.npy", packed_array.getvalue())
    with densor.open(packed(path)) as opened:
        assert opened.keys() == ["a"]
        assert opened.opaque() == {"b": "object", "c": "deflated"}


def test_arrays_of_which_none_can_be_read(tmp_path: Path) -> None:
    """Files that hold nothing else are no empty dicts; all else is coded as without the names."""
    numbers = np.arange(4000.0)
    several, one, long = (tmp_path / name for name in ("s.npz", "o.npy", "l.npy"))
    np.savez_compressed(several, a=numbers, b=numbers * 3)
    np.save(one, np.array([{}], object))
    np.save(long, numbers.astype(np.longdouble))
    for path, wanted in (
        (several, {"a": "deflated", "b": "deflated"}),
        (one, {"o": "object"}),
        (long, {"l": np.dtype(np.longdouble).str}),
    ):
        with densor.open(packed(path)) as opened:
            assert opened.keys() == [] and opened.opaque() == wanted
            with pytest.raises(UnsupportedError):
                opened.get_tensors()
    archive = packed(several, 5)  # streams are undone all the same
    assert archive.stat().st_size < 0.8 * several.stat().st_size


def index_of(*others: list[Any]) -> dict[str, Any]:
    return {"tensors": [["t", "U8", [4], 0, 4]], "others": list(others)}


@pytest.mark.parametrize(
    "item",
    [
        ["v", "F32", [4], 0, 16, {"strides": [2]}],  # beyond its stretch
        ["v", "F32", [4], 0, 16, {"strides": [1, 1]}],
        ["v", "F32", [4], 0, 16, {"strides": [-1]}],
        ["v", "F32", [4], 0, 16, {"strides": 1}],
        ["v", "F32", [4], 0, 16, {"conj": True}],  # not of complex numbers
        ["v", "C64", [2], 0, 16, {"conj": 1}],
        ["v", "U8", [4], 0, 16, {"neg": True}],
        ["v", "X9", [4], 0, 16, {"strides": [1]}],
        ["v", "F4", [4], 0, 16, {"strides": [1]}],
        ["v", "F32", [4], 0, 16, []],
        ["v", "F32", [4], 8, 16],  # beyond the file
        ["v", "F32", [4], 0],
        ["v", 5, [4], 0, 16],
        ["t", "F32", [4], 0, 16],  # a name twice
        ["v", "F32", [1 << 62, 1 << 62], 0, 16, {"strides": [1, 1]}],
    ],
)
def test_views_in_an_index_that_lie(item: list[Any]) -> None:
    with pytest.raises(FormatError):
        entry.parse_tensors(index_of(item), 20)


def test_views_that_grow() -> None:
    """Few bytes that stand for many are no memory for the asking."""
    from densor import arrays

    one = np.zeros(4, np.uint8)
    for shape in ((1 << 40,), (1 << 21, 1 << 21), (1 << 19,)):
        view = View((0,) * len(shape))
        how = {"strides": [0] * len(shape)}
        (info,) = entry.parse_tensors({"others": [["v", "F32", list(shape), 0, 4, how]]}, 4)
        assert info == TensorInfo("v", "F32", shape, 0, 4, view)
        with pytest.raises(LimitError):
            arrays.viewed(info, one)
    small = TensorInfo("v", "F32", (100,), 0, 4, View((0,)))
    assert not arrays.viewed(small, one).any()


def test_what_is_listed_is_read_again() -> None:
    tensors = [
        TensorInfo("a", "F32", (2,), 0, 8),
        TensorInfo("b", "F8_E4M3FNUZ", (2,), 8, 2),
        TensorInfo("c", "F4", (3, 4), 8, 6),
        TensorInfo("d", "C64", (1,), 0, 8, View(None, True, False)),
        TensorInfo("e", "F32", (2, 1), 0, 8, View((1, 2), False, True)),
        TensorInfo("f", "IQ9_S", (256,), 0, 8),
        TensorInfo("", "F32", (1,), 0, 4),
    ]
    found = entry.list_tensors(tensors, 16)
    assert found["tensors"] == [["a", "F32", [2], 0, 8]]  # all that older readers know
    read = entry.parse_tensors(json.loads(json.dumps(found)), 16)
    assert sorted(read) == sorted(tensors)


# Unknown types and what is malformed


def safetensors_file(header: dict[str, Any] | str, data: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def item(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_one_odd_tensor_costs_nothing_but_itself(tmp_path: Path) -> None:
    data = noise("odd", 96).tobytes()
    sound = {"a": item("F32", [8], 0, 32), "z": item("F32", [8], 64, 96)}
    odd: dict[str, Any] = {
        "unknown type": item("F2", [128], 32, 64),
        "shape": item("F32", [7], 32, 64),
        "fraction": item("F32", [8.5], 32, 64),  # type: ignore[list-item]
        "negative": item("F32", [-8], 32, 64),
        "beyond": item("F32", [80], 32, 352),
        "no offsets": {"dtype": "F32", "shape": [8]},
        "number": 5,
        "dimensions": item("F32", [1] * 70 + [8], 32, 64),
    }
    path = tmp_path / "x.safetensors"
    for name, bad in odd.items():
        path.write_bytes(safetensors_file(sound | {name: bad}, data))
        with densor.open(packed(path)) as file:
            assert file.keys() == ["a", "z"], name
            assert file.get_tensor("z").tobytes() == data[64:]
            assert name in file.opaque()
            with pytest.raises(UnsupportedError, match=name):
                file.get_tensor(name)
            with pytest.raises(UnsupportedError):
                file.get_tensors()
            with pytest.raises(KeyError):
                file.get_tensor("none")


def test_a_tensor_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_file({"": item("U8", [8], 0, 8)}, bytes(range(8))))
    assert densor.load_file(packed(path))[""].tolist() == list(range(8))


def test_names_that_no_index_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    names = ("a\0b", "x" * 5000, "\ud800")
    header = {name: item("U8", [8], 8 * i, 8 * i + 8) for i, name in enumerate(names)}
    path.write_bytes(safetensors_file(header, bytes(24)))
    with densor.open(packed(path)) as file:
        assert len(file) == 0 and len(file.opaque()) == 3
        with pytest.raises(UnsupportedError):
            file.get_tensors()


def test_headers_as_others_read_them(tmp_path: Path) -> None:
    one = json.dumps(item("F32", [4], 0, 16))
    path = tmp_path / "x.safetensors"
    for text in (
        f'{{"__metadata__":{{"k":"v"}},"w":{one[:-1]},"scale":0.5,"e":1e3}}}}',
        f'{{"w":{one},"__metadata__":{{"k":"v"}},"w":{one}}}',
    ):
        path.write_bytes(safetensors_file(text, bytes(16)))
        with densor.open(packed(path)) as file:
            assert file.keys() == ["w"] and file.metadata() == {"k": "v"}


def test_a_cut_off_file_is_coded_as_far_as_it_goes(tmp_path: Path) -> None:
    weights = (random_state("cut").standard_normal(100_000) * 0.02).astype(np.float32)
    header = {"a": item("F32", [100_000], 0, 400_000), "b": item("F32", [99], 400_000, 400_396)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_file(header, weights.tobytes()[:300_001]))
    archive = packed(path)
    assert archive.stat().st_size < 0.88 * 300_001  # as floats; as bytes it would be .93
    with densor.open(archive) as file:
        assert file.keys() == [] and set(file.opaque()) == {"a", "b"}


def test_torch_tensors_of_other_kinds(tmp_path: Path) -> None:
    with warnings.catch_warnings():  # which torch gives once in a process
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch.quantize_per_tensor(torch.arange(40.0), 0.5, 3, torch.quint8)
    path = tmp_path / "x.pt"
    state = {"w": torch.arange(50.0), "s": torch.eye(4).to_sparse(), "q": quantized}
    torch.save(state, path)
    with densor.open(packed(path), framework="torch") as file:
        assert bits(file.get_tensor("w")) == bits(state["w"])
        assert file.opaque() == {"s": "sparse_tensor", "q": "qtensor"}


def test_no_door_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    """Every function that hands out all tensors of an archive says that it cannot."""
    path = tmp_path / "model.pt"
    torch.save({"w": torch.arange(50.0), "s": torch.eye(4).to_sparse()}, path)
    archive = packed(path).rename(tmp_path / "model.safetensors.densor")
    doors: list[Any] = [
        densor.load_file,
        densor.torch.load_file,
        lambda path: densor.torch.safe_open(path, "np").get_tensors(),
        lambda path: list(checkpoint.weights([path])),
        lambda path: read_packed(densor.open(path).archive),
    ]
    for door in doors:
        with pytest.raises(UnsupportedError, match=r"'s' \(sparse_tensor\)"):
            door(archive)
    with densor.torch.safe_open(archive) as file:
        assert file.keys() == ["w"] and bits(file.get_tensor("w")) == bits(torch.arange(50.0))


def test_views_and_packed_elements_are_handed_to_a_gpu(tmp_path: Path) -> None:
    numbers = torch.arange(12.0).reshape(3, 4)
    path, other = tmp_path / "x.pt", tmp_path / "x.safetensors"
    torch.save({"t": numbers.T, "w": numbers}, path)
    other.write_bytes(safetensors_bytes({"f": ("F4", (2, 32), bytes(range(32)))}))
    for file, wanted in ((path, {"t": numbers.T, "w": numbers}), (other, {})):
        with densor.open(packed(file)) as opened:
            found = {one.name: one for one in read_packed(opened.archive)}
        for name, tensor in wanted.items():
            raw = b"".join(bytes(chunk.payload) for chunk in found[name].chunks)
            assert raw == bits(tensor)
            assert found[name].tensors[0].shape == tuple(tensor.shape)
    place = found["f"].tensors[0]
    assert (place.dtype, place.shape, place.size) == ("U8", (2, 16), 32)


def test_onnx_data_of_other_kinds(tmp_path: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    weights = (random_state("onnx").standard_normal(30_000) * 0.02).astype(np.float32)
    few = weights[:100]
    node = helper.make_node("Constant", [], ["y"], value_floats=weights.tolist())
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("values", TensorProto.FLOAT, [100], few.tobytes(), raw=True),
        helper.make_tensor("places", TensorProto.INT64, [100], list(range(100))),
        [1000],
    )
    tensors = [
        helper.make_tensor("double", TensorProto.DOUBLE, [100], few.astype(float).tolist()),
        helper.make_tensor("complex", TensorProto.COMPLEX64, [50], few.view(np.complex64).tolist()),
        helper.make_tensor("half", TensorProto.FLOAT16, [100], few.tolist()),
        helper.make_tensor("nibbles", TensorProto.INT4, [100], bytes(50), raw=True),
        helper.make_tensor("words", TensorProto.STRING, [1], [b"hello"]),
    ]
    graph = helper.make_graph([node], "g", [], [], tensors, sparse_initializer=[sparse])
    path = tmp_path / "x.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert onnx.load(path).graph.node[0].attribute[0].floats[5] == weights[5]
    archive = packed(path)
    assert archive.stat().st_size < 0.74 * path.stat().st_size  # tags between the floats vanish
    with densor.open(archive) as file:
        assert set(file.keys()) == {"double", "complex", "nibbles"}
        assert file.get_tensor("double").tobytes() == few.astype(float).tobytes()
        assert file.get_tensor("complex").tobytes() == few.tobytes()
        assert set(file.opaque()) == {"half", "words", "values", "places"}


# Pickles


def test_pickles_with_large_arguments(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    large = {"bytes": b"w" * (1 << 20), "text": "é" * (1 << 17), "number": 1 << (8 << 17)}
    state = {"first": torch.arange(70.0), **large, "array": np.ones(1 << 18), "w": torch.ones(3)}
    for zipped in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        with densor.open(packed(path, 1)) as file:
            assert set(file.keys()) == {"first", "w"}


def test_storages_of_a_pickle_that_ends_early(tmp_path: Path) -> None:
    """What was named before a fault is coded by its type all the same."""
    path = tmp_path / "x.pt"
    weights = torch.from_numpy(random_state("fault").standard_normal(40_000)).bfloat16()
    torch.save({"w": weights, "text": "a text" * 9}, path)
    whole = packed(path).stat().st_size
    data = path.read_bytes()
    path.write_bytes(data.replace(b"a text" * 9, b"\xff" * 54))  # no UTF-8
    assert packed(path).stat().st_size < 1.01 * whole + 200
    with densor.open(packed(path)) as file:
        assert file.keys() == []


def test_legacy_files_that_lie() -> None:
    from densor.formats.io.sources import MemoryRandomSource, MemorySource
    from densor.formats.parsers.plan import plan_file

    saved = io.BytesIO()
    torch.save({"w": torch.ones(30)}, saved, _use_new_zipfile_serialization=False)
    good = saved.getvalue()
    count = struct.pack("<Q", 30)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    lies = [
        good.replace(count, struct.pack("<Q", 1 << 63)),
        good.replace(count, bytes(8)),
        good[: good.index(count) + 4],
        magic * 9,
        magic + pickle.dumps(1001, 2) + pickle.dumps([], 2) * 4,
        magic + pickle.dumps(1001, 2) + pickle.dumps([], 2) * 2 + pickle.dumps([()] * 99, 2),
    ]
    for data in lies:
        random = MemoryRandomSource(data)
        plan = plan_file(MemorySource(data), len(data), random=random)
        assert all(t.offset + t.size <= len(data) for t in plan.tensors)
        assert not plan.tensors or struct.pack("<Q", 1 << 63) in data
        assert plan.source.take(len(data) + 1).tobytes() == data
        archive, back = io.BytesIO(), io.BytesIO()
        densor.compress_file(io.BytesIO(data), archive)
        archive.seek(0)
        densor.decompress_file(archive, back)
        assert back.getvalue() == data


def test_a_pickle_file_at_its_end() -> None:
    from densor.formats.io.sources import MemoryRandomSource

    source = MemoryRandomSource(b"X" + struct.pack("<I", 1 << 30) + b"abc")
    with pytest.raises(FormatError):
        torch_pickle.scan(torch_pickle.PickleFile(source, 0, 8))
    file = torch_pickle.PickleFile(MemoryRandomSource(b"ab\ncd"), 0, 5)
    assert file.readline() == b"ab\n" and file.readline() == b"cd" and file.readline() == b""
    assert file.read(4) == b"" and file.at == 5


# Doors


class Labelled:
    """As a series of pandas is: an array can be had of it, but it is more."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.arange(3)


class Sub(np.ndarray):
    """An array with a unit, say."""


def more_than_arrays() -> dict[str, Any]:
    class Tensor(torch.Tensor):
        pass

    found: dict[str, Any] = {
        "masked": np.ma.array([1, 2, 3], mask=[0, 1, 0]),
        "subclass": np.arange(3).view(Sub),
        "records": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        "labelled": Labelled(),
        "tensor": torch.ones(3).as_subclass(Tensor),
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(3, device="meta"),
    }
    return found


@pytest.mark.parametrize("name", list(more_than_arrays()))
def test_more_than_an_array_is_refused_at_every_door(name: str, tmp_path: Path) -> None:
    import densor.torch

    thing = more_than_arrays()[name]
    doors = {
        "compress": lambda: densor.compress(thing),
        "base": lambda: densor.compress(np.arange(3), base=thing),
        "save": lambda: densor.save({"a": thing}),
        "within a list": lambda: densor.save({"a": [thing]}),
        "within two": lambda: densor.compress([(thing, thing)]),
        "save_file": lambda: densor.save_file({"a": thing}, tmp_path / "a"),
        "torch": lambda: densor.torch.save_packed_file({"a": thing}, tmp_path / "a"),
    }
    for door, go_through in doors.items():
        with pytest.raises(ArgumentError):
            go_through()
        assert not (tmp_path / "a").exists(), door
    with pytest.raises(ArgumentError), densor.Writer(tmp_path / "a") as writer:
        writer.add_tensor("a", thing)
    assert not (tmp_path / "a").exists()


def test_lists_that_are_no_arrays() -> None:
    endless: list[Any] = []
    endless.append(endless)
    learnt = torch.ones(2, requires_grad=True)
    for thing in ([[1], [1, 2]], endless, [learnt], [np.ma.masked, 1.0]):
        with pytest.raises(ArgumentError):
            densor.save({"a": thing})


def test_what_is_just_an_array_is_taken(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "m", np.float32, "w+", shape=(3, 4))
    parameter = torch.nn.Parameter(torch.ones(3))
    for thing in (mapped, parameter, np.float32(3), [1, 2], torch.ones(3).conj()):
        densor.compress(thing)


# GGUF


def gguf_bytes(order: str, tensors: dict[str, tuple[list[int], int, bytes]]) -> bytes:
    """A file of version 3 of either byte order; `tensors`: dimensions, type, data."""
    out = b"GGUF" + struct.pack(f"{order}IQQ", 3, len(tensors), 1)
    out += struct.pack(f"{order}Q", 3) + b"key" + struct.pack(f"{order}II", 4, 7)
    data = b""
    for name, (shape, number, part) in tensors.items():
        data += bytes(-len(data) % 32)
        text = name.encode()
        out += struct.pack(f"{order}Q", len(text)) + text + struct.pack(f"{order}I", len(shape))
        out += struct.pack(f"{order}{len(shape)}QIQ", *shape, number, len(data))
        data += part
    return out + bytes(-len(out) % 32) + data


def test_big_endian_gguf(tmp_path: Path) -> None:
    weights = (random_state("big").standard_normal((64, 96)) * 0.02).astype(np.float32)
    scales = random_state("scales").standard_normal(192).astype(np.float16)
    small = random_state("small").normal(0, 30, (192, 32)).astype(np.int8)
    sizes = []
    for order in "<>":
        kind = scales.dtype.newbyteorder(order)  # type: ignore[arg-type]
        half = scales.astype(kind).view(np.uint8).reshape(-1, 2)
        blocks = np.concatenate([half, small.view(np.uint8)], 1)
        plain = weights.astype(weights.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
        path = tmp_path / "x.gguf"
        tensors = {"f": ([96, 64], 0, plain), "q": ([96, 64], 8, blocks.tobytes())}
        path.write_bytes(gguf_bytes(order, tensors))
        archive = packed(path)
        sizes.append(archive.stat().st_size)
        with densor.open(archive) as file:
            assert (file.get_tensor("q") == blocks).all()
            if order == "<":
                assert file.get_tensor("f").tobytes() == plain
            else:
                assert file.opaque() == {"f": "F32 big-endian"}
    assert sizes[1] < 1.06 * sizes[0]


def test_all_block_types_of_gguf(tmp_path: Path) -> None:
    from densor.formats.parsers.gguf import BLOCKS

    constants: Any = pytest.importorskip("gguf.constants")
    path = tmp_path / "x.gguf"
    for kind, (weights, size) in constants.GGML_QUANT_SIZES.items():
        if weights > 1:
            block = BLOCKS[int(kind)]
            assert (block.weights, sum(field.size for field in block.fields)) == (weights, size)
    tensors = {}
    for number, block in BLOCKS.items():
        size = 10 * sum(field.size for field in block.fields)
        tensors[block.name] = ([block.weights * 5, 2], number, noise(block.name, size).tobytes())
    for order in "<>":
        path.write_bytes(gguf_bytes(order, tensors))
        for level in (1, 3, 6):
            with densor.open(packed(path, level)) as file:
                assert set(file.keys()) == set(tensors)
                for name, (_, _, data) in tensors.items():
                    assert file.get_tensor(name).tobytes() == data


MALFORMED: tuple[list[Any], ...] = (
    ["b", "F32", [True, 2], 8, 8],
    ["b", "F32", [1, 2], True, 8],
    ["b", "F32", [1, 2], 8.0, 8],
    ["b", "F32", [1, 2], 8, 4],
    ["b", "F32", [1, 2], 12, 8],
    ["b", "F32", [1, 2], -4, 8],
    ["b", "F32", [1, [2]], 8, 8],
    ["b", "F32", "12", 8, 8],
    ["b\0", "F32", [1, 2], 8, 8],
    ["b" * 5000, "F32", [1, 2], 8, 8],
    [b"b", "F32", [1, 2], 8, 8],
    ["b", "VOID", [8], 8, 8],
    ["b", "F32", [1, 2], 8],
    ["a", "F32", [1, 2], 8, 8],
)


@pytest.mark.parametrize("wrong", MALFORMED, ids=str)
def test_a_type_and_shape_that_were_seen_excuse_nothing(wrong: list[Any]) -> None:
    """The second tensor of a type and shape is looked at in a quicker way."""
    first = ["a", "F32", [1, 2], 0, 8]
    good = entry.parse_tensors({"tensors": [first, ["b", "F32", [1, 2], 8, 8]]}, 16)
    assert good == [TensorInfo("a", "F32", (1, 2), 0, 8), TensorInfo("b", "F32", (1, 2), 8, 8)]
    with pytest.raises(densor.FormatError):
        entry.parse_tensors({"tensors": [first, wrong]}, 16)
