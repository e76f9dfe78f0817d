"""Single files: compress, decompress, verify. Paths or binary file objects."""

import contextlib
import io
import os
from pathlib import Path
from typing import BinaryIO, Unpack

from densor.errors import FileError, FormatError
from densor.files.opened import (
    PathOrFile,
    entry_name,
    is_file_object,
    need_two,
    open_input,
    open_output,
)
from densor.formats.container import wire
from densor.formats.container.entry import DIR, STEPS, EntryMeta
from densor.formats.container.open_base import open_base
from densor.formats.container.sinks import (
    Copies,
    FileSink,
    NewBytesSink,
    NullSink,
    PipeSink,
    PlacedFileSink,
    Sink,
)
from densor.formats.container.stream_reader import Entry, StreamReader
from densor.formats.io.outputs import (
    Sizes,
    WholeFile,
    apply_times_and_mode,
    copy_times_and_mode,
    is_special,
)
from densor.formats.io.urls import is_url, plain
from densor.options import (
    ReadKeywords,
    ReadOptions,
    WriteKeywords,
    WriteOptions,
    read_options,
    write_options,
)


def compress_file(
    source: PathOrFile,
    target: PathOrFile,
    level: int | None = None,
    threads: int | None = None,
    *,
    name: str | None = None,
    options: WriteOptions | None = None,
    **keywords: Unpack[WriteKeywords],
) -> Sizes:
    """Packs one file, in bounded memory.

    `source`, `target`: path, URL that fsspec knows, or binary file object; neither needs to be
    seekable, but a `source` that is counts as a file: formats are known that are not read in
    order. `level`: 1 to 9, by default 3. `threads`: by default 0, all processors. `name`: what the
    entry is called, by default the source's. Options, as keywords or as an object:

    - `verify`: decode the result and compare hashes before the target appears; needs a target that
      can be read again. What is at a URL is read back when it is there, and removed if it is not
      what it should be. What a language model codes is decoded at once unless this is False.
    - `base`: a similar file, by path, URL or seekable binary file object, that the tensors of this
      one are coded against where that is smaller; what is inside, where it is an archive of one
      file, of at most `max_output_size` bytes. Decompressing then needs the same base.
    - `text`: code plain bytes by context mixing, as level 9 does, whatever the level.
    - `llm`: code the bytes of files without tensors under a language model: a folder, a GGUF file,
      or `sample` or `smollm2`; decompressing needs the same.
    - `recovery`: percent of recovery data, from which `repair` restores what was damaged; needs a
      target that can be read again.
    - `dtype`: treat all bytes as elements of this type (`BF16`, `F32`, …).
    - `raw`: how samples of sound or images lie, `audio:44100:2:s16` or `image:640x480x3:u8`.
    - `hash`, `gpu_index`, `overwrite`, `progress`: see `densor.options.WriteOptions`.

    Raises a DensorError; then no target is left.
    """
    from densor.files.new_archive import add_input, new_archive  # for which readers need not wait

    chosen = write_options(options, level=level, threads=threads, **keywords)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a text, not {type(name).__name__}")
    source, target = plain(source), plain(target)
    need_two(source, target)
    with (
        open_input(source, whole=True) as opened,
        new_archive(target, chosen, opened.mode, alone=True) as archive,
    ):
        called, escaped = (name, False) if name else entry_name(source)
        add_input(archive, called, opened, escaped=escaped)
    if opened.mode is not None and _is_plain(target):
        copy_times_and_mode(Path(source), Path(target))  # type: ignore[arg-type]
    return archive.sizes


def decompress_file(
    source: PathOrFile,
    target: PathOrFile,
    threads: int | None = None,
    *,
    overwrite: bool = False,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> Sizes:
    """Restores the one file of an archive, byte for byte.

    `source`, `target`: path, URL or binary file object; neither needs to be seekable. FormatError
    if the archive does not hold exactly one file. Options, as keywords or as an object:

    - `base`: what the file was coded against, by path, seekable binary file object or bytes, or an
      archive that holds it; ArgumentError if it is needed and missing or another one.
    - `llm`: the language model that was used, where that has no name of its own.
    - `max_output_size`: LimitError where there are more bytes. `progress`: see `ReadOptions`.

    Raises a DensorError at the first fault; then no target is left (what went to a pipe is gone).
    """
    chosen = read_options(options, threads=threads, **keywords)
    source, target = plain(source), plain(target)
    need_two(source, target)
    with open_input(source) as opened, open_base(chosen) as base:
        reader = StreamReader(opened.source(), chosen, base)
        try:
            told: list[EntryMeta] = []
            mode = lambda: told[0].mode if told else None  # noqa: E731
            with open_output(target, overwrite, mode, chosen.sync) as out:
                entry = _only_entry(reader, out, opened.stored)
                told.append(entry.meta)
        finally:
            reader.close()
        if _is_plain(target):
            restored = Path(target)  # type: ignore[arg-type]
            meta = entry.meta
            apply_times_and_mode(restored, meta.mode, meta.mtime_ns, meta.owner)
        return Sizes(entry.size, reader.read)


def _is_plain(target: PathOrFile) -> bool:
    """Whether this is the path of a file of its own, which may get permissions and times."""
    if is_file_object(target) or is_url(target):
        return False
    path = Path(target)  # type: ignore[arg-type]
    return path.is_file() and not is_special(path)


def _only_entry(reader: StreamReader, out: BinaryIO, stored: int | None) -> Entry:
    """Decodes the one entry of an archive, of `stored` bytes where that is known, to a file."""
    keep = bool(reader.features & wire.BACKREFS)
    sinks = 0
    new: NewBytesSink | None = None

    def sink_for(meta: EntryMeta) -> Sink:
        nonlocal sinks, new
        if meta.kind in STEPS:
            return NullSink(Copies())
        sinks += 1
        if sinks > 1 or meta.kind == DIR:
            raise FormatError("archive holds more than one file; use `densor extract`")
        new = _new_bytes(out, reader.size_of(meta), stored)
        return file_sink(out, keep) if new is None else new

    entries = [entry for entry in reader.entries(sink_for) if entry.meta.kind not in STEPS]
    if not entries:
        raise FormatError("archive is empty")
    if new is not None and isinstance(out, io.BytesIO):
        out.__init__(new.finished())  # type: ignore[misc] # which it takes as it is
        out.seek(0, os.SEEK_END)
    return entries[0]


def _new_bytes(out: BinaryIO, size: int | None, stored: int | None) -> NewBytesSink | None:
    """Where what an empty `io.BytesIO` will hold is made, without a copy; None for other files."""
    if type(out) is not io.BytesIO or out.closed or size is None or stored is None:
        return None
    if out.tell() or out.getbuffer().nbytes or not wire.is_possible(size, stored):
        return None
    try:
        out.truncate()
    except BufferError:
        raise FileError("cannot write: the memory of the file is in use") from None
    with contextlib.suppress(MemoryError):
        return NewBytesSink(size)
    return None


def file_sink(out: BinaryIO, keep: bool, path: Path | None = None) -> Sink:
    """A sink for a file, read back for repetitions where it can be, else copied aside.

    `keep`: whether there may be repetitions; `path`: where the file is once it is closed.
    """
    if isinstance(out, WholeFile):
        return PlacedFileSink(out, path)
    with contextlib.suppress(AttributeError, OSError):
        if keep and out.seekable() and out.readable():
            return FileSink(out, path)
    return PipeSink(out, keep)


def verify_file(
    source: PathOrFile,
    threads: int | None = None,
    *,
    options: ReadOptions | None = None,
    **keywords: Unpack[ReadKeywords],
) -> list[Entry]:
    """Decodes a whole archive and verifies every check in it; returns its entries.

    Options are those of `decompress_file`. Raises the DensorError of the first fault.
    """
    from densor.files.checked import check_archive
    from densor.files.derive import with_derived  # with all that writers need

    chosen = read_options(options, threads=threads, **keywords)
    with (
        open_input(plain(source)) as opened,
        open_base(chosen) as given,
        with_derived(opened, chosen, given) as base,
    ):
        return check_archive(opened.file, chosen, base)
