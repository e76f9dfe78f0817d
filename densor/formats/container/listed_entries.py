"""The entries of an archive; where they are many tensors alike, as columns of what they are."""

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, overload

import numpy as np
import xxhash

from densor.formats.container.base import Identity
from densor.formats.container.entry import TENSOR, EntryMeta
from densor.formats.container.hashing import DEFAULT, KINDS
from densor.formats.tensor_table import Form, Numbers, TensorTable
from densor.formats.tensors import TensorInfo


class IndexedEntry(NamedTuple):
    """An entry as the index lists it."""

    number: int
    meta: EntryMeta
    size: int
    first_frame: int
    frames: int
    hash_kind: int
    digest: bytes

    @property
    def identity(self) -> Identity:
        """What it must have for others to be based on it."""
        return self.size, self.hash_kind, self.digest


class TensorColumns(NamedTuple):
    """Tensors that are entries, none of which has a base or a hash that it names.

    `digests`: hexadecimal digits; `forms`: of all, `form_of`: int64[n]. `first`, `frames`,
    `hash_kinds`: int64[n].
    """

    names: list[str]
    forms: list[Form]
    form_of: Numbers
    first: Numbers
    frames: Numbers
    hash_kinds: Numbers
    digests: list[str]

    @property
    def sizes(self) -> Numbers:
        """Bytes of each, int64[n]."""
        found: Numbers = np.array([form.size for form in self.forms], np.int64)[self.form_of]
        return found

    def entry(self, number: int) -> IndexedEntry:
        """One of them."""
        form = self.forms[self.form_of[number]]
        meta = EntryMeta(self.names[number], TENSOR, form.size, form.dtype, form.shape)
        place = int(self.first[number]), int(self.frames[number])
        digest = bytes.fromhex(self.digests[number])
        return IndexedEntry(number, meta, form.size, *place, int(self.hash_kinds[number]), digest)

    def first_wrong(self, first: int, data: list[memoryview]) -> int | None:
        """The first one from `first` on whose bytes, in order, do not have its hash."""
        kinds = self.hash_kinds[first : first + len(data)]
        if (kinds != KINDS[DEFAULT]).any():
            return first + int(np.flatnonzero(kinds != KINDS[DEFAULT])[0])
        digests = list(map(xxhash.xxh3_128_hexdigest, data))
        wanted = self.digests[first : first + len(data)]
        if digests == wanted:
            return None
        pairs = enumerate(zip(digests, wanted, strict=True), first)
        return next(number for number, (found, digest) in pairs if found != digest)


class Entries(Sequence[IndexedEntry]):
    """Entries that are made when they are asked for."""

    def __init__(self, columns: TensorColumns) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns.names)

    @overload
    def __getitem__(self, number: int) -> IndexedEntry: ...

    @overload
    def __getitem__(self, number: slice) -> list[IndexedEntry]: ...

    def __getitem__(self, number: int | slice) -> IndexedEntry | list[IndexedEntry]:
        if isinstance(number, slice):
            return [self.columns.entry(one) for one in range(*number.indices(len(self)))]
        return self.columns.entry(range(len(self))[number])

    def __iter__(self) -> Iterator[IndexedEntry]:
        return map(self.columns.entry, range(len(self)))


class _Numbered(Mapping[str, tuple[IndexedEntry, TensorInfo]]):
    """Tensors that are made when they are asked for. `numbers`: by name."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __contains__(self, name: object) -> bool:
        return name in self._numbers


class TensorsByName(_Numbered):
    """Entries that are tensors. `numbers`: those of the entries, by name."""

    def __init__(self, columns: TensorColumns, numbers: Mapping[str, int]) -> None:
        super().__init__(numbers)
        self.columns = columns

    def __getitem__(self, name: str) -> tuple[IndexedEntry, TensorInfo]:
        entry = self.columns.entry(self._numbers[name])
        meta = entry.meta
        assert meta.dtype is not None and meta.shape is not None
        return entry, TensorInfo(name, meta.dtype, meta.shape, 0, entry.size)


class InEntry(NamedTuple):
    """Tensors of an entry."""

    entry: IndexedEntry
    tensors: list[TensorInfo] | TensorTable


class TensorsInEntries(_Numbered):
    """Tensors inside entries. Later names win."""

    def __init__(self, parts: list[InEntry]) -> None:
        self.parts = parts
        self._begins: list[int] = []
        numbers: dict[str, int] = {}  # of all tensors
        self.count = 0  # of tensors, those that others have replaced included
        for _, tensors in parts:
            self._begins.append(self.count)
            if isinstance(tensors, TensorTable):
                names = tensors.names
            else:
                names = [tensor.name for tensor in tensors]
            numbers.update(zip(names, itertools.count(self.count), strict=False))
            self.count += len(tensors)
        super().__init__(numbers)

    def __getitem__(self, name: str) -> tuple[IndexedEntry, TensorInfo]:
        number = self._numbers[name]
        part = bisect_right(self._begins, number) - 1
        entry, tensors = self.parts[part]
        return entry, tensors[number - self._begins[part]]
