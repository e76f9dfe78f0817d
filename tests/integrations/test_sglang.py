"""SGLang's plugin: its hooks with what stands for SGLang, and with the real one where it is."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch_tools import assert_same, weight

import densor
from densor.errors import ArgumentError, DensorError, FileError
from densor.files import shards_listed
from densor.files.model_folder import pack_model
from densor.integrations import engines, sglang
from densor.torch.undecoded import Undecoded

# Stands for SGLang, of which nothing is needed to register but names.
STUB = """
import sys, types
from enum import Enum

def module(name, **names):
    made = types.ModuleType(name)
    made.__dict__.update(names)
    made.__path__ = []
    sys.modules[name] = made
    return made

class DefaultModelLoader:
    _prepare_weights = _get_weights_iterator = load_weights_only = None

class HookRegistry:
    found = []
    @classmethod
    def register(cls, target, hook, kind):
        cls.found.append((target, kind.name))

for name in ("sglang", "sglang.srt", "sglang.srt.model_loader", "sglang.srt.plugins",
             "sglang.srt.utils", "sglang.srt.utils.hf_transformers"):
    module(name)
loader = module("sglang.srt.model_loader.loader", DefaultModelLoader=DefaultModelLoader,
                _validate_default_loader_extra_config=None)
sys.modules["sglang.srt.model_loader"].loader = loader
config = module("sglang.srt.utils.hf_transformers.config", get_config=None)
sys.modules["sglang.srt.utils.hf_transformers"].config = config
module("sglang.srt.plugins.hook_registry", HookRegistry=HookRegistry,
       HookType=Enum("HookType", "AROUND AFTER"))
from importlib.metadata import EntryPoint
register = EntryPoint("densor", "densor.integrations.sglang:register", "sglang.srt.plugins").load()
register()
print(sorted(target.rpartition(".")[2] + " " + kind for target, kind in HookRegistry.found))
print([m for m in ("numba", "llvmlite", "torch", "numpy", "transformers") if m in sys.modules])
HookRegistry.found.clear()
del DefaultModelLoader.load_weights_only
try:
    register()
except Exception as error:
    print(type(error).__name__, error, HookRegistry.found)
"""


def test_registering_imports_nothing_heavy_and_is_all_or_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUB],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    hooks, heavy, refused = done.stdout.splitlines()
    assert json.loads(hooks.replace("'", '"')) == [
        "_get_weights_iterator AROUND",
        "_prepare_weights AROUND",
        "_validate_default_loader_extra_config AROUND",
        "get_config AFTER",
        "load_weights_only AROUND",
    ]
    assert heavy == "[]"
    assert refused.startswith("UnsupportedError SGLang has no sglang.srt.model_loader.loader.Def")
    assert refused.endswith("load_weights_only, which 0.5.23 has []")


def tensors() -> dict[str, torch.Tensor]:
    return {
        "a.weight": weight(200, 96, seed=1),
        "b.weight": weight(2048, 768, seed=2),
        "model.mtp.layers.1.weight": weight(96, 96, seed=3, dtype=torch.float32),
        "count": torch.arange(5),
    }


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed model in two shards, beside the plain one."""
    made = tmp_path_factory.mktemp("models") / "plain"
    made.mkdir()
    items, index = list(tensors().items()), {}
    for i, some in ((1, items[:1]), (2, items[1:])):
        shard = f"model-0000{i}-of-00002.safetensors"
        save_file(dict(some), made / shard, {"format": "pt"})
        index |= {name: shard for name, _ in some}
    (made / shards_listed.INDEX).write_text(json.dumps({"weight_map": index}))
    (made / "config.json").write_text("{}")
    pack_model(made, made.parent / "packed")
    return made.parent / "packed"


class Loader:
    """As much of SGLang's loader as hooks need, and those in place."""

    def __init__(self, number: int | None = None, **extra: Any) -> None:
        self.load_config = SimpleNamespace(model_loader_extra_config=extra, draft_model_idx=number)
        self.counter_before_loading_weights = 0.0

    ResolvedSource = staticmethod(
        lambda source, folder, files, safetensors: SimpleNamespace(
            source=source, hf_folder=folder, weight_files=files, use_safetensors=safetensors
        )
    )

    def _original_prepare(self, model: str, *args: Any) -> tuple[str, list[str], bool]:
        assert args == ("main", True, None)
        return model, sorted(map(str, Path(model).glob("*.safetensors"))), True

    def _prepare_weights(self, model: str, *args: Any) -> Any:
        return sglang._prepared(Loader._original_prepare, self, model, *args)

    def _original_weights(self, source: Any, *, resolved_source: Any) -> Iterator[Any]:
        for path in resolved_source.weight_files:
            for name, tensor in load_file(path).items():
                yield source.prefix + name, tensor

    def weights(self, folder: Path, prefix: str = "") -> Iterator[Any]:
        source = SimpleNamespace(
            model_or_path=str(folder),
            revision="main",
            fall_back_to_pt=True,
            allow_patterns_overrides=None,
            model_config=None,
            prefix=prefix,
        )
        return sglang._weights(Loader._original_weights, self, source)

    @staticmethod
    def _filter_mtp_weights(weights: Iterator[Any], prefix: str, number: int) -> Iterator[Any]:
        for name, tensor in weights:
            if f".{number}." in name:
                yield f"{prefix}{name}", tensor


@pytest.fixture(autouse=True)
def files_of_mtp(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hook asks SGLang's module for."""
    module = SimpleNamespace(maybe_add_mtp_safetensors=lambda files, *_: files)
    for name in ("sglang", "sglang.srt", "sglang.srt.model_loader"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "sglang.srt.model_loader.loader", module)


def test_weights_come_as_those_of_the_plain_folder(packed: Path, tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    shutil.copy(packed.parent / "plain" / shards_listed.INDEX, archives)
    for path in (packed.parent / "plain").glob("*.safetensors"):
        densor.compress_file(path, archives / f"{path.name}.densor")
    for folder in (packed.parent / "plain", packed, archives):
        loader = Loader(threads=1)
        found = dict(loader.weights(folder, "p."))
        assert sorted(found) == sorted(f"p.{name}" for name in tensors())
        for name, tensor in tensors().items():
            assert_same(found[f"p.{name}"], tensor)
        assert bool(loader.counter_before_loading_weights) == (folder.name != "plain")
    found = dict(Loader(1).weights(packed, "p."))
    assert list(found) == ["p.model.mtp.layers.1.weight"]


def test_loading_decodes_in_parameters_and_only_rows_that_are_wanted(packed: Path) -> None:
    targets = {name: torch.empty_like(tensor) for name, tensor in tensors().items()}
    rows = torch.empty(512, 768, dtype=torch.bfloat16)
    seen: dict[str, bool] = {}

    def load(model: Any, weights: Any, device: str) -> None:
        assert (model, device) == ("model", "cpu")
        for name, tensor in weights:
            seen[name] = isinstance(tensor, Undecoded)
            targets[name].copy_(tensor)
            if name == "b.weight":
                some = tensor.narrow(0, 1024, 512)
                seen["rows"] = isinstance(some, Undecoded)
                rows.copy_(some)

    sglang._loaded(load, "model", Loader().weights(packed), "cpu")
    for name, tensor in tensors().items():
        assert_same(targets[name], tensor)
    assert_same(rows, tensors()["b.weight"][1024:1536])
    assert seen["a.weight"] and seen["b.weight"] and seen["rows"] and not seen["count"]
    assert sglang._stack.get() is None
    sglang._loaded(load, "model", Loader().weights(packed.parent / "plain"), "cpu")
    assert not any(seen.values())
    sglang._loaded(lambda model, weights: None, "model", iter(()))  # nothing to load


def test_faults_name_file_and_tensor(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(packed, folder)
    path = folder / "model-00002-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)

    def load(model: Any, weights: Any) -> None:
        for _, tensor in weights:
            torch.empty_like(tensor).copy_(tensor)

    with pytest.raises(DensorError, match=r"model-00002.*: tensor 'b\.weight': "):
        sglang._loaded(load, None, Loader().weights(folder))
    path.unlink()
    with pytest.raises(FileError, match=r"model-00002.*is missing.*'b\.weight'"):
        list(Loader().weights(folder))


def test_a_packed_configuration_becomes_that_of_the_plain_model() -> None:
    config = SimpleNamespace(quantization_config={"quant_method": "densor", "version": 1})
    assert sglang._plain_config(config, "packed", revision=None) is None  # it stays the result
    assert not hasattr(config, "quantization_config")
    for other in (SimpleNamespace(), SimpleNamespace(quantization_config={"quant_method": "gptq"})):
        before = dict(vars(other))
        sglang._plain_config(other, "plain")
        assert vars(other) == before


def test_keys_of_the_configuration() -> None:
    found: list[Any] = []

    def validate(*, extra_config: Any, load_format: str) -> None:
        found.append((extra_config, load_format))

    extra = {"threads": 2, "num_threads": 4}
    sglang._without_ours(validate, extra_config=extra, load_format="auto")
    assert found == [({"num_threads": 4}, "auto")] and "threads" in extra
    assert engines.chosen(extra)[0] == engines.Chosen(threads=2)
    assert engines.chosen("text") == (engines.Chosen(), "text")
    assert engines.chosen({"base": "b", "backend": "cuda"})[0] == (0, "b", "cuda")
    for wrong in ({"threads": -1}, {"threads": True}, {"base": 3}, {"backend": "tpu"}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            sglang._without_ours(validate, extra_config=wrong, load_format="auto")


def test_hooks_of_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that are registered are applied; `tests/engines/check_sglang.py` loads models with it."""
    monkeypatch.undo()
    loader = pytest.importorskip("sglang.srt.model_loader.loader", exc_type=ImportError)
    from sglang.srt.plugins.hook_registry import HookRegistry

    sglang.register()
    HookRegistry.apply_hooks()
    assert len(HookRegistry._patched) >= 5
    assert hasattr(loader.DefaultModelLoader._get_weights_iterator, "__wrapped__")
