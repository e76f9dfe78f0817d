"""Adam's moments among the items of a distributed checkpoint, by their names.

A state is flattened there, names joined by dots: `optimizer.state.0.weight.exp_avg`, and
`optimizer.param_groups.0.betas`, or `param_groups.0.weight.betas` where PyTorch has flattened it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from densor.torch.adam.groups import MOMENTS, betas_of

_LEAST = 1 << 15  # elements from which a parameter is worth a packed state of its own
_GROUPS = "param_groups."


def stem_of(name: str) -> str:
    """The name of a parameter's state, from that of a moment."""
    return name.rpartition(".")[0]


def pairs_of(items: Sequence[WriteItem]) -> Iterator[tuple[str, tuple[WriteItem, WriteItem]]]:
    """Items of m and v of large shards, and the name of the parameter's state."""
    places = {(item.index.fqn, item.index.offset): item for item in items}
    first, second = MOMENTS
    for item in items:
        stem, _, name = item.index.fqn.rpartition(".")
        other = places.get((f"{stem}.{second}", item.index.offset))
        if name == first and other is not None and _is_large(item) and _is_large(other):
            yield stem, (item, other)


def _is_large(item: WriteItem) -> bool:
    if item.type == WriteItemType.BYTE_IO or item.tensor_data is None:
        return False
    return item.tensor_data.chunk.sizes.numel() >= _LEAST


def betas_in(state: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Betas of each parameter, by the name of its state; `state`: flattened."""
    found = {}
    for name, value in state.items():
        stem, _, last = name.rpartition(".")
        if last != "betas" or _GROUPS not in stem:
            continue
        betas = betas_of(value)
        if betas is None:
            continue
        head, _, own = stem.partition(_GROUPS)
        names = state.get(f"{stem}.params", [own])
        for one in names if isinstance(names, list) else [own]:
            found[f"{head}state.{one}"] = betas
    return found
