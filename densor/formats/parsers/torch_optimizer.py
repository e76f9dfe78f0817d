"""What the pickle of a PyTorch file says of its optimizers, without unpickling it.

An optimizer's state is a dict of `state`, slots by parameter, and `param_groups`, a list of dicts
whose `params` are the parameters, by number or name, and which have `betas` for Adam.
"""

from typing import Any, NamedTuple

from densor.errors import FormatError
from densor.formats.parsers.torch_pickle import MAX_DEPTH, Machine, Node, PickleFile


class Options(NamedTuple):
    """What Adam was told for a parameter; None for what is no float."""

    betas: tuple[float, float]
    rate: float | None
    decay: float | None
    epsilon: float | None


Told = dict[str, Options]


def options_of(pickle: PickleFile) -> Told:
    """Options by the name of a parameter's state, as tensors in it are named.

    FormatError if the pickle cannot be followed.
    """
    found: Told = {}
    try:
        _collect(Machine().run(pickle), "", found, set(), 0)
    except ValueError as error:  # integers have more digits than Python writes
        raise FormatError(f"cannot name parameters: {error}") from None
    return found


def _collect(thing: Any, name: str, found: Told, seen: set[int], depth: int) -> None:
    """Looks for optimizers within `thing`; in each container only where it is met first."""
    if depth >= MAX_DEPTH:
        return
    for key, value in _new_items(thing, seen):
        if key == "param_groups":
            for _, group in _new_items(value, seen):
                _add(group, f"{name}state.", found, seen)
        else:
            _collect(value, f"{name}{key}." if key else name, found, seen, depth + 1)


def _new_items(thing: Any, seen: set[int]) -> list[tuple[str, Any]]:
    """What is in a container that is met first."""
    if not isinstance(thing, Node) or id(thing) in seen:
        return []
    seen.add(id(thing))
    return thing.items


def _add(group: Any, prefix: str, found: Told, seen: set[int]) -> None:
    items = dict(_new_items(group, seen))
    betas, params = items.get("betas"), items.get("params")
    if isinstance(betas, Node) and len(betas.items) == 2:
        betas = tuple(value for _, value in betas.items)
    if type(betas) is not tuple or len(betas) != 2:
        return
    numbers = [_float_in(items, name) for name in ("lr", "weight_decay", "eps")]
    if all(type(beta) is float and 0 <= beta < 1 for beta in betas):
        for _, key in _new_items(params, seen):
            if type(key) in (int, str):
                found[f"{prefix}{key}"] = Options(betas, *numbers)


def _float_in(items: dict[str, Any], name: str) -> float | None:
    value = items.get(name)
    if type(value) is int and abs(value) < 1 << 53:
        return float(value)
    return value if type(value) is float else None
