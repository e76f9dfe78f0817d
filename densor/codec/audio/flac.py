"""Frames of FLAC taken apart into samples and what else they say, and made of these again.

The binding of `flac_kernels.py`. Nothing that frames say is lost: the bytes come back exactly, by
any encoder that made them. Format: RFC 9639.
"""

import functools
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.audio import flac_kernels as kernels
from densor.codec.audio.flac_kernels import MOST_BLOCK, PADDING, Work
from densor.codec.audio.samples import Planes
from densor.codec.batch import Bytes
from densor.codec.zstd import zstd_decompress, zstd_smallest
from densor.errors import FormatError, LimitError

MOST_BYTES = 1 << 26  # of all samples
MOST_GAIN = 1 << 15  # bytes of samples that a byte of a file may stand for
MOST_TAIL = 1 << 20  # bytes behind the last frame
_SIZES = struct.Struct("<IIII")
_MOST_ROOM = 1 << 25  # bytes of what frames say


class Frames(NamedTuple):
    """All frames of a stream, and the bytes behind them."""

    depth: int
    planes: Planes
    heads: Bytes
    params: Bytes
    weights: npt.NDArray[np.int16]
    tail: bytes


def _work() -> Work:
    return Work(
        np.zeros(8, np.uint8),
        np.zeros(8, np.uint8),
        np.zeros(32, np.int64),
        np.zeros(4, np.int64),
        np.zeros(3, np.int64),
    )


@functools.cache
def _checks() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """The tables of both checksums."""

    def table(bits: int, polynomial: int) -> list[int]:
        found = []
        for byte in range(256):
            value = byte << (bits - 8)
            for _ in range(8):
                value = value << 1 ^ (polynomial if value >> (bits - 1) else 0)
                value &= (1 << bits) - 1
            found.append(value)
        return found

    return np.array(table(8, 0x07), np.uint8), np.array(table(16, 0x8005), np.uint16)


def taken_apart(data: Bytes, channels: int, depth: int) -> Frames | None:
    """The frames that `data` begins with; None where they would not come back as they are."""
    padded = np.concatenate([data, np.zeros(PADDING, np.uint8)])
    blocks = np.empty((channels, MOST_BLOCK), np.int64)
    none = np.empty((channels, 0), np.int32), blocks, *(np.empty(0, np.uint8),) * 2
    counts = np.zeros(4, np.int64)
    size = kernels.take_frames(
        *(padded, data.size, depth, False, *none, np.empty(0, np.int16), counts, _work())
    )
    heads, params, weights, count = counts.tolist()
    tail = data.size - size
    if not count or tail > MOST_TAIL or not _fits(count, channels, depth, data.size):
        return None
    if heads + params + 2 * weights + tail > _room(data.size):
        return None
    found = Frames(
        depth,
        np.empty((channels, count), np.int32),
        np.empty(heads, np.uint8),
        np.empty(params, np.uint8),
        np.empty(weights, np.int16),
        data[size:].tobytes(),
    )
    stored = found.planes, blocks, found.heads, found.params, found.weights
    again = kernels.take_frames(padded, size, depth, True, *stored, np.zeros(4, np.int64), _work())
    if again != size:
        return None
    out = np.empty(data.size, np.uint8)
    try:
        put_together(found, out)
    except FormatError:
        return None
    return found if np.array_equal(out, data) else None


def _fits(count: int, channels: int, depth: int, size: int) -> bool:
    return count * channels * ((depth + 7) // 8) <= min(MOST_BYTES, MOST_GAIN * size)


def _room(size: int) -> int:
    """Bytes that frames may say beside their samples, of a stream of `size` bytes."""
    return min(_MOST_ROOM, 64 + 16 * size)


def put_together(frames: Frames, out: Bytes) -> None:
    """Fills `out` with the bytes of a stream; FormatError if they are not as many."""
    size = out.size - len(frames.tail)
    if size < 0:
        raise FormatError("FLAC frames are longer than their file")
    cursors = np.zeros(4, np.int64)
    heads = np.concatenate([frames.heads, np.zeros(PADDING, np.uint8)])
    written = kernels.put_frames(
        *(frames.planes, frames.depth, np.empty(MOST_BLOCK, np.int64), heads, frames.params),
        *(frames.weights, *_checks(), cursors, _work(), out[:size]),
    )
    used = [frames.heads.size, frames.params.size, frames.weights.size, frames.planes.shape[1]]
    if written != size or cursors.tolist() != used:
        raise FormatError("FLAC frames do not make a file of its length")
    out[size:] = np.frombuffer(frames.tail, np.uint8)


def pack_frames(frames: Frames, level: int) -> bytes:
    """All but the samples, as a payload begins with it; `level`: of Zstandard."""
    params = np.diff(frames.params, prepend=np.uint8(0))
    weights = frames.weights.astype("<i2").view(np.uint8).reshape(-1, 2).T
    parts = frames.heads, params, weights, np.frombuffer(frames.tail, np.uint8)
    said = np.concatenate([part.reshape(-1) for part in parts])
    packed = zstd_smallest(said, level)
    sizes = frames.heads.size, frames.params.size, frames.weights.size, len(packed)
    instants = struct.pack("<I", frames.planes.shape[1])
    return instants + _SIZES.pack(*sizes) + struct.pack("<I", len(frames.tail)) + packed


def take_frames(payload: Bytes, channels: int, depth: int, size: int) -> tuple[Frames, int]:
    """What `pack_frames` wrote, for a stream of `size` bytes, and its length; samples are not set.

    FormatError or LimitError for a bad one.
    """
    begin = 8 + _SIZES.size
    if payload.size < begin:
        raise FormatError("FLAC chunk is too short")
    data = payload.tobytes()
    (count,) = struct.unpack_from("<I", data)
    heads, params, weights, packed = _SIZES.unpack_from(data, 4)
    (tail,) = struct.unpack_from("<I", data, begin - 4)
    total = heads + params + 2 * weights + tail
    if not count or begin + packed > len(data) or tail > min(size, MOST_TAIL):
        raise FormatError("FLAC chunk has impossible sizes")
    if count > heads * MOST_BLOCK:  # a frame has one byte of heads at least
        raise FormatError("FLAC chunk has more samples than its frames")
    if total > _room(size) or not _fits(count, channels, depth, size):
        raise LimitError("FLAC chunk holds more than it can")
    said = np.frombuffer(zstd_decompress(data[begin : begin + packed], total), np.uint8)
    ends = np.cumsum([heads, params, 2 * weights]).tolist()
    of_heads, of_params, of_weights, of_tail = np.split(said, ends)
    words = np.ascontiguousarray(of_weights.reshape(2, -1).T).view("<i2").astype(np.int16)
    planes = np.empty((channels, count), np.int32)
    added = np.cumsum(of_params, dtype=np.uint8)
    found = Frames(depth, planes, of_heads, added, words.reshape(-1), of_tail.tobytes())
    return found, begin + packed
