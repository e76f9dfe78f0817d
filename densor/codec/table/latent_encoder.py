"""The record of columns under latent classes, and which columns it pays for."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from densor.codec.table.cells import Cells, Dictionary, dictionary_of
from densor.codec.table.latent_fitting import Fit, Group, fit
from densor.codec.table.latents import Coder
from densor.codec.table.layout import I32
from densor.codec.table.packing import Packer
from densor.codec.table.wire import Writer

MOST_DIFFERENT = 256  # cells that columns under latents share
_HEADER = 8  # bytes that a record takes beside its own
_MAX_GROUPS = 32


class Shared(NamedTuple):
    """Columns whose cells are numbered by one dictionary."""

    dictionary: Dictionary
    columns: tuple[int, ...]


class _Alphabet(NamedTuple):
    """Cells and their numbers, the columns that have them, and the numbers in each row."""

    known: dict[bytes, int]
    members: list[int]
    ids: list[I32]

    def suits(self, texts: Sequence[bytes]) -> bool:
        """Whether a column of such cells has most of its, or of these, in common."""
        common = sum(text in self.known for text in texts)
        both = len(self.known) + len(texts) - common
        return 2 * common >= min(len(self.known), len(texts)) and both <= MOST_DIFFERENT


class Under(NamedTuple):
    """The record of columns under latents."""

    record: bytes
    columns: tuple[int, ...]


def under_latents(
    found: Sequence[Dictionary], records: Mapping[int, bytes], quote: int, packer: Packer
) -> Under | None:
    """The record of those columns that take less so than by `records`; None if there are none.

    `found`: of all columns; `records`: of those that may be taken.
    """
    chosen = sorted(records)
    while len(chosen) > 1:
        groups = _grouped(found, chosen, quote)
        chosen = sorted(i for group in groups for i in group.columns)
        fitted, symbols = _fitted(groups, chosen)
        before = {i: 8 * (len(records[i]) + _HEADER) for i in chosen}
        kept = [i for i, bits in zip(chosen, fitted.of_columns, strict=True) if bits < before[i]]
        latents = fitted.bits - float(fitted.of_columns.sum())
        if sum(before[i] for i in kept) < latents:
            return None
        if len(kept) == len(chosen):
            if fitted.bits > sum(before.values()):
                return None
            return Under(_record(groups, fitted, symbols, packer), tuple(chosen))
        chosen = kept
    return None


def _grouped(found: Sequence[Dictionary], chosen: Sequence[int], quote: int) -> list[Shared]:
    """Columns by the cells they have in common."""
    alphabets: list[_Alphabet] = []
    for number in chosen:
        cells = found[number].cells
        texts = [cells.text(i) for i in range(cells.places.size)]
        alphabet = next((one for one in alphabets if one.suits(texts)), None)
        if alphabet is None:
            if len(alphabets) == _MAX_GROUPS:
                continue
            alphabet = _Alphabet({}, [], [])
            alphabets.append(alphabet)
        known = alphabet.known
        ranks = np.array([known.setdefault(text, len(known)) for text in texts], np.int32)
        alphabet.members.append(number)
        alphabet.ids.append(ranks[cells.ids])
    return [
        Shared(dictionary_of(_cells(found, members, len(known), ids), quote), tuple(members))
        for known, members, ids in alphabets
    ]


def _cells(found: Sequence[Dictionary], members: Sequence[int], size: int, ids: list[I32]) -> Cells:
    """The different cells of all columns of a group."""
    places, lengths = np.empty(size, np.int32), np.empty(size, np.int32)
    words = np.empty(size, np.int64)
    for number, own in zip(members, ids, strict=True):
        cells = found[number].cells
        ranks = np.empty(cells.places.size, np.int32)
        ranks[cells.ids] = own
        places[ranks], lengths[ranks], words[ranks] = cells.places, cells.lengths, cells.words
    return Cells(found[members[0]].cells.data, np.concatenate(ids), places, lengths, words)


def _fitted(groups: Sequence[Shared], chosen: Sequence[int]) -> tuple[Fit, I32]:
    """Latents, and int32[columns, rows]: the symbols of all columns in ascending order."""
    place = {number: i for i, number in enumerate(chosen)}
    rows = groups[0].dictionary.cells.ids.size // len(groups[0].columns)
    symbols = np.empty((len(chosen), rows), np.int32)
    sides = []
    for group in groups:
        where = np.array([place[i] for i in group.columns])
        symbols[where] = group.dictionary.ids.reshape(len(group.columns), rows)
        sides.append(Group(where, group.dictionary.order.size))
    return fit(symbols, sides), symbols


def _record(groups: Sequence[Shared], fitted: Fit, symbols: I32, packer: Packer) -> bytes:
    out = Writer()
    out.number(len(groups))
    sizes: list[int] = []
    for group, classes in zip(groups, fitted.classes, strict=True):
        out.number(classes)
        out.raw(group.dictionary.pack(packer))
        sizes += [group.dictionary.order.size] * classes
    out.number(fitted.above)
    data = np.empty(4 * symbols.size + 4096, np.uint8)
    coder = Coder(True, data, sizes, fitted.above)
    coder.classes(fitted.latents)
    coder.cells(fitted.latents, symbols)
    return out.bytes() + data[: min(coder.end(), data.size)].tobytes()
