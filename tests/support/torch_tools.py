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


def assert_one_block_is_plain_at_a_time(model: Any) -> None:
    """In a forward pass of a packed `Tiny`."""
    seen = []

    def look(module: Any, args: Any, output: Any) -> None:
        seen.append([type(layer[1].weight) is nn.Parameter for layer in model.layers])

    for layer in model.layers:
        layer[2].register_forward_hook(look)
    with torch.no_grad():
        model(IDS)
    assert seen == [[i == j for j in range(3)] for i in range(3)]


def assert_writes_are_seen(plain: Any, packed: Any) -> None:
    """What is written to a weight, between passes of two `Tiny` and within, counts at once."""

    def add_to_next(module: Any, args: Any, output: Any) -> None:
        model = plain if module is plain.layers[0] else packed
        model.layers[1][3].weight.add_(0.01)

    with torch.no_grad():
        for model in (plain, packed):
            model(IDS)
            model.layers[1][1].weight.mul_(2)
            model.layers[0].register_forward_hook(add_to_next)
        assert_same(packed(IDS), plain(IDS))
        assert_same(packed(IDS), plain(IDS))
