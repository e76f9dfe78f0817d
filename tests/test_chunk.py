"""Pieces of bytes that are coded by themselves: `densor.chunk`, docs/format/chunk.md."""

import threading
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zstandard
from helpers import random_state
from reference import chunk as reference
from reference.reading import Refused

from densor import chunk
from densor.errors import (
    ArgumentError,
    ChecksumError,
    DensorError,
    FormatError,
    LimitError,
    TruncatedError,
)

GOLDEN = Path(__file__).parent / "golden"
RAW, ZSTD, BYTES, WORDS, BF16, FP32 = range(6)


def _weights(n: int) -> np.ndarray:
    return random_state("chunk").normal(0, 0.02, n).astype(np.float32)


def _bf16(n: int) -> bytes:
    return _weights(n).view(np.uint16)[1::2].tobytes()


SAMPLES = {
    "bf16": (_bf16(20000), BF16),
    "bf16 cut": (_bf16(20000)[1:], BF16 | 1 << 4),
    "bf16 short": (_bf16(20000)[1:8192], BF16 | 1 << 4),
    "fp16": (_weights(20000).astype(np.float16).tobytes(), WORDS),
    "fp32": (_weights(20000).tobytes(), FP32),
    **{f"fp32 cut {k}": (_weights(9000).tobytes()[k:-1], FP32 | 4 - k << 4) for k in (1, 2, 3)},
    "fp32 of bf16": ((_weights(20000).view(np.uint32) & 0xFFFF0000).tobytes(), None),
    "int8": ((_weights(50000) * 500).astype(np.int8).tobytes(), BYTES),
    "text": (b"".join(b"%d bottles of beer on the wall\n" % i for i in range(2000)), ZSTD),
    "zeros": (bytes(65536), None),
    "noise": (random_state("noise").bytes(65536), RAW),
    "empty": (b"", RAW),
    "one": (b"x", RAW),
    "255": (_bf16(400)[:255], ZSTD),
    "256": (_bf16(400)[:256], None),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_pieces_come_back(name: str) -> None:
    data, way = SAMPLES[name]
    coded = chunk.compress(data)
    assert chunk.decompress(coded) == data
    assert chunk.decompressed_size(coded) == len(data)
    assert reference.decode(coded) == data
    assert len(coded) <= len(data) + 8
    if way is not None:
        assert coded[0] == way
    out = np.full(len(data) + 2, 171, np.uint8)
    chunk.decompress_into(coded, out[1:-1])
    assert out[1:-1].tobytes() == data and out[0] == out[-1] == 171


def test_cuts_within_elements_cost_nothing() -> None:
    data = _bf16(1 << 17)
    sizes = [len(chunk.compress(data[odd : odd + 65536])) for odd in range(4)]
    assert max(sizes) < 0.7 * 65536
    assert max(sizes) - min(sizes) < 64


def test_every_size_comes_back() -> None:
    data = _bf16(2000)
    for size in (*range(250, 300), 511, 1023, 2047, 4095, 8191):
        for piece in (data[:size], data[1 : 1 + size]):
            assert chunk.decompress(chunk.compress(piece)) == piece


def test_bits_of_all_kinds_come_back() -> None:
    """NaN payloads, -0, denormals: all 65,536 words."""
    data = np.arange(65536, dtype=np.uint16).tobytes()
    assert chunk.decompress(chunk.compress(data)) == data


def test_no_piece_is_larger_than_under_zstandard() -> None:
    """But for its header, and what the same code for bytes takes in either format."""
    for data, _ in SAMPLES.values():
        packed = zstandard.ZstdCompressor(level=3).compress(data)
        assert len(chunk.compress(data)) <= 1.002 * len(packed) + 8


def test_threads_share_nothing() -> None:
    pieces = [data for data, _ in SAMPLES.values()]
    right = [chunk.compress(piece) for piece in pieces]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(10):
            for i, piece in enumerate(pieces):
                if chunk.compress(piece) != right[i] or chunk.decompress(right[i]) != piece:
                    wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_arguments() -> None:
    coded = chunk.compress(SAMPLES["bf16"][0])
    with pytest.raises(LimitError):
        chunk.decompress(coded, max_size=100)
    with pytest.raises(ArgumentError):
        chunk.compress(bytes(chunk.MAX_SIZE + 1))
    with pytest.raises(ArgumentError):
        chunk.compress(memoryview(bytes(1000))[::2])
    with pytest.raises(ArgumentError):
        chunk.decompress_into(coded, np.empty(7, np.uint8))
    read_only = np.frombuffer(bytes(len(SAMPLES["bf16"][0])), np.uint8)
    with pytest.raises(ArgumentError):
        chunk.decompress_into(coded, read_only)
    assert chunk.compress(memoryview(_weights(300))) == chunk.compress(_weights(300).tobytes())


def _content(piece: bytes) -> bytes | None:
    try:
        return chunk.decompress(piece)
    except DensorError:
        return None


@pytest.mark.parametrize("name", ["bf16 short", "fp32 cut 3", "noise", "text", "255"])
def test_damage_is_found(name: str) -> None:
    """Some bits of a Zstandard frame mean nothing."""
    data = SAMPLES[name][0][:20000]
    coded = bytearray(chunk.compress(data))
    allowed = {None, data} if coded[0] == ZSTD else {None}
    rng = random_state("damage")
    for at in (*range(min(60, len(coded))), *rng.integers(0, len(coded), 300)):
        for bit in (0, 5, 7):
            coded[at] ^= 1 << bit
            assert _content(bytes(coded)) in allowed
            coded[at] ^= 1 << bit
    for size in (*range(0, len(coded), 97), len(coded) - 1):
        assert _content(bytes(coded[:size])) is None
    assert _content(bytes(coded) + b"\0") is None


def _piece(way: int, size: int, body: bytes, content: bytes = b"") -> bytes:
    check = xxhash.xxh3_64_intdigest(content) & 0xFFFFFFFF
    return bytes([way]) + size.to_bytes(3, "little") + check.to_bytes(4, "little") + body


@pytest.mark.parametrize(
    ("piece", "error"),
    [
        (b"", TruncatedError),
        (b"\0" * 7, TruncatedError),
        (_piece(6, 4, b"abcd"), FormatError),
        (_piece(16, 0, b""), FormatError),
        (_piece(ZSTD | 16, 0, b""), FormatError),
        (_piece(BF16 | 32, 9, b"123456789"), FormatError),
        (_piece(FP32, 3, b"\1\0\1\0\1\0\1\0"), FormatError),
        (_piece(RAW, 5, b"abcd"), FormatError),
        (_piece(RAW, 4, b"abcd"), ChecksumError),
        (_piece(ZSTD, 4, b"abcd"), FormatError),
        (_piece(BYTES, 4, b""), TruncatedError),
        (_piece(BYTES, 4, b"\0abc"), TruncatedError),
        (_piece(BYTES, 4, b"\1"), TruncatedError),
        (_piece(BYTES, 4, b"\3a"), FormatError),
        (_piece(BYTES, 4, b"\1ab"), FormatError),
        (_piece(BYTES, 4, b"\1a"), ChecksumError),
        (_piece(BYTES, 4, b"\2" + b"\0" * 40), FormatError),
        (_piece(BYTES, 4, b"\2\0\1\0" + b"\0" * 40), FormatError),
        (_piece(BYTES, 4, b"\2\0\1\x11" + b"\xff" * 40), TruncatedError),
        (_piece(WORDS, 5, b""), TruncatedError),
    ],
)
def test_faulty_pieces_are_refused(piece: bytes, error: type[DensorError]) -> None:
    with pytest.raises(error):
        chunk.decompress(piece)
    with pytest.raises(Refused):
        reference.decode(piece)


def test_a_constant_plane_may_stand_for_many_bytes() -> None:
    content = b"a" * 1000
    assert chunk.decompress(_piece(BYTES, 1000, b"\1a", content)) == content


@pytest.mark.parametrize("name", ["bf16-cut", "fp16", "fp32", "int8", "zstd", "raw"])
def test_golden_pieces(name: str) -> None:
    """Pieces that stand in the tree give what they gave, and are made again byte for byte."""
    piece = (GOLDEN / f"chunk-{name}.piece").read_bytes()
    content = chunk.decompress(piece)
    assert reference.decode(piece) == content
    if name != "zstd":  # which depends on the library's release
        assert chunk.compress(content) == piece
