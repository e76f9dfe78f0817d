"""The index at the end of an archive: its columns of frames and its list of entries, checked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.zstd import zstd_decompress
from densor.errors import FormatError, LimitError, TruncatedError, UnsupportedError
from densor.formats.container import strictjson, wire
from densor.formats.container.entry import (
    Known,
    Listed,
    parse_digest,
    parse_listed,
    parse_tensors,
)
from densor.formats.container.frames import Frame, frame_at
from densor.formats.container.index_scan import LEAST, scan
from densor.formats.container.listed_entries import Entries, IndexedEntry, TensorColumns
from densor.formats.io.sources import RandomSource

_UNCOUNTED = 1 << 24  # bytes of an index that no limit of the caller's counts


class Frames(NamedTuple):
    """All frames before the index: kind, model, stored and original length, offset in the file."""

    kinds: npt.NDArray[np.int64]
    models: npt.NDArray[np.int64]
    stored: npt.NDArray[np.int64]
    original: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    def header(self, number: int) -> wire.FrameHeader:
        """The header of a frame; its hash is not in the index."""
        kind, model, stored, original = (int(column[number]) for column in self[:4])
        return wire.FrameHeader(kind, stored, original, model, 0)

    def headers(self, first: int = 0, last: int | None = None) -> list[wire.FrameHeader]:
        """Likewise, of frames `first` to `last` - 1, by default all."""
        rows = zip(*(column[first:last].tolist() for column in self[:4]), strict=True)
        return [wire.FrameHeader(kind, size, most, model, 0) for kind, model, size, most in rows]


class Index(NamedTuple):
    """An index, all of it checked."""

    frames: Frames
    entries: Sequence[IndexedEntry]


def find_index(source: RandomSource, limit: int) -> Frame:
    """The INDEX frame that the end of an archive points to; UnsupportedError if it has none."""
    if source.size < wire.HEADER_SIZE + wire.END_SIZE:
        raise TruncatedError("archive ends before its END frame")
    end_at = source.size - wire.END_SIZE
    if source.read_at(end_at, len(wire.END_BEGINS)).tobytes() != wire.END_BEGINS:
        raise TruncatedError("archive does not end with an END frame")
    at = wire.parse_end(frame_at(source, end_at, limit).payload).index_at
    if not at:
        raise UnsupportedError("archive has no index; decompress it as a whole")
    if not wire.HEADER_SIZE <= at <= end_at - wire.FRAME_SIZE:
        raise FormatError("END frame points outside the archive")
    frame = frame_at(source, at, limit)
    if frame.header.kind != wire.INDEX:
        raise FormatError("END frame does not point to an index")
    return frame


def unpack_index(frame: Frame, most: int | None = None) -> dict[str, Any]:
    """The JSON of an INDEX frame, unchecked. `most`: bytes that a read may return."""
    return strictjson.loads(_text(frame, most), "index")


def _text(frame: Frame, most: int | None) -> bytes:
    if most is not None and frame.header.original > most + _UNCOUNTED:
        raise LimitError(f"index has more than the {most} bytes allowed")
    return zstd_decompress(frame.payload, frame.header.original)


def read_index(frame: Frame, most: int | None = None) -> Index:
    """What an INDEX frame says; a DensorError unless it accounts for all that stands before it."""
    text = _text(frame, most)
    scanned = scan(text, frame.offset) if len(text) >= LEAST else None
    if scanned is not None:
        frames = _parse_frames(scanned.columns, frame.offset)
        if scanned.tensors is None:
            return Index(frames, _parse_entries(scanned.entries, frames, scanned.listed))
        if _fit(scanned.tensors, frames):
            return Index(frames, Entries(scanned.tensors))
    found = strictjson.loads(text, "index")
    frames = _parse_frames([_column(found, key) for key in wire.COLUMNS], frame.offset)
    return Index(frames, _parse_entries(found.get("entries"), frames, None))


def before_each(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The sum of all before each, and at the end the sum of all."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _column(index: dict[str, Any], key: str) -> npt.NDArray[np.int64]:
    values = index.get(key)
    if not isinstance(values, list):
        raise FormatError(f"index has no list {key!r}")
    if not set(map(type, values)) <= {int} or not all(-1 < v < 1 << 32 for v in _ends(values)):
        raise FormatError(f"index has a bad value in {key!r}")
    return np.array(values, np.int64)


def _ends(values: list[int]) -> list[int]:
    return [min(values), max(values)] if values else []


def _parse_frames(columns: list[npt.NDArray[np.int64]], index_at: int) -> Frames:
    """The columns of an index that stands at this file offset; FormatError if they can't be."""
    kinds, models, stored, original = columns
    if any((column >= 1 << 32).any() for column in columns):
        raise FormatError("index has a bad value in a column")
    if not kinds.size == models.size == stored.size == original.size:
        raise FormatError("columns of the index differ in length")
    ends = wire.HEADER_SIZE + np.cumsum(stored + wire.FRAME_SIZE)
    if (int(ends[-1]) if ends.size else wire.HEADER_SIZE) != index_at:
        raise FormatError("index does not account for all bytes of the archive")
    sized = (kinds == wire.CHUNK) | (kinds == wire.REF)
    if ((original > 0) != sized).any() or (original > wire.CHUNK_LIMIT).any():
        raise FormatError("index has frames of impossible size")
    return Frames(kinds, models, stored, original, ends - stored - wire.FRAME_SIZE)


def _fit(tensors: TensorColumns, frames: Frames) -> bool:
    """Whether entries are made of the frames that they name."""
    first, count, total = tensors.first, tensors.frames, frames.kinds.size
    if (count < 2).any() or (first > total).any() or (count > total - first).any():
        return False
    last = first + count
    begins = before_each(frames.original)
    ends = (frames.kinds[first] == wire.ENTRY) & (frames.kinds[last - 1] == wire.ENTRY_END)
    whole = ends & (begins[last] - begins[first] == tensors.sizes)
    return bool(whole.all() and (first[1:] >= last[:-1]).all())


def _parse_entries(
    found: object, frames: Frames, listed: list[Listed] | None
) -> list[IndexedEntry]:
    """The entries that an index lists, all of it checked against its frames.

    `listed`: the tensors in each, where they were taken out.
    """
    if not isinstance(found, list):
        raise FormatError("index has no list of entries")
    totals = before_each(frames.original).tolist()
    kinds = frames.kinds.tolist()
    entries: list[IndexedEntry] = []
    at = 0
    known: Known = {}
    for number, item in enumerate(found):
        of_file = None if listed is None else listed[number]
        entry = _parse_entry(number, item, kinds, totals, known, of_file)
        if entry.first_frame < at:
            raise FormatError("entries of the index overlap")
        at = entry.first_frame + entry.frames
        entries.append(entry)
    if len({entry.meta.name for entry in entries}) != len(entries):
        raise FormatError("index has two entries of the same name")
    return entries


def _parse_entry(
    number: int,
    item: object,
    kinds: list[int],
    totals: list[int],
    known: Known,
    listed: Listed | None,
) -> IndexedEntry:
    if not isinstance(item, dict):
        raise FormatError("entry of the index is not an object")
    meta = parse_listed(item, known)
    span, digest = item.get("frames"), item.get("digest")
    if meta.size is None or not isinstance(span, list) or len(span) != 2:
        raise FormatError("entry of the index has no size and frames")
    first = strictjson.integer(span[0], "frames", len(kinds))
    count = strictjson.integer(span[1], "frames", len(kinds) - first, 2)
    if totals[first + count] - totals[first] != meta.size:
        raise FormatError(f"{meta.name}: frames of the index do not add up to its size")
    if kinds[first] != wire.ENTRY or kinds[first + count - 1] != wire.ENTRY_END:
        raise FormatError(f"{meta.name}: frames of the index are not those of an entry")
    hash_kind, raw = parse_digest(digest, f"{meta.name} in the index")
    if "tensors" in item or "others" in item:
        meta.tensors = parse_tensors(item, meta.size, listed)
    return IndexedEntry(number, meta, meta.size, first, count, hash_kind, raw)
