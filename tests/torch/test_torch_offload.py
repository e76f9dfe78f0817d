"""Weights that stay on disk, or packed in memory, and are decoded ahead of each block."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_tools import assert_same, weight

import densor.torch
from densor.errors import (
    ArgumentError,
    ChecksumError,
    DensorError,
    FileError,
    TruncatedError,
    UnsupportedError,
)
from densor.formats.packed.stored_array import StoredArray

BLOCKS = 3


class Model(nn.Module):
    """An embedding, blocks, a head that is tied to the embedding, and a buffer."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, 128, dtype=torch.bfloat16)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(128, 256, dtype=torch.bfloat16),
                nn.ReLU(),
                nn.Linear(256, 128, dtype=torch.bfloat16),
            )
            for _ in range(BLOCKS)
        )
        self.head = nn.Linear(128, 300, bias=False, dtype=torch.bfloat16)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(ids)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


def model(sparse: bool = False) -> Model:
    """With every kind of number in its weights; `sparse`: 60 % of them are 0."""
    made = Model()
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            if parameter.ndim > 1:
                parameter.copy_(weight(*parameter.shape, seed=i))
            if sparse:
                keep = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(i)) > 0.6
                parameter.mul_(keep)
            parameter.view(-1)[:2] = torch.tensor([-0.0, 1e-40])
    return made.eval()


def saved(made: nn.Module, folder: Path, *, packed: bool = True, shards: bool = False) -> Path:
    """A folder with the weights of a model."""
    folder.mkdir()
    tensors = {name: p.detach() for name, p in made.named_parameters()}
    parts = {"model.safetensors": tensors}
    if shards:
        names = sorted(tensors)
        files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        parts = {file: {n: tensors[n] for n in names[i::2]} for i, file in enumerate(files)}
        index = {name: file for file, part in parts.items() for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for file, part in parts.items():
        if packed:
            densor.torch.save_packed_file(part, folder / file)
        else:
            from safetensors.torch import save_file

            save_file(part, folder / file)
    return folder


def empty(tied: bool = True) -> Model:
    """A model without memory for weights."""
    with torch.device("meta"):
        return Model(tied).eval()


IDS = torch.arange(24).reshape(2, 12) * 7 % 300


def bits(made: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(made(IDS)).view(torch.int16)


MAPS = {
    "disk": "disk",
    "cpu": "cpu",
    "mixed": {"": "cpu", "blocks": "disk", "blocks.1": "cpu", "blocks.2.0.weight": "cpu"},
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("places", MAPS)
def test_the_same_bits(places: str, packed: bool, tmp_path: Path) -> None:
    plain = model(sparse=places == "disk")
    folder = saved(plain, tmp_path / "m", packed=packed, shards=places == "mixed")
    for ahead in (True, False):
        made = densor.torch.offload(empty(), folder, MAPS[places], ahead=ahead)
        for _ in range(3):  # from the second on, in the order of the first
            assert torch.equal(bits(made), bits(plain))
        for name, value in plain.state_dict().items():
            assert_same(made.state_dict()[name], value)
        found = densor.torch.offloaded(made)
        assert (found.on_disk > 0) == (places != "cpu")
        assert (found.packed > 0) == (places != "disk" and packed)
        assert found.taken >= found.on_disk
        if places == "disk":
            share = (0.55 if packed else 1.0) * sum(p.nbytes for p in made.parameters())
            assert found.on_disk <= share


def test_one_thread(tmp_path: Path) -> None:
    plain = model()
    folder = saved(plain, tmp_path / "m")
    made = densor.torch.offload(empty(), folder, threads=1)
    assert torch.equal(bits(made), bits(plain))


def test_a_copy_and_what_is_written_to(tmp_path: Path) -> None:
    plain = model()
    made = densor.torch.offload(empty(), saved(plain, tmp_path / "m"))
    other = copy.deepcopy(made)
    again = pickle.loads(pickle.dumps(made))
    assert densor.torch.offloaded(again).on_disk == 0  # a pickle needs no file
    for some in (other, again):
        assert torch.equal(bits(some), bits(plain))
    with torch.no_grad():
        other.blocks[0][0].weight.mul_(2)
        plain.blocks[0][0].weight.mul_(2)
    assert torch.equal(bits(other), bits(plain))
    assert not torch.equal(bits(made), bits(plain))
    assert torch.equal(bits(densor.torch.unpack_module(made)), bits(again))


def test_gradients_are_those_of_the_plain_module(tmp_path: Path) -> None:
    plain = model()
    made = densor.torch.offload(empty(), saved(plain, tmp_path / "m"))
    for some in (plain, made):
        some(IDS).float().square().mean().backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in made.named_parameters():
        assert_same(parameter.grad, wanted[name].grad)


def blob_place(folder: Path, name: str) -> tuple[Path, int]:
    """The file of a tensor, and a place in the middle of its blob."""
    from densor.formats.packed.reader import PackedFile

    path = folder / "model.safetensors"
    found = PackedFile(path).header.tensors[name]
    return path, (found.begin + found.end) // 2


NAME = "blocks.1.0.weight"


def flipped(folder: Path, name: str = NAME) -> None:
    path, place = blob_place(folder, name)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def test_damage_is_found_when_a_folder_is_opened(tmp_path: Path) -> None:
    folder = saved(model(), tmp_path / "m")
    flipped(folder)
    with pytest.raises(ChecksumError, match=rf"model\.safetensors: tensor '{NAME}'"):
        densor.torch.offload(empty(), folder)
    with pytest.raises(ChecksumError, match=rf"model\.safetensors: tensor '{NAME}'"):
        densor.torch.offload(empty(), folder, "cpu")


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_that_changes_later_ends_in_an_error(packed: bool, tmp_path: Path) -> None:
    plain = model()
    folder = saved(plain, tmp_path / "m", packed=packed)
    made = densor.torch.offload(empty(), folder)
    assert torch.equal(bits(made), bits(plain))
    flipped(folder)
    with pytest.raises(ChecksumError, match=rf"model\.safetensors: tensor '{NAME}'.*changed"):
        made(IDS)
    flipped(folder)
    assert torch.equal(bits(made), bits(plain))
    path, place = blob_place(folder, NAME)
    with path.open("r+b") as file:
        file.truncate(place)
    with pytest.raises(TruncatedError, match=r"model\.safetensors: tensor '"):
        made(IDS)


def _missing_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def _cut(folder: Path) -> None:
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def _no_file(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "kind", "text"),
    [
        (_missing_shard, FileError, r"model-00002-of-00002\.safetensors: is missing.*'blocks"),
        (_cut, TruncatedError, r"model-00002-of-00002\.safetensors: has \d+ bytes"),
        (_no_file, FileError, "holds no model"),
    ],
)
def test_folders_that_lack_something(
    spoil: Callable[[Path], None], kind: type[DensorError], text: str, tmp_path: Path
) -> None:
    folder = saved(model(), tmp_path / "m", shards=True)
    spoil(folder)
    with pytest.raises(kind, match=text):
        densor.torch.offload(empty(), folder)


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    folder = saved(model(), tmp_path / "m")
    with pytest.raises(ArgumentError, match=r"has no tensors \['head\.weight'\]"):
        densor.torch.offload(empty(tied=False), folder)
    other = empty()
    other.blocks[1][0] = nn.Linear(128, 260, bias=False, device="meta")
    text = rf"{NAME}: .*has shape \(256, 128\), not \(260, 128\)"
    with pytest.raises(ArgumentError, match=text):
        densor.torch.offload(other, folder)
    with pytest.raises(ArgumentError, match="not 'cuda'"):
        densor.torch.offload(empty(), folder, "cuda")
    with pytest.raises(ArgumentError, match="says nothing of 'embed"):
        densor.torch.offload(empty(), folder, {"blocks": "disk"})
    with_buffer = empty()
    with_buffer.register_buffer("scale", torch.empty(3, device="meta"))
    with pytest.raises(ArgumentError, match="buffer 'scale' is on the meta device"):
        densor.torch.offload(with_buffer, folder)


def test_weights_against_a_base_are_refused(tmp_path: Path) -> None:
    from densor.options import WriteOptions

    plain = model()
    base = saved(plain, tmp_path / "base", packed=False)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.view(-1)[::50].mul_(1.01)
    folder = tmp_path / "m"
    folder.mkdir()
    tensors = {name: p.detach() for name, p in plain.named_parameters()}
    densor.torch.save_packed_file(
        tensors, folder / "model.safetensors", options=WriteOptions(base=str(base))
    )
    for place in ("disk", "cpu"):
        with pytest.raises(UnsupportedError, match=r"model\.safetensors: tensor '.*base"):
            densor.torch.offload(empty(), folder, place)


def test_a_stored_array_reads_no_more_than_what_is_asked_for(tmp_path: Path) -> None:
    from densor.formats.packed.reader import PackedFile
    from densor.formats.packed.stored_array import OpenFile

    tensors = {"a": weight(3000, 2000, seed=1), "none": torch.empty(0, 5)}
    densor.torch.save_packed_file(tensors, tmp_path / "model.safetensors")
    file = PackedFile(tmp_path / "model.safetensors")
    source = OpenFile(file.path)
    array = StoredArray(file, "a", source)
    assert source.taken == array.on_disk
    begin, end = array.chunks_of([0])[0]
    assert end < array.size
    out = np.empty(end - begin, np.uint8)
    for job in array.jobs(out):
        job()
    assert source.taken < 2 * array.on_disk
    assert out.tobytes() == tensors["a"].view(torch.uint8).numpy().tobytes()[:end]
    with pytest.raises(ArgumentError):
        array.jobs(out[1:])
    nothing = StoredArray(file, "none", source)
    assert nothing.size == 0 and not nothing.jobs(np.empty(0, np.uint8))
