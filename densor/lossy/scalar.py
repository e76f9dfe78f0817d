"""Scalar quantisers that count bits: which of a set of values stands for a weight.

A weight w becomes the value v that makes (w - v)^2 + lambda * bits(v) least: the quantiser of Chou,
Lookabaugh and Gray, "Entropy-constrained vector quantization" (IEEE Trans. ASSP 37, 1989), in one
dimension. The values are multiples of a step, or the means of what came to lie at each (their Lloyd
iteration). Values that are seldom cost more bits, so that the zone of 0 is wider by itself.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_LARGEST = float(np.finfo(np.float32).max)
MOST_LEVELS = 1 << 12  # on each side of 0
_SAMPLE = 1 << 16  # weights from which bits of values are learned
_ROUNDS = 3
_BLOCK = 1 << 22  # weights that are replaced at once
_UNSEEN = 0.5  # what a value that no weight of the sample came to counts for
_MANTISSA = 8  # bits that means keep, so that the low bytes of all values are zero


class Codebook(NamedTuple):
    """Values, float32[k] ascending, and the bounds between their zones, float64[k - 1]."""

    values: Floats
    bounds: Doubles

    def indices(self, weights: Doubles) -> npt.NDArray[np.intp]:
        """Which value stands for each weight."""
        return np.searchsorted(self.bounds, weights)

    def replaced(self, weights: Floats) -> Floats:
        """The values that stand for weights of any shape."""
        flat = weights.reshape(-1)
        out = np.empty_like(flat)
        bounds = self.bounds.astype(np.float32)
        for at in range(0, flat.size, _BLOCK):
            part = flat[at : at + _BLOCK]
            out[at : at + _BLOCK] = self.values[np.searchsorted(bounds, part)]
        return out.reshape(weights.shape)


def sample_of(weights: Floats) -> Floats:
    """Some of the weights, always the same, and the least and the greatest, for their range."""
    flat = weights.reshape(-1)
    if flat.size <= _SAMPLE:
        return flat
    chosen = flat[np.random.default_rng(0).integers(0, flat.size, _SAMPLE)]
    return np.append(chosen, [flat.min(), flat.max()]).astype(np.float32)


def uniform(sample: Floats, step: float, price: float) -> Codebook | None:
    """Multiples of `step`, None if these are too many; `price`: squared error a bit is worth."""
    if max(-float(sample.min()), float(sample.max())) > MOST_LEVELS * step:
        return None
    least, most = (int(np.rint(float(end) / step)) for end in (sample.min(), sample.max()))
    levels = np.arange(min(least, 0), max(most, 0) + 1) * step
    values = np.unique(np.clip(levels, -_LARGEST, _LARGEST).astype(np.float32))
    return _fitted(sample, values, price, move=False)


def clustered(sample: Floats, begin: Codebook, price: float) -> Codebook:
    """Values moved to the means of their zones, from another codebook on."""
    return _fitted(sample, begin.values, price, move=True)


def _fitted(sample: Floats, values: Floats, price: float, *, move: bool) -> Codebook:
    points = sample.astype(np.float64)
    book = _nearest(values)
    for _ in range(_ROUNDS):
        if move:
            book = _moved(book, points)
        counts = np.bincount(book.indices(points), minlength=book.values.size)
        shares = np.maximum(counts, _UNSEEN)
        book = _zones(book.values, -price * np.log2(shares / shares.sum()))
    return book


def _nearest(values: Floats) -> Codebook:
    return Codebook(values, (values[1:].astype(np.float64) + values[:-1]) / 2)


def _moved(book: Codebook, points: Doubles) -> Codebook:
    """Each value at the mean of its zone, with few bits; 0 stays, and empty zones go."""
    indices = book.indices(points)
    counts = np.bincount(indices, minlength=book.values.size)
    sums = np.bincount(indices, points, minlength=book.values.size)
    means = np.where(book.values == 0, 0, sums / np.maximum(counts, 1))
    return _nearest(np.unique(_short(means[counts > 0])))


def _short(values: Doubles) -> Floats:
    mantissa, exponent = np.frexp(values)
    rounded: Doubles = np.ldexp(np.rint(np.ldexp(mantissa, _MANTISSA)), exponent - _MANTISSA)
    return rounded.astype(np.float32)


def _zones(values: Floats, costs: Doubles) -> Codebook:
    """The zones of values that cost so much: the lower envelope of (w - v)^2 + cost.

    Without w^2, which is the same for all, these are lines in w of slope -2 v; what is never the
    least goes.
    """
    rises = values.astype(np.float64) ** 2 + costs
    kept: list[int] = []
    bounds: list[float] = []
    for i, value in enumerate(values.tolist()):
        while kept:
            last = kept[-1]
            bound = (rises[i] - rises[last]) / (2 * (value - float(values[last])))
            if not bounds or bound > bounds[-1]:
                break
            kept.pop()
            bounds.pop()
        if kept:
            bounds.append(bound)
        kept.append(i)
    return Codebook(values[kept], np.array(bounds, np.float64))
