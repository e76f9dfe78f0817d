"""Random access: open an archive by its index, read entries, tensors and slices of them."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from densor.codec import registry
from densor.codec.interfaces import Decoder
from densor.codec.language_model.session import Session
from densor.dtypes import PACKED
from densor.errors import ChecksumError, FormatError, LimitError
from densor.formats.container import wire
from densor.formats.container.base import GivenBase, Identity, chain_of
from densor.formats.container.derived import derived_in
from densor.formats.container.entry import FILE, TENSOR, BaseRef
from densor.formats.container.entry_decoder import Budget, EntryDecoder, Part, Piece
from densor.formats.container.entry_runs import Run, members_of, runs
from densor.formats.container.frames import Frame, frame_listed
from densor.formats.container.hashing import DEFAULT, KINDS, Hash, digest_of, new_hash
from densor.formats.container.index import before_each, find_index, read_index, unpack_index
from densor.formats.container.listed_entries import (
    Entries,
    IndexedEntry,
    InEntry,
    TensorsByName,
    TensorsInEntries,
)
from densor.formats.container.short_form import in_ordinary_form
from densor.formats.container.sinks import Sink
from densor.formats.container.spans import (
    MIN_BYTES,
    Coder,
    ParameterSets,
    Span,
    coder_in_spans,
    decode_rows,
    read_and_decode,
)
from densor.formats.io.sources import Bytes, RandomSource
from densor.formats.tensor_table import TensorTable
from densor.formats.tensors import TensorInfo, is_listable
from densor.options import DEFAULT_READ, Progress, ReadOptions
from densor.runtime.buffers import POOL
from densor.runtime.gc_pause import collection_paused
from densor.runtime.in_turn import InTurn
from densor.runtime.workers import Task, Workers, settle

Filled = Callable[[Bytes, int], None]
_Tensors = Mapping[str, tuple[IndexedEntry, TensorInfo]]
_MAX_RECENT = 1 << 22  # bytes of a decoded chunk that is kept for the next tensor in it
_PIECE = 1 << 25  # bytes of an entry that are read at a time
_AT_ONCE = 1 << 10  # frame headers that are made together


class StoredChunk(NamedTuple):
    """A chunk as it stands in the archive; `begin`, `size`: its original bytes in the entry.
    `points`: the entry points stored beside it."""

    number: int
    model: bytes  # payload of the model, empty for the fixed ones
    payload: Bytes
    begin: int
    size: int
    points: Bytes | None


class UnreadChunk(NamedTuple):
    """A chunk of which nothing was read but its model; `begin`, `size`: its original bytes.

    `stored`: bytes of its payload, of which `read` gives some, without checking them.
    """

    model: bytes  # payload of the model, empty for the fixed ones
    begin: int
    size: int
    stored: int
    read: Callable[[int, int], Bytes]


class Together(NamedTuple):
    """Entries in the same memory: `places` and `sizes` of those from the place `first` on."""

    first: int
    places: list[int]
    sizes: list[int]
    data: Bytes


class Readable(Protocol):
    """What reads bytes of an entry."""

    def read(self, entry: IndexedEntry, begin: int, end: int) -> Bytes:
        """Original bytes `begin` to `end`."""


class _Recent(NamedTuple):
    """A chunk that was decoded for a part of it; `begin`, `end`: its place in the entry."""

    entry: IndexedEntry
    begin: int
    end: int
    data: Bytes

    def holds(self, entry: IndexedEntry, begin: int, end: int) -> bool:
        """Whether these bytes of an entry are there."""
        return entry.number == self.entry.number and self.begin <= begin and end <= self.end


class EntrySource:
    """The bytes of an entry; each reading may cost as much as one of the archive may."""

    def __init__(self, archive: Readable, entry: IndexedEntry) -> None:
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


def _is_plain(info: TensorInfo) -> bool:
    """Whether a tensor of a file can be read as it lies."""
    return is_listable(info) and info.dtype not in PACKED


class Archive(EntryDecoder[IndexedEntry]):
    """An archive with an index. Safe to use from several threads.

    With a limit in `options`, one read may return so many bytes, and the index may unpack to so
    many and 16 MiB. `base`: what entries are based on that refer to bytes outside the archive.
    """

    def __init__(
        self,
        source: RandomSource,
        options: ReadOptions = DEFAULT_READ,
        base: GivenBase | None = None,
    ) -> None:
        self._source = source
        self._max_size = options.max_output_size
        self._session = Session(
            options.language_model, image_model=options.image_model, threads=options.threads
        )
        super().__init__(base, self._session)
        head = source.read_at(0, min(wire.HEADER_SIZE, source.size))
        header = wire.parse_header(head.tobytes())
        self.short: int | None = None  # bytes of an archive in the short form
        if header.features & wire.SHORT:
            self.short = source.size
            self._source = in_ordinary_form(source)
            header = wire.parse_header(self._source.read_at(0, wire.HEADER_SIZE).tobytes())
        self.features, self._limit = header.features, header.limit
        with collection_paused():
            self.frames, self.entries = read_index(self._index(), self._max_size)
            self.chains: list[int] = []  # per entry, how many bases of bases it needs
            if isinstance(self.entries, Entries):  # which have no bases
                self.chains, names = [0] * len(self.entries), self.entries.columns.names
            else:
                for entry in self.entries:
                    self.chains.append(chain_of(entry.meta, self.features, self._chained))
                names = [entry.meta.name for entry in self.entries]
            self._numbers = {name: number for number, name in enumerate(names)}
        if base is None:
            self._given = derived_in(self)
        self._model_frames = np.flatnonzero(self.frames.kinds == wire.MODEL)
        self._begins = before_each(self.frames.original)
        sized = self.frames.original > 0
        self._costs = before_each(np.where(sized, wire.FRAME_SIZE + self.frames.stored, 0))
        self._workers = Workers(options.threads)
        self._parameters = ParameterSets()
        self._spans_used = False  # the kernel is loaded then, and small chunks profit too
        self._recent: _Recent | None = None

    def _chained(self, number: int) -> tuple[Identity, int] | None:
        """An entry among those whose bases were looked at."""
        known = number < len(self.chains)
        return (self.entries[number].identity, self.chains[number]) if known else None

    @property
    def workers(self) -> Workers:
        """The threads that decode, for what decodes parts of chunks by itself."""
        return self._workers

    def close(self) -> None:
        """Stops the threads."""
        self._session.stop()
        self._workers.close()

    def listed(self) -> list[dict[str, Any]]:
        """The entries as the index has them, which is read again for it: it can be large."""
        entries: list[dict[str, Any]] = unpack_index(self._index(), self._max_size)["entries"]
        return entries

    def _index(self) -> Frame:
        return find_index(self._source, self._limit)

    def _frame(self, number: int, listed: wire.FrameHeader | None = None) -> Frame:
        """A frame by number, which must be what the index says, `listed`."""
        listed = self.frames.header(number) if listed is None else listed
        return frame_listed(self._source, int(self.frames.offsets[number]), listed, self._limit)

    def find(self, name: str) -> IndexedEntry | None:
        """An entry by name; None if there is none."""
        number = self._numbers.get(name)
        return None if number is None else self.entries[number]

    def entry(self, name: str) -> IndexedEntry:
        """An entry by name; KeyError if there is none."""
        return self.entries[self._numbers[name]]

    def tensors(self) -> Mapping[str, tuple[IndexedEntry, TensorInfo]]:
        """The tensors that can be read as they lie: those inside files and those that are entries.

        Later names win.
        """
        return self._sorted_out[0]

    def others(self) -> dict[str, tuple[IndexedEntry, TensorInfo]]:
        """All other tensors that are known to be there, unless one of that name is in `tensors`.

        Views, those of packed elements, and those of which no more is known than a name and a type
        that nothing here can read.
        """
        plain, found = self._sorted_out
        return {name: other for name, other in found.items() if name not in plain}

    @functools.cached_property
    def _sorted_out(self) -> tuple[_Tensors, _Tensors]:
        """Tensors that can be read as they lie, and others."""
        if isinstance(self.entries, Entries):
            columns = self.entries.columns
            if not any(form.dtype in PACKED for form in columns.forms):
                return TensorsByName(columns, self._numbers), {}
        parts: list[InEntry] = []
        others: dict[str, tuple[IndexedEntry, TensorInfo]] = {}
        known: set[tuple[str, tuple[int, ...], int]] = set()  # what can be read as it lies
        with collection_paused():
            for entry in self.entries:
                meta = entry.meta
                tensors = meta.tensors
                table = tensors if isinstance(tensors, TensorTable) and meta.kind == FILE else None
                if table is not None and all(map(_is_plain, table.one_of_each)):
                    parts.append(InEntry(entry, table))
                    continue
                plain: list[TensorInfo] = []
                for info in tensors:
                    form = info.dtype, info.shape, info.size
                    if form in known and info.view is None and meta.kind == FILE:
                        plain.append(info)
                    elif not _is_plain(info):
                        others[info.name] = entry, info
                    elif meta.kind == FILE:
                        plain.append(info)
                        known.add(form)
                if meta.kind == TENSOR:
                    info = _whole(entry)
                    if meta.dtype in PACKED:
                        others[info.name] = entry, info
                    else:
                        plain.append(info)
                parts.append(InEntry(entry, plain))
            return TensorsInEntries([part for part in parts if part.tensors]), others

    def check_size(self, sizes: dict[int, int]) -> None:
        """LimitError if these bytes, by number of the entry, are more than one read may return."""
        if self._exceeds(sum(sizes.values())):
            raise LimitError(f"archive holds more than the {self._max_size} bytes allowed")

    def _exceeds(self, size: int) -> bool:
        """Whether one read may not return so many bytes."""
        return self._max_size is not None and size > self._max_size

    def read(self, entry: IndexedEntry, begin: int, end: int, out: Bytes | None = None) -> Bytes:
        """Original bytes `begin` to `end` of an entry; chunks are decoded in parallel.

        A whole entry is checked against its hash. `out`: memory for the bytes, if they fit.
        """
        hasher = new_hash(entry.meta.hash) if (begin, end) == (0, entry.size) else None
        data = self._read(entry, begin, end, out, hasher)
        if hasher is not None:
            self._check_digest(entry, hasher.digest())
        return data

    def _read(
        self,
        entry: IndexedEntry,
        begin: int,
        end: int,
        out: Bytes | None,
        hasher: Hash | None,
        filled: Filled | None = None,
    ) -> Bytes:
        """Likewise, without a check of the whole. `hasher`, `filled`: see `_read_into`."""
        if not 0 <= begin <= end <= entry.size:
            raise ValueError("range outside the entry")
        if self._exceeds(end - begin):
            raise LimitError(f"{entry.meta.name}: more than the {self._max_size} bytes allowed")
        try:
            fits = out is not None and out.size >= end - begin
            out = (
                out[: end - begin] if out is not None and fits else np.empty(end - begin, np.uint8)
            )
        except MemoryError:
            raise LimitError(f"{entry.meta.name}: not enough memory for its bytes") from None
        recent = self._recent
        if recent is not None and out.size < entry.size and recent.holds(entry, begin, end):
            out[:] = recent.data[begin - recent.begin : end - recent.begin]
            if hasher is not None:
                hasher.update(out)
            if filled is not None:
                filled(out, begin)
            return out
        self._announce(entry, begin, end)
        self._read_into(entry, begin, out, hasher, filled)
        return out

    def read_each(self, entries: Sequence[IndexedEntry]) -> Iterator[Bytes]:
        """The bytes of each of some entries, in order, checked; small ones are decoded together.

        These lie in the same memory then.
        """
        for found in self.read_together(entries):
            for place, size in zip(found.places, found.sizes, strict=True):
                yield found.data[place : place + size]

    def read_together(self, entries: Sequence[IndexedEntry]) -> Iterator[Together]:
        """Likewise, those in the same memory at a time."""
        members = members_of(entries)
        for found in runs(members, self.frames):
            if isinstance(found, Run) and not self._exceeds(found.size):
                sizes = members.sizes[found.first : found.stop].tolist()
                data = self._read_run(found, entries, sizes)
                yield Together(found.first, found.places, sizes, data)
                continue
            for number in range(found.first, found.stop) if isinstance(found, Run) else (found,):
                entry = entries[number]
                yield Together(number, [0], [entry.size], self.read(entry, 0, entry.size))

    def _read_run(self, run: Run, entries: Sequence[IndexedEntry], sizes: list[int]) -> Bytes:
        data = self._source.read_at(run.begin, run.end - run.begin)
        out = np.empty(run.size, np.uint8)
        decoders = self._decoders_of(run)
        by_rans = {n: d for n, d in decoders.items() if coder_in_spans(n, d) is Coder.RANS}
        others = {n: d for n, d in decoders.items() if n not in by_rans}
        for coder, mine in ((Coder.RANS, by_rans), (Coder.HUFFMAN, others)):
            rows = run.rows[np.isin(run.rows[:, 2], list(mine))]
            if len(rows):
                decode_rows(rows, data, mine, self._parameters.of(coder, mine), out)
        for number in np.flatnonzero(~np.array(run.whole)).tolist():
            place, entry = run.places[number], entries[run.first + number]
            self.read(entry, 0, entry.size, out[place : place + entry.size])
        memory = memoryview(out)
        parts = zip(run.places, sizes, strict=True)
        stretches = [memory[place : place + size] for place, size in parts]
        if isinstance(entries, Entries):
            wrong = entries.columns.first_wrong(run.first, stretches)
            if wrong is not None:
                self._check_hash(entries[wrong], stretches[wrong - run.first])
        else:
            for entry, part in zip(entries[run.first : run.stop], stretches, strict=True):
                self._check_hash(entry, part)
        return out

    def _decoders_of(self, run: Run) -> dict[int, Decoder | None]:
        """Those of all chunks, by model."""
        models, first = np.unique(run.rows[:, 2], return_index=True)
        found: dict[int, Decoder | None] = {}
        for model, number in zip(models.tolist(), run.numbers[first].tolist(), strict=True):
            found[model] = self.decoder(Piece(number, self.frames.header(number), 0))
        return found

    def pieces(
        self, entry: IndexedEntry, begin: int = 0, end: int | None = None
    ) -> Iterator[Bytes]:
        """A stretch of an entry in order, in bounded memory; a whole one is checked at its end."""
        end = entry.size if end is None else end
        return self._in_order(entry, begin, end, lambda size: None)

    def read_to(self, entry: IndexedEntry, sink: Sink, progress: Progress | None) -> None:
        """All of an entry, in order, in bounded memory; checked at its end."""
        for piece in self._in_order(entry, 0, entry.size, sink.buffer, sink.filled):
            sink.done(piece)
            if progress is not None:
                progress(piece.size)

    def _in_order(
        self,
        entry: IndexedEntry,
        begin: int,
        end: int,
        memory: Callable[[int], Bytes | None],
        filled: Filled | None = None,
    ) -> Iterator[Bytes]:
        """Piece by piece. `memory`: what it is decoded into, or None; `filled`: as `_read_into`."""
        hasher = new_hash(entry.meta.hash) if (begin, end) == (0, entry.size) else None
        for first, last in self._stretches(entry, begin, end):
            piece = self._read(entry, first, last, memory(last - first), hasher, filled)
            if hasher is not None and last == end:
                self._check_digest(entry, hasher.digest())
            yield piece
        if hasher is not None and begin == end:
            self._check_digest(entry, hasher.digest())

    def _stretches(self, entry: IndexedEntry, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where to cut what is read piece by piece: between chunks, none of which is read twice."""
        at = entry.first_frame
        ends = self._begins[at + 1 : at + entry.frames + 1] - self._begins[at]
        while begin < end:
            first, last = np.searchsorted(ends, [begin, begin + _PIECE], "right")
            cut = int(ends[max(int(first), int(last) - 1)]) if last < ends.size else end
            yield begin, min(cut, end)
            begin = min(cut, end)

    def frame_bytes(self, number: int) -> Bytes:
        """A frame as it stands in the archive, checked against its hashes and the index."""
        return self._frame(number).memory

    def models(self) -> Iterator[bytes]:
        """The payloads of all models, in order."""
        for number in self._model_frames.tolist():
            yield self._frame(number).payload.tobytes()

    def as_source(self, entry: IndexedEntry) -> RandomSource:
        """The bytes of an entry at any place, decoded in the thread that asks."""
        return EntrySource(self, entry)

    def stored_chunks(
        self, entry: IndexedEntry, begin: int, end: int
    ) -> Iterator[StoredChunk | None]:
        """The chunks that hold `begin` to `end` of an entry, checked against their hashes.

        None for what is not in a chunk of its own: repetitions, and all of an entry with a base.
        """
        models: dict[int, bytes] = {}
        for piece in self._pieces(entry, begin, end):
            if piece.header.kind != wire.CHUNK or entry.meta.base is not None:
                yield None
                continue
            payload, (number, header, at, _) = self._frame_of(piece).payload, piece
            model = header.model
            if model not in models:
                own = model >= registry.FIRST_MODEL
                models[model] = self._params(piece) if own else b""
            points = None
            if (self.frames.kinds[number + 1 : number + 2] == wire.POINTS).any():
                points = self._frame(number + 1).payload
            yield StoredChunk(model, models[model], payload, at, header.original, points)

    def unread_chunks(self, entry: IndexedEntry) -> Iterator[UnreadChunk]:
        """All of an entry, chunk by chunk; what has a base or is part of a chunk has no model."""
        at = 0
        models: dict[int, bytes] = {}
        for part in self.parts(entry, 0, entry.size):
            header, model = part.chunk.header, b""
            if part.whole and header.model >= registry.FIRST_MODEL and entry.meta.base is None:
                if header.model not in models:
                    models[header.model] = self._params(part.chunk)
                model = models[header.model]
            begins = int(self.frames.offsets[part.chunk.place]) + wire.FRAME_SIZE
            reading = partial(self._stored, begins, header.stored)
            yield UnreadChunk(model, at, part.size, header.stored, reading)
            at += part.size

    def _stored(self, begins: int, size: int, begin: int, count: int) -> Bytes:
        """Bytes of a payload as they stand in the archive."""
        if not 0 <= begin <= begin + count <= size:
            raise FormatError("payload of a chunk is too short")
        return self._source.read_at(begins + begin, count)

    @classmethod
    def _check_hash(cls, entry: IndexedEntry, data: Bytes | memoryview) -> None:
        cls._check_digest(entry, digest_of(entry.meta.hash, data))

    @staticmethod
    def _check_digest(entry: IndexedEntry, digest: bytes) -> None:
        if entry.hash_kind != KINDS[entry.meta.hash or DEFAULT] or digest != entry.digest:
            raise ChecksumError(f"{entry.meta.name}: decoded data does not match its hash")

    def stored_size(self, entry: IndexedEntry, begin: int, end: int) -> int:
        """Bytes that `begin` to `end` of an entry take, their part of what holds others too."""
        at = entry.first_frame
        frames = slice(at, at + entry.frames + 1)
        begins = self._begins[frames] - self._begins[at]
        low, high = np.interp([begin, end], begins, self._costs[frames])
        return round(float(high - low))

    def _announce(self, entry: IndexedEntry, begin: int, end: int) -> None:
        """Tells a source that pays by the request which frames will be read."""
        expect = getattr(self._source, "expect", None)
        if expect is None:
            return
        first, last = self.frame_range(entry, begin, end)
        if last - first > 1:
            offsets, stored = self.frames.offsets, self.frames.stored
            expect(int(offsets[first]), int(offsets[last - 1] + wire.FRAME_SIZE + stored[last - 1]))
        else:
            expect(0, 0)

    def frame_range(self, entry: IndexedEntry, begin: int, end: int) -> tuple[int, int]:
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

    def _pieces(self, entry: IndexedEntry, begin: int, end: int) -> Iterator[Piece]:
        first, last = self.frame_range(entry, begin, end)
        start = self._begins[entry.first_frame]
        for some in range(first, last, _AT_ONCE):
            stop = min(some + _AT_ONCE, last)
            begins = (self._begins[some:stop] - start).tolist()
            headers = self.frames.headers(some, stop)
            for number, header, at in zip(range(some, stop), headers, begins, strict=True):
                if header.original:
                    yield Piece(number, header, at)

    def _frame_of(self, piece: Piece) -> Frame:
        return self._frame(piece.place, piece.header)

    def _params(self, chunk: Piece) -> bytes:
        wanted = chunk.header.model - registry.FIRST_MODEL
        if wanted >= self._model_frames.size or self._model_frames[wanted] >= chunk.place:
            raise FormatError(f"chunk names model {chunk.header.model}, which is not at hand")
        return self._frame(int(self._model_frames[wanted])).payload.tobytes()

    def _repeated(self, entry: IndexedEntry, ref: wire.Ref, size: int) -> IndexedEntry:
        if ref.entry > entry.number or ref.offset + size > self.entries[ref.entry].size:
            raise FormatError("REF frame points to what does not come before it")
        return self.entries[ref.entry]

    def _earlier(self, entry: IndexedEntry, wanted: BaseRef) -> IndexedEntry:
        assert wanted.entry is not None  # and was looked at when the archive was opened
        return self.entries[wanted.entry]

    def _step_of(self, entry: IndexedEntry, number: int) -> tuple[IndexedEntry, int]:
        if number >= entry.number:
            raise FormatError(f"{entry.meta.name}: has a step that comes after it")
        found = self.entries[number]
        return found, found.size

    def _read_into(
        self,
        entry: IndexedEntry,
        begin: int,
        out: Bytes,
        hasher: Hash | None = None,
        filled: Filled | None = None,
    ) -> None:
        """`hasher`: gets all bytes in order, each while it is still in a cache. `filled`: gets
        them in any order, with their places in the entry, from the threads that decode.
        """
        budget = Budget(out.size, "bases of bases take too much to read; decompress as a whole")
        jobs: list[Task[Any]] = []
        at = 0
        turns = InTurn()

        def start(size: int, decode: Callable[..., object], *arguments: Any) -> None:
            """Starts what decodes `size` bytes up to `at` into the memory that it is given."""
            first, target = at - size, out[at - size : at]

            def work() -> None:
                decode(*arguments, target)
                if hasher is not None:
                    turns.add(first, first + size, hasher.update, target)
                if filled is not None:
                    filled(target, begin + first)

            jobs.append(self._workers.submit(work))

        try:
            for some in self._gathered(self.parts(entry, begin, begin + out.size)):
                at += some.size
                if isinstance(some, Span):
                    start(some.size, read_and_decode, some, self._source, self._parameters)
                else:
                    start(some.size, self._part_alone, some, budget)
            for job in jobs:
                job.result()
            if hasher is not None:
                turns.wait(at)
                hasher.update(out[at:])  # nothing, unless chunks are missing
            if filled is not None:
                filled(out[at:], begin + at)
        finally:
            settle(jobs)  # nobody writes to `out` any more, also after an error

    def _gathered(self, parts: Iterable[Part[IndexedEntry]]) -> Iterator[Span | Part[IndexedEntry]]:
        """Parts of chunks, in order; those that one call decodes in spans."""
        span = Span()
        model = registry.MODEL_RAW  # of the latest chunk
        decoder: Decoder | None = None
        for part in parts:
            header = part.chunk.header
            if header.model != model:  # made once, before all threads need it
                decoder, model = self.decoder(part.chunk), header.model
            coder = self._coder_of(part, decoder)
            payload = int(self.frames.offsets[part.chunk.place]) + wire.FRAME_SIZE
            room = coder and span.follows(payload) and span.has_room(header, coder)
            if span and not room:
                yield span
                span = Span()
            if coder is None:
                yield part
            else:
                span.add(header, payload, decoder, coder)
        if span:
            yield span

    def _coder_of(self, part: Part[IndexedEntry], decoder: Decoder | None) -> Coder | None:
        """Which span decoder a part is for, if any."""
        header = part.chunk.header
        if not part.whole or not (self._spans_used or header.original >= MIN_BYTES):
            return None
        coder = coder_in_spans(header.model, decoder)
        self._spans_used |= coder is not None
        return coder

    def alone(self, entry: IndexedEntry, begin: int, end: int) -> Bytes:
        """Original bytes `begin` to `end` of an entry, decoded in the thread that asks."""
        parts = list(self.parts(entry, begin, end))
        if any(part.entry.meta.base is not None for part in parts):
            raise FormatError("what a file is made from has a base itself")  # no circles
        out = POOL.take(end - begin)
        budget = Budget(out.size, "what a file is made from takes too much to read")
        at = 0
        for some in self._gathered(parts):
            target = out[at : at + some.size]
            if isinstance(some, Span):
                budget.spend(some.size)
                read_and_decode(some, self._source, self._parameters, target)
            else:
                self._part(some, target, budget)
            at += some.size
        if at < out.size:
            raise FormatError("entry does not hold what others refer to")
        return out

    def _part_alone(self, part: Part[IndexedEntry], budget: Budget, out: Bytes) -> None:
        """Decodes a part of a chunk, which is kept if a small part was wanted."""
        chunk = part.chunk
        size = chunk.header.original
        if part.whole:
            return self.decode(part.entry, chunk, out, budget)
        if self.decode_units(part, out):
            return None
        if 2 * part.size < size <= _MAX_RECENT:
            data = np.empty(size, np.uint8)
            self.decode(part.entry, chunk, data, budget)
            out[:] = data[part.low : part.high]
            self._recent = _Recent(part.entry, chunk.begin, chunk.end, data)
            return None
        with POOL.lend(part.chunk.header.original) as whole:
            self.decode(part.entry, part.chunk, whole, budget)
            out[:] = whole[part.low : part.high]
        return None
