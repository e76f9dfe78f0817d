"""Random access: open an archive by its index, read entries, tensors and slices of them."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.coder import Base
from densor.codec.language_model.session import Session
from densor.codec.zstd import zstd_decompress
from densor.dtypes import PACKED
from densor.errors import ChecksumError, FormatError, LimitError, TruncatedError, UnsupportedError
from densor.formats.container import strictjson, wire
from densor.formats.container.base import GivenBase, check_chain, resolve
from densor.formats.container.chunk_decoders import Models, decode_chunk
from densor.formats.container.entry import FILE, TENSOR
from densor.formats.container.hashing import DEFAULT, KINDS, new_hash
from densor.formats.container.index import (
    IndexedEntry,
    before_each,
    parse_entries,
    parse_frames,
)
from densor.formats.io.sources import Bytes, RandomSource
from densor.formats.tensors import TensorInfo, is_listable
from densor.runtime.buffers import POOL
from densor.runtime.gc_pause import collection_paused
from densor.runtime.locks import Lock
from densor.runtime.workers import Task, Workers, settle

_PIECE = 1 << 25  # bytes of an entry that are read at a time
_KEPT = wire.CHUNK_LIMIT  # bytes of decoded chunks kept for the next reading of a base
_INDEX_SIZE = 1 << 24  # bytes of an index that no limit of the caller's counts
_CHAIN_COST = 64  # bytes of bases that may be decoded per byte read, and per byte of a chunk limit


class StoredChunk(NamedTuple):
    """A chunk as it stands in the archive; `begin`, `size`: its original bytes in the entry.
    `points`: the entry points stored beside it."""

    number: int
    model: bytes  # payload of the model, empty for the fixed ones
    payload: Bytes
    begin: int
    size: int
    points: Bytes | None


class _Budget:
    """How many bytes of bases one read may still decode, so that hostile chains come to an end."""

    def __init__(self, size: int) -> None:
        self._left = _CHAIN_COST * (size + wire.CHUNK_LIMIT)
        self._lock = Lock()

    def spend(self, count: int) -> None:
        """LimitError where this is too much."""
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise LimitError("bases of bases take too much to read; decompress as a whole")


class _Kept:
    """Decoded chunks that were needed in part, the latest ones."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[int, Bytes] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def get(self, number: int) -> Bytes | None:
        """The chunk of a frame, if it is kept."""
        with self._lock:
            if number in self._chunks:
                self._chunks.move_to_end(number)
            return self._chunks.get(number)

    def put(self, number: int, chunk: Bytes) -> None:
        """Keeps a chunk, which nobody may change or give back."""
        with self._lock:
            if number not in self._chunks:
                self._chunks[number] = chunk
                self._size += chunk.size
            while self._size > _KEPT and self._chunks:  # none may be left after a fork
                self._size -= self._chunks.popitem(last=False)[1].size


class _EntryBase:
    """The bytes of an entry, as the base of another one; decoded in the thread that asks."""

    def __init__(self, archive: "Archive", entry: IndexedEntry, budget: _Budget) -> None:
        self._archive = archive
        self._entry = entry
        self._budget = budget

    @property
    def size(self) -> int:
        return self._entry.size

    def read_at(self, offset: int, count: int) -> Bytes:
        out = POOL.take(count)
        self._archive.fill(self._entry, offset, out, self._budget)
        return out


class _EntrySource:
    """The bytes of an entry; each reading may cost as much as one of the archive may."""

    def __init__(self, archive: "Archive", entry: IndexedEntry) -> None:
        self._archive = archive
        self._entry = entry

    @property
    def size(self) -> int:
        return self._entry.size

    def read_at(self, offset: int, count: int) -> Bytes:
        return self._archive.read(self._entry, offset, offset + count)


def _whole(entry: IndexedEntry) -> TensorInfo:
    """An entry that is a tensor."""
    meta = entry.meta
    assert meta.dtype is not None and meta.shape is not None
    return TensorInfo(meta.name, meta.dtype, meta.shape, 0, entry.size)


class Archive:
    """An archive with an index. Safe to use from several threads.

    `max_size`: most bytes that one read may return, None for no limit; with a limit, the index may
    unpack to so many bytes and 16 MiB at most. `base`: what entries are based on that refer to
    bytes outside the archive. `llm`: a language model that they may need, or its name or path.
    """

    def __init__(
        self,
        source: RandomSource,
        threads: int = 0,
        *,
        max_size: int | None = None,
        base: GivenBase | None = None,
        llm: Any = None,
    ):
        self._source = source
        self._max_size = max_size
        self._given = base
        self._kept = _Kept()
        self._session = Session(llm)
        self._models = Models(self._session)
        head = source.read_at(0, min(wire.HEADER_SIZE, source.size))
        self.features, self._limit = wire.parse_header(head.tobytes())
        with collection_paused():
            index = self._read_index()
            self.frames = parse_frames(index, self._index_at)
            self.entries = parse_entries(index, self.frames)
            del index  # which is larger than all that was made of it
            self._check_bases()
            self._by_name = {entry.meta.name: entry for entry in self.entries}
        self._model_frames = np.flatnonzero(self.frames.kinds == wire.MODEL)
        self._begins = before_each(self.frames.original)
        sized = self.frames.original > 0
        self._costs = before_each(np.where(sized, wire.FRAME_SIZE + self.frames.stored, 0))
        self._workers = Workers(threads)

    def _check_bases(self) -> None:
        """FormatError or LimitError unless bases come before the entries that refer to them."""
        self.chains: list[int] = []  # per entry, how many bases of bases it needs
        for entry in self.entries:
            base = entry.meta.base
            if base is not None and not self.features & wire.BASE:
                raise FormatError(f"{entry.meta.name}: has a base, which the archive may not have")
            chain = 0 if base is None else 1
            if base is not None and base.entry is not None:
                if base.entry >= entry.number:
                    raise FormatError(f"{entry.meta.name}: is based on what comes after it")
                other = self.entries[base.entry]
                check_chain(base, other.size, other.hash_kind, other.digest)
                chain += self.chains[base.entry]
            if chain > wire.MAX_CHAIN:
                raise LimitError(f"{entry.meta.name}: is based on too long a chain of entries")
            self.chains.append(chain)

    def close(self) -> None:
        """Stops the threads."""
        self._session.stop()
        self._workers.close()

    def listed(self) -> list[dict[str, Any]]:
        """The entries as the index has them, which is read again for it: it can be large."""
        entries: list[dict[str, Any]] = self._read_index()["entries"]
        return entries

    def _read_index(self) -> dict[str, Any]:
        size = self._source.size
        if size < wire.HEADER_SIZE + wire.END_SIZE:
            raise TruncatedError("archive ends before its END frame")
        end_at = size - wire.END_SIZE
        if self._source.read_at(end_at, len(wire.END_BEGINS)).tobytes() != wire.END_BEGINS:
            raise TruncatedError("archive does not end with an END frame")
        _, payload = self._frame_at(end_at)
        self._index_at, _ = wire.END_PAYLOAD.unpack(payload.tobytes())
        if not self._index_at:
            raise UnsupportedError("archive has no index; decompress it as a whole")
        if not wire.HEADER_SIZE <= self._index_at <= end_at - wire.FRAME_SIZE:
            raise FormatError("END frame points outside the archive")
        header, payload = self._frame_at(self._index_at)
        if header.kind != wire.INDEX:
            raise FormatError("END frame does not point to an index")
        wire.check_index_size(header, self._index_at)
        if self._max_size is not None and header.original > self._max_size + _INDEX_SIZE:
            raise LimitError(f"index has more than the {self._max_size} bytes allowed")
        return strictjson.loads(zstd_decompress(payload, header.original), "index")

    def _frame_at(self, offset: int) -> tuple[wire.FrameHeader, Bytes]:
        head = self._source.read_at(offset, wire.FRAME_SIZE)
        header = wire.parse_frame(head.tobytes(), self._limit)
        payload = self._source.read_at(offset + wire.FRAME_SIZE, header.stored)
        wire.check_payload(header, payload)
        return header, payload

    def _frame(self, number: int) -> tuple[wire.FrameHeader, Bytes, Bytes]:
        """A frame by number, which must be what the index says: header, payload, all of it."""
        frames = self.frames
        stored = int(frames.stored[number])
        data = self._source.read_at(int(frames.offsets[number]), wire.FRAME_SIZE + stored)
        header = wire.parse_frame(data[: wire.FRAME_SIZE].tobytes(), self._limit)
        said = tuple(int(column[number]) for column in frames[:4])
        if (header.kind, header.model, header.stored, header.original) != said:
            raise FormatError("index contradicts a frame")
        payload = data[wire.FRAME_SIZE :]
        wire.check_payload(header, payload)
        return header, payload, data

    def entry(self, name: str) -> IndexedEntry:
        """An entry by name; KeyError if there is none."""
        return self._by_name[name]

    def tensors(self) -> dict[str, tuple[IndexedEntry, TensorInfo]]:
        """The tensors that can be read as they lie: those inside files and those that are entries.

        Later names win.
        """
        found = {}
        with collection_paused():
            for entry in self.entries:
                meta = entry.meta
                if meta.kind == FILE:
                    for info in meta.tensors:
                        if is_listable(info) and info.dtype not in PACKED:
                            found[info.name] = entry, info
                elif meta.kind == TENSOR and meta.dtype not in PACKED:
                    info = _whole(entry)
                    found[info.name] = entry, info
        return found

    def others(self) -> dict[str, tuple[IndexedEntry, TensorInfo]]:
        """All other tensors that are known to be there, unless one of that name is in `tensors`.

        Views, those of packed elements, and those of which no more is known than a name and a type
        that nothing here can read.
        """
        found = {}
        for entry in self.entries:
            for info in entry.meta.tensors:
                if not is_listable(info) or info.dtype in PACKED:
                    found[info.name] = entry, info
            if entry.meta.kind == TENSOR and entry.meta.dtype in PACKED:
                found[entry.meta.name] = entry, _whole(entry)
        plain = self.tensors() if found else {}
        return {name: other for name, other in found.items() if name not in plain}

    def check_size(self, sizes: dict[int, int]) -> None:
        """LimitError if these bytes, by number of the entry, are more than one read may return."""
        if self._max_size is not None and sum(sizes.values()) > self._max_size:
            raise LimitError(f"archive holds more than the {self._max_size} bytes allowed")

    def read(self, entry: IndexedEntry, begin: int, end: int, out: Bytes | None = None) -> Bytes:
        """Original bytes `begin` to `end` of an entry; chunks are decoded in parallel.

        A whole entry is checked against its hash. `out`: memory for the bytes, if they fit.
        """
        if not 0 <= begin <= end <= entry.size:
            raise ValueError("range outside the entry")
        if self._max_size is not None and end - begin > self._max_size:
            raise LimitError(f"{entry.meta.name}: more than the {self._max_size} bytes allowed")
        try:
            fits = out is not None and out.size >= end - begin
            out = (
                out[: end - begin] if out is not None and fits else np.empty(end - begin, np.uint8)
            )
        except MemoryError:
            raise LimitError(f"{entry.meta.name}: not enough memory for its bytes") from None
        self._announce(entry, begin, end)
        self._read_into(entry, begin, out, True, self._workers, _Budget(out.size))
        if out.size == entry.size:
            self._check_hash(entry, out)
        return out

    def pieces(
        self, entry: IndexedEntry, begin: int = 0, end: int | None = None
    ) -> Iterator[Bytes]:
        """A stretch of an entry in order, in bounded memory; a whole one is checked at its end."""
        end = entry.size if end is None else end
        whole = (begin, end) == (0, entry.size)
        hasher = new_hash(entry.meta.hash)
        for at in range(begin, end, _PIECE):
            piece = self.read(entry, at, min(end, at + _PIECE))
            if whole:
                hasher.update(piece)
            yield piece
        if whole and hasher.digest() != entry.digest:
            raise ChecksumError(f"{entry.meta.name}: decoded data does not match its hash")

    def frame_bytes(self, number: int) -> Bytes:
        """A frame as it stands in the archive, checked against its hashes and the index."""
        return self._frame(number)[2]

    def fill(self, entry: IndexedEntry, begin: int, out: Bytes, budget: _Budget) -> None:
        """Decodes a stretch of an entry on behalf of others that are based on it."""
        self._read_into(entry, begin, out, True, None, budget)

    def models(self) -> Iterator[bytes]:
        """The payloads of all models, in order."""
        for number in self._model_frames.tolist():
            yield self._frame(number)[1].tobytes()

    def as_source(self, entry: IndexedEntry) -> RandomSource:
        """The bytes of an entry at any place, decoded in the thread that asks."""
        return _EntrySource(self, entry)

    def stored_chunks(
        self, entry: IndexedEntry, begin: int, end: int
    ) -> Iterator[StoredChunk | None]:
        """The chunks that hold `begin` to `end` of an entry, checked against their hashes.

        None for what is not in a chunk of its own: repetitions, and all of an entry with a base.
        """
        models: dict[int, bytes] = {}
        for number, start in self._overlapping(entry, begin, end):
            if self.frames.kinds[number] != wire.CHUNK or entry.meta.base is not None:
                yield None
                continue
            header, payload, _ = self._frame(number)
            model = header.model
            if model not in models:
                own = model >= registry.FIRST_MODEL
                models[model] = self._model_payload(model, number) if own else b""
            points = None
            if (self.frames.kinds[number + 1 : number + 2] == wire.POINTS).any():
                points = self._frame(number + 1)[1]
            yield StoredChunk(model, models[model], payload, start, header.original, points)

    def _base_of(self, entry: IndexedEntry, budget: _Budget) -> Base | None:
        base = entry.meta.base
        if base is None:
            return None
        if base.entry is None:
            return resolve(base, self._given)
        return _EntryBase(self, self.entries[base.entry], budget)

    @staticmethod
    def _check_hash(entry: IndexedEntry, data: Bytes) -> None:
        name = entry.meta.hash
        hasher = new_hash(name)
        hasher.update(data)
        if entry.hash_kind != KINDS[name or DEFAULT] or hasher.digest() != entry.digest:
            raise ChecksumError(f"{entry.meta.name}: decoded data does not match its hash")

    def stored_size(self, entry: IndexedEntry, begin: int, end: int) -> int:
        """Bytes of the frames that hold `begin` to `end` of an entry."""
        first, last = self._span(entry, begin, end)
        return int(self._costs[last] - self._costs[first])

    def _announce(self, entry: IndexedEntry, begin: int, end: int) -> None:
        """Tells a source that pays by the request which frames will be read."""
        expect = getattr(self._source, "expect", None)
        if expect is None:
            return
        first, last = self._span(entry, begin, end)
        if last - first > 1:
            offsets, stored = self.frames.offsets, self.frames.stored
            expect(int(offsets[first]), int(offsets[last - 1] + wire.FRAME_SIZE + stored[last - 1]))
        else:
            expect(0, 0)

    def _span(self, entry: IndexedEntry, begin: int, end: int) -> tuple[int, int]:
        """The frames that hold bytes of this range: first, and the one after the last.

        Frames between them without original bytes (models) are of no interest.
        """
        at = entry.first_frame
        if begin >= end:
            return at, at
        begins = self._begins[at : at + entry.frames + 1]
        first = int(begins.searchsorted(begins[0] + begin, "right")) - 1
        last = int(begins.searchsorted(begins[0] + end, "left"))
        return at + first, at + last

    def _overlapping(self, entry: IndexedEntry, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Frames that hold bytes of this range, in order, and where in the entry each begins."""
        first, last = self._span(entry, begin, end)
        for number in range(first, last):
            if self.frames.original[number]:
                yield number, int(self._begins[number] - self._begins[entry.first_frame])

    def _read_into(
        self,
        entry: IndexedEntry,
        begin: int,
        out: Bytes,
        repeats: bool,
        workers: Workers | None,
        budget: _Budget,
    ) -> None:
        """`repeats`: REF frames are allowed; `workers`: None on behalf of another entry."""
        jobs: list[Task[None]] = []
        try:
            for number, start in self._overlapping(entry, begin, begin + out.size):
                size = int(self.frames.original[number])
                low, high = max(begin, start), min(begin + out.size, start + size)
                target = out[low - begin : high - begin]
                if self.frames.kinds[number] == wire.REF:
                    if not repeats:
                        raise FormatError("REF frame points to a REF frame")
                    self._repeat(entry, number, low - start, target, workers, budget)
                    continue
                self._model(int(self.frames.models[number]), number)
                if workers is not None:
                    work = workers.submit(self._chunk, entry, number, low - start, target, budget)
                    jobs.append(work)
                else:
                    self._chunk_of_base(entry, number, low - start, target, budget)
            for job in jobs:
                job.result()
        finally:
            settle(jobs)  # nobody writes to `out` any more, also after an error

    def _repeat(
        self,
        entry: IndexedEntry,
        number: int,
        skip: int,
        target: Bytes,
        workers: Workers | None,
        budget: _Budget,
    ) -> None:
        _, payload, _ = self._frame(number)
        if payload.size != wire.REF_PAYLOAD.size:
            raise FormatError("REF frame is malformed")
        other, offset = wire.REF_PAYLOAD.unpack(payload.tobytes())
        if other > entry.number or offset + skip + target.size > self.entries[other].size:
            raise FormatError("REF frame points to what does not come before it")
        self._read_into(self.entries[other], offset + skip, target, False, workers, budget)

    def _chunk(
        self, entry: IndexedEntry, number: int, skip: int, target: Bytes, budget: _Budget
    ) -> None:
        if target.size == int(self.frames.original[number]):
            self._whole_chunk(entry, number, target, budget)
        else:
            whole = POOL.take(int(self.frames.original[number]))
            self._whole_chunk(entry, number, whole, budget)
            target[:] = whole[skip : skip + target.size]
            POOL.give(whole)

    def _chunk_of_base(
        self, entry: IndexedEntry, number: int, skip: int, target: Bytes, budget: _Budget
    ) -> None:
        """Likewise; keeps what was needed in part, since the next reading will need the rest."""
        whole = self._kept.get(number)
        if whole is None:
            size = int(self.frames.original[number])
            budget.spend(size)
            if target.size == size:
                return self._whole_chunk(entry, number, target, budget)
            whole = np.empty(size, np.uint8)
            self._whole_chunk(entry, number, whole, budget)
            self._kept.put(number, whole)
        target[:] = whole[skip : skip + target.size]
        return None

    def _whole_chunk(
        self, entry: IndexedEntry, number: int, target: Bytes, budget: _Budget
    ) -> None:
        header, payload, data = self._frame(number)
        decoder = self._model(header.model, number)
        base = self._base_of(entry, budget)
        decode_chunk(header.model, decoder, payload, target, base)
        POOL.give(data)

    def _model(self, model: int, frame: int) -> Any:
        """The decoder of a chunk's model, read from the archive if it is not at hand."""
        if model < registry.FIRST_MODEL:
            return self._models.known(model)
        decoder = self._models.get(model)
        if decoder is None:
            decoder = self._models.put(model, self._model_payload(model, frame))
        return decoder

    def _model_payload(self, model: int, frame: int) -> bytes:
        wanted = model - registry.FIRST_MODEL
        if wanted >= self._model_frames.size or self._model_frames[wanted] >= frame:
            raise FormatError(f"chunk names model {model}, which is not at hand")
        _, payload, _ = self._frame(int(self._model_frames[wanted]))
        return payload.tobytes()
