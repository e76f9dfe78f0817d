"""Circuits that nobody has learned: any tree, any probabilities."""

import numpy as np
import numpy.typing as npt
from helpers import random_state

from densor.codec.circuit.geometry import NEAR
from densor.codec.circuit.model import FEATURES, LEAF, Circuit, Size


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
