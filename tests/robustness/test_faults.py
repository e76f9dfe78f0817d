"""Real faults: processes that are killed, full disks, failing devices, files that change.

Whatever happens, either the old or the new file is whole. What `test_files` and `cli/test_process`
have already is not repeated here.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
from faults import FIRST, PACKED_FIRST, SECOND, WORKS, Work, ended, forked, is_archive_of
from paths import ROOT, SUPPORT

import densor
from densor.cli import dispatch
from densor.files import single
from densor.formats.io import outputs
from densor.lossy.quantizing import Quantized
from densor.sync.stores import FolderStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def run_faults(*arguments: object, timeout: float = 600) -> Any:
    """What `faults.py` reports; it works in memory where it can, since a kill loses no caches."""
    path = [str(ROOT), str(SUPPORT)]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        done = subprocess.run(
            [sys.executable, str(SUPPORT / "faults.py"), *map(str, arguments), folder],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FEWEST = {"compress": 6, "append": 6, "decompress": 7}  # calls: small pieces are written together


def test_kills_at_every_step() -> None:
    """SIGKILL before each call that changes a file."""
    for name, counts in run_faults("points", 10_000, 0).items():
        assert counts["survivors"] == 1, name
        assert counts["kills"] >= FEWEST.get(name, 8), name
        assert counts["old"] and counts["new"], name


def test_kills_at_random_moments() -> None:
    counts = run_faults("random", 6, 1)
    assert sum(count["kills"] for count in counts.values()) >= 42


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_kills_at_random_moments(seed: int) -> None:
    counts = run_faults("random", 100, seed, timeout=3600)
    print(json.dumps(counts))
    assert sum(count["kills"] for count in counts.values()) >= 700


def test_interrupts_at_random_moments() -> None:
    counts = run_faults("interrupts", 15, 0)["interrupts"]
    assert counts["interrupted"] >= 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupt_before_any_instruction_leaves_no_file(
    overwrite: bool, tmp_path: Path
) -> None:
    """Ctrl-C is raised between two instructions of Python: here before each one in turn."""
    inside = {outputs.__file__, contextlib.__file__, pathlib.__file__}
    number = 1
    while interrupted_at(number, inside, tmp_path / "a", overwrite):
        assert set(os.listdir(tmp_path)) <= {"a"}, number
        (tmp_path / "a").unlink(missing_ok=True)
        number += 1
    assert number > 400 and os.listdir(tmp_path) == ["a"]


def interrupted_at(number: int, inside: set[str | None], path: Path, overwrite: bool) -> bool:
    """Writes a file, with a KeyboardInterrupt before an instruction; False if there are fewer."""
    left = number

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in inside:
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if not left:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    def write() -> None:
        with outputs.whole_file(path, overwrite) as file:
            file.write(b"all of it")

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        write()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return left <= 0


def test_a_second_ctrl_c_leaves_no_file_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the first one has the temporary file removed."""
    unlink = Path.unlink

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        signal.raise_signal(signal.SIGINT)
        unlink(path, missing_ok)

    prepared = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in prepared}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(dispatch, "_ended_at", -1e9, raising=False)
    monkeypatch.setattr(Path, "unlink", interrupted)
    try:
        dispatch.prepare_process()
        with pytest.raises(KeyboardInterrupt), outputs.whole_file(tmp_path / "a", False):
            signal.raise_signal(signal.SIGINT)
        assert not os.listdir(tmp_path)
        monkeypatch.setattr(dispatch, "_ended_at", dispatch._ended_at - 1e9)
        with pytest.raises(KeyboardInterrupt):  # later ones are heeded
            signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# A full disk


def left_after_failing(work: Work, folder: Path) -> None:
    """After an error in the work: what was there is whole, and no temporary file is left."""
    assert not work.check(folder)
    assert faults.only_hidden_strays(folder, {"a", "b", "a.densor"}) == 0


@pytest.mark.parametrize("name", WORKS)
def test_files_may_not_grow(name: str, tmp_path: Path) -> None:
    """A limit on file sizes, which fails like a full disk, at several sizes."""
    resource = pytest.importorskip("resource")
    work = WORKS[name]()
    for limit in (0, 1, 1000, 60_000, 65_536, 100_000):
        folder = tmp_path / str(limit)
        folder.mkdir()
        work.prepare(folder)

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: B023
            with open(os.devnull, "w") as sys.stderr:
                work.do(folder)  # noqa: B023

        assert ended(forked(limited)) == 3
        left_after_failing(work, folder)


def save_quantized(folder: Path, data: bytes) -> None:
    Quantized(data, {}, [], 1, None, 1.0).save(folder / "a.densor")


def put_message(folder: Path, data: bytes) -> None:
    FolderStore(folder).put("full-1", data)


def write_at_once(folder: Path, data: bytes) -> None:
    with outputs.whole_file(folder / "a", False) as file:
        assert file.write(data) == len(data)


@pytest.mark.parametrize("write", [save_quantized, put_message, write_at_once])
def test_room_for_a_part_of_one_write(write: Callable[[Path, bytes], None], tmp_path: Path) -> None:
    """The system writes what fits, and says so rather than fail: no file is cut there."""
    resource = pytest.importorskip("resource")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with open(os.devnull, "w") as sys.stderr:
            write(tmp_path, bytes(10_001))

    assert ended(forked(limited)) == 3
    assert not os.listdir(tmp_path)
    write(tmp_path, bytes(10_001))
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == bytes(10_001)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where this user may mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("no mount")
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("name", WORKS)
def test_a_full_file_system(name: str, small_disk: Path) -> None:
    """The disk is full at some point of the work, and then not any more."""
    work = WORKS[name]()
    work.prepare(small_disk)
    filler = small_disk / "b" if name not in ("append", "extract") else small_disk / ".filler.tmp"
    free = os.statvfs(small_disk)
    for room in (0, 8192, 65_536):
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - room))
        with pytest.raises((densor.FileError, SystemExit, OSError)):
            work.do(small_disk)
        filler.unlink()
        left_after_failing(work, small_disk)
    work.do(small_disk)
    assert work.check(small_disk)


# Devices that fail


class BadSector:
    """`os.preadv` of a device that cannot read one place of one file."""

    def __init__(self, path: Path, place: int, lasting: bool = True) -> None:
        status = path.stat()
        self.file = status.st_dev, status.st_ino
        self.place = place
        self.preadv = os.preadv
        self.failed = 0

    def __call__(self, fd: int, buffers: Any, offset: int) -> int:
        status = os.fstat(fd)
        size = sum(len(buffer) for buffer in buffers)
        here = (status.st_dev, status.st_ino) == self.file
        if here and offset <= self.place < offset + size:
            self.failed += 1
            raise OSError(errno.EIO, "Input/output error")
        return self.preadv(fd, buffers, offset)


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")
def test_a_bad_sector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error for all who need the whole; salvage and repair go on without it."""
    archive = tmp_path / "a.densor"
    archive.write_bytes(faults.PROTECTED)
    (tmp_path / "b").write_bytes(SECOND)
    bad = BadSector(archive, 70_000)
    monkeypatch.setattr(os, "preadv", bad)
    with pytest.raises(densor.FileError, match="Input/output error"):
        densor.archives.append(archive, tmp_path / "b", threads=1)
    with (
        densor.open(archive, threads=1) as opened,
        pytest.raises(densor.FileError, match="Input/output error"),
    ):
        opened.read_file("a")
    assert archive.read_bytes() == faults.PROTECTED
    found = densor.archives.salvage(archive, tmp_path / "out", threads=1)
    (entry,) = found.entries
    assert entry.lost and bad.failed
    data = (tmp_path / "out" / "a.partial").read_bytes()
    assert data[: entry.lost[0].begin] == FIRST[: entry.lost[0].begin]
    assert densor.archives.repair(archive, tmp_path / "c.densor").blocks == 1
    assert (tmp_path / "c.densor").read_bytes() == faults.PROTECTED
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["a.densor", "b", "c.densor", "out"]


# Folders and files that may not be written


def as_nobody(work: Callable[[], object]) -> int:
    """Runs work in a child that may not do everything; its exit code."""

    def lowered() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        with open(os.devnull, "w") as sys.stderr:
            work()

    return ended(forked(lowered))


@pytest.mark.parametrize("name", WORKS)
def test_a_folder_that_may_not_be_written(name: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        folder = Path(parent) / "folder"
        folder.mkdir()
        work = WORKS[name]()
        warm = Path(parent) / "warm"
        warm.mkdir()
        work.prepare(warm)
        work.do(warm)  # loads what a child may not be allowed to read
        work.prepare(folder)
        for path in folder.iterdir():
            path.chmod(0o644)
        folder.chmod(0o555)
        before = sorted(os.listdir(folder))
        try:
            assert as_nobody(lambda: work.do(folder)) == 3
        finally:
            folder.chmod(0o755)
        assert sorted(os.listdir(folder)) == before
        left_after_failing(work, folder)
        folder.chmod(0o777)
        assert as_nobody(lambda: work.do(folder)) == 0
        assert work.check(folder)


# Files that change


def test_an_original_that_changes_within_a_tick_of_the_clock(tmp_path: Path) -> None:
    """Same size, same time: `--rm` reads a file once more that was written just now."""
    path = tmp_path / "a"
    path.write_bytes(FIRST)
    compress = single.compress_file

    def and_change(*arguments: Any, **options: Any) -> Any:
        sizes = compress(*arguments, **options)
        status = path.stat()
        with path.open("r+b") as file:
            file.write(b"?")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return sizes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single, "compress_file", and_change)
        patch.setattr("os.stat", without_ctime(os.stat))
        assert faults.main(["-q", "--rm", str(path)]) == 1
    assert path.read_bytes() == b"?" + FIRST[1:]
    assert faults.main(["-qf", "--rm", str(path)]) == 0
    assert is_archive_of(tmp_path / "a.densor", b"?" + FIRST[1:]) and not path.exists()


def without_ctime(call: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
    """`os.stat` of a file system that notes no times of change."""

    class Status:
        st_ctime_ns = 0

        def __init__(self, status: os.stat_result) -> None:
            self._status = status

        def __getattr__(self, name: str) -> Any:
            return getattr(self._status, name)

    return lambda *arguments, **options: Status(call(*arguments, **options))  # type: ignore[return-value]


def test_an_archive_that_is_replaced_while_it_is_appended_to(tmp_path: Path) -> None:
    """What another program has put there is not thrown away."""
    archive, other = tmp_path / "a.densor", tmp_path / "other"
    (tmp_path / "b").write_bytes(SECOND)
    for mend in (False, True):
        archive.write_bytes(faults.DAMAGED if mend else PACKED_FIRST)
        other.write_bytes(b"of another program")

        def replace(*_: object, **__: object) -> None:
            if other.exists():
                other.replace(archive)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fchmod", replace)
            with pytest.raises(densor.FileError, match="changed"):
                if mend:
                    densor.archives.repair(archive)
                else:
                    densor.archives.append(archive, tmp_path / "b", threads=1)
        assert archive.read_bytes() == b"of another program"
    assert sorted(os.listdir(tmp_path)) == ["a.densor", "b"]


# Two at once


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_processes_write_the_same_output(overwrite: bool, tmp_path: Path) -> None:
    for name, data in (("1", FIRST), ("2", SECOND)):
        (tmp_path / name).write_bytes(data)
    target = tmp_path / "out"
    for _ in range(8):
        target.unlink(missing_ok=True)

        def work(name: str) -> None:
            densor.compress_file(tmp_path / name, target, threads=1, overwrite=overwrite)

        children = [forked(lambda name=name: work(name)) for name in "12"]  # type: ignore[misc]
        codes = sorted(ended(child) for child in children)
        assert codes == ([0, 0] if overwrite else [0, 3])
        restored = io.BytesIO()
        densor.decompress_file(target, restored, threads=1)
        assert restored.getvalue() in (FIRST, SECOND)
        assert sorted(os.listdir(tmp_path)) == ["1", "2", "out"]


def test_two_processes_append(tmp_path: Path) -> None:
    """Each has its file in the archive, or an error: none is lost in silence."""
    archive = tmp_path / "a.densor"
    names = ["b", "c", "d"]
    for name in names:
        (tmp_path / name).write_bytes(SECOND + name.encode())
    for _ in range(5):
        archive.write_bytes(PACKED_FIRST)
        children = {
            name: forked(
                lambda name=name: densor.archives.append(archive, tmp_path / name, threads=1)
            )  # type: ignore[misc]
            for name in names
        }
        done = [name for name, child in children.items() if ended(child) == 0]
        assert done
        with densor.open(archive, threads=1) as opened:
            assert sorted(opened.files()) == ["a", *done]
            for name in done:
                assert opened.read_file(name) == SECOND + name.encode()
    assert sorted(os.listdir(tmp_path)) == ["a.densor", *names]


# Pipes


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`densor -c big | head`: exit code 1, no word, no file."""
    (tmp_path / "a").write_bytes(FIRST)
    (tmp_path / "a.densor").write_bytes(PACKED_FIRST)
    for argv in (["-c", "a"], ["pack", "-", "a"]):
        with subprocess.Popen(
            [sys.executable, "-m", "densor", *argv],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(SUPPORT.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            assert len(process.stdout.read(100)) == 100
            process.stdout.close()
            said = process.stderr.read()
        assert process.returncode == 1, argv
        notice = (
            b"densor: first run on this processor: compiling kernels, cached for later runs ...\n"
        )
        said = said.removeprefix(notice)  # where nothing has compiled them before
        assert said == b"", argv
    assert sorted(os.listdir(tmp_path)) == ["a", "a.densor"]
