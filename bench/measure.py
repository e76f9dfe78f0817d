"""Times codecs on one input: interleaved rounds, warm, the round trip checked bit for bit."""

from __future__ import annotations

import gc
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from bench.codecs.base import Codec
from bench.tensors import Bytes, Tensor, total_bytes

SLOW_ROUND_S = 20.0
"""A codec whose first round takes longer than this many seconds gets SLOW_REPEATS."""

SLOW_REPEATS = 1


@dataclass
class Result:
    """What one codec did to one input. Sizes in bytes, times in seconds."""

    codec: str
    version: str
    threads: int
    original: int
    compressed: int = 0
    first_compress_s: float = 0.0
    first_decompress_s: float = 0.0
    compress_s: list[float] = field(default_factory=list)
    decompress_s: list[float] = field(default_factory=list)
    compiles: bool = False
    error: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the round trip was exact and at least one round was timed."""
        return not self.error and bool(self.compress_s)

    @property
    def ratio(self) -> float:
        """Compressed over original size: lower is better."""
        return self.compressed / self.original

    @property
    def compress_mb_s(self) -> float:
        """Median speed in MB of original data per second; 1 MB is 10^6 bytes."""
        return self.original / median(self.compress_s) / 1e6

    @property
    def decompress_mb_s(self) -> float:
        """Median speed in MB of original data per second; 1 MB is 10^6 bytes."""
        return self.original / median(self.decompress_s) / 1e6


def as_bytes(buffer: Any) -> Bytes:
    """The bytes of a buffer, or of a list of consecutive buffers."""
    if isinstance(buffer, list):
        return np.concatenate([as_bytes(part) for part in buffer])
    if isinstance(buffer, np.ndarray):
        return np.ascontiguousarray(buffer).reshape(-1).view(np.uint8)
    return np.frombuffer(buffer, np.uint8) if len(buffer) else np.empty(0, np.uint8)


def difference(tensors: Sequence[Tensor], buffers: Sequence[Any]) -> str:
    """Empty if the buffers hold exactly the tensors' bytes, else what is wrong."""
    if len(tensors) != len(buffers):
        return f"round trip gave {len(buffers)} tensors of {len(tensors)}"
    pairs = zip(tensors, buffers, strict=True)
    wrong = [t.name for t, buffer in pairs if not np.array_equal(t.data, as_bytes(buffer))]
    return f"round trip changed {len(wrong)} tensors, first {wrong[0]}" if wrong else ""


def checksum(tensors: Sequence[Tensor]) -> int:
    """CRC-32 of all tensors, to notice a codec that writes into its input."""
    crc = 0
    for t in tensors:
        crc = zlib.crc32(t.data.data, crc)
    return crc


@contextmanager
def no_gc() -> Iterator[None]:
    """Keeps the garbage collector out of the timed region."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Round(NamedTuple):
    """Seconds to compress and to decompress, compressed bytes, the buffers that came back."""

    compress_s: float
    decompress_s: float
    size: int
    buffers: Sequence[Any]


def timed_round(codec: Codec, tensors: Sequence[Tensor], threads: int) -> Round:
    """Compresses and decompresses once."""
    prepared = codec.prepare(tensors)
    with no_gc():
        t0 = time.perf_counter()
        state = codec.compress(prepared, threads)
        t1 = time.perf_counter()
        t2 = time.perf_counter()
        buffers = codec.decompress(state, threads)
        t3 = time.perf_counter()
    return Round(t1 - t0, t3 - t2, codec.compressed_size(state), buffers)


def first_round(codec: Codec, tensors: Sequence[Tensor], threads: int) -> Result:
    """The untimed round that warms a codec up; it also checks the round trip."""
    result = Result(codec.name, codec.version(), threads, total_bytes(tensors))
    result.compiles = codec.compiles
    unknown = sorted({t.dtype for t in tensors if not codec.supports(t.dtype)})
    if unknown:
        result.note = f"does not take {', '.join(unknown)}"
        return result
    before = checksum(tensors)
    try:
        first = timed_round(codec, tensors, threads)
        result.error = difference(tensors, first.buffers)
    except Exception as error:  # whatever a peer raises is its result
        result.error = f"{type(error).__name__}: {error}"
        return result
    if checksum(tensors) != before:
        raise RuntimeError(f"{codec.name} wrote into its input: its adapter must hand it a copy")
    result.compressed = first.size
    result.first_compress_s, result.first_decompress_s = first.compress_s, first.decompress_s
    return result


def record(result: Result, round_: Round) -> None:
    """Adds a round's times to a result."""
    result.compress_s.append(round_.compress_s)
    result.decompress_s.append(round_.decompress_s)


def measure(
    codecs: Sequence[Codec], tensors: Sequence[Tensor], threads: int, repeat: int
) -> list[Result]:
    """One result per codec. In each round every codec runs once, so that drift of the machine
    meets all alike; each round starts with another codec."""
    results = {codec.name: first_round(codec, tensors, threads) for codec in codecs}
    rounds = {}
    for name, r in results.items():
        seconds = r.first_compress_s + r.first_decompress_s
        rounds[name] = repeat if r.compressed and not r.error else 0
        if seconds > SLOW_ROUND_S and rounds[name] > SLOW_REPEATS:
            rounds[name] = SLOW_REPEATS
            r.note = f"{SLOW_REPEATS} repeat only: a round takes {seconds:.0f} s"
    for i in range(repeat):
        turn = i % len(codecs)
        for codec in [*codecs[turn:], *codecs[:turn]]:
            if i < rounds[codec.name]:
                record(results[codec.name], timed_round(codec, tensors, threads))
    return list(results.values())
