"""Files in memory, `io.BytesIO`, which are read and made without copies."""

import io

import numpy as np
import pytest

import densor
from densor.files import single
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
