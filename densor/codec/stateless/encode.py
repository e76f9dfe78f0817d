"""Encodes a piece by itself: its type is found in a sample, what is smaller is taken."""

import threading
from typing import Any

import numpy as np
import xxhash

from densor.codec.batch import Bytes
from densor.codec.stateless import layout as t
from densor.codec.types.find import logs
from densor.codec.types.ways import COUNTS, WAYS
from densor.codec.zstd import zstd_compress
from densor.entropy.deferred import deferred

encode_piece, repeats = deferred("densor.codec.stateless.encode_kernels", "encode_piece", "repeats")

window_costs = deferred("densor.codec.types.kernels", "window_costs")

_ZSTD_LEVEL = 3
_LITTLE = 0.97  # of a piece's size, where Zstandard is tried too
_SAMPLE, _PIECES = 4096, 8  # bytes that the type is found in; from so many places
_SMALL = 4096  # bytes below which it is tried always
_LEAST = 256  # bytes that planes are made of
# By way as the finder of types numbers them: way, phase.
_WAYS = {0: (t.BYTES, 0), 1: (t.WORDS, 0), 2: (t.BF16, 0), 3: (t.BF16, 1)}
_WAYS |= {5 + phase: (t.FP32, phase) for phase in range(4)}
_FIRST = np.zeros(1, np.int64)
_local = threading.local()


class _Work:
    """Work space of a thread."""

    def __init__(self) -> None:
        self.out = np.empty(0, np.uint8)
        self.planes = np.empty(0, np.uint8)
        self.windows = np.empty(4096, np.uint64)
        self.sample = np.zeros(_SAMPLE + 1, np.uint8)
        self.counts = np.empty(COUNTS, np.int32)
        self.costs = np.empty((1, WAYS), np.float32)
        self.rest = (
            np.empty(1024, np.uint32),
            np.empty(256, np.int64),
            np.empty(1032, np.int64),
            np.empty(512, np.uint64),
            np.empty(512, np.uint64),
            np.empty(t.CODES, np.uint32),
            np.empty(t.EDGE + 6144 + 256 + 512, np.uint8),
            np.empty(256, np.uint8),
        )

    def make_room(self, size: int) -> None:
        """For a piece of `size` bytes."""
        if self.planes.size < size:
            self.planes = np.empty(size, np.uint8)
            self.out = np.empty(2 * size + 2048, np.uint8)


def encode(data: Bytes) -> bytes:
    """A piece, uint8[n] with n at most MAX_SIZE, as docs/format/chunk.md has it."""
    work = _work_for(data.size)
    best: Any = data
    way, phase = t.RAW, 0
    found = _find(data, work) if data.size >= _LEAST else None
    if found is not None:
        layout, size = t.ELEMENTS[found[0]]
        end = encode_piece(data, layout, size, found[1], work.out, work.planes, *work.rest)
        if end - t.HEAD < data.size:
            way, phase = found
            best = work.out[t.HEAD : end]
    if _may_repeat(data, len(best), work):
        packed = zstd_compress(data, _ZSTD_LEVEL)
        if len(packed) < len(best):
            way, phase, best = t.ZSTD, 0, packed
    head = bytes([way | phase << 4]) + data.size.to_bytes(3, "little")
    return head + xxhash.xxh3_64_digest(data)[:3:-1] + bytes(best)


def _may_repeat(data: Bytes, size: int, work: _Work) -> bool:
    """Whether Zstandard is tried on a piece that takes `size` bytes otherwise."""
    if data.size < _SMALL or size > _LITTLE * data.size:
        return True
    return bool(repeats(data, work.windows))


def _work_for(size: int) -> _Work:
    work: _Work | None = getattr(_local, "work", None)
    if work is None:
        work = _local.work = _Work()
    work.make_room(size)
    return work


def _find(data: Bytes, work: _Work) -> tuple[int, int] | None:
    """Way and phase that a sample takes least in; None where there is no such way."""
    piece = _SAMPLE // _PIECES
    if data.size > 2 * _SAMPLE:
        step = (data.size - piece) // (_PIECES - 1) & ~7
        rows = np.lib.stride_tricks.as_strided(data, (_PIECES, piece), (step, 1))
        work.sample[:-1].reshape(_PIECES, piece)[:] = rows
        sample = work.sample
    else:
        sample = data[: (data.size - 1 & ~7) + 1]
    window = sample.size - 1
    costs = work.costs
    window_costs(sample, _FIRST, window, work.counts, logs(window), costs)
    return _WAYS.get(int(costs.argmin()))
