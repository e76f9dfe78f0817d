"""Training with packed weights gives the bits that ordinary training gives."""

import copy
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

import densor

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional

from torch_tools import bits, one_thread  # noqa: E402, F401

from densor.torch import PackedOptimizer, pack_module, training  # noqa: E402
from densor.torch.packed import PackedTensor  # noqa: E402
from densor.torch.resident import memory_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Tiny(nn.Module):
    """Embedding with a tied head, blocks, and parameters too small to pack."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(120, 96)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(96), nn.Linear(96, 200), nn.GELU(), nn.Linear(200, 96))
            for _ in range(2)
        )
        self.head = nn.Linear(96, 120, bias=False)
        self.head.weight = self.embed.weight
        self.to(dtype)

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


IDS = torch.arange(24).reshape(2, 12) * 4


def loss_of(model: Any, step: int) -> Any:
    ids = (IDS + step) % 120
    return F.cross_entropy(model(ids).float().flatten(0, 1), ids.flatten().roll(1))


def assert_same_state(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert type(one) is type(other) is torch.Tensor
        assert bits(one) == bits(other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same_state(one[key], other[key])
    else:
        assert one == other


SLOW = pytest.mark.slow
CASES = [
    ("bfloat16", torch.optim.AdamW, {"lr": 1e-3}, False),
    pytest.param("bfloat16", torch.optim.AdamW, {"lr": 1e-3, "fused": True}, False, marks=SLOW),
    ("float32", torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "nesterov": True}, False),
    ("float32", torch.optim.Adam, {"lr": 1e-3, "amsgrad": True}, True),
    pytest.param("float32", torch.optim.Adafactor, {"lr": 1e-3}, True, marks=SLOW),
]


@pytest.mark.parametrize(("dtype", "optimizer", "options", "pack_state"), CASES)
def test_fifty_steps(dtype: str, optimizer: Any, options: Any, pack_state: bool) -> None:
    torch.manual_seed(0)
    plain = Tiny(getattr(torch, dtype))
    packed = pack_module(copy.deepcopy(plain))
    usual = optimizer(plain.parameters(), **options)
    ours = PackedOptimizer(packed.parameters(), optimizer, pack_state=pack_state, **options)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 50) for o in (usual, ours)]
    for step in range(50):
        losses = []
        for model, opt, schedule in zip((plain, packed), (usual, ours), schedules, strict=True):
            loss = loss_of(model, step)
            loss.backward()
            opt.step()
            opt.zero_grad()
            schedule.step()
            losses.append(loss)
        assert bits(losses[0]) == bits(losses[1])
    assert_same_state(dict(packed.state_dict()), dict(plain.state_dict()))
    assert_same_state(ours.state_dict(), usual.state_dict())
    assert packed.embed.weight is packed.head.weight
    assert isinstance(packed.layers[0][1].weight, PackedTensor)
    kept = ours.state[packed.layers[0][1].weight].values()
    if optimizer is not torch.optim.Adafactor:
        assert any(isinstance(value, PackedTensor) for value in kept) == pack_state


def test_one_gradient_at_a_time() -> None:
    model = pack_module(Tiny(torch.bfloat16))
    PackedOptimizer(model.parameters(), torch.optim.SGD, lr=1e-3)
    most = 0

    def look(_: Any) -> None:
        nonlocal most
        most = max(most, sum(p.grad is not None for p in model.parameters()))

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(look)  # after the update
        parameter.register_hook(look)  # before the gradient is kept
    loss_of(model, 0).backward()
    assert most == 0
    assert memory_of(model).ratio < 0.75
    assert all(p.cell.plain is None for p in model.parameters() if isinstance(p, PackedTensor))


def test_gradients_add_up_over_several_passes() -> None:
    plain = Tiny(torch.float32)
    packed = pack_module(copy.deepcopy(plain))
    usual = torch.optim.SGD(plain.parameters(), lr=0.1)
    ours = PackedOptimizer(packed.parameters(), torch.optim.SGD, lr=0.1)
    for _ in range(2):
        for step in range(3):
            loss_of(plain, step).backward()
        usual.step()
        usual.zero_grad()
        with ours.accumulate():
            loss_of(packed, 0).backward()
            loss_of(packed, 1).backward()
            ours.step()  # nothing, yet
        loss_of(packed, 2).backward()
    assert_same_state(dict(packed.state_dict()), dict(plain.state_dict()))


def test_groups_and_going_on_from_a_state() -> None:
    torch.manual_seed(0)
    start = Tiny(torch.float32)

    def groups(model: Any) -> Any:
        return [
            {"params": list(model.layers.parameters()), "lr": 1e-2, "weight_decay": 0.3},
            {"params": [model.embed.weight]},
        ]

    def run(model: Any, opt: Any, begin: int, end: int) -> None:
        for step in range(begin, end):
            loss_of(model, step).backward()
            opt.step()
            opt.zero_grad()

    plain = copy.deepcopy(start)
    usual = torch.optim.AdamW(groups(plain), lr=1e-3)
    run(plain, usual, 0, 6)
    first = pack_module(copy.deepcopy(start))
    ours = PackedOptimizer(groups(first), torch.optim.AdamW, lr=1e-3)
    run(first, ours, 0, 3)
    state, weights = ours.state_dict(), first.state_dict()
    second = pack_module(copy.deepcopy(start))
    second.load_state_dict(weights)
    again = PackedOptimizer(groups(second), torch.optim.AdamW, pack_state=True, lr=9.0)
    again.load_state_dict(copy.deepcopy(state))  # tensors in there would be shared
    run(second, again, 3, 6)
    assert_same_state(dict(second.state_dict()), dict(plain.state_dict()))
    assert_same_state(again.state_dict(), usual.state_dict())
    third = copy.deepcopy(start)
    third.load_state_dict(weights)
    back = torch.optim.AdamW(groups(third))
    back.load_state_dict(state)
    run(third, back, 3, 6)
    assert_same_state(dict(third.state_dict()), dict(plain.state_dict()))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdamW", {"lr": 1e-3, "weight_decay": 0.1}),
        ("Adam", {"lr": 1e-3, "amsgrad": True}),
        ("SGD", {"lr": 1e-2, "momentum": 0.9}),
        pytest.param("Adadelta", {}, marks=SLOW),
        pytest.param("Adamax", {}, marks=SLOW),
        pytest.param("NAdam", {}, marks=SLOW),
        pytest.param("RAdam", {}, marks=SLOW),
        pytest.param("RMSprop", {"momentum": 0.5}, marks=SLOW),
    ],
)
def test_updates_slice_by_slice(
    dtype: str, name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedding of 11,520 elements is cut, and its last slice is shorter."""
    monkeypatch.setattr(training, "_SLICE", 8192 * getattr(torch, dtype).itemsize)
    monkeypatch.setattr(training, "_MIN_PACKED_BYTES", 64)
    monkeypatch.setattr(training, "_RELEASED", 1 << 16)
    optimizer = getattr(torch.optim, name)
    torch.manual_seed(0)
    plain = Tiny(getattr(torch, dtype))
    packed = pack_module(copy.deepcopy(plain))
    usual = optimizer(plain.parameters(), **options)
    ours = PackedOptimizer(packed.parameters(), optimizer, pack_state=True, **options)
    for step in range(6):
        for model, opt in ((plain, usual), (packed, ours)):
            loss_of(model, step).backward()
            opt.step()
            opt.zero_grad()
        slices = [v for v in ours.state[packed.embed.weight].values() if isinstance(v, list)]
        assert slices
        assert all(len(v) == 2 and isinstance(v[0], PackedTensor) for v in slices)
        if step == 2:  # goes on from what was saved
            state = copy.deepcopy(ours.state_dict())
            ours.close()
            parameters = packed.parameters()
            ours = PackedOptimizer(parameters, optimizer, pack_state=True, **options)
            ours.load_state_dict(state)
    assert_same_state(dict(packed.state_dict()), dict(plain.state_dict()))
    assert_same_state(ours.state_dict(), usual.state_dict())


def test_slices_end_where_vectors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements behind the last whole vector of a thread are rounded otherwise in BF16."""
    model = pack_module(nn.Linear(1 << 11, (1 << 11) + 8, bias=False).bfloat16())
    # A third of all is 1403562.7: the next multiples of 64 elements times threads
    for threads, expected in ((1, 1403584), (2, 1403648), (3, 0), (16, 1403904), (40, 0)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert training._slice_size(model.weight) == expected
    assert training._slice_size(model.weight.unpack()) == 0


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "MALLOC_MMAP_THRESHOLD_" in os.environ,
    reason="a setting of glibc, as the environment leaves it",
)
def test_packed_states_have_large_blocks_mapped() -> None:
    """Once 16 MB were freed, glibc by itself cuts 4 MB from the heap: nothing is mapped then."""
    code = """
import ctypes, sys, torch
from densor.torch import PackedOptimizer

class Figures(ctypes.Structure):
    _fields_ = [(f"f{i}", ctypes.c_size_t) for i in range(10)]

def mapped():
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Figures
    return libc.mallinfo2().f4  # hblkhd

parameters = [torch.nn.Parameter(torch.zeros(4))]
PackedOptimizer(parameters, torch.optim.SGD, lr=1.0, pack_state=len(sys.argv) > 1)
torch.empty(1 << 22)
before = mapped()
kept = [torch.empty(1 << 20) for _ in range(64)]  # the heap may have room for some
print(mapped() - before >= 1 << 27)
"""
    found = []
    for arguments in ([], ["packed"]):  # what one has freed is not to be there for the other
        command = [sys.executable, "-c", code, *arguments]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(run.stdout.strip())
    assert found == ["False", "True"]


def test_slices_need_dense_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SLICE", 1 << 12)
    model = pack_module(Tiny(torch.float32))
    weight = model.embed.weight
    opt = PackedOptimizer([weight], torch.optim.SGD, pack_state=True, lr=1.0)
    before = bits(weight.unpack())
    weight.grad = torch.zeros(120, 96).to_sparse()
    with pytest.raises(densor.errors.ArgumentError, match="dense"):
        opt.step()
    assert bits(weight.unpack()) == before


def test_views_of_packed_elements_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SLICE", 1 << 12)
    weight = pack_module(Tiny(torch.float32)).embed.weight
    for view in (weight.t(), weight[:60]):
        parameter = nn.Parameter(view)
        wanted = nn.Parameter(torch.empty(view.shape).copy_(view))
        gradient = torch.randn(view.shape)
        ours = PackedOptimizer([parameter], torch.optim.Adam, pack_state=True)
        usual = torch.optim.Adam([wanted])
        for _ in range(2):
            parameter.grad, wanted.grad = gradient.clone(), gradient.clone()
            ours.step()
            usual.step()
        assert bits(torch.empty(view.shape).copy_(parameter.detach())) == bits(wanted.detach())


def test_an_empty_state_is_loaded() -> None:
    parameter = nn.Parameter(torch.ones(4))
    ours = PackedOptimizer([parameter], torch.optim.Adam)
    fresh = copy.deepcopy(ours.state_dict())
    for state in (None, fresh):
        if state is not None:
            ours.load_state_dict(state)
        parameter.grad = torch.ones(4)
        ours.step()
        assert ours.state_dict()["state"][0]["step"] == 1


def test_an_update_that_fails_half_way_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SLICE", 1 << 12)
    weight = pack_module(Tiny(torch.float32)).embed.weight
    ours = PackedOptimizer([weight], torch.optim.Adam, pack_state=True)
    fresh = copy.deepcopy(ours.state_dict())
    inner, left = ours._inner[weight], [3]
    step = inner.step

    def failing(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError
        return step(*arguments)

    inner.step = failing  # type: ignore[method-assign]
    weight.grad = torch.ones(120, 96)
    with pytest.raises(MemoryError):
        ours.step()
    assert all(part.grad is None and not part.numel() for part in ours._sliced[weight].parts)
    weight.grad = torch.ones(120, 96)
    with pytest.raises(densor.errors.ArgumentError, match="half way"):
        ours.step()
    with pytest.raises(densor.errors.ArgumentError, match="half way"):
        ours.state_dict()  # of both steps
    ours.load_state_dict(fresh)
    weight.grad = torch.ones(120, 96)
    ours.step()
    assert ours.state_dict()["state"][0]["step"] == 1


def test_gradients_set_by_hand_and_letting_go() -> None:
    model = pack_module(nn.Linear(128, 90, bias=False).to(torch.bfloat16))
    ours = PackedOptimizer(model.parameters(), torch.optim.SGD, lr=1.0)
    wanted = model.weight.unpack()
    model.weight.grad = torch.ones(90, 128, dtype=torch.bfloat16)
    assert ours.step(lambda: 3) == 3
    assert bits(model.weight.unpack()) == bits(wanted - 1)
    assert model.weight.grad is None
    ours.close()
    model(torch.ones(2, 128, dtype=torch.bfloat16)).sum().backward()
    assert model.weight.grad is not None


def test_what_needs_all_gradients_is_refused() -> None:
    with pytest.raises(densor.ArgumentError):
        PackedOptimizer(Tiny(torch.float32).parameters(), torch.optim.LBFGS)


def test_ordinary_optimizers_work_too() -> None:
    """Only slower, and with all gradients in memory."""
    plain = Tiny(torch.bfloat16)
    packed = pack_module(copy.deepcopy(plain))
    for foreach in (False, True):
        for model in (plain, packed):
            opt = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=foreach)
            for step in range(3):
                loss_of(model, step).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                opt.step()
                opt.zero_grad()
    assert_same_state(dict(packed.state_dict()), dict(plain.state_dict()))


def test_recomputed_activations() -> None:
    from torch.utils.checkpoint import checkpoint

    plain = Tiny(torch.bfloat16)
    packed = pack_module(copy.deepcopy(plain))
    grads = []
    for reentrant in (True, False):
        for model in (plain, packed):
            x = model.embed(IDS)
            for layer in model.layers:
                x = x + checkpoint(layer, x, use_reentrant=reentrant)
            x.float().square().sum().backward()
            grads.append([bits(p.grad) for p in model.parameters()])
            model.zero_grad()
    assert grads[0] == grads[1] == grads[2] == grads[3]
