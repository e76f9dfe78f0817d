"""What needs a process of its own: pipes, signals, limits, terminals, exit codes."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from densor.cli import console, dispatch
from densor.cli.commands import info

Start = Callable[..., "subprocess.Popen[bytes]"]
DATA = os.urandom(200_000)


def test_pipe_to_pipe(program: Start, tmp_path: Path) -> None:
    with program() as packing, program("-d", stdin=packing.stdout) as restoring:
        assert packing.stdin is not None
        packing.stdin.write(DATA)
        packing.stdin.close()
        packing.stdin = None
        assert restoring.communicate() == (DATA, b"")
        assert (packing.wait(), restoring.returncode) == (0, 0)


def test_stdout_open_for_appending(program: Start, tmp_path: Path) -> None:
    twice = tmp_path / "twice"
    twice.write_bytes(DATA)
    with (tmp_path / "out").open("ab") as out:
        assert program("-qc", "twice", stdout=out).communicate()[1] == b""
    assert program("-dc", "out").communicate() == (DATA, b"")


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, b"densor: interrupted\n"),
        (signal.SIGTERM, 143, b"densor: ended by SIGTERM\n"),
        (signal.SIGHUP, 129, b"densor: ended by SIGHUP\n"),
    ],
)
def test_signals_leave_nothing(
    program: Start, tmp_path: Path, number: int, code: int, line: bytes
) -> None:
    def heed() -> None:  # in the child: under nohup the tests themselves ignore SIGHUP
        signal.signal(number, signal.SIG_DFL)

    with program("-", "-o", "out", preexec_fn=heed) as process:
        assert process.stdin is not None
        process.stdin.write(DATA)
        process.stdin.flush()
        until = time.monotonic() + 60
        while not list(tmp_path.glob(".out.*.tmp")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.3)  # until it waits for more input
        process.send_signal(number)
        process.wait(timeout=60)
        assert process.stderr is not None
        assert process.stderr.read() == line
        assert process.returncode == code
    assert not os.listdir(tmp_path)


def test_a_signal_that_became_another_error(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """As some code in C, which imports things, makes of it."""

    def failing(args: object) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            dispatch._end(signal.SIGTERM, None)
        raise ImportError("numpy could not be imported")

    monkeypatch.setattr(dispatch, "_ended_at", -100.0)
    monkeypatch.setattr(dispatch, "_ended_by", None)
    monkeypatch.setattr(info, "run", failing)
    assert dispatch.dispatch(["info", "x"]) == 143
    assert capsys.readouterr().err == "densor: ended by SIGTERM\n"


@pytest.mark.parametrize("argv", [["data"], ["pack", "data.densor", "data"]])
def test_no_space_left(program: Start, tmp_path: Path, argv: list[str]) -> None:
    (tmp_path / "data").write_bytes(DATA)
    resource = pytest.importorskip("resource")

    def limit() -> None:  # in the child: the interpreter ignores SIGXFSZ, so that writes fail
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    with program(*argv, preexec_fn=limit) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert err.count(b"\n") == 1 and err.startswith(b"densor: data")
    assert b"cannot write: File too large" in err
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("argv", [["-c", "data"], ["-dc", "a.densor"], ["-l", "a.densor"]])
def test_full_stdout(program: Start, tmp_path: Path, argv: list[str]) -> None:
    (tmp_path / "data").write_bytes(DATA)
    assert program("-q", "data", "-o", "a.densor").wait() == 0
    with open("/dev/full", "wb") as full, program(*argv, stdout=full) as process:
        err = process.communicate()[1]
    assert process.returncode == 1
    assert err.startswith(b"densor: ") and err.endswith(b"No space left on device\n")
    assert err.count(b"\n") == 1


def test_other_broken_pipes_are_said(capfd: pytest.CaptureFixture[str]) -> None:
    console.fail(["data"], BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert capfd.readouterr() == ("", "densor: data: Broken pipe\n")


@pytest.mark.parametrize("argv", [["-dc", "a.densor"], ["-l", "a.densor"], ["--help"]])
def test_broken_pipe(program: Start, tmp_path: Path, argv: list[str]) -> None:
    """`densor ... | true`: no word, and an exit code that `set -o pipefail` sees."""
    (tmp_path / "data").write_bytes(DATA)
    assert program("-q", "data", "-o", "a.densor").wait() == 0
    reading, writing = os.pipe()
    os.close(reading)
    with program(*argv, stdout=writing) as process:
        os.close(writing)
        err = process.communicate()[1]
    assert (process.returncode, err) == (1, b"")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_folder_without_write_permission(program: Start, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(DATA)
    tmp_path.chmod(0o555)
    try:
        with program("data") as process:
            err = process.communicate()[1]
    finally:
        tmp_path.chmod(0o755)
    assert (process.returncode, err) == (1, b"densor: data.densor: Permission denied\n")


def test_terminal(program: Start, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    (tmp_path / "data").write_bytes(DATA)
    master, slave = pty.openpty()
    with program("-c", "data", stdout=slave) as process:
        err = process.communicate()[1]
    os.close(slave)
    os.close(master)
    assert process.returncode == 1
    assert err == b"densor: data: an archive is not written to a terminal; use -o FILE or -f\n"


def test_as_module_and_as_function(program: Start, tmp_path: Path) -> None:
    from densor.version import __version__

    version = f"densor {__version__}\n".encode()
    assert program("--version").communicate() == (version, b"")
    code = "import sys; from densor.cli.main import run; sys.argv[1:] = ['-t', 'nosuch']; run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr == b"densor: nosuch: No such file or directory\n"


_IN_A_FINALISER = """
import os, signal, sys, time
from densor.cli import dispatch, main
signal.signal(signal.SIGINT, signal.default_int_handler)  # which the caller may ignore
class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(.1)
def run(argv):
    Dropping()
    until = time.monotonic() + 20
    while time.monotonic() < until: time.sleep(.01)
    return 0
dispatch._run = run
sys.argv = ["densor", "x"]
main.run()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_that_come_where_nothing_can_be_raised(name: str, code: int) -> None:
    """As in `__del__` and in callbacks from C, of which those of numba are many."""
    script = _IN_A_FINALISER.format(name=name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(b"densor: ") and done.stderr.count(b"\n") == 1


_SLOW_AT_EXIT = """
import atexit, signal, sys, time
from densor.cli import dispatch, main
signal.signal(signal.SIGINT, signal.default_int_handler)  # which the caller may ignore
atexit.register(time.sleep, 30)
def run(argv):
    raise KeyboardInterrupt
dispatch._run = run
sys.argv = ["densor", "x"]
main.run()
"""


def test_an_interrupt_while_the_interpreter_ends() -> None:
    """The threads that it waits for may have seconds to go."""
    command = [sys.executable, "-c", _SLOW_AT_EXIT]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"densor: interrupted\n"
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
        assert process.returncode == -signal.SIGINT
        assert process.stderr.read() == b""
