"""Pipes of processes: any size in bounded memory, verified as it goes."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import weights

import densor

ROOT = Path(densor.__file__).parents[1]
ROWS, COLUMNS = 1024, 4096
LIMIT = 600_000_000  # bytes of memory of either process, interpreter and libraries included

# Runs `densor` with the arguments after the first, which names a file for the peak of its memory.
PROGRAM = """
import sys
from pathlib import Path
from densor.cli.main import main
code = main(sys.argv[2:])
status = Path("/proc/self/status").read_text()
Path(sys.argv[1]).write_text(status.split("VmHWM:")[1].split()[0])
sys.exit(code)
"""


def start(peak: Path, *argv: str, **streams: Any) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, str(peak), *argv]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, **streams)


def blocks(count: int) -> Iterator[bytes]:
    """A safetensors file of so many blocks of 8 MiB, each another one, made cheaply."""
    header = b'{"w":{"dtype":"BF16","shape":[%d,%d],"data_offsets":[0,%d]}}'
    header = header % (count * ROWS, COLUMNS, count * ROWS * COLUMNS * 2)
    yield len(header).to_bytes(8, "little") + header
    block = weights("bf16", ROWS, COLUMNS)
    for number in range(count):
        data = (block ^ np.uint16(number & 7)).tobytes()
        yield data[:-8] + number.to_bytes(8, "little")


def feed(process: "subprocess.Popen[bytes]", count: int) -> None:
    assert process.stdin is not None
    with process.stdin:
        for block in blocks(count):
            process.stdin.write(block)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_a_pipeline_of_any_size_in_bounded_memory(count: int, tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    packing = start(tmp_path / "packing", "-1", stdin=pipe, stdout=pipe)
    restoring = start(tmp_path / "restoring", "-d", stdin=packing.stdout, stdout=pipe)
    assert packing.stdout is not None and restoring.stdout is not None
    packing.stdout.close()  # the other process has it
    feeding = threading.Thread(target=feed, args=(packing, count))
    feeding.start()
    for number, block in enumerate(blocks(count)):
        assert restoring.stdout.read(len(block)) == block, number
    assert restoring.stdout.read() == b""
    feeding.join()
    assert (packing.wait(), restoring.wait()) == (0, 0)
    for process in (packing, restoring):
        assert process.stderr is not None
        process.stderr.close()
    restoring.stdout.close()
    peaks = [int((tmp_path / name).read_text()) * 1024 for name in ("packing", "restoring")]
    assert max(peaks) <= LIMIT, peaks


@pytest.fixture(scope="module")
def archive() -> bytes:
    """An archive of some chunks, as it goes through a pipe."""
    out = bytearray()

    class Pipe:
        def write(self, data: Any) -> int:
            out.extend(data)
            return len(data)

        def flush(self) -> None:
            pass

    densor.compress_file(Blocks(2), Pipe(), 1)  # type: ignore[arg-type]
    return bytes(out)


class Blocks:
    """A file without an end in sight."""

    def __init__(self, count: int) -> None:
        self._blocks = blocks(count)
        self._left = b""

    def read(self, count: int) -> bytes:
        while not self._left:
            self._left = next(self._blocks, b"")
            if not self._left:
                return b""
        piece, self._left = self._left[:count], self._left[count:]
        return piece


@contextlib.contextmanager
def restoring(tmp_path: Path, given: bytes) -> Iterator["subprocess.Popen[bytes]"]:
    """`densor -d` that is given these bytes, on a pipe that stays open until the block ends."""
    pipe = subprocess.PIPE
    process = start(tmp_path / "peak", "-d", "-T1", stdin=pipe, stdout=pipe)
    release = threading.Event()

    def write() -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(given)
            process.stdin.flush()
            release.wait()

    writing = threading.Thread(target=write)
    writing.start()
    with process:
        try:
            yield process
        finally:
            release.set()
            assert process.stdout is not None
            process.stdout.read()
            writing.join()


def message_of(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stderr is not None
    return process.stderr.read()


def test_bytes_come_out_before_all_have_gone_in(archive: bytes, tmp_path: Path) -> None:
    with restoring(tmp_path, archive[: len(archive) // 2]) as process:
        assert process.stdout is not None
        assert b"".join(blocks(2)).startswith(process.stdout.read(1 << 20))
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda data: bytes([*data[:-1], data[-1] ^ 1]), b"damaged"),
        (lambda data: data + bytes(1 << 16), b"damaged"),
    ],
)
def test_damage_ends_it_before_the_rest_is_read(
    archive: bytes, damage: Callable[[bytes], bytes], word: bytes, tmp_path: Path
) -> None:
    """The other end of the pipe is still open: nobody waits for the end of the archive."""
    from densor.formats.container import wire

    at = wire.HEADER_SIZE
    while at < len(archive) // 2:  # to the end of a frame
        at += wire.FRAME_SIZE + int.from_bytes(archive[at + 4 : at + 8], "little")
    with restoring(tmp_path, damage(archive[:at])) as process:
        assert process.stdout is not None
        found = process.stdout.read()  # which ends although there could be more input
        assert process.wait() == 1 and word in message_of(process)
    assert 0 < len(found) < len(archive) and b"".join(blocks(2)).startswith(found)


def test_a_pipe_that_ends_early(archive: bytes, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "densor", "-d"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=archive[:-50],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1 and b"ends" in done.stderr
    assert done.stdout == b"".join(blocks(2))  # whole, and yet nobody could have known


@pytest.mark.parametrize("buffered", [True, False])
def test_pipes_that_do_not_wait(buffered: bool, tmp_path: Path) -> None:
    """Where nothing is there yet, or there is no room, that is an error and not the end."""
    if not hasattr(os, "set_blocking"):
        pytest.skip("needs pipes that do not wait")
    (tmp_path / "large").write_bytes(np.random.default_rng(0).bytes(1 << 20))  # a pipe holds less
    into, out = os.pipe()
    os.set_blocking(out, False)
    mode = {"PYTHONUNBUFFERED": "" if buffered else "1"}  # as in containers
    command = [sys.executable, "-m", "densor", "-c"]
    run: Any = partial(subprocess.run, stderr=subprocess.PIPE)
    run = partial(run, env={**os.environ, "PYTHONPATH": str(ROOT), **mode})
    done = run([*command, str(tmp_path / "large")], stdout=out)
    assert done.returncode == 1 and b"cannot write" in done.stderr
    os.close(into)
    os.close(out)
    into, out = os.pipe()
    os.set_blocking(into, False)
    os.write(out, b"the first part")
    done = run(command, stdin=into, stdout=subprocess.PIPE)
    assert done.returncode == 1 and b"cannot read" in done.stderr
    os.close(into)
    os.close(out)
