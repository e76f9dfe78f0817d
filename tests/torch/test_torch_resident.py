"""Models with packed weights compute the same bits, and stay models in every other respect."""

import copy
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import densor
from densor.formats.container.packed_array import PackedArray
from densor.runtime.workers import Workers

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional

from torch_tools import (  # noqa: E402
    IDS,
    Tiny,
    assert_one_block_is_plain_at_a_time,
    assert_same,
    assert_writes_are_seen,
    bits,
    one_thread,  # noqa: F401
    tiny,
    weight,
)

from densor.torch import from_packed, pack_module, pack_tensor, unpack_module  # noqa: E402
from densor.torch.packed import PackedTensor, unpacked  # noqa: E402
from densor.torch.resident import memory_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


# Packed arrays.


@pytest.mark.parametrize("level", [1, 3, 6, 9])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float8_e4m3fn", "int8"])
def test_packed_arrays_decode_again_and_again(dtype: str, level: int) -> None:
    tensor = (weight(70, 513, dtype=torch.float32) * 500).to(getattr(torch, dtype))
    array = PackedArray(densor.compress(tensor, level))
    for threads in (1, 2):
        out = np.empty(array.size, np.uint8)
        array.decode_into(out, Workers(threads))
        assert out.tobytes() == bits(tensor)
    assert array.shape == (70, 513)
    array.verify(Workers(1))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (7,)])
def test_small_and_empty_ones(shape: tuple[int, ...]) -> None:
    tensor = torch.full(shape, float("nan"), dtype=torch.bfloat16)
    assert_same(pack_tensor(tensor).unpack(), tensor)


def test_equal_batches_are_stored_once() -> None:
    part = weight(3072, 4096)  # a batch
    tensor = torch.cat([part, part])
    array = PackedArray(densor.compress(tensor, 1, 2))
    assert array.stored < 0.4 * array.size
    out = np.empty(array.size, np.uint8)
    array.decode_into(out, Workers(2))
    assert out.tobytes() == bits(tensor)


def test_chunks_can_be_decoded_alone(tiny_batches: Callable[[int], None]) -> None:
    tiny_batches(1 << 12)
    tensor = weight(100, 256)
    array = PackedArray(densor.compress(tensor))
    stretches = array.chunks_of([0, 5000, 5001, array.size - 1])
    assert 2 <= len(stretches) <= 3
    whole = bits(tensor)
    for begin, end in stretches:
        out = np.empty(end - begin, np.uint8)
        for job in array.jobs(out, begin):
            job()
        assert out.tobytes() == whole[begin:end]
    with pytest.raises(densor.ArgumentError):
        array.jobs(np.empty(1, np.uint8))


def test_damage_never_goes_unnoticed(rng: np.random.Generator) -> None:
    blob = densor.compress(weight(60, 300))
    for end in [*range(0, 400, 7), *range(400, len(blob), 997)]:
        with pytest.raises(densor.DensorError):
            PackedArray(blob[:end])
    with pytest.raises(densor.FormatError):
        PackedArray(blob + b"x")
    for _ in range(300):
        at, bit = int(rng.integers(len(blob))), int(rng.integers(8))
        damaged = bytearray(blob)
        damaged[at] ^= 1 << bit
        with pytest.raises(densor.DensorError):
            PackedArray(bytes(damaged)).verify(Workers(1))


def test_what_cannot_stay_packed_is_refused() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    with pytest.raises(densor.UnsupportedError):
        PackedArray(densor.compress(b"bytes"))
    with pytest.raises(densor.UnsupportedError):
        PackedArray(densor.compress(np.asfortranarray(array)))
    with pytest.raises(densor.UnsupportedError):
        PackedArray(densor.compress(np.repeat(array, 999), base=np.repeat(array, 999)))
    file = io.BytesIO()
    with densor.Writer(file) as writer:
        writer.add_tensor("a", array)
        writer.add_tensor("b", array)
    with pytest.raises(densor.FormatError, match="more than one"):
        PackedArray(file.getvalue())
    for tensor in (torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.ones(4, 4).T):
        with pytest.raises(densor.ArgumentError):
            pack_tensor(tensor if tensor.is_sparse or tensor.is_meta else tensor[:, 1:])


# Packed tensors.


def test_it_is_a_tensor_and_a_parameter() -> None:
    plain = nn.Parameter(weight(300, 512))
    packed = pack_tensor(plain)
    assert isinstance(packed, PackedTensor) and isinstance(packed, nn.Parameter)
    assert packed.shape == plain.shape and packed.dtype == plain.dtype
    assert packed.requires_grad and packed.is_leaf
    assert packed.stored < 0.7 * packed.nbytes
    assert_same(packed.unpack(), plain)
    assert_same(packed.detach().float() * 2, plain.detach().float() * 2)
    assert "300, 512" in repr(packed)
    assert packed.tolist()[7] == plain.tolist()[7]
    assert np.array_equal(packed.detach().float().numpy(), plain.detach().float().numpy())
    view = pack_tensor(plain.data.view(torch.int16))
    assert np.array_equal(view.numpy(), plain.data.view(torch.int16).numpy())
    assert np.array_equal(np.asarray(view), plain.data.view(torch.int16).numpy())
    with pytest.raises(RuntimeError, match="detach"):
        packed.numpy()


def test_views_stay_packed() -> None:
    plain = weight(30, 40, 50)
    packed = pack_tensor(plain)
    views: list[Callable[[Any], Any]] = [
        lambda t: t.transpose(0, 2),
        lambda t: t[3:7, ::2],
        lambda t: t.permute(2, 0, 1)[4],
        lambda t: t.reshape(30, 2000).t(),
        lambda t: t.unsqueeze(1).expand(30, 5, 40, 50)[:, 3],
        lambda t: t.flatten()[17],
        lambda t: t.split(11, dim=1)[1],
        lambda t: t.data,
    ]
    for view in views:
        found = view(packed)
        assert isinstance(found, PackedTensor)
        assert_same(found.unpack(), view(plain))
    assert_same(packed.view(torch.int16), plain.view(torch.int16))


def test_writing_packs_anew() -> None:
    plain, packed = weight(40, 500), pack_tensor(weight(40, 500))
    other = weight(40, 500, seed=1)
    steps: list[Callable[[Any], Any]] = [
        lambda t: t.add_(other),
        lambda t: t.mul_(3).sub_(1),
        lambda t: t[5].zero_(),
        lambda t: t.t()[3].copy_(other[:, 7]),
        lambda t: t.copy_(other.float() * 3),
        lambda t: t.__setitem__((slice(2, 4), 9), float("nan")),
        lambda t: torch.add(other, 1, out=t),
        lambda t: torch._foreach_mul_([t, t[:3]], 0.5),
    ]
    for step in steps:
        step(plain)
        step(packed)
        assert_same(packed.unpack(), plain)
    assert packed.add_(1) is packed


def test_copies_do_not_share_what_is_written() -> None:
    packed = pack_tensor(nn.Parameter(weight(50, 200)))
    wanted = packed.unpack()
    stream = io.BytesIO()
    torch.save(packed, stream)
    stream.seek(0)
    copies = [
        copy.deepcopy(packed),
        pickle.loads(pickle.dumps(packed)),
        torch.load(stream, weights_only=False),
    ]
    with torch.no_grad():
        packed.zero_()
    for copied in copies:
        assert isinstance(copied, PackedTensor) and isinstance(copied, nn.Parameter)
        assert copied.requires_grad
        assert_same(copied.unpack(), wanted)
    assert not packed.unpack().any()


def test_setting_data_keeps_it_packed() -> None:
    packed = pack_tensor(nn.Parameter(weight(50, 200)))
    packed.data = weight(50, 200, seed=1)
    assert_same(packed.unpack(), weight(50, 200, seed=1))
    packed.data += 1
    assert_same(packed.unpack(), weight(50, 200, seed=1) + 1)
    packed.data = weight(20, 30, dtype=torch.float32)
    assert isinstance(packed, PackedTensor) and packed.shape == (20, 30)
    assert_same(packed.unpack(), weight(20, 30, dtype=torch.float32))
    packed.data = pack_tensor(weight(50, 200))
    assert_same(packed.unpack(), weight(50, 200))


def test_elements_at_hand_within_a_block() -> None:
    packed, plain = pack_tensor(weight(50, 200)), weight(50, 200)
    with unpacked(packed, plain):
        packed.add_(1)
        packed[3].mul_(2)
        assert packed.cell.plain is not None
    plain.add_(1)[3].mul_(2)
    assert packed.cell.plain is None
    assert_same(packed.unpack(), plain)
    with pytest.raises(ValueError), unpacked(packed):
        packed.zero_()
        raise ValueError
    assert not packed.unpack().any()


def test_embedding_decodes_only_rows_that_are_looked_up(
    tiny_batches: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_batches(1 << 13)
    jobs = PackedArray.jobs
    for columns in (40, 300, 5000):  # rows within chunks, and across them
        plain = weight(400, columns)
        packed = pack_tensor(plain)
        decoded: list[int] = []

        def counted(self: Any, out: Any, begin: int = 0) -> Any:
            decoded.append(out.size)  # noqa: B023
            return jobs(self, out, begin)

        monkeypatch.setattr(PackedArray, "jobs", counted)
        ids = torch.tensor([[7, 399], [7, 0]])
        assert_same(F.embedding(ids, packed), F.embedding(ids, plain))
        assert sum(decoded) < packed.nbytes / 4 or columns == 40
        every = torch.arange(400).flip(0)
        assert_same(F.embedding(every, packed), F.embedding(every, plain))
    with pytest.raises(IndexError):
        F.embedding(torch.tensor([400]), packed)
    with pytest.raises(IndexError):
        F.embedding(torch.tensor([-1]), packed)
    assert F.embedding(torch.empty(0, dtype=torch.int64), packed).shape == (0, 5000)


def test_gradients_are_those_of_the_plain_weight() -> None:
    plain = nn.Parameter(weight(64, 96))
    packed = pack_tensor(plain)
    saved: list[Any] = []

    def keep(tensor: Any) -> Any:
        saved.append(tensor)
        return tensor

    grads = []
    for w in (plain, packed):
        x = weight(5, 7, 96, seed=3).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = F.gelu(F.linear(x, w)) @ w[:, :10]
        y.float().square().sum().backward()
        grads.append((y, x.grad, w.grad))
        w.grad = None
    for one, other in zip(*grads, strict=True):
        assert_same(one, other)
    kept = [t for t in saved if t.shape[-1] in (64, 96) and t.numel() >= 64 * 96]
    assert sum(type(t) is not PackedTensor for t in kept) == sum(
        t is plain or t._base is plain or t.data_ptr() == plain.data_ptr()
        for t in kept
        if type(t) is not PackedTensor
    )


def test_blobs_become_packed_tensors() -> None:
    plain = weight(90, 200)
    blob = densor.compress(plain, 6)
    assert_same(from_packed(blob).unpack(), plain)
    held = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
    packed = from_packed(held)
    assert packed.cell.packed.blob.ctypes.data == held.data_ptr()  # not copied
    assert_same(packed.unpack(), plain)
    damaged = bytearray(blob)
    damaged[len(blob) // 2] ^= 4
    with pytest.raises(densor.ChecksumError):
        from_packed(bytes(damaged))


# Modules.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("level", [1, 6])
def test_forward_passes_are_identical(dtype: str, ahead: bool, level: int) -> None:
    plain = tiny(getattr(torch, dtype))
    packed = pack_module(copy.deepcopy(plain), level, ahead=ahead)
    assert packed.embed.weight is packed.head.weight
    assert isinstance(packed.layers[1][3].weight, PackedTensor)
    for _ in range(3):
        assert_same(packed(IDS), plain(IDS))
        with torch.no_grad():
            assert_same(packed(IDS), plain(IDS))
        with torch.inference_mode():
            assert_same(packed(IDS), plain(IDS))
    assert all(isinstance(layer[1].weight, PackedTensor) for layer in packed.layers)
    assert all(layer[1].weight.cell.plain is None for layer in packed.layers)


def test_memory() -> None:
    plain = tiny()
    packed = pack_module(copy.deepcopy(plain))
    memory = memory_of(packed)
    assert memory.plain == sum(p.nbytes for p in plain.parameters())
    assert memory.ratio < 0.70
    assert memory_of(unpack_module(packed)).ratio == 1


def test_blocks_are_decoded_one_by_one() -> None:
    """While a block computes, its weights alone are plain; afterwards none are."""
    model = pack_module(tiny(), ahead=False)
    assert_one_block_is_plain_at_a_time(model)


def test_weights_of_the_model_itself_do_not_make_it_one_block() -> None:
    class Owner(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(weight(96, 96, seed=5))

        def forward(self, ids: Any) -> Any:
            x = self.embed(ids) @ self.own
            for layer in self.layers:
                x = x + layer(x)
            return self.head(x)

    torch.manual_seed(0)
    plain = Owner().eval()
    model = pack_module(copy.deepcopy(plain), ahead=False)
    seen = []
    model.layers[1][2].register_forward_hook(
        lambda module, args, output: seen.append(
            [type(p) is nn.Parameter for p in (model.own, model.layers[0][1].weight)]
        )
    )
    with torch.no_grad():
        assert_same(model(IDS), plain(IDS))
    assert seen == [[True, False]]
    assert_same(model(IDS), plain(IDS))


def test_packing_again_packs_what_is_plain() -> None:
    model = pack_module(tiny())
    wanted = model(IDS)
    model.layers[0][1].weight = nn.Parameter(model.layers[0][1].weight.unpack())
    pack_module(model)
    assert isinstance(model.layers[0][1].weight, PackedTensor)
    assert len(model.layers[0]._forward_hooks) == 1
    assert_same(model(IDS), wanted)


def test_what_is_to_be_packed_can_be_chosen() -> None:
    model = pack_module(tiny(), select=lambda name, p: name.endswith("3.weight"))
    assert type(model.layers[0][1].weight) is nn.Parameter
    assert type(model.head.weight) is nn.Parameter
    assert isinstance(model.layers[0][3].weight, PackedTensor)
    assert_same(model(IDS), tiny()(IDS))
    other = tiny()
    pack_module(other, blocks=[other.layers])
    with torch.no_grad():
        assert_same(other(IDS), tiny()(IDS))


def test_states_hold_plain_tensors() -> None:
    plain, packed = tiny(), pack_module(tiny())
    state = packed.state_dict()
    assert list(state) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert type(state[name]) is torch.Tensor
        assert_same(state[name], value)
    part = packed.layers[1].state_dict()
    assert all(type(value) is torch.Tensor for value in part.values())
    for value in state.values():
        value.mul_(2)
    packed.load_state_dict(state)
    plain.load_state_dict(state)
    assert isinstance(packed.layers[0][1].weight, PackedTensor)
    assert_same(packed(IDS), plain(IDS))


def test_copies_and_pickles_of_modules() -> None:
    plain, packed = tiny(), pack_module(tiny())
    with torch.no_grad():
        packed(IDS)
    copies = [copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))]
    for p in packed.parameters():
        p.data.zero_()
    for copied in copies:
        assert copied.embed.weight is copied.head.weight
        assert memory_of(copied).ratio < 0.70
        with torch.no_grad():
            assert_same(copied(IDS), plain(IDS))
        assert all(type(value) is torch.Tensor for value in copied.state_dict().values())


def test_casts_keep_weights_packed() -> None:
    plain, packed = tiny(), pack_module(tiny())
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        plain, packed = plain.to(dtype), packed.to(dtype)
        assert isinstance(packed.layers[0][1].weight, PackedTensor)
        assert packed.embed.weight is packed.head.weight
        with torch.no_grad():
            assert_same(packed(IDS), plain(IDS))
        assert_same(packed(IDS), plain(IDS))


def test_errors_leave_the_weights_packed() -> None:
    model = pack_module(tiny())
    wanted = model(IDS)
    model.fail = ValueError("as told")
    for _ in range(2):
        with torch.no_grad(), pytest.raises(ValueError, match="as told"):
            model(IDS)
    with torch.no_grad(), pytest.raises(RuntimeError):
        model.layers[0](torch.ones(3, 5, dtype=torch.bfloat16))
    model.fail = None
    assert isinstance(model.layers[0][1].weight, PackedTensor)
    with torch.no_grad():
        assert_same(model(IDS), wanted)


def test_interrupts_leave_the_model_usable() -> None:
    """PyTorch calls no hooks after an interrupt."""
    model = pack_module(tiny())
    wanted = model(IDS)
    for stop in (False, True):
        for layer in model.layers:
            handle = layer[2].register_forward_pre_hook(interrupt)
            with torch.no_grad(), pytest.raises(KeyboardInterrupt):
                model(IDS)
            handle.remove()
            with torch.set_grad_enabled(stop):
                assert_same(model(IDS), wanted)
    assert isinstance(model.layers[0][1].weight, PackedTensor)
    assert all(p.cell.plain is None for p in model.parameters() if isinstance(p, PackedTensor))


def interrupt(module: Any, args: Any) -> None:
    raise KeyboardInterrupt


def test_writing_to_a_weight_is_seen_by_the_next_pass() -> None:
    plain, packed = tiny(), pack_module(tiny())
    assert_writes_are_seen(plain, packed)


def test_threads_may_share_a_model() -> None:
    plain, packed = tiny(), pack_module(tiny())
    wrong = []

    def work(seed: int) -> None:
        ids = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            for _ in range(15):
                if bits(packed(ids)) != bits(plain(ids)):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert isinstance(packed.layers[0][1].weight, PackedTensor)


def test_packed_tensors_can_be_given() -> None:
    plain = tiny()
    blobs = {
        name: densor.compress(value)
        for name, value in plain.state_dict().items()
        if name.startswith("layers") or name == "head.weight"
    }
    with torch.device("meta"):
        model = Tiny()
    pack_module(model, packed=blobs)
    assert model.embed.weight is model.head.weight
    assert not any(p.is_meta for p in model.parameters())
    assert_same(model.eval()(IDS), plain(IDS))
    name = "layers.0.1.weight"
    with pytest.raises(densor.ArgumentError, match=name):
        pack_module(tiny(), packed={name: blobs["layers.0.3.weight"]})
    with pytest.raises(densor.ArgumentError, match="no parameter 'nothing'"):
        pack_module(tiny(), packed={"nothing": b""})
    with pytest.raises(densor.DensorError, match=name):
        pack_module(tiny(), packed={name: blobs[name][:-50]})


def test_bad_levels_are_refused() -> None:
    with pytest.raises(densor.ArgumentError):
        pack_module(tiny(), 10)


@pytest.mark.filterwarnings("ignore")
def test_fused_encoder_layers() -> None:
    """PyTorch's own encoder has a fused path in inference, which looks into the weights."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    plain = nn.TransformerEncoder(layer, 2).eval()
    packed = pack_module(copy.deepcopy(plain))
    x = torch.randn(2, 9, 64)
    with torch.no_grad():
        assert_same(packed(x), plain(x))
    assert_same(packed(x.requires_grad_()), plain(x))


def test_convolutions() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(16, 64, 5), nn.ReLU(), nn.ConvTranspose2d(64, 24, 3)).eval()
    packed = pack_module(copy.deepcopy(plain))
    assert isinstance(packed[0].weight, PackedTensor)
    x = torch.randn(2, 16, 12, 12)
    assert_same(packed(x), plain(x))
    with torch.no_grad():
        assert_same(packed(x), plain(x))


def test_compiling_gives_the_same_bits() -> None:
    """Every block is a graph break: compiled pieces lie between."""
    plain, packed = tiny(), pack_module(tiny())
    compiled = torch.compile(packed, backend="eager")
    with torch.no_grad():
        assert_same(compiled(IDS), plain(IDS))
    x = compiled(IDS)
    assert_same(x, plain(IDS))


@pytest.mark.parametrize("wants", [True, False])
@pytest.mark.parametrize("make", ["linear", "decoder", "attention", "bilinear"])
def test_the_same_bits_whatever_the_layout_of_the_input(make: str, wants: bool) -> None:
    """PyTorch chooses kernels by whether a weight wants a gradient; each has results of its own."""
    torch.manual_seed(0)
    plain: Any = {
        "linear": lambda: torch.nn.Linear(128, 256),
        "decoder": lambda: torch.nn.TransformerDecoderLayer(128, 4, 256, batch_first=True),
        "attention": lambda: torch.nn.MultiheadAttention(128, 4),
        "bilinear": lambda: torch.nn.Bilinear(128, 16, 32),
    }[make]()
    plain.eval().requires_grad_(wants)
    packed = pack_module(copy.deepcopy(plain))
    for mode in (torch.no_grad, torch.inference_mode):
        for _ in range(3):
            x = torch.randn(2, 7, 128).transpose(0, 1)
            more = {"linear": (), "bilinear": (torch.randn(2, 7, 16).transpose(0, 1),)}
            inputs = (x, *more.get(make, (x,) * (2 if make == "attention" else 1)))
            with mode():
                one, other = plain(*inputs), packed(*inputs)
            if make == "attention":
                one, other = one[0], other[0]
            assert torch.equal(one, other)
            assert one.requires_grad == other.requires_grad
    for parameter in packed.parameters():
        assert parameter.requires_grad == wants
