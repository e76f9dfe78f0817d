"""How a table lies in a text."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

MAX_COLUMNS = 4096
MAX_CELLS = 1 << 23  # of a chunk
MAX_BYTES = 1 << 25  # of a chunk
MAX_ARRAY_BYTES = 1 << 26  # of a chunk of arrays
MAX_BUFFERS = 1 << 16  # of a chunk of arrays
CELLS, BITS, TEXTS_32, TEXTS_64 = 0, 1, 4, 8  # how a column lies in arrays; of texts, its offsets


@dataclass(frozen=True)
class Layout:
    """Rows of `columns` cells with a separator between them, a byte.

    `returns`: lines end with a carriage return and a line feed, else with the latter alone.
    `quote`: a byte that cells may stand between, 0 for none. `names`: the first line with its end,
    where it tells what the columns are called. `literals`: what stands before each cell and behind
    the last instead of separators, where a line is a JSON object. `widths`: bytes of each cell,
    with nothing between them. `records`: nothing is between rows either, so that cells may have any
    bytes. `types`: what the cells of each column of records are taken for by the coding side.
    `arrays`: how each column lies, where the cells of a column stand one behind the other, of a
    batch of rows at a time: `CELLS` of its width, `BITS`, or texts behind their offsets. The coding
    side is told the rows of each batch, `batches`, and where each buffer begins in the stretch,
    `places`: of all columns of a batch, two for texts.
    """

    columns: int
    separator: int = 44
    returns: bool = False
    quote: int = 34
    names: bytes = b""
    literals: tuple[bytes, ...] = ()
    widths: tuple[int, ...] = ()
    records: bool = False
    types: tuple[str, ...] = ()
    arrays: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    places: tuple[int, ...] = ()

    @property
    def separated(self) -> bool:
        """Whether cells stand between separators."""
        return not self.literals and not self.widths

    @property
    def max_bytes(self) -> int:
        """Original bytes of a chunk, at most."""
        return MAX_ARRAY_BYTES if self.arrays else MAX_BYTES

    @property
    def ending(self) -> int:
        """Bytes of the end of a row: a line feed, with a carriage return before it, or none."""
        return 0 if self.records else 1 + int(self.returns)

    @property
    def stride(self) -> int:
        """Bytes from record to record."""
        return sum(self.widths)

    def width(self, column: int) -> int:
        """The bytes of each cell of a column; 0 where they differ."""
        return self.widths[column] if self.widths else 0

    def has_items(self, column: int) -> bool:
        """Whether the cells of a column are items of one width, of any bytes, and no text."""
        return self.records or (bool(self.arrays) and self.widths[column] > 0)

    @property
    def between(self) -> tuple[bytes, ...]:
        """What stands before each cell and behind the last."""
        if self.separated:
            return (b"", *[bytes([self.separator])] * (self.columns - 1), b"")
        return self.literals or (b"",) * (self.columns + 1)
