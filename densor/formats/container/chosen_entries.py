"""Some entries of an archive with an index, each into a sink: nothing else is decoded or read."""

from collections.abc import Callable, Iterator, Sequence

from densor.formats.container.archive import Archive
from densor.formats.container.entry import EntryMeta
from densor.formats.container.listed_entries import IndexedEntry
from densor.formats.container.sinks import Sink
from densor.options import Progress


class ChosenEntries:
    """Reads some entries as `StreamReader` does all of them; closes the archive.

    `progress`: called with the number of bytes that were written, some at a time.
    """

    reads_back = False  # what repeats is decoded again

    def __init__(
        self,
        archive: Archive,
        entries: Sequence[IndexedEntry],
        progress: Progress | None = None,
    ) -> None:
        self._archive = archive
        self._entries = entries
        self._progress = progress

    def entries(self, sink_for: Callable[[EntryMeta], Sink]) -> Iterator[IndexedEntry]:
        """Decodes these entries, each into the sink that `sink_for` gives; yields it when whole."""
        self._archive.check_size({entry.number: entry.size for entry in self._entries})
        for entry in self._entries:
            self._archive.read_to(entry, sink_for(entry.meta), self._progress)
            yield entry

    def close(self) -> None:
        """Stops the threads."""
        self._archive.close()


def few_of(archive: Archive, wanted: Callable[[EntryMeta], bool]) -> list[IndexedEntry] | None:
    """The entries that are wanted; None where reading everything, once, costs no more.

    That is, where they and what they are coded against are half of the archive or more.
    """
    chosen = [entry for entry in archive.entries if wanted(entry.meta)]
    needed = {entry.number for entry in chosen}
    for number in sorted(needed, reverse=True):
        base = archive.entries[number].meta.base
        while base is not None and base.entry is not None and base.entry not in needed:
            needed.add(base.entry)
            base = archive.entries[base.entry].meta.base
    size = sum(archive.entries[number].size for number in needed)
    return chosen if 2 * size < sum(entry.size for entry in archive.entries) else None
