"""Finds what GGUF files were made from, among the files that are packed with them.

A tensor goes with one of as many weights, where some of its rows are what a quantiser makes of the
other's; names are not looked at. What is made so need not be stored: see `container/derived.py`.
"""

import contextlib
import itertools
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densor.codec.blocks.block import Field
from densor.codec.kind import BYTES as PLAIN_BYTES
from densor.codec.kind import Segment, kind_of_blocks
from densor.codec.quantise.forms import BLOCK_BYTES, FLOATS, block_weights
from densor.codec.quantise.rows import converted, told_by
from densor.codec.quantise.told import RECORDS
from densor.errors import ArgumentError, DensorError
from densor.files.opened import Input
from densor.formats.container import derived, wire
from densor.formats.container.archive import Archive
from densor.formats.container.base import GivenBase
from densor.formats.container.derived import (
    DerivedBase,
    DerivedSource,
    DerivedTensor,
    FileBase,
    Recipe,
)
from densor.formats.container.entry import BYTES, STEPS, BaseRef, EntryMeta
from densor.formats.container.hashing import new_hash
from densor.formats.io.outputs import check_still_there, errors_of
from densor.formats.io.sources import FileRandomSource, MemorySource, PlacedSource
from densor.formats.parsers.plan import plan_file
from densor.formats.tensors import TensorInfo
from densor.options import ReadOptions, WriteOptions
from densor.runtime.types import Bytes

_SAMPLED = 4  # rows that are made to see whether they are right
_ALIKE = 0.9  # of their bytes
_MAX_HEADS = 256
_AT_ONCE = 1 << 20  # weights of which scales are told
_PIECE = 1 << 24
_FORMS = {size: form for form, size in BLOCK_BYTES.items()}


_Found = tuple["_File", list[DerivedTensor]]
_Key = tuple[DerivedTensor, bytes]  # what tensors share that are the same, and a hash of them
_NUMBER, _CODES = Field("U16", 2), Field("U8", 8)
# Fields of a record that tells of scales: numbers of a block, scales and minima of its groups.
_FIELDS = {
    "Q2_K": (_NUMBER, _NUMBER, Field("U8", 16), Field("U8", 16)),
    **dict.fromkeys(("Q4_K", "Q5_K"), (_NUMBER, _NUMBER, _CODES, _CODES)),
    **dict.fromkeys(("Q3_K", "Q6_K"), (_NUMBER, Field("U8", 16))),
}
_RECORDS = 256  # of these, in a row that is likely to be alike


class Member(NamedTuple):
    """A file or folder to be packed, and its name in the archive."""

    path: Path | str  # str for a URL
    name: str
    escaped: bool = False  # see `escape_path`


def is_recipe(meta: EntryMeta) -> bool:
    """Whether an entry is no file but says how files are made, or what becomes of their base."""
    names = derived.NAME, derived.SCALES
    return meta.kind in STEPS or (meta.kind == BYTES and meta.name in names)


@contextlib.contextmanager
def with_derived(
    opened: Input, options: ReadOptions, given: GivenBase | None
) -> Iterator[GivenBase | None]:
    """The given base, or what an archive that is read from front to back makes itself."""
    if given is not None or opened.random is None or opened.random.size < wire.HEADER_SIZE:
        yield given
        return
    try:
        header = wire.parse_header(opened.random.read_at(0, wire.HEADER_SIZE).tobytes())
        based = header.features & wire.BASE
        archive = Archive(opened.random, options) if based else None
    except DensorError:  # as whoever reads it will find out
        archive = None
    try:
        yield None if archive is None else derived.derived_in(archive)
    finally:
        if archive is not None:
            archive.close()


class _File:
    """A file that is packed, open as long as `stack` is, with its tensors.

    Not mapped into memory: where another process cuts the file, that would end this one.
    """

    def __init__(self, member: Member, stack: contextlib.ExitStack) -> None:
        self.name = member.name
        self._path = Path(member.path)
        with errors_of(self._path):
            file = stack.enter_context(self._path.open("rb", buffering=0))
            self._before = os.fstat(file.fileno())
        self._random = FileRandomSource(file)
        self.size = self._random.size
        source = PlacedSource(self._random)
        plan = plan_file(source, self.size, random=self._random, name=self.name)
        self.tensors = [tensor for tensor in plan.tensors if tensor.plain and tensor.size]

    def read(self, begin: int, end: int) -> Bytes:
        """Some of its bytes."""
        return self._random.read_at(begin, end - begin)

    def check_unchanged(self) -> None:
        """FileError unless its path still leads to it as it was."""
        check_still_there(self._path, self._before)


class _Weights(NamedTuple):
    """A tensor that others may be made from, or that may be made: `form` of so many weights."""

    file: _File
    tensor: TensorInfo
    form: str
    rows: int
    columns: int

    def row(self, number: int, row: int) -> Bytes:
        """One of its rows, of `row` bytes."""
        begin = self.tensor.offset + number * row
        return self.file.read(begin, begin + row)


class Derivation(GivenBase):
    """The recipes of an archive that is being packed, and the bases that they make.

    `stack`: closes the files that it reads. `told`: whether scales are told, where they would have
    to be searched for.
    """

    def __init__(
        self,
        members: Sequence[Member],
        options: WriteOptions,
        stack: contextlib.ExitStack,
        told: bool = True,
    ) -> None:
        if options.base is not None:
            raise ArgumentError("files that are made from others take no base beside these")
        self._hash = options.hash
        local = [m for m in members if isinstance(m.path, Path) and m.path.is_file()]
        sources = [_File(m, stack) for m in local if m.path.suffix == ".safetensors"]  # type: ignore[union-attr]
        made = [_File(m, stack) for m in local if m.path.suffix == ".gguf"]  # type: ignore[union-attr]
        self._files = {file.name: file for file in (*sources, *made)}
        known = [weights for file in sources for weights in _floats(file)]
        self._bases: dict[str, FileBase] = {}
        self._recipes: list[Recipe] = []
        found = [(file, sorted(_tensors(file, known, told))) for file in made]
        self._scales = Scales(self._read)
        if told:
            found = self._scales.place(found)
        for file, tensors in found:
            if tensors:
                self._add(file, tensors)
        super().__init__(DerivedSource(0, [], self._read), derived.NAME, self._check_sources)

    def _check_sources(self) -> None:
        """FileError where a file has changed since another one was coded against what is in it."""
        for name in {tensor.entry for recipe in self._recipes for tensor in recipe.tensors}:
            self._files[name].check_unchanged()

    def _add(self, file: _File, tensors: list[DerivedTensor]) -> None:
        source = DerivedSource(file.size, tensors, self._read)
        base = FileBase(source, file.tensors)
        size, kind, digest = base.reference(self._hash)[:3]
        self._bases[file.name] = base
        self._recipes.append(Recipe(size, kind, digest, tensors))

    def _read(self, name: str, begin: int, end: int) -> Bytes:
        if name == derived.SCALES:
            return self._scales.read_at(begin, end - begin)
        return self._files[name].read(begin, end)

    def file(self, name: str) -> GivenBase | None:
        """What a file is coded against."""
        return self._bases.get(name)

    def matching(self, wanted: BaseRef) -> DerivedSource:
        """What an entry was coded against, to verify what was written."""
        known = DerivedBase(lambda: self._recipes, self._read, self._size)
        return known.matching(wanted)

    def _size(self, name: str) -> int | None:
        if name == derived.SCALES:
            return self._scales.size
        return self._files[name].size if name in self._files else None

    def ordered(self, archive: object, members: Iterable[Member]) -> Iterator[Member]:
        """Files that others are made from first; the recipes before what is made by them.

        Folders come last, in their order, since each follows all that is in it.
        """
        later, folders = [], []
        for member in members:
            if isinstance(member.path, Path) and member.path.is_dir():
                folders.append(member)
            elif member.name in self._bases:
                later.append(member)
            else:
                yield member
        if self._recipes:
            content = derived.dump(self._recipes)
            meta = EntryMeta(derived.NAME, BYTES, len(content))
            writer = archive.writer  # type: ignore[attr-defined]
            writer.add(meta, MemorySource(content), [Segment(PLAIN_BYTES, len(content))])
            if self._scales.size:
                meta = EntryMeta(derived.SCALES, BYTES, self._scales.size)
                writer.add(meta, PlacedSource(self._scales), self._scales.segments())
        yield from later
        yield from folders


class _Told(NamedTuple):
    """A tensor of which scales are told: where, and the file that it stands in."""

    tensor: DerivedTensor
    file: _File


class _Part(NamedTuple):
    """A stretch of what is told: that of one tensor."""

    begin: int
    end: int
    told: _Told


class Scales:
    """What is told of the scales of all tensors, computed when it is read; a `RandomSource`.

    Tensors of one form follow each other; those that are the same bytes, made from the same
    weights, share it. `read`: some bytes of a file.
    """

    def __init__(self, read: derived.Read) -> None:
        self._read = read
        self._parts: list[_Part] = []
        self._begins: list[int] = []

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._parts[-1].end if self._parts else 0

    def place(self, found: list[_Found]) -> list[_Found]:
        """The tensors, with places for what is told of their scales."""
        first: dict[_Key, _Told] = {}
        keys: dict[tuple[str, int], _Key] = {}
        for file, tensors in found:
            for tensor in tensors:
                if tensor.form in RECORDS:
                    key = tensor._replace(offset=0), _hash(file, tensor)
                    keys[file.name, tensor.offset] = key
                    first.setdefault(key, _Told(tensor, file))
        begins = {}
        for key, told in sorted(first.items(), key=lambda item: item[1].tensor.form):
            begins[key] = begin = self.size
            size = told.tensor.rows * told.tensor.record
            self._parts.append(_Part(begin, begin + size, told))
        self._begins = [part.begin for part in self._parts]

        def placed(file: _File, tensor: DerivedTensor) -> DerivedTensor:
            known = keys.get((file.name, tensor.offset))
            return tensor if known is None else tensor._replace(told=begins[known])

        return [(file, [placed(file, each) for each in tensors]) for file, tensors in found]

    def segments(self) -> Iterator[Segment]:
        """How to treat it."""
        for form, alike in itertools.groupby(self._parts, lambda part: part.told.tensor.form):
            kind = kind_of_blocks(_FIELDS[form], _RECORDS)
            yield Segment(kind, sum(part.end - part.begin for part in alike))

    def read_at(self, offset: int, count: int) -> Bytes:
        """Some of it."""
        out = np.empty(count, np.uint8)
        at = offset
        number = bisect_right(self._begins, offset) - 1
        while at < offset + count:
            part = self._parts[number]
            low, high = at - part.begin, min(offset + count, part.end) - part.begin
            self._fill(part, low, high, out[at - offset : part.begin + high - offset])
            at, number = part.begin + high, number + 1
        return out

    def _fill(self, part: _Part, low: int, high: int, out: Bytes) -> None:
        """Bytes `low` to `high` of what is told of a tensor, a few rows at a time."""
        tensor = part.told.tensor
        row = tensor.record
        step = max(_AT_ONCE // tensor.columns, tensor.group)
        for first in range(low // row, -(-high // row), step):
            found = self._of_rows(part.told, first, min(first + step, tensor.rows))
            begin, end = max(low, first * row), min(high, first * row + found.size)
            out[begin - low : end - low] = found[begin - first * row : end - first * row]

    def _of_rows(self, told: _Told, first: int, last: int) -> Bytes:
        tensor, file = told
        begin = tensor.offset + first * tensor.row
        made = file.read(begin, begin + (last - first) * tensor.row)
        with tensor.weights(self._read, first, last) as data:
            return told_by(made, data, tensor.dtype, tensor.form, tensor.columns)


def _hash(file: _File, tensor: DerivedTensor) -> bytes:
    """Of a tensor as it stands in its file."""
    hasher = new_hash(None)
    for begin in range(tensor.offset, tensor.end, _PIECE):
        hasher.update(file.read(begin, min(begin + _PIECE, tensor.end)))
    return hasher.digest()


def _tensors(file: _File, known: Sequence[_Weights], told: bool) -> Iterator[DerivedTensor]:
    """The tensors of a file that are made from others."""
    for made in _made(file):
        found = _origin(made, known, told)
        if found is not None:
            yield found


def _floats(file: _File) -> Iterator[_Weights]:
    """The tensors of a file that others may be made from."""
    for tensor in file.tensors:
        if tensor.dtype in FLOATS:
            columns = tensor.shape[-1] if tensor.shape else 1
            rows = tensor.size // FLOATS[tensor.dtype] // columns
            yield _Weights(file, tensor, tensor.dtype, rows, columns)


def _made(file: _File) -> Iterator[_Weights]:
    """The tensors of a GGUF file that may have been made from others."""
    yield from _floats(file)
    for tensor in file.tensors:
        form = _FORMS.get(tensor.shape[-1]) if tensor.dtype == "U8" and tensor.shape else None
        if form is not None:  # blocks, of which nobody has said how many are a row
            blocks = tensor.size // BLOCK_BYTES[form]
            yield _Weights(file, tensor, form, 0, blocks * block_weights(form))


def _origin(made: _Weights, known: Sequence[_Weights], told: bool) -> DerivedTensor | None:
    """What a tensor was made from, and how; None if that is not there."""
    total = made.columns * max(made.rows, 1)
    alike = [source for source in known if source.rows * source.columns == total]
    for permuted in (False, True):  # most are not
        for source in alike:
            first = DerivedTensor(
                made.tensor.offset, made.form, source.rows, source.columns,
                source.file.name, source.tensor.offset, source.form,
            )  # fmt: skip
            if not first.row:
                continue
            for heads in _heads(source.rows) if permuted else (0,):
                tensor = first._replace(heads=heads)
                if tensor.group_bytes <= derived.MAX_GROUP and _is_made(made, source, tensor, told):
                    return tensor
    return None


def _heads(rows: int) -> Iterator[int]:
    """Numbers of attention heads that a matrix of so many rows may be of."""
    for heads in range(1, min(rows // 4, _MAX_HEADS) + 1):
        if rows % heads == 0 and rows // heads % 2 == 0:
            yield heads


def _is_made(made: _Weights, source: _Weights, tensor: DerivedTensor, told: bool) -> bool:
    """Whether some rows are what the quantiser gives; `told`: with the scales that they have."""

    def read(name: str, begin: int, end: int) -> Bytes:
        return source.file.read(begin, end)

    step = max(1, tensor.rows // _SAMPLED)
    same = total = 0
    for row in range(min(1, tensor.rows - 1), tensor.rows, step):
        right = made.row(row, tensor.row)
        if told and tensor.form in RECORDS:
            with tensor.weights(read, row, row + 1) as data:
                about = data, tensor.dtype, tensor.form, tensor.columns
                found = converted(*about, told=told_by(right, *about))
        else:
            found = tensor.made(read, row, row + 1)
        same += int((found == right).sum())
        total += found.size
        if same < _ALIKE * total:
            return False
    return True
