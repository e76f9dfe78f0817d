"""`densor.audio`: parts of sound in archives."""

import io
import struct

import numpy as np
import numpy.typing as npt
import pytest

import densor
import densor.audio
from densor.errors import ArgumentError, FileError

Numbers = npt.NDArray[np.int64]


def packed(data: bytes, level: int = 1) -> bytes:
    out = io.BytesIO()
    densor.compress_file(io.BytesIO(data), out, level)
    return out.getvalue()


def wav(samples: bytes, channels: int, size: int, kind: int = 1) -> bytes:
    stride = channels * size
    head = struct.pack("<HHIIHH", kind, channels, 8000, 8000 * stride, stride, 8 * size)
    body = b"WAVEfmt \x10\0\0\0" + head + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body + b"LIST\4\0\0\0INFO"


def numbers(count: int, channels: int) -> Numbers:
    t = np.arange(count * channels).reshape(count, channels)
    return (t * 37 % 1001 + t // 50 % 700) - 850


@pytest.mark.parametrize("level", [3, 5])
def test_parts_are_those_of_the_whole(level: int) -> None:
    content = numbers(300_000, 2).astype("<i2")
    with densor.audio.open(packed(wav(content.tobytes(), 2, 2), level)) as sound:
        assert (sound.shape, sound.rate, sound.dtype) == ((300_000, 2), 8000, np.int16)
        for begin, end in ((0, 5), (262_100, 262_200), (299_990, 300_000), (7, 7), (-3, None)):
            assert np.array_equal(sound[begin:end], content[begin:end])
        assert np.array_equal(sound[-1], content[-1])
        with pytest.raises(IndexError):
            sound[300_000]
        with pytest.raises(ArgumentError):
            sound[::2]


def test_little_is_read_of_the_archive() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def readinto(self, buffer: object) -> int:
            count = super().readinto(buffer)  # type: ignore[arg-type]
            self.taken += count
            return count

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.taken += len(data)
            return data

    noise = np.random.default_rng(1).integers(-900, 900, (2_000_000, 1)).astype("<i2")
    archive = packed(wav(noise.tobytes(), 1, 2))
    file = Counting(archive)
    with densor.audio.open(file) as sound:
        assert np.array_equal(sound[1_900_000:1_900_010], noise[1_900_000:1_900_010])
    assert 0 < file.taken < 0.7 * len(archive)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_other_sizes(size: int) -> None:
    content = numbers(3000, 1) // 8 << 8 * (size - 1) >> (size > 1)
    wide = (content + (128 if size == 1 else 0)).astype("<i8").view(np.uint8)
    data = np.ascontiguousarray(wide[:, :size]).tobytes()
    with densor.audio.open(packed(wav(data, 1, size))) as sound:
        found = sound[:].astype(np.int64)
    expected = content + 128 if size == 1 else content
    assert np.array_equal(found, expected)


def test_floats() -> None:
    content = (numbers(3000, 2) / 2**15).astype("<f4")
    content[5] = np.nan, -0.0
    with densor.audio.open(packed(wav(content.tobytes(), 2, 4, kind=3))) as sound:
        assert sound.dtype == np.float32
        assert np.array_equal(sound[:].view(np.int32), content.view(np.int32))


def test_iteration_and_names() -> None:
    content = numbers(400, 1).astype("<i2")
    with densor.audio.open(packed(wav(content.tobytes(), 1, 2))) as sound:
        assert np.array_equal(np.stack(list(sound)), content)
    with pytest.raises(FileError):
        densor.audio.open(packed(b"no sound at all"))
    with pytest.raises(FileError):
        densor.audio.open(packed(wav(content.tobytes(), 1, 2)), "another")


def test_a_closed_file_refuses() -> None:
    sound = densor.audio.open(packed(wav(bytes(4000), 2, 2)))
    sound.close()
    with pytest.raises(FileError, match="closed"):
        sound[:10]
