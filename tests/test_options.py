"""Options: one record for writing, one for reading, taken by every face, as keywords or whole."""

import inspect
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import model_file

import densor
from densor.errors import ArgumentError, ChecksumError, DensorError, FileError, LimitError
from densor.files.model_folder import pack_model, unpack_model
from densor.files.shards import ShardOptions, compress_shard
from densor.options import ReadOptions, WriteOptions, read_options, write_options

_WORDS = [f"{a}{b}".encode() for a in "bcdfgklmnprst" for b in ("a", "er", "ing", "ome", "ut")]
TEXT = b" ".join(_WORDS[i] for i in np.random.default_rng(1).integers(0, len(_WORDS), 3000))
MATRIX = (np.arange(60_000) % 251).astype(np.float32).reshape(200, 300)
FOLDER = {"config.json": b'{"model_type": "x"}', "model.safetensors": model_file()}


def folder_of(path: Path) -> Path:
    path.mkdir()
    for name, data in FOLDER.items():
        (path / name).write_bytes(data)
    return path


def by_compress_file(folder: Path, **options: Any) -> bytes:
    densor.compress_file(folder / "config.json", folder / "out", **options)
    return (folder / "out").read_bytes()


def by_pack(folder: Path, **options: Any) -> bytes:
    densor.pack([folder / "config.json"], folder / "out", **options)
    return (folder / "out").read_bytes()


def by_writer(folder: Path, **options: Any) -> bytes:
    with densor.Writer(folder / "out", **options) as writer:
        writer.add_file(folder / "config.json")
    return (folder / "out").read_bytes()


def by_append(folder: Path, **options: Any) -> bytes:
    densor.compress_file(folder / "model.safetensors", folder / "out")
    densor.archives.append(folder / "out", folder / "config.json", **options)
    return (folder / "out").read_bytes()


def by_compress(folder: Path, **options: Any) -> bytes:
    return densor.compress((folder / "config.json").read_bytes(), **options)


def by_save(folder: Path, **options: Any) -> bytes:
    return densor.save({"a": MATRIX}, **options)


def by_save_file(folder: Path, **options: Any) -> bytes:
    densor.save_file({"a": MATRIX}, folder / "out", **options)
    return (folder / "out").read_bytes()


def by_shard(folder: Path, **options: Any) -> bytes:
    chosen = options.pop("options", None) or write_options(**options)
    compress_shard(str(folder / "config.json"), str(folder / "out"), chosen)
    return (folder / "out").read_bytes()


WRITERS: list[Callable[..., bytes]] = [
    *(by_compress_file, by_pack, by_writer, by_append, by_compress, by_save, by_save_file),
    by_shard,
]
FILE_WRITERS = [by for by in WRITERS if by is not by_compress]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = folder_of(tmp_path / "in")
    (found / "config.json").write_bytes(TEXT)
    return found


@pytest.mark.parametrize("by", WRITERS)
def test_keywords_and_objects_write_the_same(by: Callable[..., bytes], tmp_path: Path) -> None:
    given: dict[str, Any] = {"level": 5, "threads": 2, "hash": "sha256", "text": True}
    found = []
    for i, options in enumerate(
        (given, {"options": write_options(**given)}, {"options": write_options(level=1)} | given)
    ):
        if by is by_shard and i == 2:
            continue
        place = folder_of(tmp_path / str(i))
        (place / "config.json").write_bytes(TEXT)
        for path in place.iterdir():
            os.utime(path, ns=(1, 1))
            path.chmod(0o644)
        found.append(by(place, **options))
    assert len(set(found)) == 1


@pytest.mark.parametrize("by", WRITERS)
def test_every_face_takes_the_hash(by: Callable[..., bytes], folder: Path) -> None:
    packed = by(folder, hash="sha256")
    kinds = {entry.meta.hash for entry in densor.verify_file(io.BytesIO(packed))}
    assert "sha256" in kinds
    with pytest.raises(DensorError, match="md5"):
        by(folder_of(folder / "b"), hash="md5")


@pytest.mark.parametrize("by", WRITERS)
def test_every_face_takes_the_level_and_text(by: Callable[..., bytes], folder: Path) -> None:
    sizes = []
    for i, options in enumerate(({"level": 1}, {"level": 9}, {"level": 1, "text": True})):
        place = folder_of(folder / str(i))
        (place / "config.json").write_bytes(TEXT)
        sizes.append(len(by(place, **options)))
    assert sizes[1] < sizes[0]
    if by not in (by_save, by_save_file):  # which hold no text
        assert sizes[2] < sizes[0]


@pytest.mark.parametrize("by", WRITERS)
def test_every_face_reports_progress(by: Callable[..., bytes], folder: Path) -> None:
    counts: list[int] = []
    by(folder, progress=counts.append)
    assert sum(counts) >= min(len(TEXT), MATRIX.nbytes)


@pytest.mark.parametrize("by", FILE_WRITERS)
def test_every_face_of_files_adds_recovery_data(by: Callable[..., bytes], folder: Path) -> None:
    pytest.importorskip("zfec")
    path = folder / "damaged"
    data = bytearray(by(folder, recovery=30))
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DensorError):
        densor.verify_file(path)
    assert densor.archives.repair(path).protected
    densor.verify_file(path)


def test_recovery_data_is_for_files() -> None:
    with pytest.raises(ArgumentError, match="files"):
        densor.compress(b"abc", recovery=5)
    for wrong in (0, 0.05, 101):
        with pytest.raises(ArgumentError, match="percent"):
            WriteOptions(recovery=wrong)


@pytest.mark.parametrize("by", WRITERS)
def test_every_face_verifies(
    by: Callable[..., bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read back is damaged here, as a bad disk would."""
    by(folder_of(folder / "good"), verify=True)
    from densor.files import checked

    def damaged(*_: Any) -> Any:
        raise ChecksumError("bad disk")

    monkeypatch.setattr(checked, "StreamReader", damaged)
    with pytest.raises(FileError, match=r"verification of what was .* failed: bad disk"):
        by(folder, verify=True)


@pytest.mark.parametrize("by", [by_compress_file, by_pack, by_writer, by_shard])
def test_a_packed_base_has_a_limit(by: Callable[..., bytes], folder: Path) -> None:
    data = model_file()
    densor.compress_file(folder / "model.safetensors", folder / "base.densor")
    (folder / "config.json").write_bytes(data)
    options = {"base": folder / "base.densor"}
    with pytest.raises(LimitError):
        by(folder_of(folder / "b"), **options, max_output_size=len(data) // 2)
    packed = by(folder, **options, max_output_size=len(data))
    assert len(packed) < (folder / "base.densor").stat().st_size / 2
    densor.verify_file(io.BytesIO(packed), base=folder / "base.densor")


def test_what_append_decodes_has_a_limit(folder: Path) -> None:
    (folder / "config.json").write_bytes(model_file())
    with pytest.raises(LimitError):
        by_append(folder, max_output_size=100)
    assert densor.verify_file(folder / "out")[0].size == len(model_file())


def test_pack_against_an_archive_of_several_files(tmp_path: Path) -> None:
    old, new = folder_of(tmp_path / "old"), folder_of(tmp_path / "new")
    (new / "more.txt").write_bytes(TEXT)
    densor.pack([old], tmp_path / "old.densor")
    sizes = densor.pack([new], tmp_path / "new.densor", base=tmp_path / "old.densor")
    assert sizes.stored < (tmp_path / "old.densor").stat().st_size / 2
    densor.extract(tmp_path / "new.densor", tmp_path / "out", base=tmp_path / "old.densor")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in new.iterdir()
    }
    with pytest.raises(ArgumentError, match="needs a base"):
        densor.verify_file(tmp_path / "new.densor")


def test_pack_against_a_file_takes_it_for_what_shares_tensors(tmp_path: Path) -> None:
    new = folder_of(tmp_path / "new")
    base = tmp_path / "base"
    base.write_bytes(FOLDER["model.safetensors"])
    densor.pack([new], tmp_path / "x", base=base)
    with densor.open(tmp_path / "x", base=base) as file:
        bases = {entry.meta.name: entry.meta.base for entry in file.archive.entries}
    assert bases["config.json"] is None and bases["model.safetensors"] is not None


def test_writer_codes_tensors_against_a_base(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((300, 400)).astype(np.float32)
    tuned = weights.copy()
    tuned[::7] += np.float32(1e-6)
    densor.save_file({"w": weights}, tmp_path / "base")
    sizes = {}
    for name, base in (("alone", None), ("against", tmp_path / "base")):
        with densor.Writer(tmp_path / name, base=base) as writer:
            writer.add_tensor("w", tuned)
            writer.add_tensor("other", weights[:3])
        sizes[name] = (tmp_path / name).stat().st_size
    assert sizes["against"] < sizes["alone"] / 2
    with densor.open(tmp_path / "against", base=tmp_path / "base") as file:
        assert file.get_tensor("w").view("u4").tolist() == tuned.view("u4").tolist()
        assert file.get_tensor("other").tolist() == weights[:3].tolist()


def test_folders_of_models_take_options_too(tmp_path: Path) -> None:
    model = folder_of(tmp_path / "model")
    counts: list[int] = []
    options = WriteOptions(level=1, threads=1, progress=counts.append)
    pack_model(model, tmp_path / "packed", options=options)
    assert sum(counts) > 0
    with pytest.raises(LimitError):
        unpack_model(tmp_path / "packed", tmp_path / "out", max_output_size=1000)
    size = len(FOLDER["model.safetensors"])
    unpack_model(tmp_path / "packed", tmp_path / "out", options=ReadOptions(max_output_size=size))
    with pytest.raises(LimitError):
        pack_model(model, tmp_path / "delta", base=model, max_output_size=1000)
    with pytest.raises(ArgumentError, match="recovery"):
        pack_model(model, tmp_path / "delta", recovery=5)
    assert sorted(os.listdir(tmp_path)) == ["model", "out", "packed"]


def test_packed_files_of_torch_take_options_too(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import densor.torch as ours

    base = {"w": torch.from_numpy(MATRIX)}
    (tmp_path / "base").mkdir()
    ours.save_packed_file(base, tmp_path / "base" / "model.safetensors")
    tuned = {"w": base["w"] * (1 + 1e-7)}
    ours.save_packed_file(tuned, tmp_path / "x", base=tmp_path / "base", verify=True)
    assert torch.equal(ours.load_file(tmp_path / "x", base=tmp_path / "base")["w"], tuned["w"])
    with pytest.raises(ArgumentError, match="recovery"):
        ours.save_packed_file(base, tmp_path / "y", recovery=5)
    assert not (tmp_path / "y").exists()


def test_shards_are_not_passed_over_that_have_another_base(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(model_file() + name.encode())
    source, target = str(tmp_path / "a"), str(tmp_path / "out")
    for options, skipped in (
        (ShardOptions(), False),
        (ShardOptions(base=tmp_path / "b"), False),
        (ShardOptions(base=tmp_path / "b"), True),
        (ShardOptions(base=tmp_path / "c"), False),
        (ShardOptions(), False),
    ):
        assert compress_shard(source, target, options).skipped is skipped


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="levl"):
        densor.compress(b"", levl=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="level"):
        densor.decompress(densor.compress(b""), level=3)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="torch"):
        densor.open(densor.save({}), device="cuda")


def test_objects_show_what_is_not_usual() -> None:
    assert repr(WriteOptions()) == "WriteOptions()"
    assert repr(read_options(threads=2, llm="sample")) == (
        "ReadOptions(threads=2, language_model='sample')"
    )
    changed = write_options(WriteOptions(level=6, text=True), level=None, threads=1)
    assert changed == WriteOptions(level=6, text=True, threads=1)


def test_defaults_agree() -> None:
    """Every public function leaves level and threads to the options."""
    functions = [getattr(densor, name) for name in densor.__all__]
    functions += [getattr(densor.archives, name) for name in ("append", "differences")]
    seen = 0
    for function in functions:
        if not callable(function) or (
            isinstance(function, type) and not hasattr(function, "__enter__")
        ):
            continue  # records and errors
        parameters = inspect.signature(function).parameters
        if "options" in parameters:
            seen += 1
            assert parameters["threads"].default is None, function
            assert "level" not in parameters or parameters["level"].default is None, function
        if "overwrite" in parameters:
            assert parameters["overwrite"].default is False, function
    assert seen >= 14


# What archives that are open for reading can do


def test_a_tensor_is_decoded_into_memory_that_is_given(tmp_path: Path) -> None:
    densor.save_file({"b": MATRIX, "a": MATRIX[:5]}, tmp_path / "x")
    with densor.open(tmp_path / "x") as file:
        out = np.empty_like(MATRIX)
        assert file.get_tensor("b", out) is out
        assert out.view("u4").tolist() == MATRIX.view("u4").tolist()
        memory = bytearray(MATRIX[:5].nbytes)
        assert file.get_tensor("a", out=memory) is memory
        assert bytes(memory) == MATRIX[:5].tobytes()
        for wrong in (
            np.empty((200, 299), "f4"),
            bytes(MATRIX.nbytes),
            np.empty((300, 200), "f4").T,
        ):
            with pytest.raises(ArgumentError, match="out must be"):
                file.get_tensor("b", wrong)
        assert file.keys() and set(file.offset_keys()) == {"a", "b"}


def test_tensors_of_torch_are_decoded_into_memory_that_is_given() -> None:
    torch = pytest.importorskip("torch")
    with densor.open(densor.save({"a": MATRIX}), "torch", device="cpu") as file:
        out = torch.empty(200, 300)
        assert file.get_tensor("a", out) is out
        assert out.numpy().tolist() == MATRIX.tolist()
        with pytest.raises(ArgumentError, match="tensor"):
            file.get_tensor("a", torch.empty(300, 200).T)
    with densor.open(densor.save({"a": MATRIX}), "torch", device="meta") as file:
        assert file.get_tensor("a").is_meta


def test_offset_keys_are_in_the_order_of_the_archive(tmp_path: Path) -> None:
    tensors = {f"{i:02}": np.zeros(5, kind) for i, kind in enumerate(("u1", "f8", "f4", "i2"))}
    densor.save_file(tensors, tmp_path / "x")
    with densor.open(tmp_path / "x") as file:
        assert file.offset_keys() == ["01", "02", "03", "00"]
        places = [file.archive.tensors()[name][1].offset for name in file.offset_keys()]
        assert places == sorted(places)


def test_files_in_archives_are_file_objects(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "in")
    (place / "long.txt").write_bytes(TEXT * 400)
    densor.pack([place], tmp_path / "x")
    counts: list[int] = []
    with densor.open(tmp_path / "x", progress=counts.append) as file:
        with file.open_file("long.txt") as opened:
            assert opened.seekable() and opened.readable() and not opened.writable()
            opened.seek(1_000_000)
            assert opened.read(100) == (TEXT * 400)[1_000_000:1_000_100]
            opened.seek(-7, os.SEEK_END)
            assert opened.read() == TEXT[-7:] and opened.read(1) == b""
            opened.seek(0)
            assert opened.read() == TEXT * 400
            with pytest.raises((ValueError, OSError)):
                opened.seek(-1)
        with file.open_file("config.json") as opened:
            assert list(opened) == [FOLDER["config.json"]]
        with pytest.raises(KeyError):
            file.open_file("nothing")
        assert file.read_file("config.json") == FOLDER["config.json"]
        assert sum(counts) == len(FOLDER["config.json"])


def test_is_archive(tmp_path: Path) -> None:
    packed = densor.compress(b"abc")
    path = tmp_path / "x"
    for data, wanted in ((packed, True), (packed[:7], False), (b"", False), (TEXT, False)):
        path.write_bytes(data)
        stream = io.BytesIO(b"..." + data)
        stream.seek(3)
        assert densor.is_archive(path) is densor.is_archive(str(path)) is wanted
        assert densor.is_archive(data) is densor.is_archive(stream) is wanted
        assert stream.tell() == 3
    with pytest.raises(FileError):
        densor.is_archive(tmp_path / "none")
