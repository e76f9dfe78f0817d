"""What a leaf depends on: a prediction by least squares, and a decision tree on samples near by."""

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.circuit.geometry import NEAR, Geometry
from densor.codec.circuit.model import CONSTANT, FEATURES, LEAF, WEIGHT_STEP, upper_children
from densor.entropy.deferred import Kernels

kernels = Kernels("densor.codec.circuit.training.kernels")

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
_RIDGE = 2.0  # a sample's share in what keeps weights small
_IMAGES = 1 << 13  # that weights are fitted to
_LEVELS = 32  # of a feature where trees are split
_SAMPLES = 1 << 21  # that a tree is grown from
_LEAST_GAIN = 60.0  # bits of a split, for all images


def fit_weights(images: Bytes, geometry: Geometry) -> npt.NDArray[np.int8]:
    """Weights of samples near by and of a constant, int8[samples, NEAR + 1]."""
    images = images[:: -(-len(images) // _IMAGES)]
    count, samples = images.shape
    found = np.zeros((samples, NEAR + 1), np.int8)
    values = images.astype(np.float32)
    for sample in range(samples):
        near = geometry.near[sample]
        near = near[near >= 0]
        inputs = np.empty((count, near.size + 1), np.float32)
        inputs[:, :-1] = values[:, near]
        inputs[:, -1] = CONSTANT
        square = inputs.T @ inputs + np.eye(near.size + 1, dtype=np.float32) * (_RIDGE * count)
        weights = np.linalg.solve(square, inputs.T @ values[:, sample])
        steps = np.clip(np.rint(weights * WEIGHT_STEP), -128, 127)
        found[sample, : near.size] = steps[:-1]
        found[sample, NEAR] = steps[-1]
    return found


def flat(geometry: Geometry, weights: npt.NDArray[np.int8]) -> tuple[Ints, Ints, Ints]:
    """Neighbours, links and weights as kernels take them."""
    return geometry.near.ravel(), geometry.links.ravel(), weights.astype(np.int32).ravel()


def bins_of(symbols: Bytes, most: int) -> Bytes:
    """The last symbols of about `most` bins; frequent symbols have one of their own."""
    counts = np.bincount(symbols.ravel(), minlength=256)
    frequent = counts > 0.004 * counts.sum()
    share = max(1, counts[~frequent].sum() / most)
    ends, filled = [], 0
    for symbol, count in enumerate(counts.tolist()):
        if frequent[symbol] and filled:
            ends.append(symbol - 1)
            filled = 0
        filled += count
        if frequent[symbol] or filled >= share:
            ends.append(symbol)
            filled = 0
    if not ends or ends[-1] != 255:
        ends.append(255)
    return np.array(ends, np.uint8)


@dataclass(frozen=True, eq=False)
class Tree:
    """A decision tree in preorder, and how many bits symbols take under its leaves."""

    features: Bytes
    thresholds: npt.NDArray[np.int16]
    bits: float

    def leaves(
        self, images: Bytes, geometry: Geometry, weights: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.uint16]:
        """The leaf of each sample, [count, samples]."""
        found = np.zeros(images.shape, np.uint16)
        own = self.features.astype(np.int32), self.thresholds.astype(np.int32)
        kernels.all_leaves(
            images, *flat(geometry, weights), *own, upper_children(self.features), found
        )
        return found


class _Split(NamedTuple):
    """A node that may be split; `level`: the highest that goes to the lower child."""

    loss: float  # bits that splitting saves, as a negative number
    number: int
    chosen: npt.NDArray[np.int64]
    feature: int
    level: int


class Grower:
    """Grows decision trees for symbols of some images, the split that saves most first."""

    def __init__(self, images: Bytes, geometry: Geometry, weights: npt.NDArray[np.int8]) -> None:
        step = -(-images.size // _SAMPLES)
        self._step = step
        some = np.ascontiguousarray(images[::step])
        values = np.zeros((some.size, FEATURES), np.int16)
        kernels.all_features(some, *flat(geometry, weights), values)
        self._bounds = _bounds(values)
        self._levels = np.zeros(values.shape, np.uint8)
        kernels.quantise_features(values, self._bounds, self._levels)

    def grow(self, symbols: Bytes, bins: int, most: int) -> Tree:
        """A tree of at most `most` leaves for symbols below `bins`, [count, samples]."""
        own = np.ascontiguousarray(symbols[:: self._step]).ravel()
        split: dict[int, tuple[int, int, int, int]] = {}
        first = self._best(own, bins, np.arange(own.size), 0)
        bits, waiting, numbers = first[1], [first[0]], 1
        least = _LEAST_GAIN / self._step
        while len(waiting) < most and -waiting[0].loss > least:
            best = heapq.heappop(waiting)
            bits += best.loss
            low = self._levels[best.chosen, best.feature] <= best.level
            for part in (best.chosen[low], best.chosen[~low]):
                heapq.heappush(waiting, self._best(own, bins, part, numbers)[0])
                numbers += 1
            split[best.number] = best.feature, best.level, numbers - 2, numbers - 1
        return self._preorder(split, bits * self._step)

    def _best(
        self, symbols: Bytes, bins: int, chosen: npt.NDArray[np.int64], number: int
    ) -> tuple[_Split, float]:
        """The best split of some samples, and the bits that they take without."""
        counts = np.zeros((FEATURES, _LEVELS, bins), np.int32)
        kernels.count_levels(self._levels, symbols, chosen, counts)
        low = np.cumsum(counts, 1, dtype=np.int64)
        whole = low[:, -1:]
        gains = _bits(whole) - _bits(low) - _bits(whole - low)
        feature, level = divmod(int(gains.argmax()), _LEVELS)
        split = _Split(-float(gains[feature, level]), number, chosen, feature, level)
        return split, float(_bits(whole[:1])[0, 0])

    def _preorder(self, split: dict[int, tuple[int, int, int, int]], bits: float) -> Tree:
        features, thresholds, waiting = [], [], [0]
        while waiting:
            number = waiting.pop()
            if number not in split:
                features.append(LEAF)
                thresholds.append(0)
                continue
            feature, level, low, high = split[number]
            features.append(feature)
            thresholds.append(int(self._bounds[feature, level]))
            waiting += [high, low]
        return Tree(np.array(features, np.uint8), np.array(thresholds, np.int16), bits)


def _bounds(values: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Thresholds of each feature that cut its values into about equal parts, and the lowest off."""
    found = np.full((values.shape[1], _LEVELS - 1), 32767, np.int16)
    some = values[:: max(1, len(values) >> 17)]
    for feature in range(values.shape[1]):
        column = np.sort(some[:, feature])
        lowest = column[0]
        rest = column[column > lowest]
        cuts = rest[np.linspace(0, rest.size - 1, _LEVELS - 2).astype(int)] if rest.size else []
        bounds = np.unique(np.concatenate([[lowest], cuts])).astype(np.int16)
        found[feature, : bounds.size] = bounds
    return found


def _bits(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Bits of symbols with these counts, along the last axis."""
    total = counts.sum(-1)
    each = (counts * np.log2(np.maximum(counts, 1))).sum(-1)
    return np.asarray(total * np.log2(np.maximum(total, 1)) - each)
