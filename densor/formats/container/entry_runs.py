"""Small entries that stand near each other, to be read and decoded together."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.spans.decode import SPAN
from densor.codec.spans.table import Numbers
from densor.formats.container import wire
from densor.formats.container.index import Frames
from densor.formats.container.listed_entries import Entries, IndexedEntry
from densor.formats.container.spans import MAX_CHUNKS

_MAX_ENTRY = 1 << 16  # original bytes
_MAX_STORED = 2 * SPAN  # bytes of the archive that a run lies in
_ALIGNMENT = 64  # of each entry in memory


class Run(NamedTuple):
    """Entries in order, `first` to `stop` of some. `whole`: whether chunks are all that one is made
    of; the others are apart.

    `begin`, `end`: where the frames lie in the archive. `rows`: int64[chunks, 5]: payload, from
    `begin` on, stored bytes, model, place, original bytes. `numbers`: of these frames; `places`: of
    the entries in memory of `size` bytes.
    """

    first: int
    stop: int
    whole: list[bool]
    begin: int
    end: int
    rows: Numbers
    numbers: Numbers
    places: list[int]
    size: int


class Members(NamedTuple):
    """Entries as columns: int64[n] each. `small`: whether one may be read with others."""

    numbers: Numbers
    sizes: Numbers
    first: Numbers
    frames: Numbers
    small: npt.NDArray[np.bool_]

    def part(self, begin: int, end: int) -> "Members":
        """Some of them."""
        numbers, sizes, first, frames, small = self
        which = slice(begin, end)
        return Members(numbers[which], sizes[which], first[which], frames[which], small[which])


def members_of(entries: Sequence[IndexedEntry]) -> Members:
    """The columns of entries."""
    if isinstance(entries, Entries):
        columns, numbers = entries.columns, np.arange(len(entries))
        sizes = columns.sizes
        return Members(numbers, sizes, columns.first, columns.frames, sizes <= _MAX_ENTRY)
    rows = [(e.number, e.size, e.first_frame, e.frames, e.meta.base is None) for e in entries]
    table = np.array(rows, np.int64).reshape(-1, 5).T
    numbers, sizes, first, frames, free = table
    return Members(numbers, sizes, first, frames, (sizes <= _MAX_ENTRY) & (free > 0))


def runs(members: Members, frames: Frames) -> Iterator[Run | int]:
    """Entries as runs, and those that are to be read by themselves, by place, in their order."""
    numbers, sizes, first, count, small = members
    last = first + count - 1
    ends = frames.offsets[last] + frames.stored[last]
    apart = ~small[1:] | ~small[:-1] | (np.diff(numbers) != 1)
    breaks = [*(np.flatnonzero(apart) + 1).tolist(), numbers.size]
    begin = 0
    for end in breaks:
        weights, frames_to = np.cumsum(sizes[begin:end] + _ALIGNMENT), np.cumsum(count[begin:end])
        at = begin
        while at < end:
            before = at - begin
            weight, frames_at = (int(c[before - 1]) if before else 0 for c in (weights, frames_to))
            stored = int(frames.offsets[first[at]]) + _MAX_STORED
            stop = begin + min(
                int(np.searchsorted(weights, weight + SPAN, "right")),
                int(np.searchsorted(frames_to, frames_at + MAX_CHUNKS, "right")),
                int(np.searchsorted(ends[begin:end], stored, "right")),
            )
            stop = max(stop, at + 1)
            yield from _run(members.part(at, stop), at, frames)
            at = stop
        begin = end


def _run(members: Members, at: int, frames: Frames) -> Iterator[Run | int]:
    """One run of entries from a place on; none where they name too many models."""
    entries = members.numbers.size
    alone = range(at, at + entries)
    if entries < 2:
        yield from alone
        return
    counts, firsts, sizes = members.frames, members.first, members.sizes
    owners = np.repeat(np.arange(entries), counts)
    numbers = np.arange(owners.size) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
    kinds = frames.kinds[numbers]
    repeated = np.zeros(entries, np.bool_)
    repeated[owners[kinds == wire.REF]] = True
    mine = (kinds == wire.CHUNK) & ~repeated[owners]
    numbers, owners = numbers[mine], owners[mine]
    models = frames.models[numbers]
    few = not numbers.size or entries - int(repeated.sum()) < 2
    if few or np.unique(models).size > registry.MODEL_WINDOW:
        yield from alone
        return
    aligned = -(-sizes // _ALIGNMENT) * _ALIGNMENT
    places = np.cumsum(aligned) - aligned
    original = frames.original[numbers]
    before = np.cumsum(original) - original
    before -= before[np.searchsorted(owners, owners)]  # in the entry
    begin, end = int(frames.offsets[firsts[0]]), int(frames.offsets[firsts[-1] + counts[-1] - 1])
    payloads = frames.offsets[numbers] + wire.FRAME_SIZE
    end = max(end, int((payloads + frames.stored[numbers]).max()))
    columns = payloads - begin, frames.stored[numbers], models, places[owners] + before, original
    yield Run(
        at, at + entries, (~repeated).tolist(), begin, end, np.stack(columns, 1), numbers,
        places.tolist(), int(aligned.sum()),
    )  # fmt: skip
