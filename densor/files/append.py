"""Chains of checkpoints: one more file into an archive, coded against one that is there."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Unpack

from densor.errors import ArgumentError, FileError
from densor.files.checked import check_written
from densor.files.new_archive import add_planned, planned
from densor.files.opened import entry_name, open_input
from densor.formats.container.archive import Archive
from densor.formats.container.base import GivenBase
from densor.formats.container.entry import FILE, BaseRef, EntryMeta, new_path
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.container.open_base import open_base
from densor.formats.container.writer import ArchiveWriter
from densor.formats.damage.recovery import check_wanted, find_layout, protect
from densor.formats.io.outputs import (
    Sizes,
    check_still_there,
    errors_of,
    to_be_replaced,
    whole_file,
)
from densor.formats.io.sources import FileRandomSource, source_of
from densor.formats.io.urls import plain
from densor.options import WriteKeywords, WriteOptions, write_options
from densor.runtime.arguments import need_whole

MAX_HOPS = 8  # bases of bases that a new entry may need; beyond, it is stored by itself


def append(
    archive: str | os.PathLike[str],
    source: str | os.PathLike[str],
    level: int | None = None,
    threads: int | None = None,
    *,
    name: str | None = None,
    base_entry: str | None = None,
    most_hops: int = MAX_HOPS,
    options: WriteOptions | None = None,
    **keywords: Unpack[WriteKeywords],
) -> Sizes:
    """Adds a file to an archive, coded against the latest file in it where that is smaller.

    `name`: of the new entry, by default the source's. `base_entry`: another file of the archive to
    code against. After `most_hops` bases of bases, a file is stored by itself. The archive is
    written anew beside the old one, and takes its place when it is whole, so that nothing is lost
    if that fails; there must be room for both. Returns the size of the file and by how much the
    archive grew, recovery data left out.

    Options are those of `compress_file`, but `base`: what the archive's entries are based on
    outside of it, if they are; `llm`: the language model that texts in the archive were coded
    under, and that the new file is if it has no tensors; `recovery`: by default what the archive
    has; `max_output_size`: LimitError where what is decoded of the archive, or its base, is larger.
    """
    chosen = write_options(options, level=level, threads=threads, **keywords)
    need_whole(most_hops=most_hops)
    path = Path(os.path.realpath(plain(archive)))  # what a link leads to, not the link
    with errors_of(path):
        file = path.open("rb")
    reading = chosen.reading()
    with file, to_be_replaced(path, file) as before, open_base(reading) as given:
        old = Archive(FileRandomSource(file), reading, given)
        try:
            own = _new_name(old, Path(plain(source)), name)
            chosen = replace(chosen, recovery=_recovery(file, chosen))
            mode, same = before.st_mode & 0o777, partial(check_still_there, path, before)
            with whole_file(path, True, lambda: mode, last_check=same) as out:
                entry = _chosen(old, base_entry, most_hops)
                base = None if entry is None else _EntryInArchive(old, entry)
                grown = _with_file(ArchiveWriter(out, chosen), old, base, Path(plain(source)), own)
                if chosen.recovery is not None:
                    protect(out, 0, chosen.recovery)
                if chosen.verify:
                    check_written(out, out.tell(), reading, given)
        finally:
            old.close()
        return grown


def _new_name(old: Archive, source: Path, name: str | None) -> tuple[str, bool]:
    """What the new entry is called, and whether that is escaped; ArgumentError if one is."""
    own, escaped = entry_name(source) if name is None else (new_path(name), False)
    if old.find(own) is not None:
        hint = "give the new one another name with --name (name=)"
        raise ArgumentError(f"archive already has an entry named {own!r}; {hint}")
    return own, escaped


def _with_file(
    writer: ArchiveWriter,
    old: Archive,
    base: "_EntryInArchive | None",
    source: Path,
    name: tuple[str, bool],
) -> Sizes:
    """Writes the archive with one more file in it; returns by how much it grew."""
    try:
        writer.copy(old)
        copied = writer.written if old.short is None else old.short
        original = writer.original
        _add(writer, base, source, name)
        writer.close()
    finally:
        writer.abort()
    return Sizes(writer.original - original, writer.written - copied)


def _recovery(file: BinaryIO, options: WriteOptions) -> float | None:
    """Percent of recovery data that the archive shall have: what it has, if none is asked for."""
    percent = options.recovery
    if percent is None:
        layout = find_layout(FileRandomSource(file), thorough=False)
        percent = None if layout is None else layout.percent
    if percent is not None:
        check_wanted(percent)
    return percent


def _add(
    writer: ArchiveWriter,
    base: "_EntryInArchive | None",
    source: Path,
    name: tuple[str, bool],
) -> None:
    own, escaped = name
    with open_input(source) as opened:
        meta = EntryMeta(own, FILE, opened.size, mode=opened.mode, mtime_ns=opened.mtime_ns)
        meta.escaped, meta.owner = escaped or None, opened.owner
        plan = planned(writer, meta, source_of(opened.file), opened.random)
        add_planned(writer, meta, plan, base, None if base is None else base.tensors)
        if not opened.unchanged():
            raise FileError(f"{source}: changed while it was read")


def _chosen(old: Archive, name: str | None, most_hops: int) -> IndexedEntry | None:
    """The entry to code against, None where there is none or the chain is too long."""
    files = [entry for entry in old.entries if entry.meta.kind == FILE]
    if name is not None:
        files = [entry for entry in files if entry.meta.name == name]
        if not files:
            raise ArgumentError(f"no file named {name!r} in the archive")
    if not files or old.chains[files[-1].number] >= most_hops:
        return None
    return files[-1]


class _EntryInArchive(GivenBase):
    """A file of the archive that is being added to."""

    def __init__(self, archive: Archive, entry: IndexedEntry) -> None:
        super().__init__(archive.as_source(entry))
        self._entry = entry
        self.tensors = entry.meta.tensors

    def reference(self, hash: str | None = None) -> BaseRef:
        """The number of the entry, with the hash that it has."""
        entry = self._entry
        return BaseRef(entry.size, entry.hash_kind, entry.digest, entry.number)
