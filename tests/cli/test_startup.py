"""Help, version, usage errors, and what is imported for them."""

import io
import subprocess
import sys
from collections.abc import Callable

import pytest

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
