"""Faults for test_faults: a warm process that forks children and kills them in the midst of work.

A child takes milliseconds, where a new interpreter takes seconds: thousands of kills are cheap.
Run as a program: `python faults.py KIND ROUNDS SEED FOLDER`; prints a line of JSON.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from helpers import random_state, safetensors_bytes, weights

import densor
from densor.cli.dispatch import prepare_process
from densor.cli.main import main
from densor.formats.container import sinks, writer
from densor.formats.damage import recovery, repair
from densor.formats.io import outputs
from densor.options import WriteOptions

RANDOM, POINTS = "random", "points"


def checkpoint(step: int) -> bytes:
    """A file of 300 kB; those of neighbouring steps are nearly equal."""
    bits = weights("bf16", 150, 400)
    bits = bits + (np.arange(bits.size).reshape(bits.shape) % 50 < step).astype(np.uint16)
    noise = random_state("noise", step).integers(0, 256, 60_000, np.uint8).tobytes()
    return safetensors_bytes(
        {"w": ("BF16", bits.shape, bits.tobytes()), "x": ("U8", (60_000,), noise)}
    )


FIRST, SECOND = checkpoint(0), checkpoint(1)


class Work:
    """Something that is done to a folder, and what the folder must look like whenever it ends."""

    def prepare(self, folder: Path) -> None:
        """Makes the files to work on."""

    def do(self, folder: Path) -> None:
        """The work, in a child."""
        raise NotImplementedError

    def check(self, folder: Path) -> bool:
        """Asserts that old or new is whole; whether it is the new one."""
        raise NotImplementedError

    def command(self, *argv: str) -> None:
        """A command line that must not fail."""
        if main([*argv, "-q", "-T1"]):
            raise SystemExit(1)


class Compress(Work):
    """A new archive."""

    def prepare(self, folder: Path) -> None:
        (folder / "a").write_bytes(FIRST)

    def do(self, folder: Path) -> None:
        self.command(str(folder / "a"))

    def check(self, folder: Path) -> bool:
        assert (folder / "a").read_bytes() == FIRST
        return is_archive_of(folder / "a.densor", FIRST)


class Overwrite(Compress):
    """An archive in place of another one."""

    def prepare(self, folder: Path) -> None:
        (folder / "a.densor").write_bytes(PACKED_SECOND)
        (folder / "a").write_bytes(FIRST)

    def do(self, folder: Path) -> None:
        self.command("-f", str(folder / "a"), "--recovery", "5")

    def check(self, folder: Path) -> bool:
        if (folder / "a.densor").read_bytes() == PACKED_SECOND:
            return False
        return super().check(folder)


class CompressAndRemove(Work):
    """`--rm`: original or archive, or both."""

    def prepare(self, folder: Path) -> None:
        (folder / "a").write_bytes(FIRST)

    def do(self, folder: Path) -> None:
        self.command("--rm", str(folder / "a"))

    def check(self, folder: Path) -> bool:
        done = is_archive_of(folder / "a.densor", FIRST)
        assert done or (folder / "a").exists()
        assert not (folder / "a").exists() or (folder / "a").read_bytes() == FIRST
        return done


class Decompress(Work):
    """A new file from an archive, which is then removed."""

    def prepare(self, folder: Path) -> None:
        (folder / "a.densor").write_bytes(PACKED_FIRST)

    def do(self, folder: Path) -> None:
        self.command("-d", "--rm", str(folder / "a.densor"))

    def check(self, folder: Path) -> bool:
        done = (folder / "a").exists()
        assert not done or (folder / "a").read_bytes() == FIRST
        archive = folder / "a.densor"
        assert done or archive.exists()
        assert not archive.exists() or archive.read_bytes() == PACKED_FIRST
        return done


class Append(Work):
    """One more checkpoint; the archive is the earlier one, or has both."""

    def prepare(self, folder: Path) -> None:
        (folder / "a.densor").write_bytes(PACKED_FIRST)
        (folder / "b").write_bytes(SECOND)

    def do(self, folder: Path) -> None:
        densor.archives.append(folder / "a.densor", folder / "b", threads=1)

    def check(self, folder: Path) -> bool:
        assert (folder / "b").read_bytes() == SECOND
        if (folder / "a.densor").read_bytes() == PACKED_FIRST:
            return False
        with densor.open(folder / "a.densor", threads=1) as archive:
            assert archive.files() == ["a", "b"]
            assert archive.read_file("a") == FIRST
            assert archive.read_file("b") == SECOND
        densor.verify_file(folder / "a.densor", threads=1)
        return True


class Repair(Work):
    """A damaged archive and the repaired one."""

    def prepare(self, folder: Path) -> None:
        (folder / "a.densor").write_bytes(DAMAGED)

    def do(self, folder: Path) -> None:
        densor.archives.repair(folder / "a.densor")

    def check(self, folder: Path) -> bool:
        found = (folder / "a.densor").read_bytes()
        assert found in (DAMAGED, PROTECTED)
        return found == PROTECTED


class Extract(Work):
    """Several files: each is whole or not there."""

    def prepare(self, folder: Path) -> None:
        (folder / "a.densor").write_bytes(PACKED_BOTH)

    def do(self, folder: Path) -> None:
        self.command("extract", str(folder / "a.densor"), "-C", str(folder / "out"))

    def check(self, folder: Path) -> bool:
        assert (folder / "a.densor").read_bytes() == PACKED_BOTH
        done = 0
        for name, data in (("a", FIRST), ("b", SECOND)):
            path = folder / "out" / name
            if path.exists():
                assert path.read_bytes() == data
                done += 1
        return done == 2


WORKS: dict[str, type[Work]] = {
    "compress": Compress,
    "overwrite": Overwrite,
    "rm": CompressAndRemove,
    "decompress": Decompress,
    "append": Append,
    "repair": Repair,
    "extract": Extract,
}


def packed(data: bytes, name: str, **options: Any) -> bytes:
    """An archive of one file."""
    out = io.BytesIO()
    densor.compress_file(io.BytesIO(data), out, threads=1, name=name, **options)
    return out.getvalue()


def packed_both() -> bytes:
    """An archive of two files."""
    out = io.BytesIO()
    archive = writer.ArchiveWriter(out, WriteOptions(threads=1))
    for name, data in (("a", FIRST), ("b", SECOND)):
        meta = writer.EntryMeta(name, "file", len(data))
        segment = writer.Segment(densor.formats.parsers.plan.BYTES, len(data))  # type: ignore[attr-defined]
        archive.add(meta, densor.formats.io.sources.MemorySource(data), [segment])  # type: ignore[attr-defined]
    archive.close()
    return out.getvalue()


PACKED_FIRST, PACKED_SECOND = packed(FIRST, "a"), packed(SECOND, "a")
PACKED_BOTH = packed_both()
PROTECTED = packed(FIRST, "a", recovery=10)
DAMAGED = PROTECTED[:50_000] + bytes(10_000) + PROTECTED[60_000:]


def is_archive_of(path: Path, data: bytes) -> bool:
    """Whether the archive is there; asserts that it is whole then."""
    if not path.exists():
        return False
    restored = io.BytesIO()
    densor.decompress_file(path, restored, threads=1)
    assert restored.getvalue() == data
    return True


def only_hidden_strays(folder: Path, known: set[str]) -> int:
    """How many temporary files are left: none looks like an output."""
    strays = [path for path in folder.rglob("*") if path.is_file() and path.name not in known]
    for path in strays:
        assert path.name.startswith(".") and path.name.endswith(".tmp"), path
    return len(strays)


# Children


def forked(work: Callable[[], object]) -> int:
    """Starts work in a child; its exit code is 0, or 3 after an exception."""
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Waits for a child; its exit code, or less than 0 for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def dying_at(point: int) -> Iterator[None]:
    """Kills this process before the call number `point` of any that changes files."""
    count = 0

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counting

    for module in (writer, sinks, outputs, recovery, repair):
        module.write_all = wrapped(module.write_all)  # type: ignore[attr-defined]
    for name in ("fsync", "link", "unlink", "replace", "fchmod", "utime", "mkdir"):
        setattr(os, name, wrapped(getattr(os, name)))
    for name in ("replace", "unlink", "chmod"):
        setattr(Path, name, wrapped(getattr(Path, name)))
    yield


def kills(name: str, kind: str, rounds: int, seed: int, folder: Path) -> dict[str, int]:
    """Kills children at random moments, or at every call that changes a file, in turn."""
    work = WORKS[name]()
    rng = random_state("kills", name, seed)
    result = {"kills": 0, "old": 0, "new": 0, "strays": 0, "survivors": 0}
    seconds = 0.0
    number = 0
    while result["kills"] < rounds:
        here = folder / f"{name}-{seed}-{number}"
        here.mkdir()
        work.prepare(here)
        if number == 0:  # how long it takes, once all is loaded
            work.do(here)
            assert work.check(here)
            shutil.rmtree(here)
            here.mkdir()
            work.prepare(here)
            begin = time.perf_counter()
            assert ended(forked(lambda: work.do(here))) == 0  # noqa: B023
            seconds = time.perf_counter() - begin
            assert work.check(here)
        elif kind == RANDOM:
            child = forked(lambda: work.do(here))  # noqa: B023
            time.sleep(float(rng.uniform(0, 1.1)) * seconds)
            os.kill(child, signal.SIGKILL)
            judge(work, here, ended(child), result)
        else:

            def die() -> None:
                with dying_at(number):  # noqa: B023
                    work.do(here)  # noqa: B023

            if judge(work, here, ended(forked(die)), result):
                break
        shutil.rmtree(here)
        number += 1
    return result


def judge(work: Work, here: Path, code: int, result: dict[str, int]) -> bool:
    """Counts how a child ended; whether it had finished before."""
    assert code in (0, -signal.SIGKILL), code
    result["kills"] += code != 0
    result["survivors"] += code == 0
    result["new" if work.check(here) else "old"] += 1
    known = {"a", "b", "a.densor"}
    result["strays"] += only_hidden_strays(here, known)
    return code == 0


def interrupts(rounds: int, seed: int, folder: Path) -> dict[str, int]:
    """Ctrl-C at random moments: exit code 130, and no file is left."""
    rng = random_state("interrupts", seed)
    result = {"interrupted": 0, "done": 0}
    seconds = 0.05
    for number in range(rounds + 1):
        here = folder / f"interrupt-{number}"
        here.mkdir()
        (here / "a").write_bytes(FIRST)

        def command() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            prepare_process()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os._exit(main(["-q", "-T1", str(here / "a")]))  # noqa: B023

        begin = time.perf_counter()
        child = forked(command)
        if number:
            time.sleep(seconds * float(rng.uniform(0.2, 1)))
            os.kill(child, signal.SIGINT)
        code = ended(child)
        if not number:
            seconds = time.perf_counter() - begin
        assert (here / "a").read_bytes() == FIRST
        done = is_archive_of(here / "a.densor", FIRST)
        assert code in (0, 130, 3), code  # 3: before the command had begun
        assert only_hidden_strays(here, {"a", "a.densor"}) == 0
        result["done" if done else "interrupted"] += 1
        shutil.rmtree(here)
    return result


if __name__ == "__main__":
    what, how_many, which, where = (
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
    )
    found = {}
    if what == "interrupts":
        found[what] = interrupts(how_many, which, where)
    else:
        for each in WORKS:
            found[each] = kills(each, what, how_many, which, where)
    print(json.dumps(found))
