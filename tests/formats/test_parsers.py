"""GGUF, .npy, .npz, PyTorch and ONNX files: byte for byte back, tensors as their libraries read.

And files that lie: whatever they say, they are packed, and come back.
"""

import collections
import contextlib
import gzip
import io
import os
import pickle
import struct
import sys
import threading
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arrow_files
import ml_dtypes
import numpy as np
import parquet_files
import pytest
from flac_files import flac_file
from helpers import msgpack_bytes, random_state, varint, weights
from reference import container
from tables import fixed_width, json_lines, table

import densor
from densor.codec.audio.layout import Layout as Audio
from densor.codec.image.layout import Layout as Image
from densor.codec.kind import BYTES
from densor.errors import FormatError, UnsupportedError
from densor.formats.io.sources import FileSource, MemoryRandomSource, MemorySource
from densor.formats.parsers import gguf as gguf_parser
from densor.formats.parsers import msgpack as msgpack_parser
from densor.formats.parsers import torch_pickle
from densor.formats.parsers.plan import FORMATS, Plan, plan_file

Array = Any


def plan_of(data: bytes, random: bool = True, level: int = 3) -> Plan:
    """The plan for a file of these bytes; checked to be a plan of just these bytes."""
    source = MemoryRandomSource(data) if random else None
    plan = plan_file(MemorySource(data), len(data), level=level, random=source)
    sizes = [segment.size for segment in plan.segments]
    assert sizes[-1] is None and all(size for size in sizes[:-1])
    assert sum(size or 0 for size in sizes) <= len(data)
    assert all(t.offset >= 0 and t.offset + t.size <= len(data) for t in plan.tensors)
    assert plan.source.take(len(data) + 1).tobytes() == data
    return plan


def packed(path: Path, level: int = 3) -> Path:
    """Packs a file and checks that it comes back from file, pipe and reference decoder."""
    data = path.read_bytes()
    target = path.with_name(path.name + ".densor")
    densor.compress_file(path, target, level, overwrite=True, verify=True)
    back = io.BytesIO()
    densor.decompress_file(target, back)
    assert back.getvalue() == data
    (entry,) = container.decode(target.read_bytes())
    assert entry.data == data
    assert through_a_pipe(data) == data
    return target


def through_a_pipe(data: bytes) -> bytes:
    """What comes back of bytes that were packed from a pipe."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as file, contextlib.suppress(BrokenPipeError):
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    archive, back = io.BytesIO(), io.BytesIO()
    with open(reading, "rb", buffering=0) as file:
        densor.compress_file(file, archive)
    thread.join()
    archive.seek(0)
    densor.decompress_file(archive, back)
    return back.getvalue()


def assert_tensors(archive: Path, expected: dict[str, Array]) -> None:
    """The archive has just these tensors, bit for bit, each readable alone."""
    with densor.open(archive) as file:
        assert set(file.keys()) == set(expected)
        for name, array in expected.items():
            found = file.get_tensor(name)
            assert found.shape == array.shape, name
            assert found.dtype.itemsize == array.dtype.itemsize, name
            assert found.tobytes() == array.tobytes(), name


def dtypes_coded(plan: Plan) -> list[str]:
    """The type of every segment that is not plain bytes."""
    return [
        "+".join(f"{field.dtype}:{field.size}" for field in segment.kind.fields)
        or segment.kind.dtype
        for segment in plan.segments
        if segment.kind.layout is not None or segment.kind.fields
    ]


# GGUF


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_file(
    tensors: dict[str, tuple[list[int], int, bytes]],
    *,
    pairs: bytes = b"",
    count: int = 0,
    alignment: int = 32,
) -> bytes:
    """A GGUF file by hand: name to dimensions (fastest first), type, data."""
    head = [b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + pairs]
    data, at = [], 0
    for name, (dimensions, kind, content) in tensors.items():
        padding = -at % alignment
        data.append(bytes(padding) + content)
        head.append(gguf_text(name) + struct.pack("<I", len(dimensions)))
        head.append(struct.pack(f"<{len(dimensions)}Q", *dimensions))
        head.append(struct.pack("<IQ", kind, at + padding))
        at += len(data[-1])
    whole = b"".join(head)
    return whole + bytes(-len(whole) % alignment) + b"".join(data)


def small_gguf() -> bytes:
    pairs = gguf_text("a.list") + struct.pack("<IIQ", 9, 8, 2) + gguf_text("x") + gguf_text("yz")
    noise = random_state("gguf").integers(0, 256, 36, np.uint8).tobytes()
    return gguf_file({"q": ([32, 2], 2, noise), "f": ([3], 0, bytes(12))}, pairs=pairs, count=1)


def test_gguf_is_what_its_library_reads(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "small")
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(500)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 500)
    numbers = weights("fp32", 64, 256).view(np.float32)
    types = gguf.GGMLQuantizationType
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        data = gguf.quants.quantize(numbers, types[name])
        writer.add_tensor(name, data, raw_dtype=types[name])
    writer.add_tensor("f32", numbers)
    writer.add_tensor("f16", numbers.astype(np.float16))
    writer.add_tensor("norm", np.ones(33, np.float32))
    writer.add_tensor("ids", np.arange(50, dtype=np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    archive = packed(path)
    expected = {}
    for tensor in gguf.GGUFReader(path).tensors:
        data = np.array(tensor.data)
        if tensor.tensor_type.name in ("F32", "F16", "I32"):
            expected[tensor.name] = data
        else:
            block = gguf.GGML_QUANT_SIZES[tensor.tensor_type][1]
            expected[tensor.name] = data.reshape(-1, block)
    assert_tensors(archive, expected)
    plan = plan_of(path.read_bytes(), random=False)
    assert plan.format == "gguf"
    assert "F16:2+F16:2+U8:16" in dtypes_coded(plan) and "F16:2+I8:32" in dtypes_coded(plan)


def test_blocks_have_the_sizes_of_ggml() -> None:
    gguf = pytest.importorskip("gguf")
    for number, block in gguf_parser.BLOCKS.items():
        kind = gguf.GGMLQuantizationType(number)
        size = sum(field.size for field in block.fields)
        assert (block.name, (block.weights, size)) == (kind.name, gguf.GGML_QUANT_SIZES[kind])


def test_gguf_of_unknown_types_and_alignments(tmp_path: Path) -> None:
    noise = random_state("gguf").integers(0, 256, 4000, np.uint8).tobytes()
    pairs = gguf_text("general.alignment") + struct.pack("<II", 4, 64)
    tensors = {
        "unknown": ([100], 77, noise[:100]),
        "known": ([25, 40], 0, noise),
        "q": ([64, 2], 8, noise[:136]),
    }
    path = tmp_path / "odd.gguf"
    path.write_bytes(gguf_file(tensors, pairs=pairs, count=1, alignment=64))
    known = np.frombuffer(noise, "<f4").reshape(40, 25)
    q = np.frombuffer(noise[:136], np.uint8).reshape(4, 34)
    assert_tensors(packed(path), {"known": known, "q": q})


def test_gguf_that_lies() -> None:
    good = small_gguf()
    assert len(plan_of(good).tensors) == 2
    noise = bytes(36)
    lies = {
        "overlap": good.replace(struct.pack("<IQ", 0, 64), struct.pack("<IQ", 0, 32)),
        "beyond": good.replace(struct.pack("<IQ", 0, 64), struct.pack("<IQ", 0, 96)),
        "tensors": good.replace(struct.pack("<IQQ", 3, 2, 1), struct.pack("<IQQ", 3, 1 << 60, 1)),
        "pairs": good.replace(struct.pack("<IQQ", 3, 2, 1), struct.pack("<IQQ", 3, 2, 1 << 60)),
        "list": good.replace(struct.pack("<IIQ", 9, 8, 2), struct.pack("<IIQ", 9, 8, 1 << 62)),
        "bytes": good.replace(struct.pack("<IIQ", 9, 8, 2), struct.pack("<IIQ", 9, 0, 1 << 62)),
        "value": good.replace(struct.pack("<IIQ", 9, 8, 2), struct.pack("<IIQ", 9, 99, 2)),
        "rows": gguf_file({"q": ([31, 2], 2, noise)}),
        "scalar": gguf_file({"q": ([], 2, noise)}),
        "dimensions": gguf_file({"q": ([1] * 9, 0, noise)}),
        "huge": gguf_file({"q": ([1 << 63, 1 << 63], 0, noise)}),
        "version": good.replace(struct.pack("<IQQ", 3, 2, 1), struct.pack("<IQQ", 1, 2, 1)),
        "big endian": good.replace(struct.pack("<I", 3), struct.pack(">I", 3), 1),
        "alignment": gguf_file(
            {}, pairs=gguf_text("general.alignment") + struct.pack("<II", 4, 0), count=1
        ),
    }
    one_tensor = ("overlap", "beyond", "rows", "scalar", "huge")  # the rest is as it was
    for name, data in lies.items():
        assert data != good, name
        for random in (True, False):
            plan = plan_of(data, random=random)
            if name not in one_tensor:
                assert plan.format is None, name
            elif name == "overlap":
                assert len(plan.tensors) == 2 and len(dtypes_coded(plan)) == 0, name
            else:
                assert len(plan.tensors) == (name == "beyond") and len(plan.others) == 1, name
    nested = struct.pack("<IIQ", 9, 9, 1) * 40
    assert plan_of(gguf_file({}, pairs=gguf_text("deep") + nested, count=1)).format is None
    empty = gguf_file({"q": ([0, 1 << 63], 0, b""), "": ([4], 0, bytes(16))})
    assert plan_of(empty).tensors == []
    assert sorted(tensor.name for tensor in plan_of(empty).others) == ["", "q"]
    twice = gguf_file({"q": ([4], 0, bytes(16))}) + bytes(99)
    assert len(plan_of(twice).tensors) == 1


def test_more_tensors_than_an_index_can_list(tmp_path: Path) -> None:
    """Where names would make the index larger than a reader allows, it lists no tensors."""
    path = tmp_path / "names.gguf"
    names = (f"{'long' * 500}.{number}" for number in range(4000))
    path.write_bytes(gguf_file({name: ([1], 0, bytes(4)) for name in names}, alignment=32))
    assert len(plan_of(path.read_bytes()).tensors) == 4000
    assert_tensors(packed(path), {})


def test_gguf_on_a_pipe_that_ends_early() -> None:
    """Whole rows or not, whole blocks or not, what there is comes back."""
    noise = random_state("gguf").integers(0, 256, 34 * 3 * 50, np.uint8).tobytes()
    whole = gguf_file({"q": ([96, 50], 8, noise)})
    for missing in (0, 1, 34, 68, 102, len(noise)):
        data = whole[: len(whole) - missing]
        archive, back = io.BytesIO(), io.BytesIO()
        densor.compress_file(io.BytesIO(data), archive)
        archive.seek(0)
        densor.decompress_file(archive, back)
        assert back.getvalue() == data


# npy, npz


def npy_bytes(array: Array, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "|i1", ">i8", "|b1", "<c8", ">c16"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy(dtype: str, order: str, version: tuple[int, int], tmp_path: Path) -> None:
    array = np.asarray(weights("fp32", 40, 70).view(np.float32) * 900, order=order)
    array = array.astype(dtype, order="K")
    path = tmp_path / "some.npy"
    path.write_bytes(npy_bytes(array, version))
    plan = plan_of(path.read_bytes(), random=False)
    assert plan.format == "npy" and len(dtypes_coded(plan)) == 1
    assert_tensors(packed(path), {"some": np.load(path)} if dtype[0] != ">" else {})


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5, 0), (1000,)])
def test_npy_of_unusual_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = np.ones(shape, np.float32, order="F")
    np.save(path, array)
    assert_tensors(packed(path), {"a": array})


def test_npy_of_other_things(tmp_path: Path) -> None:
    arrays = (
        np.zeros(3, "S5"),
        np.zeros(3, [("a", "<f4"), ("b", "<i2")]),
        np.zeros(3, "M8[ns]"),
        np.array([{}, []], object),
    )
    for array in arrays:
        plan = plan_of(npy_bytes(array))
        assert plan.tensors == [] and [t.name for t in plan.others] == ["array"]
    for text in (b"{}", b"(" * 60000, b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"):
        head = b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text
        assert plan_of(head + bytes(99)).format is None
    good = npy_bytes(np.ones(9, np.float32))
    for lie in (b"(10,)", b"(1000000000000000000,)"):
        plan = plan_of(good.replace(b"(9,)", lie))
        assert plan.tensors == [] and len(plan.others) == 1
    assert plan_of(good.replace(b"(9,)", b"(99999999999999999999999,)")).format is None
    strange = plan_of(good.replace(b"<f4", b"<f9"))
    assert strange.tensors == [] and [t.dtype for t in strange.others] == ["<f9"]
    assert plan_of(good[:8] + b"\xff\xff" + good[10:]).format is None


def npz_arrays() -> dict[str, Array]:
    return {
        "big": weights("fp32", 30, 80).view(np.float32),
        "small": np.arange(5, dtype=np.int16),
        "folder/half": weights("fp16", 40, 64).view(np.float16),
    }


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, **npz_arrays())
    plan = plan_of(path.read_bytes())
    assert plan.format == "npz" and dtypes_coded(plan) == ["F32", "F16"]
    assert_tensors(packed(path), npz_arrays())
    assert plan_of(path.read_bytes(), random=False).format is None


def test_deflated_members_stay_bytes(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez_compressed(path, zeros=np.zeros(1 << 22))  # what inflates to 4096 times its size
    plan = plan_of(path.read_bytes())
    assert plan.format == "npz" and not plan.tensors
    assert all(segment.kind == BYTES for segment in plan.segments)  # at this level
    with densor.open(packed(path)) as file:
        assert file.keys() == [] and file.opaque() == {"zeros": "deflated"}


def zip_bytes(members: dict[str, bytes], comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = comment
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_zip_files_that_lie() -> None:
    array = np.ones(1000, np.float32)
    good = zip_bytes({"a.npy": npy_bytes(array), "b.npy": npy_bytes(array)}, b"a comment")
    assert len(plan_of(good).tensors) == 2
    size = struct.pack("<II", len(npy_bytes(array)), len(npy_bytes(array)))
    directory = good.index(b"PK\1\2")
    end = good.index(b"PK\5\6")
    lies = (
        good[:directory] + good[directory:].replace(size, struct.pack("<II", 1 << 30, 1 << 30)),
        good[:directory] + good[directory:].replace(size, struct.pack("<II", 5000, 5000)),
        good[: end + 12] + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + good[end + 20 :],
        good[: end + 16] + struct.pack("<I", directory + 7) + good[end + 20 :],
        good.replace(b"PK\1\2", b"PK\1\3"),
        good.replace(b"PK\3\4", b"PK\3\5")[:2] + b"\3\4" + good.replace(b"PK\3\4", b"PK\3\5")[4:],
        good[:end],
        b"PK\3\4" + bytes(50),
    )
    for data in lies:
        assert plan_of(data).format is None
    # Two members at the same place.
    second = good.index(b"PK\1\2", directory + 1)
    same = good[: second + 42] + bytes(4) + good[second + 46 :]
    assert plan_of(same).format is None
    inner = zip_bytes({"c.npy": npy_bytes(array).replace(b"(1000,)", b"(1001,)")})
    assert plan_of(inner).tensors == []


def test_zip_files_larger_than_32_bits_can_tell(tmp_path: Path) -> None:
    """Sizes and offsets from the zip64 fields, as for files over 4 GB."""
    array = npy_bytes(np.arange(1000, dtype=np.float32))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, *[0xFFFFFFFF] * 2, 5, 20)
    local += b"a.npy" + struct.pack("<HHQQ", 1, 16, len(array), len(array)) + array
    entry = struct.pack(
        "<4s6H3I5H2I",
        *(b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 5, 32, 0, 0, 0, 0),
        0xFFFFFFFF,
    )
    entry += b"a.npy" + struct.pack("<HHI", 9, 0, 0)[:4]
    entry += struct.pack("<HHQQQ", 1, 24, len(array), len(array), 0)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry), len(local))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(local) + len(entry), 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path = tmp_path / "big.npz"
    path.write_bytes(local + entry + end64 + locator + end)
    assert list(np.load(path)) == ["a"]
    assert_tensors(packed(path), {"a": np.arange(1000, dtype=np.float32)})


# PyTorch


def torch_file(path: Path, thing: Any, **options: Any) -> Path:
    import torch

    torch.save(thing, path, **options)
    return path


def state() -> dict[str, Any]:
    import torch

    matrix = torch.from_numpy(weights("fp32", 48, 64).view(np.float32).copy())
    shared = torch.from_numpy(weights("bf16", 64, 64).view(np.int16).copy()).view(torch.bfloat16)
    return {
        "matrix": matrix,
        "half": matrix.half(),
        "shared": shared,
        "row": shared[3],
        "rows": shared[2:5],
        "column": shared[:, 3],
        "transposed": matrix.T,
        "tied": shared,
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "inner": {"list": [torch.arange(600), torch.ones(3, dtype=torch.bool)], 7: matrix[0]},
        "parameter": torch.nn.Parameter(matrix.double()),
        "fp8": matrix.to(torch.float8_e4m3fn),
        "unsigned": torch.arange(2000).to(torch.uint16),
    }


def flat(thing: Any, name: str = "") -> dict[str, Any]:
    """All tensors by the path that leads to them."""
    import torch

    if isinstance(thing, torch.Tensor):
        return {name: thing}
    items = thing.items() if isinstance(thing, dict) else enumerate(thing)
    found = {}
    for key, value in items:
        found.update(flat(value, f"{name}.{key}" if name else str(key)))
    return found


def bits(tensor: Any) -> Array:
    import torch

    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(words[tensor.element_size()]).numpy()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch(protocol: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = torch_file(tmp_path / "model.pt", state(), pickle_protocol=protocol)
    plan = plan_of(path.read_bytes())
    assert plan.format == "torch"
    assert {"F32", "F16", "BF16", "I64", "F64", "F8_E4M3", "U16"} <= set(dtypes_coded(plan))
    loaded = flat(torch.load(path, weights_only=False))  # protocols 4 and 5 need that
    assert not loaded["column"].is_contiguous() and not loaded["transposed"].is_contiguous()
    expected = {name: bits(tensor) for name, tensor in loaded.items()}
    archive = packed(path)
    assert_tensors(archive, expected)
    with densor.open(archive, framework="pt") as file:
        assert torch.equal(file.get_tensor("rows"), loaded["rows"])
        assert torch.equal(file.get_slice("matrix")[5:7], loaded["matrix"][5:7])


def test_torch_modules_and_what_is_not_a_zip(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32))
    path = torch_file(tmp_path / "state.pth", module.state_dict())
    expected = {name: bits(tensor) for name, tensor in module.state_dict().items()}
    assert_tensors(packed(path), expected)
    whole = torch_file(tmp_path / "module.pth", module)  # names classes, which are not imported
    with densor.open(packed(whole)) as file:
        assert any(name.endswith("weight") for name in file.keys())  # noqa: SIM118
    old = torch_file(tmp_path / "old.pth", state(), _use_new_zipfile_serialization=False)
    assert plan_of(old.read_bytes()).format == "torch-legacy"
    assert_tensors(packed(old), {name: bits(tensor) for name, tensor in flat(state()).items()})


def test_no_tensor_of_a_torch_file_is_left_out(tmp_path: Path) -> None:
    """Whatever holds it, or leads to it: each has a name, or is listed as one that has none."""
    torch = pytest.importorskip("torch")
    numbers = iter(range(100))

    def new() -> Any:
        return torch.full((64,), float(next(numbers)))

    deep: Any = {"a": new()}
    for _ in range(100):
        deep = [deep]
    mixed = {
        "by_default": collections.defaultdict(list, {"q": new()}),
        "pair": torch.return_types.max((new(), new())),
        "set": {new()},
        **{"a.b": new(), "a": {"b": new()}},
        **{1: new(), "1": new(), None: new(), 2.5: new(), (0, "k"): new(), frozenset("x"): new()},
        "deep": deep,
    }
    path = torch_file(tmp_path / "mixed.pt", mixed)
    with densor.open(packed(path)) as file:
        found = {name: file.get_tensor(name)[0] for name in file.keys()}  # noqa: SIM118
        assert sorted(found.values()) == [number for number in range(next(numbers)) if number]
        assert found["a.b"] == 5 and found["a.b (2)"] == 6 and found["(0, 'k')"] == 11
        assert file.opaque() == {"unnamed": "F32 unnamed"}  # the deep one
        with pytest.raises(UnsupportedError, match="unnamed"):
            file.get_tensors()
    jagged = torch.nested.nested_tensor([new(), new()], layout=torch.jagged)
    sparse = torch.eye(8).to_sparse()
    other = torch_file(tmp_path / "other.pt", {"jagged": jagged, "sparse": sparse, "x": new()})
    with densor.open(packed(other)) as file:
        assert file.opaque() == {"jagged": "NestedTensor", "sparse": "sparse_tensor"}
        assert file.keys() == ["x"]


def test_nothing_is_executed_or_imported(tmp_path: Path) -> None:
    pytest.importorskip("torch")

    class Evil:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'pwned')!r}, 'w')",)

    content = pickle.dumps({"evil": Evil(), "module": "antigravity"}) + b""
    data = zip_bytes({"a/data.pkl": content, "a/data/0": bytes(4096)})
    before = set(sys.modules)
    assert plan_of(data).tensors == []
    named = pickle.dumps({"x": 1}).replace(b"x", b"y") + b""
    assert torch_pickle.scan(named).tensors == {}
    torch_pickle.scan(b"\x80\x02cantigravity\nfly\n.")
    assert "antigravity" not in set(sys.modules) - before
    assert not (tmp_path / "pwned").exists()


PID = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)


def rebuilt(storage: bytes, offset: bytes, shape: bytes, strides: bytes) -> bytes:
    """Instructions that make a tensor of a storage."""
    arguments = storage + offset + shape + strides + b"\x89N"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
def test_pickles_that_lie() -> None:
    sound = b"\x80\x02}X\x01\x00\x00\x00t" + rebuilt(PID, b"K\0", b"K\4\x85", b"K\1\x85") + b"s."
    data = zip_bytes({"a/data.pkl": sound, "a/data/0": bytes(16)})
    assert [t.name for t in plan_of(data).tensors] == ["t"]

    def one(offset: bytes, shape: bytes, strides: bytes) -> bytes:
        tensor = rebuilt(PID, offset, shape, strides)
        return b"\x80\x02}X\x01\x00\x00\x00t" + tensor + b"s."

    huge = b"\x8a\x09" + bytes(8) + b"\x01"
    for pickled in (
        one(b"K\1", b"K\4\x85", b"K\1\x85"),  # beyond the storage
        one(huge, b"K\4\x85", b"K\1\x85"),
        one(b"K\0", huge + b"\x85", b"K\1\x85"),
        one(b"K\0", b"K\2K\2\x86", b"K\1\x85"),
        one(b"J\xff\xff\xff\xff", b"K\4\x85", b"K\1\x85"),
        one(b"K\0", b"K\4\x85", b"K\2\x85"),
        one(b"N", b"N", b"N"),
    ):
        plan = plan_of(zip_bytes({"a/data.pkl": pickled, "a/data/0": bytes(16)}))
        assert plan.tensors == []
    for end in range(len(sound)):
        with pytest.raises(FormatError):
            torch_pickle.scan(sound[:end])
    for byte in range(256):
        for place in range(0, len(sound), 3):
            wrong = sound[:place] + bytes([byte]) + sound[place + 1 :]
            with contextlib.suppress(FormatError):
                torch_pickle.scan(wrong)


def test_pickles_that_grow() -> None:
    """What refers to itself, or doubles at every step, costs no more than its size."""
    doubling = b"\x80\x02)" + b"2\x86" * 5000 + b"."  # a tuple of the one before, twice
    assert torch_pickle.scan(doubling).tensors == {}
    deep = b"\x80\x02)" + b"\x85" * 200_000 + b"."
    assert torch_pickle.scan(deep).tensors == {}
    itself = b"\x80\x02}q\0h\0h\0s."
    assert torch_pickle.scan(itself).tensors == {}
    state = b"\x80\x02]q\0]q\1" + b"h\0b" * 3000 + b"0h\0h\1b" * 2 + b"."
    with contextlib.suppress(FormatError):
        torch_pickle.scan(state)
    tuples = b"\x80\x02" + b")" + b"\x85" * 100_000 + b"X\1\0\0\0n\x93."  # as a global's name
    assert torch_pickle.scan(tuples).tensors == {}


# ONNX


def onnx_model() -> Any:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    big = weights("fp32", 24, 64).view(np.float32)
    half = weights("fp16", 24, 64).view(np.float16)
    constant = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(np.arange(400), "constant")
    )
    inner = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["y"])],
        "inner",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(big[::-1].copy(), "inner")],
    )
    branch = helper.make_node("If", ["b"], ["z"], then_branch=inner, else_branch=inner)
    as_floats = helper.make_tensor("floats", TensorProto.FLOAT, (3,), [1.0, 2.0, 3.0])
    graph = helper.make_graph(
        [constant, branch],
        "graph",
        [helper.make_tensor_value_info("b", TensorProto.BOOL, ())],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(big, "big"),
            numpy_helper.from_array(half, "half"),
            numpy_helper.from_array(np.array(5, np.int64), "scalar"),
            numpy_helper.from_array(np.zeros((0, 3), np.float32), "empty"),
            as_floats,
        ],
    )
    return onnx, helper.make_model(graph)


def test_onnx(tmp_path: Path) -> None:
    onnx, model = onnx_model()
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    plan = plan_of(path.read_bytes())
    assert plan.format == "onnx" and {"F32", "F16", "I64"} == set(dtypes_coded(plan))
    loaded = onnx.load(path).graph
    numbers = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in [
            *loaded.initializer,
            loaded.node[0].attribute[0].t,
            loaded.node[1].attribute[0].g.initializer[0],
        ]
    }
    assert {"big", "half", "scalar", "empty", "constant", "inner", "floats"} == set(numbers)
    numbers["inner (2)"] = numbers["inner"]  # of the other branch, whose names are its own
    assert_tensors(packed(path), numbers)
    assert plan_of(path.read_bytes(), random=False).format is None


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def test_protobuf_that_lies() -> None:
    tensor = b"\x08\x04" + b"\x10\x01" + field(8, b"t") + field(9, bytes(16))
    good = b"\x08\x08" + field(7, field(5, tensor))
    assert [t.name for t in plan_of(good).tensors] == ["t"]
    packed_dims = field(1, b"\x02\x02") + tensor[2:]
    assert plan_of(b"\x08\x08" + field(7, field(5, packed_dims))).tensors[0].shape == (2, 2)
    lies = (
        good.replace(b"\x08\x04", b"\x08\x05"),  # another shape
        good.replace(b"\x10\x01", b"\x10\x63"),  # an unknown type
        good[:3] + bytes([good[3] + 1]) + good[4:],  # longer than the file
        good[:5] + bytes([good[5] + 1]) + good[6:],  # longer than its message
        good + b"\x0b",  # a group
        good + b"\x02\x00",  # field number 0
        good + b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        good + b"\x08" + b"\xff" * 11,
    )
    for data in lies:
        assert plan_of(data).tensors == []
    for levels, tensors in ((5, 1), (30, 0)):
        nested = field(5, tensor)
        for _ in range(levels):  # a graph in an attribute of a node of a graph
            for tag in (b"\x32", b"\x2a", b"\x0a"):
                nested = tag + varint(len(nested)) + nested
        nested = b"\x3a" + varint(len(nested)) + nested
        assert len(plan_of(b"\x08\x08" + nested).tensors) == tensors
    assert plan_of(b"\x08\x08" * 1000).format in (None, "onnx")


# CTranslate2


def ctranslate2_bytes(variables: dict[str, Any]) -> bytes:
    """A model file of version 6 with these variables."""

    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    kinds = [np.dtype(name) for name in ("f4", "i1", "i2", "i4", "f2")]
    out = struct.pack("<I", 6) + text("TinySpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        array = np.asarray(value)
        head = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += text(name) + head + struct.pack("<BI", kinds.index(array.dtype), array.nbytes)
        out += array.tobytes()
    return out + struct.pack("<I", 0)


@pytest.mark.parametrize("level", [3, 6])
def test_ctranslate2(level: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    variables = {
        "encoder/weight": rng.standard_normal((40, 96)).astype(np.float16),
        "encoder/scale": rng.standard_normal(96).astype(np.float32),
        "decoder/ids": np.arange(50, dtype=np.int32),
        "decoder/flag": np.int8(1),
    }
    path = tmp_path / "model.bin"
    path.write_bytes(ctranslate2_bytes(variables))
    archive = packed(path, level)
    with densor.open(archive) as file:
        for name in ("encoder/weight", "encoder/scale", "decoder/ids"):
            assert file.get_tensor(name).tobytes() == variables[name].tobytes()


# Arrays in messages and pickles


@pytest.mark.parametrize("level", [3, 6])
def test_parameters_of_flax(level: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    kernel = rng.standard_normal((64, 96)).astype("f4")
    bias, step = kernel[0].astype(ml_dtypes.bfloat16), np.int32(7)
    tree = {"params": {"dense": {"kernel": kernel, "bias": bias}}, "n": 3, "opt": {"step": step}}
    path = tmp_path / "model.msgpack"
    path.write_bytes(msgpack_bytes(tree))
    with densor.open(packed(path, level)) as file:
        assert set(file.keys()) == {"params.dense.kernel", "params.dense.bias", "opt.step"}
        assert file.get_tensor("params.dense.kernel").tobytes() == kernel.tobytes()
        assert file.get_tensor("params.dense.bias").tobytes() == bias.tobytes()


def test_messages_that_lie_keep_their_other_arrays() -> None:
    array = np.arange(4096, dtype="f4")
    sound = msgpack_bytes({"a": array, "b": array})
    at = sound.rindex(b"float32")
    for data, names in (
        (sound[:-1], {"a"}),  # ends within
        (sound[:at] + b"float64" + sound[at + 7 :], {"a"}),  # elements of another size
        (sound[:at] + b"nothing" + sound[at + 7 :], {"a"}),
        (sound + b"more", {"a", "b"}),
        (b"\xdf\xff\xff\xff\xff" + sound[1:], set()),
        (b"\x81\xa1a" + b"\x81\xa1a" * 100 + sound, set()),  # too deep
        (b"\x81\xa1a\xdd\x7f\xff\xff\xff" + b"\x01" * (1 << 15), set()),  # numbers alone
        (b"\x81\xa1a\xc1", set()),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", set()),
    ):
        plan = plan_of(data)
        assert {tensor.name for tensor in plan.tensors} == names
        assert plan.format == ("msgpack" if names else None)
        whole = names != {"a"}
        assert [one.dtype for one in plan.others] == ([] if whole else ["unknown"])


def test_a_message_that_breaks_off_between_arrays() -> None:
    array = np.arange(4096, dtype="f4")
    plan = plan_of(b"\x83" + msgpack_bytes({"a": array, "b": array})[1:])  # says: one more
    assert {tensor.name for tensor in plan.tensors} == {"a", "b"}
    assert [one.name for one in plan.others] == ["what follows"]


def test_equal_keys_of_a_message_are_told_apart() -> None:
    array = np.arange(1024, dtype="f4")
    data = msgpack_bytes({"a": array, "b": array + 1, "c": array + 2, "d": {"x": array}})
    plan = plan_of(data.replace(b"\xd9\x01b", b"\xd9\x01a").replace(b"\xd9\x01c", b"\xd9\x01a"))
    assert [tensor.name for tensor in plan.tensors] == ["a", "a (2)", "a (3)", "d.x"]
    assert len({tensor.offset for tensor in plan.tensors}) == 4


def test_names_of_a_message_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One long key leads to any number of arrays, each of which has it in its name."""
    array = np.arange(1024, dtype="f4")
    data = msgpack_bytes({"long": {"a": array, "b": array}, "c": array})
    monkeypatch.setattr(msgpack_parser, "_MAX_NAMES", 12)
    plan = plan_of(data)
    assert [tensor.name for tensor in plan.tensors] == ["long.a", "long.b"]
    assert [tensor.name for tensor in plan.others] == ["what follows"]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_in_pickles(protocol: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    array = rng.standard_normal((64, 96)).astype("f4")
    state = {"w": array, "t": np.asfortranarray(array), "one": {"ids": np.arange(300)}, "x": "y"}
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({**state, "odd": array.astype(">f4")}, protocol))
    with densor.open(packed(path)) as file:
        assert set(file.keys()) == {"w", "t", "one.ids"}
        assert file.opaque().keys() == {"odd"}
        assert np.array_equal(file.get_tensor("w"), array)
        assert np.array_equal(file.get_tensor("t"), array)
        assert np.array_equal(file.get_tensor("one.ids"), np.arange(300))


class Marked(np.ndarray[Any, Any]):
    """An array that would be more than its numbers."""


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_all_arrays_of_a_pickle_are_told_of() -> None:
    array = np.arange(3000, dtype="f4")
    objects = np.array([{"in": array + 4}, 3], object)
    state = {
        "a": array,
        "b": array,  # once more
        "list": [array],
        "masked": np.ma.masked_array(array + 1, array > 7),
        "marked": (array + 2).view(Marked),
        "matrix": np.asmatrix(array + 3),  # nothing but its numbers
        "objects": objects,
        "other": np.array(["x"], object),
    }
    data = pickle.dumps(state, 4)
    plan = plan_of(data)
    read = {"a", "b", "list.0", "matrix", "objects.0.in"}
    assert {tensor.name for tensor in plan.tensors} == read
    others = {one.name: one.dtype for one in plan.others}
    assert others == {"masked": "F32 masked", "marked": "F32 Marked", "other": "object"}
    assert "F32" in {segment.kind.dtype for segment in plan.segments}
    cut = plan_of(data[:-1])  # where nothing has a name any more
    assert not cut.tensors and {one.dtype.split()[-1] for one in cut.others} == {"unnamed"}
    whole = io.BytesIO()
    np.save(whole, np.array({"w": array}, object))
    assert [tensor.name for tensor in plan_of(whole.getvalue()).tensors] == ["w"]


def test_bf16_in_pickled_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    weights = rng.standard_normal((200, 96)).astype(ml_dtypes.bfloat16).view("u2")
    counts = rng.integers(0, 300, (200, 96)).astype("u2")
    for array, dtype in ((weights, "BF16"), (counts, "U16")):
        data = pickle.dumps({"w": array}, 4)
        kinds = [segment.kind.dtype for segment in plan_of(data).segments]
        assert dtype in kinds and len(set(kinds)) == 2
        path = tmp_path / dtype
        path.write_bytes(data)
        with densor.open(packed(path)) as file:
            assert np.array_equal(file.get_tensor("w"), array)


def test_pickled_arrays_that_lie() -> None:
    array = np.arange(1 << 15, dtype="f4")
    sound = pickle.dumps({"a": array, "b": array + 1}, 4)
    for data, names in (
        (sound.replace(b"\x8c\x02f4", b"\x8c\x02f8"), set()),  # of another size
        (sound.replace(b"M\x00\x80", b"M\x01\x80"), set()),  # one element more
        (sound[:-1], set()),  # ends before the names are known
        (b"\x80\x04" + b"K\x01" * (1 << 16) + b".", set()),
        (b"\x80\x04cnumpy\ndtype\n)R.", set()),
        (b"\x80\x04b.", set()),
        (b"\x80\x04R.", set()),
    ):
        plan = plan_of(data)
        assert {tensor.name for tensor in plan.tensors} == names
    assert plan_of(sound[:-1]).format == "pickle"  # whose elements are floats all the same
    assert "F32" in {segment.kind.dtype for segment in plan_of(sound[:-1]).segments}
    assert plan_of(b"\x80\x04" + b"K\x01" * (1 << 16) + b".").format is None


# All of them


def legacy_torch_bytes(pickled: bytes, storages: dict[str, bytes]) -> bytes:
    """A file as PyTorch wrote it before it used zip files; elements of 4 bytes."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    first = [pickle.dumps(what, 2) for what in (0x1950A86A20F9469CFC6C, 1001, machine)]
    data = [struct.pack("<Q", len(storage) // 4) + storage for storage in storages.values()]
    return b"".join([*first, pickled, pickle.dumps(list(storages), 2), *data])


def tiny_files() -> dict[str, bytes]:
    array = np.arange(5, dtype=np.float32)
    tensor = b"\x08\x04" + b"\x10\x01" + field(8, b"t") + field(9, bytes(16))
    pickled = b"\x80\x02}X\x01\x00\x00\x00t" + rebuilt(PID, b"K\0", b"K\4\x85", b"K\1\x85") + b"s."
    return {
        "gguf": small_gguf(),
        "npy": npy_bytes(array),
        "npz": zip_bytes({"a.npy": npy_bytes(array)}),
        "torch": zip_bytes({"a/data.pkl": pickled, "a/data/0": bytes(16)}),
        "torch-legacy": legacy_torch_bytes(pickled, {"0": bytes(16)}),
        "ctranslate2": ctranslate2_bytes({"t": np.ones(4, np.float32)}),
        "msgpack": msgpack_bytes({"t": array}),
        "pickle": pickle.dumps({"t": array}, 4),
        "onnx": b"\x08\x08" + field(7, field(5, tensor)),
        "netpbm": b"P5\n# a comment\n5 4\n255\n" + bytes(range(20)),
        "bmp": bmp_bytes(5, 4),
        "idx": b"\0\0\x08\x03" + struct.pack(">III", 2, 3, 4) + bytes(range(24)),
        "tiff": tiff_bytes(np.arange(20, dtype=np.uint8).reshape(4, 5, 1)),
        "arrow": arrow_files.file(*arrow_files.flights(5)),
        "parquet": parquet_files.file(parquet_files.flights(5)),
        "wav": wav_bytes(bytes(40)),
        "aiff": aiff_bytes(bytes(40)),
        "au": struct.pack(">4s6I", b".snd", 28, 40, 3, 8000, 2, 0) + bytes(40),
        "flac": flac_file(bytes(60), 2, 16),
        "png": png_bytes(),
        "gzip": gzip.compress(bytes(range(200)) * 2),
        "zip": deflated_bytes(bytes(range(256)) * 2),
        "base64": b'{"a": "data:;base64,' + b64encode(bytes(3072)) + b'"}',
        "jsonl": json_lines(40),
        "fixed-width": fixed_width(60),
        "csv": table(40),
    }


def png_bytes() -> bytes:
    head = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(20))), (b"IEND", b""))
    parts = [
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deflated_bytes(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", data)
    return file.getvalue()


def wav_bytes(data: bytes, fmt: bytes | None = None, kind: bytes = b"RIFF") -> bytes:
    """Two channels of 16 bits unless `fmt` says something else."""
    fmt = fmt or struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"odd \1\0\0\0x\0"
    body += b"data" + struct.pack("<I", len(data)) + data
    return kind + struct.pack("<I", len(body)) + body


def aiff_bytes(data: bytes, bits: int = 16, packing: bytes = b"") -> bytes:
    """Two channels; AIFF-C where there is a way of packing."""
    common = struct.pack(">HIH", 2, 10, bits) + struct.pack(">HQ", 16383 + 12, 8000 << 51) + packing
    body = (b"AIFC" if packing else b"AIFF") + b"COMM" + struct.pack(">I", len(common)) + common
    body += b"SSND" + struct.pack(">III", len(data) + 8, 0, 0) + data
    return b"FORM" + struct.pack(">I", len(body)) + body


def sounds_of(data: bytes) -> list[tuple[int, Audio]]:
    """Bytes and layout of the sounds in a file."""
    segments = plan_of(data).segments
    return [(s.size or 0, s.kind.audio) for s in segments if s.kind.audio is not None]


def test_headers_of_sounds() -> None:
    rows = bytes(4800)
    guid = bytes.fromhex("0000001000800000aa00389b71")
    extensible = struct.pack("<HHIIHHHHI", 0xFFFE, 2, 9, 0, 8, 32, 22, 24, 3) + b"\1\0\0" + guid
    long = b"ds64" + struct.pack("<IQQQI", 28, 0, 4000, 0, 0)
    rf64 = wav_bytes(rows, kind=b"RF64").replace(b"WAVE", b"WAVE" + long)
    for data, size, layout in (
        (wav_bytes(rows), 4800, Audio(2, 2, rate=8000)),
        (wav_bytes(rows, extensible), 4800, Audio(2, 4, rate=9)),
        (
            wav_bytes(rows, struct.pack("<HHIIHH", 3, 1, 9, 0, 4, 32)),
            4800,
            Audio(1, 4, floats=True, rate=9),
        ),
        (
            wav_bytes(rows, struct.pack("<HHIIHH", 1, 3, 9, 0, 3, 8)),
            4800,
            Audio(3, 1, unsigned=True, rate=9),
        ),
        (
            rf64.replace(b"data" + struct.pack("<I", 4800), b"data\xff\xff\xff\xff"),
            4000,
            Audio(2, 2, rate=8000),
        ),
        (aiff_bytes(rows), 4800, Audio(2, 2, True, rate=8000)),
        (aiff_bytes(rows, 20, b"NONE\0\0"), 4800, Audio(2, 3, True, rate=8000)),
        (aiff_bytes(rows, 16, b"sowt\0\0"), 4800, Audio(2, 2, rate=8000)),
        (
            struct.pack(">4s6I", b".snd", 28, 0xFFFFFFFF, 6, 8000, 2, 0) + rows,
            4800,
            Audio(2, 4, True, floats=True, rate=8000),
        ),
    ):
        assert sounds_of(data) == [(size, layout)]
    for fmt in (
        struct.pack("<HHIIHH", 2, 2, 8000, 0, 4, 16),  # ADPCM
        struct.pack("<HHIIHH", 1, 0, 8000, 0, 4, 16),
        struct.pack("<HHIIHH", 1, 3, 8000, 0, 4, 16),
        struct.pack("<HHIIHH", 1, 3, 8000, 0, 0, 0),
        struct.pack("<HHIIHH", 1, 1, 8000, 0, 8, 64),
        b"\1\0\2\0",
    ):
        assert sounds_of(wav_bytes(rows, fmt)) == []
    assert sounds_of(aiff_bytes(rows, 16, b"ima4\0\0")) == []
    assert sounds_of(struct.pack(">4s6I", b".snd", 28, 4800, 1, 8000, 2, 0) + rows) == []


def tiff_bytes(image: Array, order: str = "<", strip: int = 3, packing: int = 1) -> bytes:
    """Strips of some rows, then the directory."""
    height, width, channels = image.shape
    rows = image.astype(image.dtype.newbyteorder(order))
    strips = [rows[y : y + strip].tobytes() for y in range(0, height, strip)]
    begins = np.cumsum([8] + [len(s) for s in strips])
    fields = [
        (256, "H", [width]),
        (257, "I", [height]),
        (258, "H", [8 * image.itemsize] * channels),
        (259, "H", [packing]),
        (273, "I", list(begins[:-1])),
        (277, "H", [channels]),
        (279, "I", [len(s) for s in strips]),
    ]
    end = int(begins[-1])
    entries, behind = b"", b""
    for tag, letter, numbers in fields:
        data = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(data) > 4:
            at = end + 2 + 12 * len(fields) + len(behind)
            behind, data = behind + data, struct.pack(order + "I", at)
        kind = {"H": 3, "I": 4}[letter]
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + data.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", end)
    return head + b"".join(strips) + struct.pack(order + "H", len(fields)) + entries + behind


def bmp_bytes(width: int, height: int) -> bytes:
    stride = (3 * width + 3) // 4 * 4
    head = struct.pack("<2sIIII", b"BM", 54 + stride * height, 0, 54, 40)
    head += struct.pack("<iiHHI", width, height, 1, 24, 0).ljust(36, b"\0")
    row = bytes(range(3 * width)).ljust(stride, b"\0")
    return head + row * height


def images_of(data: bytes) -> list[tuple[int, Image]]:
    """Bytes and layout of the images in a file."""
    segments = plan_of(data).segments
    return [(s.size or 0, s.kind.image) for s in segments if s.kind.image is not None]


def test_headers_of_images() -> None:
    rows = bytes(60 * 70 * 4 * 2)
    pam = b"P7\nWIDTH 60\nHEIGHT 70\n# x\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
    for head, layout in (
        (b"P5 60 70 255\n", Image(60)),
        (b"P6\n#a\n60\t#b\n70 255\n", Image(60, 3)),
        (b"P5 60 70 256\n", Image(60, 1, 2, True)),
        (b"P6 60 70 65535\n", Image(60, 3, 2, True)),
        (pam, Image(60, 4)),
        (b"\0\0\x08\x03" + struct.pack(">III", 5, 60, 70), Image(70)),
    ):
        ((size, found),) = images_of(head + rows)
        assert found == layout and size % layout.stride == 0
    for kind in (np.uint8, np.uint16):
        for order in "<>":
            picture = np.zeros((40, 33, 3), kind)
            ((size, found),) = images_of(tiff_bytes(picture, order))
            assert size == picture.nbytes
            assert found == Image(33, 3, picture.itemsize, order == ">" and kind is np.uint16)
            assert images_of(tiff_bytes(picture, order, packing=5)) == []
    ((size, found),) = images_of(bmp_bytes(61, 40))
    assert found == Image(61, 3, padding=1) and size == 40 * 184
    for head in (b"P5 60 70 65536\n", b"P5 0 70 255\n", b"P5 60 0 255\n", b"P4 60 70\n"):
        assert images_of(head + rows) == []
    assert images_of(b"P6 60 70 65535\n" + bytes(100)) == []  # cut short
    ((size, _),) = images_of(b"P6 60 70 65535\n" + bytes(3700))
    assert size == 3600


@pytest.mark.parametrize("name", ["netpbm", "bmp", "idx", "tiff"])
def test_images_come_back(name: str, tmp_path: Path) -> None:
    y, x = np.mgrid[:50, :61]
    grey = ((x * y) // 20 % 256).astype(np.uint8)
    padded = np.pad(np.dstack([grey] * 3).reshape(50, 183), ((0, 0), (0, 1)))
    data = {
        "netpbm": b"P5 61 50 255\n" + grey.tobytes() + b"P5 behind",
        "bmp": bmp_bytes(61, 50)[:54] + padded.tobytes(),
        "idx": b"\0\0\x08\x02" + struct.pack(">II", 50, 61) + grey.tobytes(),
        "tiff": tiff_bytes(grey[..., None].astype(np.uint16) * 9, ">", 7),
    }[name]
    assert len(images_of(data)) == 1
    (tmp_path / "in").write_bytes(data)
    for level in (1, 5, 9):
        densor.compress_file(tmp_path / "in", tmp_path / "packed", level)
        densor.decompress_file(tmp_path / "packed", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data
        (tmp_path / "packed").unlink()
        (tmp_path / "out").unlink()


@pytest.mark.parametrize("name", list(tiny_files()))
def test_truncated_at_every_byte(name: str) -> None:
    data = tiny_files()[name]
    assert plan_of(data).format == name
    for end in range(len(data)):
        plan_of(data[:end])
        plan_of(data[:end], random=False)


@pytest.mark.parametrize("name", list(tiny_files()))
def test_any_byte_changed(name: str) -> None:
    """A plan is found, whatever is wrong, and the file comes back."""
    data = tiny_files()[name]
    rng = random_state("changed", name)
    for place in range(len(data)):
        wrong = bytearray(data)
        wrong[place] ^= int(rng.integers(1, 256))
        plan_of(bytes(wrong))
        wrong[int(rng.integers(len(data)))] = 255
        plan_of(bytes(wrong))


def test_formats_are_found_by_what_is_in_a_file() -> None:
    assert [name for name, _ in FORMATS] == ["safetensors", *tiny_files()]
    for name, data in tiny_files().items():
        assert plan_of(data).format == name
        tables = ("jsonl", "fixed-width", "csv")  # of which one line may be another
        assert (plan_of(b"x" + data).format == name) == (name in tables)


def test_a_file_is_read_in_order_after_a_look_at_random(tmp_path: Path) -> None:
    """Looking at the end of a file does not move the position from which it is then read."""
    path = tmp_path / "a.npz"
    np.savez(path, **npz_arrays())
    from densor.formats.io.sources import FileRandomSource

    class Wrapped(io.BytesIO):
        """A file without a descriptor to read from."""

    for open_file in (lambda: path.open("rb", buffering=0), lambda: Wrapped(path.read_bytes())):
        opener: Callable[[], Any] = open_file
        with opener() as file:
            random = FileRandomSource(file)
            plan = plan_file(FileSource(file), random.size, random=random)
            assert plan.format == "npz"
            assert plan.source.take(random.size + 1).tobytes() == path.read_bytes()


def test_many_files_in_one_archive(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    files = tiny_files()  # some hold the time
    for name, data in files.items():
        (folder / f"tiny.{name}").write_bytes(data)
    densor.pack([folder], tmp_path / "all.densor")
    densor.extract(tmp_path / "all.densor", tmp_path / "out")
    for name, data in files.items():
        assert (tmp_path / "out" / f"tiny.{name}").read_bytes() == data
    with densor.open(tmp_path / "all.densor") as file:
        assert {"q", "f", "tiny", "a", "t"} == set(file.keys())
        with densor.Writer(tmp_path / "one.densor") as writer:
            writer.add_file(folder / "tiny.npy", "x/y.npy")
    with densor.open(tmp_path / "one.densor") as file:
        assert file.keys() == ["x/y"]
        assert file.get_tensor("x/y").tolist() == [0, 1, 2, 3, 4]


def test_what_begins_as_sound_may_be_something_else() -> None:
    rows = b"RIFF,count\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(900))
    assert plan_file(MemorySource(rows), len(rows)).format == "csv"
    sound = wav_bytes(bytes(4000))
    assert plan_file(MemorySource(sound), len(sound)).format == "wav"
