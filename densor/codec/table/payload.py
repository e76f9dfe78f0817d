"""The head of a chunk: how many rows there are, what is no row, and where columns stand."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.table.arrays import Buffers, take_buffers
from densor.codec.table.layout import MAX_CELLS, Layout
from densor.codec.table.wire import Reader
from densor.errors import FormatError, LimitError

CONSTANT, SYMBOLS, STEPS, TEXT = range(4)  # how a column is made of cells
MIXED, HUFFMAN, BYTES, FUNCTION = range(4)  # how symbols are coded
NAMED = 1  # flag: the chunk begins with the line of names
LATENT = 2  # flag: the first record is that of columns under latent classes


@dataclass(frozen=True, eq=False)
class Head:
    """What stands before the records of columns, and these.

    `gaps`, `lengths`: int64, of each piece that is no row: rows since the last one, and bytes.
    `order`: the columns in the order of their records; `ends`: where these end; `checks` of them.
    `latent`: other columns, which share a record before these, of `latent_size` bytes.
    `records`: all, or what is at hand of them. `buffers`: of arrays, which have no such pieces.
    """

    rows: int
    named: bool
    gaps: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    pieces: bytes
    order: tuple[int, ...]
    ends: tuple[int, ...]
    checks: tuple[int, ...]
    records: Bytes
    latent: tuple[int, ...] = ()
    latent_size: int = 0
    latent_check: int = 0
    buffers: Buffers | None = None

    @cached_property
    def places(self) -> dict[int, int]:
        """Where each column stands in the order; -1 for those under latent classes."""
        found = dict.fromkeys(self.latent, -1)
        return found | {column: i for i, column in enumerate(self.order)}

    def range_of(self, column: int) -> tuple[int, int]:
        """Where the record of a column begins and ends."""
        place = self.places[column]
        if place < 0:
            return 0, self.latent_size
        return self.ends[place - 1] if place else self.latent_size, self.ends[place]

    def check_of(self, column: int) -> int:
        """The check of a column's record."""
        place = self.places[column]
        return self.latent_check if place < 0 else self.checks[place]


def parse_head(payload: Bytes, layout: Layout, size: int, whole: bool = True) -> Head:
    """The head of a chunk of `size` original bytes; FormatError or LimitError for a bad one.

    `whole`: the payload is all of the chunk, else its first bytes.
    """
    at = Reader(payload)
    flags, rows = at.byte(), at.number(8 * size if layout.arrays else size)
    count = 0 if layout.arrays else at.number(size)
    if flags > (0 if layout.arrays else NAMED + LATENT):
        raise FormatError("chunk of a table has unknown flags")
    if rows * layout.columns > (MAX_CELLS if layout.arrays else min(size, MAX_CELLS)):
        raise LimitError("chunk of a table has too many cells")
    if layout.records and (flags & LATENT or rows * layout.stride > size):
        raise FormatError("chunk has impossible records")
    buffers = take_buffers(at, layout, rows, size) if layout.arrays else None
    gaps = lengths = np.zeros(0, np.int64)
    pieces = b""
    if count:
        gaps, lengths, pieces = at.numbers(count), at.numbers(count), at.packed(size)
        _check_pieces(gaps, lengths, len(pieces), rows)
    end = at.number(1 << 26) if flags & LATENT else 0
    latent_size = end
    latent_check = int.from_bytes(at.raw(4), "little") if flags & LATENT else 0
    listed = at.number(layout.columns - 1) if flags & LATENT else layout.columns
    order, ends, checks = [], [], []
    for _ in range(listed):
        order.append(at.number(layout.columns - 1))
        end += at.number(1 << 26)
        ends.append(end)
        checks.append(int.from_bytes(at.raw(4), "little"))
    if len(set(order)) != len(order):
        raise FormatError("chunk of a table has a column twice")
    if whole and end != at.left:
        raise FormatError("columns of a table do not fill their chunk")
    fields = tuple(order), tuple(ends), tuple(checks)
    rest = payload[payload.size - at.left :]
    named = bool(flags & NAMED)
    latent = tuple(sorted(set(range(layout.columns)) - set(order)))
    under = latent, latent_size, latent_check
    return Head(rows, named, gaps, lengths, pieces, *fields, rest, *under, buffers)


def _check_pieces(
    gaps: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], size: int, rows: int
) -> None:
    for found, most in ((gaps, rows), (lengths, size)):
        if found.min() < 0 or found.max() > most or found.astype(np.float64).sum() > most:
            raise FormatError("chunk of a table has impossible pieces")
    if int(lengths.sum()) != size:
        raise FormatError("chunk of a table has impossible pieces")
