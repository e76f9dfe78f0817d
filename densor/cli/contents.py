"""What an archive holds, read from its index."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.cli import checks, console
from densor.codec import registry
from densor.codec.codecs import CODECS
from densor.errors import DensorError
from densor.files.opened import open_input
from densor.formats.container import hashing, wire
from densor.formats.container.archive import Archive
from densor.formats.container.entry import FILE
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.container.open_base import open_base
from densor.formats.io.outputs import errors_of
from densor.formats.io.sources import FileRandomSource, RandomSource
from densor.formats.io.urls import is_url, plain
from densor.formats.packed.archive import PackedArchive, packed_file_at
from densor.options import ReadOptions

_ONE_THREAD = ReadOptions(threads=1)
_NAMES = 8  # of lossy files that are listed
_HASHES = {number: name for name, number in hashing.KINDS.items()}


class Opened(NamedTuple):
    """An archive that is open for random access."""

    archive: Any  # an Archive, or a PackedArchive where that was asked for
    stored: int  # bytes of the whole archive
    version: int  # of the format

    @property
    def original(self) -> int:
        """Bytes of all entries."""
        return sum(entry.size for entry in self.archive.entries)


@contextlib.contextmanager
def opened(
    path: str, options: ReadOptions = _ONE_THREAD, *, packed: bool = False
) -> Iterator[Opened]:
    """Opens an archive that has an index; `packed`: or a packed safetensors file."""
    checks.source_file(path)
    file = packed_file_at(path) if packed else None
    if file is not None:
        yield Opened(PackedArchive(file, options), file.stored_size, 0)
        return
    with random_source(path) as source, open_base(options) as base:
        archive = Archive(source, options, base)
        try:
            version = int.from_bytes(source.read_at(8, 2).tobytes(), "little")
            yield Opened(archive, source.size, version)
        finally:
            archive.close()


@contextlib.contextmanager
def random_source(path: str) -> Iterator[RandomSource]:
    """What is at a path or URL, to be read at random."""
    if is_url(path := plain(path)):
        from densor.formats.io.remote import Remote, RemoteSource

        yield RemoteSource(Remote(path))
        return
    with errors_of(path):
        file = Path(path).open("rb")  # noqa: SIM115
    with file:
        yield FileRandomSource(file)


def holds(path: str, original: str) -> bool:
    """Whether the one file of an archive has the hash that this file has, which is read for it."""
    with opened(path) as file, open_input(plain(original)) as read:
        (entry,) = file.archive.entries
        wanted = hashing.new_hash(hash_name(entry))
        while piece := read.file.read(1 << 22):
            wanted.update(piece)
        return bool(wanted.digest() == entry.digest)


def recovery_share(path: str) -> str:
    """How much recovery data an archive has, such as 5%; empty where it has none."""
    from densor.formats.damage.recovery import find_layout

    with random_source(path) as source:
        layout = find_layout(source, thorough=False)
    return "" if layout is None else f"{layout.percent:g}%"


def original_size(path: str) -> int | None:
    """Bytes that all entries of an archive have, None where that cannot be told."""
    try:
        with opened(path) as file:
            return file.original
    except (DensorError, OSError):
        return None


def lossy_names(entries: Sequence[IndexedEntry]) -> Iterator[str]:
    """The files that only approximate others, in words, as one text; none where there are none."""
    names = [entry.meta.name for entry in entries if entry.meta.lossy]
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    if names:
        yield ", ".join(map(console.escape, names[:_NAMES])) + more


def hash_name(entry: IndexedEntry) -> str:
    """Which hash of the original an entry has."""
    return _HASHES.get(entry.hash_kind, f"hash {entry.hash_kind}")


def sizes_of(path: str) -> list[str]:
    """The cells that `densor -l` shows of an archive."""
    with opened(path) as file:
        entries = file.archive.entries
        checks_used = sorted({hash_name(entry) for entry in entries})
        notes = ["lossy"] if any(entry.meta.lossy for entry in entries) else []
        return [
            console.size(file.stored),
            console.size(file.original),
            console.percent(file.stored, file.original),
            str(len(entries)),
            str(len(file.archive.tensors())),
            ",".join(checks_used + notes) or "-",
        ]


def is_readable(archive: Archive, entry: IndexedEntry) -> bool:
    """Whether the bytes of an entry can be had without what is outside the archive."""
    while (base := entry.meta.base) is not None:
        if base.entry is None:
            return False
        entry = archive.entries[base.entry]  # an earlier one
    return True


class Coded(NamedTuple):
    """All chunks of one kind of coding; `frames`: which of the archive's they are."""

    codec: str
    frames: npt.NDArray[np.bool_]
    original: int  # bytes that they stand for
    stored: int

    @property
    def chunks(self) -> int:
        """How many."""
        return int(np.count_nonzero(self.frames))


def coded(archive: Archive, models: Sequence[bytes]) -> Iterator[Coded]:
    """The chunks of an archive by kind of coding; `models`: the payloads of its MODEL frames."""
    names = {number: codec.about for number, codec in CODECS.items()}
    frames = archive.frames
    chunk = frames.kinds == wire.CHUNK
    codecs = np.array([payload[0] if payload else 0 for payload in models], np.int64)
    own = chunk & (frames.models >= registry.FIRST_MODEL)
    codec = np.zeros(frames.kinds.size, np.int64)  # of the chunks that have one
    known = own & (frames.models < registry.FIRST_MODEL + codecs.size)
    codec[known] = codecs[frames.models[known] - registry.FIRST_MODEL]
    named = ((int(number), own & (codec == number)) for number in np.unique(codec[own]))
    for name, chosen in (
        *((names.get(number, f"codec {number}"), chosen) for number, chosen in named),
        ("Zstandard", chunk & (frames.models == registry.MODEL_ZSTD)),
        ("raw", chunk & (frames.models == registry.MODEL_RAW)),
        ("repeated", frames.kinds == wire.REF),
    ):
        if chosen.any():
            original, stored = (int(x[chosen].sum()) for x in (frames.original, frames.stored))
            yield Coded(name, chosen, original, stored)


def describe(file: Opened) -> list[dict[str, Any]]:
    """Entries and the tensors in them, in words fit for JSON; sizes in bytes.

    What shares stored bytes with others has as much of them as of what they hold. `base`: the
    entry that one is coded against, None where that is outside of the archive.
    """
    return [_entry(file.archive, entry) for entry in file.archive.entries]


def _entry(archive: Archive, entry: IndexedEntry) -> dict[str, Any]:
    meta = entry.meta
    described: dict[str, Any] = {"name": meta.name, "kind": meta.kind}
    if meta.format is not None:
        described["format"] = meta.format
    if meta.lossy:
        described["lossy"] = True
    if meta.dtype is not None:
        described |= {"dtype": meta.dtype, "shape": list(meta.shape or ())}
    described |= _sizes(archive, entry, 0, entry.size)
    if meta.base is not None:
        within = meta.base.entry
        described["base"] = None if within is None else archive.entries[within].meta.name
    described[hash_name(entry)] = entry.digest.hex()
    if meta.kind == FILE:
        described["tensors"] = [
            {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
            | _sizes(archive, entry, tensor.offset, tensor.offset + tensor.size)
            for tensor in meta.tensors
        ]
    return described


def _sizes(archive: Archive, entry: IndexedEntry, begin: int, end: int) -> dict[str, Any]:
    original, stored = end - begin, archive.stored_size(entry, begin, end)
    ratio = round(stored / original, 4) if original else None
    return {"original": original, "stored": stored, "ratio": ratio}
