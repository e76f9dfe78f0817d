"""Texts under a language model on the command line."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import densor

from .conftest import Ran

TEXT = Path(densor.errors.__file__).read_bytes()[:700]


@pytest.fixture
def book(cli: Callable[..., Ran], tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_bytes(TEXT)
    return path


def test_a_named_model_is_found_again(cli: Callable[..., Ran], book: Path) -> None:
    assert cli("book.txt", "--llm", "sample", "-q") == (0, b"", "")
    size = book.with_name("book.txt.densor").stat().st_size
    assert cli("book.txt", "-9", "-q", "-o", "nine.densor").code == 0
    assert size < book.with_name("nine.densor").stat().st_size
    book.unlink()
    assert cli("-t", "book.txt.densor", "-q").code == 0
    assert cli("-d", "book.txt.densor", "-q") == (0, b"", "")
    assert book.read_bytes() == TEXT


def test_a_folder_is_given_again(cli: Callable[..., Ran], book: Path) -> None:
    sample = Path(densor.__file__).parent / "data" / "sample"
    shutil.copytree(sample, book.with_name("model"))
    assert cli("book.txt", "--llm", "model", "--no-verify", "-q").code == 0
    for command in (("-d", "-f"), ("-t",), ("extract", "-f"), ("cat",)):
        name = ("book.txt",) if command == ("cat",) else ()
        ran = cli(*command, "book.txt.densor", *name, "-q")
        assert (ran.code, ran.out) == (1, b"")
        assert "--llm" in ran.err
        ran = cli(*command, "book.txt.densor", *name, "-q", "--llm", "model")
        assert ran.code == 0, ran.err
        assert ran.out == (TEXT if name else b"")
    assert book.read_bytes() == TEXT


def test_what_is_no_model_is_said_so(cli: Callable[..., Ran], book: Path) -> None:
    ran = cli("book.txt", "--llm", "nothing")
    assert ran.code == 1
    assert "no model 'nothing'" in ran.err and "smollm2" in ran.err
    assert not book.with_name("book.txt.densor").exists()
