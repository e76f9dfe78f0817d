"""Cells under latent classes: their coding, and the sums that estimating these takes."""

import numba
from numba import types

from densor.codec.byte_cm.kernels import code_bit
from densor.entropy.arithmetic.state import AT
from densor.entropy.jit import I32, I64, W8, index, kernel

int64 = numba.int64
F32 = types.float32[::1]
_LEAST, _MOST = 16, 65520  # probabilities of a 1, over 2^16


@kernel(
    types.void(
        types.boolean, I64, W8, I32, I32, I64, I64, I32, I32, types.int64, types.int64
    ),
    counted=False,
)  # fmt: skip
def code_cells(coding, coder, data, rows, columns, sizes, bases, symbols, counts, begin, end):
    """Codes or decodes the cells of rows `begin` to `end`, one row after the other.

    `rows`, `columns`: int32, the class of each. `sizes`: different symbols of a class of columns;
    `bases`: where its counts begin, those of a class of rows after the other. `symbols`:
    int32[columns, rows]. `counts`: int32, pairs, of decisions that were 0 and 1. More than `data`
    has room for is counted, not written.
    """
    step = rows.size
    for row in range(begin, end):
        above = int64(rows[index(row)])
        for column in range(columns.size):
            beside = int64(columns[index(column)])
            size = sizes[index(beside)]
            base = bases[index(beside)] + above * size
            at = column * step + row
            symbol = int64(symbols[index(at)]) if coding else int64(0)
            low = int64(0)
            high = size
            while high - low > 1:
                middle = (low + high) >> 1
                place = 2 * (base + middle)
                zeros = int64(counts[index(place)])
                ones = int64(counts[index(place + 1)])
                p = ((2 * ones + 1) << 15) // (zeros + ones + 1)
                p = min(max(p, int64(_LEAST)), int64(_MOST))
                bit = code_bit(coding, coder, data, int64(symbol >= middle), p)
                counts[index(place + bit)] += 1
                if bit:
                    low = middle
                else:
                    high = middle
            symbols[index(at)] = low
        if coder[AT] > data.size + 4:
            break


@kernel(types.void(I32, F32, F32, types.int64))
def add_scores(places, table, scores, classes):
    """Adds to `scores`, float32[rows, classes], the rows of a table that cells stand for.

    `places`: int32[columns, rows], rows of `table`, float32[n, classes].
    """
    rows = scores.size // classes
    for column in range(places.size // rows):
        for row in range(rows):
            at = int64(places[index(column * rows + row)]) * classes
            to = row * classes
            for k in range(classes):
                scores[index(to + k)] += table[index(at + k)]


@kernel(types.void(I32, F32, F32, types.int64))
def add_counts(places, table, scores, classes):
    """Adds the rows of `scores` to those of the table that cells stand for."""
    rows = scores.size // classes
    for column in range(places.size // rows):
        for row in range(rows):
            at = int64(places[index(column * rows + row)]) * classes
            begin = row * classes
            for k in range(classes):
                table[index(at + k)] += scores[index(begin + k)]
