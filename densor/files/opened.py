"""Inputs and outputs that a caller names by path, by URL, or by a binary file object."""

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from densor.errors import ArgumentError, FileError
from densor.formats.container.entry import escape_path
from densor.formats.container.wire import MAGIC, begins_archive
from densor.formats.io.outputs import errors_of, foreign_owner, is_special, whole_file
from densor.formats.io.sources import (
    BytesIORandomSource,
    FileRandomSource,
    PlacedSource,
    RandomSource,
    RandomSourceFrom,
    Source,
    seekable,
    source_of,
)
from densor.formats.io.urls import is_url, name_of, plain

PathOrFile = str | os.PathLike[str] | BinaryIO


def is_file_object(thing: object) -> bool:
    """Whether `thing` is a file object rather than a path."""
    return hasattr(thing, "read") or hasattr(thing, "write")


class Input(NamedTuple):
    """A file that is open for reading, and what is known of it; None for what is not."""

    file: BinaryIO
    size: int | None = None
    mode: int | None = None
    mtime_ns: int | None = None
    random: RandomSource | None = None  # the same bytes; reading them does not move `file`
    unchanged: Callable[[], bool] = lambda: True
    owner: tuple[int, int] | None = None  # of user and group, where not those of this process

    @property
    def stored(self) -> int | None:
        """Its bytes, as far as that is known."""
        return len(self.file.getvalue()) if type(self.file) is io.BytesIO else self.size

    def source(self) -> Source:
        """All of it from start to end; where threads may read parts of it, they do."""
        if self.random is None or not isinstance(self.random, FileRandomSource):
            return source_of(self.file)
        return PlacedSource(self.random)


@contextlib.contextmanager
def open_input(source: PathOrFile, whole: bool = False) -> Iterator[Input]:
    """The binary file behind a path, URL or file object.

    `whole`: whether all of it will be read, so that a file object that can be sought in is a file
    of as many bytes as are left in it, and stands behind them in the end.
    """
    if is_url(source):
        with _open_remote(str(source)) as remote:
            yield remote
        return
    if is_file_object(source):
        _need_binary(source)
        opened = Input(source)  # type: ignore[arg-type]
        begin = _place_in(opened.file) if whole else None
        opened = opened if begin is None else _from(opened.file, begin)
        yield opened
        if begin is not None and opened.size is not None:
            opened.file.seek(begin + opened.size)
        return
    path = Path(source)  # type: ignore[arg-type]
    with errors_of(path):
        if path.is_dir():
            raise FileError(f"{path}: is a directory")
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not os.path.isfile(path) or _is_pseudo(path, file, status):
                yield Input(file)
                return
            mode, mtime = status.st_mode & 0o777, status.st_mtime_ns
            random = FileRandomSource(file)
            unchanged = partial(same_file_state, status, file)
            owner = foreign_owner(status)
            yield Input(file, status.st_size, mode, mtime, random, unchanged, owner)


def _need_binary(file: object) -> None:
    if isinstance(file, io.TextIOBase):
        raise TypeError("a file object must be binary, not one of text")


def need_two(source: PathOrFile, target: PathOrFile) -> None:
    """ArgumentError where one file object is to be read from and written to."""
    if source is target and is_file_object(source):
        raise ArgumentError("source and target are the same file object")


def _place_in(file: BinaryIO) -> int | None:
    """Where a file object stands that can be sought in at no great cost; None for any other.

    Such as one that unpacks all that it passes over.
    """
    layers = (file, getattr(file, "raw", None))  # below a buffer
    bases = (base for layer in layers for base in type(layer).__mro__)
    if any(base.__module__.partition(".")[0] in _UNPACKERS for base in bases):
        return None
    return _told(file) if seekable(file) else None


def _told(file: BinaryIO) -> int | None:
    """What a file object says of where it stands; None where that is no place."""
    try:
        at = file.tell()
    except (AttributeError, OSError, ValueError):
        return None
    return at if isinstance(at, int) and at >= 0 else None


def _from(file: BinaryIO, begin: int) -> Input:
    """A file object from `begin` on, where it stands; a stream where its size is not to be told."""
    if type(file) is io.BytesIO:
        memory = BytesIORandomSource(file, begin)
        return Input(file, memory.size, random=memory)
    try:
        everything = FileRandomSource(file)
    except (FileError, NotImplementedError):  # of a class that has no more than read
        if _told(file) != begin:
            raise FileError("cannot read: a place in the file cannot be returned to") from None
        return Input(file)
    left = RandomSourceFrom(everything, begin)
    if not left.size:  # such as a device
        return Input(file)
    if not everything.positioned:
        return Input(file, left.size, random=left)
    status = os.fstat(file.fileno())
    real = os.path.realpath(f"/proc/self/fd/{file.fileno()}")
    if not stat.S_ISREG(status.st_mode) or real.startswith(_PSEUDO):
        return Input(file)
    unchanged = partial(same_file_state, status, file)
    return Input(file, left.size, random=left if begin else everything, unchanged=unchanged)


def _is_pseudo(path: Path, file: BinaryIO, status: os.stat_result) -> bool:
    """Whether what the system says of the size of a file is not to be believed."""
    if os.path.realpath(path).startswith(_PSEUDO):
        return True
    if status.st_size or not file.read(1):
        return False
    file.seek(0)
    return True


@contextlib.contextmanager
def _open_remote(url: str) -> Iterator[Input]:
    from densor.formats.io.remote import Remote, RemoteSource, open_reader

    place = Remote(url)
    status = place.status()
    random = None if status.size is None else RemoteSource(place, status.size)

    def unchanged() -> bool:
        return place.status() == status

    with open_reader(place) as file:
        yield Input(file, status.size, None, status.mtime_ns, random, unchanged)


@contextlib.contextmanager
def open_output(
    target: PathOrFile,
    overwrite: bool,
    mode: Callable[[], int | None] = lambda: None,
    sync: bool = False,
) -> Iterator[BinaryIO]:
    """A binary file for output: whole or not at all where `target` is a path or URL.

    `mode`: asked in the end for the permissions of a new file, None for those that any one gets.
    `sync`: whether a file is on the disk at the end.
    """
    if is_url(target):
        from densor.formats.io import remote

        with remote.whole_file(str(target), overwrite) as there:
            yield there
        return
    if is_file_object(target):
        _need_binary(target)
        yield target  # type: ignore[misc]
        return
    path = Path(target)  # type: ignore[arg-type]
    with errors_of(path):
        special = is_special(path)
    if special:
        with errors_of(path), path.open("wb", buffering=0) as file:
            yield file
        return
    with whole_file(path, overwrite, mode, sync) as whole:
        yield whole


# Modules of files that unpack others, and of what those are made from.
_UNPACKERS = ("_compression", "compression", "gzip", "bz2", "lzma", "zipfile")
_PSEUDO = ("/proc/", "/sys/")  # whose files tell sizes that are not those of their content


def is_archive(source: PathOrFile | bytes) -> bool:
    """Whether a path, URL, binary file object or bytes hold a densor archive, by its first bytes.

    A file object stays where it is if it can be sought in. FileError for what cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return begins_archive(bytes(source[: len(MAGIC)]))
    with open_input(plain(source)) as opened:
        seekable = is_file_object(source) and opened.file.seekable()
        before = opened.file.tell() if seekable else 0
        with errors_of("input"):
            magic = opened.file.read(len(MAGIC))
        if seekable:
            opened.file.seek(before)
        return begins_archive(magic)


def same_file_state(before: os.stat_result, file: BinaryIO) -> bool:
    """Whether a file still has the size and modification time that it had."""
    now = os.fstat(file.fileno())
    return (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def entry_name(source: PathOrFile) -> tuple[str, bool]:
    """What the entry of a file is called, and whether that is escaped.

    ArgumentError if no archive may hold the name.
    """
    if is_file_object(source):
        return "stdin", False
    name = name_of(str(source)) or "file" if is_url(source) else Path(source).name  # type: ignore[arg-type]
    try:
        return escape_path(os.fsencode(name))
    except ArgumentError as error:
        raise ArgumentError(f"{error}; give another with name=") from None
