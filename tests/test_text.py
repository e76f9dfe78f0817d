"""Surprise, and generation from compressors; `densor bits`."""

import bz2
import contextlib
import doctest
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cli.conftest import Ran, cli
from helpers import random_state

from densor import text
from densor.cli import heat
from densor.errors import ArgumentError, FormatError

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


def test_generation_of_rows_and_sound() -> None:
    """From bytes, and from what is given whole arrays, which alone sees what is above."""
    image = np.tile(np.arange(0, 240, 30, dtype=np.uint8), (30, 1))
    rows = text.generate_rows("densor", image, 2, seed=1)
    assert rows.shape == (32, 8) and np.array_equal(rows[:30], image)
    assert (rows[30:] == image[:2]).mean() > 0.5
    known = text.ArrayCompressor(lambda part: bytes(6 * (part != part[0]).sum()), 4)
    assert np.array_equal(text.generate_rows(known, image, 1)[30], image[0])
    sound = np.tile(np.arange(100, 150, 5, dtype=np.uint8), 60)
    assert (text.generate_sound("densor", sound, 10)[600:] == sound[:10]).mean() > 0.5
    steady = text.ArrayCompressor(lambda part: bytes(6 * (np.diff(part) != 0).sum()), 2)
    assert text.generate_sound(steady, sound, 5).tolist() == [*sound.tolist(), *[145] * 5]
    assert text.generate_sound("gzip", sound, 0).tolist() == sound.tolist()


def test_arrays_that_cannot_be_gone_on_with() -> None:
    whole = text.ArrayCompressor(lambda part: b"")
    image, sound = np.zeros((3, 4), np.uint8), np.zeros(9, np.uint8)
    for compressor, wrong, n in (
        *(("gzip", image.astype(np.uint16), 1), ("gzip", sound, 1), ("gzip", image, -1)),
        (whole, image[:0], 1),
    ):
        with pytest.raises(ArgumentError):
            text.generate_rows(compressor, wrong, n)  # type: ignore[arg-type]
    for wrong, n in ((image, 1), (sound.astype(np.int16), 1), (sound, -1)):
        with pytest.raises(ArgumentError):
            text.generate_sound("gzip", wrong, n)  # type: ignore[arg-type]


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


def test_bits_says_how_far_it_is(
    cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(SOURCE)
    monkeypatch.setattr("densor.codec.byte_cm.params.MAX_SEGMENT", 3000)
    moves: list[int] = []

    @contextlib.contextmanager
    def progress(*_: object) -> Iterator[Callable[[int], object]]:
        yield moves.append

    monkeypatch.setattr("densor.cli.console.progress", progress)
    assert cli("bits", "a.txt", "--first", "7000").code == 0
    assert moves == [3000, 3000, 1000]


def some_symbols(seed: str, count: int, alphabet: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols, and distributions under which each may occur, some others never."""
    rng = random_state(seed)
    frequencies = rng.integers(0, 1 << 20, (count, alphabet)) * rng.integers(
        0, 2, (count, alphabet)
    )
    symbols = rng.integers(0, alphabet, count)
    frequencies[np.arange(count), symbols] += 1 + rng.integers(0, 1 << 22, count)
    return symbols, frequencies


@pytest.mark.parametrize(("count", "alphabet"), [(0, 2), (1, 2), (3000, 2), (500, 300), (4, 70000)])
def test_symbols_under_given_distributions(count: int, alphabet: int) -> None:
    symbols, frequencies = some_symbols(f"{count} {alphabet}", count, alphabet)
    packed = text.encode_symbols(symbols, frequencies)
    assert np.array_equal(text.decode_symbols(packed, frequencies), symbols)
    chosen = frequencies[np.arange(count), symbols] / frequencies.sum(axis=1)
    assert 8 * len(packed) <= -np.log2(chosen).sum() * 1.01 + 64


def test_symbols_of_any_integer_type() -> None:
    frequencies = [[1, 0, 7], [2, 2, 0], [0, 0, 1 << 32]]
    for dtype in ("u1", "<i8", ">i2"):
        packed = text.encode_symbols(np.array([2, 0, 2], dtype), frequencies)
        assert text.decode_symbols(packed, np.array(frequencies, ">u8")).tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    ("symbols", "frequencies"),
    [
        ([0], [[1.0, 2.0]]),
        ([0.0], [[1, 2]]),
        ([0], [1, 2]),
        ([0, 1], [[1, 2]]),
        ([2], [[1, 2]]),
        ([-1], [[1, 2]]),
        ([1], [[1, 0]]),
        ([0], [[0, 0]]),
        ([0], [[1, -1]]),
        ([0], [[1, (1 << 32) + 1]]),
        ([0], [[1]]),
    ],
)
def test_what_are_no_distributions(symbols: list[float], frequencies: list[object]) -> None:
    with pytest.raises(ArgumentError):
        text.encode_symbols(symbols, frequencies)


def test_damaged_symbols_end_in_an_error_or_in_others() -> None:
    symbols, frequencies = some_symbols("damage", 400, 9)
    packed = text.encode_symbols(symbols, frequencies)
    for wrong in (packed[:-1], packed + bytes(8), packed + b"\1"):
        with pytest.raises(FormatError):
            text.decode_symbols(wrong, frequencies)
    refused = 0
    for at in range(len(packed)):
        changed = bytearray(packed)
        changed[at] ^= 1 << at % 8
        try:
            assert text.decode_symbols(bytes(changed), frequencies).shape == symbols.shape
        except FormatError:
            refused += 1
    assert refused > len(packed) / 2  # half of all symbols have frequency 0
