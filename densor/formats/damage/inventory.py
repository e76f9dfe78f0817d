"""What is left of an archive: which frames are sound, what entries they are of, and where there.

The index tells it all where it is whole. Otherwise frames are found by their own checks, and their
places follow from what stands before and behind a gap: the start of an entry, its end, or a PLACE
frame. What remains open is said to be so.
"""

import contextlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from densor.codec import registry
from densor.errors import ChecksumError, DensorError, FileError, FormatError, TruncatedError
from densor.formats.container import wire
from densor.formats.container.entry import EntryMeta, parse_entry
from densor.formats.container.entry_decoder import Piece
from densor.formats.container.frames import Frame
from densor.formats.container.hashing import KINDS
from densor.formats.container.index import Frames, find_index, read_index
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.damage import scan
from densor.formats.damage.scan import Stretch
from densor.formats.io.sources import RandomSource

_NAMES = {
    wire.ENTRY: "description of an entry",
    wire.MODEL: "model",
    wire.CHUNK: "chunk",
    wire.REF: "repetition",
    wire.ENTRY_END: "end of an entry",
    wire.INDEX: "index",
    wire.END: "end of the archive",
    wire.RECOVERY: "recovery data",
    wire.PLACE: "place",
    wire.POINTS: "entry points",
}


class DamagedBytes(NamedTuple):
    """A stretch of the archive that cannot be used."""

    begin: int
    end: int
    what: str


@dataclass
class Remains:
    """What is left of an entry.

    `number` and `meta` are None where the start of the entry is lost, `size` and `digest` where its
    end is, if nothing else tells them. `placed` are pieces in order of their place; `loose` are
    runs of pieces whose place is not known.
    """

    number: int | None = None
    meta: EntryMeta | None = None
    size: int | None = None
    digest: tuple[int, bytes] | None = None  # kind of hash, hash
    placed: list[Piece] = field(default_factory=list)
    loose: list[list[Piece]] = field(default_factory=list)


@dataclass
class Survey:
    """What is left of an archive. `models` gives the file offsets of sound MODEL frames by number.

    `truncated`: the archive has no sound END frame at its end.
    """

    limit: int
    entries: list[Remains] = field(default_factory=list)
    models: dict[int, int] = field(default_factory=dict)
    damaged: list[DamagedBytes] = field(default_factory=list)
    has_index: bool = False
    truncated: bool = False
    protected: bool = False  # whether there are frames of recovery data

    def by_number(self) -> dict[int, Remains]:
        """Entries by their number in the archive, as far as that is known."""
        return {entry.number: entry for entry in self.entries if entry.number is not None}


def survey(source: RandomSource) -> Survey:
    """Looks at all frames of an archive, damaged or not.

    FormatError if it is no archive at all, UnsupportedError if it is of a newer version.
    """
    found = _with_header(source)
    index = _index_by_end(source, found.limit)
    if index is not None:
        _check_frames(source, found, index)
        _by_index(found, index)
        return found
    stretches = _without_nested(source, list(scan.walk(source, found.limit)))
    if found.damaged and not any(stretch.header for stretch in stretches):
        raise FormatError("not a densor archive")
    _note(found, source, stretches)
    index = _index_among(source, stretches)
    if index is not None:
        _by_index(found, index._replace(sound=_soundness(index, stretches)))
    else:
        _Walker(source, found).run(stretches)
    return found


def _with_header(source: RandomSource) -> Survey:
    head = source.read_at(0, min(wire.HEADER_SIZE, source.size)).tobytes()
    try:
        header = wire.parse_header(head)
        return Survey(header.limit)
    except (ChecksumError, FormatError, TruncatedError):
        damaged = [DamagedBytes(0, wire.HEADER_SIZE, "header")]
        return Survey(wire.CHUNK_LIMIT, damaged=damaged)


# By the index


class _Index(NamedTuple):
    frame: Frame
    frames: Frames
    entries: list[IndexedEntry]
    sound: list[bool]  # per frame


def _index_by_end(source: RandomSource, limit: int) -> _Index | None:
    """The index that the last bytes point to."""
    try:
        return _parsed_index(find_index(source, limit))
    except FileError:
        raise
    except DensorError:
        return None


def _index_among(source: RandomSource, stretches: list[Stretch]) -> _Index | None:
    """An index that fits the place where it stands."""
    for stretch in stretches:
        if stretch.header is not None and stretch.sound and stretch.header.kind == wire.INDEX:
            frame = scan.frame_at(source, stretch.offset)
            found = None if frame is None else _parsed_index(frame)
            if found is not None:
                return found
    return None


def _parsed_index(frame: Frame) -> _Index | None:
    try:
        frames, entries = read_index(frame)
        return _Index(frame, frames, list(entries), [])
    except DensorError:
        return None


def _check_frames(source: RandomSource, found: Survey, index: _Index) -> None:
    """Checks every frame that the index lists, and those behind it."""
    frames = index.frames
    for listed, offset in zip(frames.headers(), frames.offsets.tolist(), strict=True):
        frame = scan.frame_at(source, offset, found.limit)
        sound = frame is not None and frame.header[:4] == listed[:4]
        index.sound.append(sound)
        if not sound:
            _damaged(found, offset, offset + wire.FRAME_SIZE + listed.stored, listed.kind)
        if frame is not None:
            frame.release()
    tail = list(scan.walk(source, found.limit, index.frame.end))
    _note(found, source, _without_nested(source, tail, index.frame.offset))


def _soundness(index: _Index, stretches: list[Stretch]) -> list[bool]:
    """Which frames of the index were found as it says."""
    seen = {(s.offset, *s.header[:4]) for s in stretches if s.sound and s.header is not None}
    frames = index.frames
    rows = zip(frames.headers(), frames.offsets.tolist(), strict=True)
    return [(offset, *header[:4]) in seen for header, offset in rows]


def _by_index(found: Survey, index: _Index) -> None:
    """Entries and models as the index tells them."""
    found.has_index = True
    frames = index.frames
    headers, offsets = frames.headers(), frames.offsets.tolist()
    for number, frame in enumerate(np.flatnonzero(frames.kinds == wire.MODEL).tolist()):
        if index.sound[frame]:
            found.models[registry.FIRST_MODEL + number] = offsets[frame]
    for entry in index.entries:
        digest = entry.hash_kind, entry.digest
        remains = Remains(entry.number, entry.meta, entry.size, digest)
        at = 0
        for frame in range(entry.first_frame, entry.first_frame + entry.frames):
            header = headers[frame]
            if header.kind in (wire.CHUNK, wire.REF):
                remains.placed.append(Piece(offsets[frame], header, at, index.sound[frame]))
            at += header.original
        found.entries.append(remains)


def _damaged(found: Survey, begin: int, end: int, kind: int | None) -> None:
    name = "unknown" if kind is None else _NAMES.get(kind, "skippable frame")
    last = found.damaged[-1] if found.damaged else None
    if last is not None and (last.end, last.what) == (begin, name):
        found.damaged[-1] = last._replace(end=end)
    else:
        found.damaged.append(DamagedBytes(begin, end, name))


def _note(found: Survey, source: RandomSource, stretches: list[Stretch]) -> None:
    """What stretches tell of the archive as a whole."""
    for stretch in stretches:
        kind = None if stretch.header is None else stretch.header.kind
        if not stretch.sound:
            _damaged(found, stretch.offset, stretch.end, kind)
        elif kind == wire.RECOVERY:
            found.protected = True
    header = stretches[-1].header if stretches and stretches[-1].sound else None
    found.truncated = header is None or header.kind != wire.END
    if stretches and stretches[-1].end < source.size:
        junk = DamagedBytes(stretches[-1].end, source.size, "data after the end")
        found.damaged.append(junk)


# Without an index


def _payload(source: RandomSource, stretch: Stretch) -> bytes:
    """The payload of a sound frame."""
    size = stretch.length - wire.FRAME_SIZE
    return source.read_at(stretch.offset + wire.FRAME_SIZE, size).tobytes()


def _without_nested(
    source: RandomSource, stretches: list[Stretch], index_at: int = -1
) -> list[Stretch]:
    """The stretches without frames of another archive that a damaged chunk holds.

    They follow a gap and run up to an END frame that is not the end of the file, nor points to an
    index of this one, such as that at `index_at`.
    """
    kept: list[Stretch] = []
    indexes = {index_at}
    for number, stretch in enumerate(stretches):
        kind = stretch.header.kind if stretch.header is not None and stretch.sound else None
        if kind == wire.INDEX:
            indexes.add(stretch.offset)
        if kind == wire.END and number + 1 < len(stretches):
            if _index_by(source, stretch) in indexes:
                return [*kept, stretch]
            while kept and kept[-1].sound:
                kept.pop()
            if not kept:
                return stretches[: number + 1]  # what follows the end is not of this archive
            gap = kept.pop()
            kept.append(Stretch(gap.offset, stretch.end - gap.offset, None, False))
        else:
            kept.append(stretch)
    return kept


def _index_by(source: RandomSource, stretch: Stretch) -> int | None:
    """Where the index is by a sound END frame."""
    try:
        return wire.parse_end(_payload(source, stretch)).index_at
    except FormatError:
        return None


@dataclass
class _Run:
    """Pieces without a gap between them; their places count from `start`, if that is known."""

    pieces: list[Piece] = field(default_factory=list)
    start: int | None = None
    length: int = 0


class _Walker:
    """Puts together entries from frames as they were found."""

    def __init__(self, source: RandomSource, found: Survey) -> None:
        self._source = source
        self._found = found
        self._entry: Remains | None = None
        self._runs: list[_Run] = []  # of the entry, the last one is open
        self._certain = True  # whether the last run is of the entry that was begun
        self._number: int | None = 0  # of the next entry, or of this one if it goes on
        self._next_model: int | None = registry.FIRST_MODEL
        self._unnumbered: list[int | None] = []  # MODEL frames since a gap: offset if sound

    def run(self, stretches: list[Stretch]) -> None:
        """Goes through all stretches."""
        for stretch in stretches:
            if stretch.header is None:
                self._gap()
            elif stretch.header.kind in (wire.CHUNK, wire.REF):
                self._piece(stretch, stretch.header)
            elif stretch.header.kind == wire.MODEL:
                self._model(stretch.offset if stretch.sound else None)
            elif stretch.header.kind == wire.ENTRY:
                self._begin(stretch)
            elif stretch.header.kind == wire.ENTRY_END:
                self._end(self._entry_end(stretch) if stretch.sound else None)
            elif stretch.header.kind == wire.PLACE and stretch.sound:
                with contextlib.suppress(FormatError):
                    self._place(*wire.parse_place(_payload(self._source, stretch)))
            elif stretch.header.kind in (wire.INDEX, wire.END):
                self._close()
        self._close()

    def _entry_end(self, stretch: Stretch) -> wire.EntryEnd | None:
        try:
            found = wire.parse_entry_end(_payload(self._source, stretch))
        except FormatError:
            return None
        return found if found.digest else None

    def _gap(self) -> None:
        self._certain = False
        self._next_model = None
        self._unnumbered = []
        self._runs.append(_Run())

    def _begin(self, stretch: Stretch) -> None:
        self._close()
        meta = None
        if stretch.sound:
            try:
                meta = parse_entry(_payload(self._source, stretch))
            except DensorError:
                meta = None
        self._open(Remains(self._number, meta), _Run(start=0))
        self._certain = True

    def _open(self, entry: Remains, run: _Run) -> None:
        self._entry, self._runs = entry, [run]
        self._found.entries.append(entry)

    def _piece(self, stretch: Stretch, header: wire.FrameHeader) -> None:
        if self._entry is None:  # its start is lost
            self._open(Remains(), self._runs[-1] if self._runs else _Run())
        run = self._runs[-1]
        run.pieces.append(Piece(stretch.offset, header, run.length, stretch.sound))
        run.length += header.original
        if self._unnumbered and header.model >= registry.FIRST_MODEL:
            self._number_models(header.model + 1)  # a model stands before its first chunk

    def _model(self, offset: int | None) -> None:
        if self._next_model is None:
            self._unnumbered.append(offset)
            return
        if offset is not None:
            self._found.models[self._next_model] = offset
        self._next_model += 1

    def _number_models(self, following: int) -> None:
        """Gives MODEL frames since the gap their numbers; `following`: that of the next one."""
        for back, offset in enumerate(reversed(self._unnumbered), 1):
            if offset is not None:
                self._found.models[following - back] = offset
        self._unnumbered = []
        self._next_model = following

    def _place(self, number: int, models: int, offset: int) -> None:
        if self._next_model is None:
            self._number_models(registry.FIRST_MODEL + models)
        run = self._runs[-1] if self._runs else _Run()
        start = offset - run.length
        if start < 0 or run.start not in (None, start):
            return  # it contradicts what is known
        if self._entry is None or not self._may_be(self._entry, number):
            self._split(Remains(number))
        assert self._entry is not None
        self._entry.number = self._number = number
        self._runs[-1].start = start
        self._certain = True

    def _may_be(self, entry: Remains, number: int) -> bool:
        """Whether the entry that was begun can be the one of this number."""
        if entry.number is None:
            return self._certain or entry.meta is None
        return entry.number == number

    def _split(self, entry: Remains) -> None:
        """The last run turns out to be of another entry, of which the start is lost."""
        run = self._runs.pop() if self._runs else _Run()
        self._close()
        self._open(entry, run)

    def _end(self, end: wire.EntryEnd | None) -> None:
        if end is not None and self._runs:
            size, kind, digest = end
            if self._entry is None or not self._may_end(size):
                self._split(Remains())
            assert self._entry is not None
            self._entry.size = size
            if kind in KINDS.values():
                self._entry.digest = kind, digest
            run = self._runs[-1]
            if run.start is None and run.length <= size:
                run.start = size - run.length
            self._certain = self._certain or self._entry.number is not None
        known = self._certain and self._number is not None
        number = self._number
        self._close()
        self._number = number + 1 if known and number is not None else None
        self._certain = True

    def _may_end(self, size: int) -> bool:
        """Whether the entry that was begun can have this size."""
        entry = self._entry
        assert entry is not None
        if self._certain:
            return True
        declared = None if entry.meta is None else entry.meta.size
        return declared in (None, size) and sum(run.length for run in self._runs) <= size

    def _close(self) -> None:
        """Ends the entry, if one is open: its runs get their places."""
        entry, runs = self._entry, self._runs
        self._entry, self._runs = None, []
        if not self._certain:
            self._number = None
        if entry is None:
            return
        if entry.size is None and entry.meta is not None:
            entry.size = entry.meta.size
        at = 0
        for run in runs:
            if run.start is None or run.start < at:
                entry.loose.extend([run.pieces] if run.pieces else [])
                continue
            start = run.start
            entry.placed += [piece._replace(begin=start + piece.begin) for piece in run.pieces]
            at = start + run.length
