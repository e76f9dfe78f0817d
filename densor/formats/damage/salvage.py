"""Gets out of a damaged archive what is left in it, and says what is lost."""

import contextlib
import json
import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from densor.codec import registry
from densor.codec.coder import Base, ChunkDecoder
from densor.codec.language_model.session import Session
from densor.errors import ArgumentError, DensorError, FileError, LimitError
from densor.files.folder import make_parents
from densor.files.single import Progress, apply_times_and_mode
from densor.formats.container import wire
from densor.formats.container.base import GivenBase, check_chain, resolve
from densor.formats.container.chunk_decoders import Models, decode_chunk
from densor.formats.container.entry import DIR, FILE
from densor.formats.container.hashing import NAMES, Hash, new_hash
from densor.formats.container.open_base import open_base
from densor.formats.damage import scan
from densor.formats.damage.inventory import DamagedBytes, Piece, Remains, Survey, survey
from densor.formats.damage.recovery import damage_of, find_layout
from densor.formats.io.outputs import errors_of, move_into_place, whole_file, write_all
from densor.formats.io.safe_paths import Places
from densor.formats.io.sources import Bytes, FileRandomSource, RandomSource, ReadableSource
from densor.runtime.workers import Task, Workers

PARTIAL = ".partial"
_KEPT = wire.CHUNK_LIMIT  # bytes of decoded chunks kept for repetitions and bases
_WORK = 64  # bytes that may be decoded for others, per byte of the entries and of the archive
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
    archive ends. `has_index`: an index was left. `protected`: it has recovery data. `mendable`:
    that is enough to mend all damage.
    """

    entries: list[EntryDamage]
    damaged: list[DamagedBytes]
    truncated: bool
    has_index: bool
    protected: bool
    size: int  # of the archive
    mendable: bool = False

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
            "mendable": self.mendable,
            "damaged": [damaged._asdict() for damaged in self.damaged],
            "entries": [
                vars(entry) | {"lost": [lost._asdict() for lost in entry.lost]}
                for entry in self.entries
            ],
        }


def damage(
    archive: str | os.PathLike[str],
    threads: int = 0,
    *,
    max_output_size: int | None = None,
    base: Any = None,
    llm: Any = None,
    progress: Progress | None = None,
) -> Damage:
    """Decodes what can be decoded of an archive and says which bytes of which entries are lost.

    `base`, `llm`: as for `decompress_file`; without its language model, a text counts as lost.
    FormatError if it is no archive at all.
    """
    with _opened(archive, base, llm, max_output_size) as (source, given):
        work = _Salvage(source, threads, given, llm, max_output_size, progress)
        return work.run(None)


def salvage(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    threads: int = 0,
    *,
    overwrite: bool = False,
    max_output_size: int | None = None,
    base: Any = None,
    llm: Any = None,
    progress: Progress | None = None,
) -> Damage:
    """Writes what is left of a damaged archive below `folder`.

    Entries that are whole get their names. Of others, NAME.partial has what is left in its place
    and zeros where bytes are lost; chunks of no known place are files of their own. All of it is
    told in `salvage.json`, as `Damage.to_json` gives it. Entries that are tensors are written as
    their plain bytes.
    """
    with _opened(archive, base, llm, max_output_size) as (source, given):
        work = _Salvage(source, threads, given, llm, max_output_size, progress)
        target = _Folder(Path(folder), overwrite, work.names)
        found = work.run(target)
        target.report(found)
        return found


@contextlib.contextmanager
def _opened(
    archive: str | os.PathLike[str], base: Any, llm: Any, max_size: int | None
) -> Iterator[tuple[RandomSource, GivenBase | None]]:
    path = Path(archive)
    with (
        errors_of(path),
        path.open("rb", buffering=0) as file,
        open_base(base, max_size=max_size, llm=llm) as given,
    ):
        yield ReadableSource(FileRandomSource(file)), given


class _Lost(DensorError):
    """Bytes that cannot be decoded; the message says why."""


class _Output(Protocol):
    """Where an entry goes."""

    def write(self, begin: int, data: Bytes) -> None: ...


class _Nowhere:
    def write(self, begin: int, data: Bytes) -> None:
        pass


class _Decoder:
    """Decodes pieces of entries. Safe to use from several threads."""

    def __init__(
        self, source: RandomSource, found: Survey, given: GivenBase | None, llm: Any
    ) -> None:
        self._source = source
        self._found = found
        self._given = given
        self._by_number = found.by_number()
        self._models = Models(Session(llm))
        self._kept: OrderedDict[int, Bytes] = OrderedDict()
        self._kept_size = 0
        self._lock = threading.Lock()
        sizes = sum(piece.header.original for e in found.entries for piece in e.placed)
        self._work_left = _WORK * (sizes + source.size + wire.CHUNK_LIMIT)

    def decoded(self, entry: Remains, piece: Piece) -> Bytes:
        """The bytes of a piece; `_Lost` if there is no telling them."""
        if not piece.sound:
            raise _Lost("its frame is damaged")
        head = scan.header_at(self._source, piece.offset, self._found.limit)
        payload = None if head is None else scan.payload_of(self._source, piece.offset, head)
        if head is None or payload is None:
            raise _Lost("its frame is damaged")
        if head.kind == wire.REF:
            return self._repeated(entry, payload, head.original)
        decoder = self._decoder(head.model)
        out = np.empty(head.original, np.uint8)
        decode_chunk(head.model, decoder, payload, out, self._base_of(entry))
        return out

    def _decoder(self, number: int) -> ChunkDecoder | None:
        if number < registry.FIRST_MODEL:
            return self._models.known(number)
        decoder = self._models.get(number)
        if decoder is not None:
            return decoder
        offset = self._found.models.get(number)
        if offset is None:
            raise _Lost("its model is damaged")
        header = scan.header_at(self._source, offset, self._found.limit)
        payload = None if header is None else scan.payload_of(self._source, offset, header)
        if payload is None:
            raise _Lost("its model is damaged")
        return self._models.put(number, payload.tobytes())

    def _repeated(self, entry: Remains, payload: Bytes, size: int) -> Bytes:
        if payload.size != wire.REF_PAYLOAD.size:
            raise _Lost("its frame is malformed")
        number, offset = wire.REF_PAYLOAD.unpack(payload.tobytes())
        other = self._by_number.get(number)
        if other is None or (entry.number is not None and number > entry.number):
            raise _Lost("it repeats bytes of an entry that is lost")
        return self.stretch(other, offset, size, "it repeats bytes that are lost", False)

    def stretch(self, entry: Remains, begin: int, size: int, why: str, refs: bool) -> Bytes:
        """A stretch of an entry on behalf of another one; `_Lost`, with `why`, if not all is left.

        `refs`: whether it may come from repetitions.
        """
        out = np.empty(size, np.uint8)
        at = begin
        first = max(0, bisect_right(entry.placed, begin, key=lambda piece: piece.begin) - 1)
        for piece in islice(entry.placed, first, None):
            if at >= begin + size or not piece.begin <= at < piece.end:
                break
            if not (refs or piece.header.kind == wire.CHUNK):
                break
            data = self._kept_or_decoded(entry, piece, why)
            end = min(piece.end, begin + size)
            out[at - begin : end - begin] = data[at - piece.begin : end - piece.begin]
            at = end
        if at < begin + size:
            raise _Lost(why)
        return out

    def _kept_or_decoded(self, entry: Remains, piece: Piece, why: str) -> Bytes:
        with self._lock:
            found = self._kept.get(piece.offset)
            if found is not None:
                self._kept.move_to_end(piece.offset)
                return found
            self._work_left -= piece.header.original
            if self._work_left < 0:
                raise LimitError("repetitions and bases take too much to decode")
        try:
            found = self.decoded(entry, piece)
        except ArgumentError:
            raise
        except DensorError:
            raise _Lost(why) from None
        with self._lock:
            if piece.offset not in self._kept:
                self._kept[piece.offset] = found
                self._kept_size += found.size
            while self._kept_size > _KEPT and len(self._kept) > 1:
                self._kept_size -= self._kept.popitem(last=False)[1].size
        return found

    def _base_of(self, entry: Remains) -> Base | None:
        wanted = None if entry.meta is None else entry.meta.base
        if wanted is None:
            return None
        if wanted.entry is None:
            return resolve(wanted, self._given)
        other = self._by_number.get(wanted.entry)
        if other is None or entry.number is None or wanted.entry >= entry.number:
            raise _Lost("its base is lost")
        if other.size is not None and other.digest is not None:
            check_chain(wanted, other.size, *other.digest)
        return _EntryBase(self, other, wanted.size)


class _EntryBase:
    """What is left of an entry, as the base of another one."""

    def __init__(self, decoder: _Decoder, entry: Remains, size: int) -> None:
        self._decoder = decoder
        self._entry = entry
        self.size = size

    def read_at(self, offset: int, count: int) -> Bytes:
        why = "it is coded against bytes that are lost"
        return self._decoder.stretch(self._entry, offset, count, why, True)


class _Salvage:
    """One run over an archive."""

    def __init__(
        self,
        source: RandomSource,
        threads: int,
        given: GivenBase | None,
        llm: Any,
        max_size: int | None,
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._found = survey(source)
        self.size = source.size
        self._progress = progress
        self._decoder = _Decoder(source, self._found, given, llm)
        self._workers = Workers(threads)
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
                    entries.append(self.entry(entry, _Nowhere()))
                else:
                    entries.append(target.add(entry, self))
        finally:
            self._workers.close()
        facts = found.truncated, found.has_index, found.protected, self.size
        done = Damage(entries, found.damaged, *facts)
        done.mendable = not done.sound and self._mendable()
        return done

    def _mendable(self) -> bool:
        layout = find_layout(self._source) if self._found.protected else None
        if layout is None:
            return False
        condition = damage_of(self._source, layout)
        return not condition.hopeless and not condition.unknown

    def entry(self, entry: Remains, output: _Output) -> EntryDamage:
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
                output.write(piece.begin, data)
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
    possible = (stored // 41 + 1) << 26  # a chunk of 41 bytes stands for 64 MiB at most
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
            return work.entry(entry, _Nowhere())
        name = self._name_for(entry)
        if not self._overwrite and os.path.lexists(self._folder / name):
            raise FileError(f"{self._folder / name}: already exists; use -f (overwrite=True)")
        partial = self._free(_shortened(name) + PARTIAL)
        path = self._folder / partial
        make_parents(self._folder, path.parent)
        with whole_file(path, self._overwrite) as file:
            done = work.entry(entry, _Seeking(file))
            size = _declared(entry, work.size) - done.unplaced
            with errors_of(path):
                file.truncate(size)
        done.file = partial
        if done.whole:
            with errors_of(self._folder / name):
                move_into_place(path, self._folder / name, self._overwrite)
                self._places.made(name)
            done.file = name
        if meta is not None and meta.kind == FILE:
            apply_times_and_mode(self._folder / done.file, meta)
        for run in entry.loose:
            self._add_loose(entry, run, name, work)
        return done

    def _add_loose(self, entry: Remains, run: list[Piece], name: str, work: _Salvage) -> None:
        path = self._folder / self._free(f"{_shortened(name)}.at-{run[0].offset}{PARTIAL}")
        with whole_file(path, self._overwrite) as file:
            pieces = Remains(entry.number, entry.meta, run[-1].end, None, run)
            work.entry(pieces, _Seeking(file))
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


class _Seeking:
    """Writes pieces of a file at their places; what lies between is zeros."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, begin: int, data: Bytes) -> None:
        self._file.seek(begin)
        write_all(self._file, data)
