"""A model loader for vLLM: `LLM(folder, load_format="densor", ...)` reads packed weights.

vLLM calls `register` by its entry point "vllm.general_plugins". Written against the sources of vLLM
and not run with it: see docs/huggingface.md.
"""

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from densor.files.model_folder import Bases
from densor.torch.blob import decoded

_NAME = "densor"


def register() -> None:
    """Registers the load format "densor" with vLLM."""
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    class DensorModelLoader(DefaultModelLoader):  # type: ignore[misc]
        """vLLM's loader of safetensors files, with blobs decoded as they come."""

        def __init__(self, load_config: Any) -> None:
            load_config = copy.copy(load_config)
            load_config.load_format = "safetensors"
            super().__init__(load_config)

        def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
            yield from unpacked(super().get_all_weights(model_config, model), model_config.model)

    register_model_loader(_NAME)(DensorModelLoader)


def unpacked(weights: Iterable[tuple[str, Any]], folder: str) -> Iterator[tuple[str, Any]]:
    """Names and tensors with every blob decoded; `folder`: the model's, to find its base."""
    bases = Bases(Path(folder))
    for name, tensor in weights:
        yield name, decoded(tensor, name, base_of=bases.need)
