"""Times codecs on one input: interleaved rounds, warm, the round trip checked bit for bit."""

import gc
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from densor.compare.codec import Bytes, Codec, Item, total_bytes
from densor.errors import ChecksumError

Clock = Callable[[], float]


class Slow(NamedTuple):
    """How often a codec runs whose first round takes `seconds` or longer; 0: that one counts,
    or another one where it may have compiled, unless all was `compiled` before."""

    seconds: float = 20.0
    repeats: int = 1
    compiled: bool = False


@dataclass
class Result:
    """What one codec did to one input. Sizes in bytes, times in seconds."""

    codec: str
    original: int
    compressed: float = 0
    threads: int = 1
    version: str = ""
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
        return self.compressed / self.original if self.original else 1.0

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


def difference(items: Sequence[Item], buffers: Sequence[Any]) -> str:
    """Empty if the buffers hold exactly the bytes of the items, else what is wrong."""
    if len(items) != len(buffers):
        return f"round trip gave {len(buffers)} items of {len(items)}"
    pairs = zip(items, buffers, strict=True)
    wrong = [t.name for t, buffer in pairs if not np.array_equal(t.data, as_bytes(buffer))]
    if not wrong:
        return ""
    return f"round trip changed {len(wrong)} of {len(items)} items, first {wrong[0]}"


def checksum(items: Sequence[Item]) -> int:
    """CRC-32 of all items, to notice a codec that writes into its input."""
    crc = 0
    for t in items:
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


def have_memory(size: int) -> None:
    """Lets the system find memory for `size` bytes, which is free again then.

    The host of a virtual machine may have taken back what was free for some seconds, large pages
    first. Whichever codec came next would wait for it: 64 MB took 1.8 s of one machine, and 3 ms
    once they were there.
    """
    np.empty(size, np.uint8).fill(0)


class Round(NamedTuple):
    """Seconds to compress and to decompress, compressed bytes, the buffers that came back."""

    compress_s: float
    decompress_s: float
    size: int
    buffers: Sequence[Any]


def timed_round(
    codec: Codec, items: Sequence[Item], threads: int, clock: Clock = time.perf_counter
) -> Round:
    """Compresses and decompresses once."""
    prepared = codec.prepare(items)
    size = total_bytes(items)
    with no_gc():
        have_memory(2 * size)
        t0 = clock()
        state = codec.compress(prepared, threads)
        t1 = clock()
        have_memory(size)
        t2 = clock()
        buffers = codec.decompress(state, threads)
        t3 = clock()
    return Round(t1 - t0, t3 - t2, codec.compressed_size(state), buffers)


def first_round(
    codec: Codec,
    items: Sequence[Item],
    threads: int,
    clock: Clock = time.perf_counter,
    strict: bool = False,
) -> Result:
    """The round that warms a codec up; it also checks the round trip, and is not counted.

    `strict`: raise what a codec raises, and ChecksumError for other bytes.
    """
    result = Result(codec.name, total_bytes(items), 0, threads, codec.version())
    result.compiles = codec.compiles
    unknown = sorted({item.dtype for item in items if not codec.supports(item.dtype)})
    if unknown:
        result.note = f"does not take {', '.join(dtype or 'files' for dtype in unknown)}"
        return result
    before = checksum(items)
    try:
        first = timed_round(codec, items, threads, clock)
        result.error = difference(items, first.buffers)
    except Exception as error:  # whatever a peer raises is its result
        if strict:
            raise
        result.error = f"{type(error).__name__}: {error}"
        return result
    if strict and result.error:
        raise ChecksumError(f"{codec.name}: {result.error}")
    if checksum(items) != before:
        raise RuntimeError(f"{codec.name} wrote into its input: its adapter must hand it a copy")
    result.compressed = first.size
    result.first_compress_s, result.first_decompress_s = first.compress_s, first.decompress_s
    return result


def rounds_of(result: Result, repeat: int, slow: Slow) -> int:
    """How many rounds are to be timed; where none is, of a slow codec, the first is recorded."""
    seconds = result.first_compress_s + result.first_decompress_s
    if result.error or result.note:
        return 0
    if seconds < slow.seconds or repeat <= slow.repeats:
        return repeat
    result.note = f"{slow.repeats or 1} repeat only: a round takes {seconds:.0f} s"
    if slow.repeats or (result.compiles and not slow.compiled):
        return max(slow.repeats, 1)
    result.compress_s.append(result.first_compress_s)
    result.decompress_s.append(result.first_decompress_s)
    return 0


def measure(
    codecs: Sequence[Codec],
    items: Sequence[Item],
    threads: int,
    repeat: int,
    *,
    slow: Slow = Slow(),  # noqa: B008
    clock: Clock = time.perf_counter,
    doing: Callable[[str], object] = lambda name: None,
    strict: bool = False,
) -> list[Result]:
    """One result per codec. In each round every codec runs once, so that drift of the machine
    meets all alike; each round starts with another codec. `doing` is given the name of each.
    `strict`: see `first_round`."""
    results = []
    for codec in codecs:
        doing(codec.name)
        results.append(first_round(codec, items, threads, clock, strict))
    rounds = [rounds_of(result, repeat, slow) for result in results]
    turns = list(zip(codecs, results, rounds, strict=True))
    for i in range(repeat):
        turn = i % len(codecs)
        for codec, result, wanted in [*turns[turn:], *turns[:turn]]:
            if i < wanted:
                doing(codec.name)
                timed = timed_round(codec, items, threads, clock)
                result.compress_s.append(timed.compress_s)
                result.decompress_s.append(timed.decompress_s)
    return results
