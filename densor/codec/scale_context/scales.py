"""The coding side's look at a matrix: the scale of each row and of each column."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.scale_context.params import Alphabet
from densor.codec.scale_context.payload import (
    COLUMN_STEPS,
    COLUMNS,
    ROW_STEPS,
    ROWS,
    Part,
)
from densor.entropy.deferred import Kernels
from densor.runtime.types import Bytes

kernels = Kernels("densor.codec.scale_context.kernels")

HighBits = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float64]
PHASE = 3
ALPHABET = Alphabet(phase=PHASE, first=-9, exponents=16, low_exponents=20)
STEPS = 1 << PHASE  # scales per octave: finer ones cost more than they tell
_SPREAD = 2.5  # variance of log2 of a normal variable, about
_OCTAVES_BELOW = 20  # the largest one: smaller numbers do not pull a mean further down
_MIN_ROWS = 8  # fewer do not pay for scales of columns
_MAX_COLUMN_STEPS = 100
_MAX_STEPS = 255


class Scales(NamedTuple):
    """Scales of a matrix in steps, not yet moved to where they are not negative."""

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]  # the least is 0


class SideInformation(NamedTuple):
    """How a matrix's scales are coded: symbols of rows, then of columns, and their sums."""

    part: Part
    symbols: list[Bytes]  # of rows, of columns
    rows: Bytes  # uint8[rows], uint8[columns]: the scales themselves
    columns: Bytes


def scales_of(high_bits: HighBits, rows: int, columns: int, top_bits: int) -> Scales:
    """Mean log2 of the rows and columns of a matrix (an additive model), in `STEPS` per octave.

    High bits, as an integer, are nearly a logarithm. What columns differ in by chance is taken out
    (J. Stein's shrinkage), so that columns without structure cost nothing.
    """
    floor = max(0, kernels.highest(high_bits) - (_OCTAVES_BELOW << top_bits))
    row_sums, column_sums = np.empty(rows), np.empty(columns)
    work = np.empty(columns, np.uint32)
    kernels.sum_rows_and_columns(high_bits, columns, floor, row_sums, column_sums, work)
    octave = 1 << top_bits
    mean = row_sums / (columns * octave)
    offsets = column_sums / (rows * octave) - float(mean.mean())
    real = 1 - _SPREAD / rows / max(float(offsets.var()), 1e-9)
    offsets *= max(0.0, real) if rows >= _MIN_ROWS else 0.0
    column_steps = np.rint(offsets * STEPS).astype(np.int64)
    least = int(column_steps.min())
    column_steps = np.minimum(column_steps - least, _MAX_COLUMN_STEPS)
    row_steps = np.rint(mean * STEPS).astype(np.int64) + least
    return Scales(row_steps, column_steps)


def base_of(lines: list[Scales]) -> int:
    """The base exponent of a chunk, from which scales count."""
    return int(min(line.rows.min() for line in lines)) // STEPS


def code_scales(lines: Scales, base: int) -> SideInformation:
    """Chooses how the scales of a matrix are coded, relative to `base`."""
    columns = lines.columns.astype(np.uint8)
    rows = np.clip(lines.rows - base * STEPS, 0, _MAX_STEPS - int(columns.max())).astype(np.uint8)
    row_centre, row_flags, row_symbols = _code(rows, ROWS, ROW_STEPS)
    column_centre, column_flags, column_symbols = _code(columns, COLUMNS, COLUMN_STEPS)
    part = Part(rows.size, columns.size, row_flags | column_flags, row_centre, column_centre)
    return SideInformation(part, [row_symbols, column_symbols], rows, columns)


def _code(scales: Bytes, coded: int, steps: int) -> tuple[int, int, Bytes]:
    """Centre, flags and symbols of the scales of all rows, or of all columns."""
    centre = int(np.median(scales))
    direct = scales.astype(np.int64) - centre
    if not direct.any():
        return centre, 0, np.empty(0, np.uint8)
    differences = np.diff(direct, prepend=0)
    plainly = np.log2(1 + np.abs(direct)).sum() <= np.log2(1 + np.abs(differences)).sum()
    symbols = (direct if plainly else differences) + 128
    return centre, coded if plainly else coded | steps, symbols.astype(np.uint8)
