"""Columns whose cells stand one behind the other: where their buffers lie in a chunk.

As in the record batches of Arrow: each column of a batch of rows has a buffer of cells of one
width, one of bits, or two, of offsets and of the texts that these cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from densor.codec.table.layout import BITS, CELLS, I64, MAX_BUFFERS, Layout
from densor.codec.table.wire import Reader
from densor.errors import FormatError


class Buffer(NamedTuple):
    """Bytes of a column in rows `first` to `last`; `data`: texts, of which offsets come before."""

    column: int
    first: int
    last: int
    data: bool
    begin: int
    size: int


@dataclass(frozen=True, eq=False)
class Buffers:
    """The buffers of a chunk in order, and the bytes between them.

    `batches`: int64, rows of each batch; `sizes`: int64[batches, buffers of one]; `gaps`: int64,
    bytes before each buffer and behind the last, which are `pieces`.
    """

    layout: Layout
    batches: I64
    sizes: I64
    gaps: I64
    pieces: bytes

    def __iter__(self) -> Iterator[Buffer]:
        begins = np.cumsum(self.gaps[:-1] + np.concatenate([[0], self.sizes.reshape(-1)[:-1]]))
        ends = np.cumsum(self.batches)
        columns = columns_of(self.layout)
        places = iter(zip(begins.tolist(), self.sizes.reshape(-1).tolist(), strict=True))
        for rows, end in zip(self.batches.tolist(), ends.tolist(), strict=True):
            for column, data in columns:
                yield Buffer(column, end - rows, end, data, *next(places))

    def between(self, begin: int, end: int) -> bytes | None:
        """Bytes of the chunk that are in no buffer; None where some are in one."""
        starts, firsts = self._gaps
        number = int(np.searchsorted(starts, begin, "right")) - 1
        if end - starts[number] > self.gaps[number]:
            return None
        first = int(firsts[number] + begin - starts[number])
        return self.pieces[first : first + end - begin]

    @cached_property
    def _gaps(self) -> tuple[I64, I64]:
        """Where each gap begins in the chunk, and in the pieces."""
        firsts = np.cumsum(self.gaps) - self.gaps
        return firsts + np.cumsum(np.append(0, self.sizes.reshape(-1))), firsts


def columns_of(layout: Layout) -> list[tuple[int, bool]]:
    """Of each buffer of a batch its column, and whether it is that of texts behind offsets."""
    found = []
    for column, form in enumerate(layout.arrays):
        found.append((column, False))
        if form not in (CELLS, BITS):
            found.append((column, True))
    return found


def sizes_of(layout: Layout, batches: I64, texts: I64) -> I64:
    """Bytes of each buffer, int64[batches, buffers]; `texts`: int64[batches, columns of texts]."""
    found, known = [], 0
    for column, data in columns_of(layout):
        form = layout.arrays[column]
        if data:
            found.append(texts[:, known])
            known += 1
        elif form == CELLS:
            found.append(batches * layout.widths[column])
        else:
            found.append((batches + 7) >> 3 if form == BITS else (batches + 1) * form)
    return np.stack(found, axis=1)


def count_of_texts(layout: Layout) -> int:
    """How many columns are texts."""
    return sum(form not in (CELLS, BITS) for form in layout.arrays)


def take_buffers(at: Reader, layout: Layout, rows: int, size: int) -> Buffers:
    """Where the buffers of a chunk lie that has `rows` rows and `size` bytes; FormatError."""
    count = len(columns_of(layout))
    number = at.number(MAX_BUFFERS // count)
    batches = at.numbers(number)
    gaps, texts = at.numbers(number * count + 1), at.numbers(number * count_of_texts(layout))
    for found, most in ((batches, rows), (gaps, size), (texts, size)):
        if found.size and (found.min() < 0 or found.max() > most):
            raise FormatError("arrays of a table have impossible buffers")
    pieces = at.packed(size)
    sizes = sizes_of(layout, batches, texts.reshape(number, count_of_texts(layout)))
    if not number or int(batches.sum()) != rows or int(gaps.sum()) != len(pieces):
        raise FormatError("arrays of a table have impossible buffers")
    if int(sizes.sum()) + len(pieces) != size:
        raise FormatError("arrays of a table do not fill their chunk")
    return Buffers(layout, batches, sizes, gaps, pieces)
