"""Gets out of a damaged archive what is left in it, and says what is lost."""

import contextlib
import json
import os
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Unpack

import numpy as np

from densor.codec.language_model.session import Session
from densor.errors import ArgumentError, DensorError, FileError, LimitError
from densor.formats.container import wire
from densor.formats.container.base import GivenBase, check_chain
from densor.formats.container.entry import DIR, FILE, BaseRef
from densor.formats.container.entry_decoder import Budget, EntryDecoder, Piece
from densor.formats.container.frames import Frame
from densor.formats.container.hashing import NAMES, Hash, new_hash
from densor.formats.container.open_base import open_base
from densor.formats.container.short_form import in_ordinary_form
from densor.formats.damage import scan
from densor.formats.damage.inventory import DamagedBytes, Remains, Survey, survey
from densor.formats.damage.recovery import damage_of, find_layout
from densor.formats.io.outputs import (
    apply_times_and_mode,
    errors_of,
    make_parents,
    move_into_place,
    whole_file,
    write_all,
)
from densor.formats.io.safe_paths import Places
from densor.formats.io.sources import Bytes, FileRandomSource, RandomSource, ReadableSource
from densor.options import ReadKeywords, ReadOptions, read_options
from densor.runtime.workers import Task, Workers

PARTIAL = ".partial"
_IN_FLIGHT = 1 << 26


class LostRange(NamedTuple):
    """Original bytes of an entry that are lost; `end` None: up to its end, which is not known."""

    begin: int
    end: int | None
    why: str


@dataclass
class EntryDamage:
    """What became of an entry.

    `name` is None if that is lost. `verified`: all bytes are there and match their hash. `lost`
    are ranges of its original bytes, `unplaced` is how many bytes of chunks are sound but of no
    known place. `tensors` names those that have lost bytes. `file`: where it was salvaged to.
    """

    number: int | None
    name: str | None
    kind: str | None
    size: int | None
    lost: list[LostRange] = field(default_factory=list)
    unplaced: int = 0
    verified: bool = False
    tensors: list[str] = field(default_factory=list)
    file: str | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing of it is lost, as far as that can be known."""
        return not self.lost and not self.unplaced and self.name is not None


@dataclass
class Damage:
    """What is damaged of an archive.

    `damaged`: stretches of the archive that cannot be used. `truncated`: it does not end as an
    archive ends. `has_index`: an index was left. `protected`: it has recovery data. `repairable`:
    that is enough to mend all damage.
    """

    entries: list[EntryDamage]
    damaged: list[DamagedBytes]
    truncated: bool
    has_index: bool
    protected: bool
    size: int  # of the archive
    repairable: bool = False

    @property
    def sound(self) -> bool:
        """Whether nothing at all is damaged."""
        return not self.damaged and not self.truncated and all(e.whole for e in self.entries)

    @property
    def lost(self) -> list[EntryDamage]:
        """The entries that are not whole."""
        return [entry for entry in self.entries if not entry.whole]

    def to_json(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "sound": self.sound,
            "size": self.size,
            "truncated": self.truncated,
            "has_index": self.has_index,
            "protected": self.protected,
            "repairable": self.repairable,
            "damaged": [damaged._asdict() for damaged in self.damaged],
            "entries": [
                vars(entry) | {"lost": [lost._asdict() for lost in entry.lost]}
                for entry in self.entries
            ],
        }


def damage(
    archive: str | os.PathLike[str],
    threads: int | None = None,
    *,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Damage:
    """Decodes what can be decoded of an archive and says which bytes of which entries are lost.

    Options are those of `decompress_file`; without its language model, a text counts as lost.
    FormatError if it is no archive at all.
    """
    with _opened(archive, read_options(options, threads=threads, **keywords)) as work:
        return work.run(None)


def salvage(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    threads: int | None = None,
    *,
    overwrite: bool = False,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Damage:
    """Writes what is left of a damaged archive below `folder`.

    Entries that are whole get their names. Of others, NAME.partial has what is left in its place
    and zeros where bytes are lost; chunks of no known place are files of their own. All of it is
    listed in `salvage.json`, as `Damage.to_json` gives it. Entries that are tensors are written as
    their plain bytes. Options are those of `decompress_file`.
    """
    with _opened(archive, read_options(options, threads=threads, **keywords)) as work:
        target = _Folder(Path(folder), overwrite, work.names)
        found = work.run(target)
        target.report(found)
        return found


@contextlib.contextmanager
def _opened(archive: str | os.PathLike[str], options: ReadOptions) -> Iterator["_Salvage"]:
    path = Path(archive)
    with (
        errors_of(path),
        path.open("rb", buffering=0) as file,
        open_base(options) as given,
    ):
        yield _Salvage(ReadableSource(FileRandomSource(file)), options, given)


class _Lost(DensorError):
    """Bytes that cannot be decoded; the message says why."""


Write = Callable[[int, Bytes], None]  # takes bytes of an entry and where in it they begin


class _Decoder(EntryDecoder[Remains]):
    """Decodes pieces of entries, or says with `_Lost` why they are lost."""

    def __init__(
        self, source: RandomSource, found: Survey, given: GivenBase | None, options: ReadOptions
    ) -> None:
        session = Session(
            options.language_model, image_model=options.image_model, threads=options.threads
        )
        super().__init__(given, session)
        self._source = source
        self._found = found
        self._by_number = found.by_number()
        sizes = sum(piece.header.original for e in found.entries for piece in e.placed)
        message = "repetitions and bases take too much to decode"
        self._budget = Budget(sizes + source.size, message)

    def decoded(self, entry: Remains, piece: Piece) -> Bytes:
        """The bytes of a piece; `_Lost` if there is no telling them."""
        out = np.empty(piece.header.original, np.uint8)
        if piece.header.kind == wire.CHUNK:
            self.decode(entry, piece, out, self._budget)
            return out
        other, offset = self.target(entry, piece)
        with _lost("it repeats bytes that are lost"):
            self.fill(other, offset, out, self._budget, refs=False)
        return out

    def fill_base(self, entry: Remains, begin: int, out: Bytes, budget: Budget) -> None:
        """Decodes a stretch that an entry is based on."""
        with _lost("it is coded against bytes that are lost"):
            self.fill(entry, begin, out, budget)

    def _pieces(self, entry: Remains, begin: int, end: int) -> Iterator[Piece]:
        first = max(0, bisect_right(entry.placed, begin, key=lambda piece: piece.begin) - 1)
        at = begin
        for piece in islice(entry.placed, first, None):
            if at >= end or not piece.begin <= at < piece.end:
                break
            yield piece
            at = piece.end

    def _frame_of(self, piece: Piece) -> Frame:
        frame = None
        if piece.sound:
            frame = scan.frame_at(self._source, piece.place, self._found.limit)
        if frame is None or frame.header[:4] != piece.header[:4]:
            raise _Lost("its frame is damaged")
        return frame

    def _params(self, chunk: Piece) -> bytes:
        offset = self._found.models.get(chunk.header.model)
        frame = None if offset is None else scan.frame_at(self._source, offset, self._found.limit)
        if frame is None:
            raise _Lost("its model is damaged")
        return frame.payload.tobytes()

    def _repeated(self, entry: Remains, ref: wire.Ref, size: int) -> Remains:
        other = self._by_number.get(ref.entry)
        if other is None or (entry.number is not None and ref.entry > entry.number):
            raise _Lost("it repeats bytes of an entry that is lost")
        return other

    def _earlier(self, entry: Remains, wanted: BaseRef) -> Remains:
        number = -1 if wanted.entry is None else wanted.entry
        other = self._by_number.get(number)
        if other is None or entry.number is None or number >= entry.number:
            raise _Lost("its base is lost")
        if other.size is not None and other.digest is not None:
            check_chain(wanted, (other.size, *other.digest))
        return other

    def _step_of(self, entry: Remains, number: int) -> tuple[Remains, int]:
        other = self._by_number.get(number)
        if other is None or other.size is None or entry.number is None or number >= entry.number:
            raise _Lost("what its base follows from is lost")
        return other, other.size


@contextlib.contextmanager
def _lost(why: str) -> Iterator[None]:
    """Whatever cannot be decoded is lost for this reason."""
    try:
        yield
    except ArgumentError:  # the caller can do something about it
        raise
    except DensorError:
        raise _Lost(why) from None


def _in_ordinary_form(source: RandomSource) -> tuple[RandomSource, bool]:
    """The archive with its frames, and whether it is in the short form and damaged."""
    try:
        return in_ordinary_form(source), False
    except DensorError:
        return in_ordinary_form(source, lenient=True), True


class _Salvage:
    """One run over an archive."""

    def __init__(self, source: RandomSource, options: ReadOptions, given: GivenBase | None) -> None:
        self.size = source.size
        source, damaged = _in_ordinary_form(source)
        self._source = source
        self._found = survey(source)
        if damaged:
            self._found.damaged.append(DamagedBytes(0, self.size, "short archive"))
        self._progress = options.progress
        self._decoder = _Decoder(source, self._found, given, options)
        self._workers = Workers(options.threads)
        max_size = options.max_output_size
        most = sum(_declared(entry, source.size) for entry in self._found.entries)
        if max_size is not None and most > max_size:
            raise LimitError(f"archive holds more than the {max_size} bytes allowed")

    @property
    def names(self) -> set[str]:
        """Names that entries have."""
        return {entry.meta.name for entry in self._found.entries if entry.meta is not None}

    def run(self, target: "_Folder | None") -> Damage:
        """Goes through all entries."""
        found = self._found
        entries = []
        try:
            for entry in found.entries:
                if target is None:
                    entries.append(self.entry(entry, lambda begin, data: None))
                else:
                    entries.append(target.add(entry, self))
        finally:
            self._workers.close()
        facts = found.truncated, found.has_index, found.protected, self.size
        done = Damage(entries, found.damaged, *facts)
        done.repairable = not done.sound and self._mendable()
        return done

    def _mendable(self) -> bool:
        layout = find_layout(self._source) if self._found.protected else None
        if layout is None:
            return False
        condition = damage_of(self._source, layout)
        return not condition.hopeless and not condition.unknown

    def entry(self, entry: Remains, write: Write) -> EntryDamage:
        """Decodes what is left of an entry."""
        meta = entry.meta
        name, kind = (None, None) if meta is None else (meta.name, meta.kind)
        done = EntryDamage(entry.number, name, kind, entry.size)
        hasher = None
        if entry.digest is not None:
            hasher = new_hash(NAMES.get(entry.digest[0]))
        at = 0
        for piece, data in self._decoded(entry, entry.placed):
            if piece.begin > at:
                _lose(done, at, piece.begin, "its frames are damaged")
            if isinstance(data, str):
                _lose(done, piece.begin, piece.end, data)
            else:
                write(piece.begin, data)
                if hasher is not None and not done.lost:
                    hasher.update(data)
            at = piece.end
            if self._progress is not None:
                self._progress(piece.header.original)
        self._at_end(entry, done, at, hasher)
        done.unplaced = sum(run[-1].end for run in entry.loose)
        if meta is not None:
            done.tensors = [t.name for t in meta.tensors if _hit(done, t.offset, t.size)]
        return done

    @staticmethod
    def _at_end(entry: Remains, done: EntryDamage, at: int, hasher: Hash | None) -> None:
        if entry.size is None:
            _lose(done, at, None, "its end is lost")
        elif entry.size > at:
            _lose(done, at, entry.size, "its frames are damaged")
        elif entry.size < at:
            _lose(done, 0, at, "it holds more than its size")
        if not done.lost and hasher is not None and entry.digest is not None:
            done.verified = hasher.digest() == entry.digest[1]
            if not done.verified:
                _lose(done, 0, at, "decoded data does not match its hash")

    def _decoded(self, entry: Remains, pieces: list[Piece]) -> Iterator[tuple[Piece, Bytes | str]]:
        """Pieces in order with their bytes, or with why they are lost."""
        waiting: deque[tuple[Piece, Task[Bytes | str]]] = deque()
        in_flight = 0
        for piece in pieces:
            waiting.append((piece, self._workers.submit(self._bytes_of, entry, piece)))
            in_flight += piece.header.original
            while waiting and (self._workers.threads == 1 or in_flight > _IN_FLIGHT):
                first, task = waiting.popleft()
                in_flight -= first.header.original
                yield first, task.result()
        for first, task in waiting:
            yield first, task.result()

    def _bytes_of(self, entry: Remains, piece: Piece) -> Bytes | str:
        try:
            return self._decoder.decoded(entry, piece)
        except ArgumentError:  # a base is needed that was not given, or a language model is another
            raise
        except _Lost as lost:
            return str(lost)
        except DensorError as error:
            return f"its chunk cannot be decoded: {error}"


def _lose(done: EntryDamage, begin: int, end: int | None, why: str) -> None:
    last = done.lost[-1] if done.lost else None
    if last is not None and (last.end, last.why) == (begin, why):
        done.lost[-1] = last._replace(end=end)
    else:
        done.lost.append(LostRange(begin, end, why))


def _hit(done: EntryDamage, offset: int, size: int) -> bool:
    return any(
        lost.begin < offset + size and (lost.end is None or lost.end > offset) for lost in done.lost
    )


def _declared(entry: Remains, stored: int) -> int:
    """Bytes that a salvaged entry has at most: its size, unless that cannot be true."""
    held = entry.placed[-1].end if entry.placed else 0
    loose = sum(run[-1].end for run in entry.loose)
    possible = wire.most_original(stored)
    size = entry.size if entry.size is not None and entry.size <= possible else 0
    return max(held, size) + loose


class _Folder:
    """Where salvaged entries go."""

    def __init__(self, folder: Path, overwrite: bool, names: set[str]) -> None:
        self._folder = folder
        self._overwrite = overwrite
        self._taken = set(names)
        self._used: set[str] = set()
        self._places = Places(folder)
        with errors_of(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, entry: Remains, work: _Salvage) -> EntryDamage:
        """Writes an entry, and runs of pieces that are of no known place."""
        meta = entry.meta
        if meta is not None and meta.kind == DIR:
            make_parents(self._folder, self._folder / meta.name)
            return work.entry(entry, lambda begin, data: None)
        name = self._name_for(entry)
        if not self._overwrite and os.path.lexists(self._folder / name):
            raise FileError(f"{self._folder / name}: already exists; use -f (overwrite=True)")
        unfinished = self._free(_shortened(name) + PARTIAL)
        path = self._folder / unfinished
        make_parents(self._folder, path.parent)
        mode = None if meta is None or meta.kind != FILE else meta.mode
        with whole_file(path, self._overwrite, lambda: mode) as file:
            done = work.entry(entry, partial(_write_at, file))
            size = _declared(entry, work.size) - done.unplaced
            with errors_of(path):
                file.truncate(size)
        done.file = unfinished
        if done.whole:
            with errors_of(self._folder / name):
                move_into_place(path, self._folder / name, self._overwrite)
                self._places.made(name)
            done.file = name
        if meta is not None and meta.kind == FILE:
            path = self._folder / done.file
            apply_times_and_mode(path, meta.mode, meta.mtime_ns, meta.owner)
        for run in entry.loose:
            self._add_loose(entry, run, name, work)
        return done

    def _add_loose(self, entry: Remains, run: list[Piece], name: str, work: _Salvage) -> None:
        path = self._folder / self._free(f"{_shortened(name)}.at-{run[0].place}{PARTIAL}")
        with whole_file(path, self._overwrite) as file:
            pieces = Remains(entry.number, entry.meta, run[-1].end, None, run)
            work.entry(pieces, partial(_write_at, file))
            with errors_of(path):
                file.truncate(run[-1].end)

    def _name_for(self, entry: Remains) -> str:
        """The entry's name if it is that of a file, else one of plain characters."""
        meta = entry.meta
        if meta is not None and meta.kind == FILE and meta.name not in self._used:
            self._used.add(meta.name)
            with contextlib.suppress(FileError):  # not a name for this system
                self._places.path(meta.name)
                return meta.name
        number = "unknown" if entry.number is None else str(entry.number)
        label = "" if meta is None else re.sub(r"[^A-Za-z0-9._-]+", "_", meta.name)[:100]
        return self._free(f"entry-{number}{'-' if label else ''}{label}")

    def _free(self, name: str) -> str:
        """This name, or one like it that nothing else in the folder will have."""
        found, count = name, 1
        while found in self._taken:
            found, count = f"{name}-{count}", count + 1
        self._taken.add(found)
        return found

    def report(self, found: Damage) -> None:
        """Writes `salvage.json`."""
        path = self._folder / self._free("salvage.json")
        with whole_file(path, self._overwrite) as file:
            write_all(file, json.dumps(found.to_json(), indent=1).encode() + b"\n")


def _shortened(name: str) -> str:
    """A name that has room for an ending."""
    folder, last = os.path.split(name)
    return name if len(os.fsencode(last)) <= 200 else os.path.join(folder, last[:50])


def _write_at(file: BinaryIO, begin: int, data: Bytes) -> None:
    """Writes a piece of a file at its place; what lies between is zeros."""
    file.seek(begin)
    write_all(file, data)
