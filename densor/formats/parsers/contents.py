"""What a parser finds in a file, and the start of the file that it finds it in."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from densor.formats.io.sources import Bytes, ChainSource, RandomSource, Source
from densor.formats.tensor_table import TensorTable
from densor.formats.tensors import TensorInfo

if TYPE_CHECKING:  # a load of weights needs none of these
    from densor.codec.audio.layout import Layout as Audio
    from densor.codec.blocks.block import Field
    from densor.codec.deflate.stream import Stream
    from densor.codec.image.layout import Layout
    from densor.codec.notation.layout import Notation
    from densor.codec.pages.layout import Pages
    from densor.codec.table.layout import Layout as Table

_NEAR = 1 << 16  # bytes from the start that may be looked at wherever they come from


class Stretch(NamedTuple):
    """Bytes of a file that are elements of one type, or blocks of fields."""

    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]  # of blocks, where there are `fields`
    fields: "tuple[Field, ...]" = ()
    image: "Layout | None" = None  # how rows lie, where the format says that this is an image
    stream: "Stream | None" = None  # that these bytes are, all of it
    table: "Table | None" = None  # how cells lie, where this is a text
    audio: "Audio | None" = None  # likewise of sound
    pages: "Pages | None" = None  # likewise of columns in pages
    notation: "Notation | None" = None  # in which form elements stand here


class Contents(NamedTuple):
    """The tensors that can be read alone, and the stretches that are coded by their type.

    `others`: tensors that are known to be there and cannot be read as they lie: of other types,
    views, or nothing that has a place. All other bytes of the file are just bytes. `lossy`: whether
    the file says that it only approximates another. `table`: instead of tensors and stretches,
    tensors that may be many, each of which is coded as what it is.
    """

    tensors: list[TensorInfo]
    stretches: list[Stretch]
    others: list[TensorInfo] = []  # noqa: RUF012
    lossy: bool = False
    table: TensorTable | None = None


def plain(tensors: list[TensorInfo]) -> Contents:
    """The contents of a file whose tensors are coded as what they are."""
    return Contents(tensors, [Stretch(t.offset, t.size, t.dtype, t.shape) for t in tensors])


def sound(layout: "Audio", begin: int, size: int | None, file_size: int | None) -> Contents | None:
    """Samples from `begin` on, whole instants of them; None where there are none.

    `size`: in bytes, None if unknown. What would reach beyond the end of the file ends there.
    """
    from densor.codec.audio.layout import MAX_CHANNELS

    left = None if file_size is None else file_size - begin
    if size is None or (left is not None and size > left):
        size = left
    if size is None or size < layout.stride or not 1 <= layout.channels <= MAX_CHANNELS:
        return None
    count = size // layout.stride
    shape = (count, layout.stride)
    return Contents([], [Stretch(begin, count * layout.stride, "U8", shape, audio=layout)])


class Window:
    """Small reads at random places, most of them near the one before: one call for many."""

    def __init__(self, random: RandomSource, size: int = 1 << 14) -> None:
        self._random = random
        self._size = size
        self._data = b""
        self._start = 0

    def read(self, at: int, count: int) -> bytes:
        """Exactly `count` bytes from `at` on, else TruncatedError."""
        begin = at - self._start
        if begin < 0 or begin + count > len(self._data):
            length = max(count, min(self._size, self._random.size - at))
            self._data = self._random.read_at(at, length).tobytes()
            self._start, begin = at, 0
        return self._data[begin : begin + count]


class Head:
    """The start of a file, looked at before the file is read from front to back.

    `size` in bytes, None if unknown. `random`: the same file, where it can be read at random.
    `name`: what a tensor is called that has no name in the file.
    """

    def __init__(
        self, source: Source, size: int | None, random: RandomSource | None, name: str
    ) -> None:
        self._source = source
        self._taken = np.empty(0, np.uint8)
        self.size = size
        self.random = random
        self.name = name

    def at_least(self, count: int) -> Bytes:
        """The bytes looked at so far, at least `count` unless the file ends before."""
        missing = count - self._taken.size
        if missing > 0:
            more = self._source.take(max(missing, self._taken.size))
            self._taken = np.concatenate([self._taken, more])
        return self._taken

    def first(self, count: int) -> bytes:
        """The first `count` bytes, fewer only if the file ends before."""
        return self.at_least(count)[:count].tobytes()

    def part(self, at: int, count: int) -> bytes:
        """Bytes from `at` on, fewer where the file ends, or is not that near and read in order."""
        if at + count <= _NEAR or self.random is None:
            return self.first(at + count)[at:] if at + count <= _NEAR else b""
        count = max(0, min(count, self.random.size - at))
        return self.random.read_at(at, count).tobytes() if count else b""

    def rewound(self) -> Source:
        """The whole file from its first byte on."""
        return ChainSource(self._taken, self._source)
