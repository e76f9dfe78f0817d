"""Sizes, escapes, notices, the progress bar, tables."""

import io
import logging
import sys
import time

import pytest

from densor.cli import console, table
from densor.cli.arguments import byte_count
from densor.errors import FileError


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (45_440_000, "45.4 MB"),
        (2_000_000_000, "2.0 GB"),
        (3e15, "3000.0 TB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert console.size(count) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("4096", 4096), ("64K", 65536), ("2g", 2 << 30), ("1MiB", 1 << 20), ("5kB", 5120)],
)
def test_byte_count(text: str, count: int) -> None:
    assert byte_count(text) == count


def test_escape() -> None:
    assert console.escape("größe ⇒ 100 %") == "größe ⇒ 100 %"
    assert console.escape("a\tb\x9b\udcff\u2028") == "a\\tb\\x9b\\udcff\\u2028"


def test_fail_names_the_file_once(capsys: pytest.CaptureFixture[str]) -> None:
    console.fail(["a", "b"], FileError("bad"))
    console.fail(["a", "b"], FileError("b: bad"))
    console.fail([], FileError("bad"))
    console.fail(["a"], OSError(28, "No space left on device", "a"))
    console.fail(["a"], MemoryError())
    assert capsys.readouterr().err.splitlines() == [
        "densor: a: bad",
        "densor: b: bad",
        "densor: bad",
        "densor: a: No space left on device",
        "densor: a: not enough memory",
    ]


def test_notices(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("densor")
    for quiet in (False, True):
        with console.notices(quiet):
            log.info("compiling kernels ...")
    log.info("nobody listens")
    assert capsys.readouterr().err == "densor: compiling kernels ...\n"
    assert not log.handlers


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("quiet", "seconds", "shown"), [(False, 0.6, True), (False, 0, False), (True, 0.6, False)]
)
def test_progress(
    monkeypatch: pytest.MonkeyPatch, quiet: bool, seconds: float, shown: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with console.progress("model", lambda: 4_000_000, quiet) as moved:
        time.sleep(seconds)
        if moved is not None:
            moved(1_000_000)
            moved(1_000_000)
    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("model:  " in text and "B/s" in text) == shown
    assert shown or not text.strip("\r ")


def test_no_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("model", lambda: 1, quiet=False) as moved:
        assert moved is None


def test_table() -> None:
    text = table.render(["name", "n"], [["a", "10"], ["long name", "9"]])
    assert text == "name        n\na          10\nlong name   9"


@pytest.mark.parametrize(
    ("mb_s", "text"),
    [(1143.4, "1143"), (9.96, "10"), (9.94, "9.9"), (1, "1.0"), (0.994, "0.99"), (0.06, "0.06")],
)
def test_a_slow_speed_has_decimals(mb_s: float, text: str) -> None:
    assert console.speed(mb_s) == text
