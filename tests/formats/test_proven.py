"""A tensor that is decoded as a whole is proven by its own hash, not by those of its chunks."""

import io
import struct

import numpy as np
import pytest
import xxhash

import densor
from densor.errors import ChecksumError
from densor.files.checked import check_archive
from densor.formats.container import tensor_blob, wire
from densor.formats.container.tensor_blob import Tensor
from densor.options import DEFAULT_READ, WriteOptions

LEVELS = (3, 6)  # Huffman codes, and rANS


def _weights() -> "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]":
    numbers = np.random.default_rng(1).standard_normal(1 << 19).astype(np.float32)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)


def _blob(level: int) -> tuple[bytearray, Tensor, "np.ndarray[tuple[int], np.dtype[np.uint8]]"]:
    data = _weights().view(np.uint8)
    tensor = Tensor("w", "BF16", (data.size // 2,), data.size, None)
    return bytearray(tensor_blob.encode(tensor, data, WriteOptions(level=level))), tensor, data


def _frames(blob: bytes) -> list[tuple[int, wire.FrameHeader]]:
    """The chunks of an archive, by place."""
    at, found = wire.HEADER_SIZE, []
    while at < len(blob):
        header = wire.parse_frame(bytes(blob[at : at + wire.FRAME_SIZE]))
        if header.kind == wire.CHUNK:
            found.append((at, header))
        at += wire.FRAME_SIZE + header.stored
    return found


def _with_other_hash(blob: bytearray, at: int) -> None:
    """The frame at `at`, sound but for the hash of its payload."""
    blob[at + 16] ^= 1
    check = xxhash.xxh3_64_intdigest(bytes(blob[at : at + 24])) & 0xFFFFFFFF
    struct.pack_into("<I", blob, at + 24, check)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_hashes_of_chunks_are_left_out(level: int, threads: int) -> None:
    blob, tensor, data = _blob(level)
    _with_other_hash(blob, _frames(blob)[-1][0])
    decoded = tensor_blob.decode(np.frombuffer(blob, np.uint8), tensor, threads)
    assert (decoded == data).all()
    with pytest.raises(ChecksumError, match="data of a frame is damaged"):
        check_archive(io.BytesIO(bytes(blob)), DEFAULT_READ, None)


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_damaged_is_told_as_ever(level: int) -> None:
    blob, tensor, _ = _blob(level)
    at, header = _frames(blob)[0]
    rng = np.random.default_rng(level)
    for place in rng.integers(header.stored, size=5).tolist():
        blob[at + wire.FRAME_SIZE + place] ^= 16
        with pytest.raises(ChecksumError, match="data of a frame is damaged"):
            tensor_blob.decode(np.frombuffer(blob, np.uint8), tensor, 1)
        blob[at + wire.FRAME_SIZE + place] ^= 16


def test_what_comes_out_is_compared() -> None:
    """A payload of a hash that fits, which decodes to other bytes."""
    blob, tensor, _ = _blob(3)
    at, header = _frames(blob)[0]
    begin = at + wire.FRAME_SIZE
    planes = blob[begin : begin + header.stored]
    sizes = [struct.unpack_from("<I", planes, 5 * p + 1)[0] for p in range(2)]
    assert planes[5] == 0 and sum(sizes) + 10 == len(planes)  # the second plane is stored raw
    blob[begin + 10 + sizes[0]] ^= 1
    digest = xxhash.xxh3_64_intdigest(bytes(blob[begin : begin + header.stored]))
    struct.pack_into("<Q", blob, at + 16, digest)
    check = xxhash.xxh3_64_intdigest(bytes(blob[at : at + 24])) & 0xFFFFFFFF
    struct.pack_into("<I", blob, at + 24, check)
    with pytest.raises(ChecksumError, match="does not match its hash"):
        tensor_blob.decode(np.frombuffer(blob, np.uint8), tensor, 1)


def test_progress_is_told_once() -> None:
    """Whoever hears of progress is not told of a second reading."""
    packed = bytearray(densor.compress(_weights(), level=3))
    _with_other_hash(packed, _frames(packed)[0][0])
    assert (densor.decompress(bytes(packed)) == _weights()).all()
    told: list[int] = []
    with pytest.raises(ChecksumError, match="data of a frame is damaged"):
        densor.decompress(bytes(packed), progress=told.append)
    assert sum(told) <= _weights().nbytes
