"""Single files: compress, decompress, verify. Paths or binary file objects."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from densor.codec.zstd import zstd_decompress
from densor.errors import ArgumentError, DensorError, FileError, FormatError
from densor.formats import strictjson, wire
from densor.formats.archive import parse_entries, parse_frames
from densor.formats.base import GivenBase
from densor.formats.basefile import open_base
from densor.formats.entry import DIR, FILE, EntryMeta, TensorInfo, check_path
from densor.formats.matching import attach, tensors_of
from densor.formats.output import copy_times_and_mode, errors_of, whole_file
from densor.formats.plan import Plan, plan_file
from densor.formats.recovery import check_wanted, protect
from densor.formats.sinks import FileSink, NullSink, PipeSink
from densor.formats.source import FileRandomSource, FileSource
from densor.formats.stream import Entry, Frame, Sink, StreamReader
from densor.formats.writer import ArchiveWriter

Path_or_file = str | os.PathLike[str] | BinaryIO
Progress = Callable[[int], object]


class Sizes(NamedTuple):
    """What a call has done, in bytes."""

    original: int
    stored: int


def is_file_object(thing: object) -> bool:
    """Whether `thing` is a file object rather than a path."""
    return hasattr(thing, "read") or hasattr(thing, "write")


@contextlib.contextmanager
def open_input(source: Path_or_file) -> Iterator[tuple[BinaryIO, os.stat_result | None]]:
    """The binary file behind a path or file object, and its status if it is a regular file."""
    if is_file_object(source):
        yield source, None  # type: ignore[misc]
        return
    path = Path(source)  # type: ignore[arg-type]
    with errors_of(path):
        if path.is_dir():
            raise FileError(f"{path}: is a directory")
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            regular = os.path.isfile(path)
            yield file, status if regular else None


@contextlib.contextmanager
def open_output(target: Path_or_file, overwrite: bool) -> Iterator[BinaryIO]:
    """A binary file for output: whole or not at all where `target` is a path."""
    if is_file_object(target):
        yield target  # type: ignore[misc]
        return
    path = Path(target)  # type: ignore[arg-type]
    with errors_of(path):
        special = path.exists() and not path.is_file()  # a device or named pipe
    if special:
        with errors_of(path), path.open("wb", buffering=0) as file:
            yield file
        return
    with whole_file(path, overwrite) as whole:
        yield whole


def same_file_state(before: os.stat_result | None, file: BinaryIO) -> bool:
    """Whether a file still has the size and modification time that it had."""
    if before is None:
        return True
    now = os.fstat(file.fileno())
    return (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def compress_file(
    source: Path_or_file,
    target: Path_or_file,
    level: int = 3,
    threads: int = 0,
    *,
    dtype: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    verify: bool = False,
    hash: str | None = None,
    base: Any = None,
    recovery: float | None = None,
    progress: Progress | None = None,
) -> Sizes:
    """Packs one file, in bounded memory.

    `source`, `target`: path or binary file object; neither needs to be seekable. `dtype`: treat
    all bytes as elements of this type (`BF16`, `F32`, …). `name`: what the entry is called, by
    default the source's. `verify`: decode the result and compare hashes before the target
    appears; needs a target that can be read again. `base`: a similar file, by path or seekable
    binary file object, that the tensors of this one are coded against where that is smaller; what
    is inside, where it is an archive of one file. Decompressing then needs the same base.
    `recovery`: percent of recovery data, from which `repair` mends damage; needs a target that can
    be read again. Raises a DensorError; then no target is left.
    """
    with open_input(source) as (file, status), open_base(base, threads=threads) as before:
        entry_name = name or _name_of(source)
        size = None if status is None else status.st_size
        meta = EntryMeta(entry_name, FILE, size)
        if status is not None:
            meta.mode, meta.mtime_ns = status.st_mode & 0o777, status.st_mtime_ns
        with open_output(target, overwrite) as out:
            if recovery is not None:
                check_wanted(recovery, out)
            writer = ArchiveWriter(
                out, level, threads, hash=hash, based=before is not None, progress=progress
            )
            try:
                random = None if status is None else FileRandomSource(file)
                tensor = entry_name.removesuffix(".npy")
                plan = plan_file(FileSource(file), size, dtype, level, random=random, name=tensor)
                add_planned(writer, meta, plan, before)
                writer.close()
            finally:
                writer.abort()
            if not same_file_state(status, file):
                raise FileError(f"{entry_name}: changed while it was read")
            if before is not None:
                before.check_unchanged()
            sizes = finished(writer, out, recovery)
            if verify:
                _verify(out, threads, sizes.stored, before)
    if status is not None and not is_file_object(target):
        copy_times_and_mode(Path(source), Path(target))  # type: ignore[arg-type]
    return sizes


def finished(writer: ArchiveWriter, out: BinaryIO, recovery: float | None) -> Sizes:
    """The sizes of an archive that was written to `out`, after recovery data was added to it."""
    stored = writer.written
    if recovery is not None:
        stored = protect(out, out.tell() - stored, recovery)
    return Sizes(writer.original, stored)


def add_planned(
    writer: ArchiveWriter,
    meta: EntryMeta,
    plan: Plan,
    base: GivenBase | None = None,
    base_tensors: Iterable[TensorInfo] | None = None,
) -> None:
    """Adds a file that was looked at, coded against a base if there is one.

    `base_tensors`: those of the base, where they are known.
    """
    meta.format = plan.format
    if base is None:
        writer.add(meta, plan.source, plan.segments, plan.tensors)
        return
    meta.base = base.reference(writer.hash)
    found = tensors_of(base.source) if base_tensors is None else base_tensors
    segments = attach(plan.segments, plan.tensors, found)
    writer.add(meta, plan.source, segments, plan.tensors, base.source)


def _name_of(source: Path_or_file) -> str:
    if is_file_object(source):
        return "stdin"
    name = Path(source).name  # type: ignore[arg-type]
    try:
        return check_path(name)
    except FormatError as error:
        raise ArgumentError(f"{error}; give another with name=") from None


def _verify(out: BinaryIO, threads: int, stored: int, base: GivenBase | None) -> None:
    try:
        out.seek(out.tell() - stored)
    except (OSError, AttributeError):
        raise ArgumentError("verify needs a target that can be read again") from None
    try:
        _test(out, threads, base)
    except DensorError as error:
        raise FileError(f"verification of what was written failed: {error}") from error


def decompress_file(
    source: Path_or_file,
    target: Path_or_file,
    threads: int = 0,
    *,
    overwrite: bool = False,
    max_output_size: int | None = None,
    base: Any = None,
    progress: Progress | None = None,
) -> Sizes:
    """Restores the one file of an archive, byte for byte.

    `source`, `target`: path or binary file object; neither needs to be seekable. FormatError if
    the archive does not hold exactly one file. `base`: what the file was coded against, by path,
    seekable binary file object or bytes, or an archive that holds it; ArgumentError if it is
    needed and missing or another one. Raises a DensorError at the first fault; then no target is
    left (what went to a pipe is gone).
    """
    with open_input(source) as (file, _), open_base(base, threads, max_output_size) as before:
        reader = StreamReader(
            FileSource(file), threads, max_size=max_output_size, progress=progress, base=before
        )
        try:
            with open_output(target, overwrite) as out:
                entry = _only_entry(reader, out)
        finally:
            reader.close()
        if not is_file_object(target) and Path(target).is_file():  # type: ignore[arg-type]
            apply_times_and_mode(Path(target), entry.meta)  # type: ignore[arg-type]
        return Sizes(entry.size, reader.read)


def _only_entry(reader: StreamReader, out: BinaryIO) -> Entry:
    keep = bool(reader.features & wire.BACKREFS)
    sinks = 0

    def sink_for(meta: EntryMeta) -> Sink:
        nonlocal sinks
        sinks += 1
        if sinks > 1 or meta.kind == DIR:
            raise FormatError("archive holds more than one file; use `densor extract`")
        return file_sink(out, keep)

    entries = list(reader.entries(sink_for))
    if not entries:
        raise FormatError("archive is empty")
    return entries[0]


def file_sink(out: BinaryIO, keep: bool, path: Path | None = None) -> Sink:
    """A sink for a file, read back for repetitions where it can be, else copied aside.

    `keep`: whether there may be repetitions; `path`: where the file is once it is closed.
    """
    with contextlib.suppress(AttributeError, OSError):
        if keep and out.seekable() and out.readable():
            return FileSink(out, path)
    return PipeSink(out, keep)


def apply_times_and_mode(path: Path, meta: EntryMeta) -> None:
    """Sets permission bits and modification time, as far as they are known and allowed."""
    with contextlib.suppress(OSError):
        if meta.mode is not None:
            path.chmod(meta.mode)
        if meta.mtime_ns is not None:
            os.utime(path, ns=(meta.mtime_ns, meta.mtime_ns))


def test_file(
    source: Path_or_file,
    threads: int = 0,
    *,
    max_output_size: int | None = None,
    base: Any = None,
    progress: Progress | None = None,
) -> list[Entry]:
    """Decodes a whole archive and verifies every check in it; returns its entries.

    `base`: as for `decompress_file`. Raises the DensorError of the first fault.
    """
    with open_input(source) as (file, _), open_base(base, threads, max_output_size) as before:
        return _test(file, threads, before, max_output_size, progress)


def _test(
    file: BinaryIO,
    threads: int,
    base: GivenBase | None,
    max_output_size: int | None = None,
    progress: Progress | None = None,
) -> list[Entry]:
    reader = StreamReader(
        FileSource(file), threads, max_size=max_output_size, progress=progress, base=base
    )
    try:
        keep = reader.reads_back
        entries = list(reader.entries(lambda meta: NullSink(keep)))
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
