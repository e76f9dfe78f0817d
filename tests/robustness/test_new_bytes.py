"""Bytes objects that are filled in place, and files in memory that are made of them."""

import sys

import numpy as np
import pytest
from helpers import random_state

from densor.formats.io.outputs import MemoryFile
from densor.runtime.buffers import NewBytes

SIZES = (0, 1, 100, 1 << 16, (1 << 22) + 5)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_put_is_there(size: int) -> None:
    data = random_state("bytes", size).integers(0, 256, size, np.uint8)
    made = NewBytes(size)
    half = size // 3
    made.put(half, data[half:])
    made.put(0, data[:half])
    found = made.finished()
    assert type(found) is bytes and found == data.tobytes()
    assert not size or sys.getrefcount(found) == 2  # the name, and the argument
    assert len({found: 1}) == 1 and found + b"x" == data.tobytes() + b"x"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("other", SIZES)
def test_what_fits_stays_when_the_size_changes(size: int, other: int) -> None:
    data = random_state("resized", size).integers(0, 256, size, np.uint8)
    made = NewBytes(size)
    made.put(0, data)
    made.resize(other)
    common = min(size, other)
    assert made.finished()[:common] == data[:common].tobytes()


def test_nothing_is_put_outside() -> None:
    made = NewBytes(10)
    for at, count in ((0, 11), (10, 1), (-1, 1), (11, 0)):
        with pytest.raises(ValueError, match="outside"):
            made.put(at, np.zeros(count, np.uint8))
    made.put(10, np.zeros(0, np.uint8))
    del made  # without an end, nothing is left behind


@pytest.mark.parametrize("size", [sys.maxsize, 1 << 63, 1 << 64])
def test_sizes_that_no_memory_has(size: int) -> None:
    with pytest.raises(MemoryError):
        NewBytes(size)


def test_a_file_in_memory_grows_and_is_written_anew() -> None:
    for guess in (0, 100, 1 << 22):
        file = MemoryFile(guess)
        pieces = [bytes([k]) * (k * 1000) for k in range(100)]
        for piece in pieces:
            assert file.write(piece) == len(piece)
        end = file.tell()
        file.seek(5)
        file.write(b"header")
        file.seek(end)
        file.write(b"end")
        expected = bytearray(b"".join(pieces) + b"end")
        expected[5:11] = b"header"
        assert file.getvalue() == expected
