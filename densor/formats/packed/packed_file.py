"""Packed safetensors files: valid ones, in which large tensors are blobs of type U8.

`docs/huggingface-format.md` is the specification. A blob stands under the name of its tensor, so
that whoever does not know of blobs finds a tensor of the wrong shape rather than none.
"""

import base64
import contextlib
import math
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import xxhash

from densor.codec.zstd import zstd_compress, zstd_decompress
from densor.dtypes import SIZES, is_known, nbytes
from densor.errors import (
    ArgumentError,
    ChecksumError,
    DensorError,
    FileError,
    FormatError,
    LimitError,
    TruncatedError,
    UnsupportedError,
)
from densor.formats.container import strictjson, tensor_blob
from densor.formats.container.base import GivenBase
from densor.formats.container.packed_array import PackedArray
from densor.formats.container.tensor_blob import Tensor
from densor.formats.io.outputs import errors_of, write_all
from densor.formats.io.sources import Bytes, MemoryRandomSource
from densor.formats.parsers.safetensors import LENGTH_SIZE, MAX_HEADER
from densor.formats.tensors import is_name

VERSION = 1  # of this layout, not of the archives in it
KEY = "densor"  # of `__metadata__`
LEAST = 4096  # bytes from which a tensor may become a blob
_WORTH = 0.97  # of its tensor's size is what a blob may have at most
_CLEARLY = 0.5  # of its tensor's size: so small against a base that nothing else is tried
_HEADER_ZSTD = 9
_COPY = 1 << 22
_READ_AHEAD = 1 << 24
_ALIGNMENT = 8

Decide = Callable[[Tensor], GivenBase | None]  # what a tensor may be coded against
Progress = Callable[[int], object]


class Stored(NamedTuple):
    """A tensor of a safetensors file; `begin` and `end` are offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """The header of a safetensors file: its bytes, metadata, and tensors by ascending offset."""

    raw: bytes
    metadata: dict[str, str]
    tensors: dict[str, Stored]

    @property
    def end(self) -> int:
        """The size of the file that this is the header of."""
        return max((stored.end for stored in self.tensors.values()), default=len(self.raw))


def parse(raw: bytes) -> Header:
    """The header of a safetensors file, from its length field on; FormatError if malformed.

    Types may be unknown; tensors lie one behind the other without gaps.
    """
    if len(raw) < LENGTH_SIZE or raw[LENGTH_SIZE : LENGTH_SIZE + 1] != b"{":
        raise FormatError("is no safetensors file")
    found = strictjson.loads(raw[LENGTH_SIZE:], "safetensors header")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError("safetensors header has malformed metadata")
    _check_text([*metadata, *metadata.values(), *found])
    tensors = {name: _stored(name, item, len(raw)) for name, item in found.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1][2:]))
    at = len(raw)
    for name, stored in ordered.items():
        if stored.begin != at:
            raise FormatError(f"{name!r:.200}: tensors of the file overlap or leave a gap")
        at = stored.end
    return Header(raw, metadata, ordered)


def _check_text(texts: list[str]) -> None:
    """FormatError for what JSON can hold but UTF-8 cannot: halves of surrogate pairs."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise FormatError("safetensors header holds a text that is not valid Unicode") from None


def _stored(name: str, item: object, start: int) -> Stored:
    if not isinstance(item, dict) or not isinstance(item.get("dtype"), str):
        raise FormatError(f"{name!r:.200}: malformed tensor in the safetensors header")
    shape = strictjson.shape(item.get("shape"), "shape")
    offsets = item.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise FormatError(f"{name!r:.200}: has no data_offsets")
    begin = strictjson.integer(offsets[0], "data_offsets")
    end = strictjson.integer(offsets[1], "data_offsets", least=begin)
    dtype = item["dtype"]
    if is_known(dtype) and nbytes(dtype, math.prod(shape)) != end - begin:
        raise FormatError(f"{name!r:.200}: size of the tensor does not match its shape")
    return Stored(item["dtype"], shape, start + begin, start + end)


class PackedFile:
    """A safetensors file, packed or plain, opened for reading through a memory map.

    Safe to use from several threads. Names and shapes are those of the original; `metadata` too.
    Errors name the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._map, self._data = _mapped(self.path)
        with self._named():
            self._header = parse(_header_bytes(self._data))
            if self._header.end != self._data.size:
                kind = TruncatedError if self._header.end > self._data.size else FormatError
                raise kind(f"has {self._data.size} bytes instead of {self._header.end}")
            self._original, self._size, self._digest = self._find_original()

    @contextlib.contextmanager
    def _named(self, tensor: str | None = None) -> Iterator[None]:
        """Errors begin with the file's name, and with the tensor's."""
        try:
            yield
        except DensorError as error:
            which = "" if tensor is None else f"tensor {tensor!r:.200}: "
            raise type(error)(f"{self.path}: {which}{error}") from error

    def _find_original(self) -> tuple[Header, int, bytes]:
        """The header, size and hash of the file that this one was made from."""
        text = self._header.metadata.get(KEY)
        if text is None:
            return self._header, self._data.size, b""
        found = strictjson.loads(text.encode(), f"{KEY} in the metadata")
        version = strictjson.integer(found.get("version"), "version", least=1)
        check_version(version)
        size = strictjson.integer(found.get("size"), "size")
        digest, packed = found.get("xxh3_128"), found.get("header")
        if not isinstance(digest, str) or not isinstance(packed, str):
            raise FormatError(f"{KEY} in the metadata is malformed")
        length = strictjson.integer(found.get("header_size"), "header_size", MAX_HEADER)
        try:
            stored = base64.b64decode(packed, validate=True)
            wanted = bytes.fromhex(digest)
        except ValueError:
            raise FormatError(f"{KEY} in the metadata is malformed") from None
        original = parse(zstd_decompress(stored, length))
        if original.end != size:
            raise FormatError("header of the original does not match its size")
        for name, stored_as in original.tensors.items():
            self._check_stored(name, stored_as)
        if len(original.tensors) != len(self._header.tensors):
            raise FormatError("holds tensors that the original does not have")
        return original, size, wanted

    def _check_stored(self, name: str, original: Stored) -> None:
        found = self._header.tensors.get(name)
        if found is None:
            raise FormatError(f"tensor {name!r:.200} is missing")
        if found[:2] == original[:2]:
            return
        known = is_known(original.dtype) and found.dtype == "U8" and len(found.shape) == 1
        if not known:
            raise FormatError(f"tensor {name!r:.200}: is neither what it was nor a blob")

    @property
    def header(self) -> Header:
        """The header of this file."""
        return self._header

    @property
    def packed(self) -> bool:
        """Whether this is a packed file."""
        return KEY in self._header.metadata

    @property
    def metadata(self) -> dict[str, str]:
        """`__metadata__` of the original."""
        return self._original.metadata

    @property
    def size(self) -> int:
        """Bytes of the original file."""
        return self._size

    @property
    def stored_size(self) -> int:
        """Bytes of this file."""
        return self._data.size

    def keys(self) -> list[str]:
        """Names of the tensors, in the order of the original file."""
        return list(self._original.tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._original.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._original.tensors

    def info(self, name: str) -> Tensor:
        """Type and shape of a tensor; KeyError if there is none of that name."""
        found = self._original.tensors[name]
        return Tensor(name, found.dtype, found.shape, found.end - found.begin, None)

    def is_blob(self, name: str) -> bool:
        """Whether a tensor is stored as a blob."""
        return self._header.tensors[name][:2] != self._original.tensors[name][:2]

    def stored(self, name: str) -> Bytes:
        """The bytes of a tensor as they stand in the file, a view of the memory map."""
        found = self._header.tensors[name]
        return self._data[found.begin : found.end]

    def describe(self, name: str) -> Tensor:
        """What a blob says of itself, compared with what the file says; a plain tensor's info."""
        if not self.is_blob(name):
            return self.info(name)
        with self._named(name):
            found = tensor_blob.describe(self.stored(name))
            if found[:4] != self.info(name)[:4]:
                raise FormatError(f"blob is of {found.name!r:.200}, {found.dtype} {found.shape}")
            return found

    def array(self, name: str) -> PackedArray:
        """A blob, all hashes of its stored bytes checked, not decoded.

        UnsupportedError for what `PackedArray` does not take, bases above all.
        """
        self.describe(name)
        self._read_ahead(name)
        with self._named(name):
            return PackedArray(self.stored(name))

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
        with self._named(name):
            return tensor_blob.decode(self.stored(name), self.info(name), threads, base_of, out)

    def _read_ahead(self, name: str) -> None:
        """Asks the system for a blob and some of what follows: page faults read too little."""
        if self._map is None or not hasattr(mmap, "MADV_WILLNEED"):
            return
        found = self._header.tensors[name]
        begin = found.begin // mmap.PAGESIZE * mmap.PAGESIZE
        end = min(found.end + _READ_AHEAD, self._data.size)
        with contextlib.suppress(OSError):  # advice only
            self._map.madvise(mmap.MADV_WILLNEED, begin, end - begin)

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
        if self.packed and hasher.digest() != self._digest:
            raise ChecksumError(f"{self.path}: unpacked file does not match its hash")

    def _pieces(
        self, threads: int, base_of: Callable[[Tensor], GivenBase] | None
    ) -> Iterator[bytes | Bytes]:
        yield self._original.raw
        for name in self:
            yield self.read(name, threads, base_of)


def check_version(version: int) -> None:
    """UnsupportedError for a version of the layout that this densor does not know."""
    if version > VERSION:
        raise UnsupportedError(
            f"packed in layout version {version}, this densor knows up to {VERSION}; upgrade it"
        )


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
    length = int.from_bytes(data[:LENGTH_SIZE].tobytes(), "little")
    if length > MAX_HEADER:
        raise LimitError("header is larger than safetensors allows")
    if LENGTH_SIZE + length > data.size:
        raise TruncatedError("ends before its header does")
    return data[: LENGTH_SIZE + length].tobytes()


def pack_file(
    source: PackedFile,
    target: BinaryIO,
    level: int = 3,
    threads: int = 0,
    *,
    base: Decide | None = None,
    gpu_index: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes a packed file of a plain one; ArgumentError if it is packed already.

    `base`: finds what a tensor may be coded against. `gpu_index` as for `ArchiveWriter`.
    """
    if source.packed:
        raise ArgumentError(f"{source.path}: is packed already")
    write_packed(
        source.header,
        source.stored,
        target,
        level,
        threads,
        base=base,
        gpu_index=gpu_index,
        progress=progress,
    )


def write_packed(
    header: Header,
    data_of: Callable[[str], Bytes],
    target: BinaryIO,
    level: int,
    threads: int,
    *,
    base: Decide | None = None,
    gpu_index: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes the packed file of a safetensors file of this header and these tensors.

    Blobs wait in a temporary file: the header, which has their sizes, comes before them, and so do
    plain tensors, which readers want to be aligned.
    """
    hasher = xxhash.xxh3_128(header.raw)
    plain: dict[str, Stored] = {}
    blobs: dict[str, int] = {}
    with tempfile.TemporaryFile(dir=_folder_of(target)) as spool:
        for name, stored in header.tensors.items():
            data = data_of(name)
            hasher.update(data)
            packed = _packed(name, stored, data, level, threads, base, gpu_index)
            if packed is None:
                plain[name] = stored
            else:
                blobs[name] = len(packed)
                write_all(spool, packed)
            if progress is not None:
                progress(data.size)
        plain = dict(sorted(plain.items(), key=lambda item: -_alignment(item[1])))
        write_all(target, _packed_header(header, plain, blobs, hasher.hexdigest()))
        for name in plain:
            write_all(target, data_of(name))
        spool.seek(0)
        with errors_of("output"):
            shutil.copyfileobj(spool, target, _COPY)


def _folder_of(target: BinaryIO) -> str | None:
    """The folder of the output, for temporary files; None for the system's."""
    name = getattr(target, "name", None)
    return os.path.dirname(os.path.abspath(name)) if isinstance(name, str) else None


def _alignment(stored: Stored) -> int:
    """What the size of an element is a multiple of, at most 8; 1 for unknown types."""
    return min(SIZES.get(stored.dtype, 1), _ALIGNMENT)


def _packed(
    name: str,
    stored: Stored,
    data: Bytes,
    level: int,
    threads: int,
    base: Decide | None,
    gpu_index: bool,
) -> bytes | None:
    """The blob of a tensor, None where it is better left as it is."""
    if data.size < LEAST or not is_known(stored.dtype) or not is_name(name) or not name:
        return None
    tensor = Tensor(name, stored.dtype, stored.shape, data.size, None)
    best: bytes | None = None
    given = None if base is None else base(tensor)
    if given is not None:
        best = tensor_blob.encode(tensor, data, level, threads, given)
    if best is None or len(best) > _CLEARLY * data.size:
        alone = tensor_blob.encode(tensor, data, level, threads, gpu_index=gpu_index)
        best = alone if best is None or len(alone) <= len(best) else best
    return best if len(best) <= _WORTH * data.size else None


def _packed_header(
    original: Header, plain: Mapping[str, Stored], blobs: Mapping[str, int], digest: str
) -> bytes:
    packed = zstd_compress(original.raw, _HEADER_ZSTD)
    about = {
        "version": VERSION,
        "size": original.end,
        "xxh3_128": digest,
        "header_size": len(original.raw),
        "header": base64.b64encode(packed).decode(),
    }
    found: dict[str, Any] = {}
    metadata = {**original.metadata, KEY: strictjson.dumps(about).decode()}
    at = 0
    for name, stored in plain.items():
        end = at + stored.end - stored.begin
        found[name] = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": [at, end]}
        at = end
    for name, size in blobs.items():
        found[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    return header_bytes(found, metadata)


def header_bytes(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None) -> bytes:
    """Length field and header of a safetensors file, padded so that data is aligned."""
    found = {"__metadata__": dict(metadata)} if metadata else {}
    text = strictjson.dumps(found | dict(tensors))
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise LimitError("header is larger than safetensors allows")
    return len(text).to_bytes(LENGTH_SIZE, "little") + text


class BaseFolder:
    """The tensors of a folder of safetensors files, by name, as bases for those of another."""

    def __init__(self, folder: str | os.PathLike[str], threads: int = 0) -> None:
        self.path = Path(folder).absolute()
        self._threads = threads
        self._files: dict[str, PackedFile] = {}
        with errors_of(self.path):
            paths = sorted(self.path.glob("*.safetensors"))
        for path in paths:
            file = PackedFile(path)
            self._files.update(dict.fromkeys(file, file))
        if not self._files:
            raise FileError(f"{self.path}: no folder of safetensors files")

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def find(self, tensor: Tensor) -> GivenBase | None:
        """What a new tensor may be coded against: that of the same name, type and shape."""
        file = self._files.get(tensor.name)
        if file is None or file.info(tensor.name)[1:4] != tensor[1:4]:
            return None
        return self._given(tensor.name)

    def need(self, tensor: Tensor) -> GivenBase:
        """What a tensor was coded against; ArgumentError where it is not here."""
        if tensor.name not in self._files:
            raise ArgumentError(f"needs a base, which {self.path} does not hold")
        return self._given(tensor.name)

    def _given(self, name: str) -> GivenBase:
        file = self._files[name]
        if file.is_blob(name) and file.describe(name).base is not None:
            raise ArgumentError(f"{file.path}: is coded against a base itself; unpack it first")
        # Not kept: a base is needed once, and may be decoded memory.
        data = file.read(name, self._threads)
        return GivenBase(MemoryRandomSource(data), f"{self.path.name}/{name}")
