"""Nodes of ComfyUI, with stand-ins for the functions of ComfyUI that they call."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch_tools import assert_same, weight

from densor.errors import ChecksumError, FileError
from densor.files.model_folder import pack_model
from densor.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, state_dict

FILES = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]


def tensors() -> dict[str, torch.Tensor]:
    return {"a": weight(128, 96), "b": weight(96, 96, dtype=torch.float32), "c": weight(3)}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "plain").mkdir()
    save_file({"a": tensors()["a"]}, tmp_path / "plain" / FILES[0])
    save_file({name: tensors()[name] for name in "bc"}, tmp_path / "plain" / FILES[1])
    index = {"weight_map": {"a": FILES[0], "b": FILES[1], "c": FILES[1]}}
    name = "diffusion_pytorch_model.safetensors.index.json"
    (tmp_path / "plain" / name).write_text(json.dumps(index))
    (tmp_path / "plain" / "config.json").write_text("{}")
    (tmp_path / "models").mkdir()
    pack_model(tmp_path / "plain", tmp_path / "models" / "packed")
    return tmp_path / "models"


class Engine:
    """What ComfyUI has, as far as nodes use it."""

    def __init__(self, models: Path) -> None:
        self.models = models

    def get_filename_list(self, kind: str) -> list[str]:
        return [str(path.relative_to(self.models)) for path in self.models.rglob("*.safetensors")]

    def get_full_path_or_raise(self, kind: str, name: str) -> str:
        return str(self.models / name)

    def get_folder_paths(self, kind: str) -> list[str]:
        return [kind]

    def load_state_dict_guess_config(self, sd: Any, **options: Any) -> Any:
        assert options["embedding_directory"] == ["embeddings"]
        return sd, "clip", "vae", None

    def load_diffusion_model_state_dict(self, sd: Any) -> Any:
        return sd

    def VAE(self, sd: Any) -> Any:
        return sd


@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS)
def test_nodes(models: Path, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {name: ModuleType(name) for name in ("folder_paths", "comfy", "comfy.sd")}
    made["comfy"].__dict__["sd"] = made["comfy.sd"]
    engine = Engine(models)
    for name, module in made.items():
        found = {key: getattr(engine, key) for key in dir(engine) if not key.startswith("_")}
        module.__dict__.update(found if name != "comfy" else {})
        monkeypatch.setitem(sys.modules, name, module)
    assert node in NODE_DISPLAY_NAME_MAPPINGS
    kind = NODE_CLASS_MAPPINGS[node]
    (names,) = kind.INPUT_TYPES()["required"]["name"]
    results = getattr(kind(), kind.FUNCTION)(f"packed/{FILES[0]}")
    assert f"packed/{FILES[0]}" in names and len(results) == len(kind.RETURN_TYPES)
    assert results[0].keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert_same(results[0][name], tensor)


def test_faults_name_the_file(models: Path) -> None:
    path = models / "packed" / FILES[0]
    data = bytearray(path.read_bytes())
    data[-99] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match=f"{FILES[0]}: tensor 'a'"):
        state_dict(path)
    path.unlink()
    with pytest.raises(FileError, match=f"{FILES[0]}: is missing, and with it the tensors 'a'"):
        state_dict(models / "packed" / FILES[1])
