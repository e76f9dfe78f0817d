"""Files in memory, `io.BytesIO`, which are read and made without copies."""

import gzip
import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densor
from densor.errors import ArgumentError, FileError
from densor.files import single
from densor.formats.container.archive import Archive
from densor.formats.io.sources import BytesIOSource, random_source_of, source_of
from densor.runtime.buffers import POOL


class Other(io.BytesIO):
    """A class of its own, of which `write` and `read` may do anything."""


@pytest.fixture(name="data")
def _data() -> bytes:
    values = np.random.default_rng(1).normal(0, 0.02, 3 << 20).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _packed(data: bytes, **options: object) -> bytes:
    out = io.BytesIO()
    densor.compress_file(io.BytesIO(data), out, dtype="bf16", **options)  # type: ignore[arg-type]
    return out.getvalue()


def test_a_file_in_memory_is_read_where_it_is(data: bytes) -> None:
    file = io.BytesIO(data)
    file.seek(16)
    source = source_of(file)
    piece = source.take(1 << 20)
    assert np.shares_memory(piece, np.frombuffer(file.getvalue(), np.uint8))
    assert file.tell() == 16 + (1 << 20)
    assert source.take(len(data)).tobytes() == data[16 + (1 << 20) :]
    assert source.take(1).size == 0
    base = random_source_of(file)
    assert np.shares_memory(base.read_at(5, 7), np.frombuffer(file.getvalue(), np.uint8))


@pytest.mark.parametrize("at", [1, 2, 4, 7])
def test_elements_stand_where_kernels_need_them(data: bytes, at: int) -> None:
    file = io.BytesIO(data)
    file.seek(at)
    piece = source_of(file).take(1 << 17)
    assert piece.ctypes.data % 8 == 0
    assert piece.tobytes() == data[at : at + (1 << 17)]
    POOL.give(piece)


def test_what_stands_behind_the_end_is_empty() -> None:
    file = io.BytesIO(b"abc")
    file.seek(9)
    assert source_of(file).take(4).size == 0


def test_other_classes_are_asked_for_their_bytes(data: bytes) -> None:
    assert not isinstance(source_of(Other(data)), BytesIOSource)
    packed, out = _packed(data), Other()
    densor.decompress_file(Other(packed), out)
    assert out.getvalue() == data


@pytest.mark.parametrize("threads", [1, 2])
def test_an_empty_file_takes_what_was_made(
    data: bytes, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, out = _packed(data), io.BytesIO()
    monkeypatch.setattr(single, "file_sink", None)  # which would copy
    sizes = densor.decompress_file(io.BytesIO(packed), out, threads)
    assert sizes.original == out.tell() == len(data)
    assert out.getvalue() == data
    out.write(b"more")
    out.seek(0)
    assert out.read() == data + b"more"


def test_a_base_in_memory(data: bytes) -> None:
    old = io.BytesIO(data)
    new = bytearray(data)
    new[5000:6000] = bytes(1000)
    packed = _packed(bytes(new), base=old)
    assert len(packed) < len(data) // 8
    out = io.BytesIO()
    old.seek(3)
    densor.decompress_file(io.BytesIO(packed), out, base=old)
    assert out.getvalue() == new
    assert old.tell() == 3


@pytest.mark.parametrize("before", [b"", b"begin"])
def test_what_is_in_a_file_stays(data: bytes, before: bytes) -> None:
    packed, out = _packed(data), io.BytesIO()
    out.write(before)
    densor.decompress_file(io.BytesIO(packed), out)
    assert out.getvalue() == before + data


def test_nothing_is_left_of_a_damaged_archive(data: bytes) -> None:
    packed = bytearray(_packed(data))
    packed[len(packed) // 2] ^= 1
    out = io.BytesIO()
    with pytest.raises(densor.DensorError):
        densor.decompress_file(io.BytesIO(packed), out)
    assert out.getvalue() == b""
    assert out.tell() == 0


def test_nothing_and_little() -> None:
    for data in (b"", b"a", b"abc" * 9):
        file = io.BytesIO()
        densor.compress_file(io.BytesIO(data), file)
        out = io.BytesIO()
        densor.decompress_file(io.BytesIO(file.getvalue()), out)
        assert out.getvalue() == data


def test_sizes_that_no_archive_can_hold_are_not_made_room_for(data: bytes) -> None:
    packed = _packed(data)
    with pytest.raises(densor.DensorError):
        densor.decompress_file(io.BytesIO(packed[:80]), io.BytesIO())
    assert single._new_bytes(io.BytesIO(), 1 << 60, len(packed)) is None
    assert single._new_bytes(io.BytesIO(), len(data), None) is None
    assert single._new_bytes(io.BytesIO(b"x"), len(data), len(packed)) is None


def _image() -> bytes:
    """A PNG file, whose parser must know where it ends."""
    pixels = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    rows = np.hstack([np.zeros((96, 1), np.uint8), pixels]).tobytes()
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 96, 96, 8, 0, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class OneWay(io.BytesIO):
    """What can be read from start to end only."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise OSError("no seek")


class WithoutEnd(Other):
    """A file that does not tell where it ends."""

    def seek(self, at: int, whence: int = 0, /) -> int:
        if whence:
            raise TypeError("no whence")
        return super().seek(at)


def _format_of(source: Any) -> tuple[str | None, bytes]:
    """The format that a packed file is said to be of, and what it is restored to."""
    packed, out = io.BytesIO(), io.BytesIO()
    densor.compress_file(source, packed, 3)
    meta = Archive(random_source_of(packed)).entries[0].meta
    densor.decompress_file(io.BytesIO(packed.getvalue()), out)
    return meta.format, out.getvalue()


@pytest.mark.parametrize("before", [b"", b"else"])
@pytest.mark.parametrize("kind", ["memory", "other", "buffered", "raw", "both", "spooled"])
def test_files_that_can_be_sought_in_are_files(before: bytes, kind: str, tmp_path: Path) -> None:
    image = _image()
    path = tmp_path / "image"
    path.write_bytes(before + image)
    makers: dict[str, Callable[[], Any]] = {
        "memory": lambda: io.BytesIO(before + image),
        "other": lambda: Other(before + image),
        "buffered": lambda: path.open("rb"),
        "raw": lambda: path.open("rb", buffering=0),
        "both": lambda: path.open("r+b"),
        "spooled": tempfile.SpooledTemporaryFile,
    }
    with makers[kind]() as file:
        if kind == "spooled":
            file.write(before + image)
        if kind == "both":  # what is still to be written counts
            file.seek(len(before))
            file.write(image)
        file.seek(len(before))
        assert _format_of(file) == ("png", image)
        assert file.tell() == len(before + image)


def test_what_cannot_be_sought_in_is_a_stream(tmp_path: Path) -> None:
    image = _image()
    packed = tmp_path / "image.gz"
    packed.write_bytes(gzip.compress(image))
    with gzip.open(packed) as unpacked:
        for file in (OneWay(image), WithoutEnd(image), unpacked):
            assert _format_of(file) == (None, image)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_sizes_that_the_system_makes_up_are_not_believed() -> None:
    with open("/proc/self/cmdline", "rb") as file:
        assert _format_of(file)[1] == Path("/proc/self/cmdline").read_bytes() != b""
    made_up = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # said to have 4096 bytes
    if made_up.exists():
        with made_up.open("rb") as file:
            assert _format_of(file)[1] == made_up.read_bytes() != b""


def test_equal_tensors_in_memory_are_stored_once() -> None:
    values = np.random.default_rng(2).normal(0, 1, (300, 301)).astype(np.float32)
    header = {
        name: {"dtype": "F32", "shape": [300, 301], "data_offsets": [begin, begin + values.nbytes]}
        for name, begin in (("a", 0), ("b", values.nbytes))
    }
    head = json.dumps(header).encode()
    for odd in (0, 3):  # where no element may stand in memory
        text = head + b" " * (-len(head) % 8 + odd)
        data = len(text).to_bytes(8, "little") + text + 2 * values.tobytes()
        packed = io.BytesIO()
        densor.compress_file(io.BytesIO(data), packed, 3)
        assert len(packed.getvalue()) < values.nbytes
        out = io.BytesIO()
        densor.decompress_file(io.BytesIO(packed.getvalue()), out)
        assert out.getvalue() == data


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 40_000)

    def grow(_: int) -> None:
        path.write_bytes(b"x" * 10_000_000)

    with path.open("rb") as file, pytest.raises(densor.DensorError):
        densor.compress_file(file, io.BytesIO(), 1, 1, progress=grow)


class _Inverted(io.FileIO):
    """A file that is read in a way of its own, such as one that decrypts."""

    def readinto(self, out: Any, /) -> int:
        count = super().readinto(out)
        np.frombuffer(out, np.uint8)[:count] ^= 255
        return count


@pytest.mark.parametrize("buffered", [False, True])
def test_classes_that_read_in_their_own_way(buffered: bool, tmp_path: Path) -> None:
    image = _image()
    (tmp_path / "image").write_bytes(bytes(np.frombuffer(image, np.uint8) ^ 255))
    with _Inverted(tmp_path / "image") as file:
        found = _format_of(io.BufferedReader(file) if buffered else file)
    assert found == ("png", image)


class _SeeksQuietly(Other):
    """`seek` need not return anything."""

    def seek(self, *args: int) -> None:  # type: ignore[override]
        super().seek(*args)


class _SaysTooMuch(Other):
    """A class that says that it can be sought in, and cannot tell where it stands."""

    def tell(self) -> int:
        raise OSError("no place")


class _StaysAtTheEnd(Other):
    def seek(self, at: int, whence: int = 0, /) -> int:
        if not whence:
            raise OSError("no way back")
        return super().seek(at, whence)


def test_classes_that_seek_in_part() -> None:
    image = _image()
    assert _format_of(_SeeksQuietly(image)) == ("png", image)
    assert _format_of(_SaysTooMuch(image)) == (None, image)
    with pytest.raises(FileError, match="cannot be returned to"):
        densor.compress_file(_StaysAtTheEnd(image), io.BytesIO())


def test_one_object_for_both_and_texts(data: bytes) -> None:
    file = io.BytesIO(data)
    for work in (densor.compress_file, densor.decompress_file):
        with pytest.raises(ArgumentError, match="same file object"):
            work(file, file)
        assert file.getvalue() == data
        with pytest.raises(TypeError, match="binary"):
            work(io.StringIO("text"), io.BytesIO())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="binary"):
            work(io.BytesIO(_packed(data)), io.StringIO())  # type: ignore[arg-type]


class _BadPlace(Other):
    """A file of which one place cannot be read."""

    def readinto(self, out: Any, /) -> int:
        if self.tell() >= 500:
            raise OSError("bad sector")
        return super().readinto(out)


def test_a_file_stays_where_it_is_when_a_place_cannot_be_read() -> None:
    file = _BadPlace(bytes(1000))
    file.seek(7)
    with pytest.raises(FileError, match="cannot read"):
        random_source_of(file).read_at(600, 10)
    assert file.tell() == 7
