"""Adam's v relative to what m, and the scales of its row and column, say of it.

v is about the square of gradients, which differ by the row and the column of a matrix, and about
that of m. Bits of a binary32 number are its logarithm, piece by piece: a row, a column and a class
of how m compares with these add to what is expected, in eighths of an octave, and v is coded as its
distance from there. All of it is in integers. See docs/optimizer-format.md.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.adam.replay import Words

Shorts = npt.NDArray[np.int16]
Ints = npt.NDArray[np.int64]

CLASSES = 24
_UNIT = 20  # bits of an eighth of an octave
_OCTAVE = 23
_NONE = -(1 << 15)  # of a row that is left as it is
_LOWEST = 16  # octaves that the square of m may be below what is expected of v
_ROOT = 0x1FC00000  # half of the bits of 1
_CENTRE = 127 << _OCTAVE
_BLOCK = 1 << 20  # elements that are worked on at once, no fewer than a row has


class Scales(NamedTuple):
    """Eighths of octaves, int16, of each row, column and class."""

    rows: Shorts
    columns: Shorts
    classes: Shorts

    def joined(self) -> Shorts:
        """All in one array."""
        return np.concatenate(self)


def split(numbers: Shorts, shape: tuple[int, ...]) -> Scales:
    """Undoes `joined`; `numbers` has as many elements as `count(shape)` says."""
    rows = shape[0]
    return Scales(numbers[:rows], numbers[rows:-CLASSES], numbers[-CLASSES:])


def count(shape: tuple[int, ...]) -> int:
    """Of numbers for a matrix, a parameter of at least two dimensions and one element."""
    return shape[0] + int(np.prod(shape[1:], dtype=object)) + CLASSES


def fitted(m: Words, v: Words, shape: tuple[int, ...]) -> Scales:
    """Means over all elements that are not 0; `m`, `v`: uint32 bits of one parameter, flat."""
    bits = v.reshape(shape[0], -1)
    rows, columns = bits.shape
    row = np.full(rows, _NONE, np.int16)
    sums, counts = np.zeros((2, columns), np.float64)
    for part in _parts(rows, columns):
        used = bits[part] != 0
        found = used.sum(1)
        means = bits[part].sum(1, dtype=np.float64) / np.maximum(found, 1)
        row[part] = np.where(found > 0, _rounded(means), _NONE)
        sums += np.where(used, bits[part] - _in_bits(row[part])[:, None], 0).sum(0)
        counts += used.sum(0)
    column = _rounded(sums / np.maximum(counts, 1))
    scales = Scales(row, column, np.zeros(CLASSES, np.int16))
    sums, counts = np.zeros((2, CLASSES), np.float64)
    for part in _parts(rows, columns):
        expected, classes = _expected(m.reshape(rows, -1)[part], scales, part)
        used = (bits[part] != 0).ravel()
        left = (bits[part] - expected).ravel()[used]
        sums += np.bincount(classes.ravel()[used], left, CLASSES)
        counts += np.bincount(classes.ravel()[used], minlength=CLASSES)
    return scales._replace(classes=_rounded(sums / np.maximum(counts, 1)))


def relative(v: Words, m: Words, scales: Scales) -> Words:
    """v as its distance from what is expected, modulo 2^32, and 1 in place of 0."""
    return v - _offsets(m, scales)


def absolute(distance: Words, m: Words, scales: Scales) -> Words:
    """Undoes `relative`."""
    return distance + _offsets(m, scales)


def _offsets(m: Words, scales: Scales) -> Words:
    rows, columns = scales.rows.size, scales.columns.size
    found = np.empty((rows, columns), np.uint32)
    for part in _parts(rows, columns):
        expected, classes = _expected(m.reshape(rows, -1)[part], scales, part)
        expected += _in_bits(scales.classes)[classes] - _CENTRE
        expected[scales.rows[part] == _NONE] = 0
        found[part] = expected.astype(np.uint32)  # modulo 2^32
    return found.reshape(-1)


def _expected(m: Words, scales: Scales, part: slice) -> tuple[Ints, Ints]:
    """What rows and columns say of some rows, and classes; `m`: of these."""
    expected = _in_bits(scales.rows[part])[:, None] + _in_bits(scales.columns)[None, :]
    square = 2 * ((m & np.uint32(0x7FFFFFFF)).astype(np.int64) - _ROOT)
    classes = ((square - expected) >> _OCTAVE) + _LOWEST
    return expected, np.clip(classes, 0, CLASSES - 1)


def _in_bits(scales: Shorts) -> Ints:
    return scales.astype(np.int64) << _UNIT


def _rounded(means: npt.NDArray[np.float64]) -> Shorts:
    return np.clip(np.rint(means / (1 << _UNIT)), _NONE + 1, -_NONE - 1).astype(np.int16)


def _parts(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(columns, 1))
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))
