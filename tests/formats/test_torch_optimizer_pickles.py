"""Options in pickles of optimizers, also of those that nobody would write."""

import pickle
from typing import Any

import pytest

from densor.errors import FormatError
from densor.formats.io.sources import MemoryRandomSource
from densor.formats.parsers import torch_optimizer
from densor.formats.parsers.torch_pickle import Machine, Node, PickleFile


def _told(value: object) -> torch_optimizer.Told:
    data = pickle.dumps(value, 2)
    return torch_optimizer.options_of(PickleFile(MemoryRandomSource(data), 0, len(data)))


def _group(params: list[int]) -> dict[str, object]:
    return {"betas": (0.9, 0.95), "params": params}


def test_betas_of_parameters() -> None:
    found = _told({"optimizer": {"param_groups": [_group([0]), _group([1])]}})
    assert {name: told.betas for name, told in found.items()} == {
        f"optimizer.state.{i}": (0.9, 0.95) for i in range(2)
    }


def test_other_options() -> None:
    group = {**_group([0]), "lr": 0.25, "weight_decay": 1, "eps": "tiny"}
    assert _told({"param_groups": [group]}) == {
        "state.0": torch_optimizer.Options((0.9, 0.95), 0.25, 1.0, None)
    }
    for odd in (1 << 60, True, None, [0.5]):
        assert _told({"param_groups": [{**group, "lr": odd}]})["state.0"].rate is None


def test_a_number_that_is_too_long_to_be_written() -> None:
    with pytest.raises(FormatError):
        _told({"param_groups": [_group([1 << 40_000])]})


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

    class Kept(dict[str, torch_optimizer.Options]):
        def __setitem__(self, key: str, told: torch_optimizer.Options) -> None:
            stored.append(key)
            super().__setitem__(key, told)

    data = pickle.dumps(value, 2)
    made = Machine().run(PickleFile(MemoryRandomSource(data), 0, len(data)))
    assert isinstance(made, Node)
    torch_optimizer._collect(made, "", Kept(), set(), 0)
    assert len(stored) == 100
