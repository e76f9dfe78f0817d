"""How pages of columns lie in a stretch of a Parquet file, as a parser finds them."""

from typing import NamedTuple

MAX_STRETCH = 1 << 26  # bytes of pages that are coded together
MAX_CONTENT = 1 << 27  # bytes of their values
MAX_ROWS = 1 << 24
MAX_PAGES = 1 << 16
# What a page holds. Split: bytes of values by place; deltas: differences of numbers; lengths: those
# of the lengths of texts; shared: of what these share with the one before too; runs: of truths.
DICTIONARY, INDICES, PLAIN, SPLIT, DELTAS, LENGTHS, SHARED, RUNS = range(8)
PLAIN_CODEC, SNAPPY, GZIP, LZ4 = 0, 1, 2, 7  # how pages are compressed, as files number it
TEXTS, BITS = 0, -1  # widths of values that are no bytes of one width


class Page(NamedTuple):
    """A page. `header`: bytes before it; `stored`: of it in the file; `size`: uncompressed.

    `values`: how many, those that are missing too. `levels`: bytes of the levels that stand before
    what is compressed, -1 where they are in it. `compressed`: whether it may be.
    """

    header: int
    stored: int
    size: int
    kind: int
    values: int
    levels: int = -1
    compressed: bool = True


class Column(NamedTuple):
    """Pages one behind the other. `begin`: in the stretch; `width`: bytes of a value.

    `dtype`: what values are taken for. `optional`: whether some may be missing.
    """

    begin: int
    width: int
    dtype: str
    codec: int
    optional: bool
    pages: tuple[Page, ...]

    @property
    def size(self) -> int:
        """Bytes of all pages with their headers."""
        return sum(page.header + page.stored for page in self.pages)


class Pages(NamedTuple):
    """Columns of the same rows."""

    rows: int
    columns: tuple[Column, ...]
