"""The binding of the kernels that find weights of the fast method, and what suits some samples."""

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.audio.fitting_kernels import WIDE, Work, fit_blocks
from densor.codec.audio.kernels import MOST, ROW
from densor.codec.audio.samples import Planes

_BLOCKS = (9, 10, 11)  # logarithms of samples that share weights
_MIN_GAIN_OF_BLOCK = 0.98  # share of the bits that a shorter one must leave; its are too few
TRIAL = 1 << 13  # samples of a channel, at least, from which is seen what suits all
_FEW = 8  # weights of each sort by which blocks and the order of channels are tried
_ORDERS = 12  # weights of each sort, most often
_FULL = 0.6  # of these in use, from which more are tried
_MIN_GAIN = 0.985  # share of the bits that more of them must leave, for their time

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]


class Shape(NamedTuple):
    """How samples are predicted: the block's logarithm, weights of each sort, the first channel."""

    block: int = _BLOCKS[-1]
    orders: int = 16
    first: int = 0


class Fitter:
    """Finds weights for int32[channels, n] of `depth` bits. For one thread at a time."""

    def __init__(self, channels: int, depth: int) -> None:
        longest = 2 << _BLOCKS[-1]  # the last block has up to twice as many samples
        self._depth = depth
        self._unused = np.empty((1, channels, ROW), np.int32)
        words = np.empty(channels * 4 * (longest + 2 * MOST), np.uint8)
        self._work = Work(
            words,
            words.view(np.uint32),
            np.empty(16, np.uint32),
            np.empty(channels),
            np.empty((channels, MOST + 1)),
            np.empty((channels, 2 * MOST + 1)),
            np.empty(2 * MOST + 1),
            np.zeros(2 * WIDE),
            np.empty(2 * MOST),
            np.zeros(2 * MOST * WIDE),
            np.empty(2 * MOST),
        )

    def bits(self, planes: Planes, shape: Shape) -> float:
        """Bits that samples take, about."""
        return float(self._fit(planes, shape)[0])

    def weights(self, planes: Planes, shape: Shape) -> I32:
        """The weights of all blocks: int32[blocks, channels, ROW]."""
        rows = np.zeros((max(1, planes.shape[1] >> shape.block), len(planes), ROW), np.int32)
        self._fit(planes, shape, rows)
        return rows

    def shape(self, planes: Planes) -> Shape:
        """What suits some samples."""
        costs = {block: self.bits(planes, Shape(block, _FEW)) for block in _BLOCKS}
        block = _BLOCKS[-1]
        shortest = min(costs, key=costs.__getitem__)
        if costs[shortest] < _MIN_GAIN_OF_BLOCK * costs[block]:
            block = shortest
        two = len(planes) == 2
        first = int(two and self.bits(planes, Shape(block, _FEW, 1)) < costs[block])
        shape = Shape(block, _ORDERS, first)
        bits, used = self._fit(planes, shape)
        possible = _ORDERS * min(2, len(planes)) * len(planes) * max(1, planes.shape[1] >> block)
        more = shape._replace(orders=MOST)
        pays = used > _FULL * possible and self.bits(planes, more) < _MIN_GAIN * bits
        return more if pays else shape

    def first(self, planes: Planes) -> int:
        """The channel of two that is to be coded first; 0 with one or more than two."""
        if len(planes) != 2:
            return 0
        return int(self.bits(planes, Shape(first=1)) < self.bits(planes, Shape()))

    def _fit(self, planes: Planes, shape: Shape, rows: I32 | None = None) -> F64:
        """Bits, about, and the number of weights; these, where there are `rows` for them."""
        count = planes.shape[1]
        size = 1 << shape.block
        last = count - (max(1, count >> shape.block) - 1) * size
        costs = np.zeros(2)
        keep = rows is not None
        rows = self._unused if rows is None else rows
        sizes = len(planes), size, shape.orders, self._depth, shape.first
        windows = _window(size), _window(last)
        fit_blocks(
            planes.view(np.uint32).reshape(-1), *sizes, keep, *windows, self._work, rows, costs
        )
        return costs


@functools.lru_cache(64)
def _window(size: int) -> F32:
    """A window whose first and last quarter rise and fall as parabolas."""
    edge = max(1, size // 4)
    rising = np.minimum(np.arange(size) * 2 + 1, 2 * edge)
    part = rising * (4 * edge - rising) / (4 * edge * edge)
    found: F32 = np.minimum(part, part[::-1]).astype(np.float32)
    return found


def middle(count: int, least: int = TRIAL) -> tuple[int, int]:
    """Instants from the middle of so many, at least `least` where there are: from, to."""
    part = max(least, count >> 5)
    begin = max(0, count - part) // 2
    return begin, min(count, begin + part)
