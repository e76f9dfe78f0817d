"""Writes archives front to back: entries cut into batches, batches coded in parallel."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.batch import Batch, Before, Chunk, CodedBatch, Coding, InTurn, Looked, Smallest
from densor.codec.choose.matrices import look_ahead
from densor.codec.choose.sizes import batch_bytes
from densor.codec.circuit.loading import load as load_circuit
from densor.codec.history import History
from densor.codec.interfaces import Base
from densor.codec.kind import BYTES, Data, Kind, Segment, as_tokens, is_plain
from densor.codec.language_model.session import Session
from densor.codec.levels import Level, beside_tensors, level_settings, with_matrix_spans
from densor.codec.small import encode_small
from densor.codec.spans.stretches import stretches
from densor.codec.tokens.params import SIZES
from densor.codec.types.divide import Piece, divide, encode_piece, may_be_bytes
from densor.errors import ArgumentError, FileError, FormatError
from densor.formats.container import short_form, strictjson, wire
from densor.formats.container.ahead import MIN_REPEAT, ReadAhead, Stretch, copied
from densor.formats.container.archive import Archive
from densor.formats.container.entry import STEPS, EntryMeta, listed_text, parse
from densor.formats.container.hashing import DEFAULT, KINDS, new_hash
from densor.formats.container.listing import Listing, packed_index
from densor.formats.container.short_form import HeldFrame
from densor.formats.container.small_entries import FrameList, Gathered, SmallEntries
from densor.formats.io.ordered_output import OrderedOutput
from densor.formats.io.outputs import errors_of, write_all
from densor.formats.io.sources import Bytes, Source, as_bytes
from densor.formats.tensors import TensorInfo
from densor.options import DEFAULT_WRITE, WriteOptions
from densor.runtime.buffers import POOL
from densor.runtime.gc_pause import collection_paused
from densor.runtime.workers import Done, Workers

_IN_FLIGHT = 1 << 23  # original bytes for each thread that are enough to keep all of them busy
_PLACE_EVERY = 1 << 24  # original bytes between frames that tell a reader of a damaged archive more
_NO_TENSORS = (
    "csv",
    "fixed-width",
    "gzip",
    "jsonl",
    "parquet",
    "png",
    "zip",
)  # formats whose other bytes are as slow as any


class _Waiting(NamedTuple):
    """A batch that is being coded."""

    coding: Coding
    repeat: tuple[int, int] | None  # entry and offset of the equal batch
    data: Bytes
    end: int  # of it in the entry
    before: Before | None = None
    reported: bool = False  # tells of its progress itself
    memory: Bytes | None = None  # to be given back then, of which `data` is the last part


class ArchiveWriter:
    """Writes one archive to a binary file object, which need not be seekable.

    `options`: of them level, threads, hash, text, language model, verify, GPU index and progress
    count here; the rest is for whoever opens files. `index`: whether the archive ends with an
    index. `repeats`: whether equal batches are stored once, which a reader on a pipe must buffer
    for; by default if the file can be sought in. `based`: whether entries may have bases, which is
    needed where the file cannot be sought in. `alone`: whether the archive gets one entry only.
    `matrices`: whether floats may be coded under scale contexts at all levels.
    """

    def __init__(
        self,
        file: BinaryIO,
        options: WriteOptions = DEFAULT_WRITE,
        *,
        index: bool = True,
        repeats: bool | None = None,
        based: bool = False,
        alone: bool = False,
        matrices: bool = False,
    ) -> None:
        self._file = file
        self.options = options
        self._level: Level = level_settings(options.level, options.text, options.table_latents)
        if matrices:
            self._level = with_matrix_spans(self._level)
        self._entry_level = self._level  # of the entry at hand
        self._of_no_format = True  # likewise
        self._entry_session: Session | None = None
        self._workers = Workers(options.threads)
        self._out = OrderedOutput(file, self._workers)
        self._session = _session(options)
        image_model = options.image_model
        self._circuit = None if image_model is None else load_circuit(image_model)
        self._small = SmallEntries()
        self._joins_small = self._level.spans and not based and _is_simple(options)
        self._with_index = index
        self._start = file.tell() if _seekable(file) else None
        self._repeats = self._start is not None if repeats is None else repeats
        self._features = 0 if self._start is not None or not self._repeats else wire.BACKREFS
        if based:
            self._features |= wire.BASE
        self._seen: dict[tuple[bytes, int], tuple[int, int]] = {}
        self._models = 0
        self._model_numbers: dict[bytes, int] = {}  # of those that may be named, oldest first
        self._history = History()
        self._alone = alone
        self._entries = Listing()
        self._names: set[str] = set()
        self._frames: tuple[list[int], list[int], list[int], list[int]] = ([], [], [], [])
        self._short = False  # whether it was written in the short form
        self._done = 0  # original bytes of the entry that is being added
        self._since_place = 0
        self._open = True
        self._broken = False
        # Frames of an archive that may still become one in the short form, and their bytes
        self._held: list[HeldFrame] | None = [] if options.recovery is None else None
        self._at = wire.HEADER_SIZE
        if self._held is None:
            self._put(wire.pack_header(self._features))

    @property
    def repeats(self) -> bool:
        """Whether equal batches are stored once."""
        return self._repeats

    @property
    def written(self) -> int:
        """Bytes of the archive so far, in the ordinary form; once it is closed, all that it has."""
        self._write_small()
        return self._at

    @property
    def original(self) -> int:
        """Bytes of the entries added so far."""
        self._write_small()
        return self._entries.original

    @property
    def entries(self) -> int:
        """How many entries were added so far."""
        self._write_small()
        return len(self._entries)

    @property
    def digests(self) -> list[list[object]]:
        """Kind and hexadecimal digest of the entries added so far."""
        self._write_small()
        return self._entries.digests

    def add(
        self,
        meta: EntryMeta,
        source: Source,
        segments: Iterable[Segment],
        tensors: Sequence[TensorInfo] = (),
        base: Base | None = None,
    ) -> None:
        """Adds an entry with the bytes of `source`, cut and coded as `segments` say.

        `base`: the bytes that `meta.base` tells of, which segments may refer to.

        ArgumentError if the name was used before or no reader would accept it, FileError if
        `source` is shorter than the size in `meta`. After any other error the archive is lost.
        """
        self._write_small()
        meta = replace(meta, hash=self.options.hash)
        description = self._begun(meta)
        number = len(self._entries)
        first = len(self._frames[0])
        self._broken = True  # until the entry is whole
        self._done = 0
        of_tensors = meta.format not in (None, *_NO_TENSORS) and not _has_no_place(tensors)
        self._of_no_format = meta.format is None
        self._entry_level = beside_tensors(self._level) if of_tensors else self._level
        self._entry_session = None if of_tensors else self._session
        self._frame(wire.ENTRY, description)
        digest, size = self._add_data(number, source, segments, meta, base)
        if meta.size is not None and size != meta.size:
            raise FileError(f"{meta.name}: has {size} bytes instead of {meta.size}; did it change?")
        hash_kind = KINDS[self.options.hash or DEFAULT]
        self._frame(wire.ENTRY_END, wire.ENTRY_END_PAYLOAD.pack(size, hash_kind) + digest)
        self._broken = False
        self._names.add(meta.name)
        entry = meta.to_json()
        entry["size"] = size
        entry["frames"] = [first, len(self._frames[0]) - first]
        entry["digest"] = [hash_kind, digest.hex()]
        with collection_paused():
            self._entries.add(entry, listed_text(tensors, size))

    def _begun(self, meta: EntryMeta) -> bytes:
        """The payload of an ENTRY frame; ArgumentError where the archive cannot take the entry."""
        self._check_new(meta.name)
        description = _description(meta)
        if meta.base is not None:
            if self._start is None and not self._features & wire.BASE:
                raise ArgumentError("archive on a pipe was not begun as one with bases")
            self._features |= wire.BASE
        return description

    def _check_new(self, name: str) -> None:
        """ArgumentError where no entry of this name can be added."""
        if not self._open or self._broken:
            raise ArgumentError("archive is closed, or an entry before has failed")
        if name in self._names:
            raise ArgumentError(f"archive already has an entry named {name!r}")

    def has(self, name: str) -> bool:
        """Whether an entry has this name."""
        return name in self._names

    def add_small(self, name: str, dtype: str, shape: tuple[int, ...], data: Any) -> bool:
        """Adds a tensor that is coded with others later on; False for what must be added alone.

        `data`: its elements in C order, of any type and shape. They are copied, and in the archive
        by the time that anything is asked about that.
        """
        self._check_new(name)
        if not self._joins_small or not self._small.add(name, dtype, shape, data):
            return False
        self._names.add(name)
        if self._small.full:
            self._write_small()
        return True

    def _write_small(self) -> None:
        """Codes and writes the small tensors that were gathered."""
        if self._open and len(self._small):
            with collection_paused():
                self._write_gathered()

    def _write_gathered(self) -> None:
        self._broken = True  # until all are whole
        gathered = self._small.take()
        payloads, models = self._code_small(gathered)
        inserted: list[tuple[int, int, bytes]] = []
        if self._since_place >= _PLACE_EVERY:
            place = wire.PLACE_PAYLOAD.pack(len(self._entries), self._models, 0)
            inserted.append((0, wire.PLACE, place))
            self._since_place = 0
        numbers = self._name_models(models, inserted)
        frames, counts = gathered.frames(payloads, numbers, inserted)
        firsts = len(self._frames[0]) + np.cumsum(counts) - counts
        self._put_all(frames)
        texts, digits = gathered.listed(firsts.tolist(), counts.tolist())
        self._entries.extend(texts, gathered.size, [(KINDS[DEFAULT], hexed) for hexed in digits])
        self._since_place += gathered.size
        self._broken = False
        if self.options.progress is not None:
            self.options.progress(gathered.size)

    def _code_small(self, gathered: Gathered) -> tuple[list[Any], list[bytes | int | None]]:
        """Payloads of tensors, one each, and models as in `CodedSmall`; None for repetitions."""
        tensors, kinds = gathered.tensors, [form.kind for form in gathered.forms]
        pairs = zip(gathered.digests, tensors, strict=True)
        places = [
            self._place_before(digest, len(tensor), number)
            for number, (digest, tensor) in enumerate(pairs, len(self._entries))
        ]
        if not any(places):
            coded = encode_small(tensors, kinds, self._level, self._history)
            return coded.payloads, list(coded.models)
        self._features |= wire.BACKREFS
        new = [number for number, place in enumerate(places) if place is None]
        payloads: list[Any] = [place and wire.REF_PAYLOAD.pack(*place) for place in places]
        models: list[bytes | int | None] = [None] * len(places)
        coded = encode_small(
            [tensors[n] for n in new], [kinds[n] for n in new], self._level, self._history
        )
        for number, payload, model in zip(new, *coded, strict=True):
            payloads[number], models[number] = payload, model
        return payloads, models

    def _name_models(
        self, models: list[bytes | int | None], inserted: list[tuple[int, int, bytes]]
    ) -> list[int | None]:
        """The numbers of models, by what they are; those to be written are added to `inserted`."""
        found: list[int | None] = []
        last: bytes | int | None = None
        own = 0
        for entry, model in enumerate(models):
            if not isinstance(model, bytes):
                found.append(model)
                continue
            if model is not last:
                own = self._model(model, lambda *frame, at=entry: inserted.append((at, *frame)))
                last = model
            found.append(own)
        return found

    def _put_all(self, frames: FrameList) -> None:
        """Writes frames together; one by one while the archive may become a short one."""
        if self._held is not None and self._at + frames.size <= short_form.MOST:
            for frame in frames:
                self._frame(*frame)
            return
        if self._held is not None:
            self._write_held()
        self._at += frames.size
        self._put(frames.packed())
        for column, more in zip(self._frames, frames.columns, strict=True):
            column += more

    def _place_before(self, digest: bytes, size: int, entry: int) -> tuple[int, int] | None:
        """Where bytes of this hash stood before; else they stand at the begin of the entry."""
        if not self._repeats or size < MIN_REPEAT:
            return None
        place = self._seen.setdefault((digest, size), (entry, 0))
        return None if place == (entry, 0) else place

    def copy(self, archive: Archive) -> None:
        """Takes over all entries of an archive as they are stored, before any is added."""
        if not self._open or self._broken or self._entries or len(self._small):
            raise ArgumentError("archive is closed, or holds entries already")
        self._broken = True
        frames = archive.frames
        for number in range(frames.kinds.size):
            data = archive.frame_bytes(number)
            kind, _, original, model, _ = frames.header(number)
            head = partial(data.__getitem__, slice(wire.FRAME_SIZE))
            self._add_frame(head, kind, data[wire.FRAME_SIZE :], original, model)
            self._out.then(POOL.give, data)
        self._frames = (
            frames.kinds.tolist(),
            frames.models.tolist(),
            frames.stored.tolist(),
            frames.original.tolist(),
        )
        self._models = self._frames[0].count(wire.MODEL)
        self._entries.copy(archive.listed())
        self._names = {entry.meta.name for entry in archive.entries}
        self._features |= archive.features
        self._broken = False

    def _add_data(
        self,
        number: int,
        source: Source,
        segments: Iterable[Segment],
        meta: EntryMeta,
        base: Base | None,
    ) -> tuple[bytes, int]:
        whole, keyed = meta.size, self._repeats and meta.kind not in STEPS
        waiting: deque[_Waiting] = deque()
        threads = self._workers.threads
        in_flight = 0
        hasher = new_hash(self.options.hash)
        ahead = ReadAhead(source, self._workers, hasher, keyed, self._look)
        cut = lambda kind: batch_bytes(kind, self._entry_level)  # noqa: E731
        for stretch in ahead.stretches(map(self._told, segments), cut, whole is not None):
            if self._alone and whole:
                behind = max(0, whole - stretch.offset - stretch.data.size)
                self._history.follows = behind / (behind + stretch.data.size)
            before = None
            if base is not None and stretch.base is not None:
                before = _before(base, stretch.base, stretch.data.size)
            waiting += self._started(stretch, number, ahead, before)
            in_flight += stretch.data.size
            while waiting and (
                threads == 1
                or len(waiting) > 4 * threads
                or (len(waiting) > threads and in_flight > threads * _IN_FLIGHT)
            ):
                in_flight -= waiting[0].data.size
                self._finish_batch(waiting.popleft(), ahead)
        while waiting:
            self._finish_batch(waiting.popleft(), ahead)
        return ahead.digest(), ahead.size

    def _look(self, stretch: Stretch) -> Looked | None:
        """What can be found of a stretch before those in front of it are coded."""
        if (stretch.key, stretch.data.size) in self._seen:
            return None
        batch = Batch(stretch.data, stretch.kind, self._workers)
        return look_ahead(batch, self._entry_level).looked

    def _told(self, segment: Segment) -> Segment:
        """Of tokens where that is said: integers, and files that are nothing else."""
        whole = is_plain(segment.kind) and self._of_no_format
        if self.options.tokens and (segment.kind.integers or whole):
            return segment._replace(kind=as_tokens(segment.kind))
        return segment

    def _started(
        self, stretch: Stretch, entry: int, ahead: ReadAhead, before: Before | None
    ) -> list[_Waiting]:
        """A batch that is being coded, in several where it turns out to be of several kinds."""
        data, kind, end = stretch.data, stretch.kind, stretch.offset + stretch.data.size
        if stretch.key is not None:
            key = stretch.key, data.size
            place = self._seen.setdefault(key, (entry, stretch.offset))
            if place != (entry, stretch.offset):
                return [_Waiting(Done(CodedBatch(None, [])), place, data, end)]
        odd = data.size % kind.unit  # the end of a file of unknown size
        if data.size > odd > 0 and (kind.audio or kind.image) and before is None:
            ahead.wait(end)
            halves = ahead.divided(stretch, data.size - odd)
            POOL.give(data)
            return [begun for part in halves for begun in self._started(part, entry, ahead, None)]
        if odd:
            kind = Kind(None)  # of what was called a tensor
        batch = Batch(data, kind, self._workers, self._history, before, looked=stretch.looked)
        level = self._entry_level
        pieces = divide(batch, level) if is_plain(kind) and before is None else []
        if len(pieces) > 1:
            return self._in_pieces(batch, pieces, ahead, end)
        cuts = stretches(data, kind, level) if before is None else []
        if len(cuts) < 2:
            piece = pieces[0] if pieces else Piece(0, data.size, kind)
            return [self._begin(batch, data, piece, end)]
        begun = [self._begin(batch, data[a:b], Piece(a, b, kind), end) for a, b in cuts]
        return [*begun[:-1], begun[-1]._replace(memory=data)]

    def _in_pieces(
        self, batch: Batch, pieces: list[Piece], ahead: ReadAhead, end: int
    ) -> list[_Waiting]:
        """A batch as it was divided; all of it as bytes where that may be smaller."""
        parts = [(copied(batch.data[piece.begin : piece.end]), piece) for piece in pieces]
        level = self._entry_level
        if self._entry_session is None and may_be_bytes(batch.data, pieces, level):
            whole = self._begin(batch, batch.data, Piece(0, batch.data.size, BYTES), end)
            begun = [self._begin(batch, *part, end).coding for part in parts]
            return [whole._replace(coding=Smallest(InTurn(begun), whole.coding))]
        ahead.wait(end)
        POOL.give(batch.data)
        return [self._begin(batch, *part, end) for part in parts]

    def _begin(self, batch: Batch, data: Bytes, piece: Piece, end: int) -> _Waiting:
        session = self._session_for(piece.kind, batch.base is not None)
        batch = batch.part(data, piece.kind, session)
        if self._circuit is not None:
            batch = replace(batch, circuit=self._circuit)
        # What is written out of elements takes little else than text does, which may win
        level = self._entry_level if piece.kind.notation is None else self._level
        coding = encode_piece(batch, piece, level)
        return _Waiting(coding, None, batch.data, end, batch.base, session is not None)

    def _session_for(self, kind: Kind, based: bool) -> Session | None:
        """The language model, for bytes of texts and for integers that may be its tokens."""
        if is_plain(kind):
            return self._entry_session
        may_be = kind.integers and kind.data is Data.ELEMENTS and kind.unit in SIZES
        return self._session if may_be and not based else None

    def _finish_batch(self, batch: _Waiting, ahead: ReadAhead) -> None:
        if self._since_place >= _PLACE_EVERY:
            place = wire.PLACE_PAYLOAD.pack(len(self._entries), self._models, self._done)
            self._frame(wire.PLACE, place)
            self._since_place = 0
        self._done += batch.data.size
        self._since_place += batch.data.size
        if batch.repeat is not None:
            self._repeat(*batch.repeat, batch.data.size)
        coded: CodedBatch | None = batch.coding.result()
        framed, memory = True, []
        while coded is not None:
            framed &= self._put_coded(coded)
            memory.append(coded.memory)
            coded = coded.rest
        ahead.wait(batch.end)
        for buffer in memory:
            self._out.then(POOL.give, buffer)
        for buffer in (batch.data, None if batch.before is None else batch.before.data):
            if framed:  # by a copy
                POOL.give(buffer)
            else:  # which payloads may be parts of
                self._out.then(POOL.give, buffer)
        self._out.then(POOL.give, batch.memory)
        if self.options.progress is not None and not batch.reported:
            self.options.progress(batch.data.size)

    def _put_coded(self, coded: CodedBatch) -> bool:
        """Writes a batch without its rest; whether by a copy of frames that its encoder made."""
        own = self._model(coded.model) if coded.model is not None else 0
        if not self.options.gpu_index and self._put_frames(coded, own):
            return True
        for chunk, points in zip(coded.chunks, self._points(coded), strict=True):
            self._chunk(chunk, own)
            if points is not None:
                self._frame(wire.POINTS, points)
            self._out.then(POOL.give, chunk.payload)
        return False

    def _put_frames(self, coded: CodedBatch, own: int) -> bool:
        """Writes frames that its encoder has made; whether it has, and the archive is not short."""
        if coded.frames is None:
            return False
        if self._held is not None:
            if self._at + coded.stored <= short_form.MOST:
                return False
            self._write_held()
        pieces = coded.frames.number(own)
        size = sum(piece.size for piece in pieces)
        self._at += size
        self._out.put_later(size, lambda: pieces)
        kinds, models, stored, original = self._frames
        kinds += [wire.CHUNK] * len(coded.chunks)
        models += [own if chunk.own else chunk.model for chunk in coded.chunks]
        stored += [len(chunk.payload) for chunk in coded.chunks]
        original += [chunk.original for chunk in coded.chunks]
        return True

    def _points(self, coded: CodedBatch) -> list[bytes | None]:
        """The entry points of each chunk, None for those that get none."""
        model = coded.model
        if not self.options.gpu_index or model is None:
            return [None] * len(coded.chunks)
        from densor.codec.planes.units import entry_points

        tasks = [
            self._workers.submit(entry_points, model, as_bytes(chunk.payload), chunk.original)
            for chunk in coded.chunks
            if chunk.own
        ]
        found = iter([task.result() for task in tasks])
        return [next(found) if chunk.own else None for chunk in coded.chunks]

    def _model(self, payload: bytes, put: Callable[[int, bytes], None] | None = None) -> int:
        """The number of a model, which is written unless an equal one may still be named.

        `put`: what writes a frame of some kind and payload, `_frame` by default.
        """
        number = self._model_numbers.get(payload)
        if number is None:
            (put or self._frame)(wire.MODEL, payload)
            number = self._model_numbers[payload] = self._models
            self._models += 1
            if len(self._model_numbers) > registry.MODEL_WINDOW:
                del self._model_numbers[next(iter(self._model_numbers))]
        return registry.FIRST_MODEL + number

    def _chunk(self, chunk: Chunk, own: int) -> None:
        self._frame(wire.CHUNK, chunk.payload, chunk.original, own if chunk.own else chunk.model)

    def _repeat(self, entry: int, offset: int, size: int) -> None:
        self._features |= wire.BACKREFS
        for begin in range(0, size, wire.CHUNK_LIMIT):
            length = min(size - begin, wire.CHUNK_LIMIT)
            self._frame(wire.REF, wire.REF_PAYLOAD.pack(entry, offset + begin), length)

    def _frame(self, kind: int, payload: Any, original: int = 0, model: int = 0) -> None:
        stored = memoryview(payload).nbytes
        head = partial(wire.pack_frame, kind, payload, original, model)
        self._add_frame(head, kind, payload, original, model)
        for column, value in zip(self._frames, (kind, model, stored, original), strict=True):
            column.append(value)

    def _add_frame(
        self, head: Callable[[], Any], kind: int, payload: Any, original: int, model: int
    ) -> None:
        """Writes a frame, or keeps it as long as the archive may become a short one."""
        size = wire.FRAME_SIZE + memoryview(payload).nbytes
        self._at += size
        if self._held is not None and self._at > short_form.MOST:
            self._write_held()
        if self._held is not None:
            self._held.append(HeldFrame(kind, bytes(payload), original, model))
            return
        self._out.put_later(size, lambda: (head(), payload))

    def _write_held(self) -> None:
        """Writes the archive so far in the ordinary form, in which it goes on."""
        held, self._held = self._held or [], None
        self._put(wire.pack_header(self._features))
        for piece in held:
            self._put(wire.pack_frame(*piece))
            self._put(piece.payload)

    def _put(self, data: Any) -> None:
        self._out.put(data)

    def close(self) -> None:
        """Writes index and end. The file object stays open."""
        if not self._open:
            return
        if not self._broken:
            self._write_small()
        self._open = False
        if self._session is not None:
            self._session.stop()
        if self._broken:
            self._workers.close()
            raise FileError("archive is incomplete, since an entry has failed")
        frames = len(self._frames[0])
        index_at = 0
        if self._with_index:
            index_at = self._at
            with collection_paused():
                text = self._entries.index(self._frames, index_at)
            self._frame(wire.INDEX, packed_index(text), len(text))
            frames += 1
        self._frame(wire.END, wire.END_PAYLOAD.pack(index_at, frames))
        if self._held is not None:
            self._write_shorter()
        self._out.finish()
        self._workers.close()
        with errors_of("output"):
            if self._start is not None and self._features and not self._short:
                end = self._file.tell()
                self._file.seek(self._start)
                write_all(self._file, wire.pack_header(self._features))
                self._file.seek(end)
            getattr(self._file, "flush", lambda: None)()  # some only write

    def _write_shorter(self) -> None:
        """Writes all of an archive, in the form that takes fewer bytes."""
        assert self._held is not None
        short = short_form.shortened(self._held, self._features, self._entries.lists())
        if not short or len(short) >= self._at:
            return self._write_held()
        self._at, self._short = len(short), True
        return self._put(short)

    def abort(self) -> None:
        """Stops the threads; what was written is no whole archive."""
        self._open = False
        self._workers.close()
        self._out.stop()


def _has_no_place(tensors: Sequence[TensorInfo]) -> bool:
    """Whether nothing is known of the tensors in a file but names, as of compressed ones."""
    return bool(tensors) and not any(tensor.size for tensor in tensors)


def _is_simple(options: WriteOptions) -> bool:
    """Whether nothing is asked for that tells how tensors are to be coded or hashed."""
    special = options.gpu_index or options.tokens or options.hash not in (None, DEFAULT)
    return not special and options.language_model is None and options.image_model is None


def _session(options: WriteOptions) -> Session | None:
    """The language model of an archive, loaded before anything is written; None without one."""
    if options.language_model is None:
        return None
    session = Session(
        options.language_model,
        options.progress,
        options.verify is not False,
        threads=options.threads,
    )
    session.weights()
    return session


def _before(base: Base, offset: int, size: int) -> Before | None:
    """A stretch of the base, None where there is none of this size."""
    if offset + size > base.size:
        return None
    return Before(base.read_at(offset, size), offset)


def _description(meta: EntryMeta) -> bytes:
    """The payload of an ENTRY frame, which readers accept; ArgumentError if they would not."""
    try:
        parse(meta.to_json())
    except FormatError as error:
        raise ArgumentError(str(error)) from None
    text = strictjson.dumps(meta.to_json())
    if len(text) > wire.MAX_ENTRY:
        raise ArgumentError(f"{meta.name}: type takes {len(text)} bytes to describe")
    return text


def _seekable(file: BinaryIO) -> bool:
    """Whether the header can be written anew, which in append mode it cannot."""
    try:
        appends = "a" in str(getattr(file, "mode", ""))
        return file.seekable() and file.writable() and not appends
    except (AttributeError, OSError):
        return False
