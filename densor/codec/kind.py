"""What a stretch of bytes is made of, and how it is cut into batches and chunks."""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

from densor.codec.audio.layout import Layout as Audio
from densor.codec.audio.layout import fits as fits_sound
from densor.codec.blocks.block import CHUNK as BLOCKS_CHUNK
from densor.codec.blocks.block import Field
from densor.codec.deflate.stream import Stream
from densor.codec.image.layout import Layout as Image
from densor.codec.image.layout import fits, layout_of
from densor.codec.notation.layout import Notation
from densor.codec.pages.layout import Pages
from densor.codec.planes import analyse
from densor.codec.planes.layout import Layout, layout_for
from densor.codec.table.layout import Layout as Table
from densor.dtypes import INTEGERS, coding_of
from densor.float_formats import PAIRS, by_rows

BATCH_BYTES = 3 << 23  # below the size from which allocators return memory at once
_MIN_COLUMNS = 64
_MAX_COLUMNS = 1 << 16
_FLAT_COLUMNS = 1024  # where a tensor has no useful rows
_JOINED_BYTES = 1 << 23  # of tensors that share a batch
_MAX_RUN = 4096  # bytes of a run of blocks, about
_KINDS = 1 << 10  # that are kept, by type and shape: layers of a network repeat them


class Data(Enum):
    """Kinds of data that differ in the codecs that suit them."""

    BYTES = auto()  # of which nothing is known
    ELEMENTS = auto()  # of one type
    MATRICES = auto()  # of floats
    BLOCKS = auto()  # of several fields
    IMAGE = auto()  # rows of samples
    STREAM = auto()  # of DEFLATE
    TABLE = auto()  # a table as text
    AUDIO = auto()  # samples of sound
    PAGES = auto()  # of columns, as in Parquet files
    NOTATION = auto()  # elements in another form than their bytes


@dataclass(frozen=True)
class Kind:
    """Elements of a dtype in runs, blocks of fields in runs, or plain bytes (no layout).

    `run`: elements, or blocks, that are likely to be alike. `parts`: of elements, the matrices,
    (rows, columns) each, that those of this stretch make up, one after the other; what is longer
    than one chunk has one part only. `columns`: of blocks, how many make a row. `image`: how rows
    of samples lie, `guessed` from type and shape or as a format has it; all else then says what
    they are beside that. `audio`: likewise how samples of sound lie. `stream`: one whole DEFLATE
    stream. `table`: how cells lie in a text. `pages`: how those of columns lie. `notation`: in
    which form elements stand here. `tokens`: whether integers are said to be such; `books`: of
    integers, the last two sizes of their shape, which may be codebooks and time.
    """

    layout: Layout | None
    run: int = 1
    integers: bool = False
    dtype: str = "U8"
    parts: tuple[tuple[int, int], ...] = ()
    fields: tuple[Field, ...] = ()
    columns: int = 0
    image: Image | None = None
    guessed: bool = False
    stream: Stream | None = None
    table: Table | None = None
    pages: Pages | None = None
    notation: Notation | None = None
    audio: Audio | None = None
    tokens: bool = False
    books: tuple[int, int] = (0, 0)

    @property
    def unit(self) -> int:
        """Bytes that belong together: an element, a block, a row of an image, an instant."""
        if self.audio is not None:
            return self.audio.stride
        if self.image is not None:
            return self.image.stride
        if self.fields:
            return sum(field.size for field in self.fields)
        return 1 if self.layout is None else self.layout.size

    @functools.cached_property
    def data(self) -> Data:
        """What `choose/candidates.py` goes by."""
        if self.stream is not None:
            return Data.STREAM
        if self.pages is not None:
            return Data.PAGES
        if self.notation is not None:
            return Data.NOTATION
        if self.audio is not None:
            return Data.AUDIO
        if self.image is not None:
            return Data.IMAGE
        if self.fields:
            return Data.BLOCKS
        if self.table is not None:
            return Data.TABLE
        if self.layout is None:
            return Data.BYTES
        return Data.MATRICES if self.parts and by_rows(self.dtype) else Data.ELEMENTS

    def whole_rows(self, size: int) -> int:
        """About `size` bytes: whole rows of a matrix or of blocks; all where there are parts."""
        if self.audio is not None or self.image is not None:
            return max(1, size // self.unit) * self.unit
        if len(self.parts) > 1:
            return sum(rows * columns for rows, columns in self.parts) * self.unit
        row = (self.columns or self.parts[0][1]) * self.unit
        return max(1, size // row) * row

    @property
    def whole_runs(self) -> int:
        """Bytes of a chunk of elements in runs."""
        assert self.layout is not None
        return analyse.chunk_elements(self.layout, self.run) * self.layout.size


BYTES = Kind(None)


def kind_of_table(layout: Table) -> Kind:
    """How to treat a text that is a table."""
    return Kind(None, table=layout)


def kind_of_pages(pages: Pages) -> Kind:
    """How to treat pages of columns."""
    return Kind(None, pages=pages)


def kind_of_notation(notation: Notation) -> Kind:
    """How to treat elements in another form than their bytes."""
    return Kind(None, notation=notation)


class Segment(NamedTuple):
    """A stretch of an entry that is coded in one way; `size` None means up to the end."""

    kind: Kind
    size: int | None
    base: int | None = None  # where in the base the bytes are that these may have changed from


def is_plain(kind: Kind) -> bool:
    """Whether this is bytes of which nothing is known."""
    return kind.data is Data.BYTES


def matrix_of(shape: Sequence[int]) -> tuple[int, int]:
    """A tensor as a matrix, (rows, columns): what differs in scale are its rows and columns.

    The last dimensions are taken together until a row has at least 64 elements; convolutions thus
    have a row per output channel. Without rows of a sensible length, rows of 1024 elements; the
    last may be shorter, so that (rows * columns) may be a little more than the tensor has.
    """
    columns = 1
    for size in reversed(shape[1:]):
        if columns >= _MIN_COLUMNS:
            break
        columns *= max(size, 1)
    total = math.prod(shape)
    if len(shape) < 2 or not _MIN_COLUMNS <= columns <= _MAX_COLUMNS:
        columns = _FLAT_COLUMNS
    return -(-total // columns), columns


@functools.lru_cache
def parts_of(dtype: str, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """The matrices that a whole tensor is made of, exactly: what is left is a row of its own."""
    dtype, coded = coding_of(dtype, shape)
    sizes = (*coded, 2) if dtype in PAIRS else coded
    _, columns = matrix_of(sizes)
    rows, rest = divmod(math.prod(sizes), columns)
    return ((rows, columns),) * (rows > 0) + ((1, rest),) * (rest > 0)


def kind_of(dtype: str, shape: Sequence[int]) -> Kind:
    """How to treat a tensor of this dtype and shape."""
    return _kind_of(dtype, tuple(shape))


@functools.lru_cache(_KINDS)
def _kind_of(dtype: str, shape: tuple[int, ...]) -> Kind:
    dtype, rows = coding_of(dtype, shape)
    layout = layout_for(dtype)
    if layout is None:
        return BYTES
    if dtype in PAIRS:
        rows = (*rows, 2)
    run = analyse.run_length(rows)
    integers = dtype in INTEGERS
    books = (rows[-2], rows[-1]) if integers and len(rows) > 1 else (0, 0)
    return Kind(layout, run, integers, dtype, (matrix_of(rows),), books=books)


def segments_of(
    dtype: str, pieces: Iterable[tuple[tuple[int, ...], int, int]]
) -> Iterator["Segment"]:
    """How to treat elements of several tensors, one after the other, which share a few batches.

    `pieces`: (shape, begin, end) of each: which of the elements of a tensor of this shape it is.
    """
    layout = layout_for(dtype)
    assert layout is not None
    joined: list[tuple[int, int]] = []
    count, most = 0, _JOINED_BYTES // layout.size

    def of_joined() -> Segment:
        widest = max(joined, key=lambda part: part[0] * part[1])
        kind = replace(kind_of(dtype, (1, widest[1])), parts=tuple(joined))
        return Segment(kind, count * layout.size)

    for shape, begin, end in pieces:
        parts = _parts_between(shape, begin, end)
        size = sum(rows * columns for rows, columns in parts)
        if joined and count + size > most:
            yield of_joined()
            joined, count = [], 0
        if size > most:  # which is cut into batches
            for rows, columns in parts:
                kind = kind_of(dtype, (rows, columns))
                yield Segment(replace(kind, parts=((rows, columns),)), rows * columns * layout.size)
        else:
            joined += parts
            count += size
    if joined:
        yield of_joined()


def _parts_between(shape: tuple[int, ...], begin: int, end: int) -> list[tuple[int, int]]:
    """The matrices that elements `begin` to `end` - 1 of a tensor are made of, exactly."""
    columns = matrix_of(shape)[1]
    if columns > end - begin:
        return [(1, end - begin)] if end > begin else []
    first = min(-begin % columns, end - begin)
    return [(1, first)] * (first > 0) + _rows_of(end - begin - first, columns)


def as_tokens(kind: Kind) -> Kind:
    """The same numbers, said to be tokens; of plain bytes, of 16 bits."""
    if is_plain(kind):
        kind = kind_of("U16", (_FLAT_COLUMNS,))
    return replace(kind, tokens=True, image=None, guessed=False)


def _rows_of(elements: int, columns: int) -> list[tuple[int, int]]:
    rows, rest = divmod(elements, columns)
    found = [(rows, columns)] if rows else []
    return [*found, (1, rest)] if rest else found


def kind_of_array(dtype: str, shape: Sequence[int]) -> Kind:
    """How to treat a whole tensor, which may be an image."""
    layout = layout_of(dtype, shape)
    kind = kind_of(dtype, shape)
    return kind if layout is None else replace(kind, image=layout, guessed=True)


def kind_of_image(layout: Image, size: int) -> Kind:
    """How to treat the `size` bytes of rows of an image; as bytes where they cannot be that."""
    if not fits(layout, size):
        return BYTES
    samples = layout.width * layout.channels if not layout.padding else layout.stride
    dtype = "U16" if layout.size == 2 and not layout.padding else "U8"
    return replace(kind_of(dtype, (size // layout.stride, samples)), image=layout)


def kind_of_stream(stream: Stream) -> Kind:
    """How to treat a DEFLATE stream."""
    return Kind(None, stream=stream)


def kind_of_audio(layout: Audio, size: int) -> Kind:
    """How to treat `size` bytes of sound; as bytes where they cannot be that."""
    if not fits_sound(layout, size):
        return BYTES
    dtype = "F32" if layout.floats else {1: "U8", 2: "U16", 4: "U32"}.get(layout.size, "U8")
    columns = layout.channels if dtype != "U8" else layout.stride
    return replace(kind_of(dtype, (size // layout.stride, columns)), audio=layout)


def kind_of_blocks(fields: tuple[Field, ...], row: int) -> Kind:
    """How to treat rows of `row` blocks each; runs are rows or parts of one."""
    block = sum(field.size for field in fields)
    most = max(1, _MAX_RUN // block)
    parts = -(-row // most)
    run = row // parts if row % parts == 0 else most
    columns = row if row * block <= BLOCKS_CHUNK else run
    return Kind(None, run, fields=fields, columns=columns)


def matrices(kind: Kind, elements: int) -> list[tuple[int, int]]:
    """The matrices that a chunk of so many elements of a stretch is made of, exactly.

    Several parts are in one chunk as a whole; else whole rows of the only one, and what is left of
    the last row as a row of its own.
    """
    if len(kind.parts) > 1 and elements == sum(r * c for r, c in kind.parts):
        return list(kind.parts)
    columns = kind.parts[0][1] if len(kind.parts) == 1 else _FLAT_COLUMNS
    return _rows_of(elements, columns)
