"""Modules that compute with packed weights: results, state, what they refuse."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch_tools import assert_same, bits, weight

import densor.torch
from densor.errors import ArgumentError, ChecksumError, DensorError, UnsupportedError
from densor.torch import products

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
DTYPES = (torch.bfloat16, torch.float16)


class Model(nn.Module):
    """Embedding, blocks with biases, a head tied to the embedding."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16, blocks: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(300, 128)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 200), nn.GELU(), nn.Linear(200, 128))
            for _ in range(blocks)
        )
        self.head = nn.Linear(128, 300, bias=False)
        self.head.weight = self.embed.weight
        self.to(dtype)

    def forward(self, ids: torch.Tensor) -> Any:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


def packed(module: nn.Module, mode: str = "product") -> Any:
    return densor.torch.pack_module(copy.deepcopy(module), mode=mode)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packing_changes_no_bit(dtype: torch.dtype) -> None:
    """The same logits as the same loop over plain weights, and close to PyTorch's own."""
    plain = Model(dtype)
    product, loop = packed(plain), packed(plain, "plain_product")
    assert len(list(products.packed_parts(product))) in (4, 6)
    for tokens in (1, 3, 8, 9, 30):
        ids = torch.arange(tokens)[None] * 7 % 300
        with torch.no_grad():
            found, wanted, theirs = product(ids), loop(ids), plain(ids)
        assert_same(found, wanted)
        assert torch.allclose(found.float(), theirs.float(), atol=0.1, rtol=0.05)
    ratio = densor.torch.memory_of(product).ratio
    assert ratio < (0.83 if dtype == torch.bfloat16 else 0.98)


def test_plain_product() -> None:
    linear = nn.Linear(100, 60).bfloat16()
    found = densor.torch.pack_module(copy.deepcopy(linear), mode="product", select=lambda *_: True)
    for shape in ((100,), (1, 100), (2, 4, 100)):
        x = weight(*shape, seed=3) * 50
        assert_same(found(x), densor.torch.plain_product(x, linear.weight, linear.bias))
    with pytest.raises(ArgumentError, match="8 tokens"):
        densor.torch.plain_product(weight(9, 100), linear.weight)
    with pytest.raises(ArgumentError):
        densor.torch.plain_product(weight(1, 100), linear.weight.float())


def test_results_do_not_depend_on_threads_or_strides() -> None:
    linear = packed(nn.Linear(576, 640).bfloat16())
    x = weight(5, 576, seed=1)
    wanted = linear(x)
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert_same(linear(x), wanted)
    torch.set_num_threads(before)
    assert_same(linear(x.t().contiguous().t()), wanted)
    assert_same(linear(x.repeat(1, 2)[:, :576]), wanted)
    for row in range(5):
        assert_same(linear(x[row]), wanted[row])


def test_more_tokens_are_computed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Linear(96, 200).bfloat16()
    linear = packed(plain)
    x = weight(20, 96, seed=2)
    assert_same(linear(x), plain(x).detach())
    monkeypatch.setattr(products, "_PIECE", 96 * 2 * 33)
    assert torch.allclose(linear(x).float(), plain(x).float(), atol=0.01)


def test_state_and_unpacking() -> None:
    plain = Model()
    module = packed(plain)
    state, wanted = module.state_dict(), plain.state_dict()
    assert list(state) == list(wanted)
    assert state["embed.weight"] is state["head.weight"]
    for name, value in wanted.items():
        assert_same(state[name], value)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    other = packed(Model())
    other.load_state_dict(state)
    ids = torch.arange(4)[None]
    assert_same(other(ids), module(ids))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict({**state, "head.weight": weight(3, 3)})
    again = densor.torch.unpack_module(copy.deepcopy(module))
    assert type(again.head) is nn.Linear and again.head.weight is again.embed.weight
    for name, value in again.state_dict().items():
        assert_same(value, wanted[name])
    assert_same(module(ids), pickle.loads(pickle.dumps(module))(ids))


def test_the_weight_can_be_looked_at() -> None:
    plain = nn.Linear(128, 96).bfloat16()
    module = packed(plain)
    assert module.weight.shape == (96, 128) and module.weight.dtype == torch.bfloat16
    assert bits(module.weight.unpack()) == bits(plain.weight)
    assert_same(module.weight[3:5] * 2, plain.weight.detach()[3:5] * 2)
    with pytest.raises(DensorError), torch.no_grad():
        module.weight.mul_(2)


def test_subclasses_keep_what_they_do() -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 3

    plain = Scaled(300, 64).bfloat16()
    module = packed(plain)
    assert isinstance(module, Scaled) and list(products.packed_parts(module))
    ids = torch.tensor([[5, 299], [0, 5]])
    assert_same(module(ids), plain(ids).detach())
    with pytest.raises(IndexError):
        module(torch.tensor([300]))


def test_what_is_refused() -> None:
    module = packed(nn.Linear(256, 64).bfloat16())
    with pytest.raises(UnsupportedError, match="gradients"):
        module(weight(1, 256).requires_grad_())
    with torch.no_grad():
        module(weight(1, 256).requires_grad_())
    for wrong in (weight(1, 256).float(), weight(1, 255), torch.tensor(1.0).bfloat16()):
        with pytest.raises(ArgumentError):
            module(wrong)
    with pytest.raises(UnsupportedError, match="unpack_module"):
        module.float()
    with pytest.raises(UnsupportedError, match="CPU"):
        densor.torch.pack_module(Model(), mode="product", device="cpu")
    with pytest.raises(ArgumentError, match="mode"):
        densor.torch.pack_module(Model(), mode="other")
    with pytest.raises(ArgumentError, match="packed already"):
        densor.torch.pack_module(packed(Model()))
    with pytest.raises(ArgumentError, match="packed already"):
        densor.torch.pack_module(densor.torch.pack_module(Model()), mode="product")
    with pytest.raises(UnsupportedError, match="process"):
        torch.ops.densor.linear(weight(1, 256), None, 1 << 40)


def test_what_stays_plain() -> None:
    mixed = nn.ModuleDict(
        {
            "wide": nn.Linear(256, 64),
            "small": nn.Linear(16, 16).bfloat16(),
            "limited": nn.Embedding(300, 64, max_norm=1.0).bfloat16(),
            "narrow": nn.Linear(3, 4096).bfloat16(),
        }
    )
    assert not list(products.packed_parts(densor.torch.pack_module(mixed, mode="product")))


def test_blobs_are_taken_and_checked() -> None:
    plain = Model()
    blobs = {
        name: densor.compress(parameter.detach(), 1)
        for name, parameter in plain.named_parameters()
        if parameter.ndim > 1
    }
    blobs["layers.0.0.weight"] = densor.compress(plain.layers[0][0].weight.detach(), 1)
    meta = copy.deepcopy(plain)
    for name in blobs:
        path, _, last = name.rpartition(".")
        part = meta.get_submodule(path)
        part._parameters[last] = nn.Parameter(
            torch.empty_like(part._parameters[last], device="meta")
        )
    meta.head.weight = meta.embed.weight
    module = densor.torch.pack_module(meta, mode="product", packed=blobs)
    ids = torch.arange(4)[None]
    assert_same(module(ids), packed(plain)(ids))
    damaged = bytearray(blobs["embed.weight"])
    damaged[-60] ^= 1
    with pytest.raises(DensorError, match=r"embed\.weight"):
        densor.torch.pack_module(
            copy.deepcopy(plain), mode="product", packed={"embed.weight": bytes(damaged)}
        )
    with pytest.raises(ArgumentError, match="no parameter"):
        densor.torch.pack_module(copy.deepcopy(plain), mode="product", packed={"other": b""})


def test_a_wrong_layout_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from densor.products.matrix import Matrix

    monkeypatch.setattr(Matrix, "unpack", lambda self, *args: 0)
    with pytest.raises(ChecksumError):
        densor.torch.pack_module(Model(), mode="product")


def test_operators_have_fakes_and_compile() -> None:
    """One graph, without breaks; the fakes give the shapes and types of results."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = packed(Model(blocks=1))
    number = module.head.packed_weight.number
    with FakeTensorMode():
        found = torch.ops.densor.linear(torch.empty(2, 5, 128, dtype=torch.bfloat16), None, number)
        rows = torch.ops.densor.embedding(torch.empty(2, 5, dtype=torch.long), number)
    assert found.shape == (2, 5, 300) and found.dtype == torch.bfloat16
    assert rows.shape == (2, 5, 128) and rows.dtype == torch.bfloat16
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    ids = torch.arange(3)[None]
    with torch.no_grad():
        assert_same(compiled(ids), module(ids))
