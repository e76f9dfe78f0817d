"""Runs command lines, in this process or as a program of their own."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paths import ROOT

from densor.cli.main import main

NOTICE = "first run on this processor: compiling kernels"


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """What it wrote to stdout, where that is text."""
        return self.out.decode()

    def said(self, *patterns: str) -> bool:
        """Whether stderr has exactly these lines; `*` and `?` match as in file names.

        That kernels are being compiled may be said at any time and does not count.
        """
        lines = [line for line in self.err.splitlines() if NOTICE not in line]
        escaped = [pattern.replace("[", "[[]") for pattern in patterns]
        matches = map(fnmatchcase, lines, escaped)
        return len(lines) == len(patterns) and all(matches)


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Ran]:
    """Runs `densor` with these arguments in `tmp_path`; `stdin` are bytes on a pipe."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        code = main(list(argv))
        out, err = capsysbinary.readouterr()
        return Ran(code, out, err.decode())

    return run


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Starts `densor` as a process in `tmp_path`, with pipes for all that is not given."""

    def start(*argv: str, **options: Any) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "densor", *argv]
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **streams | options)

    return start
