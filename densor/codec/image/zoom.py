"""Images that were enlarged by whole factors: rows and columns of pixels that repeat."""

import math
from typing import NamedTuple

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.image.layout import Layout
from densor.errors import FormatError

MAX_FACTOR = 16
_TRIAL_ROWS = 32


class Zoom(NamedTuple):
    """How often each row, and each pixel of a row, is there."""

    rows: int = 1
    columns: int = 1

    @property
    def factor(self) -> int:
        """Bytes for each that is coded."""
        return self.rows * self.columns


NONE = Zoom()


def find_zoom(layout: Layout, data: Bytes, chunk_bytes: int = 0) -> Zoom:
    """By how much the rows of an image were enlarged, all of them.

    `chunk_bytes`: of chunks, which must have whole groups of rows; 0 for one chunk.
    """
    if layout.padding or not data.size:
        return NONE
    pixel = layout.channels * layout.size
    rows = data.reshape(-1, layout.width, pixel)
    middle = max(0, len(rows) - _TRIAL_ROWS) // 2
    some = rows[middle : middle + _TRIAL_ROWS]
    columns = _factor(layout.width, some.swapaxes(0, 1))
    if columns > 1:
        columns = _factor(layout.width, rows.swapaxes(0, 1))
    if _factor(0, some, middle) == 1:
        return Zoom(1, columns)
    whole = math.gcd(len(rows), chunk_bytes // layout.stride if chunk_bytes < data.size else 0)
    return Zoom(_factor(whole, rows), columns)


def _factor(
    count: int, lines: "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]", first: int = 0
) -> int:
    """The factor of `count` lines, by where one differs from that before; `first`: place of one."""
    common = count
    for at in range(1, len(lines)):
        if common == 1:
            break
        if not np.array_equal(lines[at], lines[at - 1]):
            common = math.gcd(common, first + at)
    return _largest(common)


def _largest(common: int) -> int:
    """The largest factor that divides a number."""
    return max(factor for factor in range(1, MAX_FACTOR + 1) if common % factor == 0)


def reduced_layout(layout: Layout, zoom: Zoom) -> Layout:
    """The layout of what is coded."""
    width = layout.width // zoom.columns
    return Layout(width, layout.channels, layout.size, layout.big, layout.padding)


def reduce(layout: Layout, zoom: Zoom, data: Bytes) -> Bytes:
    """One of each group of pixels."""
    if zoom == NONE:
        return data
    rows = data.reshape(-1, layout.width, layout.channels * layout.size)
    return np.ascontiguousarray(rows[:: zoom.rows, :: zoom.columns]).reshape(-1)


def enlarge(small: Layout, zoom: Zoom, data: Bytes, out: Bytes) -> None:
    """The inverse of `reduce`; `small`: the layout of `data`."""
    shape = -1, zoom.rows, small.width, zoom.columns, small.channels * small.size
    pixels = data.reshape(-1, 1, small.width, 1, small.channels * small.size)
    out.reshape(shape)[:] = pixels


def reduced_size(small: Layout, zoom: Zoom, size: int) -> int:
    """Bytes that are coded of `size` bytes; FormatError where these are no whole groups."""
    if size % (small.stride * zoom.factor):
        raise FormatError("image chunk does not have whole rows")
    return size // zoom.factor
