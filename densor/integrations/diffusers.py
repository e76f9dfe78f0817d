"""diffusers loads packed models and pipelines once this module has been imported.

    import densor.integrations.diffusers
    pipeline = DiffusionPipeline.from_pretrained("packed")

Importing registers the quantization method "densor" with diffusers, in the tables that it has of
methods, and with transformers, which loads the text encoders. Loaded models are plain ones.
`densor hf-pack` makes the folders, of a pipeline or of one of its models.
"""

import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

from densor.errors import FileError, UnsupportedError

try:
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.configuration_utils import FrozenDict
    from diffusers.quantizers.auto import (
        AUTO_QUANTIZATION_CONFIG_MAPPING,
        AUTO_QUANTIZER_MAPPING,
    )
    from diffusers.quantizers.base import DiffusersQuantizer

    from densor.hf.loader import DensorConfig, failures_noted, failures_raised
except ImportError as error:
    raise UnsupportedError(
        f'needs diffusers and transformers: pip install diffusers "densor[hf]" ({error})'
    ) from error

from densor.files.packed_model import METHOD, Bases, check_packed, weight_files
from densor.files.pipeline_folder import is_pipeline, models_of
from densor.files.shards_listed import check_shards
from densor.formats.container import tensor_blob
from densor.formats.packed.reader import PackedFile
from densor.torch.blob import may_be_blob, read_tensor

_CONFIG = "quantization_config"


class _Method(StrEnum):
    """The name of the method, which diffusers asks for its `value`."""

    DENSOR = METHOD


class PackedConfig(DensorConfig):
    """`quantization_config` of a packed model of diffusers."""

    def __init__(self, **about: Any) -> None:
        super().__init__(**about)
        self.quant_method = _Method.DENSOR


class PackedQuantizer(DiffusersQuantizer):  # type: ignore[misc]
    """Decodes the tensors of each file of a model as it is read; the model is a plain one then."""

    use_keep_in_fp32_modules = True  # as for plain weights
    is_serializable = True
    is_trainable = True
    supports_parallel_loading = False  # several threads decode each tensor

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized:
            raise UnsupportedError("densor packs folders, not models that are loaded: hf-pack")
        self._files: list[PackedFile] = []
        self._bases: Bases | None = None

    def maybe_update_loaded_keys(
        self, loaded_keys: list[str], checkpoint_files: Iterable[str]
    ) -> list[str]:
        """The same; opens the files, and looks at all blobs before any is decoded."""
        for path in map(Path, checkpoint_files):
            if path.suffix == ".safetensors":
                file = check_packed(PackedFile(path))
                for name in file:
                    file.describe(name)
                self._files.append(file)
                self._bases = self._bases or Bases(path.parent)
        return loaded_keys

    def maybe_update_state_dict(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The tensors of a file, decoded where they are blobs."""
        with failures_noted():
            return {name: self._decoded(name, tensor) for name, tensor in state_dict.items()}

    def _decoded(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if may_be_blob(tensor) and not any(name in file for file in self._files):
            # Named anew by diffusers, as those of attention in old checkpoints are
            name = tensor_blob.describe(tensor.detach().cpu().numpy()).name
        packed = [file for file in self._files if name in file and file.is_blob(name)]
        for file in packed if may_be_blob(tensor) else ():
            if file.stored(name).size == tensor.numel():
                base_of = None if self._bases is None else self._bases.need
                return read_tensor(file, name, base_of=base_of).to(tensor.device)
        if packed and tuple(tensor.shape) != tuple(packed[0].info(name).shape):
            # else diffusers would take what is stored for weights, or leave them random
            raise FileError(f"{packed[0].path}: tensor {name!r:.200}: changed since it was opened")
        return tensor

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Makes it a plain model, which is saved as one."""
        kept = {name: value for name, value in model.config.items() if name != _CONFIG}
        model._internal_dict = FrozenDict(kept)
        model.is_quantized = False
        return model

    def get_cuda_warm_up_factor(self) -> int:
        """As for plain weights."""
        return 2


def from_pretrained(folder: Any, *args: Any, pipeline_class: Any = None, **kwargs: Any) -> Any:
    """A pipeline or a model of diffusers, packed or plain, as its class's `from_pretrained` does.

    `pipeline_class`: of the pipeline or the model; by default diffusers finds that of a pipeline.
    Faults of packed weights in a folder are found before anything is loaded as far as headers tell,
    and raised as the DensorError that they are, which names file and tensor.
    """
    if isinstance(folder, str | os.PathLike) and os.path.isdir(folder):
        check_folder(Path(folder) / (kwargs.get("subfolder") or ""))
    with failures_raised():
        return (pipeline_class or DiffusionPipeline).from_pretrained(folder, *args, **kwargs)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """A DensorError where a file of weights is missing, was cut off or is no safetensors file."""
    for model in models_of(folder) if is_pipeline(folder) else [Path(folder)]:
        check_shards(model)
        for path in weight_files(model):
            check_packed(PackedFile(path))


def register() -> None:
    """Makes diffusers know "densor"; does nothing where it does already."""
    AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(METHOD, PackedConfig)
    AUTO_QUANTIZER_MAPPING.setdefault(METHOD, PackedQuantizer)


register()

__all__ = ["check_folder", "from_pretrained", "register"]
