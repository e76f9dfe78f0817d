"""The fixed parts of a sparse model and of its chunks, and the order of the bits of a bitmap."""

import struct
from typing import NamedTuple

import numpy as np

from densor.codec.batch import Bytes

HEAD = struct.Struct("<BB")  # codec, bytes per element; models of bitmap and values follow
IN_BANDS = 0x80  # added to the latter where what says how bands lie comes before the models
BANDS = struct.Struct("<IB")  # columns, rows before the first band
COUNT = struct.Struct("<I")  # elements of a chunk that are not zero
SIZES = (1, 2, 4, 8)  # bytes per element
BAND = 8  # rows
MAX_COLUMNS = 1 << 24


class Bands(NamedTuple):
    """Bits in bands of eight rows, each column of which is one byte.

    Sparsity of N of M elements down columns, M being 2, 4 or 8, thus stands in few bytes of 256.
    `columns`: elements of a row. `first`: rows before the first band, which stay in their order, as
    do those behind the last.
    """

    columns: int
    first: int

    def gathered(self, bitmap: Bytes, count: int) -> Bytes:
        """A bitmap of `count` elements in the order of bands."""
        return self._turned(bitmap, count, (BAND, self.columns))

    def scattered(self, bitmap: Bytes, count: int) -> Bytes:
        """Undoes `gathered`."""
        return self._turned(bitmap, count, (self.columns, BAND))

    def _turned(self, bitmap: Bytes, count: int, shape: tuple[int, int]) -> Bytes:
        bits = np.unpackbits(bitmap, count=count, bitorder="little")
        begin = self.first * self.columns
        whole = max(count - begin, 0) // (BAND * self.columns) * BAND * self.columns
        if whole:
            bands = bits[begin : begin + whole].reshape(-1, *shape)
            bits[begin : begin + whole] = bands.transpose(0, 2, 1).reshape(-1)
        return np.packbits(bits, bitorder="little")
