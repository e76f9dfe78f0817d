"""The binding of the fast method: work space and bounds for its kernels."""

import functools

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.image import kernels
from densor.codec.image.kernels import NO_COLOUR, ORDERED, Chain, Shape, Work
from densor.codec.image.params import Model
from densor.codec.image.predict import LEFT, LEVELS, SIDES, SKEW, TEXTURES, TOP, level_table, set_of
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


def work_on(shape: Shape, planes: npt.NDArray[np.int32], wavefront: int, whole_rows: bool) -> Work:
    """What changes from sample to sample, as it is before the first one.

    `whole_rows`: whether these are predicted together, or one step of the wavefront.
    """
    bias = np.zeros(shape.channels * LEVELS * TEXTURES, np.int32)
    count = wavefront * shape.channels
    room = count * -(-shape.width // LANES) if whole_rows else shape.channels
    ahead = np.empty((2, room * LANES), np.int32)
    recent = np.zeros(shape.channels * kernels.KEPT * kernels.WIDE, np.int32)
    errors, chains = np.zeros(count + 1, np.int64), _chains(shape, wavefront, whole_rows)
    return Work(planes, bias, errors, chains, ahead[0], ahead[1], recent)


@functools.lru_cache(maxsize=32)
def _chains(shape: Shape, wavefront: int, whole_rows: bool) -> npt.NDArray[np.int64]:
    """What `kernels.Work` has of them."""
    lifted = shape.colour not in (NO_COLOUR, ORDERED)
    none = wavefront * shape.channels
    lanes = -(-shape.width // LANES) * LANES
    found: list[int] = []
    for row in range(wavefront):
        for c in range(shape.channels):
            k, begin = row * shape.channels, -SKEW * row
            related = set_of(c, shape.channels) == 1
            found += Chain(
                at=(c * (shape.rows + TOP) + TOP + row) * (shape.width + SIDES) + LEFT + begin,
                prediction=(k + c) * lanes + begin if whole_rows else c * LANES + row,
                recent=c * kernels.KEPT * kernels.WIDE + kernels.ABOVE + row,
                first=k if related else none,
                second=k + 1 if related and c > 1 else none,
                context=set_of(c, shape.channels) * LEVELS,
                bias=c * LEVELS * TEXTURES,
                low=-(1 << (shape.depth - 1)) if lifted and c in (1, 2) else 0,
            )
    return np.array(found, np.int64)


@functools.cache
def levels(scale: int) -> npt.NDArray[np.uint8]:
    """See `predict.level_table`."""
    return level_table(scale)


def samples(model: Model, size: int) -> int:
    """Samples in `size` bytes of whole rows."""
    return size // model.layout.stride * model.layout.width * model.layout.channels
