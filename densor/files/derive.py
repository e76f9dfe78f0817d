"""Finds what GGUF files were made from, among the files that are packed with them.

A tensor goes with one of as many weights, where some of its rows are what a quantiser makes of the
other's; names are not looked at. What is made so need not be stored: see `container/derived.py`.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from densor.codec.kind import BYTES as PLAIN_BYTES
from densor.codec.kind import Segment
from densor.codec.quantise.forms import BLOCK_BYTES, FLOATS, block_weights
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
from densor.formats.io.outputs import check_still_there, errors_of
from densor.formats.io.sources import FileRandomSource, MemorySource, PlacedSource
from densor.formats.parsers.plan import plan_file
from densor.formats.tensors import TensorInfo
from densor.options import ReadOptions, WriteOptions
from densor.runtime.types import Bytes

_SAMPLED = 4  # rows that are made to see whether they are right
_ALIKE = 0.9  # of their bytes
_MAX_HEADS = 256
_FORMS = {size: form for form, size in BLOCK_BYTES.items()}


class Member(NamedTuple):
    """A file or folder to be packed, and its name in the archive."""

    path: Path | str  # str for a URL
    name: str
    escaped: bool = False  # see `escape_path`


def is_recipe(meta: EntryMeta) -> bool:
    """Whether an entry is no file but says how files are made, or what becomes of their base."""
    return meta.kind in STEPS or (meta.kind == BYTES and meta.name == derived.NAME)


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

    `stack`: closes the files that it reads.
    """

    def __init__(
        self, members: Sequence[Member], options: WriteOptions, stack: contextlib.ExitStack
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
        for file in made:
            tensors = [found for each in _made(file) if (found := _origin(each, known)) is not None]
            if tensors:
                self._add(file, sorted(tensors))
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
        return self._files[name].read(begin, end)

    def file(self, name: str) -> GivenBase | None:
        """What a file is coded against."""
        return self._bases.get(name)

    def matching(self, wanted: BaseRef) -> DerivedSource:
        """What an entry was coded against, to verify what was written."""
        known = DerivedBase(lambda: self._recipes, self._read, self._size)
        return known.matching(wanted)

    def _size(self, name: str) -> int | None:
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
        yield from later
        yield from folders


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


def _origin(made: _Weights, known: Sequence[_Weights]) -> DerivedTensor | None:
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
                if tensor.group_bytes <= derived.MAX_GROUP and _is_made(made, source, tensor):
                    return tensor
    return None


def _heads(rows: int) -> Iterator[int]:
    """Numbers of attention heads that a matrix of so many rows may be of."""
    for heads in range(1, min(rows // 4, _MAX_HEADS) + 1):
        if rows % heads == 0 and rows // heads % 2 == 0:
            yield heads


def _is_made(made: _Weights, source: _Weights, tensor: DerivedTensor) -> bool:
    """Whether some rows are what the quantiser gives."""

    def read(name: str, begin: int, end: int) -> Bytes:
        return source.file.read(begin, end)

    step = max(1, tensor.rows // _SAMPLED)
    same = total = 0
    for row in range(min(1, tensor.rows - 1), tensor.rows, step):
        found = tensor.made(read, row, row + 1)
        right = made.row(row, tensor.row)
        same += int((found == right).sum())
        total += found.size
        if same < _ALIKE * total:
            return False
    return True
