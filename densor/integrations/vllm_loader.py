"""What `densor.integrations.vllm` registers: a loader of packed weights and their "quantization".

Written for vLLM 0.32. The loader is vLLM's own where no file is packed.
"""

import copy
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

from densor.errors import FileError
from densor.files import shards_listed
from densor.integrations import checkpoint, engines

NAME = "densor"
_LOG_START = "counter_before_loading_weights"  # for what vLLM logs


class DensorConfig(QuantizationConfig):  # type: ignore[misc]
    """`quantization_config` of a folder of `hf-pack`: weights are decoded when they are loaded, and
    layers are those of a model that is not quantised."""

    def get_name(self) -> str:
        """The name of the method."""
        return NAME

    def get_supported_act_dtypes(self) -> list[Any]:
        """Types of activations: all that vLLM has."""
        import torch

        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """Any GPU will do."""
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Everything is in config.json."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DensorConfig":
        """The method; the version of the layout is checked when files are read."""
        return cls()

    def get_quant_method(self, layer: Any, prefix: str) -> Any:
        """What vLLM does with layers of plain models; None where that is its default anyway."""
        if isinstance(layer, LinearBase):
            return UnquantizedLinearMethod()
        if isinstance(layer, RoutedExperts):
            return UnquantizedFusedMoEMethod(layer.moe_config)
        return None


class DensorModelLoader(DefaultModelLoader):  # type: ignore[misc]
    """vLLM's loader of folders of safetensors files, with packed ones decoded as they come.

    Takes three more keys in `model_loader_extra_config`, those of `densor.integrations.engines`.
    `.safetensors.densor` archives are read where there are no safetensors files.
    """

    def __init__(self, load_config: Any) -> None:
        load_config = copy.copy(load_config)
        self._given, rest = engines.chosen(load_config.model_loader_extra_config)
        load_config.model_loader_extra_config = rest
        if load_config.load_format == NAME:
            load_config.load_format = "auto"
        self._placing: Any = None
        self._as_plain: str | None = None  # a model whose layers are those of the plain one
        self.enable_weights_track: bool | None = None  # which vLLM's class sets, too
        super().__init__(load_config)

    def load_weights(self, model: Any, model_config: Any) -> None:
        """As vLLM does; packed weights are decoded in the parameters that they are copied to."""
        if model_config.quantization != NAME and not checkpoint.has_packed(model_config.model):
            super().load_weights(model, model_config)
            return
        if model_config.quantization == NAME:
            self._as_plain = model_config.model
            if self.enable_weights_track is None:
                self.enable_weights_track = True
        with engines.placing(self._given) as self._placing:
            try:
                super().load_weights(model, model_config)
            finally:
                self._placing = self._as_plain = None

    def track_weights_loading(
        self, model: Any, loaded_weights: Any, quantized: bool = False
    ) -> None:
        """FileError unless all weights came that vLLM awaits of a plain model.

        Otherwise it looks at those alone whose `quantization` is None, and others keep what was in
        their memory before.
        """
        if self._as_plain is None:
            super().track_weights_loading(model, loaded_weights, quantized)
            return
        try:
            super().track_weights_loading(model, loaded_weights, False)
        except ValueError as error:
            raise FileError(f"{self._as_plain}: {error}") from error

    def _prepare_weights(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        archives = engines.archives_of(model_name_or_path)
        if archives:
            return model_name_or_path, archives, True, shards_listed.INDEX
        return super()._prepare_weights(model_name_or_path, *args, **kwargs)

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        """As vLLM does, with files opened at once: when it loads again, what is missing or was cut
        off is found while the weights that it has are still there."""
        coming = super().get_all_weights(model_config, model)
        return chain(list(islice(coming, 1)), coming)

    def _get_weights_iterator(self, source: Any) -> Iterator[tuple[str, Any]]:
        folder, files, use_safetensors, index = self._prepare_weights(
            source.model_or_path,
            source.subfolder,
            source.revision,
            source.fall_back_to_pt,
            source.allow_patterns_overrides,
        )
        if not use_safetensors or not engines.are_packed(folder, files):
            yield from super()._get_weights_iterator(source)
            return
        if not getattr(self, _LOG_START, 0.0):
            setattr(self, _LOG_START, time.perf_counter())
        files = self._without_language_model(folder, files, index)
        placing = self._placing or engines.at_once(self._given)  # that is for loading once more
        found = engines.weights(folder, files, self._given, self._unwanted(source), placing)
        for name, tensor in found:
            yield source.prefix + name, tensor

    def _without_language_model(self, folder: str, files: list[str], index: str) -> list[str]:
        """The files that vLLM reads, which are fewer where it serves an encoder alone."""
        prefixes = getattr(self, "_encoder_only_lm_prefixes", None)
        if prefixes is None:
            return files
        from vllm.model_executor.model_loader import weight_utils

        mapper = self._encoder_only_weights_mapper
        wanted: list[str] = weight_utils.filter_mm_encoder_only_safetensors_files(
            files, folder, index, prefixes, weights_mapper=mapper
        )
        return wanted

    def _unwanted(self, source: Any) -> Callable[[str], bool]:
        """Whether a tensor is one that the model says it does not use, such as all but the last
        layers for a draft model, or is of an expert that another rank has."""
        is_unused = getattr(source, "is_unused_weight", None)

        def unwanted(name: str) -> bool:
            unused = is_unused is not None and is_unused(name)
            return bool(unused or should_skip_weight(name, self.local_expert_ids))

        return unwanted
