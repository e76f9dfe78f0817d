"""Arguments of another kind than the functions take: refused in words, with nothing begun."""

import argparse
import io
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densor
import densor.text
from densor.cli import arguments
from densor.options import ReadOptions, WriteOptions

WEIGHTS = {"w": np.arange(4096, dtype=np.float32).reshape(64, 64)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"level": [3]}, "level must be a whole number, not list"),
        ({"threads": "2"}, "threads must be a whole number, not str"),
        ({"threads": 1.5}, "threads must be a whole number, not float"),
        ({"raw": b"audio"}, "raw must be a text, not bytes"),
        ({"hash": np.zeros(3)}, "hash must be a text, not ndarray"),
        ({"recovery": "5"}, "recovery must be a number, not str"),
        ({"max_output_size": "1M"}, "max_output_size must be a number, not str"),
        ({"progress": 3}, "progress must be a function, not int"),
    ],
)
def test_options(given: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        WriteOptions(**given)
    if given.keys() & {"threads", "max_output_size", "progress"}:
        with pytest.raises(TypeError, match=words):
            ReadOptions(**given)


def test_numbers_of_numpy_are_numbers() -> None:
    chosen = WriteOptions(level=np.int64(4), threads=np.int8(1), recovery=np.float32(2))  # type: ignore[arg-type]
    assert densor.compress(b"a" * 99, options=WriteOptions(level=chosen.level, threads=1))


@pytest.mark.parametrize("open_it", [densor.open, densor.load_file, densor.read_table])
def test_a_number_is_no_path(open_it: Callable[[Any], Any]) -> None:
    reading, writing = os.pipe()
    with pytest.raises(TypeError):
        open_it(reading)
    os.write(writing, b"x")
    assert os.read(reading, 1) == b"x"  # still open
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros(1 << 15, np.float64),
        np.zeros(1 << 16, np.uint8)[::2],
        np.zeros((1 << 15, 2), np.uint8),
        np.frombuffer(bytes(1 << 15), np.uint8),
        bytearray(1 << 15),
    ],
)
def test_memory_for_tensors(out: Any) -> None:
    with pytest.raises(densor.ArgumentError, match="writable, contiguous uint8"):
        densor.load(densor.save(WEIGHTS), out=out)


@pytest.mark.parametrize("tensors", [None, [("w", WEIGHTS["w"])], "w", WEIGHTS["w"], iter(WEIGHTS)])
def test_tensors_come_by_name(tmp_path: Path, tensors: Any) -> None:
    with pytest.raises(densor.ArgumentError, match="tensors must come by name"):
        densor.save(tensors)
    with pytest.raises(densor.ArgumentError, match="tensors must come by name"):
        densor.save_file(tensors, tmp_path / "a.densor")
    assert not os.listdir(tmp_path)


def test_names_and_paths(tmp_path: Path) -> None:
    file, archive = tmp_path / "f", tmp_path / "a.densor"
    file.write_bytes(b"abc")
    for paths in (str(file), b"f", [3], [None]):
        with pytest.raises(TypeError, match="paths "):
            densor.pack(paths, archive)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be a text, not int"):
        densor.compress_file(file, archive, name=3)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["f"]
    densor.pack((path for path in [file]), archive)
    for names in ("f", [3], [b"f"]):
        with pytest.raises(TypeError, match="names "):
            densor.extract(archive, tmp_path / "x", names)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
    assert densor.extract(archive, tmp_path / "x", (name for name in ["f"])) == ["f"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, type("Other", (KeyboardInterrupt,), {})])
def test_interrupts_while_options_are_parsed(kind: type[KeyboardInterrupt]) -> None:
    """argparse ends with an error of its own where one comes while it puts things back."""
    left = number = 0

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != argparse.__file__:
            return None if frame.f_code.co_filename != arguments.__file__ else trace
        left -= event == "line"
        if not left and event == "line":
            sys.settrace(None)
            raise kind
        return trace

    before = sys.gettrace()
    while left <= 0:
        parser = arguments.Parser("list")
        parser.add_argument("archive")
        parser.add_argument("-q", action="store_true")
        number += 1
        left = number
        sys.settrace(trace)
        try:
            arguments.parse(parser, ["-q", "a"])
        except kind:
            left = 0
        finally:
            sys.settrace(before)
    assert number > 100


def test_names_rows_and_numbers(tmp_path: Path) -> None:
    table, archive = tmp_path / "t.csv", tmp_path / "a.densor"
    table.write_text("a,b\n" + "".join(f"{i},{i}\n" for i in range(99)))
    densor.compress_file(table, archive)
    with pytest.raises(TypeError, match="rows must be a slice, not int"):
        densor.read_table(archive, rows=3)  # type: ignore[arg-type]
    for given in ({"name": 3}, {"most_hops": None}):
        with pytest.raises(TypeError, match=" must be a "):
            densor.archives.append(archive, table, **given)
    with pytest.raises(TypeError, match="recovery must be a number, not str"):
        densor.archives.repair(archive, tmp_path / "b", recovery="5")
    with densor.Writer(tmp_path / "w.densor") as writer:
        for name in (None, 3, b"w"):
            with pytest.raises(TypeError, match="name must be a text, not "):
                writer.add_tensor(name, WEIGHTS["w"])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="name must be a text, not int"):
            writer.add_file(table, 3)  # type: ignore[arg-type]
        writer.add_tensor("w", WEIGHTS["w"])
    with pytest.raises(densor.ArgumentError, match="unknown hash 'md5'; known are "):
        densor.compress(WEIGHTS["w"], base=WEIGHTS["w"], hash="md5")
    with pytest.raises(densor.ArgumentError, match="is no compressor"):
        densor.text.generate(None, b"a", 1)  # type: ignore[arg-type]
    with pytest.raises(densor.ArgumentError, match="a language model must be given"):
        list(densor.text.token_costs(np.zeros(9, np.uint8), None))


def test_memory_that_is_in_use() -> None:
    """Of an `io.BytesIO`, which cannot grow while others look into it."""
    blob = io.BytesIO()
    densor.compress_file(io.BytesIO(bytes(99)), blob)
    for held in (b"", b"x"):
        out = io.BytesIO(held)
        view = out.getbuffer()
        for work, source in (
            (densor.decompress_file, io.BytesIO(blob.getvalue())),
            (densor.compress_file, io.BytesIO(bytes(99))),
        ):
            with pytest.raises(densor.FileError, match="memory of the file is in use"):
                work(source, out)
        view.release()
        assert out.getvalue() == held
