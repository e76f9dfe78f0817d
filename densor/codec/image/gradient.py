"""The binding of the fast method: work space and bounds for its kernels."""

import functools

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.image import kernels
from densor.codec.image.kernels import NO_COLOUR, ORDERED, Shape, Work
from densor.codec.image.params import Model
from densor.codec.image.predict import LEVELS, SIDES, TEXTURES, TOP, level_table
from densor.entropy.vectors import LANES


def planes_of(shape: Shape) -> npt.NDArray[np.int32]:
    """Room for the planes of rows, zeros, and for vectors that go beyond the last row."""
    size = shape.channels * (shape.rows + TOP) * (shape.width + SIDES) + LANES
    return np.zeros(size, np.int32)


def split(shape: Shape, data: Bytes) -> npt.NDArray[np.int32]:
    """The planes of all rows of `data`, whose samples fit the depth."""
    planes = planes_of(shape)
    kernels.split_rows(shape, data, planes)
    return planes


def work_on(shape: Shape, planes: npt.NDArray[np.int32], wavefront: int, predictions: int) -> Work:
    """What changes from sample to sample, as it is before the first one.

    `predictions`: that are at hand for each channel.
    """
    bias = np.zeros(shape.channels * LEVELS * TEXTURES, np.int32)
    errors = np.zeros(wavefront * shape.channels, np.int64)
    lows = np.zeros(shape.channels, np.int64)
    if shape.colour not in (NO_COLOUR, ORDERED):
        lows[1:3] = -(1 << (shape.depth - 1))
    ahead = np.empty((2, shape.channels * predictions), np.int32)
    recent = np.zeros(shape.channels * kernels.KEPT * kernels.WIDE, np.int32)
    return Work(planes, bias, errors, lows, *ahead, recent)


@functools.cache
def levels(scale: int) -> npt.NDArray[np.uint8]:
    """See `predict.level_table`."""
    return level_table(scale)


def samples(model: Model, size: int) -> int:
    """Samples in `size` bytes of whole rows."""
    return size // model.layout.stride * model.layout.width * model.layout.channels
