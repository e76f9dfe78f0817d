"""Opens the file that another one is coded against, also where it is in an archive."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from densor.errors import ArgumentError, FileError
from densor.formats.container import wire
from densor.formats.container.archive import Archive
from densor.formats.container.base import GivenBase, described
from densor.formats.container.entry import FILE, BaseRef
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.io.outputs import errors_of, write_all
from densor.formats.io.sources import (
    FileRandomSource,
    MemoryRandomSource,
    RandomSource,
    random_source_of,
)
from densor.formats.io.urls import is_url, name_of, plain
from densor.options import ReadOptions
from densor.runtime.locks import Lock


@contextlib.contextmanager
def open_base(options: ReadOptions) -> Iterator[GivenBase | None]:
    """`options.base`: a path, URL, seekable binary file object or bytes; None stays None.

    Where it is an archive, what is meant is the file in it, or that one of several whose hash is
    asked for; it is decoded to a temporary file. LimitError if that is larger than `options` allow.
    """
    if options.base is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        given = _given(options.base, stack)
        if is_archive(given.source):
            archive = Archive(given.source, options)
            stack.callback(archive.close)
            given = _PackedBase(given, archive, stack)
        yield given


def is_archive(source: RandomSource) -> bool:
    """Whether a file begins as archives do."""
    return wire.begins_archive(source.read_at(0, min(len(wire.MAGIC), source.size)))


def _given(base: Any, stack: contextlib.ExitStack) -> GivenBase:
    if isinstance(base, bytes | bytearray | memoryview):
        return GivenBase(MemoryRandomSource(base))
    if hasattr(base, "read"):
        return GivenBase(random_source_of(cast(BinaryIO, base)))
    base = plain(base)
    if is_url(base):
        return _remote(base)
    path = Path(base)
    with errors_of(path):
        if path.is_dir():
            raise FileError(f"{path}: is a directory")
        if path.exists() and not path.is_file():  # such as a pipe, which cannot be read at random
            raise FileError(f"{path}: is no regular file, as a base has to be")
        file = stack.enter_context(path.open("rb"))
        before = os.fstat(file.fileno())

    def check_unchanged() -> None:
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise FileError(f"{path}: changed while it was read")

    return GivenBase(FileRandomSource(file), path.name, check_unchanged)


def _remote(url: str) -> GivenBase:
    from densor.formats.io.remote import Remote, RemoteSource

    place = Remote(url)
    before = place.status()

    def check_unchanged() -> None:
        if place.status() != before:
            raise FileError(f"{place.label}: changed while it was read")

    return GivenBase(RemoteSource(place, before.size), name_of(url), check_unchanged)


class _PackedBase(GivenBase):
    """A base in an archive; its entries are decoded when they are asked for."""

    def __init__(self, given: GivenBase, archive: Archive, stack: contextlib.ExitStack) -> None:
        super().__init__(given.source, given.name, given.check_unchanged)
        self._archive = archive
        self._stack = stack
        self._unpacked: dict[int, RandomSource] = {}
        self._unpacking = Lock()

    @property
    def source(self) -> RandomSource:
        """The bytes of the only file in the archive; ArgumentError if there are several."""
        files = [entry for entry in self._archive.entries if entry.meta.kind == FILE]
        if len(files) != 1:
            raise ArgumentError(
                f"base {self.name} is an archive of {len(files)} files; extract one of them"
            )
        return self._unpack(files[0])

    def file(self, name: str) -> GivenBase | None:
        """The file of this name in the archive, or the only one."""
        files = [entry for entry in self._archive.entries if entry.meta.kind == FILE]
        if len(files) == 1:
            return self
        named = [entry for entry in files if entry.meta.name == name]
        return GivenBase(self._unpack(named[0]), name) if named else None

    def matching(self, wanted: BaseRef) -> RandomSource:
        """The file of this size and hash; ArgumentError if there is none."""
        for entry in self._archive.entries:
            if (entry.size, entry.hash_kind, entry.digest) == wanted[:3]:
                return self._unpack(entry)
        raise ArgumentError(f"base {self.name} does not hold what is needed, {described(wanted)}")

    def _unpack(self, entry: IndexedEntry) -> RandomSource:
        with self._unpacking:
            if entry.number not in self._unpacked:
                self._archive.check_size({entry.number: entry.size})
                import tempfile

                file = tempfile.TemporaryFile()  # noqa: SIM115
                self._stack.callback(file.close)
                for piece in self._archive.pieces(entry):
                    write_all(file, piece)
                file.flush()
                self._unpacked[entry.number] = FileRandomSource(file)
            return self._unpacked[entry.number]
