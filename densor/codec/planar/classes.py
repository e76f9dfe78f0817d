"""Row classes: which runs of a plane share a Huffman code.

Rows of a weight matrix differ in scale, so a few codes, one chosen per row, beat one code for
all. Classes are found by k-means with code length as the distance (Lloyd's algorithm over
Kullback-Leibler divergence), then merged as long as that makes the whole smaller.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planar.kernels import (
    add_counts,
    assign_classes,
    histogram,
    pair_entropies,
)
from densor.codec.planar.layout import Bytes
from densor.codec.planar.model import PlaneClass, map_bits
from densor.entropy.huffman.code import MAX_BITS, SLACK, STREAMS, code_lengths

Counts = npt.NDArray[np.int64]
RunCounts = npt.NDArray[np.uint16]
RunClasses = npt.NDArray[np.uint8]

_ROUNDS = 3
_TRAINING_RUNS = 2048
_FAST_BITS = 11
_SECTION_BITS = 8 * (4 * STREAMS + SLACK)  # what a section has besides map and codes
_CLASS_BITS = 300.0  # what a class must save: its code in the model, the time to build its table
_WORTH = 0.997  # a Huffman code must save this much against raw, which decodes faster


@dataclass(frozen=True, eq=False)
class Coding:
    """How a plane would be coded by classes: the classes, those of the runs, the cost in bits."""

    classes: tuple[PlaneClass, ...]
    runs: RunClasses | None  # uint8[runs]; None where there is one class
    bits: float


def huffman_class(counts: Counts) -> tuple[PlaneClass, float]:
    """The cheapest way to store symbols with these counts, and its cost in bits.

    The cost counts what the class takes in the model.
    """
    used = np.flatnonzero(counts)
    if used.size <= 1:
        return PlaneClass(registry.CLASS_CONSTANT, symbol=int(used[0]) if used.size else 0), 16.0
    raw = 8.0 * int(counts.sum()) + 8
    overhead = 24 + 4.0 * (used[-1] - used[0] + 2)
    lengths = code_lengths(counts, MAX_BITS)
    bits = int(counts @ lengths)
    if lengths.max() > _FAST_BITS:
        short = code_lengths(counts, _FAST_BITS)
        short_bits = int(counts @ short)
        if short_bits <= bits * 1.0005:  # a smaller table decodes faster
            lengths, bits = short, short_bits
    if bits + overhead >= raw * _WORTH:
        return PlaneClass(registry.CLASS_RAW), raw
    return PlaneClass(registry.CLASS_HUFFMAN, lengths=lengths), bits + overhead


def estimated_bits(planes: list[Bytes]) -> list[float]:
    """Order-0 entropy in bits of each plane, at most that of raw bytes."""
    work = np.empty(1024, np.uint32)
    counts = np.zeros((len(planes), 256), np.int64)
    for p, plane in enumerate(planes):
        histogram(plane, work, counts[p])
    bits = np.empty((len(planes), len(planes)))
    pair_entropies(counts, bits)
    return [min(8.0 * plane.size, float(bits[p, p])) for p, plane in enumerate(planes)]


def one_class(counts: Counts, chunks: int) -> Coding:
    """The coding with the same class for all runs."""
    only, bits = huffman_class(counts)
    return Coding((only,), None, bits + chunks * _SECTION_BITS)


def choose_classes(counts: RunCounts, most: int, chunks: int) -> Coding:
    """The cheapest coding of a plane found with at most `most` classes.

    `counts`: uint16[runs, 256], the histogram of each run.
    """
    total = np.zeros((1, 256), np.int64)
    everything = np.zeros(len(counts), np.uint8)
    add_counts(counts, everything, total)
    single = one_class(total[0], chunks)
    if most < 2 or len(counts) < 4 * most or len(single.classes) == 0:
        return single
    runs = _cluster(counts, np.flatnonzero(total[0]), most)
    several = _merge(counts, runs, most, chunks)
    return several if several.bits < single.bits else single


def _cluster(counts: RunCounts, symbols: Counts, most: int) -> RunClasses:
    """A class for each run, by k-means on a sample of the runs."""
    sample = np.ascontiguousarray(counts[:: max(1, len(counts) // _TRAINING_RUNS)])
    used = sample[:, symbols].astype(np.float32)
    mean = used @ np.arange(symbols.size, dtype=np.float32) / used.sum(axis=1)
    borders = np.quantile(mean, np.arange(1, most) / most)
    classes = np.searchsorted(borders, mean).astype(np.uint8)
    cost = _costs(sample, classes, symbols, most)
    work = np.empty(symbols.size, np.float32)
    for _ in range(_ROUNDS):
        assign_classes(sample, symbols, cost, work, classes)
        cost = _costs(sample, classes, symbols, most)
    result = np.zeros(len(counts), np.uint8)
    assign_classes(counts, symbols, cost, work, result)
    return result


def _costs(
    counts: RunCounts, classes: RunClasses, symbols: Counts, most: int
) -> npt.NDArray[np.float32]:
    """Ideal code length of each used symbol in each class, float32[classes, used]."""
    total = np.zeros((most, 256), np.int64)
    add_counts(counts, classes, total)
    smooth = total[:, symbols] + 0.02
    bits = -np.log2(smooth / smooth.sum(axis=1, keepdims=True))
    return np.ascontiguousarray(bits, np.float32)


def _merge(counts: RunCounts, runs: RunClasses, most: int, chunks: int) -> Coding:
    """Joins classes two by two as long as the whole gets smaller, then numbers them anew."""
    total = np.zeros((most, 256), np.int64)
    add_counts(counts, runs, total)
    groups = [(total[c], [c]) for c in range(most) if total[c].any()]
    while len(groups) > 1:
        a, b, gain = _best_pair([counted for counted, _ in groups])
        gain += len(runs) * (map_bits(len(groups)) - map_bits(len(groups) - 1))
        if gain + _CLASS_BITS <= 0:
            break
        groups[a] = (groups[a][0] + groups[b][0], groups[a][1] + groups[b][1])
        del groups[b]
    number = np.zeros(most, np.uint8)
    for new, (_, members) in enumerate(groups):
        number[members] = new
    coded = [huffman_class(counted) for counted, _ in groups]
    bits = sum(cost for _, cost in coded) + len(runs) * map_bits(len(groups))
    classes = tuple(one for one, _ in coded)
    return Coding(classes, number[runs] if len(groups) > 1 else None, bits + chunks * _SECTION_BITS)


def _best_pair(histograms: list[Counts]) -> tuple[int, int, float]:
    """The two histograms that lose least when joined, and what is gained (mostly below 0)."""
    bits = np.empty((len(histograms), len(histograms)))
    pair_entropies(np.array(histograms), bits)
    alone = np.diag(bits)
    gain = alone[:, None] + alone[None, :] - bits
    gain[np.tril_indices(len(histograms))] = -np.inf
    a, b = divmod(int(gain.argmax()), len(histograms))
    return a, b, float(gain[a, b])
