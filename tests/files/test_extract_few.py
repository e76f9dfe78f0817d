"""Some files out of a large archive: nothing but them, and what they are coded against, is read."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import random_state, safetensors_bytes

import densor
from densor.errors import ChecksumError, DensorError, FileError, LimitError

NAMES = ("a.safetensors", "b.safetensors", "c.bin", "sub/d.txt", "sub/e.safetensors")


def _model(seed: str, size: int) -> bytes:
    weights = random_state(seed).normal(0, 0.02, size).astype(np.float32)
    return safetensors_bytes({"w": ("F32", weights.shape, weights.tobytes())})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    (folder / "sub").mkdir()
    (folder / "a.safetensors").write_bytes(_model("a", 300_000))
    (folder / "b.safetensors").write_bytes(_model("b", 100_000))
    (folder / "c.bin").write_bytes(b"")
    (folder / "sub" / "d.txt").write_bytes(b"words and words " * 4000)
    (folder / "sub" / "e.safetensors").write_bytes(_model("b", 100_000))  # as b: repetitions
    os.utime(folder / "sub" / "d.txt", (10**9, 10**9))
    (folder / "sub" / "d.txt").chmod(0o640)
    return folder


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "a.densor"
    densor.pack([folder], path)
    return path


@pytest.mark.parametrize(
    "names", [*((name,) for name in NAMES), ("sub",), ("c.bin", "b.safetensors")]
)
def test_what_is_asked_for_and_nothing_else(
    folder: Path, packed: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    done = densor.extract(packed, tmp_path, names)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == set(done) == {n for n in NAMES if n in names or n.split("/")[0] in names}
    for name in found:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
        a, b = (tmp_path / name).stat(), (folder / name).stat()
        assert (a.st_mode, a.st_mtime_ns) == (b.st_mode, b.st_mtime_ns)


def _first_chunk(packed: Path, name: str) -> int:
    """A byte within the first chunk of a file."""
    with densor.open(packed) as file:
        archive = file._archive
        entry = archive.entry(name)
        frames = range(entry.first_frame, entry.first_frame + entry.frames)
        chunk = max(frames, key=lambda number: int(archive.frames.stored[number]))
        return int(archive.frames.offsets[chunk]) + 100


def test_damage_elsewhere_does_not_matter(folder: Path, packed: Path, tmp_path: Path) -> None:
    damaged = bytearray(packed.read_bytes())
    damaged[_first_chunk(packed, "a.safetensors")] ^= 4
    (tmp_path / "x.densor").write_bytes(damaged)
    densor.extract(tmp_path / "x.densor", tmp_path / "out", ["b.safetensors"])
    assert (tmp_path / "out/b.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()
    with pytest.raises(DensorError):
        densor.extract(tmp_path / "x.densor", tmp_path / "all")


def test_damage_is_found_and_leaves_no_file(packed: Path, tmp_path: Path) -> None:
    damaged = bytearray(packed.read_bytes())
    damaged[_first_chunk(packed, "b.safetensors")] ^= 4
    (tmp_path / "x.densor").write_bytes(damaged)
    with pytest.raises(ChecksumError):
        densor.extract(tmp_path / "x.densor", tmp_path / "out", ["b.safetensors"])
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_names_and_limits(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        densor.extract(packed, tmp_path, ["nowhere", "c.bin"])
    with pytest.raises(LimitError):
        densor.extract(packed, tmp_path / "b", ["b.safetensors"], max_output_size=1000)
    assert not list((tmp_path / "b").rglob("*.safetensors"))


def test_progress_tells_of_all_bytes(packed: Path, folder: Path, tmp_path: Path) -> None:
    told: list[int] = []
    densor.extract(packed, tmp_path, ["b.safetensors", "sub/d.txt"], progress=told.append)
    size = sum((folder / name).stat().st_size for name in ("b.safetensors", "sub/d.txt"))
    assert sum(told) == size


def test_file_of_many_pieces(
    packed: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densor.formats.container.archive._PIECE", 5000)
    for name in ("b.safetensors", "sub/d.txt", "sub/e.safetensors"):
        counts: list[int] = []
        densor.extract(packed, tmp_path, [name], progress=counts.append)
        assert sum(counts) == (folder / name).stat().st_size
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_long_chains_are_read_from_their_beginning(
    packed: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densor.formats.container.chosen_entries._MAX_CHAIN", -1)
    monkeypatch.delattr("densor.formats.container.archive.Archive.read_to")
    densor.extract(packed, tmp_path, ["b.safetensors"])
    assert (tmp_path / "b.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()
