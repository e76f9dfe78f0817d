"""How a layer is replaced at a price: steps or clusters, by squared error and real coded size."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from densor import arrays
from densor.lossy.feedback import Inputs
from densor.lossy.scalar import Codebook, Floats, clustered, sample_of, uniform

STEPS, CLUSTERS, KEPT = "steps", "clusters", "kept"
_LOG_2 = math.log(2)
Coded = Callable[[Any], int]  # bytes that a tensor takes in an archive by itself


def as_float32(tensor: Any) -> Floats:
    """The numbers of a tensor or array; infinite where FP32 has none for them."""
    if arrays.is_torch(tensor):
        tensor = tensor.detach().float().cpu().numpy()
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(tensor, np.float32).reshape(tuple(tensor.shape))


class Choice(NamedTuple):
    """What a layer became; sizes in bytes.

    `form`: `steps`, `clusters`, or `kept` for one that stayed as it was; `step`: 0 where there is
    none; `error`: squared, of its outputs where its inputs are known and else of its weights, over
    that of all zeros.
    """

    name: str
    form: str
    step: float
    levels: int
    weights: int
    stored: int
    error: float
    tensor: Any


@dataclass(frozen=True, eq=False)
class Weights:
    """A layer whose weights may be replaced, under one name or several.

    `tensor`: as it was given; `like`: makes one of the same type of new weights; `inputs`: what
    rows of its weights are multiplied with, None where that is not known.
    """

    names: tuple[str, ...]
    values: Floats
    tensor: Any
    like: Callable[[Floats], Any]
    inputs: Inputs | None

    @property
    def name(self) -> str:
        """The first of the names."""
        return self.names[0]

    @cached_property
    def sample(self) -> Floats:
        """Some of the weights."""
        return sample_of(self.values)

    @cached_property
    def power(self) -> float:
        """The squared error of all zeros; 0 where there is nothing to lose."""
        return self.error(np.zeros_like(self.values)) if self.values.any() else 0.0

    def error(self, values: Floats) -> float:
        """The squared error of new weights."""
        lost = self.values - values
        if self.inputs is None:
            return float(np.square(lost, dtype=np.float64).sum())
        return self.inputs.power(lost)

    def price(self, multiplier: float) -> float:
        """The squared error of a weight that a bit is worth."""
        shared = 1.0 if self.inputs is None else self.inputs.mean
        return multiplier * self.power / self.values.size / shared

    def replaced(self, book: Codebook) -> Floats:
        """New weights, from a codebook."""
        if self.inputs is None:
            return book.replaced(self.values)
        return self.inputs.replaced(self.values, book)

    def as_it_is(self, coded: Coded) -> Choice:
        """The layer unchanged."""
        size = self.values.size
        return Choice(self.name, KEPT, 0.0, size, size, coded(self.tensor), 0.0, self.tensor)


def chosen(layer: Weights, multiplier: float, coded: Coded, kept: Choice) -> Choice:
    """The way for which error + multiplier x coded bits is least; `kept`: the layer as it is.

    Errors are in units of the mean that a weight adds to the layer's power, so that all layers are
    alike.
    """
    if not layer.power:
        return _made(layer, Codebook(np.zeros(1, np.float32), np.empty(0)), 0.0, STEPS, coded)
    price = layer.price(multiplier)
    tried: list[tuple[Choice, Codebook | None]] = [(kept, None)]
    for step in _steps(price):
        if (book := uniform(layer.sample, step, price)) is not None:
            tried.append((_made(layer, book, step, STEPS, coded), book))

    def cost(found: tuple[Choice, Codebook | None]) -> float:
        return found[0].error * layer.values.size + multiplier * 8 * found[0].stored

    choice, best = min(tried, key=cost)
    if best is not None and choice.levels > 1:
        book = clustered(layer.sample, best, price)
        tried.append((_made(layer, book, 0.0, CLUSTERS, coded), book))
    return min(tried, key=cost)[0]


def _steps(price: float) -> Iterator[float]:
    """Powers of two, and thrice such, about the best step at high rates, where d D / d R = -price.

    D = step^2 / 12 there, and falls by 2 ln 2 D with each bit. Multiples of such steps have few
    bits, so that bytes of their floats are zero.
    """
    low = math.floor(math.log2(math.sqrt(6 * price / _LOG_2)))
    for factor in (1.0, 1.5, 2.0):
        yield math.ldexp(factor, low)


def _made(layer: Weights, book: Codebook, step: float, form: str, coded: Coded) -> Choice:
    """The layer by a codebook; the error is that of what is stored, without end for infinities."""
    tensor = layer.like(layer.replaced(book))
    values = as_float32(tensor)
    error = math.inf if not np.isfinite(values).all() else layer.error(values)
    error = error / layer.power if layer.power else 0.0
    size = values.size
    return Choice(layer.name, form, step, book.values.size, size, coded(tensor), error, tensor)
