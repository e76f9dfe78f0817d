"""Which samples each call of the network codes, and which known ones it sees of each of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec.circuit.model import Size

COARSEST = 64  # samples of the first level, at most, and what levels are made finer from
_STEP = 4  # rows and columns between samples of the first level, at least
_KEY_Y, _KEY_X = 37345, 49471  # 2^16 / g^2 and 2^16 / g for g^3 = g + 1: a spread in the plane

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Geometry:
    """What follows from the size of images and the number of calls. Samples are numbers.

    `order`: int32[samples], as they are coded. `calls`: int32[calls + 1], where in the order each
    call begins, and the end. `seen`: int32[samples, window + coarse], samples that the network sees
    of each, -1 for those that are outside or not known then. `window`: how many of these lie near
    by, the first ones. `places`: int32[samples, 4], row, column, channel and level of each.
    """

    order: Ints
    calls: Ints
    seen: Ints
    window: int
    places: Ints

    @property
    def levels(self) -> int:
        """Levels of the interlaced order."""
        return int(self.places[:, 3].max()) + 1


def geometry_of(size: Size, radius: int, calls: int) -> Geometry:
    """The geometry of images of this size; at most `calls` calls, of windows of this radius."""
    step = coarsest_step(size)
    levels = np.repeat(levels_of(size, step).ravel(), size.channels)
    numbers = np.arange(size.samples)
    channel = numbers % size.channels
    y, x = np.divmod(numbers // size.channels, size.width)
    order = np.lexsort((numbers, (_KEY_Y * y + _KEY_X * x) & 0xFFFF, channel, levels))
    bounds = np.unique(size.samples * np.arange(calls + 1) ** 2 // calls**2)
    call = np.empty(size.samples, np.int32)
    call[order] = np.searchsorted(bounds, numbers, "right")
    near = _near(size, radius)
    coarse = np.broadcast_to(np.flatnonzero(levels == 0), (size.samples, (levels == 0).sum()))
    seen = np.concatenate([near, coarse], 1)
    seen = np.where((seen >= 0) & (call[seen] < call[:, None]), seen, -1)
    places = np.stack([y, x, channel, levels], 1)
    return Geometry(
        *(order.astype(np.int32), bounds.astype(np.int32), seen.astype(np.int32)),
        *(near.shape[1], places.astype(np.int32)),
    )


def coarsest_step(size: Size) -> int:
    """Rows and columns between samples of the first level, a power of 2."""
    step = _STEP
    while -(-size.height // step) * -(-size.width // step) * size.channels > COARSEST:
        step *= 2
    return step


def levels_of(size: Size, step: int) -> npt.NDArray[np.int64]:
    """int64[height, width]: levels of an interlaced order, each twice as many as all before it."""
    y, x = np.mgrid[: size.height, : size.width]
    found = np.full(y.shape, -1)
    found[(y % step == 0) & (x % step == 0)] = 0
    level = 1
    while step > 1:
        half = step // 2
        fresh = (y % half == 0) & (x % half == 0) & (found < 0)
        middle = (y % step == half) & (x % step == half)
        found[fresh & middle] = level
        found[fresh & ~middle] = level + 1
        step, level = half, level + 2
    return found


def window_of(size: Size, radius: int) -> list[tuple[int, int, int]]:
    """Rows, columns and channels that samples of the window are away, in order."""
    reach = range(-radius, radius + 1)
    return [
        (dy, dx, step)
        for dy in reach
        for dx in reach
        for step in range(size.channels)
        if dy * dy + dx * dx <= radius * (radius + 1) and (dy or dx or step)
    ]


def _near(size: Size, radius: int) -> npt.NDArray[np.int64]:
    """The samples of each one's window, -1 where it is outside of the image."""
    y, x, channel = np.indices((size.height, size.width, size.channels)).reshape(3, -1)
    found = []
    for dy, dx, step in window_of(size, radius):
        inside = (y + dy >= 0) & (y + dy < size.height) & (x + dx >= 0) & (x + dx < size.width)
        other = (channel + step) % size.channels
        number = ((y + dy) * size.width + x + dx) * size.channels + other
        found.append(np.where(inside, number, -1))
    return np.stack(found, 1) if found else np.empty((size.samples, 0), np.int64)
