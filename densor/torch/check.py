"""Checks of models packed on a device, for `densor gpu-check`."""

import copy
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from densor.gpu.backend import Backend
from densor.torch.device import Device
from densor.torch.packed import PackedTensor
from densor.torch.resident import check_module, memory_of, pack_module

_BLOCKS = 3
_TOKENS = 4
_WARM = 4  # passes until nothing is copied any more
_ROUNDS = 20


class Check(NamedTuple):
    """What was done with a model, whether it was right, and what is worth telling."""

    what: str
    right: bool
    note: str = ""


class Model(nn.Module):
    """Embedding and head, tied, and blocks of two matrices, with BF16 weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(2 * width, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(_BLOCKS)
        )
        self.head = nn.Linear(width, 2 * width, bias=False)
        self.head.weight = self.embed.weight
        self.to(torch.bfloat16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores of each token, [tokens, 2 * width]."""
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        scores: torch.Tensor = self.head(x)
        return scores


def check_models(on: Backend, elements: int, timed: bool) -> Iterator[Check]:
    """A model of about `elements` weights: the same bits as the plain one, in every way to run it.

    `timed`: on a GPU, where passes are timed, and captured in a CUDA graph.
    """
    place = torch.device("cuda", torch.cuda.current_device()) if timed else torch.device("cpu")
    torch.manual_seed(0)
    width = max(16, int((elements / (4 * _BLOCKS + 2)) ** 0.5) // 16 * 16)
    plain = Model(width).to(place)
    packed = pack_module(
        copy.deepcopy(plain), device=Device(on, place), select=lambda name, p: p.ndim > 1
    )
    ids = torch.arange(_TOKENS, device=place) * 3
    ratio = memory_of(packed).ratio
    yield Check("model: weights", _same_weights(packed, plain), f"{ratio:.4f} of plain")
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            right = all(_same(packed(ids), plain(ids)) for _ in range(_WARM))
        yield Check(f"model: {mode.__name__}", right)
    check_module(packed)
    if not timed:
        return
    with torch.no_grad():
        yield _captured(packed, plain, ids)
        slower = _seconds(lambda: packed(ids)) / _seconds(lambda: plain(ids))
    yield Check("model: time", True, f"{slower:.2f} times the plain one's, {_TOKENS} tokens")


def _captured(packed: nn.Module, plain: nn.Module, ids: torch.Tensor) -> Check:
    """A pass in a CUDA graph, replayed with other tokens."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM):
            packed(ids)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    given = ids.clone()
    try:
        with torch.cuda.graph(graph):
            result = packed(given)
    except RuntimeError as error:
        return Check("model: CUDA graph", False, str(error)[:200])
    given += 1
    graph.replay()
    torch.cuda.synchronize()
    return Check("model: CUDA graph", _same(result, plain(given)))


def _same_weights(packed: nn.Module, plain: nn.Module) -> bool:
    return all(
        isinstance(p, PackedTensor) == (p.ndim > 1)
        and _same(p.unpack() if isinstance(p, PackedTensor) else p, plain.get_parameter(name))
        for name, p in packed.named_parameters()
    )


def _same(actual: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Bit for bit, both of BF16."""
    return torch.equal(actual.detach().view(torch.int16), wanted.detach().view(torch.int16))


def _seconds(run: Callable[[], object]) -> float:
    run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(_ROUNDS):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / _ROUNDS
