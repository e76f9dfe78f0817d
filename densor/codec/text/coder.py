"""The text codec's coding side for a batch."""

from collections.abc import Sequence

import numpy as np

from densor.codec.coder import Bytes
from densor.codec.text.model import LEAST_BITS, Model, pack, run

# Contexts by number, see contexts.py.
_FULL = (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 18, 19, 20)
_LIGHT = (0, 1, 2, 3, 5, 7)
_FULL_SETS, _LIGHT_SETS = 6, 2
_MOST_BITS = 26  # of the table of histories, logarithm of bytes
_BITS_MORE = 7  # than the size of a segment has


class TextCoder:
    """A `BatchCoder`; the model adapts within each segment, so that nothing is counted before.

    `size`: of the longest segment, in bytes. `light`: fewer contexts, for speed.
    """

    def __init__(self, size: int, light: bool = False) -> None:
        numbers, sets = (_LIGHT, _LIGHT_SETS) if light else (_FULL, _FULL_SETS)
        bits = min(max(size.bit_length() + _BITS_MORE, LEAST_BITS), _MOST_BITS)
        self._model = Model(sum(1 << number for number in numbers), sets, bits)

    def count(self, chunk: Bytes) -> None:
        """Nothing."""

    def decide(self, tallies: Sequence[None]) -> None:
        """Nothing to settle."""

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack(self._model)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of a segment; the segment itself where that is not longer."""
        data = np.empty(chunk.size, np.uint8)
        end = run(True, self._model, data, np.array(chunk))
        return data[:end] if end < chunk.size else chunk
