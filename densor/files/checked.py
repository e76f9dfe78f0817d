"""Decodes whole archives and verifies every check in them."""

from dataclasses import replace
from typing import BinaryIO

from densor.errors import ArgumentError, DensorError, FileError, FormatError
from densor.files.opened import open_input
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import EntryMeta
from densor.formats.container.frames import Frame
from densor.formats.container.index import read_index
from densor.formats.container.sinks import Copies, NullSink
from densor.formats.container.stream_reader import Entry, StreamReader
from densor.formats.io.sources import source_of
from densor.options import ReadOptions


def check_archive(file: BinaryIO, options: ReadOptions, base: GivenBase | None) -> list[Entry]:
    """Decodes an archive and drops what comes out; raises the DensorError of the first fault."""
    reader = StreamReader(source_of(file), options, base)
    try:
        copies = Copies() if reader.reads_back else None
        entries = list(reader.entries(lambda meta: NullSink(copies)))
    finally:
        reader.close()
    if reader.index is not None:
        _compare_with_index(entries, reader.index)
    return entries


def _identity(meta: EntryMeta, size: int, hash_kind: int, digest: bytes) -> tuple[object, ...]:
    return meta.name, meta.kind, meta.dtype, meta.shape, size, hash_kind, digest


def _compare_with_index(entries: list[Entry], frame: Frame) -> None:
    """Raises FormatError unless the index lists just the entries that were read."""
    listed = read_index(frame).entries
    decoded = [_identity(e.meta, e.size, e.hash_kind, e.digest) for e in entries]
    if decoded != [_identity(e.meta, e.size, e.hash_kind, e.digest) for e in listed]:
        raise FormatError("index does not list what the archive holds")


def check_written(out: BinaryIO, stored: int, options: ReadOptions, base: GivenBase | None) -> None:
    """FileError unless the archive of `stored` bytes that ends at the file's position is sound."""
    try:
        out.seek(out.tell() - stored)
    except (OSError, AttributeError):
        raise ArgumentError("verify needs a target that can be read again") from None
    try:
        check_archive(out, replace(options, max_output_size=None), base)
    except DensorError as error:
        raise FileError(f"verification of what was written failed: {error}") from error


def check_uploaded(
    url: str, digests: list[list[object]], options: ReadOptions, base: GivenBase | None
) -> None:
    """FileError unless what is at a URL holds what was written; removes it then."""
    from densor.formats.io.remote import Remote

    try:
        with open_input(url) as written:
            entries = check_archive(written.file, replace(options, max_output_size=None), base)
        if [[entry.hash_kind, entry.digest.hex()] for entry in entries] != digests:
            raise FileError("it holds something else")
    except DensorError as error:
        Remote(url).remove()
        raise FileError(f"verification of what was written failed: {error}") from error
