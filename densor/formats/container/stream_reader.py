"""Reads archives front to back: from a file, a pipe or memory, in bounded memory."""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from densor.codec.codec import Base, Decoder
from densor.codec.language_model.decoder import LlmDecoder
from densor.codec.language_model.session import Session
from densor.errors import ChecksumError, FormatError, LimitError, TruncatedError, UnsupportedError
from densor.formats.container import hashing, strictjson, wire
from densor.formats.container.base import GivenBase, check_chain, resolve
from densor.formats.container.chunk_decoders import Models, decode_chunk
from densor.formats.container.entry import DIR, BaseRef, EntryMeta, parse
from densor.formats.container.hashing import Hash, new_hash
from densor.formats.io.sources import Bytes, Source
from densor.runtime.buffers import POOL
from densor.runtime.locks import Lock
from densor.runtime.workers import Done, Task, Workers, settle

_IN_FLIGHT = 1 << 26  # original bytes that may wait to be written


class Sink(Protocol):
    """Where the bytes of an entry go. Calls come in order of the bytes."""

    def buffer(self, size: int) -> Bytes:
        """Memory for the next `size` bytes."""
        ...

    def done(self, data: Bytes) -> None:
        """The memory from `buffer` has been filled and verified so far as a chunk can be."""
        ...

    def read(self, offset: int, size: int) -> Bytes:
        """Bytes of this entry that are done, for a repetition."""
        ...


class Frame(NamedTuple):
    """A frame whose checks have passed."""

    header: wire.FrameHeader
    payload: Bytes


class Entry(NamedTuple):
    """An entry that was read to its end."""

    number: int
    meta: EntryMeta
    size: int
    hash_kind: int
    digest: bytes


class _Waiting(NamedTuple):
    """A chunk that is being decoded; `reported`: it tells of its progress itself."""

    task: Task[Bytes]
    size: int
    reported: bool = False


@dataclass
class _Written:
    """What is known of an entry so far, for REF frames and for entries that are based on it."""

    sink: Sink
    chain: int = 0  # how many bases of bases it needs
    coded: list[list[int]] = field(default_factory=list)  # stretches that chunks decoded to
    entry: Entry | None = None  # once it is whole
    _lock: Lock = field(default_factory=Lock)

    @property
    def size(self) -> int:
        """Bytes of the whole entry."""
        assert self.entry is not None
        return self.entry.size

    def read_at(self, offset: int, count: int) -> Bytes:
        """Bytes of the entry that are done."""
        with self._lock:  # sinks seek in files
            return self.sink.read(offset, count)

    def add(self, begin: int, end: int) -> None:
        if self.coded and self.coded[-1][1] == begin:
            self.coded[-1][1] = end
        else:
            self.coded.append([begin, end])

    def covers(self, begin: int, end: int) -> bool:
        at = bisect_right(self.coded, begin, key=lambda stretch: stretch[0]) - 1
        return at >= 0 and end <= self.coded[at][1]


class StreamReader:
    """Decodes the entries of an archive in order.

    `max_size`: most original bytes that the whole archive may have, None for no limit. `base`: what
    entries are based on that refer to bytes outside the archive. `llm`: a language model that they
    may need, or its name or path.
    """

    def __init__(
        self,
        source: Source,
        threads: int = 0,
        *,
        max_size: int | None = None,
        progress: Callable[[int], object] | None = None,
        base: GivenBase | None = None,
        llm: Any = None,
    ) -> None:
        self._source = source
        self._given = base
        self._max_size = max_size
        self._progress = progress
        self._session = Session(llm, progress)
        self._models = Models(self._session)
        self._names: set[str] = set()
        self._written: dict[int, _Written] = {}
        self._frames = 0
        self._at = 0
        self._total = 0
        self.features, self._limit = wire.parse_header(self._take(wire.HEADER_SIZE).tobytes())
        self.index: tuple[Frame, int] | None = None  # and where it stands, once it was read
        self._workers = Workers(threads)

    @property
    def read(self) -> int:
        """Bytes of the archive read so far."""
        return self._at

    @property
    def reads_back(self) -> bool:
        """Whether sinks may be asked for bytes that are done."""
        return bool(self.features & (wire.BACKREFS | wire.BASE))

    def close(self) -> None:
        """Stops the threads."""
        self._session.stop()
        self._workers.close()

    def _take(self, count: int) -> Bytes:
        data = self._source.take(count)
        self._at += data.size
        return data

    def _frame(self) -> Frame:
        """The next frame that is not skippable."""
        while True:
            data = self._take(wire.FRAME_SIZE)
            if not data.size:
                raise TruncatedError("archive ends before its END frame")
            header = wire.parse_frame(data.tobytes(), self._limit)
            payload = self._take(header.stored)
            if payload.size < header.stored:
                raise TruncatedError("archive ends within a frame")
            wire.check_payload(header, payload)
            self._frames += 1
            if header.kind < wire.FIRST_SKIPPABLE:
                return Frame(header, payload)

    def entries(self, sink_for: Callable[[EntryMeta], Sink]) -> Iterator[Entry]:
        """Decodes all entries, each into the sink that `sink_for` gives, and yields it when whole.

        Raises a DensorError at the first fault; bytes of that entry may have gone to its sink.
        """
        number = 0
        while True:
            header, payload = self._frame()
            if header.kind == wire.ENTRY:
                meta = parse(strictjson.loads(payload.tobytes(), "description of an entry"))
                if meta.name in self._names:
                    raise FormatError(f"archive has two entries named {meta.name!r}")
                self._names.add(meta.name)
                if meta.size is not None:
                    self._check_total(meta.size)
                yield self._entry(number, meta, sink_for(meta))
                number += 1
            elif header.kind == wire.INDEX:
                index_at = self._at - wire.FRAME_SIZE - payload.size
                wire.check_index_size(header, index_at)
                self.index = Frame(header, payload), index_at
                self._end(*self._frame(), index_at)
                return
            else:
                self._end(header, payload, 0)
                return

    def _end(self, header: wire.FrameHeader, payload: Bytes, index_at: int) -> None:
        if header.kind != wire.END or payload.size != wire.END_PAYLOAD.size:
            raise FormatError(f"frame of kind {header.kind} where it may not be")
        if wire.END_PAYLOAD.unpack(payload.tobytes()) != (index_at, self._frames - 1):
            raise FormatError("END frame contradicts the archive")
        if self._take(1).size:
            raise FormatError("data after the end of the archive")

    def _check_total(self, more: int) -> None:
        if self._max_size is not None and self._total + more > self._max_size:
            raise LimitError(f"archive holds more than the {self._max_size} bytes allowed")

    def _entry(self, number: int, meta: EntryMeta, sink: Sink) -> Entry:
        hasher = new_hash(meta.hash)
        base, chain = self._base_of(meta)
        written = _Written(sink, chain)
        self._written[number] = written
        waiting: deque[_Waiting] = deque()
        in_flight = 0
        size = 0
        try:
            while True:
                header, payload = self._frame()
                if header.kind == wire.MODEL:
                    self._models.append(payload.tobytes())
                    continue
                if header.kind == wire.ENTRY_END:
                    break
                if header.kind not in (wire.CHUNK, wire.REF) or meta.kind == DIR:
                    raise FormatError(f"frame of kind {header.kind} inside an entry")
                self._check_total(header.original)
                self._total += header.original
                if meta.size is not None and size + header.original > meta.size:
                    raise FormatError(f"{meta.name}: holds more than its size")
                if header.kind == wire.REF:
                    while waiting:
                        in_flight -= self._finish(waiting.popleft(), hasher, sink)
                    repeated = self._repeat(header, payload, sink)
                    waiting.append(_Waiting(repeated, header.original))
                else:
                    waiting.append(self._start(header, payload, sink, base))
                    written.add(size, size + header.original)
                size += header.original
                in_flight += header.original
                while waiting and (self._workers.threads == 1 or in_flight > _IN_FLIGHT):
                    in_flight -= self._finish(waiting.popleft(), hasher, sink)
            while waiting:
                self._finish(waiting.popleft(), hasher, sink)
        finally:
            if waiting:
                self._session.stop()
            settle(item.task for item in waiting)  # nobody writes to the sink any more
        written.entry = self._close_entry(number, meta, size, payload, hasher)
        return written.entry

    def _base_of(self, meta: EntryMeta) -> tuple[Base | None, int]:
        """What chunks of the entry may refer to, and the length of the chain of bases."""
        wanted = meta.base
        if wanted is None:
            return None, 0
        if not self.features & wire.BASE:
            raise FormatError(f"{meta.name}: has a base, which the archive may not have")
        if wanted.entry is None:
            return resolve(wanted, self._given), 1
        return self._earlier(wanted, meta.name)

    def _earlier(self, wanted: BaseRef, name: str) -> tuple[_Written, int]:
        other = self._written.get(-1 if wanted.entry is None else wanted.entry)
        if other is None or other.entry is None:
            raise FormatError(f"{name}: is based on what comes after it")
        check_chain(wanted, other.entry.size, other.entry.hash_kind, other.entry.digest)
        if other.chain >= wire.MAX_CHAIN:
            raise LimitError(f"{name}: is based on too long a chain of entries")
        return other, other.chain + 1

    def _start(
        self, header: wire.FrameHeader, payload: Bytes, sink: Sink, base: Base | None
    ) -> _Waiting:
        decoder = self._models.known(header.model)
        out = sink.buffer(header.original)
        task = self._workers.submit(_decode, header.model, decoder, payload, out, base)
        return _Waiting(task, header.original, isinstance(decoder, LlmDecoder))

    def _finish(self, item: _Waiting, hasher: Hash, sink: Sink) -> int:
        data = item.task.result()
        hasher.update(data)
        sink.done(data)
        if self._progress is not None and not item.reported:
            self._progress(data.size)
        return item.size

    def _repeat(self, header: wire.FrameHeader, payload: Bytes, sink: Sink) -> Task[Bytes]:
        if not self.features & wire.BACKREFS or payload.size != wire.REF_PAYLOAD.size:
            raise FormatError("REF frame where it may not be")
        entry, offset = wire.REF_PAYLOAD.unpack(payload.tobytes())
        target = self._written.get(entry)
        if target is None or not target.covers(offset, offset + header.original):
            raise FormatError("REF frame points where no chunk decoded to")
        out = sink.buffer(header.original)
        out[:] = target.read_at(offset, header.original)
        return Done(out)

    @staticmethod
    def _close_entry(
        number: int, meta: EntryMeta, size: int, payload: Bytes, hasher: Hash
    ) -> Entry:
        fixed = wire.ENTRY_END_PAYLOAD.size
        if payload.size < fixed:
            raise FormatError("end of an entry is malformed")
        declared, hash_kind = wire.ENTRY_END_PAYLOAD.unpack(payload[:fixed].tobytes())
        digest = payload[fixed:].tobytes()
        if declared != size or meta.size not in (None, size):
            raise FormatError(f"{meta.name}: has {size} bytes, not as many as it declares")
        if hash_kind not in hashing.KINDS.values():
            raise UnsupportedError(
                f"{meta.name}: unknown kind of hash; a newer densor may read this"
            )
        if hash_kind != hashing.KINDS[meta.hash or hashing.DEFAULT]:
            raise FormatError(f"{meta.name}: hash is of another kind than declared")
        if len(digest) != len(hasher.digest()):
            raise FormatError(f"{meta.name}: hash has the wrong length")
        if hasher.digest() != digest:
            raise ChecksumError(f"{meta.name}: decoded data does not match its hash")
        return Entry(number, meta, size, hash_kind, digest)


def _decode(
    number: int, decoder: Decoder | None, payload: Bytes, out: Bytes, base: Base | None
) -> Bytes:
    decode_chunk(number, decoder, payload, out, base)
    POOL.give(payload)
    return out
