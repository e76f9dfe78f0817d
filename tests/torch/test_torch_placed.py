"""Tensors that are decoded where they are copied to."""

import ctypes
import io
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch_tools import assert_same, weight

from densor.errors import DensorError, UnsupportedError
from densor.files.model_folder import pack_model
from densor.files.tensor_bytes import threads_of
from densor.formats.container.packed_array import PackedArray
from densor.formats.packed.reader import PackedFile
from densor.torch import placed, undecoded
from densor.torch.placed import placing
from densor.torch.undecoded import AtOnce, Part, Stored, Taker, Undecoded


def tensors() -> dict[str, torch.Tensor]:
    odd = weight(64, 96, seed=4, dtype=torch.float32)
    odd[0, :4] = torch.tensor([float("nan"), -0.0, float("inf"), 1e-40])
    return {
        "a": weight(200, 96, seed=1),
        "b": weight(64, 96, seed=2),
        "c": odd,
        "d": weight(96, 64, seed=3, dtype=torch.float16),
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> PackedFile:
    folder = tmp_path_factory.mktemp("placed")
    (folder / "plain").mkdir()
    (folder / "plain" / "config.json").write_text("{}")
    save_file(tensors(), folder / "plain" / "model.safetensors")
    pack_model(folder / "plain", folder / "packed")
    found = PackedFile(folder / "packed" / "model.safetensors")
    assert all(map(found.is_blob, tensors()))
    return found


def stored(file: PackedFile, name: str, mode: Taker | None = None) -> Stored:
    made = Stored(file, name)
    made.placing = mode
    return made


def slowly(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.2) -> list[int]:
    """Decoding takes its time; threads that decoded are noted."""
    original, threads = Part.decode_into, []

    def decode_into(self: Part, *args: Any) -> None:
        time.sleep(seconds)
        threads.append(threading.get_ident())
        original(self, *args)

    monkeypatch.setattr(Part, "decode_into", decode_into)
    return threads


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_copies_decode_in_rows_of_a_parameter(
    file: PackedFile, threads: int, inference: bool
) -> None:
    with torch.inference_mode(inference), torch.device("meta"):  # as engines make models
        fused = nn.Parameter(
            torch.full((264, 96), 7, dtype=torch.bfloat16, device="cpu"), requires_grad=False
        )
        whole = torch.zeros(64, 96, device="cpu")
        with placing(threads) as mode:
            for name, at in (("b", 0), ("a", 64)):
                tensor = stored(file, name, mode).tensor()
                wanted = tensors()[name]
                assert isinstance(tensor, Undecoded) and isinstance(tensor, torch.Tensor)
                assert tensor.shape == wanted.shape and tensor.dtype == wanted.dtype
                assert tensor.device.type == "cpu" and tensor.is_contiguous()
                rows = tensor.data.narrow(0, 0, len(wanted))[:].view(wanted.shape)
                fused.data.narrow(0, at, len(wanted)).copy_(rows)
            whole.copy_(stored(file, "c", mode).tensor().detach())
        assert mode.placed == 264 * 96 * 2 + 64 * 96 * 4 and not mode.elsewhere
    assert_same(fused, torch.cat([tensors()["b"], tensors()["a"]]))
    assert_same(whole, tensors()["c"])


USES: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda t: torch.empty(96, 200, dtype=t.dtype).t().copy_(t),  # not contiguous
    lambda t: torch.empty(200, 96).copy_(t),  # another type
    lambda t: torch.empty(2, 200, 96, dtype=t.dtype).copy_(t),  # repeated
    lambda t: torch.empty(200, 48, dtype=t.dtype).copy_(t[:, 48:]),
    lambda t: t[::2].clone(),
    lambda t: t.t().contiguous(),
    lambda t: t.view(torch.int16),
    lambda t: t.to(torch.float64),
    lambda t: torch.stack([t, t]),
    lambda t: t.clone().mul_(t),
    lambda t: torch.from_numpy(t.view(torch.int16).numpy().copy()),
    lambda t: torch.tensor(t[:2].tolist()),
    lambda t: t[:2].t().clone(),
    lambda t: t[50:60].zero_(),
    lambda t: pickle.loads(pickle.dumps(t)),
    lambda t: t.reshape(-1),
]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("use", USES)
def test_all_else_is_done_with_the_tensor(
    file: PackedFile, use: Callable[[torch.Tensor], torch.Tensor], inference: bool
) -> None:
    with torch.inference_mode(inference):
        wanted = use(tensors()["a"])
        with placing() as mode:
            made = stored(file, "a", mode)
            assert_same(use(made.tensor()), wanted)
            assert mode.elsewhere == 200 * 96 * 2 and not mode.placed
            assert_same(use(made.tensor()), wanted)  # is decoded once
            assert mode.elsewhere == 200 * 96 * 2
        assert_same(use(stored(file, "a").tensor()), wanted)


def rows_of_all() -> torch.Tensor:
    """What is stored in four chunks."""
    return weight(2048, 1024, seed=9)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> PackedFile:
    folder = tmp_path_factory.mktemp("wide")
    (folder / "plain").mkdir()
    (folder / "plain" / "config.json").write_text("{}")
    save_file({"w": rows_of_all()}, folder / "plain" / "model.safetensors")
    pack_model(folder / "plain", folder / "packed")
    found = PackedFile(folder / "packed" / "model.safetensors")
    assert found.is_blob("w") and len(list(found.array("w").chunks())) == 4
    return found


PARTS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda t: t.narrow(0, 300, 900),
    lambda t: t[1024:],
    lambda t: t.narrow(0, -5, 3),
    lambda t: t[7],
    lambda t: t.select(0, -1),
    lambda t: t.view(2, 1024, 1024)[1].narrow(0, 1, 2),
    lambda t: t.view(1, -1, 512)[:, 10:90].reshape(-1, 2),
    lambda t: t.detach().data[100:2000][5:7][:, :],
    lambda t: t[3][1000:],
    lambda t: t[5:5],
]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("threads", [0, 1])
def test_only_rows_that_are_wanted_are_decoded(
    wide: PackedFile,
    monkeypatch: pytest.MonkeyPatch,
    part: Callable[[torch.Tensor], torch.Tensor],
    threads: int,
) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("all of it was decoded")

    wanted = part(rows_of_all())
    monkeypatch.setattr(PackedFile, "read", never)
    with placing(threads) as mode:
        found = part(stored(wide, "w", mode).tensor())
        assert isinstance(found, Undecoded) and found.shape == wanted.shape
        target = torch.full_like(wanted, 7)
        target.copy_(found)
        if wanted.numel():
            mode.finish()
            assert mode.placed == wanted.nbytes and not mode.elsewhere
            assert mode.spared == rows_of_all().nbytes - wanted.nbytes
            again = part(stored(wide, "w", mode).tensor())  # another type, as another device
            assert_same(again.to(torch.float64), wanted.to(torch.float64))
            assert mode.elsewhere == wanted.nbytes
    assert_same(target, wanted)


def test_many_parts_do_not_take_more_than_twice_the_whole(
    wide: PackedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = PackedArray.decode_part

    def noted(self: PackedArray, begin: int, out: Any, workers: Any) -> None:
        decoded.append(self.cost(begin, begin + out.size))
        decode(self, begin, out, workers)

    monkeypatch.setattr(PackedArray, "decode_part", noted)
    with placing() as mode:
        made = stored(wide, "w", mode).tensor()
        targets = [torch.empty(1024, dtype=torch.bfloat16) for _ in range(64)]
        for i, target in enumerate(targets):
            target.copy_(made[i * 32])
    assert_same(torch.stack(targets), rows_of_all()[::32])
    assert 0 < sum(decoded) <= rows_of_all().nbytes
    assert mode.spared < rows_of_all().nbytes


def test_rows_of_a_tensor_that_was_written_to_are_those_written(wide: PackedFile) -> None:
    wanted = rows_of_all()
    with placing() as mode:
        made = stored(wide, "w", mode).tensor()
        early = torch.empty(9, 1024, dtype=torch.bfloat16).copy_(made[:9])
        made[3:5].zero_()
        made[8].view(torch.int16).add_(1)
        late = torch.empty(9, 1024, dtype=torch.bfloat16).copy_(made[:9])
    assert_same(early, wanted[:9])
    wanted[3:5].zero_()
    wanted[8].view(torch.int16).add_(1)
    assert_same(late, wanted[:9])


def test_rows_of_what_has_a_base_are_those_of_the_whole(
    wide: PackedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any) -> None:
        raise UnsupportedError("has a base")

    monkeypatch.setattr(PackedFile, "array", refused)
    target = torch.empty(100, 1024, dtype=torch.bfloat16)
    with placing() as mode:
        target.copy_(stored(wide, "w", mode).tensor()[500:600])
    assert_same(target, rows_of_all()[500:600])
    assert not mode.spared


def test_rows_that_are_not_there_are_refused_as_torch_does(wide: PackedFile) -> None:
    made = stored(wide, "w").tensor()
    for use in (
        lambda: made.narrow(0, 2000, 100),
        lambda: made.narrow(2, 0, 1),
        lambda: made[2048],
        lambda: made.view(3, -1),
        lambda: made.view(0, -1),
        lambda: made.narrow(0, 0, -1),
    ):
        with pytest.raises((RuntimeError, IndexError)):
            use()


def test_damage_in_rows_names_file_and_tensor(wide: PackedFile, tmp_path: Path) -> None:
    data = bytearray(wide.path.read_bytes())
    data[len(data) // 2] ^= 4
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(DensorError, match=r"model\.safetensors: tensor 'w': "), placing() as mode:
        target = torch.empty(1024, 1024, dtype=torch.bfloat16)
        target.copy_(stored(PackedFile(path), "w", mode).tensor()[512:1536])


def test_shapes_are_compared_and_nothing_is_written_to_meta(file: PackedFile) -> None:
    with placing() as mode:
        tensor = stored(file, "a", mode).tensor()
        torch.empty(200, 96, dtype=torch.bfloat16, device="meta").copy_(tensor)
        assert not mode.placed and not mode.elsewhere
        with pytest.raises(RuntimeError, match="size of tensor"):
            torch.empty(96, 200, dtype=torch.bfloat16).copy_(tensor)
        with pytest.raises(RuntimeError, match="leaf"):
            nn.Parameter(torch.empty(200, 96, dtype=torch.bfloat16)).copy_(tensor)
    assert "Undecoded('a', shape=(200, 96)" in repr(tensor)


def test_what_is_not_decoded_yet_is_waited_for(
    file: PackedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = slowly(monkeypatch)
    wanted = torch.cat([tensors()["b"], tensors()["a"]])
    with placing(2) as mode:
        fused = torch.zeros(264, 96, dtype=torch.bfloat16)
        fused[64:].copy_(stored(file, "a", mode).tensor())
        fused[:64].copy_(stored(file, "b", mode).tensor())
        assert not threads  # views of it have not waited
        assert_same(fused[200:].clone(), wanted[200:])
        assert torch.equal(fused + 0, wanted)
        fused[:64].copy_(stored(file, "b", mode).tensor())
        fused[:64].zero_()  # comes after the copy
    assert not fused[:64].any() and torch.equal(fused[64:], wanted[64:])
    assert threading.get_ident() not in threads


def test_new_tensors_wait_for_nothing(file: PackedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    original, go, decoded = Part.decode_into, threading.Event(), threading.Event()

    def decode_into(self: Part, *args: Any) -> None:
        go.wait(5)
        original(self, *args)
        decoded.set()

    monkeypatch.setattr(Part, "decode_into", decode_into)
    target = torch.zeros(64, 96, dtype=torch.bfloat16)
    norm = nn.Parameter(torch.zeros(96, dtype=torch.bfloat16), requires_grad=False)
    with placing(1) as mode:
        target.copy_(stored(file, "b", mode).tensor())
        plain = torch.from_numpy(np.ones(96, np.uint16)).view(torch.bfloat16)  # as files are read
        norm.data.copy_(plain)
        assert not decoded.is_set()
        go.set()
    assert_same(target, tensors()["b"])
    assert_same(norm.data, plain)


def test_many_wait_and_other_threads_decode_at_once(
    file: PackedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placed, "_MOST", 2)
    threads = slowly(monkeypatch, 0.01)
    targets = [torch.empty(64, 96, dtype=torch.bfloat16) for _ in range(9)]
    with placing(2) as mode:
        for target in targets[1:]:
            target.copy_(stored(file, "b", mode).tensor())
            assert len(mode._waiting) <= 2
        other = threading.Thread(
            target=lambda: targets[0].copy_(stored(file, "b", mode).tensor()), daemon=True
        )
        other.start()
        other.join()
        assert other.ident in threads
    for target in targets:
        assert_same(target, tensors()["b"])


def _in_memory(tensor: torch.Tensor) -> torch.Tensor:
    memory = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    return torch.frombuffer(bytearray(memory), dtype=tensor.dtype).reshape(tensor.shape)


def _saved(tensor: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    loaded: torch.Tensor = torch.load(file)
    return loaded


@pytest.mark.parametrize(
    "use",
    [
        _in_memory,
        _saved,
        lambda t: torch.tensor(t.tolist(), dtype=t.dtype),
        lambda t: torch.from_numpy(t.numpy().copy()),
        lambda t: torch.tensor(t.untyped_storage().tolist(), dtype=torch.uint8).view(t.dtype),
    ],
)
def test_what_is_read_without_operations_is_waited_for(
    file: PackedFile, monkeypatch: pytest.MonkeyPatch, use: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    slowly(monkeypatch)
    wanted = tensors()["d"]
    with placing(2) as mode:
        target = torch.zeros_like(wanted)
        target.copy_(stored(file, "d", mode).tensor())
        assert_same(use(target).reshape(wanted.shape), wanted)


def test_new_tensors_like_one_have_memory(file: PackedFile) -> None:
    made = stored(file, "d").tensor().new_tensor([1.5, 2.5])
    assert made.device.type == "cpu"
    assert_same(made, torch.tensor([1.5, 2.5], dtype=torch.float16))


def test_a_parameter_can_be_given_the_memory_of_one(file: PackedFile) -> None:
    with placing() as mode:
        parameter = nn.Parameter(torch.empty(0, dtype=torch.bfloat16), requires_grad=False)
        parameter.data = stored(file, "a", mode).tensor()
        assert parameter.data_ptr()
        assert_same(parameter.data, tensors()["a"])


@pytest.mark.parametrize("mode", [None, AtOnce()])
def test_no_parameter_is_given_memory_that_is_not_there(
    file: PackedFile, mode: AtOnce | None
) -> None:
    """Where nobody hears of it, as when an engine loads again."""
    tensor = stored(file, "a", mode).tensor()
    parameter = nn.Parameter(torch.zeros(200, 96, dtype=torch.bfloat16), requires_grad=False)
    with pytest.raises(RuntimeError, match="incompatible tensor type"):
        parameter.data = tensor
    assert not parameter.any()
    parameter.data = tensor.detach() + 0
    assert_same(parameter.data, tensors()["a"])
    assert tensor.device == torch.device("cpu") and tensor.is_cpu and not tensor.is_meta


def test_copies_decode_at_once(file: PackedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    read = Stored.read
    monkeypatch.setattr(Stored, "read", lambda self, out, n: used.append(n) or read(self, out, n))
    threads = slowly(monkeypatch, 0)
    mode, wanted = AtOnce(), tensors()
    fused = torch.zeros(264, 96, dtype=torch.bfloat16)
    for at, name in ((0, "a"), (200, "b")):
        rows = fused.narrow(0, at, len(wanted[name]))
        rows.copy_(stored(file, name, mode).tensor())
        assert_same(rows.clone(), wanted[name])
    assert mode.placed == fused.nbytes and not mode.elsewhere
    assert set(threads) == {threading.get_ident()}
    monkeypatch.setattr(undecoded, "_FOR_ALL", wanted["c"].nbytes)
    for name in ("c", "d"):
        target = torch.empty_like(wanted[name])
        target.copy_(stored(file, name, mode).tensor())
        assert_same(target, wanted[name])
    assert used == [1, 1, 0, 1]  # 0: all threads, which have nothing else to do
    assert_same(stored(file, "d", mode).tensor() + 0, wanted["d"])
    assert mode.elsewhere == wanted["d"].nbytes
    mode.check()
    mode.finish()


def test_copies_after_the_end(file: PackedFile) -> None:
    """As of what vLLM sees to once all has been loaded."""
    with placing(2) as mode:
        tensor = stored(file, "a", mode).tensor()
    target = torch.zeros(200, 96, dtype=torch.bfloat16)
    target.copy_(tensor)
    assert_same(target, tensors()["a"])


def test_damage_is_raised_and_nothing_goes_on(
    file: PackedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(file.path.read_bytes())
    data[-99] ^= 4  # in the last one
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    damaged = PackedFile(path)
    last = list(damaged.header.tensors)[-1]
    rest = [name for name in tensors() if name != last]
    threads = slowly(monkeypatch, 0.05)
    wanted = tensors()
    targets = {name: torch.empty_like(tensor) for name, tensor in wanted.items()}
    with (
        pytest.raises(DensorError, match=rf"model\.safetensors: tensor '{last}': "),
        placing(1) as mode,
    ):
        for name in [last, *rest]:
            targets[name].copy_(stored(damaged, name, mode).tensor())
    done = len(threads)
    time.sleep(0.2)
    assert len(threads) == done
    with pytest.raises(DensorError, match=rf"tensor '{last}'"):
        targets[last].copy_(stored(damaged, last).tensor())
    with pytest.raises(ZeroDivisionError), placing(1) as mode:
        for name in rest:
            targets[name].copy_(stored(damaged, name, mode).tensor())
        raise ZeroDivisionError
    targets[rest[0]].zero_()  # no mode is left


def test_a_large_tensor_is_for_all_threads_unless_others_keep_them_busy() -> None:
    large = 1 << 25
    assert threads_of(large, 4) == threads_of(large, 4, 8 * large) == 4
    assert threads_of(large, 4, 9 * large) == 1
    assert threads_of(large - 1, 4) == threads_of(large - 1, 4, large) == 1
    assert threads_of(large, 0, large) == 0  # all processors
