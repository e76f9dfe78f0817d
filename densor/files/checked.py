"""Decodes whole archives and verifies every check in them."""

from dataclasses import replace
from typing import BinaryIO

from densor.codec.zstd import zstd_decompress
from densor.errors import ArgumentError, DensorError, FileError, FormatError
from densor.files.opened import open_input
from densor.formats.container import strictjson
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import EntryMeta
from densor.formats.container.index import parse_entries, parse_frames
from densor.formats.container.sinks import Copies, NullSink
from densor.formats.container.stream_reader import Entry, Frame, StreamReader
from densor.formats.io.sources import FileSource, Source
from densor.options import ReadOptions


def stream_reader(source: Source, options: ReadOptions, base: GivenBase | None) -> StreamReader:
    """A reader of an archive front to back; `base`: that of `options`, opened."""
    return StreamReader(
        source,
        options.threads,
        max_size=options.max_output_size,
        progress=options.progress,
        base=base,
        llm=options.language_model,
    )


def check_archive(file: BinaryIO, options: ReadOptions, base: GivenBase | None) -> list[Entry]:
    """Decodes an archive and drops what comes out; raises the DensorError of the first fault."""
    reader = stream_reader(FileSource(file), options, base)
    try:
        copies = Copies() if reader.reads_back else None
        entries = list(reader.entries(lambda meta: NullSink(copies)))
    finally:
        reader.close()
    if reader.index is not None:
        _compare_with_index(entries, *reader.index)
    return entries


def _identity(meta: EntryMeta, size: int, hash_kind: int, digest: bytes) -> tuple[object, ...]:
    return meta.name, meta.kind, meta.dtype, meta.shape, size, hash_kind, digest


def _compare_with_index(entries: list[Entry], frame: Frame, offset: int) -> None:
    """Raises FormatError unless the index lists just the entries that were read."""
    text = zstd_decompress(frame.payload, frame.header.original)
    index = strictjson.loads(text, "index")
    listed = parse_entries(index, parse_frames(index, offset))
    found = [_identity(e.meta, e.size, e.hash_kind, e.digest) for e in entries]
    if found != [_identity(e.meta, e.size, e.hash_kind, e.digest) for e in listed]:
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
        with open_input(url) as found:
            entries = check_archive(found.file, replace(options, max_output_size=None), base)
        if [[entry.hash_kind, entry.digest.hex()] for entry in entries] != digests:
            raise FileError("it holds something else")
    except DensorError as error:
        Remote(url).remove()
        raise FileError(f"verification of what was written failed: {error}") from error
