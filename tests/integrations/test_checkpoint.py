"""Packed checkpoints as serving engines read them, without an engine."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_tools import assert_same, weight

import densor
from densor.errors import ArgumentError, DensorError, FileError, FormatError, TruncatedError
from densor.files import shards_listed
from densor.files.model_folder import pack_model
from densor.integrations import checkpoint
from densor.torch.placed import placing
from densor.torch.undecoded import AtOnce, Undecoded

# Stands for vLLM, of which nothing is needed to register but names.
STUB = """
import logging, sys, types

class Any:
    def __init_subclass__(cls, **_): pass
    def __init__(self, *a, **k): self.load_config = a[0] if a else None

def module(name, **names):
    made = types.ModuleType(name)
    made.__dict__.update(names)
    made.__getattr__ = lambda attribute: Any
    made.__path__ = []
    sys.modules[name] = made

registered = {}
def into(name):
    return lambda made: registered.setdefault(name, made)

for name in ("vllm", "vllm.model_executor", "vllm.model_executor.layers",
             "vllm.model_executor.layers.fused_moe",
             "vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method",
             "vllm.model_executor.layers.linear",
             "vllm.model_executor.layers.quantization.base_config",
             "vllm.model_executor.model_loader.default_loader",
             "vllm.model_executor.model_loader.ep_weight_filter"):
    module(name)
module("vllm.model_executor.layers.quantization", register_quantization_config=into)
module("vllm.model_executor.model_loader", register_model_loader=into)
from importlib.metadata import EntryPoint
EntryPoint("densor", "densor.integrations.vllm:register", "vllm.general_plugins").load()()
print(sorted(registered))
print([m for m in ("numba", "llvmlite", "torch", "numpy", "transformers") if m in sys.modules])
"""


def test_registering_with_vllm_imports_nothing_heavy() -> None:
    """vLLM calls this whenever it starts, for plain models too."""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", STUB],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['auto', 'densor', 'hf', 'safetensors']", "[]"]


def tensors() -> dict[str, torch.Tensor]:
    return {
        "a.weight": weight(200, 96, seed=1),
        "b.weight": weight(96, 300, seed=2),
        "b.bias": torch.randn(96),
        "c.weight": weight(64, 256, seed=3, dtype=torch.float32),
        "count": torch.arange(5),
        "empty": torch.empty(0, 4),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain model in two shards and an index."""
    made = tmp_path_factory.mktemp("models") / "plain"
    made.mkdir()
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index: dict[str, str] = {}
    items = list(tensors().items())
    for shard, some in zip(shards, (items[:3], items[3:]), strict=True):
        save_file(dict(some), made / shard, {"format": "pt"})
        index |= {name: shard for name, _ in some}
    (made / shards_listed.INDEX).write_text(json.dumps({"weight_map": index}))
    (made / "config.json").write_text("{}")
    pack_model(made, made.parent / "packed")
    return made


def read(
    source: Path, pattern: str = "*.safetensors*", **options: object
) -> dict[str, torch.Tensor]:
    files = sorted(source.glob(pattern))
    files = [path for path in files if path.name != shards_listed.INDEX]
    return dict(checkpoint.weights(files, **options))  # type: ignore[arg-type]


def check(found: dict[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(tensors())
    for name, tensor in found.items():
        assert tensor.device.type == "cpu"
        if name != "b.bias":
            assert_same(tensor, tensors()[name])


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_weights_come_decoded(folder: Path, threads: int) -> None:
    assert checkpoint.is_packed_folder(folder.parent / "packed")
    assert not checkpoint.is_packed_folder(folder)
    for source in (folder, folder.parent / "packed"):
        for path in source.glob("*.safetensors"):
            assert checkpoint.is_packed(path) == (source != folder)
        shards_listed.check_shards(source)
        check(read(source, threads=threads))
    with torch.device("meta"):  # as engines do while they make a model
        found = read(folder.parent / "packed")
    check(found)


def test_json_of_endless_depth_says_nothing(tmp_path: Path) -> None:
    text = b'{"a":' + b"[" * 100_000
    for name in ("config.json", shards_listed.INDEX):
        (tmp_path / name).write_bytes(text)
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text)
    assert not checkpoint.is_packed_folder(tmp_path) and not checkpoint.is_packed(tmp_path / "x")
    assert shards_listed.shards_of(tmp_path) == {}


def test_a_backend_decodes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from densor.torch.device import Device

    decoded = []
    original = Device.decoded
    monkeypatch.setattr(Device, "decoded", lambda *a: decoded.append(0) or original(*a))
    check(read(folder.parent / "packed", backend="emulate"))
    assert decoded
    decoded.clear()
    check(read(folder.parent / "packed", backend="cpu"))
    assert not decoded


@pytest.mark.parametrize("tried", [0, 1 << 27])
def test_blobs_are_decoded_where_they_are_copied_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: int
) -> None:
    monkeypatch.setattr(checkpoint, "_TRIED", tried)
    files = sorted((folder.parent / "packed").glob("*.safetensors"))
    targets = {name: torch.empty_like(tensor) for name, tensor in tensors().items()}
    kinds: dict[str, bool] = {}
    with placing(2) as mode:
        for name, tensor in checkpoint.weights(files, placing=mode):
            kinds[name] = isinstance(tensor, Undecoded)
            if name == "a.weight":
                targets[name] = tensor.t().contiguous().t()  # no copy
            else:
                targets[name].copy_(tensor)
        assert not mode._waiting  # all is decoded when the iterator has ended
    check(targets)
    blobs = ["a.weight", "b.weight", "c.weight"]
    found = [name for name in kinds if kinds[name]]
    assert sorted(found) == (blobs if tried else ["a.weight"])  # most were not copied
    again = {name: torch.empty_like(tensor) for name, tensor in tensors().items()}
    once = AtOnce()
    for name, tensor in checkpoint.weights(files, placing=once):
        again[name].copy_(tensor)
    check(again)
    assert (
        once.placed
        == sum(again[name].nbytes for name in blobs)
        == once.total - sum(tensor.nbytes for name, tensor in again.items() if name not in blobs)
    )
    damaged = tmp_path / files[1].name
    data = bytearray(files[1].read_bytes())
    data[-99] ^= 4
    damaged.write_bytes(data)
    with (
        pytest.raises(DensorError, match=r"model-00002.*tensor '[bc]\.weight'"),
        placing(2) as mode,
    ):
        for name, tensor in checkpoint.weights([files[0], damaged], placing=mode):
            targets[name].copy_(tensor)
    assert checkpoint.has_packed(folder.parent / "packed") and not checkpoint.has_packed(folder)
    assert not checkpoint.has_packed("name/on-the-hub")


def test_memory_is_used_again_once_nobody_holds_it(tmp_path: Path) -> None:
    tensors = {f"w{i}": weight(256, 256) * (i + 1) for i in range(12)}
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    save_file(tensors, tmp_path / "plain" / "model.safetensors")
    pack_model(tmp_path / "plain", tmp_path / "packed")
    files = [tmp_path / "packed" / "model.safetensors"]
    places = []
    for name, tensor in checkpoint.weights(files):
        assert_same(tensor, tensors[name])
        places.append(tensor.data_ptr())
        del tensor
    assert len(set(places)) <= 6  # three, and what other threads are slow to let go
    held = [(name, tensor.view(-1)[8:]) for name, tensor in checkpoint.weights(files)]
    for name, part in held:
        assert_same(part, tensors[name].view(-1)[8:])


def test_what_is_skipped_is_not_read(folder: Path) -> None:
    found = read(folder.parent / "packed", skip=lambda name: name.startswith("b."))
    assert sorted(found) == ["a.weight", "c.weight", "count", "empty"]


def test_archives(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / shards_listed.INDEX, tmp_path)
    for path in folder.glob("*.safetensors"):
        densor.compress_file(path, tmp_path / f"{path.name}.densor")
    found = checkpoint.archives_in(tmp_path)
    assert len(found) == 2 and not checkpoint.archives_in(folder)
    assert not checkpoint.archives_in(tmp_path / "none")
    shards_listed.check_shards(tmp_path, ".densor")
    check(read(tmp_path))
    found[1].unlink()
    with pytest.raises(FileError, match=r"model-00002.*densor: is missing.*'c\.weight'"):
        shards_listed.check_shards(tmp_path, ".densor")


@pytest.mark.parametrize("suffix", ["", ".densor"])
def test_a_missing_file_that_no_index_lists(tmp_path: Path, suffix: str) -> None:
    """vLLM and SGLang need no index, and would leave weights as memory happens to be."""
    names = [f"model-{i:05}-of-000003.safetensors{suffix}" for i in (1, 2, 3)]
    for name in (*names, f"other-of-2.safetensors{suffix}", f"x-9-of-y.safetensors{suffix}"):
        (tmp_path / name).write_bytes(b"")
    shards_listed.check_shards(tmp_path, suffix)
    for name in names:
        (tmp_path / name).rename(tmp_path / "aside")
        with pytest.raises(FileError, match=rf"{name}: is missing, one of 3 files"):
            shards_listed.check_shards(tmp_path, suffix)
        (tmp_path / "aside").rename(tmp_path / name)
    (tmp_path / names[2]).rename(tmp_path / names[0].replace("-00001-", "-00000-"))  # from 0 on
    shards_listed.check_shards(tmp_path, suffix)
    (tmp_path / f"a-000000001-of-999999999.safetensors{suffix}").write_bytes(b"")
    with pytest.raises(FileError, match=r"a-000000002-of-999999999.*is missing"):
        shards_listed.check_shards(tmp_path, suffix)
    (tmp_path / shards_listed.INDEX).write_text('{"weight_map": {"a": "m.safetensors"}}')
    (tmp_path / f"m.safetensors{suffix}").write_bytes(b"")
    shards_listed.check_shards(tmp_path, suffix)  # an index tells more than names


def test_a_file_in_the_place_of_another(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder.parent / "packed", tmp_path / "packed")
    shutil.copytree(folder, tmp_path / "archives")
    for path in (tmp_path / "archives").glob("*.safetensors"):
        densor.compress_file(path, f"{path}.densor")
        path.unlink()
    for source in (tmp_path / "packed", tmp_path / "archives"):
        check(read(source))
        one, other = sorted(source.glob("model-0000*"))
        kept = other.read_bytes()
        shutil.copy(one, other)
        with pytest.raises(FormatError, match=rf"{other.name}: lacks the tensor '"):
            read(source)
        other.write_bytes(kept)
        check(read(source))
    index = tmp_path / "packed" / shards_listed.INDEX
    listed = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": listed | {"inv_freq": listed["c.weight"]}}))
    check(read(tmp_path / "packed"))  # of which there are such in the world


def test_a_base(folder: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(folder, tuned)
    changed = tensors()
    changed["a.weight"][::3] *= 1.01
    path = tuned / "model-00001-of-00002.safetensors"
    save_file(dict(list(changed.items())[:3]), path, {"format": "pt"})
    pack_model(tuned, tmp_path / "delta", base=folder)
    found = read(tmp_path / "delta", base=str(folder))
    assert_same(found["a.weight"], changed["a.weight"])
    with pytest.raises(DensorError, match=r"model-00001.*tensor 'a\.weight'"):
        read(tmp_path / "delta")
    with pytest.raises(DensorError, match=r"model-00001.*tensor 'a\.weight'"):
        read(tmp_path / "delta", base=str(tuned))
    with pytest.raises(ArgumentError, match="neither a folder"):
        read(tmp_path / "delta", base="/no/such:thing")


def test_damage_names_file_and_tensor(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    shutil.copytree(folder.parent / "packed", packed)
    path = packed / "model-00001-of-00002.safetensors"
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(data) - 20000, len(data), 20).tolist():
        damaged = bytearray(data)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(DensorError, match=r"model-00001-of-00002\.safetensors: tensor '"):
            read(packed)
    path.write_bytes(data[:-5])
    with pytest.raises(TruncatedError, match="model-00001"):
        read(packed)
    path.unlink()
    with pytest.raises(FileError, match=r"model-00001.*is missing.*'a\.weight'"):
        shards_listed.check_shards(packed)


def test_files_that_are_none(tmp_path: Path) -> None:
    for data in (b"", b"\xff" * 100, b"\x05\0\0\0\0\0\0\0[1,2]", b"\x02\0\0\0\0\0\0\0{}"):
        (tmp_path / "x.safetensors").write_bytes(data)
        assert not checkpoint.is_packed(tmp_path / "x.safetensors")
    assert not checkpoint.is_packed(tmp_path / "none") and not checkpoint.is_packed(tmp_path)
    (tmp_path / "config.json").write_text("[")
    assert not checkpoint.is_packed_folder(tmp_path)


def test_ahead_of_a_reader_that_stops() -> None:
    done: list[int] = []

    def job(i: int) -> int:
        done.append(i)
        if i == 3:
            raise FileError("three")
        return i

    found = checkpoint.ahead([lambda i=i: job(i) for i in range(9)])  # type: ignore[misc]
    assert next(found) == 0
    found.close()
    assert len(done) <= 3
    found = checkpoint.ahead([lambda i=i: job(i) for i in range(9)])  # type: ignore[misc]
    with pytest.raises(FileError, match="three"):
        list(found)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_from_several_threads(threads: int) -> None:
    begun: list[int] = []

    def job(i: int) -> int:
        begun.append(i)
        time.sleep(0.01 * (i % 2))
        return i

    found = checkpoint.ahead([lambda i=i: job(i) for i in range(12)], threads)  # type: ignore[misc]
    for i, result in enumerate(found):
        assert result == i and max(begun) <= i + threads
    assert sorted(begun) == list(range(12))
