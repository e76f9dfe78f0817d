"""A packed safetensors file read as if it were an archive that holds the file it was made from."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from densor.errors import DensorError, LimitError
from densor.formats.container.archive import EntrySource
from densor.formats.container.entry import FILE, EntryMeta
from densor.formats.container.hashing import DEFAULT, KINDS
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.io.sources import Bytes, RandomSource
from densor.formats.packed.reader import PackedFile
from densor.formats.parsers.safetensors import LENGTH_SIZE, says_lossy
from densor.formats.tensors import TensorInfo, is_listable
from densor.options import DEFAULT_READ, ReadOptions

_PIECE = 1 << 25


def packed_file_at(path: object) -> PackedFile | None:
    """The packed safetensors file at a path, None if it is something else."""
    if not isinstance(path, str | os.PathLike) or not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            if file.read(LENGTH_SIZE + 1)[LENGTH_SIZE:] != b"{":
                return None
        found = PackedFile(path)
    except (OSError, DensorError):
        return None
    return found if found.packed else None


class PackedArchive:
    """What `Archive` is for an archive of one file; packed against no base."""

    def __init__(self, file: PackedFile, options: ReadOptions = DEFAULT_READ) -> None:
        self._file = file
        self._threads = options.threads
        self._most = options.max_output_size
        self._last: tuple[str, Bytes] | None = None  # the tensor that was decoded last
        meta = EntryMeta(_original_name(file.path), FILE, file.size, format="safetensors")
        original = file.original
        meta.lossy = says_lossy(original.header.metadata) or None
        meta.tensors = [
            TensorInfo(name, stored.dtype, stored.shape, stored.begin, stored.end - stored.begin)
            for name, stored in original.header.tensors.items()
        ]
        self._raw = np.frombuffer(original.header.raw, np.uint8)
        kind = KINDS[DEFAULT]
        self.entries = [IndexedEntry(0, meta, file.size, 0, 0, kind, original.digest)]

    def entry(self, name: str) -> IndexedEntry:
        """The file, by its name; KeyError for another."""
        if name != self.entries[0].meta.name:
            raise KeyError(name)
        return self.entries[0]

    def tensors(self) -> dict[str, tuple[IndexedEntry, TensorInfo]]:
        """As for `Archive`."""
        entry = self.entries[0]
        return {t.name: (entry, t) for t in entry.meta.tensors if is_listable(t)}

    def others(self) -> dict[str, tuple[IndexedEntry, TensorInfo]]:
        """As for `Archive`."""
        entry = self.entries[0]
        return {t.name: (entry, t) for t in entry.meta.tensors if not is_listable(t)}

    def check_size(self, sizes: dict[int, int]) -> None:
        """As for `Archive`."""
        if self._most is not None and sum(sizes.values()) > self._most:
            raise LimitError(f"file holds more than the {self._most} bytes allowed")

    def read(self, entry: IndexedEntry, begin: int, end: int, out: Bytes | None = None) -> Bytes:
        """Bytes `begin` to `end` of the original file; `out`: memory for them, if they fit."""
        if not 0 <= begin <= end <= entry.size:
            raise ValueError("range outside the entry")
        self.check_size({0: end - begin})
        fits = out is not None and out.size >= end - begin
        found = out[: end - begin] if out is not None and fits else np.empty(end - begin, np.uint8)
        head = self._raw[begin:end]
        found[: head.size] = head
        for tensor in entry.meta.tensors:
            low, high = max(begin, tensor.offset), min(end, tensor.offset + tensor.size)
            if low < high:
                part = self._tensor(tensor.name)[low - tensor.offset : high - tensor.offset]
                found[low - begin : high - begin] = part
        return found

    def _tensor(self, name: str) -> Bytes:
        last = self._last
        if last is None or last[0] != name:
            last = self._last = name, self._file.read(name, self._threads)
        return last[1]

    def pieces(
        self, entry: IndexedEntry, begin: int = 0, end: int | None = None
    ) -> Iterator[Bytes]:
        """As for `Archive`."""
        end = entry.size if end is None else end
        for at in range(begin, end, _PIECE):
            yield self.read(entry, at, min(at + _PIECE, end))

    def as_source(self, entry: IndexedEntry) -> RandomSource:
        """As for `Archive`."""
        return EntrySource(self, entry)

    def stored_size(self, entry: IndexedEntry, begin: int, end: int) -> int:
        """Bytes of the tensors that these bytes belong to, and of the header with the first."""
        stored = len(self._file.header.raw) if begin < self._raw.size else 0
        for tensor in entry.meta.tensors:
            if max(begin, tensor.offset) < min(end, tensor.offset + tensor.size):
                stored += self._file.stored(tensor.name).size
        return stored

    def close(self) -> None:
        """Lets the tensor go that was read last."""
        self._last = None


def _original_name(path: Path) -> str:
    return path.name if path.suffix == ".safetensors" else f"{path.name}.safetensors"
