"""Arguments of another kind than the functions take."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import densor
from densor import torch as packed


@pytest.mark.parametrize("given", [None, "linear", {"w": torch.zeros(2)}, torch.nn.Linear])
@pytest.mark.parametrize(
    "function",
    [packed.pack_module, packed.unpack_module, packed.memory_of, packed.check_module],
)
def test_modules(function: Callable[[Any], Any], given: Any) -> None:
    with pytest.raises(TypeError, match="module must be a Module, not "):
        function(given)


def test_offloading(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="module must be a Module, not "):
        packed.offloaded(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="module must be a Module, not "):
        packed.offload(None, tmp_path)  # type: ignore[arg-type]


def test_states_pages_and_products() -> None:
    with pytest.raises(TypeError, match="state must be a dict, not NoneType"):
        packed.pack_state(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="before must be a dict, not list"):
        packed.pack_state({"state": {}}, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="page must be a Page, not Tensor"):
        packed.pack_page(torch.zeros(1, 1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight must be a Tensor, not NoneType"):
        packed.plain_product(torch.zeros(2), None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bytes-like"):
        packed.unpack_snapshot(None)  # type: ignore[arg-type]


def test_tensors_in_a_parameter_dict_come_by_name() -> None:
    weights = torch.nn.ParameterDict({"w": torch.arange(6.0).reshape(2, 3)})
    found = densor.load(densor.save(weights))  # type: ignore[arg-type]
    assert torch.equal(torch.as_tensor(found["w"]), weights["w"].detach())
