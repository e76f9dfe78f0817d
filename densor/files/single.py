"""Single files: compress, decompress, verify. Paths or binary file objects."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from densor.codec.zstd import zstd_decompress
from densor.errors import ArgumentError, DensorError, FileError, FormatError
from densor.formats.container import strictjson, wire
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import DIR, FILE, EntryMeta, check_path
from densor.formats.container.index import parse_entries, parse_frames
from densor.formats.container.open_base import open_base
from densor.formats.container.sinks import Copies, FileSink, NullSink, PipeSink
from densor.formats.container.stream_reader import Entry, Frame, Sink, StreamReader
from densor.formats.container.writer import ArchiveWriter
from densor.formats.damage.recovery import check_wanted, protect
from densor.formats.io.outputs import copy_times_and_mode, errors_of, whole_file
from densor.formats.io.sources import FileRandomSource, FileSource, RandomSource
from densor.formats.io.urls import is_url, name_of, plain
from densor.formats.parsers.base_matching import attach, tensors_of
from densor.formats.parsers.plan import Plan, plan_file
from densor.formats.tensors import TensorInfo

Path_or_file = str | os.PathLike[str] | BinaryIO
Progress = Callable[[int], object]


class Sizes(NamedTuple):
    """What a call has done, in bytes."""

    original: int
    stored: int


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


@contextlib.contextmanager
def open_input(source: Path_or_file) -> Iterator[Input]:
    """The binary file behind a path, URL or file object."""
    if is_url(source):
        with _open_remote(str(source)) as found:
            yield found
        return
    if is_file_object(source):
        yield Input(source)  # type: ignore[arg-type]
        return
    path = Path(source)  # type: ignore[arg-type]
    with errors_of(path):
        if path.is_dir():
            raise FileError(f"{path}: is a directory")
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not os.path.isfile(path):
                yield Input(file)
                return
            mode, mtime = status.st_mode & 0o777, status.st_mtime_ns
            random = FileRandomSource(file)
            unchanged = partial(same_file_state, status, file)
            yield Input(file, status.st_size, mode, mtime, random, unchanged)


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
def open_output(target: Path_or_file, overwrite: bool) -> Iterator[BinaryIO]:
    """A binary file for output: whole or not at all where `target` is a path or URL."""
    if is_url(target):
        from densor.formats.io import remote

        with remote.whole_file(str(target), overwrite) as there:
            yield there
        return
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


def same_file_state(before: os.stat_result, file: BinaryIO) -> bool:
    """Whether a file still has the size and modification time that it had."""
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
    verify: bool | None = None,
    hash: str | None = None,
    base: Any = None,
    text: bool = False,
    llm: Any = None,
    recovery: float | None = None,
    gpu_index: bool = False,
    progress: Progress | None = None,
) -> Sizes:
    """Packs one file, in bounded memory.

    `source`, `target`: path, URL that fsspec knows, or binary file object; neither needs to be
    seekable. `dtype`: treat all bytes as elements of this type (`BF16`, `F32`, …). `name`: what the
    entry is called, by default the source's. `verify`: decode the result and compare hashes before
    the target appears; needs a target that can be read again. What is at a URL is read back when
    it is there, and removed if it is not what it should be. `base`: a similar file, by path, URL or
    seekable binary file object, that the tensors of this one are coded against where that is
    smaller; what is inside, where it is an archive of one file. Decompressing then needs the same
    base. `text`: code plain bytes by context mixing, as level 9 does, whatever the level. `llm`:
    code the bytes of files without tensors under a language model: a folder, a GGUF file, or a name
    that `densor.llm.load` knows; decompressing needs the same. What it codes is decoded at once and
    compared unless `verify` is False.
    `recovery`: percent of recovery data, from which `repair` mends damage; needs a target that can
    be read again. `gpu_index`: store entry points for GPUs, as for `compress`.
    Raises a DensorError; then no target is left.
    """
    source, target = plain(source), plain(target)
    with open_input(source) as found, open_base(base, threads, llm=llm) as before:
        with open_output(target, overwrite) as out:
            if recovery is not None:
                check_wanted(recovery, out)
            writer = ArchiveWriter(
                out,
                level,
                threads,
                hash=hash,
                based=before is not None,
                text=text,
                llm=llm,
                verify=verify is not False,
                gpu_index=gpu_index,
                progress=progress,
            )
            try:
                add_input(writer, name or entry_name(source), found, dtype, before)
                writer.close()
            finally:
                writer.abort()
            if before is not None:
                before.check_unchanged()
            sizes = finished(writer, out, recovery)
            if verify and not is_url(target):
                _verify(out, threads, sizes.stored, before, llm)
        if verify and is_url(target):
            _verify_remote(str(target), writer.digests, threads, before, llm)
    if found.mode is not None and not is_file_object(target) and not is_url(target):
        copy_times_and_mode(Path(source), Path(target))  # type: ignore[arg-type]
    return sizes


def add_input(
    writer: ArchiveWriter,
    name: str,
    found: Input,
    dtype: str | None = None,
    base: GivenBase | None = None,
) -> None:
    """Adds a file under a name; FileError if it changes while it is read."""
    meta = EntryMeta(name, FILE, found.size, mode=found.mode, mtime_ns=found.mtime_ns)
    tensor = name.removesuffix(".npy")
    source = FileSource(found.file)
    plan = plan_file(source, found.size, dtype, writer.level, random=found.random, name=tensor)
    add_planned(writer, meta, plan, base)
    if not found.unchanged():
        raise FileError(f"{name}: changed while it was read")


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
        writer.add(meta, plan.source, plan.segments, plan.listed)
        return
    meta.base = base.reference(writer.hash)
    found = tensors_of(base.source) if base_tensors is None else base_tensors
    segments = attach(plan.segments, plan.tensors, found)
    writer.add(meta, plan.source, segments, plan.listed, base.source)


def entry_name(source: Path_or_file) -> str:
    """What the entry of a file is called; ArgumentError if no archive may hold the name."""
    if is_file_object(source):
        return "stdin"
    name = name_of(str(source)) if is_url(source) else Path(source).name  # type: ignore[arg-type]
    try:
        return check_path(name)
    except FormatError as error:
        raise ArgumentError(f"{error}; give another with name=") from None


def _verify(out: BinaryIO, threads: int, stored: int, base: GivenBase | None, llm: Any) -> None:
    try:
        out.seek(out.tell() - stored)
    except (OSError, AttributeError):
        raise ArgumentError("verify needs a target that can be read again") from None
    try:
        _test(out, threads, base, llm=llm)
    except DensorError as error:
        raise FileError(f"verification of what was written failed: {error}") from error


def _verify_remote(
    url: str, digests: list[list[object]], threads: int, base: GivenBase | None, llm: Any
) -> None:
    from densor.formats.io.remote import Remote

    try:
        with open_input(url) as found:
            entries = _test(found.file, threads, base, llm=llm)
        if [[entry.hash_kind, entry.digest.hex()] for entry in entries] != digests:
            raise FileError("it holds something else")
    except DensorError as error:
        Remote(url).remove()
        raise FileError(f"verification of what was written failed: {error}") from error


def decompress_file(
    source: Path_or_file,
    target: Path_or_file,
    threads: int = 0,
    *,
    overwrite: bool = False,
    max_output_size: int | None = None,
    base: Any = None,
    llm: Any = None,
    progress: Progress | None = None,
) -> Sizes:
    """Restores the one file of an archive, byte for byte.

    `source`, `target`: path, URL or binary file object; neither needs to be seekable. FormatError
    if the archive does not hold exactly one file. `base`: what the file was coded against, by path,
    seekable binary file object or bytes, or an archive that holds it; ArgumentError if it is
    needed and missing or another one. `llm`: the language model that was used, where that has no
    name of its own. Raises a DensorError at the first fault; then no target is left (what went to a
    pipe is gone).
    """
    source, target = plain(source), plain(target)
    with open_input(source) as found, open_base(base, threads, max_output_size, llm) as before:
        reader = StreamReader(
            FileSource(found.file),
            threads,
            max_size=max_output_size,
            progress=progress,
            base=before,
            llm=llm,
        )
        try:
            with open_output(target, overwrite) as out:
                entry = _only_entry(reader, out)
        finally:
            reader.close()
        restored = None if is_file_object(target) or is_url(target) else Path(str(target))
        if restored is not None and restored.is_file():
            apply_times_and_mode(restored, entry.meta)
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
    llm: Any = None,
    progress: Progress | None = None,
) -> list[Entry]:
    """Decodes a whole archive and verifies every check in it; returns its entries.

    `base`, `llm`: as for `decompress_file`. Raises the DensorError of the first fault.
    """
    limits = threads, max_output_size
    with open_input(plain(source)) as found, open_base(base, *limits, llm) as before:
        return _test(found.file, threads, before, max_output_size, progress, llm)


def _test(
    file: BinaryIO,
    threads: int,
    base: GivenBase | None,
    max_output_size: int | None = None,
    progress: Progress | None = None,
    llm: Any = None,
) -> list[Entry]:
    reader = StreamReader(
        FileSource(file),
        threads,
        max_size=max_output_size,
        progress=progress,
        base=base,
        llm=llm,
    )
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
