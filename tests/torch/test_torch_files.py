"""densor.torch: files of tensors, called like those of safetensors."""

import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from hf_models import damaged, same  # noqa: E402
from safetensors import safe_open as plain_open  # noqa: E402
from torch_tools import bits  # noqa: E402

import densor  # noqa: E402
import densor.torch  # noqa: E402
from densor.errors import (  # noqa: E402
    ArgumentError,
    DensorError,
    FileError,
    UnsupportedError,
)
from densor.formats.packed.reader import PackedFile  # noqa: E402


def tensors():
    torch.manual_seed(0)
    found = {
        "weight": torch.randn(60, 80),
        "brain": torch.randn(50, 90).to(torch.bfloat16),
        "half": torch.randn(70, 40).to(torch.float16),
        "eight": torch.randn(90, 90).to(torch.float8_e4m3fn),
        "double": torch.randn(30, 40, dtype=torch.float64),
        "long": torch.arange(900).reshape(30, 30),
        "bool": torch.arange(5000) % 7 == 0,
        "transposed": torch.randn(60, 70).T,
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
    }
    found["nan"] = torch.randn(2000)
    found["nan"].view(torch.int32)[::3] = 0x7FC01234
    return found


@pytest.fixture(params=["packed", "plain", "archive"])
def path(request, tmp_path):
    """The same tensors in every kind of file that can be read."""
    path = tmp_path / "file"
    metadata = {"format": "pt", "by": "hand"}
    if request.param == "packed":
        densor.torch.save_packed_file(tensors(), path, metadata)
    elif request.param == "plain":
        plain = {name: tensor.contiguous() for name, tensor in tensors().items()}
        safetensors.torch.save_file(plain, path, metadata)
    else:
        densor.save_file(tensors(), path, metadata)
    return path


def test_load_file(path):
    found = densor.torch.load_file(path)
    wanted = tensors()
    assert sorted(found) == sorted(wanted)
    same(wanted, {name: found[name] for name in wanted})
    found["weight"].add_(1)  # it has memory of its own
    again = densor.torch.load_file(str(path))
    same(wanted, {name: again[name] for name in wanted})


def test_safe_open(path):
    wanted = tensors()
    with densor.torch.safe_open(path, framework="pt", device="cpu") as file:
        assert sorted(file.keys()) == sorted(file.offset_keys()) == sorted(wanted)
        assert file.metadata() == {"format": "pt", "by": "hand"}
        for name, tensor in wanted.items():
            assert bits(file.get_tensor(name)) == bits(tensor)
            piece = file.get_slice(name)
            assert piece.get_shape() == list(tensor.shape)
            assert bits(piece[...]) == bits(tensor)
        assert bits(file.get_slice("weight")[3:9, 2]) == bits(wanted["weight"][3:9, 2])
        assert file.get_slice("brain").get_dtype() == "BF16"
        with pytest.raises(KeyError):
            file.get_tensor("none")
    with densor.torch.safe_open(path, "np") as file:
        assert file.get_tensor("weight").tobytes() == bits(wanted["weight"])


def test_signatures_are_those_of_safetensors(path, tmp_path):
    for load in (safetensors.torch.load_file, densor.torch.load_file):
        load(filename=densor_free(tmp_path), device="cpu")
    for save in (safetensors.torch.save_file, densor.torch.save_packed_file):
        name = tmp_path / save.__module__
        save(tensors={"a": torch.ones(3)}, filename=name, metadata={"c": "d"})
    with densor.torch.safe_open(filename=path, framework="pt", device="cpu"):
        pass


def densor_free(tmp_path):
    path = tmp_path / "plain"
    safetensors.torch.save_file({"a": torch.ones(3)}, path)
    return path


def test_unpacking_gives_a_plain_file(tmp_path):
    wanted = {name: tensor.contiguous() for name, tensor in sorted(tensors().items())}
    densor.torch.save_packed_file(wanted, tmp_path / "packed", {"format": "pt"}, level=2)
    with open(tmp_path / "out", "wb") as out:
        PackedFile(tmp_path / "packed").unpack(out)
    found = safetensors.torch.load_file(tmp_path / "out")
    same(wanted, dict(sorted(found.items())))
    assert (tmp_path / "packed").stat().st_size < (tmp_path / "out").stat().st_size
    for name in ("packed", "out"):
        with plain_open(tmp_path / name, "pt") as file:
            assert file.metadata()["format"] == "pt"


def test_against_a_folder(tmp_path):
    from densor.files.model_folder import pack_model

    for name, change in (("base", 0.0), ("new", 1e-3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        model = {"weight": tensors()["weight"] * (1 + change)}
        safetensors.torch.save_file(model, tmp_path / name / "model.safetensors")
    pack_model(tmp_path / "new", tmp_path / "packed", base=tmp_path / "base")
    path = tmp_path / "packed" / "model.safetensors"
    same(model, densor.torch.load_file(path, base=tmp_path / "base"))
    with pytest.raises(ArgumentError, match="weight"):
        densor.torch.load_file(path)


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "file"
    tied = torch.randn(40, 40)
    for bad in (
        {"a": tied, "b": tied[:20]},
        {"a": 3},
        {3: tied},
        {"__metadata__": tied},
        {"a": tied.to_sparse()},
        {"a": torch.empty(3, device="meta")},
        {"a": torch.empty(4, dtype=torch.complex32)},
        {"a": torch.empty(4, dtype=torch.uint8).view(torch.bits8)},
    ):
        with pytest.raises(ArgumentError):
            densor.torch.save_packed_file(bad, path)
    with pytest.raises(ArgumentError):
        densor.torch.save_packed_file({"a": tied}, path, {"b": 1})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_loaded(path, tmp_path):
    with pytest.raises(FileError, match="none"):
        densor.torch.load_file(tmp_path / "none")
    with pytest.raises(UnsupportedError, match="jax"):
        densor.torch.safe_open(path, "jax")
    data = path.read_bytes()
    for content in (b"", data[:100], data[:-1]):
        path.write_bytes(content)
        with pytest.raises(DensorError):
            densor.torch.load_file(path)


def test_damage_names_file_and_tensor(tmp_path):
    path = tmp_path / "file"
    densor.torch.save_packed_file(tensors(), path)
    end = PackedFile(path).header.tensors["weight"].end
    damaged(path, end - 100)
    with pytest.raises(DensorError, match="file: tensor 'weight'"):
        densor.torch.load_file(path)


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    densor.torch.save_packed_file({"a": torch.ones(3)}, path)
    before = path.read_bytes()

    from densor.formats.container import tensor_blob

    monkeypatch.setattr(tensor_blob, "encode", lambda *args, **options: pickle.loads(b"bad"))
    with pytest.raises(pickle.UnpicklingError):
        densor.torch.save_packed_file(tensors(), path, overwrite=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in Path(tmp_path).iterdir()] == ["file"]


def test_blobs_in_tensors():
    import numpy as np

    from densor.formats.container import tensor_blob
    from densor.torch.blob import decoded

    tensor = tensors()["brain"]
    info = tensor_blob.Tensor("layer.weight", "BF16", tuple(tensor.shape), tensor.nbytes, None)
    packed = tensor_blob.encode(info, np.frombuffer(bits(tensor), np.uint8))
    held = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
    assert bits(decoded(held, "model.layer.weight")) == bits(tensor)
    assert decoded(tensor, "layer.weight") is tensor
    with pytest.raises(DensorError, match="another"):
        decoded(held, "another")
    held[-1] ^= 1
    with pytest.raises(DensorError, match=r"layer\.weight"):
        decoded(held, "layer.weight")
