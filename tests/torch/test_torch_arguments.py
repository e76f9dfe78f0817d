"""Arguments of another kind than the functions take."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import densor
from densor import torch as packed
from densor.files.model_folder import pack_model, unpack_model
from densor.files.prefetching import prefetch


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


def test_parts_of_a_model(tmp_path: Any) -> None:
    linear = torch.nn.Linear(8, 8)
    with pytest.raises(TypeError, match="a block must be a Module, not str"):
        packed.pack_module(linear, blocks="xy")  # type: ignore[arg-type]
    linear = torch.nn.Linear(8, 8)
    with pytest.raises(TypeError, match="packed must be a mapping, not int"):
        packed.pack_module(linear, packed=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="device_map must be a mapping, not NoneType"):
        packed.offload(linear, tmp_path, None)  # type: ignore[arg-type]
    for given in ({"model": 3}, {"min_bytes": None}):
        with pytest.raises(TypeError, match=" must be a "), packed.pack_activations(**given):  # type: ignore[arg-type]
            pass
    with pytest.raises(densor.ArgumentError, match="tensors must come by name, not in a NoneType"):
        packed.save_packed_file(None, tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="state must be a PackedReduce, not NoneType"):
        packed.packed_hook(None, None)  # type: ignore[arg-type]


def test_numbers(tmp_path: Any) -> None:
    page = torch.zeros(1, 1, 4, 2)
    for call in (
        lambda: packed.pack_tensor(page, threads=None),  # type: ignore[arg-type]
        lambda: packed.PagedCache(None),  # type: ignore[arg-type]
        lambda: packed.PagedCache(2).append(None, page, page),  # type: ignore[arg-type]
        lambda: packed.Snapshots("4"),  # type: ignore[arg-type]
        lambda: packed.AsyncCheckpoints(tmp_path, chain=1.5),  # type: ignore[arg-type]
        lambda: packed.BackgroundCheckpoints(tmp_path, None),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="must be a whole number, not "):
            call()
    with pytest.raises(TypeError, match="keys must be a Tensor, not NoneType"):
        packed.PagedCache(2).append(0, None, page)  # type: ignore[arg-type]
    with pytest.raises(densor.ArgumentError, match="layer must be 0 or more"):
        packed.PagedCache(2).append(-1, page, page)
    with packed.AsyncCheckpoints(tmp_path) as checkpoints:
        for state, step in ((None, 1), ({}, "1")):
            with pytest.raises(TypeError, match=" must be a "):
                checkpoints.save(state, step)  # type: ignore[arg-type]
        with pytest.raises(densor.ArgumentError, match="step must be 0 or more"):
            checkpoints.save({}, -1)
        with pytest.raises(TypeError, match="state must be a dict, not NoneType"):
            checkpoints.load(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800"])
def test_what_is_no_path(path: str) -> None:
    for call in (
        lambda: packed.AsyncCheckpoints(path),
        lambda: packed.PagedCache(folder=path),
        lambda: packed.PackedReader(path),
        lambda: packed.PackedWriter(path),
        lambda: packed.PackedWriter("here", base=path),
        lambda: packed.dcp_to_torch_save("here", path),
        lambda: packed.offload(torch.nn.Linear(1, 1), path),
        lambda: prefetch(path),
        lambda: pack_model(path, "there"),
        lambda: unpack_model("here", path),
    ):
        with pytest.raises(densor.ArgumentError, match=r"is no path|no path has"):
            call()
