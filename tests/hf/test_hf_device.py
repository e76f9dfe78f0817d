"""Packed folders whose weights go to a device are decoded there; the emulator stands for it."""

import sys
from pathlib import Path
from typing import Any

import pytest

import densor
from densor.codec.planes import units
from densor.gpu import emulate
from densor.gpu.emulate import EmulatedBackend

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.22")
if emulate.compiler() is None:
    pytest.skip("no C++ compiler", allow_module_level=True)

from hf_models import MODELS, damaged, files, same  # noqa: E402
from torch_tools import assert_same, one_thread  # noqa: E402, F401

import densor.hf  # noqa: E402
from densor.hf import loader  # noqa: E402
from densor.torch import PackedTensor, device, resident  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes, once for each, the plain and the packed folder of a model."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            MODELS[name]().save_pretrained(place / "plain")
            densor.hf.pack_model(place / "plain", place / "packed")
            made[name] = place / "plain", place / "packed"
        return made[name]

    return get


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were started."""
    made: list[str] = []
    launch = EmulatedBackend.launch

    def noted(self: Any, kernel: str, *args: Any) -> None:
        made.append(kernel)
        launch(self, kernel, *args)

    monkeypatch.setattr(EmulatedBackend, "launch", noted)
    return made


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "mixtral", "bert"])
def test_loads_bit_for_bit(folders: Any, name: str, dtype: str, kernels: list[str]) -> None:
    plain, packed = folders(name)
    load = type(MODELS[name]()).from_pretrained
    same(
        load(plain, dtype=dtype), densor.hf.from_pretrained(packed, dtype=dtype, backend="emulate")
    )
    assert any("huffman" in kernel for kernel in kernels)


def test_entry_points_are_taken_from_the_folder(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = folders("llama")
    densor.hf.pack_model(plain, tmp_path / "packed", gpu_index=True)

    def fails(*args: Any) -> int:
        raise AssertionError("streams are decoded to find entry points")

    monkeypatch.setattr(units, "find_entries", fails)
    found = densor.hf.from_pretrained(tmp_path / "packed", backend="emulate")
    same(transformers.LlamaForCausalLM.from_pretrained(plain), found)
    densor.hf.unpack_model(tmp_path / "packed", tmp_path / "again")
    assert files(tmp_path / "again") == files(plain)


def test_the_cpu_can_be_chosen(folders: Any, kernels: list[str]) -> None:
    plain, packed = folders("llama")
    for backend in ("cpu", None):
        found = densor.hf.from_pretrained(packed, backend=backend)
        same(transformers.LlamaForCausalLM.from_pretrained(plain), found)
    assert not kernels


@pytest.mark.parametrize("kind", ["packed", "plain"])
def test_weights_stay_packed(folders: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the folder is packed or not, they end up in the device's memory."""
    monkeypatch.setattr(resident, "_MIN_ON_DEVICE", 0)
    monkeypatch.setattr(resident, "_MIN_PACKED_BYTES", 4096)
    folder = folders("llama")[kind == "packed"]
    plain = transformers.LlamaForCausalLM.from_pretrained(folders("llama")[0]).eval()
    found = densor.hf.from_pretrained(folder, resident=True, backend="emulate").eval()
    held = [p for p in found.parameters() if isinstance(p, PackedTensor)]
    assert len(held) > 3 and all(p.cell.on is not None for p in held)
    assert len({id(p.cell.on) for p in held}) == 1
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        assert_same(found(input_ids=ids).logits, plain(input_ids=ids).logits)
    same(plain, found.state_dict())


def test_what_is_coded_against_a_base_is_for_the_cpu(folders: Any, tmp_path: Path) -> None:
    model = MODELS["llama"]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[::50] *= 2
    model.save_pretrained(tmp_path / "tuned")
    plain, _ = folders("llama")
    densor.hf.pack_model(tmp_path / "tuned", tmp_path / "delta", base=plain)
    found = densor.hf.from_pretrained(tmp_path / "delta", base=plain, backend="emulate")
    same(type(model).from_pretrained(tmp_path / "tuned"), found)


def test_damage_is_found(tmp_path: Path) -> None:
    MODELS["llama"]().save_pretrained(tmp_path / "plain")
    densor.hf.pack_model(tmp_path / "plain", tmp_path / "packed")
    path = tmp_path / "packed" / "model.safetensors"
    damaged(path, path.stat().st_size // 2)
    with pytest.raises(densor.DensorError, match=r"model\.safetensors.*weight"):
        densor.hf.from_pretrained(tmp_path / "packed", backend="emulate")


def test_what_is_decoded_is_compared(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmulatedBackend, "launch", lambda *args: None)
    with pytest.raises(densor.ChecksumError, match=r"model\.safetensors: tensor .*weight"):
        densor.hf.from_pretrained(folders("llama")[1], backend="emulate")


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU decodes instead, unless a GPU was asked for by name."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    place = torch.device("cuda:0")
    with pytest.warns(UserWarning, match=r"cuda:0 are decoded on the CPU.*densor\[gpu\]"):
        assert loader.device_for(place, None) is None
    assert loader.device_for(place, "cpu") is None
    with pytest.raises(densor.UnsupportedError, match=r"densor\[gpu\]"):
        loader.device_for(place, "cuda")


def test_resident_models_are_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "device_for", lambda place, backend: None)
    with loader._set(loader._resident, True):
        quantizer = loader.DensorQuantizer(loader.DensorConfig(), pre_quantized=True)
    for _ in range(2):
        assert quantizer._device(torch.device("cpu")) is None
    with pytest.raises(densor.UnsupportedError, match="one device"):
        quantizer._device(torch.device("cuda:0"))
    assert device.open_device("cpu") is None
