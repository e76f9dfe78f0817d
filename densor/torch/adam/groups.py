"""What an optimizer's state has of Adam's moments: groups of parameters, and their bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash

from densor.codec.adam import scaled
from densor.codec.adam.replay import Words
from densor.codec.adam.scaled import Halves
from densor.errors import ArgumentError, FormatError

_JOINED = 1 << 15  # elements below which parameters are coded together
MOMENTS = _M, _V = "exp_avg", "exp_avg_sq"
BETAS = 0.9, 0.999  # where a state does not tell

State = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Parameters that are coded together: their keys, shapes and betas."""

    keys: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    betas: tuple[float, float]

    @property
    def size(self) -> int:
        """Elements."""
        return sum(count_of(shape) for shape in self.shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        """By which they are coded."""
        return self.shapes[0] if len(self.shapes) == 1 else (self.size,)


def count_of(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def slots_of(state: State) -> Mapping[Any, Any]:
    slots = state.get("state") if isinstance(state, dict) else None
    if not isinstance(slots, dict):
        raise ArgumentError("is no state of an optimizer: has no `state`")
    return slots


def is_coded(slot: Any) -> bool:
    """Whether a parameter's state has moments that are coded here."""
    if not isinstance(slot, dict):
        return False
    m, v = slot.get(_M), slot.get(_V)
    return _is_plain(m) and _is_plain(v) and shape_of(slot) == tuple(slot[_V].shape)


def _is_plain(tensor: Any) -> bool:
    if type(tensor) is not torch.Tensor or tensor.is_nested:
        return False
    form = tensor.dtype, tensor.layout, tensor.device.type
    if form != (torch.float32, torch.strided, "cpu"):
        return False
    return tensor.is_contiguous() and not tensor.is_neg()  # whose memory holds other numbers


def shape_of(slot: Any) -> tuple[int, ...]:
    """Of the moments of a parameter."""
    return tuple(slot[_M].shape)


def groups_of(state: State, before: State | None) -> list[Group]:
    """Parameters with moments, small ones of the same betas together."""
    betas = _betas(state)
    slots = slots_of(state)
    groups: list[Group] = []
    small: dict[tuple[float, float], list[Any]] = {}
    for key, slot in slots.items():
        if not isinstance(key, int | str) or not is_coded(slot):
            continue
        if before is not None:
            other: Any = slots_of(before).get(key)
            if not is_coded(other) or other[_M].shape != slot[_M].shape:
                raise ArgumentError(f"state before has no moments like those of {key!r:.200}")
        own = betas.get(key, BETAS)
        if slot[_M].numel() < _JOINED:
            small.setdefault(own, []).append(key)
        else:
            groups.append(Group((key,), (shape_of(slot),), own))
    for own, keys in small.items():
        shapes = tuple(shape_of(slots[key]) for key in keys)
        groups.append(Group(tuple(keys), shapes, own))
    return groups


def _betas(state: State) -> dict[Any, tuple[float, float]]:
    found: dict[Any, tuple[float, float]] = {}
    for group in state.get("param_groups") or ():
        own = betas_of(group.get("betas")) if isinstance(group, dict) else None
        if own is not None:
            found.update(dict.fromkeys(group.get("params", ()), own))
    return found


def betas_of(value: Any) -> tuple[float, float] | None:
    """Both betas, of what a state has under that name; None where these are not Adam's."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return None
    try:
        first, second = float(value[0]), float(value[1])
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last one of tensors
        return None
    return (first, second) if 0 <= first < 1 and 0 <= second < 1 else None


def is_one_step(state: State, before: State, group: Group) -> bool:
    """Whether a group is one step after `before`, as far as the numbers of steps tell."""
    slots = [slots_of(one) for one in (before, state)]
    return all(is_next(*(one[key].get("step") for one in slots)) for key in group.keys)


def is_next(before: Any, after: Any) -> bool:
    """Whether a number of steps follows another, or either is not known."""
    numbers = [_number(step) for step in (before, after)]
    return None in numbers or numbers[0] + 1 == numbers[1]


def _number(step: Any) -> Any:
    if isinstance(step, torch.Tensor):
        return step.item() if step.numel() == 1 else None
    return step if isinstance(step, int | float) else None


def flat(state: State, group: Group) -> tuple[Words, Words]:
    """Bits of m and v of a group."""
    slots = slots_of(state)

    def joined(which: str) -> Words:
        parts = [slots[key][which].detach().reshape(-1).numpy() for key in group.keys]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        found: Words = whole.view(np.uint32)
        return found

    return joined(_M), joined(_V)


def flat_gradients(
    gradients: Mapping[Any, torch.Tensor], group: Group
) -> tuple[Halves, np.float32 | None] | None:
    """Gradients in BF16 and their factor, None where it is not known; None if there are none."""
    parts = []
    for key, shape in zip(group.keys, group.shapes, strict=True):
        part = gradients.get(key)
        if part is None or tuple(part.shape) != shape:
            return None
        parts.append(part.detach().cpu().reshape(-1))
    if len({part.dtype for part in parts}) > 1:
        return None
    whole = torch.cat(parts)
    if whole.dtype == torch.bfloat16:
        return whole.view(torch.int16).numpy().view(np.uint16), None
    return scaled.split(whole.numpy()) if whole.dtype == torch.float32 else None


def put(state: State, group: Group, m: Words, v: Words) -> None:
    at = 0
    for key, shape in zip(group.keys, group.shapes, strict=True):
        slot = state["state"].get(key)
        if not isinstance(slot, dict):
            raise FormatError(f"optimizer state has no place for {key!r:.200}")
        if any(name in slot for name in MOMENTS):
            raise FormatError(f"optimizer state has moments of {key!r:.200} twice")
        size = count_of(shape)
        for name, bits in ((_M, m), (_V, v)):
            part = bits[at : at + size].view(np.float32).reshape(shape)
            slot[name] = torch.from_numpy(part.copy())
        at += size


def digest_of(m: Words, v: Words) -> str:
    hasher = xxhash.xxh3_128(m)
    hasher.update(v)
    return hasher.hexdigest()
