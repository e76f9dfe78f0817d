"""Cells under latent classes of rows and columns (A. Montanari, E. Weiner, 2023).

"Compressing Tabular Data via Latent Variable Estimation": classes are estimated, coded, and then
cells under them. Here is what both sides know; `latent_fitting.py` estimates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.table.dictionary import Cells, take_dictionary
from densor.codec.table.layout import I32, I64
from densor.codec.table.wire import Reader
from densor.entropy.arithmetic.state import AT, STATE
from densor.entropy.deferred import deferred
from densor.errors import FormatError, LimitError

end_coder, start_coder = deferred("densor.codec.byte_cm.kernels", "end_coder", "start_coder")
code_cells = deferred("densor.codec.table.latent_kernels", "code_cells")

MAX_CLASSES = 255  # of rows, and of columns
MAX_COUNTS = 1 << 21  # pairs
_PIECE = 1 << 21  # cells after which an interrupt is noticed


class Latents(NamedTuple):
    """The class of each row, int32[rows], and of each column under them, int32[columns]."""

    rows: I32
    columns: I32


class Alphabet(NamedTuple):
    """Cells that several columns share, and how many classes of columns have them."""

    cells: Cells
    classes: int


class Coder:
    """Codes latents and cells to one arithmetic stream, or back.

    `sizes`: different symbols of each class of columns; `above`: classes of rows.
    """

    def __init__(self, coding: bool, data: Bytes, sizes: Sequence[int], above: int) -> None:
        self._coding = coding
        self._data = data
        self._sizes = np.array(sizes, np.int64)
        self._above = above
        self._state = np.zeros(STATE, np.int64)
        start_coder(coding, self._state, data)

    def classes(self, latents: Latents) -> None:
        """Codes the latents, or sets them."""
        for values, count in ((latents.rows, self._above), (latents.columns, self._sizes.size)):
            none = np.zeros(values.size, np.int32), np.zeros(1, np.int32)
            self._cells(*none, np.array([count]), values, 1)

    def cells(self, latents: Latents, symbols: I32) -> None:
        """Codes the cells of all columns, int32[columns, rows], or sets them."""
        self._cells(latents.rows, latents.columns, self._sizes, symbols.reshape(-1), self._above)

    def end(self) -> int:
        """The bytes that the stream has, maybe more than fit."""
        if self._coding:
            end_coder(self._state, self._data)
        return int(self._state[AT])

    def _cells(self, rows: I32, columns: I32, sizes: I64, symbols: I32, above: int) -> None:
        bases = (np.cumsum(sizes) - sizes) * above
        counts = np.zeros(2 * above * int(sizes.sum()), np.int32)
        step = max(1, _PIECE // max(1, columns.size))
        for begin in range(0, rows.size, step):
            end = min(rows.size, begin + step)
            sides = sizes, bases, symbols, counts, begin, end
            code_cells(self._coding, self._state, self._data, rows, columns, *sides)
            if self._state[AT] > self._data.size + 4:
                break


class Decoded(NamedTuple):
    """Latents, and the cells and symbols, int32[columns, rows], of all columns under them."""

    latents: Latents
    alphabets: list[Alphabet]
    symbols: I32

    def alphabet(self, column: int) -> Alphabet:
        """The cells of a column by its place among those under latents."""
        left = int(self.latents.columns[column])
        for found in self.alphabets:
            if left < found.classes:
                return found
            left -= found.classes
        raise AssertionError


def take_latents(at: Reader, rows: int, columns: int, quote: int, most: int) -> Decoded:
    """The record of columns under latents, to its end; FormatError or LimitError for a bad one."""
    alphabets = []
    sizes: list[int] = []
    for _ in range(at.number(MAX_CLASSES)):
        classes = at.number(MAX_CLASSES)
        cells = take_dictionary(at, quote, rows * columns, most)
        most -= int(cells.offsets[-1])
        if most < 0:
            raise FormatError("cells under latent classes have more bytes than their chunk")
        alphabets.append(Alphabet(cells, classes))
        sizes += [cells.size] * classes
    above = at.number(MAX_CLASSES)
    if not above or not 0 < len(sizes) <= MAX_CLASSES or not min(sizes):
        raise FormatError("table has impossible latent classes")
    if above * sum(sizes) > MAX_COUNTS:
        raise LimitError("latent classes of a table take too much memory")
    data = np.frombuffer(bytearray(at.raw(at.left)), np.uint8)
    latents = Latents(np.zeros(rows, np.int32), np.zeros(columns, np.int32))
    symbols = np.zeros((columns, rows), np.int32)
    coder = Coder(False, data, sizes, above)
    coder.classes(latents)
    coder.cells(latents, symbols)
    if coder.end() != data.size:
        raise FormatError("cells under latent classes do not decode to their end")
    return Decoded(latents, alphabets, symbols)
