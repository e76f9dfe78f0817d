"""Packed activations: the same gradients, bit for bit, and less memory."""

import contextlib
import gc

import pytest

from densor.errors import ArgumentError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from densor.torch import pack_activations, pack_module  # noqa: E402
from densor.torch.activations import KINDS  # noqa: E402


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 256), nn.Linear(256, 64)
        self.norm, self.drop = nn.LayerNorm(64), nn.Dropout(0.1)

    def forward(self, x):
        y = self.norm(x)
        scores = (y @ y.transpose(-1, -2)).float().softmax(-1).to(x.dtype)
        y = self.drop(scores @ y)
        y = torch.relu(self.first(y))
        z = nn.functional.silu(y) * y.sigmoid()
        return x + self.second(z.t().contiguous().t() if z.ndim == 2 else z)


def gradients(model, x, **options):
    torch.manual_seed(7)
    model.zero_grad()
    inputs = x.clone().requires_grad_()
    if options.pop("plain", False):
        loss, saved = model(inputs).float().pow(2).mean(), None
    else:
        with pack_activations(model, min_bytes=256, **options) as saved:
            loss = model(inputs).float().pow(2).mean()
    loss.backward()
    return [inputs.grad, *(p.grad.clone() for p in model.parameters())], saved


def assert_same(found, wanted) -> None:
    for one, other in zip(found, wanted, strict=True):
        size = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.itemsize]
        assert torch.equal(one.view(size), other.view(size))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kinds", [KINDS, ("mask",), ("floats",), ("zeros", "same"), ()])
def test_gradients_are_the_same(dtype, kinds) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block()).to(dtype)
    x = torch.randn(2, 50, 64).to(dtype)
    x[0, 3, 4] = float("nan")
    wanted, _ = gradients(model, x, plain=True)
    found, saved = gradients(model, x, kinds=kinds)
    assert_same(found, wanted)
    x[0, 3, 4] = 1
    assert_same(gradients(model, x, kinds=kinds)[0], gradients(model, x, plain=True)[0])
    if kinds == KINDS:
        assert saved.ratio < 0.95
    gc.collect()
    assert saved.held == saved.plain == 0


def test_what_each_kind_saves() -> None:
    torch.manual_seed(0)

    def kinds_of(tensor, **options):
        x = tensor.clone().requires_grad_()
        with pack_activations(min_bytes=16, **options) as saved:
            y = x * 1  # saves nothing of x
            z = y.pow(2)
            z = z + y.sin()
        z.sum().backward()
        return saved.kinds

    n = 20000
    mask = (torch.rand(n) < 0.1).float() / 0.9
    plain, held = kinds_of(mask)["mask"]
    assert plain == 4 * n and held < n / 7  # once for two functions, a bit each
    halves = torch.randn(n).bfloat16().float()
    plain, held = kinds_of(halves)["upcast"]
    assert plain == 4 * n and held < 0.36 * plain
    zeros = torch.relu(torch.randn(n)).bfloat16()
    plain, held = kinds_of(zeros)["zeros"]
    assert held < 0.45 * plain
    assert kinds_of(torch.zeros(n))["mask"][1] < n / 7
    assert set(kinds_of(mask, kinds=["floats"])) == {"floats"}


def test_views_masks_and_memory_that_is_used_again() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64, requires_grad=True)
    results = []
    for packed in (False, True):
        total = torch.zeros(())
        weight.grad = None
        with pack_activations(min_bytes=16) if packed else torch.enable_grad():
            for i in range(30):  # memory of one round is given to the next
                x = torch.full((64, 64), float(i)) + weight
                y = x.t()[1:] * x[:-1].clone()
                total = total + (y * y.abs().sqrt()).sum() + x.diagonal().exp().clamp(max=9).sum()
        total.backward()
        results.append(weight.grad.clone())
    assert_same(results[1:], results[:1])


def test_with_checkpointing_and_packed_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block()).bfloat16()
    x = torch.randn(2, 50, 64).bfloat16()
    wanted, _ = gradients(model, x, plain=True)

    class Twice(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            for layer in self.inner:
                x = checkpoint(layer, x, use_reentrant=False)
            return x

    assert_same(gradients(Twice(model), x)[0], wanted)
    packed = pack_module(model)
    found = gradients(packed, x)[0]
    assert_same(found[:1], wanted[:1])


def test_twice_through_a_graph() -> None:
    x = torch.randn(300, 30, requires_grad=True)
    with pack_activations(min_bytes=16):
        y = (x.sin() * x).sum()
    (once,) = torch.autograd.grad(y, x, retain_graph=True)
    (again,) = torch.autograd.grad(y, x)
    assert_same([again], [once])


def test_arguments() -> None:
    with pytest.raises(ArgumentError), pack_activations(kinds=["magic"]):
        pass


class Gated(nn.Module):
    """Norm, gate and products as Llama has them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(96))
        self.gate, self.up = (nn.Linear(96, 256, bias=False) for _ in range(2))
        self.down = nn.Linear(256, 96, bias=False)

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        normed = self.weight * wide.to(x.dtype)
        return x + self.down(nn.functional.silu(self.gate(normed)) * self.up(normed))


def test_what_follows_from_what_is_kept_is_computed_again() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(*[Gated() for _ in range(3)]).bfloat16()
    x = torch.randn(4, 64, 96).bfloat16()
    plain, _ = gradients(model, x, plain=True)
    found, saved = gradients(model, x, kinds=KINDS)
    assert_same(found, plain)
    with_all = saved.peak_held / saved.peak_plain
    assert saved.kinds["again"][0] > 0.4 * sum(before for before, _ in saved.kinds.values())
    assert saved.kinds["again"][1] == 0
    found, saved = gradients(model, x, kinds=[kind for kind in KINDS if kind != "again"])
    assert_same(found, plain)
    assert with_all < 0.65 * saved.peak_held / saved.peak_plain


def test_small_inputs_may_be_changed_before_the_backward_pass() -> None:
    scale = torch.ones(64)
    x = torch.randn(256, 64, requires_grad=True)
    other = torch.randn(64, 32)

    def loss(pack: bool):
        scale.fill_(2)
        with pack_activations(min_bytes=1 << 10) if pack else contextlib.nullcontext():
            y = (torch.sigmoid(x) + scale).exp()
            y = ((y * 3).sigmoid() @ other).sum()
        scale.fill_(7)
        return torch.autograd.grad(y, x)

    assert_same(loss(True), loss(False))
