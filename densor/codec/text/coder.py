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
_LEAST = 256  # bytes of a segment
_SAMPLE = 1 << 18  # bytes that are looked at
_DENSE = 7.9  # bits per byte in data that somebody has compressed before
_REPEATS = 500  # to one: Zstandard has done it all


def is_worth_it(segment: Bytes, by_zstd: int) -> bool:
    """Whether a segment that Zstandard brings to `by_zstd` bytes is worth the time."""
    if segment.size < _LEAST or by_zstd * _REPEATS < segment.size:
        return False
    if by_zstd < segment.size * 0.99:
        return True
    sample = segment[:: max(1, segment.size // _SAMPLE)]
    counts = np.bincount(sample, minlength=256)
    used = counts[counts > 0] / sample.size
    return float(-(used * np.log2(used)).sum()) < _DENSE


class TextCoder:
    """A `BatchCoder`; the model adapts within each segment, so that nothing is counted before.

    `size`: of the longest segment, in bytes. `light`: fewer contexts, for speed.
    """

    repeats = False

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
        return data[:end].copy() if end < chunk.size else chunk
