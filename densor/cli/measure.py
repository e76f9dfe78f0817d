"""Ratio and speed in memory: densor beside Zstandard, memcpy and the order-0 bound."""

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import numpy as np
import zstandard

from densor.codec.bound import order0_bytes
from densor.dtypes import SIZES, coding_of
from densor.errors import ChecksumError, FileError
from densor.files.folder import members
from densor.formats.container.entry import FILE, EntryMeta
from densor.formats.container.sinks import MemorySink
from densor.formats.container.stream_reader import StreamReader
from densor.formats.container.writer import ArchiveWriter
from densor.formats.io.outputs import errors_of
from densor.formats.io.sources import Bytes, MemoryRandomSource, MemorySource
from densor.formats.parsers.plan import plan_file

MOST_BYTES = 4 << 30  # all of it must fit into memory, and twice more
_SLOW = 2.0  # seconds from which once is enough


class Named(NamedTuple):
    """A file in memory."""

    name: str
    data: Bytes


class Packed(NamedTuple):
    """What a codec made of some files."""

    blobs: list[Any]
    stored: int


class Codec(Protocol):
    """Packs files in memory and restores them."""

    name: str

    def compress(self, files: Sequence[Named]) -> Packed: ...

    def decompress(self, packed: Packed, files: Sequence[Named]) -> list[Any]:
        """The content of each file; `files` tells how large they are."""
        ...


class Densor:
    """Densor, all checks included: one archive of all files."""

    def __init__(self, level: int, threads: int, dtype: str | None = None) -> None:
        self.name = f"densor -{level}"
        self._level = level
        self._threads = threads
        self._dtype = dtype

    def compress(self, files: Sequence[Named]) -> Packed:
        out = io.BytesIO()
        writer = ArchiveWriter(out, self._level, self._threads)
        try:
            for file in files:
                size = file.data.size
                random = MemoryRandomSource(file.data)
                plan = plan_file(
                    MemorySource(file.data), size, self._dtype, self._level, random=random
                )
                meta = EntryMeta(file.name, FILE, size, format=plan.format)
                writer.add(meta, plan.source, plan.segments, plan.listed)
            writer.close()
        finally:
            writer.abort()
        return Packed([out.getvalue()], writer.written)

    def decompress(self, packed: Packed, files: Sequence[Named]) -> list[Any]:
        restored: list[Any] = []

        def sink(meta: EntryMeta) -> MemorySink:
            restored.append(np.empty(files[len(restored)].data.size, np.uint8))
            return MemorySink(restored[-1])

        reader = StreamReader(MemorySource(packed.blobs[0]), self._threads)
        try:
            for _ in reader.entries(sink):
                pass
        finally:
            reader.close()
        return restored


class Zstd:
    """Zstandard, each file by itself."""

    def __init__(self, level: int, threads: int) -> None:
        self.name = f"zstd -{level}"
        self._level = level
        self._workers = {1: 0, 0: -1}.get(threads, threads)

    def compress(self, files: Sequence[Named]) -> Packed:
        coder = zstandard.ZstdCompressor(level=self._level, threads=self._workers)
        blobs = [coder.compress(memoryview(file.data)) for file in files]
        return Packed(blobs, sum(len(blob) for blob in blobs))

    def decompress(self, packed: Packed, files: Sequence[Named]) -> list[Any]:
        decoder = zstandard.ZstdDecompressor()
        return [decoder.decompress(blob) for blob in packed.blobs]


class Memcpy:
    """Copies between buffers that exist already, as fast as memory allows."""

    name = "memcpy"

    def __init__(self) -> None:
        self._buffers: list[Bytes] = []

    def compress(self, files: Sequence[Named]) -> Packed:
        if not self._buffers:
            self._buffers = [np.empty_like(file.data) for file in files]
        for buffer, file in zip(self._buffers, files, strict=True):
            np.copyto(buffer, file.data)
        return Packed(self._buffers, sum(buffer.size for buffer in self._buffers))

    def decompress(self, packed: Packed, files: Sequence[Named]) -> list[Any]:
        return self.compress(files).blobs


@dataclass
class Row:
    """What was measured of a codec; speeds in MB of original data per second."""

    name: str
    original: int
    stored: float
    compress_s: list[float] = field(default_factory=list)
    decompress_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Stored bytes over original bytes: less is better."""
        return self.stored / self.original if self.original else 1.0

    @property
    def compress_speed(self) -> float | None:
        """The median, None where there is no such thing."""
        return self._speed(self.compress_s)

    @property
    def decompress_speed(self) -> float | None:
        """The median, None where there is no such thing."""
        return self._speed(self.decompress_s)

    def _speed(self, seconds: list[float]) -> float | None:
        return self.original / median(seconds) / 1e6 if seconds else None


def load(path: str) -> list[Named]:
    """A file, or all files of a folder, in memory."""
    found = [(m.name, Path(m.path)) for m in members([path])]
    found = [(name, path) for name, path in found if path.is_file()]
    total = sum(path.stat().st_size for _, path in found)
    if total > MOST_BYTES:
        raise FileError(f"{path}: measured in memory, so at most {MOST_BYTES >> 30} GiB")
    return [Named(name, _read(path)) for name, path in found]


def _read(path: Path) -> Bytes:
    with errors_of(path):
        return np.fromfile(path, np.uint8)


def measure(codec: Codec, files: Sequence[Named], repeat: int) -> Row:
    """Packs and restores `files`; ChecksumError unless they come back bit for bit.

    The first round warms up and is checked; only if it is slow, it is the one that counts.
    """
    packed, restored, times = _round(codec, files)
    for file, back in zip(files, restored, strict=True):
        if not np.array_equal(np.frombuffer(back, np.uint8), file.data):
            raise ChecksumError(f"{codec.name} did not restore {file.name}")
    del restored
    row = Row(codec.name, sum(file.data.size for file in files), packed.stored)
    rounds = [times]
    if sum(times) < _SLOW:
        rounds = [_round(codec, files)[2] for _ in range(repeat)]
    row.compress_s = [compress for compress, _ in rounds]
    row.decompress_s = [decompress for _, decompress in rounds]
    return row


def _round(codec: Codec, files: Sequence[Named]) -> tuple[Packed, list[Any], tuple[float, float]]:
    t0 = time.perf_counter()
    packed = codec.compress(files)
    t1 = time.perf_counter()
    restored = codec.decompress(packed, files)
    t2 = time.perf_counter()
    return packed, restored, (t1 - t0, t2 - t1)


def bound(files: Sequence[Named], dtype: str | None = None) -> Row:
    """The order-0 bound of all tensors and of the bytes between them."""
    stored = sum(sum(_bounds(file.data, dtype)) for file in files)
    return Row("order-0 bound", sum(file.data.size for file in files), stored)


def _bounds(data: Bytes, dtype: str | None) -> Iterator[float]:
    if dtype is not None:
        whole = data.size - data.size % SIZES[dtype]
        yield order0_bytes(data[:whole], dtype)
        yield float(data.size - whole)
        return
    at = 0
    random = MemoryRandomSource(data)
    for tensor in plan_file(MemorySource(data), data.size, random=random).tensors:
        if tensor.offset < at or not tensor.plain:
            continue  # shares bytes with the one before, or cannot be read as it lies
        yield order0_bytes(data[at : tensor.offset], "U8")
        at = tensor.offset + tensor.size
        yield order0_bytes(data[tensor.offset : at], coding_of(tensor.dtype, ())[0])
    yield order0_bytes(data[at:], "U8")


def tensor_count(files: Sequence[Named]) -> int:
    """Tensors in all files that hold some."""
    return sum(
        len(plan_file(MemorySource(data), data.size, random=MemoryRandomSource(data)).tensors)
        for data in (file.data for file in files)
    )


def proof(codec: Codec, files: Sequence[Named]) -> list[tuple[str, str, str]]:
    """Name and SHA-256 of each file before and after a round trip; ChecksumError if they differ."""
    restored = codec.decompress(codec.compress(files), files)
    hashes = [
        (file.name, hashlib.sha256(file.data).hexdigest(), hashlib.sha256(back).hexdigest())
        for file, back in zip(files, restored, strict=True)
    ]
    for name, before, after in hashes:
        if before != after:
            raise ChecksumError(f"{name}: restored with SHA-256 {after} instead of {before}")
    return hashes


def rows(
    files: Sequence[Named],
    codecs: Sequence[Codec],
    repeat: int,
    dtype: str | None,
    doing: Callable[[str], object],
) -> list[Row]:
    """One row per codec, and the bound; `doing` is told what is measured."""
    found = []
    for codec in codecs:
        doing(codec.name)
        found.append(measure(codec, files, repeat))
    doing("order-0 bound")
    return [*found, bound(files, dtype)]
