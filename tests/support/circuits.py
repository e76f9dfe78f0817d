"""Circuits and networks that nobody has learned: any tree, any probabilities, any weights."""

import contextlib

import numpy as np
import numpy.typing as npt
from helpers import random_state

from densor.codec.ardm.model import Network, Shape, tables_of
from densor.codec.circuit.coding import decode_images
from densor.codec.circuit.geometry import NEAR
from densor.codec.circuit.model import FEATURES, LEAF, Circuit, Size
from densor.errors import FormatError


def any_circuit(
    size: Size,
    states: int = 3,
    leaves: int = 6,
    bins: int = 9,
    *,
    residual: bool = False,
    seed: object = 0,
) -> Circuit:
    """A circuit at random."""
    rng = random_state("circuit", seed, size, states, leaves, bins)
    samples = size.samples
    order = rng.permutation(samples)
    parents = np.zeros(samples, np.uint16)
    parents[order[0]] = order[0]
    for at in range(1, samples):
        parents[order[at]] = order[max(0, at - 1 - int(rng.integers(0, 3)))]
    ends = np.sort(np.append(rng.choice(255, bins - 1, replace=False), 255)).astype(np.uint8)
    features, thresholds = _tree(leaves, rng)

    def levels(*shape: int) -> npt.NDArray[np.uint8]:
        return rng.integers(0, 50, shape).astype(np.uint8)

    return Circuit(
        *(size, residual, parents, rng.integers(-30, 60, (samples, NEAR + 1)).astype(np.int8)),
        *(features, thresholds, ends, levels(256), levels(states)),
        *(levels(leaves, bins, states), levels(samples - 1, states, states)),
    )


def _tree(
    leaves: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    features: list[int] = []

    def grow(left: int) -> None:
        if left == 1:
            features.append(LEAF)
            return
        features.append(int(rng.integers(0, FEATURES)))
        low = int(rng.integers(1, left))
        grow(low)
        grow(left - low)

    grow(leaves)
    thresholds = rng.integers(-1, 255, len(features)).astype(np.int16)
    return np.array(features, np.uint8), thresholds


def any_network(size: Size, calls: int, radius: int = 2, *, seed: object = 0) -> Network:
    """A network at random, of two layers of 32 values."""
    rng = random_state("network", seed, size, calls, radius)
    shape = Shape(size, calls, radius, 32, 32)

    def weights(*dims: int) -> npt.NDArray[np.int8]:
        return rng.integers(-40, 40, dims).astype(np.int8)

    def offsets(count: int) -> npt.NDArray[np.int16]:
        return rng.integers(-300, 300, count).astype(np.int16)

    rows, columns, channels, levels = (weights(count, 32) for count in shape.places)
    return Network(
        *(shape, (7, 6, 6), weights(32, shape.inputs), rows, columns, channels, levels),
        *(weights(32, 32), offsets(32), weights(256, 32), offsets(256)),
    )


def likely_images(network: Network, count: int) -> npt.NDArray[np.uint8]:
    """uint8[count, samples] that a network expects: what streams at random decode to."""
    tables = tables_of(network)
    found = np.zeros((count, network.size.samples), np.uint8)
    for number, image in enumerate(found):
        stream = random_state("likely", number).integers(1, 256, 4 * image.size, np.uint8)
        with contextlib.suppress(FormatError):  # a stream that goes on behind its image
            decode_images(tables, stream, np.array([stream.size]), image)
    return found
