"""The weights of a model or state dict, and new ones in their place."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from densor.errors import ArgumentError
from densor.lossy.feedback import Inputs
from densor.lossy.layers import Weights
from densor.lossy.scalar import Floats

_FLOATS = ("float16", "float32", "float64", "bfloat16")
_MIN_WEIGHTS = 256  # of a layer that is worth it


def state_of(model: Any) -> dict[str, Any]:
    """The tensors of a torch module, or of a mapping of them; ArgumentError for anything else."""
    found = model.state_dict() if hasattr(model, "state_dict") else model
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ArgumentError("a model is a torch module, or tensors by name")
    state = dict(found)
    for name, tensor in state.items():
        if not hasattr(tensor, "dtype") or not hasattr(tensor, "shape"):
            raise ArgumentError(f"{name}: this is no tensor or array")
    return state


def layers_of(
    state: Mapping[str, Any], keep: Callable[[str], bool], inputs: Mapping[str, Inputs]
) -> list[Weights]:
    """The layers that may be replaced: floats of at least two dimensions; `inputs`: what is known.

    ArgumentError for one that has infinite weights, or such as are no numbers.
    """
    found = []
    for name, tensor in state.items():
        if type_of(tensor) not in _FLOATS:
            continue
        values = _as_float32(tensor)
        if not np.isfinite(values).all():
            raise ArgumentError(f"{name}: has weights that are infinite or no numbers")
        if values.ndim >= 2 and values.size >= _MIN_WEIGHTS and not keep(name):
            known = inputs.get(name)
            known = known if known is not None and known.usable else None
            found.append(Weights(name, values, tensor, _like(tensor), known))
    return found


def type_of(tensor: Any) -> str:
    """The element type of a tensor or array by its name."""
    return str(tensor.dtype).removeprefix("torch.")


def bytes_of(state: Mapping[str, Any]) -> int:
    """Bytes of all tensors as they are."""
    return sum(int(tensor.nbytes) for tensor in state.values())


def metadata_of(state: Mapping[str, Any]) -> dict[str, str]:
    """What readers of safetensors files want to find in the metadata: the format pt for torch."""
    return {"format": "pt"} if any(hasattr(t, "detach") for t in state.values()) else {}


def _as_float32(tensor: Any) -> Floats:
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().float().cpu().numpy()
    with np.errstate(over="ignore"):  # what float32 has no number for is infinite, and refused
        return np.ascontiguousarray(tensor, np.float32).reshape(tuple(tensor.shape))


def _like(tensor: Any) -> Callable[[Floats], Any]:
    """What makes a tensor of the same kind and type from new values."""
    if hasattr(tensor, "detach"):
        import torch

        return lambda values: torch.from_numpy(values).to(tensor.dtype)
    return lambda values: values.astype(tensor.dtype)


@contextlib.contextmanager
def replaced(model: Any, state: Mapping[str, Any]) -> Iterator[Any]:
    """A module with these weights for a while, or just these weights where there is no module."""
    if not hasattr(model, "load_state_dict"):
        yield dict(state)
        return
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        model.load_state_dict(dict(state))
        yield model
    finally:
        model.load_state_dict(before)


@contextlib.contextmanager
def watched(model: Any) -> Iterator[dict[str, Inputs]]:
    """Collects what goes into linear layers and convolutions of a module, by names of weights."""
    found: dict[str, Inputs] = {}
    if not hasattr(model, "named_modules"):
        yield found
        return
    from torch import nn

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            seen = found[f"{name}.weight" if name else "weight"] = Inputs(module.weight[0].numel())
            handles.append(module.register_forward_pre_hook(_collector(seen)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _collector(seen: Inputs) -> Callable[[Any, Any], None]:
    def collect(module: Any, given: Any) -> None:
        from torch import nn

        rows = given[0].detach().float()
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
            if isinstance(module.padding, str):
                return
            rows = nn.functional.unfold(
                rows.reshape(-1, *rows.shape[-3:]),
                module.kernel_size,
                module.dilation,
                module.padding,
                module.stride,
            ).transpose(1, 2)
        elif isinstance(module, nn.Conv2d):
            return
        seen.add(rows.reshape(-1, rows.shape[-1]).cpu().numpy())

    return collect
