"""Nodes of ComfyUI that load packed safetensors files, and plain ones.

A folder in ComfyUI's `custom_nodes` with this `__init__.py` makes them known:

    from densor.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

Folders of `densor hf-pack` go below `models/checkpoints`, `models/diffusion_models` or
`models/vae`; a shard stands for all of them. Weights are plain after loading. ComfyUI itself is
imported when a node is used.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

from densor.files.packed_model import Bases, check_packed
from densor.files.shards_listed import check_shards, shards_of
from densor.formats.packed.reader import PackedFile
from densor.torch.blob import read_tensor

_CATEGORY = "loaders/densor"
_Inputs = dict[str, dict[str, Any]]


def state_dict(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Names and tensors of a safetensors file, packed or plain, or of all shards that it is of.

    A DensorError names file and tensor.
    """
    path = Path(path)
    shards = shards_of(path.parent)
    if path.name in shards:
        check_shards(path.parent)
    names = list(shards) if path.name in shards else [path.name]
    bases = Bases(path.parent)
    files = [check_packed(PackedFile(path.parent / name)) for name in names]
    return {name: read_tensor(file, name, base_of=bases.need) for file in files for name in file}


def _names(kind: str) -> _Inputs:
    import folder_paths

    return {"required": {"name": (folder_paths.get_filename_list(kind),)}}


def _read(kind: str, name: str) -> dict[str, Any]:
    import folder_paths

    return state_dict(folder_paths.get_full_path_or_raise(kind, name))


class CheckpointLoader:
    """A model, its text encoder and its VAE, from one checkpoint."""

    RETURN_TYPES: ClassVar = ("MODEL", "CLIP", "VAE")
    FUNCTION: ClassVar = "load"
    CATEGORY: ClassVar = _CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> _Inputs:
        """What can be chosen."""
        return _names("checkpoints")

    def load(self, name: str) -> tuple[Any, ...]:
        """What ComfyUI makes of the weights."""
        import comfy.sd
        import folder_paths

        found = comfy.sd.load_state_dict_guess_config(
            _read("checkpoints", name),
            output_vae=True,
            output_clip=True,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
        )
        return tuple(found[:3])


class DiffusionModelLoader:
    """A diffusion model alone."""

    RETURN_TYPES: ClassVar = ("MODEL",)
    FUNCTION: ClassVar = "load"
    CATEGORY: ClassVar = _CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> _Inputs:
        """What can be chosen."""
        return _names("diffusion_models")

    def load(self, name: str) -> tuple[Any, ...]:
        """What ComfyUI makes of the weights."""
        import comfy.sd

        return (comfy.sd.load_diffusion_model_state_dict(_read("diffusion_models", name)),)


class VaeLoader:
    """A VAE alone."""

    RETURN_TYPES: ClassVar = ("VAE",)
    FUNCTION: ClassVar = "load"
    CATEGORY: ClassVar = _CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> _Inputs:
        """What can be chosen."""
        return _names("vae")

    def load(self, name: str) -> tuple[Any, ...]:
        """What ComfyUI makes of the weights."""
        import comfy.sd

        return (comfy.sd.VAE(sd=_read("vae", name)),)


NODE_CLASS_MAPPINGS = {
    "DensorCheckpointLoader": CheckpointLoader,
    "DensorDiffusionModelLoader": DiffusionModelLoader,
    "DensorVaeLoader": VaeLoader,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DensorCheckpointLoader": "Load packed checkpoint",
    "DensorDiffusionModelLoader": "Load packed diffusion model",
    "DensorVaeLoader": "Load packed VAE",
}
