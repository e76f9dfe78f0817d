"""Tensors that are more than plain memory, at doors for states: kept as they are, or refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from densor import torch as packed
from densor.errors import ArgumentError
from densor.sync import MemoryStore, Publisher
from densor.torch.pages import KEYS, Page

VALUES = torch.arange(1.0, 4097).reshape(64, 64)


class Marked(torch.Tensor):
    """A subclass, which may mean something."""


def adam(moment: Any) -> dict[str, Any]:
    slot = {"step": torch.tensor(1.0), "exp_avg": moment, "exp_avg_sq": moment}
    return {"state": {0: slot}, "param_groups": [{"lr": 0.1, "params": [0]}]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "moment",
    [torch._neg_view(VALUES), VALUES.to_sparse(), VALUES.to_sparse_csr(), VALUES.t()],
    ids=["negative", "sparse", "csr", "transposed"],
)
def test_moments_that_are_kept(moment: Any) -> None:
    found = packed.unpack_state(packed.pack_state(adam(moment)))["state"][0]["exp_avg"]
    assert found.layout == moment.layout and torch.equal(found.to_dense(), moment.to_dense())


@pytest.mark.parametrize(
    "moment",
    [VALUES.as_subclass(Marked), VALUES.to_mkldnn(), np.zeros(3), range(3)],
    ids=["subclass", "mkldnn", "numpy", "object"],
)
def test_states_that_could_not_be_loaded_again(moment: Any) -> None:
    with pytest.raises(ArgumentError, match="state of an optimizer"):
        packed.pack_state(adam(moment))


@pytest.mark.parametrize(
    "tensor",
    [VALUES.to("meta"), torch.nested.nested_tensor([VALUES[0], VALUES[1, :5]])],
    ids=["meta", "nested"],
)
def test_snapshots_hold_what_has_no_memory(tensor: Any) -> None:
    with packed.Snapshots(2) as snapshots:
        for step in (1, 2):
            snapshots.take({"odd": tensor, "w": VALUES + step}, step)
        for step in (1, 2):
            found = snapshots.load(step)
            assert torch.equal(found["w"], VALUES + step)
            assert type(found["odd"]) is torch.Tensor
            assert found["odd"].is_meta == tensor.is_meta
            assert found["odd"].is_nested == tensor.is_nested
            if tensor.is_nested:
                assert torch.equal(found["odd"][1], tensor[1])


def test_pages_of_negative_views() -> None:
    view = torch._neg_view(VALUES.reshape(1, 1, 64, 64))
    found = packed.unpack_page(packed.pack_page(Page(KEYS, 0, 0, view))).tensor
    assert torch.equal(found, view)
    with pytest.raises(ArgumentError, match="sparse"):
        packed.pack_page(Page(KEYS, 0, 0, view.to_sparse()))


class Doubling(torch.autograd.Function):
    """Saves any tensor for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Any, saved: Any, seen: Callable[[Any], None]) -> Any:
        ctx.save_for_backward(saved)
        ctx.seen = seen
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:  # type: ignore[override]
        ctx.seen(ctx.saved_tensors[0])
        return 2 * gradient, None, None


@pytest.mark.filterwarnings("ignore")
def test_quantised_activations_are_kept() -> None:
    quantised = torch.quantize_per_tensor(VALUES, 0.1, 0, torch.qint8)
    seen: list[Any] = []
    x = torch.ones(3, requires_grad=True)
    with packed.pack_activations(min_bytes=1):
        y = Doubling.apply(x, quantised, seen.append)
    y.sum().backward()
    assert seen[0].is_quantized
    assert torch.equal(seen[0].int_repr(), quantised.int_repr())


@pytest.mark.parametrize(
    "tensor",
    [VALUES.as_subclass(Marked), torch.nested.nested_tensor([VALUES[0], VALUES[1, :5]])],
    ids=["subclass", "nested"],
)
def test_what_is_not_published_is_named(tensor: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^odd: "):
        Publisher({"a": VALUES, "odd": tensor}, MemoryStore())
