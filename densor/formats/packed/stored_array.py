"""Tensors of a safetensors file that stay in the file, and are read and decoded again and again.

Everything is read once and checked when such a tensor is opened. Later readings compare every chunk
with what was there then, so that a file that somebody has changed ends in an error.
"""

import contextlib
import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from densor.codec import registry
from densor.errors import ArgumentError, ChecksumError, DensorError, TruncatedError
from densor.formats.container.entry import TENSOR, EntryMeta
from densor.formats.container.packed_array import Chunk, Decoders, PackedArray
from densor.formats.io.outputs import errors_of
from densor.formats.io.sources import Bytes
from densor.formats.packed.reader import PackedFile
from densor.runtime.buffers import POOL
from densor.runtime.locks import Lock

_PIECE = 1 << 22  # bytes of a plain tensor that are read at a time


class OpenFile:
    """A file that threads read pieces of; `taken`: bytes that were read so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken = 0
        self._lock = Lock()
        with errors_of(path):
            self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._number)

    def read_into(self, out: Bytes, offset: int) -> None:
        """Fills `out` from a place in the file; TruncatedError where that ends before."""
        done = 0
        while done < out.size:
            with errors_of(self.path):
                count = os.preadv(self._number, [memoryview(out)[done:]], offset + done)
            if not count:
                raise TruncatedError(f"{self.path}: ends before {offset + out.size} bytes")
            done += count
        with self._lock:
            self.taken += done

    def advise(self, offset: int, size: int) -> None:
        """Asks the system to read what will be wanted soon."""
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # advice only
                os.posix_fadvise(self._number, offset, size, os.POSIX_FADV_WILLNEED)


class StoredArray(PackedArray):
    """A tensor of a safetensors file, packed or plain, as a `PackedArray` that stays in the file.

    `file`: whose tensor `name` it is; `source`: the same file, opened once for all its tensors.
    Errors name file and tensor. UnsupportedError for what `PackedArray` does not take.
    """

    def __init__(self, file: PackedFile, name: str, source: OpenFile) -> None:
        self.source = source
        self._name = name
        self._header = file.describe(name)
        stored = file.header.tensors[name]
        self._place = stored.begin, stored.end - stored.begin
        self._packed = file.is_blob(name)
        with self._named(), POOL.lend(self._place[1]) as data:
            self._read(data, self._place[0])
            if self._packed:
                super().__init__(data)
            else:
                self._describe_plain(data)
            places = [(c.payload.ctypes.data - data.ctypes.data, c.payload) for c in self._chunks]
            self._hashes = [xxhash.xxh3_64_intdigest(payload) for _, payload in places]
            self._places = [(self._place[0] + at, payload.size) for at, payload in places]
            nothing = np.empty(0, np.uint8)
            self._chunks = [c._replace(payload=nothing, points=None) for c in self._chunks]
            self.blob = nothing

    def _describe_plain(self, data: Bytes) -> None:
        """What a blob would say of itself: raw chunks, and the hash of all of them."""
        info = self._header
        self.blob, self._models = data, []
        self.meta = EntryMeta(self._name, TENSOR, info.size, info.dtype, info.shape)
        self.size = info.size
        self._digest = self._hash_of(data)
        self._chunks = [
            Chunk(begin, min(begin + _PIECE, self.size), registry.MODEL_RAW, data[begin:][:_PIECE])
            for begin in range(0, self.size, _PIECE)
        ]

    @contextlib.contextmanager
    def _named(self) -> Any:
        """Errors begin with the file's name and the tensor's."""
        start = f"{self.source.path}: "
        try:
            yield
        except DensorError as error:
            text = str(error).removeprefix(start)
            raise type(error)(f"{start}tensor {self._name!r:.200}: {text}") from error

    def _read(self, out: Bytes, offset: int) -> None:
        self.source.read_into(out, offset)

    def __reduce__(self) -> Any:
        data = np.empty(self._place[1], np.uint8)
        with self._named():
            self._read(data, self._place[0])
        return _in_memory, (self.meta, data.tobytes(), self._packed)

    @property
    def stored(self) -> int:
        """Bytes that it takes in memory: the parameters of its codecs."""
        return sum(map(len, self._models))

    @property
    def on_disk(self) -> int:
        """Bytes that it takes in the file."""
        return self._place[1]

    def advise(self) -> None:
        """Asks the system to read it, since it will be decoded soon."""
        self.source.advise(*self._place)

    def jobs(self, out: Bytes, begin: int = 0) -> list[Callable[[], None]]:
        """As for any `PackedArray`; every job reads what it decodes."""
        end = begin + out.size
        chosen = [i for i, c in enumerate(self._chunks) if begin <= c.begin and c.end <= end]
        if sum(self._chunks[i].end - self._chunks[i].begin for i in chosen) != out.size:
            raise ArgumentError("out does not match chunks of the array")
        decoders = Decoders(self._models)
        return [
            partial(self._decode, i, decoders, out[c.begin - begin : c.end - begin])
            for i, c in ((i, self._chunks[i]) for i in chosen)
        ]

    def _decode(self, number: int, decoders: Decoders, out: Bytes) -> None:
        """Reads a chunk, compares it with what it was, and decodes it into all of `out`."""
        offset, size = self._places[number]
        chunk = self._chunks[number]
        with self._named():
            if chunk.model == registry.MODEL_RAW:
                self._read(out, offset)
                self._compare(number, out)
                return
            with POOL.lend(size) as data:
                self._read(data, offset)
                self._compare(number, data)
                decoders.decode(chunk._replace(payload=data), out)

    def _compare(self, number: int, data: Bytes) -> None:
        if xxhash.xxh3_64_intdigest(data) != self._hashes[number]:
            raise ChecksumError("the file has changed since it was opened")


def _in_memory(meta: EntryMeta, data: bytes, packed: bool) -> PackedArray:
    """A copy that needs no file."""
    if packed:
        return PackedArray(data)
    from densor.formats.container import tensor_blob

    tensor = tensor_blob.Tensor(meta.name, meta.dtype or "", meta.shape or (), meta.size or 0, None)
    return PackedArray(tensor_blob.encode(tensor, np.frombuffer(data, np.uint8)))
