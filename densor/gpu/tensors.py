"""Tensors as they stand in an archive: the chunks of each with their models, not decoded."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.dtypes import SIZES
from densor.errors import FormatError, TruncatedError, UnsupportedError
from densor.formats import strictjson, wire
from densor.formats.archive import Archive, IndexedEntry
from densor.formats.entry import ARRAY, TENSOR, EntryMeta, TensorInfo, parse
from densor.formats.source import as_bytes

Bytes = npt.NDArray[np.uint8]
_MOST_EXTRA = 4  # chunks may hold a tensor and so much of its size of what is not of it: 1 / 4


class PackedChunk(NamedTuple):
    """A chunk: number of its model, that model's payload (empty for the fixed ones), its own
    payload, and the bytes that it decodes to."""

    number: int
    model: bytes
    payload: Bytes
    size: int


class PackedTensor(NamedTuple):
    """A tensor and the chunks that hold its bytes, `skip` bytes after the begin of the first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    chunks: list[PackedChunk]
    skip: int = 0

    @property
    def span(self) -> int:
        """Bytes that all chunks decode to: those of the tensor, and of small neighbours that were
        put in its last chunk or that it shares the first one with."""
        return sum(chunk.size for chunk in self.chunks)

    @property
    def stored(self) -> int:
        """Bytes of the payloads."""
        return sum(chunk.payload.size for chunk in self.chunks)


def read_tensors(archive: Archive, names: Iterable[str] | None = None) -> list[PackedTensor]:
    """Tensors of an archive, all of them by default; payloads are checked against their hashes.

    KeyError for a name that is not there. A tensor that is small beside the chunks it is in, that
    repeats another one or changes a base is decoded here, and comes as one raw chunk.
    """
    found = archive.tensors()
    return [_read(archive, name, *found[name]) for name in (found if names is None else names)]


def _read(archive: Archive, name: str, entry: IndexedEntry, info: TensorInfo) -> PackedTensor:
    begin, end = info.offset, info.offset + info.size
    chunks: list[PackedChunk] = []
    first = begin
    for stored in archive.stored_chunks(entry, begin, end):
        if stored is None:
            break
        if not chunks:
            first = stored.begin
        chunks.append(PackedChunk(stored.number, stored.model, stored.payload, stored.size))
    else:
        tensor = PackedTensor(name, info.dtype, info.shape, info.size, chunks, begin - first)
        if _MOST_EXTRA * (tensor.span - tensor.size) <= tensor.size:
            return tensor
    raw = archive.read(entry, begin, end)
    chunks = [PackedChunk(registry.MODEL_RAW, b"", raw, raw.size)] if raw.size else []
    return PackedTensor(name, info.dtype, info.shape, info.size, chunks)


def read_blob(blob: Any) -> PackedTensor:
    """The only tensor or array of an archive in memory, such as `densor.compress` makes.

    `blob`: bytes-like, or a torch tensor of uint8, which may be on a device: it is copied from
    there, since headers, checksums and entry points are looked at here. An UnsupportedError for
    what must be decompressed as a whole: bases, column order.
    """
    if hasattr(blob, "data_ptr"):
        blob = blob.detach().cpu().contiguous().numpy()
    meta: EntryMeta | None = None
    models: list[bytes] = []
    chunks: list[PackedChunk] = []
    for header, payload in _frames(as_bytes(blob)):
        if header.kind == wire.ENTRY and meta is None:
            meta = parse(strictjson.loads(payload.tobytes(), "description of an entry"))
        elif header.kind == wire.MODEL:
            models.append(payload.tobytes())
        elif header.kind == wire.CHUNK:
            own = header.model - registry.FIRST_MODEL
            if own >= len(models) or (own < 0 and header.model > registry.MODEL_ZSTD):
                raise FormatError(f"chunk names model {header.model}, which is not at hand")
            model = models[own] if own >= 0 else b""
            chunks.append(PackedChunk(header.model, model, payload, header.original))
        elif header.kind in (wire.ENTRY, wire.REF):
            raise UnsupportedError("blob does not hold just one tensor, from begin to end")
    if meta is None or meta.kind not in (TENSOR, ARRAY) or meta.dtype not in SIZES:
        raise UnsupportedError("blob does not hold just one tensor, from begin to end")
    if meta.dtype == "VOID" or meta.order == "F" or meta.base is not None:
        raise UnsupportedError(f"{meta.name}: must be decompressed as a whole")
    assert meta.dtype is not None and meta.shape is not None and meta.size is not None
    if sum(chunk.size for chunk in chunks) != meta.size:
        raise FormatError(f"{meta.name}: chunks do not add up to its size")
    return PackedTensor(meta.name, meta.dtype, meta.shape, meta.size, chunks)


def _frames(blob: Bytes) -> Iterator[tuple[wire.FrameHeader, Bytes]]:
    """All frames of an archive, checked against their hashes, up to the one that ends it."""
    _, limit = wire.parse_header(blob[: wire.HEADER_SIZE].tobytes())
    at = wire.HEADER_SIZE
    while True:
        begin = at + wire.FRAME_SIZE
        header = wire.parse_frame(blob[at:begin].tobytes(), limit)
        at = begin + header.stored
        if at > blob.size:
            raise TruncatedError("archive ends within a frame")
        payload = blob[begin:at]
        wire.check_payload(header, payload)
        yield header, payload
        if header.kind == wire.END:
            return
