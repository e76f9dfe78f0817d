"""The weights of a model or state dict, and new ones in their place."""

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np

from densor import arrays
from densor.errors import ArgumentError
from densor.lossy.feedback import Inputs
from densor.lossy.layers import Weights, as_float32
from densor.lossy.scalar import Floats

_FLOATS = ("float16", "float32", "float64", "bfloat16")
_MIN_WEIGHTS = 256  # of a layer that is worth it


class Tensors(dict[str, Any]):
    """Tensors by name, of a file that has metadata."""

    def __init__(self, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata)


def state_of(model: Any) -> dict[str, Any]:
    """The tensors of a torch module, or of a mapping of them; ArgumentError for anything else."""
    found = model.state_dict() if hasattr(model, "state_dict") else model
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ArgumentError("a model is a torch module, or tensors by name")
    state = dict(found)
    for name, tensor in state.items():
        try:
            whole = hasattr(tensor, "dtype") and hasattr(tensor, "shape")
        except RuntimeError:  # of torch, of parameters that have no shape yet
            whole = False
        if not whole:
            raise ArgumentError(f"{name}: this is no tensor or array")
        arrays.check_whole(tensor)
    return state


def layers_of(
    state: Mapping[str, Any], keep: Callable[[str], bool], inputs: Mapping[str, Inputs]
) -> list[Weights]:
    """The layers that may be replaced: floats of at least two dimensions; `inputs`: what is known.

    What stands under several names is one layer. ArgumentError for one that has infinite weights,
    or such as are no numbers.
    """
    found = []
    for names in _tied(state):
        name, tensor = names[0], state[names[0]]
        large = len(tensor.shape) >= 2 and math.prod(tensor.shape) >= _MIN_WEIGHTS
        if type_of(tensor) not in _FLOATS or not large or any(map(keep, names)):
            continue
        values = as_float32(tensor)
        if not np.isfinite(values).all():
            raise ArgumentError(f"{name}: has weights that are infinite or no numbers")
        if values.any() or not (tensor != 0).any():  # else FP32 has no numbers for them
            known = next((inputs[n] for n in names if n in inputs and inputs[n].usable), None)
            found.append(Weights(names, values, tensor, _like(tensor), known))
    return found


def _tied(state: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Names of the tensors, those of one tensor together."""
    found: dict[Hashable, list[str]] = {}
    for name, tensor in state.items():
        found.setdefault(_place(name, tensor), []).append(name)
    return [tuple(names) for names in found.values()]


def _place(name: str, tensor: Any) -> Hashable:
    """What tells a tensor from others: where it lies, and how; of an empty one its name."""
    if not math.prod(tensor.shape):
        return name
    shape = type_of(tensor), tuple(tensor.shape)
    if arrays.is_torch(tensor):
        return tensor.device, tensor.data_ptr(), tensor.stride(), shape
    about = np.asarray(tensor).__array_interface__
    return about["data"][0], np.asarray(tensor).strides, shape


def type_of(tensor: Any) -> str:
    """The element type of a tensor or array by its name."""
    return str(tensor.dtype).removeprefix("torch.")


def bytes_of(state: Mapping[str, Any]) -> int:
    """Bytes of all tensors as they are, each counted once."""
    return sum(int(state[names[0]].nbytes) for names in _tied(state))


def metadata_of(model: Any, state: Mapping[str, Any]) -> dict[str, str]:
    """That of the file, and what readers of such files want to find: the format pt for torch."""
    own = {"format": "pt"} if any(map(arrays.is_torch, state.values())) else {}
    return own | (model.metadata if isinstance(model, Tensors) else {})


def _like(tensor: Any) -> Callable[[Floats], Any]:
    """What makes a tensor of the same kind and type from new values, maybe infinite ones."""
    if arrays.is_torch(tensor):
        import torch

        return lambda values: torch.from_numpy(values).to(tensor)

    def cast(values: Floats) -> Any:
        with np.errstate(over="ignore"):
            return values.astype(tensor.dtype)

    return cast


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
        try:
            model.load_state_dict(before)
        except RuntimeError as error:
            text = "calibrate has changed which weights the model has, or their shapes"
            raise ArgumentError(text) from error


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
            seen = Inputs(math.prod(module.weight.shape[1:]))
            found[f"{name}.weight" if name else "weight"] = seen
            handles.append(module.register_forward_pre_hook(_collector(seen)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _collector(seen: Inputs) -> Callable[[Any, Any], None]:
    def collect(module: Any, given: Any) -> None:
        from torch import nn

        if not given:  # named arguments are not seen
            return
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
