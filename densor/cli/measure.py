"""What `densor bench` and `densor demo` measure: files in memory, beside the order-0 bound."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from densor.codec.bound import order0_bytes
from densor.compare.adapters import DensorFiles, Memcpy, Zstd
from densor.compare.codec import Bytes, Codec, Item, file_item, total_bytes
from densor.compare.timing import Result, Slow, measure
from densor.dtypes import SIZES, coding_of
from densor.errors import ChecksumError, FileError
from densor.files.folder import members
from densor.formats.io.outputs import errors_of
from densor.formats.io.sources import MemoryRandomSource, MemorySource
from densor.formats.parsers.plan import plan_file

MAX_BYTES = 4 << 30  # all of it must fit into memory, and twice more
_SLOW = Slow(2.0, 0)  # once is enough


def codecs(
    levels: Sequence[int], zstd_levels: Sequence[int], dtype: str | None = None
) -> list[Codec]:
    """Densor and Zstandard at some levels, and memcpy. `dtype`: what the bytes of files are."""
    ours = [DensorFiles(f"densor -{level}", level, dtype) for level in levels]
    return [*ours, *(Zstd(f"zstd -{level}", level) for level in zstd_levels), Memcpy("memcpy")]


def load(path: str) -> list[Item]:
    """A file, or all files of a folder, in memory."""
    listed = [(m.name, Path(m.path)) for m in members([path])]
    listed = [(name, path) for name, path in listed if path.is_file()]
    total = sum(path.stat().st_size for _, path in listed)
    if total > MAX_BYTES:
        raise FileError(f"{path}: measured in memory, so at most {MAX_BYTES >> 30} GiB")
    return [file_item(name, _read(path)) for name, path in listed]


def _read(path: Path) -> Bytes:
    with errors_of(path):
        return np.fromfile(path, np.uint8)


def bound(files: Sequence[Item], dtype: str | None = None) -> Result:
    """The order-0 bound of all tensors and of the bytes between them."""
    stored = sum(sum(_bounds(file.data, dtype)) for file in files)
    return Result("order-0 bound", total_bytes(files), stored)


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


def tensor_count(files: Sequence[Item]) -> int:
    """Tensors in all files that hold some."""
    return sum(
        len(plan_file(MemorySource(data), data.size, random=MemoryRandomSource(data)).tensors)
        for data in (file.data for file in files)
    )


def proof(codec: Codec, files: Sequence[Item], threads: int) -> list[tuple[str, str, str]]:
    """Name and SHA-256 of each file before and after a round trip; ChecksumError if they differ."""
    restored = codec.decompress(codec.compress(codec.prepare(files), threads), threads)
    hashes = [
        (file.name, hashlib.sha256(file.data).hexdigest(), hashlib.sha256(back).hexdigest())
        for file, back in zip(files, restored, strict=True)
    ]
    for name, before, after in hashes:
        if before != after:
            raise ChecksumError(f"{name}: restored with SHA-256 {after} instead of {before}")
    return hashes


def rows(
    files: Sequence[Item],
    codecs: Sequence[Codec],
    threads: int,
    repeat: int,
    dtype: str | None,
    doing: Callable[[str], object],
) -> list[Result]:
    """One row per codec, and the bound; ChecksumError unless all files come back bit for bit.

    `doing` is given the name of what is measured.
    """
    results = measure(codecs, files, threads, repeat, slow=_SLOW, doing=doing, strict=True)
    doing("order-0 bound")
    return [*results, bound(files, dtype)]
