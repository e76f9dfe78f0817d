"""Archives of many files: pack files and folders, extract them again."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar, Unpack

from densor.errors import ArgumentError, DensorError, FileError, FormatError, MissingFileError
from densor.files.derive import Derivation, Member, is_recipe, with_derived
from densor.files.new_archive import NewArchive, add_input, is_target, new_archive
from densor.files.opened import Input, PathOrFile, open_input, open_output
from densor.files.single import file_sink
from densor.formats.container.archive import Archive
from densor.formats.container.base import GivenBase
from densor.formats.container.chosen_entries import ChosenEntries, few_of
from densor.formats.container.entry import (
    DIR,
    FILE,
    STEPS,
    EntryMeta,
    escape_path,
    new_path,
    real_path,
)
from densor.formats.container.open_base import open_base
from densor.formats.container.sinks import Copies, NullSink, Sink
from densor.formats.container.stream_reader import StreamReader
from densor.formats.io.outputs import (
    Sizes,
    apply_times_and_mode,
    errors_of,
    foreign_owner,
    make_parents,
    whole_file,
)
from densor.formats.io.safe_paths import Places
from densor.formats.io.sources import FileRandomSource, FileSource, MemorySource, source_of
from densor.formats.io.urls import is_url, join, name_of, plain
from densor.formats.parsers import onnx
from densor.formats.parsers.contents import Head
from densor.formats.tensors import TensorInfo
from densor.options import (
    ReadKeywords,
    ReadOptions,
    WriteKeywords,
    WriteOptions,
    read_options,
    write_options,
)

T = TypeVar("T")
LeftOut = Callable[[DensorError], object]


def members(
    paths: Iterable[str | os.PathLike[str]], left_out: LeftOut | None = None
) -> Iterator[Member]:
    """Files and folders below `paths`, which may be URLs, in a fixed order.

    A folder comes after what is in it, so that whoever restores in this order sets its permissions
    and its time last.

    `left_out`: called for each thing within a folder that cannot be packed, such as a link to
    nowhere; without it, that is an error.
    The content of a folder given by path is named relative to it; a file has its own name.
    Symbolic links to files are followed, those to folders below are refused.
    """
    for given in map(plain, paths):
        if is_url(given):
            yield from _remote_members(str(given))
            continue
        path = Path(given)
        with errors_of(path):
            is_folder, is_file = path.is_dir(), path.is_file()
        if is_folder:
            yield from _below(path, left_out)
        elif is_file:
            yield Member(path, *escape_path(os.fsencode(path.name)))
        elif os.path.exists(path):
            raise _of_no_use(path)
        else:
            raise MissingFileError(f"{path}: no such file or folder")


def _of_no_use(path: Path) -> FileError:
    """What is said of a device, a pipe or a socket."""
    return FileError(f"{path}: neither a file nor a folder")


def _remote_members(url: str) -> Iterator[Member]:
    from densor.formats.io.remote import Remote

    place = Remote(url)
    if not place.is_folder():
        yield Member(url, new_path(name_of(url)))
        return
    for below, name in place.files_below():
        yield Member(below, new_path(name))


def _below(folder: Path, left_out: LeftOut | None) -> Iterator[Member]:
    """What is in a folder, which may be deeper than functions can call each other."""
    opened = [_within(folder, b"", left_out)]
    while opened:
        found = next(opened[-1], None)
        if found is None:
            opened.pop()
        elif isinstance(found, Member):
            yield found
        else:
            opened.append(_within(*found, left_out))


def _within(
    folder: Path, prefix: bytes, left_out: LeftOut | None
) -> Iterator[Member | tuple[Path, bytes]]:
    """The files in a folder, and each folder in it with the prefix of names there; then itself."""
    try:
        with errors_of(folder):
            children = sorted(os.scandir(folder), key=lambda child: child.name)
        itself = Member(folder, *escape_path(prefix.rstrip(b"/"))) if prefix else None
    except DensorError as error:
        _leave_out(error, left_out)
        return
    for child in children:
        path, name = Path(child.path), prefix + os.fsencode(child.name)
        if child.is_dir(follow_symlinks=False):
            yield path, name + b"/"
            continue
        try:
            if not child.is_file():
                raise _of_no_use(path)
            yield Member(path, *escape_path(name))
        except OSError as error:
            _leave_out(FileError(f"{path}: {error.strerror or error}"), left_out)
        except DensorError as error:
            _leave_out(error, left_out)
    if itself is not None:
        yield itself


def _leave_out(error: DensorError, left_out: LeftOut | None) -> None:
    if left_out is None:
        raise error
    left_out(error)


def pack(
    paths: Iterable[str | os.PathLike[str]],
    target: PathOrFile,
    level: int | None = None,
    threads: int | None = None,
    *,
    left_out: LeftOut | None = None,
    derive: bool | Literal["small"] = False,
    options: WriteOptions | None = None,
    **keywords: Unpack[WriteKeywords],
) -> Sizes:
    """Packs files and folders into one archive, which `extract` restores byte for byte.

    `left_out`: called with the error for each thing within a folder that cannot be packed, such as
    a link to nowhere, where all else is packed; without it, nothing is, and that error is raised.

    `derive`: GGUF files whose tensors follow from those of other files that are packed, by a plain
    quantiser of llama.cpp or by rounding, are coded against what that quantiser gives. Scales of K
    types are kept, as far as they cannot be guessed; with "small" they are searched for again as
    such a file is restored, which takes longer.

    Parameters and options are those of `compress_file`. `base`: a file that those are coded against
    which share tensors with it, or an archive of several, where each goes with the one of its name;
    `extract` then needs it too.
    """
    chosen = write_options(options, level=level, threads=threads, **keywords)
    paths = list(_several(paths, "paths", str, os.PathLike))
    errors: list[DensorError] = []
    _check_apart(paths, target)
    listed = _each_folder_once(members(paths, None if left_out is None else errors.append))
    listed = _without_target(listed, target, None if left_out is None else errors.append)
    if errors and not listed:
        raise errors[0]  # nothing is left to be packed
    for error in errors:
        _leave_out(error, left_out)
    with contextlib.ExitStack() as stack:
        derived = Derivation(listed, chosen, stack, derive != "small") if derive else None
        archive = stack.enter_context(new_archive(target, chosen, derived=derived))
        told = _told_by_models(listed)
        for member in listed if derived is None else derived.ordered(archive, listed):
            _add_member(archive, member, left_out, told)
    return archive.sizes


def _several(given: Iterable[T], what: str, *kinds: type) -> Iterator[T]:
    """`given`, each of which must be of one of `kinds`; TypeError otherwise, and for one text."""
    if isinstance(given, str | bytes):
        raise TypeError(f"{what} must be a list, not one text")
    for one in given:
        if not isinstance(one, kinds):
            raise TypeError(f"{what} cannot be of type {type(one).__name__}")
        yield one


def _check_apart(paths: Iterable[str | os.PathLike[str]], target: PathOrFile) -> None:
    """ArgumentError for an archive in the place of a file that it is to hold."""
    for path in paths:
        if is_target(target, path):
            raise ArgumentError(f"{plain(path)}: is to be packed; it cannot be the archive too")


def _without_target(
    listed: list[Member], target: PathOrFile, left_out: LeftOut | None
) -> list[Member]:
    """Members but for the archive of an earlier run, which lies in a folder that is packed."""
    kept = []
    for member in listed:
        if is_target(target, member.path):
            _leave_out(FileError(f"{member.path}: is where the archive is written"), left_out)
        else:
            kept.append(member)
    return kept


def _each_folder_once(found: Iterable[Member]) -> list[Member]:
    """Members, but of a folder that several paths have only the last, behind all that is in it."""
    listed = list(found)
    last = {member.name: place for place, member in enumerate(listed)}
    return [
        member
        for place, member in enumerate(listed)
        if last[member.name] == place or not os.path.isdir(member.path)
    ]


def _told_by_models(listed: list[Member]) -> dict[Path, list[TensorInfo]]:
    """The tensors in files of weights beside ONNX models, which only these tell of, by path."""
    known = {member.path for member in listed if isinstance(member.path, Path)}
    told: dict[Path, list[TensorInfo]] = {}
    for path in known:
        if path.suffix != ".onnx":
            continue
        with contextlib.suppress(DensorError, OSError), path.open("rb") as file:
            random = FileRandomSource(file)
            head = Head(FileSource(file), random.size, random, path.name)
            for location, tensors in onnx.external(head).items():
                other = path.parent / location
                if other in known and other != path:
                    told.setdefault(other, []).extend(tensors)
    return told


def _add_member(
    archive: NewArchive,
    member: Member,
    left_out: LeftOut | None,
    told: dict[Path, list[TensorInfo]],
) -> None:
    if isinstance(member.path, Path) and member.path.is_dir():
        with errors_of(member.path):
            status = member.path.stat()
        meta = EntryMeta(member.name, DIR, 0, escaped=member.escaped or None)
        meta.mode, meta.mtime_ns = status.st_mode & 0o777, status.st_mtime_ns
        meta.owner = foreign_owner(status)
        archive.writer.add(meta, MemorySource(b""), [])
        return
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(open_input(member.path))
        except FileError as error:  # one that may not be read
            _leave_out(error, left_out)
            return
        tensors = told.get(member.path) if isinstance(member.path, Path) else None
        add_input(
            archive, member.name, opened, escaped=member.escaped, one_of_many=True, told=tensors
        )


def extract(
    source: PathOrFile,
    folder: str | os.PathLike[str],
    names: Iterable[str] = (),
    threads: int | None = None,
    *,
    overwrite: bool = False,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> list[str]:
    """Restores the files of an archive below `folder`, a path or URL; returns their names.

    `source`: path, URL or binary file object. `names`: only these files and folders, with all that
    is in them; FileError if one is not in the archive. Every file appears whole or not at all.
    Symbolic links that lie in the way below `folder` are not followed. Options are those of
    `decompress_file`.
    """
    chosen = read_options(options, threads=threads, **keywords)
    folder = plain(folder)
    wanted = {name.rstrip("/") or name for name in _several(names, "names", str)}
    extraction = (
        _RemoteExtraction(str(folder), wanted, overwrite)
        if is_url(folder)
        else _Extraction(Path(folder), wanted, overwrite, chosen.sync)
    )
    with open_input(plain(source)) as opened, open_base(chosen) as given:
        few = extraction.few(opened, chosen, given)
        if few is not None:
            extraction.run(few)
        else:
            with with_derived(opened, chosen, given) as base:
                extraction.run(StreamReader(source_of(opened.file), chosen, base))
    missing = extraction.wanted - extraction.found
    if missing:
        raise FileError(f"not in the archive: {', '.join(sorted(missing))}")
    return extraction.done


class _Extraction:
    """One run of `extract`: the file that is open, those that are done, all that was found."""

    def __init__(self, folder: Path, wanted: set[str], overwrite: bool, sync: bool = False) -> None:
        self.wanted = wanted
        self.done: list[str] = []
        self.found: set[str] = set()
        self._folder = folder
        self._places = Places(folder)
        self._overwrite = overwrite
        self._sync = sync
        self._open: contextlib.ExitStack = contextlib.ExitStack()
        self._keep = False
        self._copies: Copies | None = None  # of entries that are not wanted

    def few(
        self, opened: Input, options: ReadOptions, base: GivenBase | None
    ) -> ChosenEntries | None:
        """Reads what is wanted, and nothing else, where that is less than half of an archive."""
        if not self.wanted or opened.random is None:
            return None
        try:
            archive = Archive(opened.random, options, base)
        except DensorError:  # has no index, or is damaged, as whoever reads it will find out
            return None
        chosen = few_of(archive, lambda m: self._is_wanted(m.name) and not is_recipe(m))
        if chosen is None:
            archive.close()
            return None
        return ChosenEntries(archive, chosen, options.progress)

    def run(self, reader: StreamReader | ChosenEntries) -> None:
        """Restores what it reads, and closes it."""
        self._keep = reader.reads_back
        with contextlib.closing(reader), contextlib.ExitStack() as self._open:
            if self._keep and self.wanted:
                self._copies = Copies()
            for entry in reader.entries(self._sink_for):
                self._open.close()  # renames the file into place
                if not self._is_wanted(entry.meta.name) or is_recipe(entry.meta):
                    continue
                self._complete(entry.meta)
                self.found.update(_with_folders(entry.meta.name))
                if entry.meta.kind == FILE:
                    self.done.append(entry.meta.name)
        if not self.wanted:  # an archive of nothing restores an empty folder
            self._make_folder()

    def _is_wanted(self, name: str) -> bool:
        return not self.wanted or not self.wanted.isdisjoint(_with_folders(name))

    def _sink_for(self, meta: EntryMeta) -> Sink:
        if not self._is_wanted(meta.name):
            return NullSink(self._copies)
        if is_recipe(meta):
            return NullSink(Copies() if meta.kind in STEPS else None)
        if meta.kind not in (FILE, DIR):
            raise FormatError(f"{meta.name!r} is not a file but a {meta.kind}; read it in Python")
        return self._new(meta)

    def _complete(self, meta: EntryMeta) -> None:
        name = real_path(meta)
        apply_times_and_mode(self._folder / name, meta.mode, meta.mtime_ns, meta.owner)
        if meta.kind == FILE:
            self._places.made(name)

    def _make_folder(self) -> None:
        with errors_of(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def _new(self, meta: EntryMeta) -> Sink:
        path = self._places.path(real_path(meta))
        make_parents(self._folder, path.parent if meta.kind == FILE else path)
        if meta.kind == DIR:
            return NullSink(None)
        out = self._open.enter_context(
            whole_file(path, self._overwrite, lambda: meta.mode, self._sync)
        )
        return file_sink(out, self._keep, path)


def _with_folders(name: str) -> Iterator[str]:
    """A name and those of the folders that it is in."""
    return itertools.accumulate(name.split("/"), "{}/{}".format)


class _RemoteExtraction(_Extraction):
    """Likewise, below a URL, where there are no folders to be made nor times to be set."""

    def __init__(self, url: str, wanted: set[str], overwrite: bool) -> None:
        super().__init__(Path(), wanted, overwrite)
        self._url = url

    def _complete(self, meta: EntryMeta) -> None:
        pass

    def _make_folder(self) -> None:
        pass

    def _new(self, meta: EntryMeta) -> Sink:
        if meta.kind == DIR:
            return NullSink(None)
        out = self._open.enter_context(open_output(join(self._url, meta.name), self._overwrite))
        return file_sink(out, self._keep)
