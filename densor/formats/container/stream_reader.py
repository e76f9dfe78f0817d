"""Reads archives front to back: from a file, a pipe or memory, in bounded memory."""

import contextlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from densor.codec.interfaces import Base, Decoder
from densor.codec.language_model.session import Session
from densor.codec.spans.decode import SPAN
from densor.errors import ChecksumError, DensorError, FormatError, LimitError, UnsupportedError
from densor.formats.container import hashing, wire
from densor.formats.container.base import GivenBase, Identity, chain_of, resolve
from densor.formats.container.chunk_decoders import Models, decode_chunk, reports_progress
from densor.formats.container.entry import DIR, EntryMeta, parse_entry
from densor.formats.container.frames import Frame, FrameReader
from densor.formats.container.hashing import Hash, new_hash
from densor.formats.container.sinks import Sink
from densor.formats.container.spans import (
    LONE,
    MIN_BYTES,
    Coder,
    ParameterSets,
    Span,
    coder_in_spans,
)
from densor.formats.io.sources import Bytes, MemorySource, Source
from densor.options import DEFAULT_READ, ReadOptions
from densor.runtime.buffers import POOL
from densor.runtime.in_turn import InTurn
from densor.runtime.locks import Lock
from densor.runtime.workers import Done, Task, Workers, settle

if TYPE_CHECKING:
    from densor.formats.container import step

T = TypeVar("T")
_IN_FLIGHT = 1 << 26  # original bytes that may wait to be written
_SPANS = 3  # of them for each thread, where there are more: what was written is still in caches


class Entry(NamedTuple):
    """An entry that was read to its end."""

    number: int
    meta: EntryMeta
    size: int
    hash_kind: int
    digest: bytes


class _Waiting(NamedTuple):
    """What is being decoded into `out`; `reported`: it tells of its progress itself."""

    task: Task[None]
    out: Bytes
    reported: bool = False


class _Model(NamedTuple):
    """What decodes the chunks of a model, by themselves and in spans."""

    model: int
    decoder: Decoder | None
    coder: Coder | None


_NO_MODEL = _Model(-1, None, None)


@dataclass
class _Written:
    """What is known of an entry so far, for REF frames and for entries that are based on it."""

    sink: Sink
    chain: int = 0  # how many bases of bases it needs
    coded: list[list[int]] = field(default_factory=list)  # stretches that chunks decoded to
    entry: Entry | None = None  # once it is whole
    steps: "step.Table | None" = None  # what it tells of them, once that was asked for
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


@dataclass
class _OpenEntry:
    """An entry while it is read."""

    meta: EntryMeta
    sink: Sink
    hasher: Hash
    written: _Written
    waiting: deque[_Waiting] = field(default_factory=deque)
    span: Span = field(default_factory=Span)  # chunks that are gathered
    in_flight: int = 0  # original bytes that wait
    size: int = 0  # original bytes so far
    done: int = 0  # of these that do not wait any more
    hashing: InTurn = field(default_factory=InTurn)
    running: list[Task[None]] = field(default_factory=list)  # may hash or write for others yet

    def fill(self, decode: Callable[[Bytes], object], out: Bytes, at: int) -> None:
        """Decodes bytes from `at` on, which go their ways then, in this thread or another one's.

        What is wrong with them is raised where the entry's hash comes to them.
        """
        try:
            decode(out)
        except Exception as error:
            self.hashing.add(at, at + out.size, _fail, error)
        else:
            self.hashing.add(at, at + out.size, self.hasher.update, out)
            self.sink.filled(out, at)

    def wait(self, item: _Waiting) -> None:
        """Waits until the next bytes are decoded and hashed; raises what went wrong.

        Not for the end of their task, whose thread may have gone on with what others decoded.
        """
        item.task.begin()
        self.hashing.wait(self.done + item.out.size)
        self.done += item.out.size
        self.running = [task for task in (*self.running, item.task) if not task.done()]


class StreamReader:
    """Decodes the entries of an archive in order.

    With a limit in `options`, the whole archive may have so many original bytes. `base`: what
    entries are based on that refer to bytes outside the archive. `proven`: see `proven_by_entry`.
    """

    def __init__(
        self,
        source: Source,
        options: ReadOptions = DEFAULT_READ,
        base: GivenBase | None = None,
        proven: bool = False,
    ) -> None:
        self._given = base
        self._proven = proven
        self._max_size = options.max_output_size
        self._progress = options.progress
        self._session = Session(
            options.language_model,
            options.progress,
            image_model=options.image_model,
            threads=options.threads,
        )
        self._models = Models(self._session)
        self._names: set[str] = set()
        self._written: dict[int, _Written] = {}
        self._total = 0
        self._frames, header = FrameReader.of_archive(source)
        self.features = header.features
        self.index: Frame | None = None  # once it was read
        self._workers = Workers(options.threads)
        self._latest = _NO_MODEL
        self._parameters = ParameterSets()
        # Fewer calls, each of which takes the GIL; no thread waits for its part, and none is copied
        lone = self._workers.threads == 1 and isinstance(source, MemorySource)
        self._most = LONE if lone and options.progress is None else SPAN
        self._spans_used = False  # the kernel is loaded then, and small chunks profit too

    @property
    def read(self) -> int:
        """Bytes of the archive read so far."""
        return self._frames.at if self._frames.short is None else self._frames.short

    @property
    def reads_back(self) -> bool:
        """Whether sinks may be asked for bytes that are done."""
        return bool(self.features & (wire.BACKREFS | wire.BASE))

    def size_of(self, meta: EntryMeta) -> int | None:
        """Bytes of the entry that is begun, where they are told, or in memory to be counted; None
        too for more than are allowed."""
        size = self._frames.original_ahead() if meta.size is None else meta.size
        allowed = size is not None and (self._max_size is None or size <= self._max_size)
        return size if allowed else None

    def close(self) -> None:
        """Stops the threads."""
        self._session.stop()
        self._workers.close()

    def entries(self, sink_for: Callable[[EntryMeta], Sink]) -> Iterator[Entry]:
        """Decodes all entries, each into the sink that `sink_for` gives, and yields it when whole.

        Raises a DensorError at the first fault; bytes of that entry may have gone to its sink.
        """
        number = 0
        while True:
            frame = self._frames.next(known=True)
            if frame.header.kind == wire.ENTRY:
                meta = parse_entry(frame.payload)
                if meta.name in self._names:
                    raise FormatError(f"archive has two entries named {meta.name!r}")
                self._names.add(meta.name)
                if meta.size is not None:
                    self._check_total(meta.size)
                yield self._entry(number, meta, sink_for(meta))
                number += 1
                continue
            if frame.header.kind == wire.INDEX:
                self.index = frame
                frame = self._frames.next(known=True)
            return self._end(frame)

    def _end(self, frame: Frame) -> None:
        if frame.header.kind != wire.END:
            raise FormatError(f"frame of kind {frame.header.kind} where it may not be")
        index_at = 0 if self.index is None else self.index.offset
        if wire.parse_end(frame.payload) != (index_at, self._frames.frames - 1):
            raise FormatError("END frame contradicts the archive")
        if not self._frames.at_end():
            raise FormatError("data after the end of the archive")

    def _check_total(self, more: int) -> None:
        if self._max_size is not None and self._total + more > self._max_size:
            raise LimitError(f"archive holds more than the {self._max_size} bytes allowed")

    def _entry(self, number: int, meta: EntryMeta, sink: Sink) -> Entry:
        hasher = new_hash(meta.hash)
        chain = chain_of(meta, self.features, self._chained)
        base = self._base_of(meta)
        written = self._written[number] = _Written(sink, chain)
        span = Span(self._most, self._proven)
        open_entry = _OpenEntry(meta, sink, hasher, written, span=span)
        try:
            while True:
                frame = self._frames.next_unless(lambda header: self._gathered(header, open_entry))
                if frame is not None:
                    header, payload, *_ = frame
                    if header.kind == wire.ENTRY_END:
                        break
                    if header.kind == wire.MODEL:
                        self._latest = _NO_MODEL  # which may have to be forgotten
                        self._models.append(payload.tobytes())
                    else:
                        self._chunk(header, payload, open_entry, base)
                self._finish_some(open_entry)
            self._start_span(open_entry)
            while open_entry.waiting:
                self._finish(open_entry)
        finally:
            if open_entry.waiting:
                self._session.stop()
            # Nobody writes to the sink any more
            settle([*(item.task for item in open_entry.waiting), *open_entry.running])
        written.entry = self._close_entry(number, meta, open_entry.size, payload, hasher)
        return written.entry

    def _finish_some(self, entry: _OpenEntry) -> None:
        threads = self._workers.threads
        enough = _SPANS * threads
        while entry.waiting and (
            threads == 1
            or entry.in_flight > _IN_FLIGHT
            or (len(entry.waiting) > enough and entry.in_flight > enough * SPAN)
        ):
            self._finish(entry)

    def _gathered(self, header: wire.FrameHeader, entry: _OpenEntry) -> bool:
        """Takes a chunk that is for the span decoder."""
        if header.kind != wire.CHUNK or entry.meta.kind == DIR:
            return False
        if not self._spans_used and header.original < MIN_BYTES:
            return False
        if header.model != self._latest.model:
            decoder = self._models.known(header.model)
            self._latest = _Model(header.model, decoder, coder_in_spans(header.model, decoder))
        _, decoder, coder = self._latest
        if coder is None:
            return False
        self._spans_used = True
        if not (entry.span.has_room(header, coder) and self._frames.joins(entry.span)):
            self._start_span(entry)
        self._count(header, entry)
        entry.span.add(header, self._frames.gather(header, entry.span), decoder, coder)
        if self._frames.waits:
            self._start_span(entry)
        return True

    def _start_span(self, entry: _OpenEntry) -> None:
        """Starts decoding what was gathered."""
        span, entry.span = entry.span, Span(self._most, self._proven)
        if span:
            out, at = entry.sink.buffer(span.size), entry.size - span.size
            decode = partial(span.decode, known=self._parameters)
            entry.waiting.append(_Waiting(self._workers.submit(entry.fill, decode, out, at), out))
            entry.in_flight += span.size

    def _count(self, header: wire.FrameHeader, entry: _OpenEntry) -> None:
        """Counts a chunk or repetition; LimitError or FormatError where it is too much."""
        self._check_total(header.original)
        self._total += header.original
        size = entry.size + header.original
        if entry.meta.size is not None and size > entry.meta.size:
            raise FormatError(f"{entry.meta.name}: holds more than its size")
        if header.kind == wire.CHUNK:
            entry.written.add(entry.size, size)
        entry.size = size

    def _chunk(
        self, header: wire.FrameHeader, payload: Bytes, entry: _OpenEntry, base: Base | None
    ) -> None:
        """Starts decoding a chunk by itself, or repeats what was decoded."""
        if header.kind not in (wire.CHUNK, wire.REF) or entry.meta.kind == DIR:
            raise FormatError(f"frame of kind {header.kind} inside an entry")
        self._start_span(entry)
        at = entry.size
        self._count(header, entry)
        if header.kind == wire.REF:
            while entry.waiting:
                self._finish(entry)
            repeat = self._repeated(header, payload)
            out = entry.sink.buffer(header.original)
            entry.fill(repeat, out, at)
            entry.waiting.append(_Waiting(Done(None), out))
        else:
            entry.waiting.append(self._start(header, payload, entry, at, base))
        entry.in_flight += header.original

    def _base_of(self, meta: EntryMeta) -> Base | None:
        """What chunks of the entry may refer to."""
        if meta.base is None:
            return None
        base: Base
        if meta.base.entry is None:
            base = resolve(meta.base, self._given)
        else:
            base = self._written[meta.base.entry]
        if meta.base.step is None:
            return base
        found = self._written.get(meta.base.step)
        if found is None or found.entry is None:
            raise FormatError(f"{meta.name}: has a step that comes after it")
        from densor.formats.container import step  # which few archives have

        kind = step.check(found.entry.meta)
        read = lambda begin, end: found.read_at(begin, end - begin)  # noqa: E731
        if found.steps is None:
            found.steps = step.parse(kind, found.size, read)
        return step.SteppedBase(base, found.steps, read)

    def _chained(self, number: int) -> tuple[Identity, int] | None:
        """An entry that was read to its end."""
        found = self._written.get(number)
        return None if found is None or found.entry is None else (found.entry[2:], found.chain)

    def _start(
        self,
        header: wire.FrameHeader,
        payload: Bytes,
        entry: _OpenEntry,
        at: int,
        base: Base | None,
    ) -> _Waiting:
        decoder = self._models.known(header.model)
        out = entry.sink.buffer(header.original)

        def decode(out: Bytes) -> None:
            decode_chunk(header.model, decoder, payload, out, base)
            POOL.give(payload)

        task = self._workers.submit(entry.fill, decode, out, at)
        return _Waiting(task, out, reports_progress(decoder))

    def _finish(self, entry: _OpenEntry) -> None:
        item = entry.waiting[0]
        entry.wait(item)
        entry.waiting.popleft()  # not before: an interrupt leaves none unsettled
        size = item.out.size
        entry.sink.done(item.out)
        entry.in_flight -= size
        if self._progress is not None and not item.reported:
            self._progress(size)

    def _repeated(self, header: wire.FrameHeader, payload: Bytes) -> Callable[[Bytes], None]:
        """What copies the bytes that a REF frame points to."""
        if not self.features & wire.BACKREFS:
            raise FormatError("REF frame where it may not be")
        entry, offset = wire.parse_ref(payload)
        target = self._written.get(entry)
        if target is None or not target.covers(offset, offset + header.original):
            raise FormatError("REF frame points where no chunk decoded to")
        read = target.read_at
        return lambda out: np.copyto(out, read(offset, out.size))

    @staticmethod
    def _close_entry(
        number: int, meta: EntryMeta, size: int, payload: Bytes, hasher: Hash
    ) -> Entry:
        declared, hash_kind, digest = wire.parse_entry_end(payload)
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


def proven_by_entry(read: Callable[[bool], T]) -> T:
    """What `read` gives, which decodes an archive in memory by a `StreamReader`, and lets nobody
    see any of it before the end.

    It is told whether the hash of each entry is to be all the proof that its chunks need: that of
    the payloads takes a ninth of the time of decoding. If anything is wrong, they are looked at in
    a second reading, which tells what it is.
    """
    with contextlib.suppress(DensorError):
        return read(True)
    return read(False)


def _fail(error: Exception) -> None:
    raise error
