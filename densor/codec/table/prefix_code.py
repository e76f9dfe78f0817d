"""Prefix codes of any number of symbols, whose lengths alone are stored."""

import numpy as np
import numpy.typing as npt

from densor.codec.table.layout import I64
from densor.codec.table.state import MAX_LENGTH, Code
from densor.entropy.deferred import deferred
from densor.errors import FormatError

huffman_lengths, make_code = deferred(
    "densor.codec.table.symbol_kernels", "huffman_lengths", "make_code"
)

_INDEX_BITS = 24  # of a symbol, beside how often it occurs


def lengths_for(counts: I64) -> npt.NDArray[np.uint8]:
    """Lengths of Huffman's code, uint8[n], of at least 1 and at most `MAX_LENGTH` bits."""
    counts = np.maximum(counts, 1)
    while True:
        keys = np.sort(counts << _INDEX_BITS | np.arange(counts.size))
        order = keys & ((1 << _INDEX_BITS) - 1)
        found = np.empty(counts.size, np.int64)
        weights, depths = np.empty(counts.size, np.int64), np.zeros(counts.size, np.int64)
        parents = np.empty(2 * counts.size, np.int64)
        huffman_lengths(keys >> _INDEX_BITS, weights, parents, depths, found)
        if found.max(initial=0) <= MAX_LENGTH:
            lengths = np.empty(counts.size, np.uint8)
            lengths[order] = np.maximum(found, 1)
            return lengths
        counts = (counts >> 1) + 1


def code_of(lengths: npt.NDArray[np.uint8], count: int) -> Code:
    """The canonical code of `count` lengths, two or more; FormatError if it is not complete."""
    if lengths.size != count or count < 2 or lengths.min() < 1 or lengths.max() > MAX_LENGTH:
        raise FormatError("prefix code of a column has impossible lengths")
    first, counts, offset = np.empty((3, MAX_LENGTH + 2), np.int64)
    symbols, codes = np.empty(count, np.int32), np.empty(count, np.int64)
    if not make_code(lengths, first, counts, offset, symbols, codes):
        raise FormatError("prefix code of a column is not complete")
    return Code(lengths.astype(np.int32), codes, first, counts, offset, symbols)
