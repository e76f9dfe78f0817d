"""The Chow-Liu tree: the spanning tree of largest mutual information between samples.

C. K. Chow, C. N. Liu, "Approximating Discrete Probability Distributions with Dependence Trees"
(1968). Only samples near each other are compared.
"""

import numpy as np
import numpy.typing as npt

from densor.codec.circuit.model import Size
from densor.entropy.deferred import Kernels

kernels = Kernels("densor.codec.circuit.training.kernels")

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
_LEVELS = 8  # that samples are quantised to
_REACH = 2  # rows and columns between samples that are compared
_MOST_IMAGES = 1 << 12
_TIE = 1e-5  # by which near samples are preferred where nothing is known


def chow_liu(images: Bytes, size: Size) -> npt.NDArray[np.uint16]:
    """The parents of all samples; the root is its own. `images`: [count, samples]."""
    levels = _quantised(images[:: -(-len(images) // _MOST_IMAGES)])
    first, second = _pairs(size)
    counts = np.zeros((first.size, _LEVELS * _LEVELS), np.int64)
    kernels.count_pairs(levels, first, second, counts, _LEVELS)
    weights = _information(counts.reshape(-1, _LEVELS, _LEVELS)) + _TIE / _distance(
        first, second, size
    )
    root = (size.height // 2 * size.width + size.width // 2) * size.channels
    return _spanning(size.samples, first, second, weights, root)


def _quantised(images: Bytes) -> Bytes:
    """Samples in levels of about equal numbers; what is most frequent has one of its own."""
    counts = np.bincount(images.ravel(), minlength=256)
    bounds: list[int] = []
    left, filled = counts.sum(), 0
    for value, count in enumerate(counts.tolist()):
        filled += count
        if filled * (_LEVELS - len(bounds)) >= left and len(bounds) < _LEVELS - 1:
            bounds.append(value)
            left, filled = left - filled, 0
    return np.searchsorted(np.array(bounds), images, side="left").astype(np.uint8)


def _pairs(size: Size) -> tuple[Places, Places]:
    """Pairs of samples that are near each other; the first has the lower number."""
    number = np.arange(size.samples).reshape(size.height, size.width, size.channels)
    first, second = [], []
    for dy in range(_REACH + 1):
        for dx in range(-_REACH, _REACH + 1):
            here = number[: size.height - dy, max(0, -dx) : size.width - max(0, dx)]
            there = number[dy:, max(0, dx) : size.width + min(0, dx)]
            if not here.size or (dy == 0 and dx < 0):
                continue
            for one in range(size.channels):
                for other in range(size.channels):
                    if (dy, dx) != (0, 0) or one < other:
                        first.append(here[..., one].ravel())
                        second.append(there[..., other].ravel())
    if not first:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(first), np.concatenate(second)


def _distance(first: Places, second: Places, size: Size) -> npt.NDArray[np.float64]:
    here, there = first // size.channels, second // size.channels
    rows = here // size.width - there // size.width
    columns = here % size.width - there % size.width
    return np.asarray(1.0 + np.abs(rows) + np.abs(columns))


def _information(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mutual information in bits, of counts of pairs, [pairs, levels, levels]."""

    def sums(values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.sum(values * np.log2(np.maximum(values, 1)), axis=-1))

    if not len(counts):
        return np.zeros(0)
    total = counts[0].sum()
    both = sums(counts.reshape(len(counts), -1))
    apart = sums(counts.sum(1)) + sums(counts.sum(2))
    return np.asarray(np.maximum(0, (both - apart) / total + np.log2(total)))


def _spanning(
    count: int, first: Places, second: Places, weights: npt.NDArray[np.float64], root: int
) -> npt.NDArray[np.uint16]:
    """Prim's algorithm by Kruskal's order: edges of largest weight that join what is apart."""
    group = list(range(count))

    def leader(sample: int) -> int:
        while group[sample] != sample:
            group[sample] = group[group[sample]]
            sample = group[sample]
        return sample

    edges: list[list[int]] = [[] for _ in range(count)]
    for pair in np.argsort(-weights, kind="stable"):
        one, other = int(first[pair]), int(second[pair])
        if leader(one) != leader(other):
            group[leader(one)] = leader(other)
            edges[one].append(other)
            edges[other].append(one)
    parents = np.full(count, root, np.uint16)
    waiting, seen = [root], {root}
    for sample in waiting:
        for other in edges[sample]:
            if other not in seen:
                seen.add(other)
                parents[other] = sample
                waiting.append(other)
    return parents
