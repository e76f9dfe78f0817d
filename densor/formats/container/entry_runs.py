"""Small entries that stand near each other, to be read and decoded together."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from densor.codec import registry
from densor.codec.spans.decode import SPAN
from densor.codec.spans.table import Numbers
from densor.formats.container import wire
from densor.formats.container.index import Frames, IndexedEntry
from densor.formats.container.spans import MAX_CHUNKS

_MAX_ENTRY = 1 << 16  # original bytes
_MAX_STORED = 2 * SPAN  # bytes of the archive that a run lies in
_ALIGNMENT = 64  # of each entry in memory


class Run(NamedTuple):
    """Entries in order. `whole`: whether chunks are all that one is made of; the others are apart.

    `begin`, `end`: where the frames lie in the archive. `rows`: int64[chunks, 5]: payload, from
    `begin` on, stored bytes, model, place, original bytes. `numbers`: of these frames; `places`: of
    the entries in memory of `size` bytes.
    """

    entries: list[IndexedEntry]
    whole: list[bool]
    begin: int
    end: int
    rows: Numbers
    numbers: Numbers
    places: list[int]
    size: int


def runs(entries: Iterable[IndexedEntry], frames: Frames) -> Iterator[Run | IndexedEntry]:
    """Entries as runs, and those that are to be read by themselves, in their order."""
    gathered: list[IndexedEntry] = []
    size = count = 0
    for entry in entries:
        small = entry.size <= _MAX_ENTRY and entry.meta.base is None
        full = size + entry.size > SPAN or count + entry.frames > MAX_CHUNKS
        if gathered and (not small or full or not _follows(gathered, entry, frames)):
            yield from _run(gathered, frames)
            gathered, size, count = [], 0, 0
        if small:
            gathered.append(entry)
            size += entry.size + _ALIGNMENT
            count += entry.frames
        else:
            yield entry
    yield from _run(gathered, frames)


def _follows(gathered: list[IndexedEntry], entry: IndexedEntry, frames: Frames) -> bool:
    """Whether an entry is the next in the archive, and near the first."""
    if gathered[-1].number + 1 != entry.number:
        return False
    first, last = gathered[0].first_frame, entry.first_frame + entry.frames - 1
    stored = frames.offsets[last] + frames.stored[last] - frames.offsets[first]
    return bool(stored <= _MAX_STORED)


def _run(entries: list[IndexedEntry], frames: Frames) -> Iterator[Run | IndexedEntry]:
    """One run of entries; none where they name too many models."""
    if len(entries) < 2:
        yield from entries
        return
    counts = np.array([entry.frames for entry in entries])
    firsts = np.array([entry.first_frame for entry in entries])
    owners = np.repeat(np.arange(len(entries)), counts)
    numbers = np.arange(owners.size) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
    kinds = frames.kinds[numbers]
    repeated = np.zeros(len(entries), np.bool_)
    repeated[owners[kinds == wire.REF]] = True
    mine = (kinds == wire.CHUNK) & ~repeated[owners]
    numbers, owners = numbers[mine], owners[mine]
    models = frames.models[numbers]
    alone = not numbers.size or len(entries) - int(repeated.sum()) < 2
    if alone or np.unique(models).size > registry.MODEL_WINDOW:
        yield from entries
        return
    sizes = np.array([entry.size for entry in entries])
    aligned = -(-sizes // _ALIGNMENT) * _ALIGNMENT
    places = np.cumsum(aligned) - aligned
    original = frames.original[numbers]
    before = np.cumsum(original) - original
    before -= before[np.searchsorted(owners, owners)]  # in the entry
    begin, end = int(frames.offsets[firsts[0]]), int(frames.offsets[firsts[-1] + counts[-1] - 1])
    payloads = frames.offsets[numbers] + wire.FRAME_SIZE
    end = max(end, int((payloads + frames.stored[numbers]).max()))
    columns = payloads - begin, frames.stored[numbers], models, places[owners] + before, original
    whole = [not one for one in repeated.tolist()]
    yield Run(
        entries, whole, begin, end, np.stack(columns, 1), numbers, places.tolist(),
        int(aligned.sum()),
    )  # fmt: skip
