"""Models whose weights are packed in the memory of a device, which is the emulator's here.

No GPU has run this: streams are those of a stand-in, and everything happens at once.
"""

import copy
import gc
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import densor
from densor.gpu import emulate
from densor.gpu.cuda import CudaBackend, CudaBuffer
from densor.gpu.emulate import EmulatedBackend

torch = pytest.importorskip("torch")
if emulate.compiler() is None:
    pytest.skip("no C++ compiler", allow_module_level=True)
nn = torch.nn

from cupy_stand_in import RawModule, torch_with_gpu  # noqa: E402
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

from densor.torch import (  # noqa: E402
    PackedTensor,
    check_module,
    memory_of,
    pack_module,
    pack_tensor,
    unpack_module,
)
from densor.torch.device import Device, open_device  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def on_device(model: Any, **options: Any) -> Any:
    """All matrices packed, small as they are."""
    options.setdefault("backend", "emulate")
    return pack_module(model, select=lambda name, p: p.ndim > 1, **options)


def held(model: Any) -> list[Any]:
    found = [p for p in model.parameters() if isinstance(p, PackedTensor)]
    assert found and all(p.cell.on is not None for p in found)
    return found


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kernels that were started, and what was allocated and copied."""
    made: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        method = getattr(EmulatedBackend, name)

        def call(self: Any, *args: Any) -> Any:
            made.append(args[0] if name == "launch" else name)
            return method(self, *args)

        return call

    for name in ("launch", "empty", "write"):
        monkeypatch.setattr(EmulatedBackend, name, noted(name))
    yield made


# Forward passes.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("level", [1, 6])
def test_forward_passes_are_identical(dtype: str, ahead: bool, level: int) -> None:
    plain = tiny(getattr(torch, dtype))
    packed = on_device(copy.deepcopy(plain), level=level, ahead=ahead)
    assert packed.embed.weight is packed.head.weight
    for name, parameter in plain.named_parameters():
        found = packed.get_parameter(name)  # plain where level 6 has chosen what no kernel decodes
        assert_same(found.unpack() if isinstance(found, PackedTensor) else found, parameter)
    for _ in range(3):
        assert_same(packed(IDS), plain(IDS))
        with torch.no_grad():
            assert_same(packed(IDS), plain(IDS))
        with torch.inference_mode():
            assert_same(packed(IDS), plain(IDS))
    if (dtype, level) != ("float16", 6):  # of which all are so small that no kernel decodes them
        assert all(p.cell.plain is None for p in held(packed))
    check_module(packed)


@pytest.mark.parametrize("tied", [False, True])
def test_models_of_transformers(tied: bool) -> None:
    pytest.importorskip("transformers", minversion="5.22")
    from hf_models import llama

    plain = llama(tied).eval()
    packed = on_device(copy.deepcopy(plain))
    assert len(held(packed)) == 2 * 7 + (1 if tied else 2)
    ids = torch.tensor([[1, 5, 9, 3], [1, 7, 2, 8]])
    with torch.no_grad():
        for _ in range(2):
            assert_same(packed(input_ids=ids).logits, plain(input_ids=ids).logits)
        options = {"max_new_tokens": 5, "do_sample": False}
        assert torch.equal(packed.generate(ids, **options), plain.generate(ids, **options))
    assert_same(packed(input_ids=ids).logits, plain(input_ids=ids).logits)


@pytest.mark.parametrize("first", [None, torch.inference_mode, torch.no_grad])
def test_gradients_are_those_of_the_plain_weights(first: Any) -> None:
    plain = tiny(torch.float32)
    packed = on_device(copy.deepcopy(plain))
    if first is not None:  # the buffers of such a pass are used again
        with first():
            for _ in range(2):
                packed(IDS)
    for model in (plain, packed):
        model(IDS).square().sum().backward()
    for name, parameter in plain.named_parameters():
        assert_same(packed.get_parameter(name).grad, parameter.grad)


def test_a_block_is_one_launch_and_later_passes_copy_nothing(launches: list[str]) -> None:
    """What a CUDA graph needs: kernels alone, and the same addresses in each pass."""
    plain = tiny()
    packed = on_device(copy.deepcopy(plain))
    assert len({id(p.cell.packed.uploaded.block) for p in held(packed)}) == 4
    with torch.no_grad():
        for number in range(5):
            launches.clear()
            assert_same(packed(IDS), plain(IDS))
            if number > 2:
                assert launches == 5 * ["huffman_bf16"]  # embedding, blocks, head


def test_weights_are_decoded_ahead_and_one_block_after_the_other() -> None:
    model = on_device(tiny())
    assert_one_block_is_plain_at_a_time(model)


def test_threads_may_share_a_model() -> None:
    plain, packed = tiny(), on_device(tiny())
    wrong = []

    def work(seed: int) -> None:
        ids = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(seed))
        for number in range(6):
            with torch.set_grad_enabled(number % 3 == 2):
                if bits(packed(ids)) != bits(plain(ids)):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_errors_leave_the_weights_packed() -> None:
    model = on_device(tiny())
    wanted = model(IDS)
    model.fail = ValueError("as told")
    for _ in range(2):
        with torch.no_grad(), pytest.raises(ValueError, match="as told"):
            model(IDS)
    model.fail = None
    with torch.no_grad():
        assert_same(model(IDS), wanted)
    held(model)


# Memory.


def test_memory() -> None:
    """Large weights take what their archives take, there and only there; small ones stay plain."""
    torch.manual_seed(0)
    plain = nn.ModuleList([nn.Linear(512, 1024) for _ in range(2)]).append(nn.Linear(9, 2000))
    plain = nn.Sequential(plain.to(torch.bfloat16))
    packed = pack_module(copy.deepcopy(plain), backend="emulate")
    assert type(packed[0][2].weight) is nn.Parameter
    arrays = [p.cell.packed for p in held(packed)]
    memory = memory_of(packed)
    assert memory.plain == sum(p.nbytes for p in plain.parameters())
    blocks = sum(array.uploaded.block.resident for array in arrays)
    beside = sum(p.nbytes for p in packed.parameters() if not isinstance(p, PackedTensor))
    assert memory.packed == blocks + beside and memory.ratio < 0.72
    for array in arrays:
        assert array.uploaded.kept < 0.01 * array.stored
    assert memory_of(unpack_module(packed)).ratio == 1


def test_archives_come_back_as_they_were() -> None:
    for level in (1, 3, 6):
        for tensor in (weight(300, 500), weight(100, 300, dtype=torch.float32), weight(0, 3)):
            host = pack_tensor(tensor, level)
            device = open_device(backend="emulate")
            assert device is not None
            (array,) = device.upload([host.cell.packed])
            assert array.download().blob.tobytes() == host.cell.packed.blob.tobytes()
            assert_same(array.decode(), tensor)


# Everything else that models do.


def test_moving_between_memories() -> None:
    plain = tiny()
    packed = on_device(pack_module(copy.deepcopy(plain), level=3))
    device = held(packed)[0].cell.on
    stored = [p.cell.packed for p in held(packed)]
    assert on_device(packed, backend=None)  # stays where it is
    assert all(a is p.cell.packed for a, p in zip(stored, held(packed), strict=True))
    assert held(packed)[0].cell.on is device
    assert_same(packed(IDS), plain(IDS))
    pack_module(packed, device="cpu")
    assert all(p.cell.on is None for p in packed.parameters() if isinstance(p, PackedTensor))
    assert packed.embed.weight is packed.head.weight
    with torch.no_grad():
        assert_same(packed(IDS), plain(IDS))
    on_device(packed)
    assert_same(packed(IDS), plain(IDS))


def test_states_copies_pickles_and_casts() -> None:
    plain, packed = tiny(), on_device(tiny())
    state = packed.state_dict()
    assert list(state) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert type(state[name]) is torch.Tensor
        assert_same(state[name], value)
    copies = [copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))]
    for value in state.values():
        value.mul_(2)
    packed.load_state_dict(state)
    for copied in copies:
        held(copied)
        with torch.no_grad():
            assert_same(copied(IDS), plain(IDS))
        assert_same(copied(IDS), plain(IDS))
    plain.load_state_dict(state)
    assert_same(packed(IDS), plain(IDS))
    plain, packed = plain.to(torch.float16), packed.to(torch.float16)
    held(packed)
    with torch.no_grad():
        assert_same(packed(IDS), plain(IDS))


def test_writing_to_a_weight_is_seen_by_the_next_pass() -> None:
    plain, packed = tiny(), on_device(tiny())
    assert_writes_are_seen(plain, packed)


def test_what_no_kernel_decodes_is_plain() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = nn.Parameter(torch.arange(9000) % 99, requires_grad=False)
            self.floats = nn.Parameter(weight(90, 100))

    model = Whole()
    wanted = copy.deepcopy(model.state_dict())
    pack_module(model, backend="emulate", select=lambda name, p: True)
    assert type(model.whole) is nn.Parameter and isinstance(model.floats, PackedTensor)
    for name, value in model.state_dict().items():
        assert_same(value, wanted[name])
    assert not model.whole.requires_grad and model.floats.requires_grad


def test_packed_tensors_can_be_given() -> None:
    plain = tiny()
    blobs = {name: densor.compress(value) for name, value in plain.state_dict().items()}
    with torch.device("meta"):
        model = Tiny()
    on_device(model, packed=blobs)
    assert model.embed.weight is model.head.weight
    assert_same(model.eval()(IDS), plain(IDS))
    name = "layers.0.1.weight"
    with pytest.raises(densor.DensorError, match=name):
        on_device(tiny(), packed={name: blobs[name][:-50]})


# Damage.


def test_what_a_device_decodes_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmulatedBackend, "launch", lambda *args: None)
    with pytest.raises(densor.ChecksumError):
        on_device(tiny())


def test_damage_in_a_device_is_told_of() -> None:
    model = on_device(tiny())
    array = model.layers[1][1].weight.cell.packed
    *_, coded, _ = sorted(
        array.uploaded._coded.tolist(), key=lambda row: row[1]
    )  # last: stored raw
    _, size, at = coded
    array.uploaded.block.data.array[at + size // 3 : at + size // 2] ^= 0x55
    with torch.no_grad():
        model(IDS)
    with pytest.raises(densor.ChecksumError):
        check_module(model)
    check_module(model)  # told once
    with pytest.raises(densor.ChecksumError):
        model.state_dict()
    with pytest.raises(densor.ChecksumError):
        pack_module(model, device="cpu")


# Where there is no GPU.


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    model = tiny()
    with pytest.raises(densor.UnsupportedError, match=r"densor\[gpu\]"):
        pack_module(model, device="cuda")
    assert not any(isinstance(p, PackedTensor) for p in model.parameters())
    pack_module(model, device="auto")
    assert isinstance(model.head.weight, PackedTensor) and model.head.weight.cell.on is None
    assert_same(model(IDS), tiny()(IDS))


@pytest.mark.usefixtures("cupy")
def test_without_a_torch_for_gpus() -> None:
    if torch.cuda.is_available():
        pytest.skip("this torch finds a GPU")
    with pytest.raises(densor.UnsupportedError, match="finds no GPU; install"):
        pack_module(tiny(), device="cuda:0")


def test_what_cannot_be() -> None:
    with pytest.raises(densor.ArgumentError, match="decoded on cuda by emulate"):
        pack_module(tiny(), device="cuda", backend="emulate")
    with pytest.raises(densor.ArgumentError, match="decoded on meta"):
        pack_module(tiny(), device="meta")
    with pytest.raises(densor.ArgumentError, match="unknown backend"):
        pack_module(tiny(), backend="abacus")
    packed = held(on_device(tiny()))[0]
    with pytest.raises(densor.ArgumentError, match="pack_module"):
        packed.data = torch.empty(packed.shape, dtype=packed.dtype, device="meta")


# Streams, as far as a stand-in for CuPy tells.


class NearBackend(CudaBackend):
    """CuPy's backend with a torch whose GPU is main memory."""

    def __init__(self) -> None:
        super().__init__()
        self.torch = torch_with_gpu(torch)

    def _torch(self) -> Any:  # type: ignore[override]
        return self.torch

    def wrap(self, array: Any) -> CudaBuffer:
        if isinstance(array, torch.Tensor):
            return CudaBuffer(array.data_ptr(), array.nbytes, array)
        return super().wrap(array)


@pytest.mark.usefixtures("cupy")
def test_streams_wait_for_each_other() -> None:
    """The side stream waits for the work on a buffer before it overwrites it, the current one for
    what is decoded before it uses it."""
    plain = tiny()
    device = Device(NearBackend(), torch.device("cpu"))
    packed = on_device(copy.deepcopy(plain), device=device, backend=None)
    side = device._stream._stream  # type: ignore[attr-defined]
    current = device.backend.current()  # type: ignore[attr-defined]
    with torch.no_grad():
        packed(IDS)
        order: list[str] = []
        side.wait_stream = lambda other: order.append("side waits")
        current.wait_stream = lambda other: order.append("current waits")
        for layer in packed.layers:
            layer[0].register_forward_hook(lambda module, args, output: order.append("block"))
        assert_same(packed(IDS), plain(IDS))
    # Ahead of each block the next is started; after each the side stream waits for its work.
    assert order.count("block") == 3
    for at in [i for i, step in enumerate(order) if step == "block"]:
        assert order[at - 2 : at + 2] == ["current waits", "side waits", "block", "side waits"]
    assert order[-1] == "current waits"  # a CUDA graph may not end with work beside it
    assert len(RawModule.made) == 1  # compiled once


def test_buffers_are_two() -> None:
    model = on_device(tiny())
    with torch.no_grad():
        for _ in range(3):
            model(IDS)
    hooks = model._forward_hooks.values()
    runtime = next(h.__self__ for h in hooks if hasattr(h, "__self__"))
    assert len(runtime._free) == 2
    del hooks, model
    gc.collect()
    assert runtime.device.memory(8).dtype == torch.uint8


def test_numpy_of_device_tensors() -> None:
    packed = held(on_device(tiny(torch.float32)))[0]
    assert isinstance(packed.detach().numpy(), np.ndarray)
    assert len(packed.tolist()) == packed.shape[0]
