"""Files whose bytes follow from others in the archive: weights that were quantised from others.

Such a file is coded against what quantising again gives, a base that is stored nowhere. An entry
says how it is made; docs/format/derived.md.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from densor.codec.quantise.forms import BLOCK_BYTES, FLOATS, SUPER_BLOCK
from densor.codec.quantise.rows import converted, row_bytes
from densor.codec.quantise.told import RECORDS
from densor.errors import ArgumentError, FormatError, LimitError
from densor.formats.container import strictjson
from densor.formats.container.base import GivenBase, described
from densor.formats.container.entry import BYTES, BaseRef, parse_digest
from densor.formats.tensors import TensorInfo
from densor.runtime.buffers import POOL
from densor.runtime.gc_pause import collection_paused
from densor.runtime.types import Bytes

NAME = "densor.derived"  # of the entry that says how
SCALES = "densor.derived.scales"  # of that with what is told of scales
MAX_RECIPES = 1 << 26  # bytes of it
MAX_GROUP = 1 << 28  # bytes of the rows that are read at once: one, or those of a head
_MAX_WEIGHTS = 1 << 40
Read = Callable[[str, int, int], Bytes]  # some bytes of an entry: its name, from, up to


class DerivedTensor(NamedTuple):
    """Rows of weights that are made from others.

    `offset`: bytes in the file that they are in; `form`: what they are in there. `entry`, `begin`,
    `dtype`: where the others are, and in what type. `heads`: 0, or that of so many groups of rows
    the first half is interleaved with the second, as llama.cpp wants rotary embeddings. `told`:
    where what is told of the scales begins in `SCALES`; None where they are searched for.
    """

    offset: int
    form: str
    rows: int
    columns: int
    entry: str
    begin: int
    dtype: str
    heads: int = 0
    told: int | None = None

    @property
    def row(self) -> int:
        """Bytes of a row as it is made."""
        return row_bytes(self.form, self.columns) or 0

    @property
    def group(self) -> int:
        """Rows that are made together."""
        return self.rows // self.heads if self.heads else 1

    @property
    def group_bytes(self) -> int:
        """Bytes that these are made from."""
        return self.group * self.columns * FLOATS[self.dtype]

    @property
    def end(self) -> int:
        """Where the tensor ends in its file."""
        return self.offset + self.rows * self.row

    @property
    def record(self) -> int:
        """Bytes that are told of the scales of a row."""
        return self.columns // SUPER_BLOCK * RECORDS[self.form]

    @property
    def end_of_told(self) -> int:
        """Where what is told of all its scales ends."""
        return 0 if self.told is None else self.told + self.rows * self.record

    def made(self, read: Read, first: int, last: int, out: Bytes | None = None) -> Bytes:
        """Rows `first` to `last`; to `out` if given."""
        told = None
        if self.told is not None:
            size = self.record
            told = read(SCALES, self.told + first * size, self.told + last * size)
        with self.weights(read, first, last) as data:
            made = converted(data, self.dtype, self.form, self.columns, out, told)
        POOL.give(told)
        return made

    @contextmanager
    def weights(self, read: Read, first: int, last: int) -> Iterator[Bytes]:
        """What rows `first` to `last` are made from, in their order, for a `with` block."""
        group = self.group
        low, high = first // group * group, -(-last // group) * group
        size = self.columns * FLOATS[self.dtype]
        data = given = read(self.entry, self.begin + low * size, self.begin + high * size)
        if self.heads:
            halves = data.reshape(-1, 2, group // 2, size)
            data = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(-1)
        yield np.ascontiguousarray(data[(first - low) * size : (last - low) * size])
        POOL.give(given)

    def to_json(self) -> list[Any]:
        """As it stands in the entry."""
        return list(self if self.told is not None else self[:_UNTOLD])


_UNTOLD = DerivedTensor._fields.index("told")  # values of a tensor of which nothing is told


class Recipe(NamedTuple):
    """How the base of a file is made: its tensors, by offset; the bytes beside them are 0."""

    size: int
    hash_kind: int
    digest: bytes
    tensors: list[DerivedTensor]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the entry."""
        return {
            "size": self.size,
            "digest": [self.hash_kind, self.digest.hex()],
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }


class DerivedSource:
    """The bytes that a recipe makes."""

    def __init__(self, size: int, tensors: list[DerivedTensor], read: Read) -> None:
        self._size = size
        self._tensors = tensors
        self._read = read
        self._offsets = [tensor.offset for tensor in tensors]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._size

    def read_at(self, offset: int, count: int) -> Bytes:
        """Some of them."""
        out = POOL.take(count)
        at = offset
        number = max(bisect_right(self._offsets, offset) - 1, 0)
        for tensor in self._tensors[number:]:
            if tensor.offset >= offset + count:
                break
            low, high = max(offset, tensor.offset), min(offset + count, tensor.end)
            if low >= high:
                continue
            out[at - offset : low - offset] = 0
            first = (low - tensor.offset) // tensor.row
            last = -(-(high - tensor.offset) // tensor.row)
            begin = tensor.offset + first * tensor.row
            target = out[low - offset : high - offset]
            if target.size == (last - first) * tensor.row:
                tensor.made(self._read, first, last, target)
            else:
                target[:] = tensor.made(self._read, first, last)[low - begin : high - begin]
            at = high
        out[at - offset :] = 0
        return out


class DerivedBase(GivenBase):
    """The bases of all files of an archive that are made from others in it.

    `recipes`: of all that the archive has, so that damage of one is said whichever is wanted.
    `find`: the size of an entry that may be made from, None for others.
    """

    def __init__(
        self, recipes: Callable[[], list[Recipe]], read: Read, find: Callable[[str], int | None]
    ) -> None:
        super().__init__(DerivedSource(0, [], read), NAME)
        self._recipes = recipes
        self._read_entry = read
        self._find = find
        self._matched: dict[bytes, DerivedSource] = {}

    def file(self, name: str) -> GivenBase | None:
        """None: which file goes with which base is said when an archive is made."""
        return None

    def matching(self, wanted: BaseRef) -> DerivedSource:
        """What an entry was coded against; ArgumentError where the archive does not say how."""
        with self._lock:  # of all threads that begin with a file, one reads how it is made
            known = self._matched.get(wanted.digest)
            if known is not None and known.size == wanted.size:
                return known
            for recipe in self._recipes():
                if recipe[:3] == wanted[:3]:
                    self._check(recipe)
                    source = DerivedSource(recipe.size, recipe.tensors, self._read_entry)
                    self._matched[wanted.digest] = source
                    return source
        raise ArgumentError(f"needs a base, {described(wanted)}: give it with --base (base=)")

    def _check(self, recipe: Recipe) -> None:
        """FormatError where a recipe asks for what is not there."""
        told = self._find(SCALES) or 0
        for tensor in recipe.tensors:
            size = self._find(tensor.entry)
            end = tensor.begin + tensor.rows * tensor.columns * FLOATS[tensor.dtype]
            if size is None or end > size or tensor.end_of_told > told:
                raise FormatError("a file is made from what is not in the archive")


class FileBase(GivenBase):
    """The base of one file that is being packed, made from others. `tensors`: those of the file."""

    def __init__(self, source: DerivedSource, tensors: list[TensorInfo]) -> None:
        super().__init__(source, NAME)
        self.tensors = tensors


def dump(recipes: list[Recipe]) -> bytes:
    """The content of the entry."""
    return strictjson.dumps({"files": [recipe.to_json() for recipe in recipes]})


def parse(data: bytes) -> list[Recipe]:
    """The recipes of an archive; FormatError where they contradict themselves."""
    found = strictjson.loads(data, NAME).get("files")
    if not isinstance(found, list):
        raise FormatError(f"{NAME} lists no files")
    return [_recipe(item) for item in found]


def _recipe(item: object) -> Recipe:
    if not isinstance(item, dict) or not isinstance(item.get("tensors"), list):
        raise FormatError(f"{NAME}: a file without tensors")
    size = strictjson.integer(item.get("size"), "size of a derived file")
    kind, digest = parse_digest(item.get("digest"), "derived file")
    tensors = [_tensor(each) for each in item["tensors"]]
    at = 0
    for tensor in tensors:
        end = tensor.end
        if tensor.offset < at or end > size:
            raise FormatError(f"{NAME}: tensors overlap, or lie outside of their file")
        at = end
    return Recipe(size, kind, digest, tensors)


def _tensor(item: object) -> DerivedTensor:
    if not isinstance(item, list) or len(item) not in (_UNTOLD, len(DerivedTensor._fields)):
        raise FormatError(f"{NAME}: a tensor that is none")
    offset, form, rows, columns, entry, begin, dtype, heads = item[:_UNTOLD]
    for value in (offset, rows, columns, begin, heads, *item[_UNTOLD:]):
        strictjson.integer(value, NAME)
    if form not in (*BLOCK_BYTES, *FLOATS) or dtype not in (*FLOATS,) or not isinstance(entry, str):
        raise FormatError(f"{NAME}: a type that is not known")
    if rows * columns > _MAX_WEIGHTS or not rows or not columns or row_bytes(form, columns) is None:
        raise FormatError(f"{NAME}: an impossible shape")
    if len(item) > _UNTOLD and form not in RECORDS:
        raise FormatError(f"{NAME}: scales of a type that has none to be told")
    if heads and (rows % heads or rows // heads % 2):
        raise FormatError(f"{NAME}: rows that are no whole number of heads")
    found = DerivedTensor(*item)
    if found.group_bytes > MAX_GROUP:
        raise LimitError(f"{NAME}: rows of more than {MAX_GROUP} bytes")
    return found


def derived_in(archive: Any) -> GivenBase | None:
    """The bases of files in an archive with an index that says how to make them; None without."""
    said = archive.find(NAME)
    if said is None or said.meta.kind != BYTES:
        return None
    kept: list[list[Recipe]] = []

    def recipes() -> list[Recipe]:
        if not kept:
            if said.size > MAX_RECIPES:
                raise LimitError(f"{NAME} has {said.size} bytes")
            with collection_paused():
                kept.append(parse(archive.alone(said, 0, said.size).tobytes()))
        return kept[0]

    def read(name: str, begin: int, end: int) -> Bytes:
        data: Bytes = archive.alone(archive.entry(name), begin, end)
        return data

    def find(name: str) -> int | None:
        entry = archive.find(name)
        plain = entry is not None and entry.meta.base is None  # no circles
        return entry.size if entry is not None and plain else None

    return DerivedBase(recipes, read, find)
