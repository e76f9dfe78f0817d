"""Tensors as they stand in an archive: the chunks of each with their models, not decoded."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.dtypes import SIZES
from densor.errors import FormatError
from densor.formats.archive import Archive, IndexedEntry
from densor.formats.entry import ARRAY, TENSOR, TensorInfo
from densor.formats.source import MemoryRandomSource

Bytes = npt.NDArray[np.uint8]


class PackedChunk(NamedTuple):
    """A chunk: number of its model, that model's payload (empty for the fixed ones), its own
    payload, and the bytes that it decodes to."""

    number: int
    model: bytes
    payload: Bytes
    size: int


class PackedTensor(NamedTuple):
    """A tensor and the chunks that decode to its bytes, one after the other."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    chunks: list[PackedChunk]

    @property
    def stored(self) -> int:
        """Bytes of the payloads."""
        return sum(chunk.payload.size for chunk in self.chunks)


def read_tensors(archive: Archive, names: Iterable[str] | None = None) -> list[PackedTensor]:
    """Tensors of an archive, all of them by default; payloads are checked against their hashes.

    KeyError for a name that is not there. A tensor that does not begin and end with a chunk, that
    repeats another one or changes a base is decoded here, and comes as one raw chunk.
    """
    found = archive.tensors()
    return [_read(archive, name, found) for name in (found if names is None else names)]


def read_blob(blob: Any) -> PackedTensor:
    """The only tensor or array of an archive in memory, such as `densor.compress` makes.

    `blob`: bytes-like, or a torch tensor of uint8, which may be on a device: it is copied from
    there, since headers, checksums and entry points are looked at here. FormatError for an archive
    that holds anything else.
    """
    if hasattr(blob, "data_ptr"):
        blob = blob.detach().cpu().contiguous().numpy()
    archive = Archive(MemoryRandomSource(blob))
    try:
        if len(archive.entries) == 1:
            entry = archive.entries[0]
            meta = entry.meta
            if meta.kind in (TENSOR, ARRAY) and meta.order != "F" and meta.dtype in SIZES:
                assert meta.shape is not None
                info = TensorInfo(meta.name, meta.dtype, meta.shape, 0, entry.size)
                return _read(archive, meta.name, {meta.name: (entry, info)})
    finally:
        archive.close()
    raise FormatError("blob does not hold just one tensor")


def _read(
    archive: Archive, name: str, found: dict[str, tuple[IndexedEntry, TensorInfo]]
) -> PackedTensor:
    entry, info = found[name]
    begin, end = info.offset, info.offset + info.size
    chunks = []
    for stored in archive.stored_chunks(entry, begin, end):
        if stored is None or stored.begin < begin or stored.begin + stored.size > end:
            raw = archive.read(entry, begin, end)
            chunks = [PackedChunk(registry.MODEL_RAW, b"", raw, raw.size)]
            break
        chunks.append(PackedChunk(stored.number, stored.model, stored.payload, stored.size))
    return PackedTensor(name, info.dtype, info.shape, info.size, chunks)
