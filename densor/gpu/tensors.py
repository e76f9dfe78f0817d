"""Tensors as they stand in an archive: the chunks of each with their models, not decoded."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from densor import arrays, dtypes
from densor.codec import registry
from densor.errors import UnsupportedError
from densor.file import readable_tensors
from densor.formats.container.archive import Archive, StoredChunk
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.container.packed_array import PackedArray
from densor.formats.tensors import TensorInfo, unreadable
from densor.runtime.types import Bytes

_MAX_EXTRA = 4  # chunks may hold tensors and 1 / 4 as much of what is not wanted


class PackedChunk(NamedTuple):
    """A chunk: number of its model, that model's payload (empty for the fixed ones), its own
    payload, and the bytes that it decodes to. `points`: stored entry points, if there are any."""

    number: int
    model: bytes
    payload: Bytes
    size: int
    points: Bytes | None = None


class Place(NamedTuple):
    """A tensor among the bytes that some chunks decode to; `size` and `skip` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    skip: int = 0


class Content(NamedTuple):
    """What chunks decode to: tensors, bytes in all, and the bytes of the payloads."""

    tensors: tuple[Place, ...]
    size: int
    stored: int

    @property
    def name(self) -> str:
        """The tensors' names, for messages."""
        return ", ".join(tensor.name for tensor in self.tensors)


class Packed(NamedTuple):
    """Chunks, one after the other, and the tensors in what they decode to.

    Most often one tensor, to the byte. Small ones share chunks with their neighbours.
    """

    tensors: tuple[Place, ...]
    chunks: list[PackedChunk]

    @property
    def content(self) -> Content:
        """Everything but the chunks: tensors and sizes."""
        size = sum(chunk.size for chunk in self.chunks)
        return Content(self.tensors, size, sum(chunk.payload.size for chunk in self.chunks))

    @property
    def name(self) -> str:
        """The tensors' names, for messages."""
        return self.content.name

    @property
    def size(self) -> int:
        """Bytes that all chunks decode to."""
        return self.content.size

    @property
    def stored(self) -> int:
        """Bytes that the payloads of all chunks take."""
        return self.content.stored


class _Found(NamedTuple):
    """Chunks of an entry from byte `begin` on, and tensors that lie in them."""

    entry: int
    begin: int
    places: list[Place]
    chunks: list[StoredChunk]

    @property
    def end(self) -> int:
        return self.chunks[-1].begin + self.chunks[-1].size


def read_packed(
    archive: Archive, names: Iterable[str] | None = None, *, together: bool = True
) -> list[Packed]:
    """Tensors of an archive, all of them by default; payloads are checked against their hashes.

    `together`: tensors that share a chunk come together, else each one comes with all its chunks.
    KeyError for a name that is not there, UnsupportedError where all are wanted and some cannot be
    read. A tensor that is small beside the chunks it is in, that repeats another one, is a view or
    changes a base is decoded here, and comes as one raw chunk.
    """
    tensors, opaque = readable_tensors(archive)
    if names is None and opaque:
        entry, info = next(iter(opaque.values()))
        raise UnsupportedError(f"{entry.meta.name}: {unreadable(info)}")
    wanted = [(*tensors[name], name) for name in (tensors if names is None else names)]
    wanted.sort(key=lambda region: (region[0].number, region[1].offset))
    raw: list[Packed] = []
    groups: list[_Found] = []
    for entry, info, name in wanted:
        region = _find(archive, name, entry, info)
        if region is None:
            raw.append(_decoded(archive, name, entry, info))
        elif together and groups and _shares(groups[-1], region):
            groups[-1] = _joined(groups[-1], region)
        else:
            groups.append(region)
    packed = []
    for region in groups:
        size = sum(place.size for place in region.places)
        if _MAX_EXTRA * (region.end - region.begin - size) <= size:
            chunks = [
                PackedChunk(c.number, c.model, c.payload, c.size, c.points) for c in region.chunks
            ]
            packed.append(Packed(tuple(region.places), chunks))
        else:
            raw += [_decoded(archive, place.name, *tensors[place.name]) for place in region.places]
    return packed + raw


def _find(archive: Archive, name: str, entry: IndexedEntry, info: TensorInfo) -> _Found | None:
    """A tensor and its chunks; None where it has none of its own."""
    if info.view is not None:
        return None
    chunks: list[StoredChunk] = []
    for stored in archive.stored_chunks(entry, info.offset, info.offset + info.size):
        if stored is None:
            return None
        chunks.append(stored)
    if not chunks:
        return None
    begin = chunks[0].begin
    place = Place(name, *_in_memory(info), info.size, info.offset - begin)
    return _Found(entry.number, begin, [place], chunks)


def _shares(before: _Found, after: _Found) -> bool:
    return before.entry == after.entry and after.begin < before.end


def _joined(before: _Found, after: _Found) -> _Found:
    """Two that share chunks; tensors may overlap."""
    move = after.begin - before.begin
    places = [place._replace(skip=place.skip + move) for place in after.places]
    chunks = [chunk for chunk in after.chunks if chunk.begin >= before.end]
    return before._replace(places=before.places + places, chunks=before.chunks + chunks)


def _decoded(archive: Archive, name: str, entry: IndexedEntry, info: TensorInfo) -> Packed:
    raw = archive.read(entry, info.offset, info.offset + info.size)
    raw = raw if info.view is None else arrays.viewed(info, raw)
    chunks = [PackedChunk(registry.MODEL_RAW, b"", raw, raw.size)] if raw.size else []
    return Packed((Place(name, *_in_memory(info), raw.size),), chunks)


def _in_memory(info: TensorInfo) -> tuple[str, tuple[int, ...]]:
    """Type and shape of a tensor where it is decoded: packed elements, such as F4, are bytes."""
    if info.dtype not in dtypes.PACKED:
        return info.dtype, info.shape
    return "U8", dtypes.in_bytes(info.dtype, info.shape)


def packed_of(array: PackedArray) -> Packed:
    """A packed array as blocks take it."""
    place = Place(array.meta.name, array.dtype, array.shape, array.size)
    return Packed((place,), [PackedChunk(*chunk) for chunk in array.chunks()])


def read_blob(blob: Any) -> Packed:
    """The only tensor or array of an archive in memory, such as `densor.compress` makes.

    `blob`: bytes-like, or a torch tensor of uint8, which may be on a device: it is copied from
    there, since headers, checksums and entry points are looked at here. Errors as for
    `PackedArray`: an UnsupportedError for what must be decompressed as a whole.
    """
    if hasattr(blob, "data_ptr"):
        blob = blob.detach().cpu().contiguous().numpy()
    return packed_of(PackedArray(blob))
