"""Packed safetensors files, read: valid ones, in which large tensors are blobs of type U8.

`docs/huggingface-format.md` is the specification. A blob stands under the name of its tensor, so
that whoever does not know of blobs finds a tensor of the wrong shape rather than none.
"""

import contextlib
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from densor.dtypes import is_known
from densor.errors import (
    ChecksumError,
    DensorError,
    FileError,
    FormatError,
    LimitError,
    TruncatedError,
)
from densor.formats.container import tensor_blob
from densor.formats.container.base import GivenBase
from densor.formats.container.packed_array import PackedArray
from densor.formats.container.tensor_blob import Tensor
from densor.formats.io.outputs import check_still_there, errors_of, write_all
from densor.formats.io.sources import Bytes
from densor.formats.packed.header import KEY, Original, parse_original
from densor.formats.packed.page_cache import PageCache
from densor.formats.parsers.safetensors import LENGTH_SIZE, MAX_HEADER, Stored, parse
from densor.options import Progress
from densor.runtime.workers import Workers

_READ_AHEAD = 1 << 24
_SMALL = 1 << 16  # bytes of plain tensors that are fetched with heads
_POINTER = b"version https://git-lfs"  # what a repository that was cloned without LFS has instead
_HEAD = 1 << 12  # bytes of a blob in which it describes itself, if its name is not very long


class PackedFile:
    """A safetensors file, packed or plain, opened for reading through a memory map.

    `place`: its path, whatever the working directory is later. `header`: of this file; `original`:
    the file that it was made from, or is, whose names, shapes, `metadata` and `size` are given;
    `stored_size`: bytes of this file. Safe to use from several threads. Errors name the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.place = os.path.abspath(path)
        self._map, self._data = _mapped(self.path)
        self._cache = None if self._map is None else PageCache(self.path)
        self._before = None if self._cache is None else self._cache.status()
        self._described: dict[str, Tensor] = {}  # blobs, by name
        with self._named():
            self.header = parse(_header_bytes(self._data))
            if self.header.end != self._data.size:
                kind = TruncatedError if self.header.end > self._data.size else FormatError
                raise kind(f"has {self._data.size} bytes instead of {self.header.end}")
            self.original = self._find_original()
        self.metadata = self.original.header.metadata
        self.size = self.original.size
        self.stored_size = self._data.size

    @contextlib.contextmanager
    def _named(self, tensor: str | None = None) -> Iterator[None]:
        """Errors begin with the file's name, and with the tensor's."""
        try:
            yield
        except DensorError as error:
            which = "" if tensor is None else f"tensor {tensor!r:.200}: "
            raise type(error)(f"{self.path}: {which}{error}") from error

    def _find_original(self) -> Original:
        """The file that this one was made from, or is."""
        text = self.header.metadata.get(KEY)
        if text is None:
            return Original(self.header, self._data.size, b"")
        found = parse_original(text)
        for name, stored_as in found.header.tensors.items():
            self._check_stored(name, stored_as)
        if len(found.header.tensors) != len(self.header.tensors):
            raise FormatError("holds tensors that the original does not have")
        return found

    def _check_stored(self, name: str, original: Stored) -> None:
        found = self.header.tensors.get(name)
        if found is None:
            raise FormatError(f"tensor {name!r:.200} is missing")
        if found[:2] == original[:2]:
            return
        known = is_known(original.dtype) and found.dtype == "U8" and len(found.shape) == 1
        if not known:
            raise FormatError(f"tensor {name!r:.200}: is neither what it was nor a blob")

    @property
    def packed(self) -> bool:
        """Whether this is a packed file."""
        return KEY in self.header.metadata

    def keys(self) -> list[str]:
        """Names of the tensors, in the order of the original file."""
        return list(self.original.header.tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self.original.header.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.original.header.tensors

    def info(self, name: str) -> Tensor:
        """Type and shape of a tensor; KeyError if there is none of that name."""
        found = self.original.header.tensors[name]
        return Tensor(name, found.dtype, found.shape, found.end - found.begin, None)

    def is_blob(self, name: str) -> bool:
        """Whether a tensor is stored as a blob."""
        return self.header.tensors[name][:2] != self.original.header.tensors[name][:2]

    def stored(self, name: str) -> Bytes:
        """The bytes of a tensor as they stand in the file, a view of the memory map.

        TruncatedError where the file was cut after it was opened: the system ends a process that
        looks at what is gone.
        """
        with self._named(name):
            return self._view(name)

    def _view(self, name: str) -> Bytes:
        found = self.header.tensors[name]
        now = None if self._cache is None else self._cache.status()
        if now is not None and now.st_size < found.end:
            raise TruncatedError("was cut after it was opened")
        return self._data[found.begin : found.end]

    @property
    def opened_as(self) -> tuple[int, ...] | None:
        """What tells whether two of these are of the same file with the same content; None where
        the system does not say."""
        now = self._before
        return None if now is None else (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)

    def check_unchanged(self) -> None:
        """FileError unless the file is what it was when it was opened."""
        if self._before is not None:
            check_still_there(self.path, self._before)

    def describe(self, name: str) -> Tensor:
        """What a blob says of itself, compared with what the file says; a plain tensor's info."""
        if not self.is_blob(name):
            return self.info(name)
        if name not in self._described:
            with self._named(name):
                found = tensor_blob.describe(self._view(name))
                if found[:4] != self.info(name)[:4]:
                    words = f"{found.name!r:.200}, {found.dtype} {found.shape}"
                    raise FormatError(f"blob is of {words}")
            self._described[name] = found
        return self._described[name]

    def array(self, name: str, *, copy: bool = False) -> PackedArray:
        """A blob, all hashes of its stored bytes checked, not decoded; `copy`: that needs no file.

        UnsupportedError for what `PackedArray` does not take, bases above all.
        """
        self.describe(name)
        self._read_ahead(name)
        with self._named(name):
            stored = self._view(name)
            return PackedArray(stored.copy() if copy else stored)

    def read(
        self,
        name: str,
        threads: int = 0,
        base_of: Callable[[Tensor], GivenBase] | None = None,
        out: Bytes | None = None,
    ) -> Bytes:
        """The bytes of a tensor: decoded into `out` or fresh memory, or a read-only view.

        `base_of` as for `tensor_blob.decode`.
        """
        if not self.is_blob(name):
            return self.stored(name)
        self._read_ahead(name)
        described = self.describe(name)
        with self._named(name):
            return tensor_blob.decode(self._view(name), described, threads, base_of, out)

    def read_part(
        self, name: str, array: PackedArray, begin: int, out: Bytes, threads: int = 0
    ) -> None:
        """Decodes bytes `begin` onwards of a tensor into `out`; `array`: what `array` gave for it.

        The hash of the whole tensor is not checked, only those of what is stored.
        """
        with self._named(name):
            array.decode_part(begin, out, Workers(threads))

    def fetch(self, name: str, most: int | None = None) -> None:
        """Brings the stored bytes of a tensor, at most so many of them, into the page cache, unless
        they are there. Page faults would do that too, but while they hold the GIL."""
        found = self.header.tensors[name]
        size = found.end - found.begin
        if self._cache is not None:
            self._cache.fetch(found.begin, found.begin + min(size, size if most is None else most))

    def fetch_heads(self) -> None:
        """Fetches what blobs say of themselves, and small tensors."""
        for name in self:
            self.fetch(name, _HEAD if self.is_blob(name) else _SMALL)

    def _read_ahead(self, name: str) -> None:
        """Fetches a blob, and asks the system for some of what follows: page faults read too
        little."""
        self.fetch(name)
        end = self.header.tensors[name].end
        following = end // mmap.PAGESIZE * mmap.PAGESIZE, min(end + _READ_AHEAD, self._data.size)
        if self._map is None or self._cache is None or following[0] >= self._data.size:
            return
        if hasattr(mmap, "MADV_WILLNEED") and not self._cache.holds(*following):
            with contextlib.suppress(OSError):  # advice only
                self._map.madvise(mmap.MADV_WILLNEED, following[0], following[1] - following[0])

    def unpack(
        self,
        target: BinaryIO,
        threads: int = 0,
        base_of: Callable[[Tensor], GivenBase] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Writes the original file; ChecksumError if it is not what it was."""
        hasher = xxhash.xxh3_128()
        for piece in self._pieces(threads, base_of):
            hasher.update(piece)
            write_all(target, piece)
            if progress is not None:
                progress(memoryview(piece).nbytes)
        if self.packed and hasher.digest() != self.original.digest:
            raise ChecksumError(f"{self.path}: unpacked file does not match its hash")

    def _pieces(
        self, threads: int, base_of: Callable[[Tensor], GivenBase] | None
    ) -> Iterator[bytes | Bytes]:
        yield self.original.header.raw
        for name in self:
            yield self.read(name, threads, base_of)


def _mapped(path: Path) -> tuple[mmap.mmap | None, Bytes]:
    """A file's memory map, which an empty file has not, and its bytes."""
    with errors_of(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileError(f"{path}: is no regular file")
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return None, np.empty(0, np.uint8)
            found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return found, np.frombuffer(found, np.uint8)


def _header_bytes(data: Bytes) -> bytes:
    if data.size < LENGTH_SIZE:
        raise TruncatedError("ends before its header does")
    if data[: len(_POINTER)].tobytes() == _POINTER:
        raise FormatError("is a pointer of Git LFS, not the file itself: git lfs pull")
    length = int.from_bytes(data[:LENGTH_SIZE].tobytes(), "little")
    if length > MAX_HEADER:
        raise LimitError("header is larger than safetensors allows")
    if LENGTH_SIZE + length > data.size:
        raise TruncatedError("ends before its header does")
    return data[: LENGTH_SIZE + length].tobytes()
