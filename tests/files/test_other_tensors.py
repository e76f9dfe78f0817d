"""Commands and loaders where tensors do not lie in their file as they are, or files are packed."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy as safetensors_numpy
from helpers import random_state

import densor
from densor.errors import UnsupportedError
from densor.files.diff import differences

torch: Any = pytest.importorskip("torch")

import densor.torch  # noqa: E402
from densor.torch import save_packed_file  # noqa: E402


def run(*arguments: Any) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "densor", *map(os.fspath, arguments)]
    return subprocess.run(command, capture_output=True, check=False)


def safetensors_file(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> Path:
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, part) in tensors.items():
        offsets = [len(data), len(data) + len(part)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += part
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("archives", [False, True])
@pytest.mark.parametrize("dtype", ["F8_E4M3FNUZ", "F4", "F6_E2M3", "QX_7", "F8_E8M0"])
def test_differences_in_any_type_are_seen(dtype: str, archives: bool, tmp_path: Path) -> None:
    paths = []
    for number in (1, 2):
        tensors = {
            "a": ("F32", [8], bytes(32)),
            "q": (dtype, [96], bytes([number]) * {"F4": 48, "F6_E2M3": 72}.get(dtype, 96)),
        }
        path = safetensors_file(tmp_path / f"{number}.safetensors", tensors)
        if archives:
            densor.compress_file(path, f"{path}.densor")
            path = path.with_name(f"{path.name}.densor")
        paths.append(path)
    found = {one.name: one for one in differences(*paths)}
    assert found["a"].changes is not None and found["a"].changes.changed == 0
    assert found["q"].changes is not None and found["q"].changes.changed > 0
    assert found["q"].dtype == dtype
    same = {one.name: one.changes for one in differences(paths[0], paths[0])}
    assert same["q"] is not None and same["q"].changed == 0


@pytest.mark.parametrize("archives", [False, True])
def test_what_cannot_be_compared_is_said(archives: bool, tmp_path: Path) -> None:
    paths = []
    for number in (1, 2):
        path = tmp_path / f"{number}.pt"
        sparse = (torch.eye(3) * number).to_sparse()
        torch.save({"w": torch.ones(3, 4), "t": torch.full((3, 4), number).T, "s": sparse}, path)
        if archives:
            densor.compress_file(path, f"{path}.densor")
            path = path.with_name(f"{path.name}.densor")
        paths.append(path)
    found = {one.name: one for one in differences(*paths)}
    assert found["t"].changes is not None and found["t"].changes.changed > 0
    assert found["s"].changes is None and found["s"].only == "both"
    done = run("diff", *paths)
    assert done.returncode == 0 and b"not compared" in done.stdout


def test_other_tensors_in_commands(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    path = tmp_path / "x.pt"
    torch.save({"t": base.T, "c": torch.complex(base, base).conj(), "s": base.to_sparse()}, path)
    archive = tmp_path / "x.densor"
    densor.compress_file(path, archive)
    assert run("cat", archive, "t").stdout == base.T.contiguous().numpy().tobytes()
    conjugate = torch.complex(base, -base).numpy().tobytes()
    assert run("cat", archive, "c").stdout == conjugate
    refused = run("cat", archive, "s")
    assert refused.returncode == 1 and b"sparse_tensor" in refused.stderr
    listed = run("list", archive).stdout
    assert all(word in listed for word in (b"t ", b"c ", b"s ", b"sparse_tensor"))
    found = json.loads(run("list", "--json", archive).stdout)["entries"][0]["tensors"]
    assert {tensor["name"] for tensor in found} == {"t", "c", "s"}


def packed_tensors() -> dict[str, Any]:
    rng = random_state("packed")
    made = {"w": torch.from_numpy(rng.standard_normal((300, 300))).bfloat16()}
    made["small"] = torch.arange(5)
    made["empty"] = torch.zeros(0, 3)
    made["fnuz"] = made["w"].float().to(torch.float8_e4m3fnuz)
    return made


def test_packed_safetensors_files_are_read_like_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = packed_tensors()
    save_packed_file(tensors, path, {"key": "value"})
    loaded = densor.load_file(path, "torch")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = loaded[name]
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        if tensor.numel():
            assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8)), name
    with densor.open(path) as file:
        assert file.metadata() == {"key": "value"}
        assert file.get_tensor("small").tolist() == list(range(5))
        rows = file.get_slice("w")[7:9]
        assert rows.tobytes() == tensors["w"][7:9].view(torch.int16).numpy().tobytes()
        assert file.info("w").stored < file.info("w").size == 180_000
        (name,) = file.files()
        plain = tmp_path / "plain.safetensors"
        plain.write_bytes(file.read_file(name))
        with pytest.raises(densor.UnsupportedError):
            _ = file.archive
        with pytest.raises(KeyError):
            file.read_file("none")
    safetensors: Any = pytest.importorskip("safetensors.torch")
    assert safetensors.load_file(plain).keys() == tensors.keys()
    listed = run("list", path)
    assert listed.returncode == 0 and b"BF16" in listed.stdout
    assert run("cat", path, "small").stdout == np.arange(5).tobytes()
    assert run("cat", path, "none").returncode == 1
    with pytest.raises(densor.LimitError):
        densor.load_file(path, max_output_size=1000)


def test_packed_safetensors_files_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_packed_file(packed_tensors(), path)
    code = (
        "import sys; sys.modules['torch'] = None; import densor;"
        "found = densor.load_file(sys.argv[1]); print(sorted(found), found['w'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    assert done.stdout.split() == b"['empty', 'fnuz', 'small', 'w'] (300, 300)".split()


def test_other_files_are_refused_as_before(tmp_path: Path) -> None:
    plain = safetensors_file(tmp_path / "p", {"a": ("U8", [4], b"abcd")})
    packed = tmp_path / "q"
    save_packed_file(packed_tensors(), packed)
    cut = tmp_path / "cut"
    cut.write_bytes(packed.read_bytes()[:-1])
    for path in (plain, cut):
        with pytest.raises(densor.DensorError):
            densor.load_file(path)


def onnx_model(path: Path, tensors: dict[str, Any], location: str) -> None:
    """A model with its weights in another file, by the package onnx."""
    onnx: Any = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    made = [
        TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=bits.shape, raw_data=bits)
        for name, bits in tensors.items()
    ]
    model = helper.make_model(helper.make_graph([], "g", [], [], initializer=made))
    options = {"save_as_external_data": True, "location": location, "size_threshold": 0}
    onnx.save(model, path, **options)


class Bits(bytes):
    shape: tuple[int, ...]


def bf16(name: str, rows: int, columns: int) -> Bits:
    weights = torch.from_numpy(random_state(name).standard_normal((rows, columns))).bfloat16()
    found = Bits(weights.view(torch.int16).numpy().tobytes())
    found.shape = (rows, columns)
    return found


def test_data_beside_onnx_models(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    tensors = {"v": bf16("v", 200, 300), "w": bf16("w", 300, 200)}
    onnx_model(folder / "x.onnx", tensors, "x.onnx.data")
    archive = tmp_path / "x.densor"
    stored = densor.pack([folder], archive).stored
    best = sum(len(densor.compress(bytes(bits), dtype="bf16")) for bits in tensors.values())
    assert stored < 1.03 * best
    densor.extract(archive, tmp_path / "out")
    for path in folder.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    loaded = densor.load_file(archive)
    assert {name: found.tobytes() for name, found in loaded.items()} == tensors


def test_onnx_models_that_lie_about_data_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    onnx_model(folder / "x.onnx", {"w": bf16("lie", 30, 40)}, "x.onnx.data")
    model = (folder / "x.onnx").read_bytes()
    (folder / "x.onnx.data").write_bytes(bytes(2000))  # cut off
    for number, other in enumerate(
        (b"../onnx.data", b"x.onnx\0data", b"/etc/hosts\0", b"x.onnx.dat\n")
    ):
        (folder / f"{number}.onnx").write_bytes(model.replace(b"x.onnx.data", other))
    (folder / "cycle.onnx").write_bytes(model.replace(b"\x0bx.onnx.data", b"\x0acycle.onnx"))
    densor.pack([folder], tmp_path / "x.densor")
    densor.extract(tmp_path / "x.densor", tmp_path / "out")
    for path in folder.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    with densor.open(tmp_path / "x.densor") as file:
        assert file.keys() == [] and "w" in file.opaque()


def test_safetensors_beside_an_onnx_model_tell_of_their_own_tensors(tmp_path: Path) -> None:
    onnx_model(tmp_path / "x.onnx", {"w": bf16("w", 300, 200)}, "x.safetensors")
    own = {"own": np.arange(60_000, dtype=np.float32)}
    safetensors_numpy.save_file(own, tmp_path / "x.safetensors")
    archive = tmp_path / "x.densor"
    densor.pack([tmp_path / "x.onnx", tmp_path / "x.safetensors"], archive)
    with densor.open(archive) as file:
        assert (file.keys(), list(file.opaque())) == (["own"], ["w"])


@pytest.mark.parametrize("name", ["x.h5", "x.txt"])
def test_files_of_unknown_formats_are_no_dicts_of_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x89HDF" + bytes(5000))
    densor.compress_file(tmp_path / name, tmp_path / "x.densor")
    for load in (densor.load_file, densor.torch.load_file):
        with pytest.raises(UnsupportedError, match=f"{name}: no tensors are known"):
            load(tmp_path / "x.densor")
    with densor.open(tmp_path / "x.densor") as file:
        assert (file.keys(), file.opaque()) == ([], {})
        assert file.read_file(name)[:4] == b"\x89HDF"
    for nothing in ({}, {"n": np.empty((0, 3))}):
        safetensors_numpy.save_file(nothing, tmp_path / "m.safetensors")
        densor.compress_file(tmp_path / "m.safetensors", tmp_path / "m", overwrite=True)
        assert densor.load_file(tmp_path / "m").keys() == nothing.keys()


def test_a_file_without_tensors_is_one_also_beside_files_of_unknown_formats(tmp_path: Path) -> None:
    safetensors_numpy.save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    densor.pack([tmp_path / "config.json", tmp_path / "model.safetensors"], tmp_path / "m.densor")
    for load in (densor.load_file, densor.torch.load_file):
        assert load(tmp_path / "m.densor") == {}
