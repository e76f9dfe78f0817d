"""SGLang serves packed models: `sglang serve --model-path packed` needs no flags.

SGLang calls `register` by its entry point "sglang.srt.plugins" in each of its processes. What it
registers are hooks on functions of SGLang, which do what those do where nothing is packed. Nothing
heavy is imported before packed weights are read. Written for SGLang 0.5.23; `docs/serving.md` says
what was run.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from itertools import chain, islice
from typing import Any

from densor.errors import UnsupportedError
from densor.integrations import checkpoint, engines

_CONFIG = "sglang.srt.utils.hf_transformers.config.get_config"
_LOADER = "sglang.srt.model_loader.loader"
_INDEX = "model.safetensors.index.json"
_stack: ContextVar[contextlib.ExitStack | None] = ContextVar("densor_stack", default=None)


def register() -> None:
    """Has SGLang take packed models for plain ones, and decode their weights as they come.

    UnsupportedError where SGLang is not as it was in 0.5.23; packed models are unknown to it then.
    """
    from sglang.srt.model_loader import loader
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType
    from sglang.srt.utils.hf_transformers import config

    hooks = {
        "_validate_default_loader_extra_config": _without_ours,
        "DefaultModelLoader._prepare_weights": _prepared,
        "DefaultModelLoader._get_weights_iterator": _weights,
        "DefaultModelLoader.load_weights_only": _loaded,
    }
    default = getattr(loader, "DefaultModelLoader", None)
    for name in hooks:
        holder = default if "." in name else loader
        if not hasattr(holder, name.rpartition(".")[2]):
            raise UnsupportedError(f"SGLang has no {_LOADER}.{name}, which 0.5.23 has")
    if not hasattr(config, "get_config"):
        raise UnsupportedError(f"SGLang has no {_CONFIG}, which 0.5.23 has")
    for name, hook in hooks.items():
        HookRegistry.register(f"{_LOADER}.{name}", hook, HookType.AROUND)
    HookRegistry.register(_CONFIG, _plain_config, HookType.AFTER)


def _plain_config(config: Any, *args: Any, **kwargs: Any) -> None:
    """Makes the configuration of a packed model that of the plain one: its layers are the same."""
    if checkpoint.is_packed_config(getattr(config, "quantization_config", None)):
        del config.quantization_config


def _without_ours(original: Callable[..., None], *, extra_config: Any, **kwargs: Any) -> None:
    """Looks at the keys of `--model-loader-extra-config` that concern Densor, SGLang at others."""
    original(extra_config=engines.chosen(extra_config)[1], **kwargs)


def _prepared(original: Callable[..., Any], loader: Any, model: str, *args: Any, **kw: Any) -> Any:
    """Folder, files and whether they are safetensors files, for archives as for those."""
    archives = engines.archives_of(model)
    return (model, archives, True) if archives else original(loader, model, *args, **kw)


def _weights(
    original: Callable[..., Iterable[tuple[str, Any]]],
    loader: Any,
    source: Any,
    *,
    resolved_source: Any = None,
    **kwargs: Any,
) -> Iterator[tuple[str, Any]]:
    """Names and tensors of a model's files, packed or not."""
    resolved = resolved_source or _resolved(loader, source)
    folder, files = resolved.hf_folder, list(resolved.weight_files)
    if not resolved.use_safetensors or not engines.are_packed(folder, files):
        yield from original(loader, source, resolved_source=resolved, **kwargs)
        return
    if not loader.counter_before_loading_weights:
        loader.counter_before_loading_weights = time.perf_counter()
    given, _ = engines.chosen(loader.load_config.model_loader_extra_config)
    stack = _stack.get()
    placing = None if stack is None else stack.enter_context(engines.placing(given))
    found = engines.weights(folder, files, given, placing=placing)
    number = loader.load_config.draft_model_idx
    if number is not None:
        yield from loader._filter_mtp_weights(found, source.prefix, number)
        return
    for name, tensor in found:
        yield source.prefix + name, tensor


def _resolved(loader: Any, source: Any) -> Any:
    """The files of a source, as SGLang finds them when it has not done so before."""
    from sglang.srt.model_loader.loader import maybe_add_mtp_safetensors

    folder, files, use_safetensors = loader._prepare_weights(
        source.model_or_path,
        source.revision,
        source.fall_back_to_pt,
        source.allow_patterns_overrides,
    )
    if use_safetensors and source.model_config is not None:
        config = source.model_config.hf_config
        files = maybe_add_mtp_safetensors(files, folder, _INDEX, config)
    return loader.ResolvedSource(source, folder, tuple(files), use_safetensors)


def _loaded(
    original: Callable[..., None], model: Any, weights: Iterable[tuple[str, Any]], *args: Any
) -> None:
    """Loads weights into a model; packed ones are decoded in the parameters they are copied to.

    That begins with the first of them, before SGLang is in contexts of its own.
    """
    with contextlib.ExitStack() as stack:
        coming = iter(weights)
        token = _stack.set(stack)
        try:
            first = list(islice(coming, 1))
        finally:
            _stack.reset(token)
        original(model, chain(first, coming), *args)
