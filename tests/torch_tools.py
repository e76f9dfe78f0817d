"""What tests of torch tensors and modules have in common."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn


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


def weight(*shape: int, dtype: Any = None, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(shape, generator=generator) * 0.02
    return made.to(torch.bfloat16 if dtype is None else dtype)


class Tiny(nn.Module):
    """Embedding, blocks, a head tied to the embedding, and what is too small to pack."""

    def __init__(self, dtype: Any = None, blocks: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, 96)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(96), nn.Linear(96, 200), nn.GELU(), nn.Linear(200, 96))
            for _ in range(blocks)
        )
        self.head = nn.Linear(96, 300, bias=False)
        self.head.weight = self.embed.weight
        self.fail: BaseException | None = None
        self.to(torch.bfloat16 if dtype is None else dtype)

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
            if self.fail is not None:
                raise self.fail
        return self.head(x)


def tiny(dtype: Any = None) -> Any:
    torch.manual_seed(0)
    return Tiny(dtype).eval()


IDS = torch.arange(24).reshape(2, 12) * 12
