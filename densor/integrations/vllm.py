"""vLLM loads packed models: `LLM("packed")` and `vllm serve packed` need no flags.

vLLM calls `register` by its entry point "vllm.general_plugins" whenever it starts, for plain models
too, so that nothing heavy is imported before packed weights are read: vLLM 0.32 inspects all
modules that are loaded, and fails where numba is among them. `docs/serving.md` says what was run.
"""

import contextlib
import logging

NAME = "densor"
_REPLACED = ("auto", "hf", "safetensors")  # load formats that meet packed files


def register() -> None:
    """Makes vLLM know a quantization method, a load format and a weight transfer named "densor".

    Twice is as once.
    """
    from vllm.model_executor.layers.quantization import register_quantization_config
    from vllm.model_executor.model_loader import register_model_loader

    from densor.integrations.vllm_loader import DensorConfig, DensorModelLoader

    logger = logging.getLogger("vllm.model_executor.model_loader")
    level = logger.level
    logger.setLevel(logging.ERROR)  # which would warn that formats of its own are replaced
    try:
        register_quantization_config(NAME)(DensorConfig)
        for load_format in (NAME, *_REPLACED):
            register_model_loader(load_format)(DensorModelLoader)
    finally:
        logger.setLevel(level)
    _register_transfer()


def _register_transfer() -> None:
    """Makes the weight transfer know a backend "densor", where vLLM has one."""
    try:
        from vllm.distributed.weight_transfer import WeightTransferEngineFactory
    except ImportError:  # before 0.32 or thereabouts
        return
    with contextlib.suppress(ValueError):  # is registered already
        WeightTransferEngineFactory.register_engine(
            NAME, "densor.integrations.vllm_weights", "DensorTransferEngine"
        )
