"""Planar models (codec 2) as the kernels take them; see `densor.codec.planes.units` for chunks."""

import numpy as np
import numpy.typing as npt

from densor.codec.planes.params import Classes, Parameters
from densor.codec.planes.units import LAYOUTS, CodedPlane, UnitParser, Words
from densor.entropy.huffman.code import MAX_BITS, canonical_codes
from densor.runtime.types import Bytes


class PlanarModel:
    """A model of planar chunks with its tables. `kernel`: None where there is none for it."""

    def __init__(self, model: Parameters[Classes]) -> None:
        self.model = model
        self.size = model.layout.size
        by_units = model.layout.number in LAYOUTS and not model.delta
        self.kernel = model.layout.name if by_units else None
        self._parser = UnitParser(model)

    def table(self, plane: int, code: int) -> Words:
        """The look-up table that the kernel wants for a class of a plane."""
        classes = self.model.planes[plane]
        assert classes is not None
        return pair_table(classes.lengths[code])

    def parse(
        self, payload: Bytes, elements: int, points: Bytes | None
    ) -> list[Bytes | int | CodedPlane]:
        """See `UnitParser.parse`."""
        return self._parser.parse(payload, elements, points)


def pair_table(lengths: npt.NDArray[np.uint8]) -> Words:
    """The kernel's look-up table of a complete code, uint32[4096]; see huffman.cu."""
    codes = canonical_codes(lengths)
    symbol = np.zeros(1 << MAX_BITS, np.uint32)
    bits = np.zeros(1 << MAX_BITS, np.uint32)
    for s in np.flatnonzero(codes).tolist():
        length = int(codes[s] >> 16)
        symbol[int(codes[s]) & 0xFFFF :: 1 << length] = s
        bits[int(codes[s]) & 0xFFFF :: 1 << length] = length
    rest = np.arange(1 << MAX_BITS, dtype=np.uint32) >> bits
    both = bits + bits[rest]
    fits = both <= MAX_BITS
    pair = both | symbol << 8 | symbol[rest] << 16
    alone = bits | symbol << 8 | np.uint32(1 << 31)
    table: Words = np.where(fits, pair, alone) | bits << 24
    return table
