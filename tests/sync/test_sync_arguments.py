"""Models, and tensors in them, that published weights cannot go to; options that cannot be."""

from typing import Any

import numpy as np
import pytest
import torch

from densor.errors import ArgumentError
from densor.sync import MemoryStore, Publisher, SocketStore, Subscriber, UrlStore
from densor.sync.changes import Coder

PUBLISHED = torch.arange(1, 9).to(torch.bfloat16)


def _read_only() -> Any:
    array = np.zeros(8, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("model", [None, 3, "model", [torch.zeros(2)], torch.nn.Linear])
def test_no_model(model: Any) -> None:
    with pytest.raises(ArgumentError):
        Publisher(model, MemoryStore())
    with pytest.raises(ArgumentError):
        Subscriber(model, MemoryStore())


@pytest.mark.parametrize(
    ("published", "target"),
    [
        (PUBLISHED, np.zeros(8, np.float16)),  # of the same size: its bits are other numbers
        (PUBLISHED.float(), np.zeros(8, np.int32)),
        (PUBLISHED.float(), np.zeros(8)),
        (PUBLISHED.float(), _read_only()),
        (PUBLISHED.float(), np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (8,), (0,))),
        (PUBLISHED.float(), torch.zeros(1).expand(8)),
    ],
)
def test_tensors_that_cannot_follow(published: Any, target: Any) -> None:
    store = MemoryStore()
    with Publisher({"w": published}, store) as publisher:
        publisher.step()
    subscriber = Subscriber({"w": target}, store)
    with pytest.raises(ArgumentError, match="'w': "):
        subscriber.update()
    assert subscriber.number == -1
    assert not np.asarray(target).any()


def test_threads_and_levels_are_refused_at_once() -> None:
    with pytest.raises(ArgumentError, match="threads"):
        Subscriber({"w": torch.zeros(2)}, MemoryStore(), threads=-1)
    for coder in (Coder(level=0), Coder(threads=-1)):
        with pytest.raises(ArgumentError):
            Publisher({"w": torch.zeros(2)}, MemoryStore(), coder=coder)


@pytest.mark.parametrize("tensor", [torch.zeros(8).to_sparse(), torch.zeros(8, device="meta")])
def test_targets_without_places_in_memory(tensor: torch.Tensor) -> None:
    with pytest.raises(ArgumentError, match="have no memory"):
        Subscriber({"w": tensor}, MemoryStore())


def test_what_is_no_number_coder_or_url() -> None:
    model = {"w": torch.zeros(2)}
    with pytest.raises(TypeError, match="coder must be a Coder, not int"):
        Publisher(model, MemoryStore(), coder=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="every must be a whole number, not str"):
        Publisher(model, MemoryStore(), every="2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="url must be a text, not list"):
        UrlStore([])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="url must be a text, not int"):
        SocketStore(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bytes-like"):
        MemoryStore().put("full-1", 5)  # type: ignore[arg-type]
    with Publisher(model, MemoryStore()) as publisher:
        for step in (-1, 1 << 64):
            with pytest.raises(ArgumentError, match="step must be 0 or more"):
                publisher.step(step)
        with pytest.raises(TypeError, match="step must be a whole number, not NoneType"):
            publisher.publish(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="number must be a whole number, not str"):
        Subscriber(model, MemoryStore()).wait_for("1")  # type: ignore[arg-type]
