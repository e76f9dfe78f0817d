"""Opens the file that another one is coded against, also where it is in an archive."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from densor.buffers import POOL
from densor.errors import ArgumentError, FileError
from densor.formats import wire
from densor.formats.archive import Archive, IndexedEntry
from densor.formats.base import GivenBase
from densor.formats.entry import FILE, BaseRef
from densor.formats.output import errors_of, write_all
from densor.formats.source import FileRandomSource, MemoryRandomSource, RandomSource


@contextlib.contextmanager
def open_base(
    base: Any, wanted: Sequence[BaseRef] | None = None, threads: int = 1
) -> Iterator[GivenBase | None]:
    """A base by path, seekable binary file object or bytes; None stays None.

    Where it is an archive, one of its files is decoded to a temporary file: that which is `wanted`,
    else the only one. FileError if the base changes while it is in use.
    """
    if base is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        name = None
        if isinstance(base, bytes | bytearray | memoryview):
            source: RandomSource = MemoryRandomSource(base)
        elif hasattr(base, "read"):
            source = FileRandomSource(base)
        else:
            name = Path(base).name
            source = stack.enter_context(_unchanged(Path(base)))
        magic = source.read_at(0, min(len(wire.MAGIC), source.size)).tobytes()
        if magic == wire.MAGIC:
            file, name = _unpacked(source, name, wanted, threads)
            source = FileRandomSource(stack.enter_context(file))
        yield GivenBase(source, name)


@contextlib.contextmanager
def _unchanged(path: Path) -> Iterator[FileRandomSource]:
    with errors_of(path):
        if path.is_dir():
            raise FileError(f"{path}: is a directory")
        file = path.open("rb")
    with file:
        before = os.fstat(file.fileno())
        yield FileRandomSource(file)
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise FileError(f"{path}: changed while it was read")


def _unpacked(
    source: RandomSource, name: str | None, wanted: Sequence[BaseRef] | None, threads: int
) -> tuple[BinaryIO, str]:
    """A temporary file with the bytes of a file in an archive, and the name of that file."""
    archive = Archive(source, threads)
    try:
        entry = _entry_of(archive, name or "base", wanted)
        file = tempfile.TemporaryFile()  # it goes with its last user
        try:
            for piece in archive.pieces(entry):
                write_all(file, piece)
                POOL.give(piece)
            file.flush()
        except BaseException:
            file.close()
            raise
        return file, entry.meta.name
    finally:
        archive.close()


def _entry_of(archive: Archive, name: str, wanted: Sequence[BaseRef] | None) -> IndexedEntry:
    files = [entry for entry in archive.entries if entry.meta.kind == FILE]
    keys = {(ref.size, ref.hash_kind, ref.digest) for ref in wanted or ()}
    for entry in files:
        if (entry.size, entry.hash_kind, entry.digest) in keys:
            return entry
    if len(files) != 1:
        raise ArgumentError(f"base {name} is an archive of {len(files)} files; extract one of them")
    return files[0]
