"""What tests of torch tensors and modules have in common."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny products on several threads take longest to wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, whatever its type."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def assert_same(found: Any, wanted: Any) -> None:
    """Both tensors are the same, bit for bit."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    assert bits(found) == bits(wanted)
