"""Tensors as they stand in an archive: the chunks of each with their models, not decoded."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.formats.archive import Archive, IndexedEntry
from densor.formats.entry import TensorInfo

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
