"""What it takes to add a codec: a record in the table, two sides and a specification.

The toy codes plain bytes that SHAKE-256 has made of the first four. Its sides are in this module,
its specification is this text: a MODEL frame is the codec's number, a chunk's payload the four.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from helpers import take_apart
from reference import container
from reference.reading import Refused

import densor
from densor.codec.batch import Batch, Bytes
from densor.codec.chunks import ChunkEncoder
from densor.codec.codecs import CODECS, Codec, inner_decoder, registered
from densor.codec.interfaces import ChunkDecoder
from densor.codec.kind import Data
from densor.codec.levels import Level
from densor.formats.container import wire

NUMBER = 200


def grown(seed: bytes, size: int) -> bytes:
    return (seed + hashlib.shake_256(seed).digest(size))[:size]


class ToyCoder:
    repeats = False

    def model(self) -> bytes:
        return bytes([NUMBER])

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        seed = chunk[:4].tobytes()
        return chunk[:4] if chunk.tobytes() == grown(seed, chunk.size) else chunk


class ToyDecoder(ChunkDecoder):
    def decode(self, payload: Bytes, out: Bytes) -> None:
        if payload.size != 4:
            raise densor.FormatError("toy chunk does not have four bytes")
        out[:] = np.frombuffer(grown(payload.tobytes(), out.size), np.uint8)


def propose(batch: Batch, level: Level) -> ChunkEncoder:
    return ChunkEncoder(ToyCoder(), batch, level.zstd)


def open_decoder(payload: bytes, session: object) -> ToyDecoder:
    return ToyDecoder()


def suits(batch: Batch, level: Level) -> bool:
    return batch.kind.data is Data.BYTES


SIDE = "test_toy_codec"
TOY = Codec(NUMBER, "toy", "grown bytes", (f"tests/codec/{SIDE}.py",), SIDE, SIDE, suits=suits)

GROWN, MIXED = grown(b"seed", 100_000), bytes(range(256)) * 40


def codecs_of(packed: bytes) -> set[int]:
    return {frame.payload[0] for frame in take_apart(packed) if frame.kind == wire.MODEL}


@pytest.mark.parametrize("level", [1, 3, 5, 6, 9])
@pytest.mark.parametrize("threads", [1, 2])
def test_archives_come_back_through_the_public_faces(
    level: int, threads: int, tmp_path: Path
) -> None:
    with registered(TOY):
        packed = densor.compress(GROWN, level, threads)
        assert codecs_of(packed) == {NUMBER} and len(packed) < 500
        assert densor.decompress(packed) == GROWN
        assert densor.decompress(densor.compress(MIXED, level, threads)) == MIXED
        (tmp_path / "plain").write_bytes(GROWN)
        densor.compress_file(tmp_path / "plain", tmp_path / "packed", level)
        densor.decompress_file(tmp_path / "packed", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == GROWN


def test_what_it_does_not_suit_is_as_without_it() -> None:
    array = np.arange(5000, dtype=np.float32)
    without = densor.compress(array)
    with registered(TOY):
        assert densor.compress(array) == without
        assert NUMBER not in codecs_of(densor.compress(MIXED))


def test_archives_are_refused_without_it() -> None:
    with registered(TOY):
        packed = densor.compress(GROWN)
        with pytest.raises(densor.ArgumentError), registered(TOY):
            pass
    assert NUMBER not in CODECS
    with pytest.raises(densor.UnsupportedError):
        densor.decompress(packed)
    with pytest.raises(Refused):
        container.decode(packed)


def test_damage_is_noticed() -> None:
    with registered(TOY):
        packed = densor.compress(GROWN)
        for at in range(len(packed)):
            damaged = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
            with pytest.raises(densor.DensorError):
                densor.decompress_file(io.BytesIO(damaged), io.BytesIO())


def test_it_cannot_be_within_another() -> None:
    with registered(TOY), pytest.raises(densor.FormatError):
        inner_decoder(bytes([NUMBER]))
