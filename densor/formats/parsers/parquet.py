"""Pages of columns in Parquet files, where they can be made again of their values.

Format: https://parquet.apache.org/docs/file-format. The metadata at the end tells where columns
are; headers of pages, which stand before these, tell all else.
"""

from collections.abc import Iterator
from typing import NamedTuple

from densor.codec.pages.layout import (
    BITS,
    DELTAS,
    DICTIONARY,
    GZIP,
    INDICES,
    LENGTHS,
    LZ4,
    MAX_CONTENT,
    MAX_PAGES,
    MAX_ROWS,
    MAX_STRETCH,
    PLAIN,
    PLAIN_CODEC,
    RUNS,
    SHARED,
    SNAPPY,
    SPLIT,
    TEXTS,
    Column,
    Page,
    Pages,
)
from densor.errors import FormatError, LimitError
from densor.formats.io.sources import RandomSource
from densor.formats.parsers.contents import Contents, Head, Stretch, Window
from densor.formats.parsers.thrift import Reader, Struct

MAGIC = b"PAR1"
_TAIL = 8  # bytes behind the metadata
_MAX_METADATA = 1 << 24
_MAX_HEADER = 1 << 16  # bytes before a page
_FIRST = 1 << 8  # bytes in which a header is looked for
_MAX_PAGES_SEEN = 1 << 18  # in a file
_MAX_HEADERS_SEEN = 1 << 24  # bytes of all of them in a file
_MAX_VALUES_OF_HEADER = 1 << 10
_AHEAD = 1 << 14
_MOST_COLUMNS = 128  # that are coded under each other, which takes time by their square
_MAX_NAMES = 1 << 24  # bytes of all columns, to read some of them
_MAX_DEPTH = 16  # of columns within others
_WIDTHS = {0: BITS, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8, 6: TEXTS}  # by physical type
_FIXED = 7  # a physical type, whose width stands beside it
_DTYPES = {1: "I32", 2: "I64", 4: "F32", 5: "F64"}
_MAX_WIDTH = 1 << 15
_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3  # types of pages
_ENCODINGS = {0: PLAIN, 2: INDICES, 3: RUNS, 5: DELTAS, 6: LENGTHS, 7: SHARED, 8: INDICES, 9: SPLIT}
_LEVELS = 3  # the encoding of levels that is known
_REQUIRED, _OPTIONAL = 0, 1
_ODD = LookupError, TypeError, AttributeError, ValueError  # of values of other types

# Rows of which the values take less than the bytes of their pages: of one group; and of each of
# several, on average, between which bytes have much in common.
FEWEST_ROWS, FEWEST_OF_SEVERAL = 64, 400


def find(head: Head) -> Contents | None:
    """The columns of a Parquet file; None if it is none, or read from a pipe."""
    if head.first(len(MAGIC)) != MAGIC or head.random is None:
        return None
    found = _metadata_in(head.random)
    if found is None:
        return None
    metadata, end = found
    return Contents([], list(_stretches(metadata, Window(head.random, _AHEAD), end)))


def _metadata_in(random: RandomSource) -> tuple[Struct, int] | None:
    """The metadata at the end of a file, and where it begins; None where there is none."""
    if random.size < len(MAGIC) + _TAIL:
        return None
    end = random.size - _TAIL
    tail = random.read_at(end, _TAIL).tobytes()
    size = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or not 0 < size <= min(end - len(MAGIC), _MAX_METADATA):
        return None
    return Reader(random.read_at(end - size, size).tobytes()).struct(), end - size


class Leaf:
    """A column as the schema has it: whether values may be missing, and their width.

    `element`: its fields by their numbers; `path`: the name, with those of what it is in before it.
    """

    def __init__(self, element: Struct, levels: int, flat: bool, path: tuple[bytes, ...]) -> None:
        self.element = element
        self.path = path
        kind = element.get(1, -1)
        self.width = _WIDTHS.get(kind, 0) if kind != _FIXED else element.get(2, 0)
        self.known = kind in _WIDTHS or (kind == _FIXED and 1 <= self.width <= _MAX_WIDTH)
        self.known &= flat and levels <= 1
        self.dtype = _DTYPES.get(kind, "")
        self.optional = levels > 0

    @property
    def name(self) -> str:
        """The path as one text."""
        return ".".join(part.decode("utf-8", "replace") for part in self.path)


def _leaves(schema: list[Struct]) -> list[Leaf]:
    """The columns of a schema in order; FormatError where it does not end."""
    found: list[Leaf] = []
    elements = iter(schema)

    def walk(levels: int, flat: bool, depth: int, outer: tuple[bytes, ...]) -> None:
        element = next(elements, None)
        if not isinstance(element, dict) or depth > _MAX_DEPTH:
            raise FormatError("schema of a Parquet file is too deep, or does not end")
        repetition = element.get(3, _REQUIRED) if depth else _REQUIRED
        levels += repetition == _OPTIONAL
        flat = flat and repetition in (_REQUIRED, _OPTIONAL)
        children = element.get(5, 0)
        path = (*outer, element.get(4, b"")) if depth else ()
        for _ in range(children):
            walk(levels, flat, depth + 1, path)
        if not children:
            found.append(Leaf(element, levels, flat, path))

    walk(0, True, 0, ())
    return found


class Group(NamedTuple):
    """Rows of a file. `begins`: where the pages of each column begin."""

    rows: int
    begins: tuple[int, ...]
    chunks: tuple[Struct, ...]


class Metadata:
    """What a file says of its columns; FormatError where that is not as it should be."""

    def __init__(self, random: RandomSource) -> None:
        found = _metadata_in(random)
        if found is None:
            raise FormatError("this is no file of Parquet")
        metadata, self._end = found
        self._window = Window(random, _AHEAD)
        try:
            self.leaves = _leaves(metadata[2])
            if sum(len(part) for leaf in self.leaves for part in leaf.path) > _MAX_NAMES:
                raise LimitError("names of the columns of a Parquet file are too long")
            self.groups = [
                Group(group[3], tuple(_begin(chunk[3]) for chunk in group[1]), tuple(group[1]))
                for group in metadata[4]
                if group[3] != 0  # whose pages may be nowhere
            ]
            if any(
                group.rows < 0 or len(group.begins) != len(self.leaves) for group in self.groups
            ):
                raise ValueError("groups of other columns")
        except _ODD as error:
            raise FormatError("metadata of a Parquet file is not as it should be") from error

    def column(self, group: Group, number: int) -> Column | None:
        """Where the pages of a column are; None where they are of kinds that are not known."""
        left = [_MAX_PAGES_SEEN, _MAX_HEADERS_SEEN]
        chunk, leaf = group.chunks[number], self.leaves[number]
        try:
            return _column(chunk, leaf, group.rows, self._window, self._end, left)
        except _ODD as error:
            raise FormatError("metadata of a Parquet file is not as it should be") from error


def stored_size(header: bytes) -> int:
    """Bytes of the page behind a header; FormatError where it is none."""
    size = Reader(header, 0, _MAX_VALUES_OF_HEADER).struct().get(3)
    if not isinstance(size, int) or size < 0:
        raise FormatError("page of a Parquet file has no size")
    return size


def _begin(about: Struct) -> int:
    """Where the pages of a column begin."""
    return int(min(place for place in (about.get(11, 0), about[9]) if place > 0))


def _stretches(metadata: Struct, window: Window, end: int) -> Iterator[Stretch]:
    try:
        leaves = _leaves(metadata[2])
        left = [_MAX_PAGES_SEEN, _MAX_HEADERS_SEEN]
        groups = metadata[4]
        fewest = FEWEST_ROWS if len(groups) == 1 else FEWEST_OF_SEVERAL
        if sum(group[3] for group in groups) < fewest * len(groups):
            return
        for group in groups:
            columns = []
            for chunk, leaf in zip(group[1], leaves, strict=True):
                column = _column(chunk, leaf, group[3], window, end, left)
                if column is not None:
                    columns.append(column)
            yield from _groups(columns, group[3])
    except _ODD as error:
        raise FormatError("metadata of a Parquet file is not as it should be") from error


def _column(
    chunk: Struct, leaf: Leaf, rows: int, window: Window, end: int, left: list[int]
) -> Column | None:
    """A column of some rows; None where its pages are of kinds that are not known.

    `left`: how many more pages may be looked at in the file, and bytes of their headers.
    """
    about = chunk[3]
    codec, size = about[4], about[7]
    begin = _begin(about)
    possible = leaf.known and 1 not in chunk and codec in (PLAIN_CODEC, SNAPPY, GZIP, LZ4)
    if not possible or about[5] != rows or not 0 < rows <= MAX_ROWS:
        return None
    if size > MAX_STRETCH or not len(MAGIC) <= begin <= begin + size <= end:
        return None
    pages: list[Page] = []
    at, behind = begin, begin + size
    while at < behind:
        left[0] -= 1
        page = _page(window, at, behind, leaf, left) if min(left) >= 0 else None
        if page is None or len(pages) == MAX_PAGES:
            return None
        pages.append(page)
        at += page.header + page.stored
    if sum(page.values for page in pages if page.kind != DICTIONARY) != rows:
        return None
    return Column(begin, leaf.width, leaf.dtype, codec, leaf.optional, tuple(pages))


def _page(window: Window, at: int, end: int, leaf: Leaf, left: list[int]) -> Page | None:
    """The page that begins there; None where it is of a kind that is not known."""
    header, size = _header(window, at, end)
    left[1] -= size
    kind, whole, stored = header[1], header[2], header[3]
    if not 0 <= stored <= end - at - size or not 0 <= whole <= MAX_CONTENT:
        return None
    if kind == _DICTIONARY:
        about = header[7]
        encoding, values, levels, compressed = about[2], about[1], -1, True
        encoding = DICTIONARY if encoding in (0, 2) else None
    elif kind == _DATA:
        about = header[5]
        encoding, values, levels, compressed = _ENCODINGS.get(about[2]), about[1], -1, True
        if leaf.optional and about[3] != _LEVELS:
            return None
    elif kind == _DATA_2:
        about = header[8]
        encoding, values, levels = _ENCODINGS.get(about[4]), about[1], about[5]
        compressed = about.get(7, True)
        if about[6] or not 0 <= levels <= min(stored, whole) or (levels and not leaf.optional):
            return None
    else:
        return None
    if encoding is None or not 0 <= values <= MAX_ROWS:
        return None
    if not _may_hold(encoding, leaf.width):
        return None
    return Page(size, stored, whole, encoding, values, levels, compressed)


def _may_hold(encoding: int, width: int) -> bool:
    """Whether a page may hold values of such a width."""
    if encoding == SPLIT:
        return width > 0
    if encoding == DELTAS:
        return width in (4, 8)
    if encoding == LENGTHS:
        return width == TEXTS
    if encoding == RUNS:
        return width == BITS
    return width != BITS or encoding not in (INDICES, SHARED)


def _header(window: Window, at: int, end: int) -> tuple[Struct, int]:
    """The header of a page, and its bytes."""
    size = min(_FIRST, end - at)
    while True:
        reader = Reader(window.read(at, size), 0, _MAX_VALUES_OF_HEADER)
        try:
            return reader.struct(), reader.at
        except FormatError:
            if size == min(_MAX_HEADER, end - at):
                raise
            size = min(16 * size, _MAX_HEADER, end - at)


def _groups(columns: list[Column], rows: int) -> Iterator[Stretch]:
    """Columns that are coded together, as many as limits let."""
    group: list[Column] = []
    for column in sorted(columns):
        if group and not _joins(group, column, rows):
            yield _stretch(group, rows)
            group = []
        group.append(column)
    if group:
        yield _stretch(group, rows)


def _joins(group: list[Column], column: Column, rows: int) -> bool:
    begin = group[0].begin
    last = group[-1]
    if column.begin < last.begin + last.size or len(group) == _MOST_COLUMNS:
        return False
    if column.begin + column.size - begin > MAX_STRETCH:
        return False
    both = (*group, column)
    content = sum(_content(one, rows) for one in both)
    return content <= MAX_CONTENT and sum(len(one.pages) for one in both) <= MAX_PAGES


def _content(column: Column, rows: int) -> int:
    """Bytes of the values of a column, about: of texts all but those of a dictionary."""
    if column.width == TEXTS:
        return 5 * rows + sum(page.size for page in column.pages)
    return rows * (abs(column.width) + 1)


def _stretch(group: list[Column], rows: int) -> Stretch:
    begin = group[0].begin
    size = group[-1].begin + group[-1].size - begin
    columns = tuple(column._replace(begin=column.begin - begin) for column in group)
    return Stretch(begin, size, "U8", (), pages=Pages(rows, columns))
