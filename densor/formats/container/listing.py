"""What the index of an archive will say of its entries, gathered while they are written."""

from collections.abc import Iterable
from typing import Any

from densor.codec.zstd import zstd_compress
from densor.formats.container import strictjson, wire
from densor.formats.container.entry import STEPS

_LEVEL, _FAST_LEVEL = 9, 1  # of Zstandard
_SAMPLE = 1 << 17  # bytes of an index that levels are compared on; smaller ones take the slow one


class Listing:
    """The entries of an archive, in order: text but for their tensors, as there may be many."""

    def __init__(self) -> None:
        self.original = 0  # bytes of all but steps
        self._texts: list[str] = []  # JSON of each but for the brace that ends it
        self._lists: dict[int, str] = {}  # JSON of what lists tensors, without braces; by number
        self._digests: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, entry: dict[str, Any], lists: str) -> None:
        """Appends an entry. `lists`: JSON of what lists its tensors, without braces."""
        if lists:
            self._lists[len(self._texts)] = lists
        kind, digest = entry["digest"]
        size = 0 if entry["kind"] in STEPS else entry["size"]
        self.extend([strictjson.text(entry)[:-1]], size, [(kind, digest)])

    def extend(self, texts: list[str], size: int, digests: Iterable[tuple[int, str]]) -> None:
        """Appends entries without lists, of `size` bytes in all.

        `texts`: their JSON without the last brace; `digests`: kind and hexadecimal digits.
        """
        self._texts += texts
        self._digests += digests
        self.original += size

    def copy(self, entries: list[dict[str, Any]]) -> None:
        """Appends all entries of another archive."""
        for entry in entries:
            lists = {key: entry.pop(key) for key in ("tensors", "others") if key in entry}
            self.add(entry, strictjson.text(lists)[1:-1])

    @property
    def digests(self) -> list[list[object]]:
        """Kind and hexadecimal digest of each."""
        return [list(digest) for digest in self._digests]

    def lists(self) -> list[str]:
        """What lists the tensors of each entry, as in `add`."""
        return [self._lists.get(number, "") for number in range(len(self))]

    def index(self, frames: Iterable[list[int]], index_at: int) -> bytes:
        """The JSON of the index. `frames`: columns of frames; `index_at`: bytes before it."""
        columns = [
            f'"{name}":{_numbers(column)}'
            for name, column in zip(wire.COLUMNS, frames, strict=True)
        ]
        found = self._index(self._texts, columns)
        if len(found) > wire.INDEX_BASE + wire.INDEX_PER_BYTE * index_at:
            self._lists.clear()  # names that are packed better than readers allow
            found = self._index(self._texts, columns)
        return found

    def _index(self, texts: list[str], columns: list[str]) -> bytes:
        if self._lists:
            texts = texts.copy()
            for number, lists in self._lists.items():
                texts[number] += "," + lists
        entries = "},".join(texts) + "}" if texts else ""
        return strictjson.encoded(f'{{"entries":[{entries}],{",".join(columns)}}}')


def packed_index(text: bytes) -> bytes:
    """The payload of an INDEX frame. Of many entries alike, more search often finds less."""
    level = _LEVEL
    if len(text) > 4 * _SAMPLE:
        begin = (len(text) - _SAMPLE) // 2
        sample = text[begin : begin + _SAMPLE]
        level = min(_FAST_LEVEL, _LEVEL, key=lambda one: len(zstd_compress(sample, one)))
    return zstd_compress(text, level)


def _numbers(column: list[int]) -> str:
    """JSON of integers."""
    return str(column).replace(", ", ",")
