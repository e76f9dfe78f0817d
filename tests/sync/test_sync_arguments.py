"""Models, and tensors in them, that published weights cannot go to; options that cannot be."""

from typing import Any

import numpy as np
import pytest
import torch

from densor.errors import ArgumentError
from densor.sync import MemoryStore, Publisher, Subscriber
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
