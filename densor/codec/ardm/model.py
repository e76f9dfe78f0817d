"""A network as it is stored, and the tables in integers that are made of it.

E. Hoogeboom and others, "Autoregressive Diffusion Models" (ICLR 2022): a network that sees which
samples are known, and codes many others with each call, section 3.2. Here it sees of each sample
those near by and some from all over the image; see `docs/format/ardm.md`.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from densor.codec.ardm.geometry import Geometry, coarsest_step, geometry_of, window_of
from densor.codec.circuit.model import Size
from densor.errors import FormatError, LimitError, UnsupportedError

MAGIC, VERSION = b"DARD", 1
VALUES = 256  # of a sample
WIDE = 32  # columns of a tile of weights
MAX_RADIUS, MAX_HIDDEN = 8, 256
MIN_PLACES, MAX_PLACES = 2, 12  # binary places of weights
MAX_SEEN = 1 << 21  # entries of a geometry's table
ONE = 256  # what stands for 1 in inputs, hidden values and offsets

_HEAD = struct.Struct("<4sBHHBHBBB3B")

Weights = npt.NDArray[np.int8]
Offsets = npt.NDArray[np.int16]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Shape:
    """What the sizes of all arrays follow from.

    `radius`: of the window that is seen. `first`, `second`: values of the hidden layers.
    """

    size: Size
    calls: int
    radius: int
    first: int
    second: int

    def check(self) -> None:
        """FormatError or LimitError for a shape that no network has."""
        self.size.check()
        hidden = self.first, self.second
        if not 1 <= self.calls <= self.size.samples or self.radius > MAX_RADIUS:
            raise FormatError("network has impossible calls")
        if min(hidden) < WIDE or max(hidden) > MAX_HIDDEN or any(n % WIDE for n in hidden):
            raise FormatError("network has layers of an impossible size")
        if self.size.samples * sum(self.seen) > MAX_SEEN:
            raise LimitError("network sees too many samples")

    @property
    def seen(self) -> tuple[int, int]:
        """Samples of the window, and those of the first level."""
        step = coarsest_step(self.size)
        coarse = -(-self.size.height // step) * -(-self.size.width // step) * self.size.channels
        return len(window_of(self.size, self.radius)), coarse

    @property
    def inputs(self) -> int:
        """Inputs of the network: values of all samples seen, then zeros of those in the window."""
        window, coarse = self.seen
        return 2 * window + coarse

    @property
    def places(self) -> tuple[int, int, int, int]:
        """Rows, columns, channels and levels of samples."""
        size = self.size
        levels = 2 * (coarsest_step(size).bit_length() - 1) + 1
        return size.height, size.width, size.channels, levels


@dataclass(frozen=True, eq=False)
class Network:
    """All that is stored: weights in units of 2^-places of their layer.

    `places`: of the three layers. `seen`: int8[first, inputs]; `rows`, `columns`, `channels` and
    `levels`: int8[n, first], what the place of a sample adds. `middle`: int8[second, first] and
    `last`: int8[256, second], with their offsets, int16.
    """

    shape: Shape
    places: tuple[int, int, int]
    seen: Weights
    rows: Weights
    columns: Weights
    channels: Weights
    levels: Weights
    middle: Weights
    middle_offsets: Offsets
    last: Weights
    last_offsets: Offsets

    @property
    def size(self) -> Size:
        """The size of all images."""
        return self.shape.size


def pack(network: Network) -> bytes:
    """The bytes of a network."""
    shape = network.shape
    size = shape.size
    head = _HEAD.pack(
        *(MAGIC, VERSION, size.height, size.width, size.channels, shape.calls, shape.radius),
        *(shape.first // WIDE, shape.second // WIDE, *network.places),
    )
    parts = (
        *(network.seen, network.rows, network.columns, network.channels, network.levels),
        *(network.middle, network.middle_offsets.astype("<i2")),
        *(network.last, network.last_offsets.astype("<i2")),
    )
    return head + b"".join(part.tobytes() for part in parts)


def parse(data: bytes) -> Network:
    """A network; FormatError, LimitError or UnsupportedError where there is none."""
    if len(data) < _HEAD.size or data[:4] != MAGIC:
        raise FormatError("this is no network of images")
    _, version, *sizes, calls, radius, first, second, a, b, c = _HEAD.unpack(data[: _HEAD.size])
    if version != VERSION:
        raise UnsupportedError(f"network of images has unknown version {version}")
    shape = Shape(Size(*sizes), calls, radius, first * WIDE, second * WIDE)
    shape.check()
    if not all(MIN_PLACES <= n <= MAX_PLACES for n in (a, b, c)):
        raise FormatError("network has impossible weights")
    first, second = shape.first, shape.second
    arrays: list[tuple[str, tuple[int, ...]]] = [
        ("i1", (first, shape.inputs)),
        *(("i1", (count, first)) for count in shape.places),
        *(("i1", (second, first)), ("<i2", (second,))),
        *(("i1", (VALUES, second)), ("<i2", (VALUES,))),
    ]
    found: list[npt.NDArray[Any]] = []
    at = _HEAD.size
    for dtype, dims in arrays:
        count = int(np.prod(dims))
        end = at + count * np.dtype(dtype).itemsize
        if end > len(data):
            raise FormatError("network ends too early")
        found.append(np.frombuffer(data, dtype, count, at).reshape(dims))
        at = end
    if at != len(data):
        raise FormatError("network goes on after its end")
    return Network(shape, (a, b, c), *found)


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights as tiles: by blocks of 32 columns, then pairs of inputs, then columns, int8.

    `offsets`: int32, what is added to sums. `places`: binary places of weights.
    """

    weights: Weights
    offsets: Ints
    places: int


@dataclass(frozen=True, eq=False)
class NetworkTables:
    """A network ready for kernels. `digest`: its name. The first layer's offsets: by samples."""

    size: Size
    digest: bytes
    geometry: Geometry
    shape: Shape
    layers: tuple[Layer, Layer, Layer]


def tables_of(network: Network) -> NetworkTables:
    """The tables of a network."""
    shape = network.shape
    geometry = geometry_of(shape.size, shape.radius, shape.calls)
    y, x, channel, level = geometry.places.T
    at_place = (network.rows, y), (network.columns, x), (network.channels, channel)
    offsets = network.levels[level].astype(np.int32)
    for weights, place in at_place:
        offsets += weights[place]
    parts = (
        (network.seen, offsets),
        (network.middle, network.middle_offsets),
        (network.last, network.last_offsets),
    )
    first, second, third = (
        Layer(_tiles(weights), ONE * offsets.astype(np.int32).ravel(), places)
        for (weights, offsets), places in zip(parts, network.places, strict=True)
    )
    digest = xxhash.xxh3_128_digest(pack(network))
    return NetworkTables(shape.size, digest, geometry, shape, (first, second, third))


def _tiles(weights: Weights) -> Weights:
    """int8[columns, inputs] as tiles; where inputs are odd, with zeros for one more."""
    columns, inputs = weights.shape
    even = np.pad(weights, ((0, 0), (0, inputs % 2)))
    tiles = even.reshape(columns // WIDE, WIDE, -1, 2).swapaxes(1, 2)
    return np.ascontiguousarray(tiles).ravel()
