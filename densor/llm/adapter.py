"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685), added to the weights of a model.

What comes out is one number on every machine: the factors are rounded to whole numbers in units of
a power of two, whose product is exact in double precision in whatever order it is summed up; all
else is one rounding of IEEE 754 per operation.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.errors import UnsupportedError
from densor.llm.model import Floats, Weights

Tensors = Mapping[str, Callable[[], Floats]]  # what reads each, by its name in the file

_PREFIX = "base_model.model."  # that PEFT puts before the names of transformers
_FIRST, _SECOND = ".lora_A.weight", ".lora_B.weight"
_BITS = 15  # of a factor's numbers: products of 2^30 fit 53 bits up to any rank that is allowed
_MAX_RANK = 1 << 12
_OTHER_KINDS = (
    "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "lora_bias",
    "layer_replication", "target_parameters",
)  # fmt: skip


def adapted(get: Weights, names: set[str], config: dict[str, Any], tensors: Tensors) -> Weights:
    """`get`, of a model with tensors of these names, as an adapter changes it.

    `config`, `tensors`: what PEFT writes as adapter_config.json and adapter_model.safetensors.
    Tensors that are no factors replace those of the model. UnsupportedError for an adapter of
    another kind or another model.
    """
    strength = _strength(config)
    own = {name.removeprefix(_PREFIX): read for name, read in tensors.items()}
    firsts = {name.removesuffix(_FIRST) for name in own if name.endswith(_FIRST)}
    seconds = {name.removesuffix(_SECOND) for name in own if name.endswith(_SECOND)}
    if firsts != seconds:
        odd = min(firsts ^ seconds)
        raise UnsupportedError(f"adapter has but one factor of {odd}")
    whole = {name for name in own if not name.endswith((_FIRST, _SECOND))}
    unknown = (whole | {f"{name}.weight" for name in firsts}) - names
    if unknown:
        raise UnsupportedError(f"adapter changes {min(unknown)}, which its model has not")

    def changed(name: str) -> Floats | None:
        weights = get(name)
        if name in whole and weights is not None:
            return _replaced(name, weights, own[name]())
        part = name.removesuffix(".weight")
        if part not in firsts or weights is None:
            return weights
        first, second = own[part + _FIRST](), own[part + _SECOND]()
        rank = config["r"]
        if first.shape != (rank, *weights.shape[1:]) or second.shape != (*weights.shape[:1], rank):
            raise UnsupportedError(f"adapter has factors of {name} that do not fit")
        return _added(weights, first, second, strength)

    return changed


def _strength(config: dict[str, Any]) -> float:
    """What the product of two factors is multiplied by."""
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(f"adapter is of type {config.get('peft_type')!r}, not LORA")
    others = [name for name in _OTHER_KINDS if config.get(name)]
    if config.get("bias", "none") != "none":
        others.append("bias")
    if others:
        raise UnsupportedError(f"adapter has {others[0]}, which is not done")
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= _MAX_RANK:
        raise UnsupportedError(f"adapter has an impossible rank, {rank}")
    if type(alpha) not in (int, float) or not 0 < alpha < 1 << 20:
        raise UnsupportedError(f"adapter has an impossible lora_alpha, {alpha}")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _replaced(name: str, weights: Floats, by: Floats) -> Floats:
    if weights.shape != by.shape:
        raise UnsupportedError(f"adapter has another shape of {name}")
    return by


def _added(weights: Floats, first: Floats, second: Floats, strength: float) -> Floats:
    """The weights, float32[outputs, inputs], with the product of two factors."""
    a, a_places = _integers(first)
    b, b_places = _integers(second)
    change = np.ldexp(b @ a, -(a_places + b_places)) * strength
    with np.errstate(over="ignore"):  # what is not finite is refused later
        return (weights.astype(np.float64) + change).astype(np.float32)


def _integers(values: Floats) -> tuple[npt.NDArray[np.float64], int]:
    """Whole numbers of at most 2^15, and the binary places of their unit."""
    if not np.isfinite(values).all():
        raise UnsupportedError("adapter has numbers that are not finite")
    _, top = np.frexp(np.abs(values).max(initial=0.0))
    places = _BITS - int(top)
    return np.rint(np.ldexp(values.astype(np.float64), places)), places
