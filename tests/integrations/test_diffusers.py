"""Packed pipelines of diffusers, tiny and random; skipped where diffusers is not installed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch_tools import assert_same

from densor.errors import ArgumentError, ChecksumError, DensorError, FileError
from densor.files.model_folder import pack_model
from densor.files.pipeline_folder import all_weight_files, pack_pipeline, unpack_pipeline
from densor.torch.blob import may_be_blob

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A text-to-image pipeline of a UNet in two shards, a VAE and a text encoder; and it packed."""
    place = tmp_path_factory.mktemp("pipelines")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
    ).half()
    vae = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8).bfloat16()
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=1000,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )
    (place / "plain").mkdir()
    for name, model in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        model.save_pretrained(place / "plain" / name, max_shard_size="1500KB")
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=None,
        scheduler=diffusers.DDIMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_config(place / "plain")
    pipeline.scheduler.save_pretrained(place / "plain" / "scheduler")
    packed = pack_pipeline(place / "plain", place / "packed")
    assert packed.sizes.stored < packed.sizes.original
    return place / "plain", place / "packed"


def loaded(folder: Path, **options: Any) -> Any:
    from densor.integrations.diffusers import from_pretrained

    return from_pretrained(folder, tokenizer=None, safety_checker=None, **options)


def assert_same_weights(found: Any, wanted: Any) -> None:
    weights = found.state_dict()
    assert weights.keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        assert_same(weights[name], tensor)


def test_a_packed_pipeline_is_that_of_its_plain_folder(folders: tuple[Path, Path]) -> None:
    assert any("unet" in str(path) and "-of-" in path.name for path in all_weight_files(folders[1]))
    for options in ({}, {"torch_dtype": torch.bfloat16}):
        plain, packed = (loaded(folder, **options) for folder in folders)
        for name in ("unet", "vae", "text_encoder"):
            assert_same_weights(getattr(packed, name), getattr(plain, name))
    pictures = []
    for pipeline in (plain, packed):
        pipeline.set_progress_bar_config(disable=True)
        pictures.append(
            pipeline(
                prompt_embeds=torch.ones(1, 4, 32, dtype=torch.bfloat16),
                guidance_scale=1.0,
                num_inference_steps=2,
                height=16,
                width=16,
                output_type="pt",
                generator=torch.manual_seed(1),
            ).images
        )
    assert_same(pictures[1], pictures[0])


def test_it_is_saved_as_a_plain_one(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model = diffusers.UNet2DConditionModel
    from densor.integrations.diffusers import from_pretrained

    found = from_pretrained(folders[1] / "unet", pipeline_class=model)
    found.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text()
    assert_same_weights(model.from_pretrained(tmp_path / "saved"), found)
    assert not any(may_hold(path) for path in (tmp_path / "saved").glob("*.safetensors"))


def may_hold(path: Path) -> bool:
    return b'"densor"' in path.read_bytes()[:1000]


def test_the_original_comes_back_byte_for_byte(folders: tuple[Path, Path], tmp_path: Path) -> None:
    unpack_pipeline(folders[1], tmp_path / "back")
    files = {path.relative_to(folders[0]) for path in folders[0].rglob("*") if path.is_file()}
    back = tmp_path / "back"
    assert files == {path.relative_to(back) for path in back.rglob("*") if path.is_file()}
    for path in files:
        assert (back / path).read_bytes() == (folders[0] / path).read_bytes()
    with pytest.raises(FileError, match="packed"):
        unpack_pipeline(folders[0], tmp_path / "none")
    with pytest.raises(ArgumentError, match="base"):
        pack_pipeline(folders[0], tmp_path / "none", base=folders[0])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("fault", ["missing", "cut", "flipped", "exchanged"])
@pytest.mark.parametrize("model", ["unet", "text_encoder"])
def test_faults_name_the_file(
    folders: tuple[Path, Path], tmp_path: Path, fault: str, model: str
) -> None:
    shutil.copytree(folders[1], tmp_path / "bad")
    path = sorted((tmp_path / "bad" / model).glob("*.safetensors"))[-1]
    data = bytearray(path.read_bytes())
    if fault == "missing":
        if "-of-" not in path.name:
            pytest.skip("of one file alone nothing says that it is missing")
        path.unlink()
    elif fault == "exchanged":
        if "-of-" not in path.name:
            pytest.skip("there is no other file")
        shutil.copy(sorted(path.parent.glob("*.safetensors"))[0], path)
    elif fault == "cut":
        path.write_bytes(data[:-100])
    else:
        data[-100] ^= 1
        path.write_bytes(data)
    kind = ChecksumError if fault == "flipped" else DensorError
    with pytest.raises(kind, match=path.name):
        loaded(tmp_path / "bad")


def test_an_old_checkpoint_whose_tensors_are_named_anew(tmp_path: Path) -> None:
    from densor.integrations.diffusers import from_pretrained

    kind = diffusers.AutoencoderKL
    model = kind(block_out_channels=(64,), norm_num_groups=8).bfloat16()
    model.save_pretrained(tmp_path / "plain")
    path = next((tmp_path / "plain").glob("*.safetensors"))
    tensors = load_file(path)
    new = ("to_q.", "to_k.", "to_v.", "to_out.0.")
    for part, old in zip(new, ("query.", "key.", "value.", "proj_attn."), strict=True):
        tensors = {name.replace(part, old): tensor for name, tensor in tensors.items()}
    save_file(tensors, path, {"format": "pt"})
    pack_model(tmp_path / "plain", tmp_path / "packed")
    packed = load_file(tmp_path / "packed" / path.name)
    assert any("query" in name and may_be_blob(tensor) for name, tensor in packed.items())
    options = {"pipeline_class": kind, "torch_dtype": torch.bfloat16}
    assert_same_weights(from_pretrained(tmp_path / "packed", **options), model)


def test_a_file_that_changes_while_it_is_loaded(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from densor.integrations import diffusers as door

    shutil.copytree(folders[1] / "unet", tmp_path / "unet")
    path = min((tmp_path / "unet").glob("*.safetensors"))
    opened = door.PackedQuantizer.maybe_update_loaded_keys

    def exchange(quantizer: Any, *args: Any) -> Any:
        """Puts another file, in which blobs have one byte more, where the one stood."""
        found = opened(quantizer, *args)
        tensors = load_file(path)
        longer = {name: torch.cat((t, t[:1])) for name, t in tensors.items() if may_be_blob(t)}
        save_file(tensors | longer, tmp_path / "new", {"format": "pt"})
        (tmp_path / "new").replace(path)
        return found

    monkeypatch.setattr(door.PackedQuantizer, "maybe_update_loaded_keys", exchange)
    with pytest.raises(FileError, match=f"{path.name}: tensor .*: changed since it was opened"):
        door.from_pretrained(
            tmp_path / "unet",
            pipeline_class=diffusers.UNet2DConditionModel,
            ignore_mismatched_sizes=True,
        )
