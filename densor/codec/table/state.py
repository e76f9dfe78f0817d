"""What the kernels of tables and those who call them know: sizes, and the tuples that they take."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PADDING = 16  # bytes behind what is read in words; the first is a line feed
QUICK = 12  # bits that the table of a decoder of prefix codes is entered with
FUNCTION_PLACES = 1 << 18
MAX_DECIMALS = 18  # of a number, and its digits at most
MAX_VALUE = 10**MAX_DECIMALS
LF, CR = 10, 13  # what lines end with
TRIMMED, QUOTED = 32, 64  # beside the decimals: without zeros at the end; between quotes
MISSING_STEP = -(1 << 63)  # which no numbers of a table lie apart

# Context mixing
LINE = 16  # numbers: a check and 15 counters, those of four decisions
PARENTS = 3  # of a context
FIELDS = PARENTS + 1  # the parents, -1 for none, and flags
PREVIOUS, BEFORE_PREVIOUS = 1, 2  # flags: symbols of the rows before
MAX_CONTEXTS = 16
MAX_LENGTH = 30  # of a code
DEPTHS = 5  # sets of weights: by decision of a symbol, from the fourth on, and of guesses
BUCKETS = 16  # of counts
APM_ROWS = 1024


class Code(NamedTuple):
    """A canonical prefix code of n symbols."""

    lengths: npt.NDArray[np.int32]  # int32[n]
    codes: npt.NDArray[np.int64]  # int64[n], the first bit highest
    first: npt.NDArray[np.int64]  # int64[MAX_LENGTH + 2]: the first code of each length
    counts: npt.NDArray[np.int64]  # how many there are of it
    offset: npt.NDArray[np.int64]  # where they begin in `symbols`
    symbols: npt.NDArray[np.int32]  # int32[n]: by length, then by number


class State(NamedTuple):
    """What adapts."""

    coder: npt.NDArray[np.int64]
    lines: npt.NDArray[np.uint32]  # [contexts, lines, LINE]
    weights: npt.NDArray[np.int32]  # [2, SETS, contexts, BUCKETS]
    apm: npt.NDArray[np.uint16]
    hashes: npt.NDArray[np.int64]  # int64[contexts]: of the row at hand
    places: npt.NDArray[np.int64]  # int64[contexts]: the lines at hand
    inputs: npt.NDArray[np.int32]  # int32[contexts]
    chosen: npt.NDArray[np.int64]  # int64[contexts]: rows of weights at hand
    guesses: npt.NDArray[np.int32]  # the last symbol under the first context, and 1; a power of two
    # of them, or none where nothing is guessed


class Tables(NamedTuple):
    """Constants."""

    squash: npt.NDArray[np.uint16]
    stretch: npt.NDArray[np.int16]
    rate: npt.NDArray[np.int32]
    bucket: npt.NDArray[np.uint8]  # uint8[1024]
