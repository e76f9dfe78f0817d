"""Mends damaged archives: from recovery data, or where what is lost follows from what is left."""

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from densor.errors import ChecksumError, FormatError
from densor.formats.container import wire
from densor.formats.container.frames import frame_at
from densor.formats.container.index import read_index
from densor.formats.container.short_form import in_ordinary_form
from densor.formats.damage import recovery, scan
from densor.formats.damage.recovery import Layout
from densor.formats.io.outputs import (
    check_still_there,
    errors_of,
    to_be_replaced,
    whole_file,
    write_all,
)
from densor.formats.io.sources import FileRandomSource, RandomSource, ReadableSource
from densor.formats.io.urls import plain
from densor.runtime.buffers import POOL

_PIECE = 1 << 22


class Repaired(NamedTuple):
    """What `repair` has found and done."""

    blocks: int  # damaged blocks of the archive
    frames: int  # damaged frames of its recovery data
    ends: bool  # whether the header or the end was damaged
    protected: bool  # whether the archive has recovery data now

    @property
    def was_whole(self) -> bool:
        """Whether there was nothing to repair."""
        return not (self.blocks or self.frames or self.ends)


def repair(
    archive: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    recovery: float | None = None,
) -> Repaired:
    """Writes a whole archive in place of a damaged one, or to `target`.

    Damage is mended from recovery data, if the archive has any; otherwise only a damaged header,
    and an end that is missing behind the index. The result is verified before it appears: the
    hash of every frame must match. `recovery`: percent of recovery data that the result shall
    have; by default as before. A sound archive is left as it is, unless something is asked for.
    ChecksumError if more is lost than can be mended; `salvage` gets out what is left.
    """
    path = Path(os.path.realpath(plain(archive)))  # what a link leads to, not the link
    with errors_of(path), path.open("rb", buffering=0) as file, contextlib.ExitStack() as stack:
        before = os.fstat(file.fileno())
        if target is None:
            before = stack.enter_context(to_be_replaced(path, file))
        source = ReadableSource(FileRandomSource(file))
        work = _Work(source, recovery)
        if target is None and recovery is None and work.done.was_whole:
            return work.done
        goal = path if target is None else Path(plain(target))
        mode, same = before.st_mode & 0o777, partial(check_still_there, path, before)
        replaces = overwrite or target is None
        with whole_file(goal, replaces, lambda: mode, last_check=same) as out:
            work.write(out)
            _check_whole(FileRandomSource(out))
    return work.done


class _Work:
    """What has to be done for one archive."""

    def __init__(self, source: RandomSource, percent: float | None) -> None:
        if percent is not None:
            recovery.check_wanted(percent)
        self._source = source = in_ordinary_form(source)
        self._percent = percent
        self._layout = recovery.find_layout(source)
        if self._layout is None:
            self._ends = _ends_of(source)
            ends = self._ends.header is not None or self._ends.tail
            self.done = Repaired(0, 0, ends, percent is not None)
            return
        found = recovery.damage_of(source, self._layout)
        if found.hopeless:
            raise ChecksumError(
                f"{found.hopeless} of {self._layout.groups} groups of blocks have lost more than "
                "recovery data can mend; densor extract --salvage gets out what is left"
            )
        self.done = Repaired(found.blocks, found.frames, found.tail, True)

    def write(self, out: BinaryIO) -> None:
        """Writes the whole archive."""
        if self._layout is None:
            self._write_ends(out)
        elif self._percent is None:
            _write_mended(self._source, self._layout, out)
        else:
            layout = self._layout
            _write_data(self._source, layout, out)
            out.seek(layout.protected)
            write_all(out, wire.pack_end(layout.index_at, layout.frames))
            recovery.protect(out, 0, self._percent)

    def _write_ends(self, out: BinaryIO) -> None:
        ends = self._ends
        copy(self._source, out, 0, ends.kept)
        write_all(out, ends.end)
        if ends.header is not None:
            out.seek(0)
            write_all(out, ends.header)
            out.seek(0, os.SEEK_END)
        if self._percent is not None:
            recovery.protect(out, 0, self._percent)


def copy(source: RandomSource, out: BinaryIO, begin: int, end: int) -> None:
    """Copies a stretch of bytes."""
    for at in range(begin, end, _PIECE):
        data = source.read_at(at, min(_PIECE, end - at))
        write_all(out, data)
        POOL.give(data)


def _write_data(source: RandomSource, layout: Layout, out: BinaryIO) -> None:
    """Writes the protected bytes, mended."""
    copy(source, out, 0, min(source.size, layout.protected))
    for group in recovery.groups_of(source, layout):
        if not group.damaged:
            continue
        blocks = recovery.mended(layout, group)
        for row in group.damaged:
            at = (row * layout.groups + group.number) * layout.block
            out.seek(at)
            write_all(out, np.ascontiguousarray(blocks[row, : layout.protected - at]))


def _write_mended(source: RandomSource, layout: Layout, out: BinaryIO) -> None:
    """Writes the protected bytes, all recovery data and the end."""
    _write_data(source, layout, out)
    whole = FileRandomSource(out)
    for first, blocks in recovery.batches(whole, layout):
        for column in range(blocks.shape[1]):
            group = first + column
            frames = recovery.parity_frames(layout, group, blocks[:, column])
            for number, frame in enumerate(frames):
                out.seek(layout.frame_offset(group, number))
                write_all(out, frame)
    out.seek(layout.end_at)
    write_all(out, layout.end)


def _check_whole(source: RandomSource) -> None:
    """ChecksumError unless all checks of the header and of all frames pass, the last one is END."""
    limit = wire.parse_header(source.read_at(0, wire.HEADER_SIZE).tobytes()).limit
    last = None
    for number, stretch in enumerate(scan.walk(source, limit)):
        if not stretch.sound:
            raise ChecksumError("archive is still damaged after the repair; nothing was written")
        last = number, stretch
    if last is None or last[1].header is None or last[1].header.kind != wire.END:
        raise ChecksumError("archive has no end after the repair; nothing was written")
    end = wire.parse_end(frame_at(source, last[1].offset, limit).payload)
    if end.frames != last[0]:
        raise ChecksumError("archive has another number of frames after the repair")


class _Ends(NamedTuple):
    """What an archive without recovery data needs to be whole."""

    header: bytes | None  # a new header, if it was damaged
    kept: int  # bytes that stay
    end: bytes  # what follows them
    tail: bool  # whether that is new


def _ends_of(source: RandomSource) -> _Ends:
    """ChecksumError if something is lost that the rest does not tell."""
    header = _header_of(source)
    index, features = None, 0
    for number, stretch in enumerate(scan.walk(source), 1):
        if not stretch.sound or stretch.header is None:
            break
        kind = stretch.header.kind
        if kind == wire.REF:
            features |= wire.BACKREFS
        if kind == wire.INDEX:
            index = stretch, number
        if kind == wire.END:
            if stretch.end != source.size:
                break
            return _whole_to_the_end(source, header, index, features)
    if index is None:
        raise ChecksumError(
            "archive is damaged and has no recovery data; densor extract --salvage gets out what "
            "is left"
        )
    stretch, frames = index
    features |= _features_of_index(source, stretch)
    end = wire.pack_end(stretch.offset, frames)
    return _Ends(_renewed(header, features), stretch.end, end, True)


def _whole_to_the_end(
    source: RandomSource,
    header: wire.Header | None,
    index: tuple[scan.Stretch, int] | None,
    features: int,
) -> _Ends:
    if header is None and index is None:
        raise ChecksumError("header of the archive is damaged, and there is no index to tell it")
    if header is None and index is not None:
        features |= _features_of_index(source, index[0])
    return _Ends(_renewed(header, features), source.size, b"", False)


def _renewed(header: wire.Header | None, features: int) -> bytes | None:
    return wire.pack_header(features) if header is None else None


def _header_of(source: RandomSource) -> wire.Header | None:
    """The header, None if it is damaged; UnsupportedError if it is of a newer version."""
    try:
        return wire.parse_header(source.read_at(0, min(wire.HEADER_SIZE, source.size)).tobytes())
    except (FormatError, ChecksumError):
        return None


def _features_of_index(source: RandomSource, stretch: scan.Stretch) -> int:
    """The features that an archive needs by its index, which must fit what stands before it."""
    entries = read_index(frame_at(source, stretch.offset, wire.CHUNK_LIMIT)).entries
    based = any(entry.meta.base is not None for entry in entries)
    return wire.BASE if based else 0
