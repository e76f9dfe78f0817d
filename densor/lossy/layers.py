"""How a layer is replaced at a price: steps or clusters, by squared error and real coded size."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from densor.lossy.scalar import Codebook, Floats, clustered, sample_of, uniform

STEPS, CLUSTERS, KEPT = "steps", "clusters", "kept"
_LOG_2 = math.log(2)
Coded = Callable[[Any], int]  # bytes that a tensor takes in an archive by itself


class Weights(NamedTuple):
    """A layer whose weights may be replaced.

    `importance`: what a squared error in it counts for; `like`: the tensor of the right type for
    new weights.
    """

    name: str
    values: Floats
    importance: float
    like: Callable[[Floats], Any]
    kept: "Choice | None" = None  # the layer as it is


class Choice(NamedTuple):
    """What a layer became; sizes in bytes.

    `form`: `steps`, `clusters`, or `kept` for one that stayed as it was; `step`: 0 where there is
    none; `error`: squared, over that of all zeros.
    """

    name: str
    form: str
    step: float
    levels: int
    weights: int
    stored: int
    error: float
    tensor: Any


def as_it_is(layer: Weights, tensor: Any, coded: Coded) -> Weights:
    """The layer, which may also stay as it is."""
    size = layer.values.size
    return layer._replace(
        kept=Choice(layer.name, KEPT, 0.0, size, size, coded(tensor), 0.0, tensor)
    )


def chosen(layer: Weights, multiplier: float, coded: Coded) -> Choice:
    """The way for which importance x squared error + multiplier x coded bits is least.

    It is among those that were tried: a layer stays as it is where `kept` says what that takes.
    """
    total = float(np.square(layer.values, dtype=np.float64).sum())
    if not total or layer.values.size == 0:
        return _made(layer, Codebook(np.zeros(1, np.float32), np.empty(0)), 0.0, STEPS, coded)[1]
    price = multiplier / layer.importance
    sample = sample_of(layer.values)
    tried: list[tuple[float, Choice, Codebook | None]] = []
    tried += [] if layer.kept is None else [(0.0, layer.kept, None)]
    for step in _steps(price):
        if (book := uniform(sample, step, price)) is not None:
            tried.append((*_made(layer, book, step, STEPS, coded), book))
    cost = lambda found: found[0] + price * 8 * found[1].stored  # noqa: E731
    best = min(tried, key=cost)
    if best[2] is not None and best[1].levels > 1:
        book = clustered(sample, best[2], price)
        tried.append((*_made(layer, book, 0.0, CLUSTERS, coded), book))
    return min(tried, key=cost)[1]


def _steps(price: float) -> Iterator[float]:
    """Powers of two, and thrice such, about the best step at high rates, where d D / d R = -price.

    D = step^2 / 12 there, and falls by 2 ln 2 D with each bit. Multiples of such steps have few
    bits, so that bytes of their floats are zero.
    """
    low = math.floor(math.log2(math.sqrt(6 * price / _LOG_2)))
    for factor in (1.0, 1.5, 2.0):
        yield math.ldexp(factor, low)


def _made(
    layer: Weights, book: Codebook, step: float, form: str, coded: Coded
) -> tuple[float, Choice]:
    """Squared error of a codebook, and what it makes of a layer."""
    values = book.replaced(layer.values)
    error = float(np.square(layer.values - values, dtype=np.float64).sum())
    tensor = layer.like(values)
    total = float(np.square(layer.values, dtype=np.float64).sum()) or 1.0
    found = Choice(
        *(layer.name, form, step, book.values.size, values.size),
        *(coded(tensor), error / total, tensor),
    )
    return error, found
