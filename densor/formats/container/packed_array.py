"""An object that stays packed in memory and is decoded again and again, into the caller's memory.

`densor.decompress` parses an archive and checks every hash each time. Here that is done once, when
the archive is taken in; `decode_into` then does nothing but decode, on as many threads as wanted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.codecs import decoder_for
from densor.errors import (
    ArgumentError,
    ChecksumError,
    FormatError,
    LimitError,
    UnsupportedError,
)
from densor.formats.container import wire
from densor.formats.container.chunk_decoders import Models, decode_chunk
from densor.formats.container.entry import ARRAY, TENSOR, EntryMeta, parse_entry
from densor.formats.container.frames import Frame, FrameReader
from densor.formats.container.hashing import DEFAULT, KINDS, new_hash
from densor.formats.io.sources import Bytes, MemorySource, as_bytes
from densor.runtime.buffers import POOL
from densor.runtime.workers import Workers

_MAX_CHUNKS = 100_000  # that repetitions may stand for, besides one for each frame there can be


class Chunk(NamedTuple):
    """What is stored of original bytes `begin` to `end`."""

    begin: int
    end: int
    model: int
    payload: Bytes
    points: Bytes | None = None  # entry points


def _frames(blob: Bytes) -> Iterator[Frame]:
    """The frames of an archive in memory, payloads as views.

    All but those to be passed over; entry points only where they follow a chunk.
    """
    reader, _ = FrameReader.of_archive(MemorySource(blob))
    before = 0
    while True:
        frame = reader.next()
        kind = frame.header.kind
        if kind == wire.END:
            if not reader.at_end():
                raise FormatError("data after the end of the archive")
            return
        points = kind == wire.POINTS and before == wire.CHUNK
        if points or (kind < wire.FIRST_SKIPPABLE and kind != wire.INDEX):
            yield frame
        before = kind


class Decoders:
    """Decoders of one decoding; they live as long as jobs are left."""

    def __init__(self, models: list[bytes]) -> None:
        self._payloads = models
        self._models = Models()

    def decode(self, chunk: Chunk, out: Bytes) -> None:
        """Decodes a chunk into all of `out`."""
        model = chunk.model
        decoder = self._models.known(model, lambda: self._payloads[model - registry.FIRST_MODEL])
        decode_chunk(model, decoder, chunk.payload, out)


class PackedArray:
    """One array or tensor, packed as `densor.compress` packs it. Immutable, safe to share.

    `blob`: the archive, any contiguous buffer of bytes; it is kept, not copied. All hashes of the
    stored bytes are checked here; `verify` checks what they decode to.

    Look-up tables are built anew for every decoding: they take 50 to 100 µs per model, but up to
    128 KB (levels 1 to 5) or 800 KB (levels 6 to 8) of memory if they were kept.
    """

    def __init__(self, blob: Any) -> None:
        self.blob: Bytes = as_bytes(blob)
        self._models: list[bytes] = []
        self._chunks: list[Chunk] = []
        meta: EntryMeta | None = None
        digest: bytes | None = None
        for header, payload, *_ in _frames(self.blob):
            if header.kind == wire.ENTRY:
                if meta is not None:
                    raise FormatError("archive holds more than one object; use densor.open")
                meta = parse_entry(payload)
            elif meta is None or digest is not None:
                raise FormatError(f"frame of kind {header.kind} outside an entry")
            elif header.kind == wire.ENTRY_END:
                digest = _parse_end(meta, payload)
            elif header.kind == wire.MODEL:
                decoder_for(payload.tobytes())  # a bad model shall not wait for its first use
                self._models.append(payload.tobytes())
            else:
                self._add(meta, header, payload)
        if meta is None or digest is None:
            raise FormatError("archive is empty")
        if meta.kind not in (ARRAY, TENSOR) or meta.dtype in (None, "VOID") or meta.order == "F":
            raise UnsupportedError("only plain arrays and tensors in C order can stay packed")
        if meta.base is not None:
            raise UnsupportedError("what was packed against a base cannot stay packed in memory")
        self.size = self._chunks[-1].end if self._chunks else 0
        if self.size != meta.size:
            raise FormatError(f"{meta.name}: has {self.size} bytes, not as many as it declares")
        self.meta = meta
        self._digest = digest

    def _add(self, meta: EntryMeta, header: wire.FrameHeader, payload: Bytes) -> None:
        begin = self._chunks[-1].end if self._chunks else 0
        if header.kind == wire.CHUNK:
            known = header.model in (registry.MODEL_RAW, registry.MODEL_ZSTD)
            if not known and not 0 <= header.model - registry.FIRST_MODEL < len(self._models):
                raise FormatError(f"chunk names model {header.model}, which is not at hand")
            self._chunks.append(Chunk(begin, begin + header.original, header.model, payload))
        elif header.kind == wire.POINTS:
            self._chunks[-1] = self._chunks[-1]._replace(points=payload)
        elif header.kind == wire.REF:
            entry, offset = wire.parse_ref(payload)
            if entry:
                raise FormatError("REF frame points to what does not come before it")
            self._repeat(begin, offset, offset + header.original)
        else:
            raise FormatError(f"frame of kind {header.kind} inside an entry")

    def _repeat(self, at: int, begin: int, end: int) -> None:
        """Adds the chunks of an equal stretch again; writers refer to whole chunks."""
        first = bisect_left(self._chunks, begin, key=lambda chunk: chunk.begin)
        last = bisect_right(self._chunks, end, key=lambda chunk: chunk.end)
        equal = self._chunks[first:last]
        if len(self._chunks) + len(equal) > _MAX_CHUNKS + self.blob.size // wire.MIN_FRAME:
            raise LimitError("repetitions in the archive stand for too many chunks")
        if not equal or (equal[0].begin, equal[-1].end) != (begin, end):
            raise UnsupportedError("REF frame that does not point to whole chunks")
        shift = at - begin
        self._chunks += [c._replace(begin=c.begin + shift, end=c.end + shift) for c in equal]

    def __getstate__(self) -> bytes:
        return self.blob.tobytes()

    def __setstate__(self, state: bytes) -> None:
        self.__init__(state)  # type: ignore[misc]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.meta.shape or ()

    @property
    def dtype(self) -> str:
        """The element type, by its safetensors name."""
        assert self.meta.dtype is not None
        return self.meta.dtype

    @property
    def stored(self) -> int:
        """Bytes that it takes in memory."""
        return self.blob.size

    def chunks(self) -> Iterator[tuple[int, bytes, Bytes, int, Bytes | None]]:
        """All chunks in order: number and payload (empty for the fixed ones) of the model, stored
        bytes, number of original bytes, entry points if there are any."""
        for chunk in self._chunks:
            own = chunk.model - registry.FIRST_MODEL
            model = self._models[own] if own >= 0 else b""
            yield chunk.model, model, chunk.payload, chunk.end - chunk.begin, chunk.points

    def jobs(self, out: Bytes, begin: int = 0) -> list[Callable[[], None]]:
        """What must be done, in any order and by any threads, to fill `out`.

        `out`: uint8, bytes `begin` onwards of the array; must cover whole chunks, as do all bytes
        of the array and what `chunks_of` tells.
        """
        end = begin + out.size
        chunks = [c for c in self._chunks if begin <= c.begin and c.end <= end]
        if sum(c.end - c.begin for c in chunks) != out.size:
            raise ArgumentError("out does not match chunks of the array")
        decoders = Decoders(self._models)
        return [partial(decoders.decode, c, out[c.begin - begin : c.end - begin]) for c in chunks]

    def decode_into(self, out: Bytes, workers: Workers) -> None:
        """Decodes the whole array into `out`, uint8, of exactly its bytes."""
        if out.size != self.size:
            raise ArgumentError(f"out must have {self.size} bytes")
        run_all(self.jobs(out), workers)

    def cost(self, begin: int, end: int) -> int:
        """Bytes that `decode_part` decodes for these: those of all chunks that they are in."""
        return sum(c.end - c.begin for c in self._around(begin, end))

    def decode_part(self, begin: int, out: Bytes, workers: Workers) -> None:
        """Decodes bytes `begin` onwards of the array, anywhere in it, into `out`, uint8."""
        end = begin + out.size
        chunks = self._around(begin, end)
        if not 0 <= begin <= end <= self.size:
            raise ArgumentError(f"array has {self.size} bytes")
        inner = [c for c in chunks if begin <= c.begin and c.end <= end]
        jobs: list[Callable[[], None]] = []
        if inner:
            first, last = inner[0].begin, inner[-1].end
            jobs += self.jobs(out[first - begin : last - begin], first)
        edges = (c for c in chunks if c.begin < begin or c.end > end)
        jobs += [partial(self._decode_edge, c, begin, out) for c in edges]
        run_all(jobs, workers)

    def _around(self, begin: int, end: int) -> list[Chunk]:
        """The chunks that hold these bytes."""
        first = bisect_right(self._chunks, begin, key=lambda chunk: chunk.end)
        last = bisect_left(self._chunks, end, key=lambda chunk: chunk.begin)
        return self._chunks[first:last]

    def _decode_edge(self, chunk: Chunk, begin: int, out: Bytes) -> None:
        """Decodes those bytes of a chunk that are in `out`, which holds the array from `begin`."""
        low, high = max(begin, chunk.begin), min(begin + out.size, chunk.end)
        with POOL.lend(chunk.end - chunk.begin) as data:
            for job in self.jobs(data, chunk.begin):
                job()
            out[low - begin : high - begin] = data[low - chunk.begin : high - chunk.begin]

    def chunks_of(self, places: Sequence[int] | np.ndarray[Any, Any]) -> list[tuple[int, int]]:
        """The stretches, (begin, end) in bytes, of the chunks that hold bytes at these places."""
        ends = np.array([c.end for c in self._chunks], np.int64)
        hit = np.unique(np.searchsorted(ends, np.asarray(places, np.int64), side="right"))
        return [(self._chunks[i].begin, self._chunks[i].end) for i in hit.tolist()]

    def verify(self, workers: Workers) -> None:
        """Decodes everything once; ChecksumError unless it is what was packed."""
        with POOL.lend(self.size) as data:
            self.decode_into(data, workers)
            self.check(data)

    def advise(self) -> None:
        """Says that it will be decoded soon; in memory there is nothing to do."""

    def _hash_of(self, data: Bytes) -> bytes:
        hasher = new_hash(self.meta.hash)
        hasher.update(data)
        return hasher.digest()

    def check(self, data: Bytes) -> None:
        """ChecksumError unless `data`, what somebody else has decoded, is what was packed."""
        if self._hash_of(data) != self._digest:
            raise ChecksumError(f"{self.meta.name}: decoded data does not match its hash")


def _parse_end(meta: EntryMeta, payload: Bytes) -> bytes:
    declared, kind, digest = wire.parse_entry_end(payload)
    if declared != meta.size or kind != KINDS[meta.hash or DEFAULT]:
        raise FormatError(f"{meta.name}: end of the entry contradicts its begin")
    return digest


def run_all(jobs: Sequence[Callable[[], None]], workers: Workers) -> None:
    """Does all jobs; raises what the first one raised, after all have ended."""
    if len(jobs) == 1:
        return jobs[0]()  # another thread would take longer to wake up
    failed: BaseException | None = None
    tasks = []
    for job in jobs:
        try:
            tasks.append(workers.submit(job))
        except Exception as error:  # with one thread, work is done at once
            failed = failed or error
    for task in tasks:
        try:
            task.result()
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return None
