"""Files that are not just files: devices, pipes, links, pseudo files, private ones, odd names."""

import errno
import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densor
from densor.errors import ArgumentError, FileError, FormatError
from densor.files.append import append
from densor.files.folder import members
from densor.formats.container.entry import EntryMeta, escape_path, parse, real_path
from densor.formats.damage.repair import repair
from densor.formats.io.outputs import is_special

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
DATA = np.random.default_rng(0).bytes(3 << 20)
ODD_NAMES = (
    b"sha256:0123",
    b"a\\b",
    b"tab\tand\nline",
    b"\xff\xfe",
    b"C:x",
    b"100%",
    b"sub:folder/10:30:00.log",
    b"\x1b[0m",
    "é%:".encode(),
    "\U0001f600:".encode(),
)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def run(*arguments: Any, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "densor", *map(os.fspath, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **options)


# Permissions


@posix
def test_private_files_are_private_until_they_are_whole(tmp_path: Path) -> None:
    seen: dict[str, set[int]] = {}
    source, archive = tmp_path / "a", tmp_path / "x.densor"
    source.write_bytes(DATA)
    source.chmod(0o600)

    def look(what: str) -> Any:
        def progress(_: int) -> None:
            modes = {mode_of(path) for path in tmp_path.rglob(".*.tmp")}
            seen.setdefault(what, set()).update(modes)

        return progress

    before = os.umask(0o022)
    try:
        densor.compress_file(source, archive, progress=look("compress"))
        densor.decompress_file(archive, tmp_path / "b", progress=look("decompress"))
        densor.extract(archive, tmp_path / "out", progress=look("extract"))
        append(archive, tmp_path / "b", progress=look("append"))
    finally:
        os.umask(before)
    assert set(seen) == {"compress", "decompress", "extract", "append"}
    assert all(modes <= {0o600} for modes in seen.values()), seen
    assert any(seen.values())
    for path in (archive, tmp_path / "b", tmp_path / "out" / "a"):
        assert mode_of(path) == 0o600


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_files_have_the_permissions_of_any_new_file(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        densor.save_file({"a": np.ones(4)}, tmp_path / "a")
        (tmp_path / "b").write_bytes(b"")
        (tmp_path / "c").write_bytes(b"x")
        (tmp_path / "c").chmod(0o641)
        densor.compress_file(tmp_path / "c", tmp_path / "d")
        densor.decompress_file(tmp_path / "d", tmp_path / "e")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "a") == mode_of(tmp_path / "b") == 0o666 & ~umask
    assert mode_of(tmp_path / "d") == mode_of(tmp_path / "e") == 0o641


# Devices, pipes, links


@posix
@pytest.mark.parametrize("back", [False, True])
def test_a_pipe_as_target_keeps_its_mode_and_times(back: bool, tmp_path: Path) -> None:
    source, pipe, archive = tmp_path / "a", tmp_path / "pipe", tmp_path / "x.densor"
    source.write_bytes(b"secret")
    source.chmod(0o600)
    os.utime(source, (1, 1))
    densor.compress_file(source, archive)
    os.mkfifo(pipe)
    pipe.chmod(0o666)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    if back:
        densor.decompress_file(archive, pipe)
    else:
        densor.compress_file(source, pipe)
    reader.join()
    assert got[0] == b"secret" if back else densor.is_archive(got[0])
    assert mode_of(pipe) == 0o666 and pipe.stat().st_mtime > 1


@posix
def test_a_link_to_a_special_file(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "link").symlink_to("plain")
    before = mode_of(Path("/dev/null"))
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "a").chmod(0o600)
    densor.compress_file(tmp_path / "a", tmp_path / "null")
    assert (tmp_path / "null").is_symlink() and mode_of(Path("/dev/null")) == before
    assert is_special(tmp_path / "null") and not is_special(tmp_path / "link")
    assert not is_special(tmp_path / "plain") and not is_special(tmp_path / "none")


@posix
def test_no_file_takes_the_place_of_a_device(tmp_path: Path) -> None:
    """As root, with leave to overwrite, it would be that of all processes: of /dev/null, say."""
    archive, pipe = tmp_path / "a.densor", tmp_path / "pipe"
    densor.save_file({"w": np.zeros(9)}, archive, recovery=5)
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for target in (pipe, tmp_path / "link"):
        with pytest.raises(FileError, match="is no regular file"):
            repair(archive, target, overwrite=True)
        assert stat.S_ISFIFO(target.stat().st_mode)
    assert (tmp_path / "link").is_symlink() and not list(tmp_path.glob(".*"))
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    done = run("report", "-q", "-f", archive, "-o", pipe)
    reader.join()
    assert done.returncode == 0 and b"</html>" in read[0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_path(target: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "a").chmod(0o640)
    with (tmp_path / "out").open("wb") as out:
        command = [sys.executable, "-m", "densor", "-qf", tmp_path / "a", "-o", target]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr
    densor.decompress_file(tmp_path / "out", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"
    assert Path("/dev/stdout").is_symlink()


@posix
def test_what_is_changed_is_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "real").mkdir()
    archive, link = tmp_path / "real" / "x.densor", tmp_path / "link"
    densor.compress_file(tmp_path / "a", archive, recovery=20)
    link.symlink_to("real/x.densor")
    append(link, tmp_path / "b")
    assert link.is_symlink()
    with densor.open(archive) as file:
        assert file.files() == ["a", "b"]
    whole = archive.read_bytes()
    damaged = bytearray(whole)
    damaged[60] ^= 1
    archive.write_bytes(damaged)
    repair(link)
    assert link.is_symlink() and archive.read_bytes() == whole


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs /proc")
def test_pseudo_files_are_read_to_their_end(tmp_path: Path) -> None:
    files = [Path("/proc/version"), Path("/proc/self/status"), Path("/sys/kernel/mm/ksm/run")]
    for path in files:
        if not os.access(path, os.R_OK):
            continue
        densor.compress_file(path, tmp_path / "a", overwrite=True)
        densor.decompress_file(tmp_path / "a", tmp_path / "b", overwrite=True)
        found = (tmp_path / "b").read_bytes()
        assert found and (path.name == "status" or found == path.read_bytes())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/proc/version")
    (tmp_path / "in" / "empty").write_bytes(b"")
    densor.pack([tmp_path / "in"], tmp_path / "p.densor")
    densor.extract(tmp_path / "p.densor", tmp_path / "out")
    assert (tmp_path / "out" / "link").read_bytes() == Path("/proc/version").read_bytes()
    assert (tmp_path / "out" / "empty").read_bytes() == b""


class Kernel(io.RawIOBase):
    """A file that cannot be read in large pieces, as those of /proc/sys."""

    def __init__(self, left: int) -> None:
        self.left = left

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if len(target) >= 1 << 22:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        count = min(self.left, len(target), 1 << 12)
        target[:count] = bytes(count)
        self.left -= count
        return count


@pytest.mark.parametrize("size", [0, 24, 5 << 20])
def test_files_that_cannot_be_read_in_large_pieces(size: int) -> None:
    packed, back = io.BytesIO(), io.BytesIO()
    densor.compress_file(Kernel(size), packed)  # type: ignore[arg-type]
    packed.seek(0)
    densor.decompress_file(packed, back)
    assert back.getvalue() == bytes(size)


# Names, and one odd file in a folder


@posix
def test_names_of_any_bytes(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "in")
    for name in ODD_NAMES:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(name)
    (tmp_path / "in" / "empty:").mkdir()
    densor.pack([tmp_path / "in"], tmp_path / "a.densor")
    densor.extract(tmp_path / "a.densor", tmp_path / "out")
    for name in ODD_NAMES:
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path / "out"), name)))
        assert path.read_bytes() == name
    assert (tmp_path / "out" / "empty:").is_dir()
    with densor.open(tmp_path / "a.densor") as file:  # names are fit for a terminal
        assert all(name.isprintable() and ":" not in name for name in file.files())
    one = Path(os.fsdecode(os.path.join(folder, ODD_NAMES[0])))
    densor.compress_file(one, tmp_path / "b.densor")
    densor.extract(tmp_path / "b.densor", tmp_path / "alone")
    assert (tmp_path / "alone" / one.name).read_bytes() == ODD_NAMES[0]


@posix
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_command_keeps_names_of_any_bytes(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.path.basename(os.fsdecode(name))
    path.write_bytes(name)
    done = run(path, "-o", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    densor.extract(tmp_path / "a", tmp_path / "out")
    assert (tmp_path / "out" / path.name).read_bytes() == name


def test_escaped_names() -> None:
    for name in ODD_NAMES:
        text, escaped = escape_path(name)
        meta = parse(EntryMeta(text, "file", 0, escaped=escaped or None).to_json())
        assert bool(meta.escaped) == escaped
        if os.name == "posix":
            assert os.fsencode(real_path(meta)) == name
    for bad in (b"", b"/a", b"a//b", b"../a", b"a/..", b".", b":" * 5000):
        with pytest.raises(ArgumentError):
            escape_path(bad)
    for lie in ("%2E%2E", "a%2F%2Fb", "%2Fetc", "a%00", "x/%2e%2e/y", "%2F"):
        with pytest.raises(FormatError):
            parse({"name": lie, "kind": "file", "size": 0, "escaped": True})
    for odd in (1, "yes"):
        with pytest.raises(FormatError):
            parse({"name": "a", "kind": "file", "size": 0, "escaped": odd})


def test_keys_that_mean_nothing_for_a_kind_are_not_looked_at() -> None:
    plain = {"name": "a", "kind": "bytes", "size": 0}
    keys = ("dtype", "shape", "order", "host", "descr", "format", "escaped", "lossy")
    for key in (*keys, "mode", "mtime_ns", "owner"):
        assert parse(plain | {key: {"of": ["any", "kind"]}}) == parse(plain)
    tensor = {"name": "a", "kind": "tensor", "size": 2, "dtype": "BF16", "shape": []}
    assert parse(tensor | {"order": 5, "host": "x", "mode": 4096}) == parse(tensor)


@posix
def test_one_odd_thing_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"a")
    (folder / "deep" / "b").write_bytes(b"b")
    (folder / "deep" / "link").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    with pytest.raises(densor.FileError):
        densor.pack([folder], tmp_path / "x.densor")
    assert not (tmp_path / "x.densor").exists()
    found: list[Any] = []
    densor.pack([folder], tmp_path / "x.densor", left_out=found.append)
    assert len(found) == 3
    with densor.open(tmp_path / "x.densor") as file:
        assert file.files() == ["a", "deep/b"]
    done = run("pack", tmp_path / "y.densor", folder)
    assert done.returncode == 1 and done.stderr.count(b"left out") == 3
    assert densor.extract(tmp_path / "y.densor", tmp_path / "out") == ["a", "deep/b"]
    done = run("shards", "--jobs", "1", tmp_path / "each", folder)
    assert done.returncode == 1 and done.stderr.count(b"left out") == 3
    assert sorted(p.name for p in (tmp_path / "each").rglob("*.densor")) == ["a.densor", "b.densor"]
    with pytest.raises(densor.FileError):  # what was named is not left out
        densor.pack([folder / "loop"], tmp_path / "z.densor", left_out=found.append)


def test_an_archive_does_not_take_the_place_of_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    ok, two = tmp_path / "ok", tmp_path / "in" / "two"
    ok.write_bytes(b"one")
    two.write_bytes(b"two")
    linked = tmp_path / "in" / "linked"
    linked.symlink_to(ok)
    for given in (ok, linked, ok.as_uri()):
        with pytest.raises(ArgumentError, match="cannot be the archive too"):
            densor.pack([given, two], ok, overwrite=True)
    assert run("pack", "-f", ok, ok, two).returncode == 1 and ok.read_bytes() == b"one"

    linked.unlink()  # the archive of an earlier run, in the folder that is packed
    archive = tmp_path / "in" / "x.densor"
    assert run("pack", archive, tmp_path / "in").returncode == 0
    with pytest.raises(FileError, match="is where the archive is written"):
        densor.pack([tmp_path / "in"], archive, overwrite=True)
    done = run("pack", "-f", archive, tmp_path / "in")
    assert done.returncode == 1 and b"is where the archive is written; left out" in done.stderr
    assert densor.extract(archive, tmp_path / "out") == ["two"]


@posix
def test_what_can_be_packed_can_be_appended(tmp_path: Path) -> None:
    """Pseudo files, pipes and files of any name, as densor pack takes them."""
    (tmp_path / "first").write_bytes(b"first")
    archive = tmp_path / "x.densor"
    densor.pack([tmp_path / "first"], archive)
    odd = tmp_path / "10:30"
    odd.write_bytes(b"odd")
    densor.archives.append(archive, odd)
    densor.archives.append(archive, "/proc/version")
    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"piped",))
    writing.start()
    assert run("append", archive, tmp_path / "pipe").returncode == 0
    writing.join()
    densor.extract(archive, tmp_path / "out")
    assert (tmp_path / "out" / "10:30").read_bytes() == b"odd"
    assert (tmp_path / "out" / "version").read_bytes() == Path("/proc/version").read_bytes()
    assert (tmp_path / "out" / "pipe").read_bytes() == b"piped"


def test_a_folder_is_extracted_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep" / "er").mkdir(parents=True)
    for name in ("a", "deeper", "deep/b", "deep/er/c"):
        (tmp_path / "in" / name).write_bytes(name.encode())
    archive = tmp_path / "x.densor"
    densor.pack([tmp_path / "in"], archive)
    assert densor.extract(archive, tmp_path / "1", ["deep"]) == ["deep/b", "deep/er/c"]
    assert (tmp_path / "1" / "deep" / "er" / "c").read_bytes() == b"deep/er/c"
    assert densor.extract(archive, tmp_path / "2", ["deep/er/", "a"]) == ["a", "deep/er/c"]
    with pytest.raises(densor.FileError, match="dee"):
        densor.extract(archive, tmp_path / "3", ["dee"])
    done = run("cat", archive, "deep")
    assert done.returncode == 1 and b"is a folder" in done.stderr


def test_a_folder_of_many_folders_in_each_other(tmp_path: Path) -> None:
    """More of them than Python's functions can call each other, in a path that still has room."""
    depth = 1200
    source = tmp_path / "a"
    source.mkdir()
    here = os.open(source, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (source / "/".join("d" * depth) / "file").write_bytes(b"x")
    found = list(members([source]))
    assert [member.name.count("/") for member in found] == [depth, *range(depth - 1, -1, -1)]
    found[0].path.unlink()  # type: ignore[union-attr]
    for member in found[1:]:  # one by one, since `shutil.rmtree` calls itself too
        member.path.rmdir()  # type: ignore[union-attr]
