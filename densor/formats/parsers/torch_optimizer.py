"""What the pickle of a PyTorch file says of its optimizers, without unpickling it.

An optimizer's state is a dict of `state`, slots by parameter, and `param_groups`, a list of dicts
whose `params` are the parameters, by number or name, and which have `betas` for Adam.
"""

from typing import Any

from densor.formats.parsers.torch_pickle import MAX_DEPTH, Machine, Object, PickleFile

Betas = dict[str, tuple[float, float]]


def betas_of(pickle: PickleFile) -> Betas:
    """Both betas by the name of a parameter's state, as tensors in it are named.

    FormatError if the pickle cannot be followed.
    """
    found: Betas = {}
    _collect(Machine().run(pickle), "", found, set(), 0)
    return found


def _collect(thing: Any, name: str, found: Betas, seen: set[int], depth: int) -> None:
    """Looks for optimizers within `thing`; in each container only where it is met first."""
    if not isinstance(thing, Object) or id(thing) in seen or depth >= MAX_DEPTH:
        return
    seen.add(id(thing))
    for key, value in thing.items:
        if key == "param_groups" and isinstance(value, Object):
            for _, group in value.items:
                _add(group, f"{name}state.", found)
        else:
            _collect(value, f"{name}{key}." if key else name, found, seen, depth + 1)


def _add(group: Any, prefix: str, found: Betas) -> None:
    items = dict(group.items) if isinstance(group, Object) else {}
    betas, params = items.get("betas"), items.get("params")
    if isinstance(betas, Object):
        betas = tuple(value for _, value in betas.items)
    if type(betas) is not tuple or len(betas) != 2 or not isinstance(params, Object):
        return
    if all(type(beta) is float and 0 <= beta < 1 for beta in betas):
        for _, key in params.items:
            if type(key) in (int, str):
                found[f"{prefix}{key}"] = betas
