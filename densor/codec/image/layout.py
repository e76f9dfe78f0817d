"""How the samples of an image lie in memory, and which arrays may be images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

MAX_CHANNELS = 64
MAX_STRIDE = 1 << 19  # bytes of a row that is worth it; mixing takes no more samples than that
_MOST_COLOURS = 4  # as the last dimension of an array
_LEAST = 8  # pixels in both directions
_LEAST_SAMPLES = 1024
_SIZES = {"U8": 1, "U16": 2}


@dataclass(frozen=True)
class Layout:
    """Rows of samples as they lie in memory.

    `width` in pixels, `channels` of each, `size`: bytes of a sample, 1 or 2; `big`: its high byte
    comes first; `padding`: bytes after each row, all 0. `height`: rows of each image, where there
    may be several of one size; 0 if that is unknown.
    """

    width: int
    channels: int = 1
    size: int = 1
    big: bool = False
    padding: int = 0
    height: int = field(default=0, compare=False)

    @property
    def stride(self) -> int:
        """Bytes from row to row."""
        return self.width * self.channels * self.size + self.padding

    def samples(self, data: Bytes) -> npt.NDArray[Any]:
        """The samples of whole rows, [rows, width * channels]; a view where it can be one."""
        rows = data.reshape(-1, self.stride)[:, : self.stride - self.padding]
        if self.size == 1:
            return rows
        return np.ascontiguousarray(rows).view(">u2" if self.big else "<u2")


def fits(layout: Layout, size: int) -> bool:
    """Whether `size` bytes are whole rows that are worth coding as an image."""
    least = layout.width > 0 and 1 <= layout.channels <= MAX_CHANNELS
    return least and 0 < layout.stride <= MAX_STRIDE and size % layout.stride == 0


def layout_of(dtype: str, shape: Sequence[int]) -> Layout | None:
    """The layout of an array in C order if its type and shape may be those of images."""
    size = _SIZES.get(dtype)
    if size is None or len(shape) < 2 or math.prod(shape) < _LEAST_SAMPLES:
        return None
    colours = len(shape) > 2 and 1 < shape[-1] <= _MOST_COLOURS
    *rows, width, channels = shape if colours else (*shape, 1)
    layout = Layout(width, channels, size, height=rows[-1])
    if width < _LEAST or math.prod(rows) < _LEAST or layout.stride > MAX_STRIDE:
        return None
    return layout
