"""Torch tensors keep dtype, shape and every bit; what torch shares or marks does not matter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_state, weights

import densor

torch = pytest.importorskip("torch")

DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"),
)


def tensor_of(dtype: str, shape: tuple[int, ...], seed: object = 0) -> Any:
    """A tensor of random bits, NaN payloads and all."""
    wanted = getattr(torch, dtype)
    size = int(np.prod(shape)) * wanted.itemsize
    bits = random_state(dtype, shape, seed).integers(0, 2 if dtype == "bool" else 256, size)
    if not size:
        return torch.empty(shape, dtype=wanted)
    return torch.from_numpy(bits.astype(np.uint8)).view(wanted).reshape(shape)


def raw(tensor: Any) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def assert_same(restored: Any, original: Any) -> None:
    assert isinstance(restored, torch.Tensor)
    assert restored.dtype == original.dtype
    assert restored.shape == original.shape
    assert raw(restored) == raw(original)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (17,), (40, 333)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = tensor_of(dtype, shape)
    assert_same(densor.decompress(densor.compress(tensor)), tensor)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "complex64", "bool"])
def test_memory_layouts(dtype: str) -> None:
    tensor = tensor_of(dtype, (12, 8, 10))
    for view in (tensor.mT, tensor[::2], tensor[:, 1:3], tensor.transpose(0, 2), tensor[3]):
        assert_same(densor.decompress(densor.compress(view)), view)
    wide = tensor_of(dtype, (1, 8)).expand(5, 8)
    assert_same(densor.decompress(densor.compress(wide)), wide)


def test_gradients_parameters_and_lazy_views() -> None:
    number = tensor_of("complex64", (9, 7)).nan_to_num()
    wanted = torch.nn.Parameter(torch.randn(4, 5))
    for tensor in (wanted, wanted * 2, number.conj(), number.conj().T, number.conj().imag):
        restored = densor.decompress(densor.compress(tensor))
        assert_same(restored, tensor)
        assert not restored.requires_grad


def test_weights_in_bf16_shrink_by_a_third() -> None:
    bits = weights("bf16", 400, 1000)
    tensor = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    packed = densor.compress(tensor)
    assert_same(densor.decompress(packed, threads=2), tensor)
    assert len(packed) < 0.69 * bits.nbytes


def test_a_restored_tensor_can_be_written_to() -> None:
    for tensor in (torch.arange(5), torch.empty(0)):
        densor.decompress(densor.compress(tensor)).add_(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
        lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_unusual_tensors_are_refused(make: Any) -> None:
    with pytest.raises(densor.ArgumentError):
        densor.compress(make())


def test_meta_tensors_are_refused() -> None:
    with pytest.raises(densor.ArgumentError):
        densor.compress(torch.empty(3, device="meta"))


def test_tensors_by_name(tmp_path: Path) -> None:
    tensors = {dtype: tensor_of(dtype, (6, 50)) for dtype in DTYPES}
    path = tmp_path / "all.densor"
    densor.save_file(tensors, path, {"made": "here"})
    loaded = densor.load_file(path, "torch")
    assert set(loaded) == set(tensors)
    for dtype, tensor in tensors.items():
        assert_same(loaded[dtype], tensor)
    with densor.open(path, "pt") as file:
        assert file.metadata() == {"made": "here"}
        for dtype, tensor in tensors.items():
            part = file.get_slice(dtype)
            assert_same(part[2:4], tensor[2:4])
            assert_same(part[-1], tensor[-1])
            assert_same(part[1:5, 3:9], tensor[1:5, 3:9])


def test_what_safetensors_reads_is_what_was_saved(tmp_path: Path) -> None:
    load = pytest.importorskip("safetensors.torch").load_file
    tensors = {
        dtype: tensor_of(dtype, (5, 8)) for dtype in ("bfloat16", "float32", "int64", "bool")
    }
    tensors["scalar"] = torch.tensor(3.0)
    densor.save_file(tensors, tmp_path / "x.safetensors.densor", {"format": "pt"})
    densor.decompress_file(tmp_path / "x.safetensors.densor", tmp_path / "x.safetensors")
    loaded = load(tmp_path / "x.safetensors")
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert_same(loaded[name], tensor)


def test_archives_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.densor"
    with densor.Writer(path) as writer:
        writer.add_tensor("plain", tensor_of("float16", (3, 4)).T)
        writer.add_tensor("as bf16", tensor_of("uint16", (30, 40)), dtype="bf16")
    with densor.open(path, "torch") as file:
        assert_same(file.get_tensor("plain"), tensor_of("float16", (3, 4)).T)
        assert file.get_tensor("as bf16").dtype == torch.bfloat16
        assert raw(file.get_tensor("as bf16")) == raw(tensor_of("uint16", (30, 40)))
