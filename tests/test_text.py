"""Surprise, and generation from compressors; `densor bits`."""

import bz2
import doctest
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli.conftest import Ran, cli
from helpers import random_state

from densor import text
from densor.cli import heat
from densor.errors import ArgumentError

__all__ = ["cli"]  # the fixture
SOURCE = Path(__file__).read_bytes()


def as_array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def test_surprise_adds_up_to_the_size() -> None:
    found = text.surprise(as_array(SOURCE))
    assert found.shape == (len(SOURCE),) and (found >= 0).all()
    assert abs(found.sum() - text.bits(as_array(SOURCE))) < 64
    assert text.surprise(as_array(b"")).size == 0


def test_surprise_is_where_something_new_is() -> None:
    data = b"the same line again and again\n" * 40
    changed = bytearray(data)
    changed[900] = ord("X")
    found = text.surprise(as_array(bytes(changed)))
    assert found.argmax() < 60 or found[900] == found[60:].max()
    assert found[900] > 8 > 0.2 > found[700:890].mean()
    noise = random_state("noise").bytes(3000)
    assert 7.9 < text.surprise(as_array(noise)).mean() < 8.6


class Alternating:
    """Bytes that must be a, b, a, b, ..."""

    alphabet = 256

    def start(self) -> int:
        return 0

    def distribution(self, state: int) -> list[int]:
        return [int(byte == b"ab"[state]) for byte in range(256)]

    def update(self, state: int, symbol: int) -> int:
        return 1 - state


def test_generation() -> None:
    prompt = b"one two three four five six seven\n" * 30
    for seed in (0, 1):
        made = text.generate("densor", prompt, 300, seed)
        assert made.startswith(prompt) and len(made) == len(prompt) + 300
        assert made == text.generate("densor", prompt, 300, seed)
        assert made[len(prompt) :].count(b"two three four") >= 3
    assert text.generate("densor", b"", 50, 1) != text.generate("densor", b"", 50, 2)
    assert text.generate("densor", prompt, 0) == prompt
    assert text.generate(Alternating(), b"aba", 4) == b"abababa"


@pytest.mark.parametrize("compressor", ["gzip", "zstd", lambda data: bz2.compress(data)])
def test_generation_by_code_length(compressor: text.Compressor) -> None:
    made = text.generate(compressor, b"ab" * 30, 2, seed=3)
    assert len(made) == 62 and made.startswith(b"ab" * 30)
    assert made == text.generate(compressor, b"ab" * 30, 2, seed=3)


def test_generation_prefers_what_is_short() -> None:
    """A compressor that charges a byte for everything but x gives x, 256 to 1."""
    made = text.generate(lambda data: bytes(len(data) - data.count(b"x")), b"", 40, seed=5)
    assert 10 <= made.count(b"x") <= 30  # one x against 255 others of a 256th each


def test_what_cannot_be_generated() -> None:
    for compressor, n in (("lzma", 1), ("densor", -1), ("densor", (1 << 24) + 1)):
        with pytest.raises(ArgumentError):
            text.generate(compressor, b"", n)  # type: ignore[arg-type]
    model = Alternating()
    model.alphabet = 2
    with pytest.raises(ArgumentError, match="2 symbols"):
        text.generate(model, b"", 1)


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(text)
    assert result.attempted and not result.failed


def test_page_escapes_what_it_shows() -> None:
    data = "<b>&ü\x1b日\n".encode() + b"\xff"
    page = heat.page("<name>", data, [1.0] * len(data), "a & b")
    assert "&lt;name&gt;" in page and "a &amp; b" in page
    assert "&lt;b&gt;&amp;" in page and "ü" in page and "日" in page
    assert "\\x1b" in page and "\\xff" in page and "\x1b" not in page


def test_bits_command(cli: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(SOURCE)
    size = text.bits(as_array(SOURCE)) / len(SOURCE)
    ran = cli("bits", "a.txt", "--html", "a.html")
    assert ran.code == 0 and ran.text.startswith(f"a.txt: {len(SOURCE)} bytes, {size:.3f} bits per")
    assert (tmp_path / "a.html").read_text().count("<span") > 100
    assert cli("bits", "a.txt", "--html", "a.html").code == 1
    assert cli("bits", "a.txt", "--html", "a.html", "-f").code == 0
    assert cli("bits", "-", stdin=b"").text == "stdin: 0 bytes, - bits per byte (-)\n"
    assert cli("bits", "missing").code == 1
