"""Packed safetensors files and folders of models, without torch and transformers."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_state, safetensors_bytes, weights, with_header
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from densor.dtypes import SIZES
from densor.errors import ArgumentError, DensorError, FileError, FormatError, TruncatedError
from densor.files import packed_model
from densor.files.model_folder import pack_model, unpack_model
from densor.formats.container import tensor_blob
from densor.formats.container.tensor_blob import Tensor
from densor.formats.packed import writer
from densor.formats.packed.reader import PackedFile
from densor.formats.packed.writer import pack_file
from densor.options import WriteOptions

RANDOM = random_state("packed")
TENSORS = {
    "model.embed.weight": ("BF16", (64, 96), weights("bf16", 64, 96).tobytes()),
    "model.layers.0.proj.weight": ("F16", (48, 80), weights("fp16", 48, 80).tobytes()),
    "model.norm.weight": ("F32", (48,), np.ones(48, np.float32).tobytes()),
    "noise": ("U8", (5000,), RANDOM.bytes(5000)),
    "zeros": ("I64", (600,), bytes(4800)),
    "empty": ("F32", (0, 7), b""),
    "one": ("F64", (), b"\0" * 8),
    "of a type of the future": ("F6_X", (6000,), bytes(4500)),
}


def plain_file(path: Path, tensors=TENSORS, metadata=None) -> Path:
    path.write_bytes(safetensors_bytes(tensors, metadata))
    return path


def packed_file(plain: Path, path: Path, base=None, **options) -> Path:
    with open(path, "wb") as out:
        pack_file(PackedFile(plain), out, WriteOptions(**options), base)
    return path


def unpacked(path: Path, base_of=None) -> bytes:
    out = io.BytesIO()
    PackedFile(path).unpack(out, base_of=base_of)
    return out.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder with two shards and all that may stand beside them."""
    folder = tmp_path / "model"
    (folder / "onnx").mkdir(parents=True)
    names = list(TENSORS)
    index: dict[str, dict[str, str]] = {"weight_map": {}}
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        part = {key: TENSORS[key] for key in names[number - 1 :: 2]}
        plain_file(folder / name, part, {"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"architectures": ["None"],\n "rope": 1e-05}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Größe")
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(TENSORS))
    (folder / "consolidated.safetensors").write_bytes(safetensors_bytes(TENSORS))
    (folder / "onnx" / "model.onnx").write_bytes(bytes(9))
    os.symlink(folder / "config.json", folder / "link.json")
    return folder


def test_a_packed_file_is_a_valid_safetensors_file(tmp_path: Path) -> None:
    numpy_of = pytest.importorskip("safetensors.numpy")
    known = {name: item for name, item in TENSORS.items() if item[0] in SIZES}
    plain = plain_file(tmp_path / "plain", known, {"format": "pt", "b": "ü"})
    path = packed_file(plain, tmp_path / "packed")
    assert path.stat().st_size < 0.8 * plain.stat().st_size
    assert unpacked(path) == plain.read_bytes() == unpacked(plain)
    file = PackedFile(path)
    assert [name for name in file if file.is_blob(name)] == [
        "model.embed.weight",
        "model.layers.0.proj.weight",
        "zeros",
    ]
    found = numpy_of.load_file(path)
    assert sorted(found) == sorted(known)
    for name, (dtype, shape, data) in known.items():
        assert file.info(name) == Tensor(name, dtype, shape, len(data), None)
        assert file.read(name).tobytes() == data
        array = found[name]
        stored = (np.uint8, (file.stored(name).size,))
        assert not file.is_blob(name) or (array.dtype, array.shape) == stored
        assert file.is_blob(name) or array.tobytes() == data
    assert file.metadata == {"format": "pt", "b": "ü"}


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_that_is_cut_after_it_was_opened(packed: bool, tmp_path: Path) -> None:
    """The system ends a process that looks at pages of a map that the file has no longer."""
    path = plain_file(tmp_path / "plain")
    file = PackedFile(packed_file(path, tmp_path / "packed") if packed else path)
    last = max(file.header.tensors, key=lambda name: file.header.tensors[name].begin)
    os.truncate(file.path, file.header.tensors[last].begin)
    uses = [file.stored, file.read, *([file.describe] if packed else [])]
    for use in uses:
        with pytest.raises(TruncatedError, match="was cut after it was opened"):
            use(last)
    with pytest.raises(TruncatedError, match="was cut after it was opened"):
        file.unpack(io.BytesIO())
    with pytest.raises(FileError, match="changed while it was read"):
        file.check_unchanged()


def test_a_folder_is_on_the_disk_before_it_takes_the_place_of_another(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_model(model, tmp_path / "packed")
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda number: synced.add(os.fstat(number).st_ino))
    for work, source in ((pack_model, model), (unpack_model, tmp_path / "packed")):
        work(source, tmp_path / "out", overwrite=True)
        assert not synced
        work(source, tmp_path / "out", overwrite=True)
        found = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
        assert synced >= {path.stat().st_ino for path in found}
        shutil.rmtree(tmp_path / "out")
        synced.clear()


def test_a_model_that_changes_while_it_is_packed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = model / "model-00001-of-00002.safetensors"
    content = weights.read_bytes()

    def changing(*arguments: Any, **keywords: Any) -> None:
        pack_file(*arguments, **keywords)
        os.utime(weights, (1, 1))
        weights.write_bytes(content[:-1] + b"?")

    monkeypatch.setattr(writer, "pack_file", changing)
    with pytest.raises(FileError, match="changed while it was read"):
        pack_model(model, tmp_path / "out", verify=False)
    assert not (tmp_path / "out").exists()


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    """Readers that map files into memory want elements where their size divides the offset."""
    file = PackedFile(packed_file(plain_file(tmp_path / "plain"), tmp_path / "packed"))
    for name, stored in file.header.tensors.items():
        size = 1 if file.is_blob(name) else SIZES.get(stored.dtype, 1)
        assert stored.begin % size == 0, name


@pytest.mark.parametrize("level", [1, 6, 9])
def test_levels(tmp_path: Path, level: int) -> None:
    plain = plain_file(tmp_path / "plain")
    path = packed_file(plain, tmp_path / "packed", level=level)
    assert unpacked(path) == plain.read_bytes()


@pytest.mark.parametrize("tensors", [{}, {"empty": ("F32", (0,), b"")}])
def test_files_of_nothing(tmp_path: Path, tensors) -> None:
    plain = plain_file(tmp_path / "plain", tensors)
    assert unpacked(packed_file(plain, tmp_path / "packed")) == plain.read_bytes()


def test_a_tensor_that_looks_like_a_blob(tmp_path: Path) -> None:
    data = TENSORS["zeros"][2]
    inner = tensor_blob.encode(
        Tensor("zeros", "I64", (600,), len(data), None), np.frombuffer(data, "u1")
    )
    inner += bytes(5000)
    plain = plain_file(tmp_path / "plain", {"zeros": ("U8", (len(inner),), inner)})
    assert unpacked(packed_file(plain, tmp_path / "packed")) == plain.read_bytes()


@given(st.data())
def test_any_tensors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    place = tmp_path_factory.mktemp("any")
    tensors = {}
    for name in data.draw(st.lists(st.text(max_size=8), unique=True, max_size=4)):
        dtype = data.draw(st.sampled_from(sorted(set(SIZES) - {"VOID"})))
        shape = tuple(data.draw(st.lists(st.integers(0, 60), max_size=3)))
        count = int(np.prod(shape, dtype=int)) * SIZES[dtype]
        few = data.draw(st.booleans())
        content = random_state(name, few).integers(0, 3 if few else 256, count, np.uint8)
        tensors[name] = dtype, shape, content.tobytes()
    tensors.pop("__metadata__", None)
    plain = plain_file(place / "plain", tensors)
    assert unpacked(packed_file(plain, place / "packed")) == plain.read_bytes()


def test_every_damaged_bit_is_found(tmp_path: Path) -> None:
    plain = plain_file(tmp_path / "plain")
    good = packed_file(plain, tmp_path / "packed").read_bytes()
    bad = tmp_path / "bad"
    for at in random_state("damage").integers(0, len(good), 250).tolist() + list(range(60)):
        data = bytearray(good)
        data[at] ^= 1 << (at % 8)
        bad.write_bytes(data)
        try:
            assert unpacked(bad) == plain.read_bytes() or not PackedFile(bad).packed
        except DensorError as error:
            assert str(error).startswith(f"{bad}: ")


def test_every_cut_is_found(tmp_path: Path) -> None:
    good = packed_file(plain_file(tmp_path / "plain"), tmp_path / "packed").read_bytes()
    bad = tmp_path / "bad"
    for size in [*range(0, 40), *range(40, len(good), 97), len(good) - 1]:
        bad.write_bytes(good[:size])
        with pytest.raises(DensorError, match="bad"):
            PackedFile(bad)
    bad.write_bytes(good + b"x")
    with pytest.raises(FormatError):
        PackedFile(bad)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(FileError, match="no regular file"):
            PackedFile(tmp_path / name)


def hostile(path: Path, **changes) -> Path:
    """A packed file with other values in its metadata."""
    plain = plain_file(path.parent / "plain")
    file = PackedFile(packed_file(plain, path))
    about = json.loads(file.header.metadata["densor"]) | changes
    header = {
        name: {"dtype": s.dtype, "shape": s.shape, "data_offsets": [s.begin, s.end]}
        for name, s in file.header.tensors.items()
    }
    start = len(file.header.raw)
    for item in header.values():
        item["data_offsets"] = [offset - start for offset in item["data_offsets"]]
    data = path.read_bytes()[start:]
    path.write_bytes(with_header({"__metadata__": {"densor": json.dumps(about)}} | header, data))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": 2},
        {"version": True},
        {"version": "1"},
        {"size": -1},
        {"size": 1},
        {"size": 1 << 62},
        {"header_size": 1 << 40},
        {"header_size": 100_000_000},
        {"header_size": 8},
        {"header": ""},
        {"header": "not base64"},
        {"header": None},
        {"xxh3_128": "zz"},
        {"xxh3_128": None},
    ],
)
def test_hostile_metadata(tmp_path: Path, changes) -> None:
    with pytest.raises(DensorError, match="packed"):
        PackedFile(hostile(tmp_path / "packed", **changes))


def test_another_hash(tmp_path: Path) -> None:
    with pytest.raises(DensorError, match="hash"):
        unpacked(hostile(tmp_path / "packed", xxh3_128="00" * 16))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{}x",
        b'{"a":1}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}',
        b'{"__metadata__":{"a":1}}',
        b'{"__metadata__":[]}',
        b'{"__metadata__":{"densor":"\\ud800"}}',
        b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_malformed_headers(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "bad"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(DensorError, match="bad"):
        PackedFile(path)


def test_a_pointer_in_the_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(FormatError, match=r"model\.safetensors: is a pointer of Git LFS"):
        PackedFile(path)


def test_packs_a_folder_and_unpacks_it(model: Path, tmp_path: Path) -> None:
    before = files(model)
    done = pack_model(model, tmp_path / "packed")
    assert done.sizes.stored < 0.8 * done.sizes.original
    assert done.files == [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    found = files(tmp_path / "packed")
    changed = {name for name in before if before[name] != found[name]}
    assert changed == {*done.files, "config.json", "README.md"}
    assert set(found) - set(before) == {"originals.densor"}
    config = json.loads(found["config.json"])
    about = {"quant_method": "densor", "version": 1, "dtype": "bfloat16"}
    assert config == {**json.loads(before["config.json"]), "quantization_config": about}
    card = found["README.md"].decode()
    assert card.startswith(before["README.md"].decode() + "\n")
    assert "import densor.hf" in card and 'from_pretrained("packed")' in card
    assert "random weights" in card
    unpack_model(tmp_path / "packed", tmp_path / "out")
    assert files(tmp_path / "out") == before == files(model)
    times = [(tmp_path / "out" / name).stat().st_mtime_ns for name in before]
    assert times == [(model / name).stat().st_mtime_ns for name in before]


def test_a_folder_without_a_card(model: Path, tmp_path: Path) -> None:
    (model / "README.md").unlink()
    before = files(model)
    pack_model(model, tmp_path / "packed")
    assert "import densor.hf" in (tmp_path / "packed" / "README.md").read_text()
    unpack_model(tmp_path / "packed", tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_a_folder_appears_whole_or_not_at_all(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write_packed", fail)
    with pytest.raises(KeyboardInterrupt):
        pack_model(model, tmp_path / "packed")
    assert sorted(os.listdir(tmp_path)) == ["model"]


def test_what_was_written_is_verified(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = tensor_blob.encode

    def wrong(tensor: Tensor, data, *args, **kwargs) -> bytes:
        return encode(tensor, data ^ 1, *args, **kwargs)

    monkeypatch.setattr(tensor_blob, "encode", wrong)
    with pytest.raises(FileError, match="verification"):
        pack_model(model, tmp_path / "packed")
    assert sorted(os.listdir(tmp_path)) == ["model"]


def test_existing_folders(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(FileError, match="already exists"):
        pack_model(model, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["precious"]
    pack_model(model, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "precious").exists()
    unpack_model(tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == files(model)
    assert sorted(os.listdir(tmp_path)) == ["back", "model", "out"]


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """The folder `out`, in which there is something."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    return out


def test_a_failed_renaming_leaves_the_old_folder(
    model: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(FileError, match="no space"):
        pack_model(model, precious, overwrite=True)
    assert os.listdir(precious) == ["precious"]


def test_an_interrupt_between_renamings_leaves_the_old_folder(
    model: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if self == precious:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack_model(model, precious, overwrite=True)
    assert os.listdir(precious) == ["precious"]
    assert sorted(os.listdir(precious.parent)) == ["model", "out"]


@pytest.mark.parametrize("target", ["model", "model/inner", "."])
def test_folders_in_one_another(model: Path, tmp_path: Path, target: str) -> None:
    before = files(model)
    with pytest.raises(FileError):
        pack_model(model, tmp_path / target, overwrite=True)
    assert files(model) == before


def test_what_cannot_be_packed(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileError, match="none"):
        pack_model(tmp_path / "none", out)
    (tmp_path / "void").mkdir()
    with pytest.raises(FileError, match=r"model\*\.safetensors"):
        pack_model(tmp_path / "void", out)
    for config, message in (
        ("{", "JSON"),
        ("[]", "JSON"),
        ('{"a": ' + "[" * 100_000, "JSON"),
        ('{"quantization_config": {"quant_method": "densor"}}', "packed already"),
    ):
        (model / "config.json").write_text(config)
        with pytest.raises(DensorError, match=message):
            pack_model(model, out)
    (model / "config.json").unlink()
    with pytest.raises(FileError, match=r"config\.json"):
        pack_model(model, out)
    with pytest.raises(FileError, match="no packed model"):
        unpack_model(model, out)
    assert not out.exists()


def test_cards_and_names_of_any_bytes(model: Path, tmp_path: Path) -> None:
    (model / "README.md").write_bytes(b"# Mod\xe8le\r\n")  # Latin-1
    (model / "config.json").write_text('{"author": "\\ud800"}')
    before = files(model)
    packed = tmp_path / os.fsdecode(b"pack\xe8d")
    pack_model(model, packed)
    assert (packed / "README.md").read_bytes().startswith(before["README.md"] + b"\n")
    assert json.loads((packed / "config.json").read_text())["author"] == "\ud800"
    unpack_model(packed, tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_a_model_whose_index_says_other_names_comes_back(model: Path, tmp_path: Path) -> None:
    name = packed_model.weight_files(model)[0].name
    index = {"weight_map": {"nobody.has.this": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    before = files(model)
    pack_model(model, tmp_path / "packed")
    unpack_model(tmp_path / "packed", tmp_path / "again")
    assert files(tmp_path / "again") == before


def test_a_folder_in_place_of_the_card_is_not_dropped(model: Path, tmp_path: Path) -> None:
    (model / "README.md").unlink()
    (model / "README.md").mkdir()
    with pytest.raises(FileError, match=r"README\.md"):
        pack_model(model, tmp_path / "packed")
    assert os.listdir(tmp_path) == [model.name]


def test_links_that_lead_back_are_refused(model: Path, tmp_path: Path) -> None:
    (model / "sub" / "more").mkdir(parents=True)
    (model / "sub" / "here").symlink_to("more")
    (model / "sub" / "more" / "file").write_bytes(b"x")
    pack_model(model, tmp_path / "packed")
    assert (tmp_path / "packed" / "sub" / "here" / "file").read_bytes() == b"x"
    for name in "ab":  # of which all ways would be 2 ^ 40
        (model / "sub" / name).symlink_to("..")
    with pytest.raises(FileError, match="a link to a folder that it lies in"):
        pack_model(model, tmp_path / "again")
    assert sorted(os.listdir(tmp_path)) == sorted([model.name, "packed"])


def test_a_quantised_model_keeps_its_configuration(model: Path, tmp_path: Path) -> None:
    """Engines take one method; the files say by themselves that they are packed."""
    config = b'{"quantization_config": {"quant_method": "fp8", "x": 1}}'
    (model / "config.json").write_bytes(config)
    done = pack_model(model, tmp_path / "packed")
    assert done.method == "fp8"
    assert (tmp_path / "packed" / "config.json").read_bytes() == config
    card = (tmp_path / "packed" / "README.md").read_text()
    assert "quantised with fp8" in card and "from_pretrained" not in card
    unpack_model(tmp_path / "packed", tmp_path / "again")
    assert files(tmp_path / "again") == files(model)


def test_packed_files_are_not_packed_again(model: Path, tmp_path: Path) -> None:
    pack_model(model, tmp_path / "packed")
    shutil.copy(model / "config.json", tmp_path / "packed" / "config.json")
    (tmp_path / "packed" / "originals.densor").unlink()
    with pytest.raises(ArgumentError, match="packed already"):
        pack_model(tmp_path / "packed", tmp_path / "again")


def test_a_base(tmp_path: Path) -> None:
    """What differs little is coded against it, what does not differ takes next to nothing."""
    old = weights("bf16", 80, 100)
    new = old.copy()
    new[::9] += 1
    tensors = {"w": ("BF16", (80, 100), old.tobytes()), "s": TENSORS["model.embed.weight"]}
    changed = {
        "w": ("BF16", (80, 100), new.tobytes()),
        "s": tensors["s"],
        "shape": ("BF16", (100, 80), new.tobytes()),
    }
    for name, content in (("base", tensors), ("new", changed)):
        (tmp_path / name).mkdir()
        plain_file(tmp_path / name / "model.safetensors", content)
        (tmp_path / name / "config.json").write_text("{}")
    pack_model(tmp_path / "new", tmp_path / "packed", base=tmp_path / "base")
    file = PackedFile(tmp_path / "packed" / "model.safetensors")
    assert file.stored("s").size < 1000
    assert file.stored("w").size < 0.3 * new.nbytes
    base = file.describe("w").base
    assert base is not None and base.name == "base/w" and base.size == new.nbytes
    assert file.describe("shape").base is None
    unpack_model(tmp_path / "packed", tmp_path / "out")  # the base lies beside it
    assert files(tmp_path / "out") == files(tmp_path / "new")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(ArgumentError, match=r"model\.safetensors: tensor 'w': .*'base'"):
        unpack_model(tmp_path / "packed", tmp_path / "out2")
    unpack_model(tmp_path / "packed", tmp_path / "out3", base=tmp_path / "elsewhere")
    with pytest.raises(ArgumentError, match="needed is base/"):
        unpack_model(tmp_path / "packed", tmp_path / "out4", base=tmp_path / "new")
    assert not (tmp_path / "out2").exists() and not (tmp_path / "out4").exists()


def test_a_base_of_no_use_is_not_needed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    plain_file(tmp_path / "base" / "model.safetensors", {"other": TENSORS["zeros"]})
    pack_model(model, tmp_path / "packed", base=tmp_path / "base")
    assert (
        "base"
        not in json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    )
    assert "DENSOR_BASE" not in (tmp_path / "packed" / "README.md").read_text()


def test_weights_that_lost_their_metadata(model: Path, tmp_path: Path) -> None:
    pack_model(model, tmp_path / "packed")
    path = tmp_path / "packed" / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"densor":', b'"Densor":'))
    with pytest.raises(FormatError, match=r"00002.*: tensor .*: blob of a file that is not"):
        unpack_model(tmp_path / "packed", tmp_path / "out")


def test_packing_imports_neither_torch_nor_transformers(model: Path, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom densor.cli.main import main\n"
        f"assert not main(['hf-pack', '-q', {str(model)!r}, {str(tmp_path / 'out')!r}])\n"
        "import densor.torch\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_importing_loads_neither_numba_nor_what_packs() -> None:
    program = (
        "import sys, densor.hf\n"
        "heavy = {'numba', 'llvmlite', 'densor.torch.resident', 'densor.files.folder', "
        "'densor.formats.container.writer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert densor.hf.pack_model and densor.hf.unpack_model"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_names_of_weight_files() -> None:
    good = ["model", "model-00001-of-00002", "model.fp16", "model.fp16-00001-of-00002"]
    good += ["model-00001-of-00002.fp16", "diffusion_pytorch_model"]
    bad = ["adapter_model", "consolidated", "model_ema", "pytorch_model", "models"]
    match = packed_model._WEIGHTS.fullmatch
    assert all(match(f"{name}.safetensors") for name in good)
    assert not any(match(f"{name}.safetensors") for name in bad)
    assert not match("model.safetensors.index.json")
