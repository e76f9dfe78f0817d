"""What files and folders are beside their content: owners, permissions, times, holes."""

import itertools
import os
import stat
from pathlib import Path

import numpy as np
import pytest

import densor
from densor.errors import FormatError
from densor.formats.container.entry import MAX_OWNER, parse
from densor.formats.io import outputs
from densor.formats.io.outputs import copy_times_and_mode, whole_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
superuser = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser gives files away"
)
OLD, OTHER = 981173106_000000789, (1234, 2345)
CONTENT = b"content" * 100


def look(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns


def everything(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    return {str(path.relative_to(folder)): look(path) for path in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folders within folders, each with a mode and a time of its own."""
    root = tmp_path / "in"
    for name in ("full/deep/file", "full/other", "shared/file"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(CONTENT)
    (root / "empty").mkdir()
    for i, name in enumerate(("shared", "full/deep", "full", "empty", "full/other")):
        (root / name).chmod(0o750 | i)
        os.utime(root / name, ns=(OLD, OLD + 1000 * i))
    return root


def test_folders_keep_mode_and_time(folder: Path, tmp_path: Path) -> None:
    before = everything(folder)
    densor.pack([folder], tmp_path / "a")
    names = densor.extract(tmp_path / "a", tmp_path / "out")
    assert everything(tmp_path / "out") == before
    with densor.open(tmp_path / "a") as file:
        assert names == file.files() == ["full/deep/file", "full/other", "shared/file"]


def test_a_folder_that_may_not_be_written_is_restored(folder: Path, tmp_path: Path) -> None:
    (folder / "full").chmod(0o555)
    densor.pack([folder], tmp_path / "a")
    densor.extract(tmp_path / "a", tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out" / "full").stat().st_mode) == 0o555
    assert (tmp_path / "out" / "full" / "deep" / "file").read_bytes() == CONTENT


def test_folders_of_the_same_name_are_one(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "second"
    (other / "full").mkdir(parents=True)
    (other / "full" / "third").write_bytes(b"3")
    densor.pack([folder, other], tmp_path / "a")
    names = densor.extract(tmp_path / "a", tmp_path / "out")
    assert names == ["full/deep/file", "full/other", "shared/file", "full/third"]
    assert (tmp_path / "out" / "full").stat().st_mtime == (other / "full").stat().st_mtime


@superuser
def test_owners_of_a_folder(folder: Path, tmp_path: Path) -> None:
    plain = densor.pack([folder], tmp_path / "plain").stored
    os.chown(folder / "shared" / "file", *OTHER)
    os.chown(folder / "full", 0, OTHER[1])
    (folder / "full").chmod(0o2750)  # what makes others run it is not restored
    before = everything(folder)
    assert densor.pack([folder], tmp_path / "a").stored < plain + 60
    densor.extract(tmp_path / "a", tmp_path / "out")
    mode, *rest = before["full"]
    assert everything(tmp_path / "out") == {**before, "full": (mode & 0o777, *rest)}


@superuser
def test_owners_of_single_files(tmp_path: Path) -> None:
    path, packed, back = (tmp_path / name for name in ("a", "b", "c"))
    path.write_bytes(CONTENT)
    os.chown(path, *OTHER)
    path.chmod(0o4640)
    os.utime(path, ns=(OLD, OLD))
    densor.compress_file(path, packed)
    densor.decompress_file(packed, back)
    assert look(packed) == look(back) == (0o640, *OTHER, OLD)


@superuser
def test_who_may_not_give_files_away_shows_them_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, packed = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for path in (one, two):
        path.write_bytes(CONTENT)
    os.chown(one, *OTHER)
    densor.compress_file(one, packed)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(outputs.os, "chown", refuse)
    for mode, wanted in ((0o640, 0o600), (0o664, 0o644), (0o604, 0o604), (0o666, 0o666)):
        one.chmod(mode)
        copy_times_and_mode(one, two)
        assert stat.S_IMODE(two.stat().st_mode) == wanted
    densor.decompress_file(packed, tmp_path / "d")  # as it can be
    monkeypatch.undo()
    monkeypatch.setattr(outputs.os, "geteuid", lambda: 1000)
    densor.decompress_file(packed, tmp_path / "e")
    for path in (tmp_path / "d", tmp_path / "e"):
        assert path.read_bytes() == CONTENT and path.stat().st_uid == 0


def test_impossible_owners_are_refused() -> None:
    def entry(owner: object) -> dict[str, object]:
        return {"name": "a", "kind": "file", "size": 0, "owner": owner}

    assert parse(entry([0, MAX_OWNER])).owner == (0, MAX_OWNER)
    assert parse(entry(None)).owner is None
    for owner in (7, "ab", [1], [1, 2, 3], [1, -1], [1, MAX_OWNER + 1], [1.0, 2], [True, 1], {}):
        with pytest.raises(FormatError):
            parse(entry(owner))


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def holed(tmp_path: Path) -> Path:
    """8 MB of which 5 are holes, at odd places; skips where files have none."""
    path = tmp_path / "holed"
    noise = np.random.default_rng(0).bytes(1 << 20)
    with path.open("wb") as file:
        file.truncate(8 << 20)
        for at in (1 << 20, (3 << 20) + 12345, (6 << 20) - 1):
            file.seek(at)
            file.write(noise)
    if blocks(path) > 4 << 20:
        pytest.skip("no holes on this file system")
    return path


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("level", [1, 3])
def test_holes_stay_holes(holed: Path, level: int, threads: int, tmp_path: Path) -> None:
    densor.compress_file(holed, tmp_path / "a", level)
    densor.decompress_file(tmp_path / "a", tmp_path / "b", threads)
    densor.pack([holed], tmp_path / "c", level)
    densor.extract(tmp_path / "c", tmp_path / "out", threads=threads)
    for path in (tmp_path / "b", tmp_path / "out" / "holed"):
        assert path.read_bytes() == holed.read_bytes()
        assert blocks(path) <= blocks(holed) + (128 << 10)


@pytest.mark.parametrize("end", [0, 1, 4095, 4096, 65535, 70000])
def test_zeros_at_any_place(end: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(end)
    data = np.zeros((1 << 20) + end, np.uint8)
    for at in rng.integers(0, data.size, 12).tolist():
        data[at : at + int(rng.integers(1, 9000))] = 1
    cuts = [0, *sorted(rng.integers(0, data.size, 5).tolist()), data.size]
    pieces = list(itertools.pairwise(cuts))
    rng.shuffle(pieces)
    with whole_file(tmp_path / "a", False) as file:
        for begin, stop in pieces:
            file.expect(stop)
            file.write_at(data[begin:stop], begin)
    assert (tmp_path / "a").read_bytes() == data.tobytes()
