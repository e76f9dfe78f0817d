"""One tensor as a blob: an archive of one tensor entry, without an index."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from densor.errors import ArgumentError, ChecksumError, FormatError, LimitError
from densor.formats.container import wire
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import TENSOR, BaseRef, EntryMeta, parse_entry
from densor.formats.container.frames import FrameReader
from densor.formats.container.sinks import MemorySink, Sink
from densor.formats.container.stream_reader import StreamReader, proven_by_entry
from densor.formats.io.outputs import MemoryFile
from densor.formats.io.sources import Bytes, MemorySource
from densor.options import DEFAULT_WRITE, ReadOptions, WriteOptions

if TYPE_CHECKING:
    from densor.codec.kind import Kind, Segment


class Tensor(NamedTuple):
    """What a blob says of its tensor; `dtype` by its safetensors name, `size` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    base: BaseRef | None


def encode(
    tensor: Tensor,
    data: Bytes,
    options: WriteOptions = DEFAULT_WRITE,
    base: GivenBase | None = None,
) -> bytes:
    """Packs `data`, the elements of `tensor`: little-endian, last dimension fastest.

    `base`: as many bytes that these are coded against; `decode` then needs them too.
    """
    from densor.codec.kind import kind_of  # like what writes, nothing for those who only load

    meta = EntryMeta(tensor.name, TENSOR, data.size, tensor.dtype, tensor.shape)
    return pack_entry(meta, data, kind_of(tensor.dtype, tensor.shape), options, base)


def pack_entry(
    meta: EntryMeta,
    data: Bytes,
    kind: "Kind",
    options: WriteOptions = DEFAULT_WRITE,
    base: GivenBase | None = None,
) -> bytes:
    """An archive of one entry, in memory; `options` as for `ArchiveWriter`."""
    from densor.codec.kind import Segment

    return _packed(meta, data, [Segment(kind, data.size, 0)], options, base, False)


def pack_matrices(
    meta: EntryMeta,
    data: Bytes,
    dtype: str,
    pieces: Sequence[tuple[tuple[int, ...], int, int]],
    options: WriteOptions = DEFAULT_WRITE,
) -> bytes:
    """Likewise, of elements of several tensors, one after the other, each coded as a matrix.

    `pieces`: (shape, begin, end) of each: which of the elements of a tensor of this shape it is.
    ArgumentError if they are not as many as there are in `data`. How well matrices do
    is all that hangs on it: readers need not know.
    """
    from densor.codec.kind import segments_of

    segments = list(segments_of(dtype, pieces))
    if sum(segment.size or 0 for segment in segments) != data.size:
        raise ArgumentError("matrices have another number of elements than there are")
    return _packed(meta, data, segments, options, None, True)


def _packed(
    meta: EntryMeta,
    data: Bytes,
    segments: "Sequence[Segment]",
    options: WriteOptions,
    base: GivenBase | None,
    matrices: bool,
) -> bytes:
    from densor.formats.container.writer import ArchiveWriter

    meta.base = None if base is None else base.reference(options.hash)
    out: Any = MemoryFile(data.size)
    writer = ArchiveWriter(out, options, index=False, alone=True, matrices=matrices)
    try:
        source = None if base is None else base.source
        writer.add(meta, MemorySource(data), segments, base=source)
        writer.close()
    finally:
        writer.abort()
    packed: bytes = out.getvalue()
    return packed


def describe(blob: Bytes) -> Tensor:
    """What a blob holds, from its first two frames; a DensorError if it is no blob.

    Of the rest nothing is read.
    """
    reader, archive = FrameReader.of_archive(MemorySource(blob))
    frame = reader.next()
    if frame.header.kind != wire.ENTRY:
        raise FormatError("archive does not begin with an entry")
    meta = parse_entry(frame.payload)
    if meta.base is not None and not archive.features & wire.BASE:
        raise FormatError("has a base, which the archive may not have")
    return _tensor(meta)


def _tensor(meta: EntryMeta) -> Tensor:
    if meta.kind != TENSOR or meta.dtype is None or meta.shape is None or meta.size is None:
        raise FormatError(f"archive holds a {meta.kind}, not a tensor")
    return Tensor(meta.name, meta.dtype, meta.shape, meta.size, meta.base)


def decode(
    blob: Bytes,
    expected: Tensor,
    threads: int = 0,
    base_of: Callable[[Tensor], GivenBase] | None = None,
    out: Bytes | None = None,
) -> Bytes:
    """The bytes of the tensor in a blob, decoded by `threads` threads (0: all processors).

    `expected`: what `describe` says of it. `base_of`: finds the base that a blob needs. `out`:
    memory of just the right size. Raises a DensorError for any fault.
    """
    base = None
    if expected.base is not None and base_of is not None:
        base = base_of(expected)
    target = allocate(expected.size, blob.size) if out is None else out

    def sink_for(meta: EntryMeta) -> Sink:
        if _tensor(meta) != expected:  # as a second entry is, which has another name
            raise FormatError("archive holds another tensor, or more than one")
        return MemorySink(target)

    options = ReadOptions(threads=threads, max_output_size=expected.size)

    def read(proven: bool) -> None:
        reader = StreamReader(MemorySource(blob), options, base, proven)
        try:
            entries = list(reader.entries(sink_for))
        finally:
            reader.close()
        if sum(entry.size for entry in entries) != target.size:
            raise ChecksumError("archive does not hold all of its tensor")

    proven_by_entry(read)
    return target


def allocate(size: int, stored: int) -> Bytes:
    """Memory for what an archive of `stored` bytes holds; LimitError where it cannot hold it."""
    wire.check_possible(size, stored)
    try:
        return np.empty(size, np.uint8)
    except MemoryError:
        raise LimitError(f"not enough memory for {size} bytes") from None
