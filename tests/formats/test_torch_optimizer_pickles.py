"""Betas in pickles of optimizers, also of those that nobody would write."""

import pickle
from typing import Any

import pytest

from densor.errors import FormatError
from densor.formats.io.sources import MemoryRandomSource
from densor.formats.parsers import torch_optimizer
from densor.formats.parsers.torch_pickle import Machine, Node, PickleFile


def _betas(value: object) -> torch_optimizer.Betas:
    data = pickle.dumps(value, 2)
    return torch_optimizer.betas_of(PickleFile(MemoryRandomSource(data), 0, len(data)))


def _group(params: list[int]) -> dict[str, object]:
    return {"betas": (0.9, 0.95), "params": params}


def test_betas_of_parameters() -> None:
    found = _betas({"optimizer": {"param_groups": [_group([0]), _group([1])]}})
    assert found == {f"optimizer.state.{i}": (0.9, 0.95) for i in range(2)}


def test_a_number_that_is_too_long_to_be_written() -> None:
    with pytest.raises(FormatError):
        _betas({"param_groups": [_group([1 << 40_000])]})


@pytest.mark.parametrize("shared", ["groups", "group", "params"])
def test_what_is_shared_is_looked_at_once(shared: str) -> None:
    params = list(range(100))
    group = _group(params)
    groups = [group]
    if shared == "groups":
        value: Any = {str(i): {"param_groups": groups} for i in range(100)}
    elif shared == "group":
        value = {"param_groups": [group] * 100}
    else:
        value = {"param_groups": [_group(params) for _ in range(100)]}
    stored = []

    class Kept(dict[str, tuple[float, float]]):
        def __setitem__(self, key: str, betas: tuple[float, float]) -> None:
            stored.append(key)
            super().__setitem__(key, betas)

    data = pickle.dumps(value, 2)
    made = Machine().run(PickleFile(MemoryRandomSource(data), 0, len(data)))
    assert isinstance(made, Node)
    torch_optimizer._collect(made, "", Kept(), set(), 0)
    assert len(stored) == 100
