"""What `densor.integrations.vllm` registers: a loader of packed weights and their "quantization".

Written for vLLM 0.32. The loader is vLLM's own where no file is packed.
"""

import contextlib
import copy
import time
from collections.abc import Iterator
from typing import Any

from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight

from densor.errors import ArgumentError
from densor.files import shards_listed
from densor.integrations import checkpoint
from densor.runtime.gc_pause import collection_paused

NAME = "densor"
_LOG_START = "counter_before_loading_weights"  # for what vLLM logs
_KEYS = ("threads", "base", "backend")  # of `model_loader_extra_config`
_BACKENDS = ("cpu", "cuda", "emulate")


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

    Takes three more keys in `model_loader_extra_config`: `threads` that decode (0, the default: all
    processors), `base`, the folder, or name on the Hub, of the model that weights were packed
    against, and `backend`, "cpu" (the default) or one of `densor.gpu` that decodes.
    `.safetensors.densor` archives are read where there are no safetensors files.
    """

    def __init__(self, load_config: Any) -> None:
        load_config = copy.copy(load_config)
        extra = load_config.model_loader_extra_config
        self._given: dict[str, Any] = {}
        if isinstance(extra, dict):
            self._given = {key: extra[key] for key in _KEYS if key in extra}
            rest = {key: value for key, value in extra.items() if key not in _KEYS}
            load_config.model_loader_extra_config = rest
        if load_config.load_format == NAME:
            load_config.load_format = "auto"
        _check(self._given)
        self._placing: Any = None
        super().__init__(load_config)

    def load_weights(self, model: Any, model_config: Any) -> None:
        """As vLLM does; packed weights are decoded in the parameters that they are copied to."""
        if not self._finds_packed(model_config):
            super().load_weights(model, model_config)
            return
        with collection_paused():  # looks at all that vLLM has imported
            from densor.torch.placed import placing

        with placing(self._given.get("threads", 0)) as self._placing:
            try:
                super().load_weights(model, model_config)
            finally:
                self._placing = None

    def _finds_packed(self, model_config: Any) -> bool:
        """Whether weights are packed, and the CPU decodes them."""
        if self._given.get("backend", checkpoint.CPU) != checkpoint.CPU:
            return False
        return model_config.quantization == NAME or checkpoint.has_packed(model_config.model)

    def _prepare_weights(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> Any:
        archives = checkpoint.archives_in(model_name_or_path)
        if archives:
            shards_listed.check_shards(model_name_or_path, ".densor")
            return model_name_or_path, [str(path) for path in archives], True, shards_listed.INDEX
        if checkpoint.is_packed_folder(model_name_or_path):  # before vLLM finds the fault
            shards_listed.check_shards(model_name_or_path)
        return super()._prepare_weights(model_name_or_path, *args, **kwargs)

    def _get_weights_iterator(self, source: Any) -> Iterator[tuple[str, Any]]:
        folder, files, use_safetensors, _ = self._prepare_weights(
            source.model_or_path,
            source.subfolder,
            source.revision,
            source.fall_back_to_pt,
            source.allow_patterns_overrides,
        )
        archives = bool(files) and files[0].endswith(checkpoint.ARCHIVE)
        packed = checkpoint.is_packed_folder(folder) or any(map(checkpoint.is_packed, files))
        if not use_safetensors or not (archives or packed):
            yield from super()._get_weights_iterator(source)
            return
        if not getattr(self, _LOG_START, 0.0):
            setattr(self, _LOG_START, time.perf_counter())
        shards_listed.check_shards(folder, ".densor" if archives else "")
        found = checkpoint.weights(
            files,
            base=self._given.get("base"),
            threads=self._given.get("threads", 0),
            backend=self._given.get("backend"),
            skip=self._skipped,
            placing=self._placing,
        )
        with _fewer_threads():
            for name, tensor in found:
                yield source.prefix + name, tensor

    def _skipped(self, name: str) -> bool:
        """Whether a tensor is of an expert that another rank has."""
        skipped: bool = should_skip_weight(name, self.local_expert_ids)
        return skipped


@contextlib.contextmanager
def _fewer_threads() -> Iterator[None]:
    """Copies on a quarter of torch's threads: the others decode, and torch's would spin for them.

    On two processors copying 1 GB took .25 s of processor time more with both.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // 4))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(given: dict[str, Any]) -> None:
    threads = given.get("threads", 0)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise ArgumentError(f"threads must be a number from 0 on, not {threads!r}")
    if not isinstance(given.get("base", ""), str):
        raise ArgumentError("base must be a folder or the name of a model")
    if given.get("backend", "cpu") not in _BACKENDS:
        raise ArgumentError(f"backend must be one of {', '.join(_BACKENDS)}")
