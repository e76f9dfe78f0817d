"""Models of transformers whose weights stay packed: the same bits, in every use of them."""

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.22")

from hf_models import MODELS, damaged, files  # noqa: E402
from torch_tools import bits as tensor_bits  # noqa: E402
from torch_tools import one_thread  # noqa: E402, F401

import densor.hf  # noqa: E402
from densor.torch import PackedTensor, memory_of, pack_module  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def packed_copy(model: Any) -> Any:
    """All matrices packed, small as they are."""
    return pack_module(copy.deepcopy(model), select=lambda name, p: p.ndim > 1)


def inputs_of(model: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    config = model.config
    dtype = model.dtype
    if model.main_input_name == "pixel_values":
        size = config.image_size
        return {"pixel_values": torch.randn(2, config.num_channels, size, size).to(dtype)}
    if model.main_input_name == "input_features":
        shape = (1, config.num_mel_bins, 2 * config.max_source_positions)
        ids = torch.tensor([[1, 5, 9]])
        return {"input_features": torch.randn(shape).to(dtype), "decoder_input_ids": ids}
    if model.main_input_name == "input_values":
        return {"input_values": torch.randn(1, 1600).to(dtype)}
    return {"input_ids": torch.arange(20).reshape(2, 10) % config.vocab_size}


def tensors_of(output: Any) -> list[Any]:
    found = [v for v in torch.utils._pytree.tree_flatten(tuple(output.values()))[0]]
    return [value for value in found if isinstance(value, torch.Tensor)]


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted) and found
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert tensor_bits(one.detach()) == tensor_bits(other.detach())


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model(name: str) -> None:
    plain = MODELS[name]().eval()
    packed = packed_copy(plain)
    assert any(isinstance(p, PackedTensor) for p in packed.parameters())
    inputs = inputs_of(plain)
    with torch.no_grad():
        wanted = tensors_of(plain(**inputs))
        for _ in range(2):
            assert_same(tensors_of(packed(**inputs)), wanted)
    outputs = [model(**inputs) for model in (plain, packed)]
    assert_same(tensors_of(outputs[1]), tensors_of(outputs[0]))
    for output in outputs:
        tensors_of(output)[0].float().square().mean().backward()
    names = [n for n, p in plain.named_parameters() if p.grad is not None]
    assert names == [n for n, p in packed.named_parameters() if p.grad is not None]
    gradients = [[m.get_parameter(n).grad for n in names] for m in (packed, plain)]
    assert_same(*gradients)


def test_generation() -> None:
    plain = MODELS["llama"]().eval()
    packed = packed_copy(plain)
    ids = torch.tensor([[1, 5, 9], [1, 7, 2]])
    options = {"max_new_tokens": 12, "do_sample": False, "num_beams": 2}
    with torch.no_grad():
        assert torch.equal(packed.generate(ids, **options), plain.generate(ids, **options))


def test_saving_gives_a_plain_checkpoint(tmp_path: Path) -> None:
    for tied in (False, True):
        plain = MODELS["llama-tied" if tied else "llama"]()
        plain.save_pretrained(tmp_path / f"plain{tied}")
        packed_copy(plain).save_pretrained(tmp_path / f"packed{tied}")
        assert files(tmp_path / f"packed{tied}") == files(tmp_path / f"plain{tied}")


def test_lora() -> None:
    peft = pytest.importorskip("peft")
    plain = MODELS["llama"]()
    packed = packed_copy(plain)
    inputs = inputs_of(plain)
    config = {"r": 4, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.0}
    results = []
    for model in (plain, packed):
        torch.manual_seed(3)
        tuned = peft.get_peft_model(model, peft.LoraConfig(**config))
        opt = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(3):
            tuned(**inputs, labels=inputs["input_ids"]).loss.backward()
            opt.step()
            opt.zero_grad()
        trained = [p for p in tuned.parameters() if p.requires_grad]
        with torch.no_grad():
            before = tuned(**inputs).logits
        merged = tuned.merge_and_unload()
        with torch.no_grad():
            results.append([*trained, before, merged(**inputs).logits])
    assert_same(*results)
    layer = packed.model.layers[0]
    assert isinstance(layer.self_attn.q_proj.weight, PackedTensor)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "mixtral", "bert"])
def test_packed_folders_load_as_packed_models(name: str, tmp_path: Path) -> None:
    made = MODELS[name]()
    made.save_pretrained(tmp_path / "plain")
    densor.hf.pack_model(tmp_path / "plain", tmp_path / "packed")
    plain = type(made).from_pretrained(tmp_path / "plain").eval()
    packed = densor.hf.from_pretrained(tmp_path / "packed", resident=True).eval()
    held = [p for p in packed.parameters() if isinstance(p, PackedTensor)]
    assert held
    assert memory_of(packed).packed < 0.95 * memory_of(packed).plain
    inputs = inputs_of(plain)
    with torch.no_grad():
        assert_same(tensors_of(packed(**inputs)), tensors_of(plain(**inputs)))
    assert_same(list(packed.state_dict().values()), list(plain.state_dict().values()))
    other = densor.hf.from_pretrained(tmp_path / "packed", resident=True, dtype=torch.float16)
    with torch.no_grad():
        plain = type(made).from_pretrained(tmp_path / "plain", dtype=torch.float16).eval()
        wanted = plain(**inputs)
        assert_same(tensors_of(other.eval()(**inputs)), tensors_of(wanted))


def test_damage_is_found_while_loading(tmp_path: Path) -> None:
    MODELS["llama"]().save_pretrained(tmp_path / "plain")
    densor.hf.pack_model(tmp_path / "plain", tmp_path / "packed")
    path = tmp_path / "packed" / "model.safetensors"
    damaged(path, path.stat().st_size // 2)
    with pytest.raises(densor.DensorError, match=r"model\.safetensors.*weight"):
        densor.hf.from_pretrained(tmp_path / "packed", resident=True)
