"""Texts under a language model on the command line."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from llm_models import write_folder

import densor
from densor.codec.language_model.decoder import LanguageModelDecoder
from densor.files.language_models import load

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


# Archives of many files, one of them a text


NOISE = np.random.default_rng(4).bytes(3000)
MISSING = "*give its folder with --llm (llm=)"


def tensors(seed: int) -> bytes:
    made = {"weight": np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)}
    return safetensors.numpy.save(made)


@pytest.fixture
def folder(cli: Callable[..., Ran], book: Path) -> Path:
    """`in` was packed to `x.densor` under the model in `model`."""
    sample = Path(densor.__file__).parent / "data" / "sample"
    shutil.copytree(sample, book.with_name("model"))
    found = book.with_name("in")
    (found / "sub").mkdir(parents=True)
    book.rename(found / "sub" / "book.txt")
    (found / "a.bin").write_bytes(NOISE)
    (found / "m.safetensors").write_bytes(tensors(1))
    ran = cli("pack", "x.densor", "in", "--llm", "model", "--recovery", "20", "-q")
    assert ran == (0, b"", "")
    return found


def test_a_folder_is_packed(cli: Callable[..., Ran], folder: Path) -> None:
    """The text under the model, nothing else."""
    with densor.open("x.densor") as file:
        for entry in file.archive.entries:
            codecs = {
                chunk.model[:1]
                for chunk in file.archive.stored_chunks(entry, 0, entry.size)
                if chunk
            }
            assert (b"\x0a" in codecs) == (entry.meta.name == "sub/book.txt")
    for command in (("extract", "x.densor", "-o", "out"), ("test", "x.densor")):
        ran = cli(*command, "-q")
        assert ran.code == 1 and ran.said(f"densor: x.densor: text was coded with a {MISSING}")
        assert cli(*command, "-fq", "--llm", "model") == (0, b"", "")
    for path in folder.rglob("*.*"):
        assert (Path("out") / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert cli("cat", "x.densor", "weight").out == tensors(1)[-(64 * 64 * 4) :]
    assert cli("cat", "x.densor", "a.bin").out == NOISE
    ran = cli("cat", "x.densor", "sub/book.txt", "--llm", "sample")
    assert (ran.code, ran.out) == (0, TEXT)  # the same model by another name


def test_packing_can_do_without_checking(
    cli: Callable[..., Ran], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path("x.densor").read_bytes()
    decoded: list[int] = []
    decode = LanguageModelDecoder.decode

    def noted(self: LanguageModelDecoder, payload: Any, out: Any) -> None:
        decoded.append(out.size)
        decode(self, payload, out)

    monkeypatch.setattr(LanguageModelDecoder, "decode", noted)
    for more in ((), ("--no-verify",)):
        options = ("--llm", "model", "--recovery", "20", "-fq")
        assert cli("pack", "x.densor", "in", *options, *more).code == 0
        assert Path("x.densor").read_bytes() == whole
        assert decoded == [len(TEXT)]


def test_what_an_archive_needs_is_told(cli: Callable[..., Ran], folder: Path) -> None:
    assert "sub/book.txt" in cli("list", "x.densor").text
    assert cli("-l", "x.densor").code == 0
    lines = cli("info", "x.densor").text.splitlines()
    digest = load("sample").digest.hex()[:32]
    assert f"language model  without a name, to be given with --llm ({digest})" in lines
    (row,) = (line for line in lines if line.startswith("language model  ") and line.endswith("%"))
    assert row.split()[2:5] == ["1", str(len(TEXT)), "B"]
    Path("book.txt").write_bytes(TEXT)
    assert cli("book.txt", "--llm", "sample", "-q").code == 0
    assert f"language model  sample ({digest})" in cli("info", "book.txt.densor").text.splitlines()


def test_differences_need_no_model(cli: Callable[..., Ran], folder: Path) -> None:
    Path("n.safetensors").write_bytes(tensors(2))
    ran = cli("diff", "x.densor", "n.safetensors")
    assert ran.code == 0 and "weight" in ran.text


def test_appending(cli: Callable[..., Ran], folder: Path) -> None:
    """The base of a new file is the latest there, which may be a text."""
    Path("n.safetensors").write_bytes(tensors(2))
    before = Path("x.densor").read_bytes()
    ran = cli("append", "x.densor", "n.safetensors", "-q")
    assert ran.code == 1 and ran.said(f"densor: x.densor: text was coded with a {MISSING}")
    assert Path("x.densor").read_bytes() == before
    assert cli("append", "x.densor", "n.safetensors", "-q", "--llm", "model").code == 0
    Path("more.txt").write_bytes(TEXT[::-1])
    assert cli("append", "x.densor", "more.txt", "-q", "--llm", "model").code == 0
    assert cli("test", "x.densor", "--llm", "model", "-q").code == 0
    assert cli("cat", "x.densor", "n.safetensors", "--llm", "model").out == tensors(2)
    assert cli("cat", "x.densor", "more.txt", "--llm", "model").out == TEXT[::-1]


def test_repair_needs_no_model(cli: Callable[..., Ran], folder: Path) -> None:
    whole = Path("x.densor").read_bytes()
    Path("x.densor").write_bytes(whole[:5000] + b"XX" + whole[5002:])
    assert cli("test", "x.densor", "--llm", "model", "-q").code == 1
    assert cli("repair", "x.densor", "-q").code == 0
    assert Path("x.densor").read_bytes() == whole


def test_salvage(cli: Callable[..., Ran], folder: Path) -> None:
    """Without the model, a text is lost, and it is said how it would not be."""
    ran = cli("extract", "--salvage", "x.densor", "-o", "some", "-q")
    assert ran.code == 1
    assert Path("some/a.bin").read_bytes() == NOISE
    assert Path("some/sub/book.txt.partial").read_bytes() == bytes(len(TEXT))
    found = json.loads(Path("some/salvage.json").read_text())
    (lost,) = (entry for entry in found["entries"] if entry["lost"])
    assert lost["name"] == "sub/book.txt" and "with --llm" in lost["lost"][0]["why"]
    ran = cli("extract", "--salvage", "x.densor", "-o", "all", "--llm", "model")
    assert ran.code == 0 and ran.err.endswith("x.densor: nothing is lost\n")
    assert Path("all/sub/book.txt").read_bytes() == TEXT
    assert "with --llm" in cli("test", "--repair-info", "x.densor").text
    ran = cli("test", "--repair-info", "x.densor", "--llm", "model")
    assert (ran.code, ran.text) == (0, "x.densor: nothing is lost\n")
    other = write_folder(Path("other").absolute())
    ran = cli("extract", "--salvage", "x.densor", "-o", "none", "--llm", str(other), "-q")
    assert ran.code == 1 and "this model is another" in ran.err
    data = bytearray(Path("x.densor").read_bytes())
    del data[-300:]  # index and end
    Path("x.densor").write_bytes(data)
    ran = cli("extract", "--salvage", "x.densor", "-o", "cut", "--llm", "model", "-q")
    assert ran.code == 1 and Path("cut/sub/book.txt").read_bytes() == TEXT


def test_a_base_that_needs_a_model(cli: Callable[..., Ran], folder: Path) -> None:
    Path("old.txt").write_bytes(TEXT)
    Path("new.txt").write_bytes(TEXT[::-1])
    assert cli("old.txt", "--llm", "model", "-q").code == 0
    options = ("--base", "old.txt.densor", "--llm", "model", "-q")
    assert cli("new.txt", *options).code == 0
    assert cli("-d", "new.txt.densor", "-o", "back", *options) == (0, b"", "")
    assert Path("back").read_bytes() == TEXT[::-1]


def test_shards(cli: Callable[..., Ran], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "densor.files.shards.processes", lambda jobs: lambda: ThreadPoolExecutor(jobs)
    )
    options = ("--llm", str(Path("model").absolute()), "--verify", "--jobs", "1")
    assert cli("shards", "packed", "in", *options).text.count("packed") == 3 + 3
    assert cli("shards", "packed", "in", *options).text.count("was there") == 3
    assert cli("-t", "packed/sub/book.txt.densor", "-q").code == 1
    assert cli("-t", "packed/sub/book.txt.densor", "-q", "--llm", "model").code == 0
    assert cli("-t", "packed/m.safetensors.densor", "-q").code == 0
