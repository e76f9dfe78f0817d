"""Every element type of numpy, ml_dtypes, torch and safetensors is stored and restored as such."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_state

import densor
from densor import dtypes
from densor.errors import ArgumentError

ml_dtypes: Any = pytest.importorskip("ml_dtypes")
torch: Any = pytest.importorskip("torch")
from densor.torch import safetensors  # noqa: E402

LEVELS = (1, 3, 6, 9)


def of_ml_dtypes() -> list[str]:
    names = []
    for name, kind in vars(ml_dtypes).items():
        if isinstance(kind, type) and issubclass(kind, np.generic):
            names.append(name)
    return sorted(names)


def of_torch() -> list[str]:
    kinds = {str(kind) for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
    return sorted(name.removeprefix("torch.") for name in kinds)


QUANTIZED = ("qint8", "quint8", "qint32", "quint4x2", "quint2x4")  # more than their elements


def noise(name: str, count: int) -> Any:
    return random_state(name).integers(0, 256, count, np.uint8)


def test_there_is_something_to_test() -> None:
    assert len(of_ml_dtypes()) >= 12 and len(of_torch()) >= 30


@pytest.mark.parametrize("name", of_ml_dtypes())
def test_arrays_of_ml_dtypes(name: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, name))
    for shape in ((40, 60), (), (0, 3), (7,)):
        count = int(np.prod(shape))
        array = noise(name, count * kind.itemsize).view(kind).reshape(shape)
        for level in LEVELS:
            back = densor.decompress(densor.compress(array, level))
            assert back.dtype == kind and back.shape == shape
            assert back.tobytes() == array.tobytes()
        turned = densor.decompress(densor.compress(array.T))
        assert turned.dtype == kind and turned.tobytes() == array.T.tobytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", of_torch())
def test_tensors_of_torch(name: str) -> None:
    kind = getattr(torch, name)
    if name in QUANTIZED:
        return
    for shape in ((40, 60), (0, 3), (7,)):
        count = int(np.prod(shape))
        raw = noise(name, count * kind.itemsize) & (1 if name == "bool" else 255)
        tensor = torch.empty(shape, dtype=kind)
        if count:
            tensor = torch.from_numpy(raw).view(kind).reshape(shape)
        for level in LEVELS:
            back = densor.decompress(densor.compress(tensor, level))
            assert back.dtype == kind and back.shape == shape
            assert not count or (back.reshape(-1).view(torch.uint8).numpy() == raw).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_tensors_are_refused(name: str) -> None:
    tensor = torch.from_numpy(noise(name, 64)).view(getattr(torch, name))
    with pytest.raises(ArgumentError, match=name):
        densor.compress(tensor)


def test_tables_are_consistent() -> None:
    assert not set(dtypes.PACKED) & set(dtypes.SIZES)
    for name in [*dtypes.SIZES, *dtypes.PACKED]:
        coded, shape = dtypes.coding_of(name, (6, 8))
        count = int(np.prod(shape)) * dtypes.SIZES[coded]
        assert name == "VOID" or count == dtypes.nbytes(name, 48), name
        assert dtypes.coding_of(coded, shape) == (coded, shape)
        assert dtypes.to_numpy(name).itemsize == dtypes.SIZES.get(name, 1), name


SAFETENSORS = ("F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "C64", "BF16")


@pytest.mark.parametrize("name", SAFETENSORS)
def test_files_of_safetensors(name: str, tmp_path: Path) -> None:
    import json
    import struct

    shape = (24, 40)
    size = dtypes.nbytes(name, 24 * 40)
    assert size is not None
    data = noise(name, 100 + size)
    header = {
        "a": {"dtype": "U8", "shape": [100], "data_offsets": [0, 100]},
        "q": {"dtype": name, "shape": list(shape), "data_offsets": [100, 100 + size]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data.tobytes())
    for level in LEVELS:
        archive = tmp_path / "x.densor"
        densor.compress_file(path, archive, level, overwrite=True)
        back = io.BytesIO()
        densor.decompress_file(archive, back)
        assert back.getvalue() == path.read_bytes()
        with densor.open(archive) as file:
            assert file.info("q")[1:4] == (name, shape, size)
            assert file.get_tensor("q").tobytes() == data[100:].tobytes()
            assert file.get_slice("q")[3:5].tobytes() == file.get_tensor("q")[3:5].tobytes()
        found = densor.load_file(archive, "torch")
        assert sorted(found) == ["a", "q"]
        assert (found["q"].reshape(-1).view(torch.uint8).numpy() == data[100:]).all()
    plain = safetensors.load_file(path)  # without being packed
    assert sorted(plain) == ["a", "q"] and plain["q"].dtype == found["q"].dtype


def test_types_without_a_name_in_safetensors_are_refused(tmp_path: Path) -> None:
    for array in (np.ones(4, ml_dtypes.float8_e3m4), np.ones(4, ml_dtypes.int4)):
        with pytest.raises(ArgumentError):
            densor.save({"a": array})
    for kind in (torch.complex32, torch.bits8):
        tensor = torch.zeros(8, dtype=torch.uint8).view(kind)
        with pytest.raises(ArgumentError):
            safetensors.save_packed_file({"a": tensor}, tmp_path / "x")


def test_pairs_of_four_bits_in_safetensors(tmp_path: Path) -> None:
    kind = getattr(torch, "float4_e2m1fn_x2", None)
    if kind is None:
        pytest.skip("this torch has no such type")
    tensor = torch.from_numpy(noise("x2", 48)).view(kind).reshape(6, 8)
    path = tmp_path / "x"
    safetensors.save_packed_file({"a": tensor}, path)
    densor.save_file({"a": tensor}, tmp_path / "y")
    for found in (safetensors.load_file(path), densor.load_file(tmp_path / "y", "torch")):
        assert found["a"].dtype == kind and found["a"].shape == (6, 8)
        assert (found["a"].view(torch.uint8) == tensor.view(torch.uint8)).all()


@pytest.mark.parametrize(
    "name", ["bfloat16", "float8_e5m2", "float8_e4m3fnuz", "int4", "complex32"]
)
def test_npy_of_ml_dtypes(name: str, tmp_path: Path) -> None:
    kind = getattr(ml_dtypes, name, None)
    if kind is None:
        pytest.skip("this ml_dtypes has no such type")
    array = noise(name, 4800).view(kind).reshape(4, -1)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", w=array, other=np.ones(3))
    for path, key in ((tmp_path / "x.npy", "x"), (tmp_path / "x.npz", "w")):
        archive = path.with_suffix(path.suffix + ".densor")
        densor.compress_file(path, archive)
        with densor.open(archive) as file:
            told = name == "complex32" and kind(0).dtype.kind == "c"
            if told or name in ("bfloat16", "float8_e5m2"):  # which numpy's own name tells
                assert file.get_tensor(key).dtype == array.dtype
                assert file.get_tensor(key).tobytes() == array.tobytes()
            else:
                assert key in file.opaque()


def test_a_type_that_nobody_knows_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 4), np.complex64))
    raw = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(raw.replace(b"<c8", b"<q8"))
    densor.compress_file(tmp_path / "x.npy", tmp_path / "x.densor")
    with densor.open(tmp_path / "x.densor") as file:
        assert file.opaque() == {"x": "<q8"}


def test_similar_types_are_coded_alike() -> None:
    """The variants of a type take what the type does: fields of bits are told apart."""
    weights = (random_state("alike").standard_normal((200, 300)) * 0.02).astype(np.float32)
    for one, others in (
        ("float8_e4m3fn", ("float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e4m3")),
        ("float8_e5m2", ("float8_e5m2fnuz",)),
    ):
        raw = weights.astype(getattr(ml_dtypes, one)).view(np.uint8)
        for level, other in itertools.product((3, 6), others):
            size = len(densor.compress(raw.view(getattr(ml_dtypes, one)), level))
            assert len(densor.compress(raw.view(getattr(ml_dtypes, other)), level)) <= size + 30
