"""Help, version, usage errors, and what is imported for them."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from densor.cli import main as main_module
from densor.cli.commands import files
from densor.cli.dispatch import COMMANDS
from densor.cli.main import main
from densor.cli.usage import HELP
from densor.version import __version__

from .conftest import ROOT, Ran

HEAVY = ("numpy", "numba", "torch", "zstandard", "tqdm", "matplotlib")


def test_help_and_version(cli: Callable[..., Ran]) -> None:
    assert cli("--help") == (0, f"{HELP}\n".encode(), "")
    assert cli("-h") == cli("-fh") == cli("--help")
    assert cli("--version") == (0, f"densor {__version__}\n".encode(), "")
    assert cli("-V") == cli("-qV") == cli("--version")


def test_help_names_every_option_and_command() -> None:
    for action in files.parser()._actions:
        for option in action.option_strings:
            level = len(option) == 2 and option[1].isdigit()
            assert level or option in HELP.replace(",", " ").split()
    for command in COMMANDS:
        assert f"\n  {command} " in HELP


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands(cli: Callable[..., Ran], command: str) -> None:
    ran = cli(command, "--help")
    assert ran.code == 0 and not ran.err
    assert ran.text.startswith(f"usage: densor {command} ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("-T", "argument -T/--threads: expected one argument; see densor --help"),
        ("-Tx", "argument -T/--threads: 'x' is not a number from 0 on; see densor --help"),
        ("--nonsense", "unrecognized arguments: --nonsense; see densor --help"),
        ("--decomp x", "unrecognized arguments: --decomp; see densor --help"),
        ("-d -t x", "argument -t/--test: not allowed with argument -d/--decompress*"),
        ("-0 x", "unrecognized arguments: -0; see densor --help"),
        ("-d x", "x: does not end with .densor; name the output with -o; see densor --help"),
        ("-d .densor", ".densor: does not end with .densor; name the output with -o*"),
        ("-o y a b", "one output is for one FILE; see densor pack for archives of many*"),
        ("-c a b", "one output is for one FILE; see densor pack for archives of many*"),
        ("-rc a", "one output is for one FILE; see densor pack for archives of many*"),
        ("-c -o y a", "-c and -o exclude each other; see densor --help"),
        ("-t -o y a", "-c and -o do not go with -t and -l; see densor --help"),
        ("-l -", "-l does not go with stdin; see densor --help"),
        ("--rm -", "--rm does not go with stdin and stdout; see densor --help"),
        ("--rm -c a", "--rm does not go with stdin and stdout; see densor --help"),
        ("--verify -c a", "--verify does not go with stdout; see densor --help"),
        ("--dtype f12 a", "argument --dtype: unknown dtype 'f12'; known are bf16, *"),
        ("--max-size 3X -d a.densor", "argument --max-size: '3X' is not a size such as 4096, *"),
        ("pack", "the following arguments are required: OUT.densor, PATH; see densor pack --help"),
        ("list", "the following arguments are required: ARCHIVE; see densor list --help"),
        ("bench a --level 3,0", "argument --level: '3,0' is not a list of levels such as 1,3,9*"),
        ("demo --plot a.pdf", "argument --plot: the name must end with .png*"),
    ],
)
def test_wrong_usage(cli: Callable[..., Ran], argv: str, message: str) -> None:
    ran = cli(*argv.split())
    assert ran.said(f"densor: {message}"), ran.err
    assert (ran.code, ran.out) == (2, b"")


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stdin", [Terminal(), None])
def test_nothing_to_do(
    stdin: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main([]) == 2
    what = "closed" if stdin is None else "a terminal"
    reason = f"densor: no FILE is given, and stdin is {what}; see densor --help\n"
    assert capsys.readouterr() == ("", reason)


@pytest.mark.parametrize("argv", ["--help", "--version", "pack --help", "-Tx", "nosuch"])
def test_light_imports(argv: str) -> None:
    code = (
        "import sys; from densor.cli.main import main\n"
        f"main({argv.split()!r})\n"
        f"sys.exit(','.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_loads_few_modules() -> None:
    """Of the standard library only what is small: `dataclasses` alone takes as long as Python."""
    code = (
        "import sys; before = set(sys.modules); from densor.cli.main import main\n"
        "main(['--help']); print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.append({str(ROOT)!r}); {code}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"argparse", "dataclasses", "inspect", "pathlib", "shutil", "subprocess"}
    assert len(done.stderr.split()) < 60


def _imported(code: str, *arguments: str) -> set[str]:
    """What a program has imported that ends as `densor` does."""
    shown = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    command = [sys.executable, "-c", shown + code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split("\n")[-2].split())


def test_files_load_few_modules(tmp_path: Path) -> None:
    """What is large or imports much, of the standard library, is for what few files need."""
    source, packed, back = (str(tmp_path / name) for name in ("a", "a.densor", "b"))
    Path(source).write_bytes(bytes(range(256)) * 64)
    run = "from densor.cli.main import run; run()"
    large = {"tempfile", "random", "statistics", "fractions", "decimal", "numba"}
    for argv, more in (([source], set()), (["-d", packed, "-o", back], {"shutil", "bz2", "lzma"})):
        loaded = _imported(run, "-q", *argv)
        assert "numpy" in loaded
        assert not loaded & (large | more)
    assert Path(back).read_bytes() == Path(source).read_bytes()


def test_help_is_as_wide_as_the_terminal() -> None:
    for columns, least, most in (("72", 30, 72), ("200", 81, 200), ("no", 40, 80), ("0", 40, 80)):
        ran = subprocess.run(
            [sys.executable, "-m", "densor", "pack", "--help"],
            env={**os.environ, "COLUMNS": columns}, cwd=ROOT,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert least < max(map(len, ran.stdout.splitlines())) <= most


_ENDS = """
import sys, threading, time
from densor.cli import dispatch, main
def run(argv):
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_stacksize > 1 << 13: print("has room")
        frame = frame.f_back
    threading.Thread(target=lambda: (time.sleep(.2), print("done"))).start()
    return 3
dispatch._run = run
sys.argv = ["densor", "x"]
main.run()
"""


def test_waits_for_threads_that_go_on() -> None:
    command = [sys.executable, "-c", _ENDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    room = ["has room"] if sys.version_info >= (3, 11) else []
    assert done.stdout.split("\n")[:-1] == [*room, "done"]


def test_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Having done what was to be done at the end, unless other threads are at work."""
    done: list[object] = []
    monkeypatch.setattr(main_module.os, "_exit", done.append)
    monkeypatch.setattr(main_module.gc, "freeze", lambda: done.append("frozen"))
    monkeypatch.setattr(main_module.atexit, "_run_exitfuncs", lambda: done.append("tidied up"))
    other = threading.Thread(target=threading.Event().wait, args=(20,))
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])
    main_module._end(5)
    assert done == ["frozen", "tidied up", 5]
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread(), other])
    with pytest.raises(SystemExit):
        main_module._end(5)
    assert done == ["frozen", "tidied up", 5, "frozen"]
