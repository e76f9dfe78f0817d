"""Finds the parameters of a batch of rows, by trial of some of them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.image import kernels
from densor.codec.image.gradient import levels, samples, split, work_on
from densor.codec.image.kernels import GREEN, GREEN_MEAN, LIFTED, NO_COLOUR, ORDERED
from densor.codec.image.layout import Layout
from densor.codec.image.params import (
    CONTEXTS,
    LOCAL,
    MAX_SCALE,
    MAX_WAVEFRONT,
    MIXING,
    RESIDUAL,
    Model,
    fits_windows,
    reduced,
)
from densor.codec.image.shapes import VALUES

_TRIED_TOGETHER = 4  # rows of a wavefront in trials
_BITS_OF_STATE = 1 << 15  # that pay for its 32
_CHUNK = 1 << 18  # bytes of one, about
_TRIAL_ROWS = 16
_VALUES_BITS = 256  # that a set of values takes


class Modelled(NamedTuple):
    """Tokens, contexts and low bits of all samples of some rows, in their order."""

    tokens: Bytes
    contexts: Bytes
    lower: npt.NDArray[np.uint16]

    def counts(self) -> npt.NDArray[np.int64]:
        """How often each token comes under each context."""
        found = np.zeros((CONTEXTS, 256), np.int64)
        kernels.count_tokens(self.tokens, self.contexts, found)
        return found


def modelled(model: Model, data: Bytes) -> Modelled:
    """What the fast method codes of rows."""
    shape = model.shape(data.size)
    n = samples(model, data.size)
    found = Modelled(np.empty(n, np.uint8), np.empty(n, np.uint8), np.empty(n, np.uint16))
    together = min(model.wavefront, shape.rows)
    planes = split(shape, reduced(model, data))
    work = work_on(shape, planes, together, True)
    kernels.model_rows(shape, work, levels(model.scale), model.scale, model.wavefront, *found)
    return found


def share_of_plain(layout: Layout, data: Bytes) -> float:
    """What some rows take by the fast method, over what their bytes take by themselves."""
    piece = _middle(layout, data)
    ways = (replace(way, scale=max(0, way.depth - 8) // 2) for way in _of_samples(layout, piece))
    return _cheapest(ways, piece)[0] / max(plain_bits(layout, piece), 1.0)


def plain_bits(layout: Layout, data: Bytes) -> float:
    """Bits that the bytes of some rows take by themselves."""
    planes = data.reshape(-1, layout.size).T if not layout.padding else data[None]
    return sum(_entropy(np.bincount(plane, minlength=256)) for plane in planes)


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    """Bits that symbols with these counts take, by the last axis."""
    used = counts[counts > 0]
    each = counts.sum(-1).ravel()
    each = each[each > 0]
    return float(each @ np.log2(each) - used @ np.log2(used))


def _middle(layout: Layout, data: Bytes) -> Bytes:
    rows = data.size // layout.stride
    first = max(0, rows - _TRIAL_ROWS) // 2 * layout.stride
    return data[first : first + _TRIAL_ROWS * layout.stride]


def gradient_model(layout: Layout, data: Bytes) -> Model:
    """The model of the fast method that suits whole rows, but for its frequencies."""
    piece = _middle(layout, data)
    bits, best = _cheapest(_of_samples(layout, data), piece)
    if layout.channels >= 3:
        colours = (replace(best, colour=colour) for colour in (GREEN, GREEN_MEAN, LIFTED))
        bits, best = _cheapest(colours, piece, (bits, best))
    if best.depth > 8:
        scales = range(1, min(best.depth - 7, MAX_SCALE + 1))
        bits, best = _cheapest(
            (replace(best, scale=scale) for scale in scales), piece, (bits, best)
        )
    chunk = min(data.size, _CHUNK)
    states = int(bits * chunk / max(1, piece.size)) // _BITS_OF_STATE
    wavefront = min(max(1, states // layout.channels), MAX_WAVEFRONT)
    return replace(best, wavefront=wavefront)


def mixing_model(layout: Layout, data: Bytes, contexts: int, steps: int) -> Model:
    """The model of context mixing for whole rows, or of residuals if there are no contexts."""
    model = gradient_model(layout, data)
    colour = ORDERED if layout.channels >= 3 else NO_COLOUR
    if not contexts:
        method = RESIDUAL
    else:
        method = LOCAL if contexts > VALUES and fits_windows(layout) else MIXING
    return replace(model, method=method, colour=colour, contexts=contexts, steps=steps)


def bits_and_errors(
    layout: Layout, data: Bytes
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Bits and absolute prediction errors of samples by the fast method, [rows, width, channels].

    Parameters do not count; errors are those of what the colour transform makes of pixels.
    """
    model = replace(gradient_model(layout, data), wavefront=1)  # samples stand in their order
    found = modelled(model, data)
    counts = found.counts()
    each = counts.sum(1)[found.contexts] / counts[found.contexts, found.tokens]
    tokens = found.tokens.astype(np.int64)
    low = np.where(tokens < kernels.DIRECT, 0, ((tokens - kernels.DIRECT) >> 2) + 5)
    folded = np.where(low > 0, (4 | tokens & 3) << low | found.lower * (low > 0), tokens)
    shape = -1, layout.width, layout.channels
    return (np.log2(each) + low).reshape(shape), ((folded + 1) >> 1).reshape(shape)


def bits_by_gradients(layout: Layout, data: Bytes) -> float:
    """What a sample of rows from the middle takes by the fast method."""
    piece = _middle(layout, data)
    bits, _ = _cheapest(_of_samples(layout, piece), piece)
    return bits * layout.size / max(1, piece.size)


def _of_samples(layout: Layout, data: Bytes) -> list[Model]:
    """Models that differ in what is coded of a sample."""
    if layout.size == 1 and not layout.padding:
        values = np.zeros(256, np.bool_)
        kernels.find_values(data, values.view(np.uint8))
        used = int(np.bitwise_or.reduce(np.flatnonzero(values), initial=0))
        whole = Model(layout, max(1, used.bit_length()), wavefront=_TRIED_TOGETHER)
    else:
        used = int(np.bitwise_or.reduce(layout.samples(data), axis=None, initial=0))
        shift = (used & -used).bit_length() - 1 if used and layout.size == 2 else 0
        depth = max(1, used.bit_length() - shift)
        return [Model(layout, depth, wavefront=_TRIED_TOGETHER, shift=shift)]
    count = int(values.sum())
    if count > int(np.flatnonzero(values)[-1]):
        return [whole]
    depth = max(1, (count - 1).bit_length())
    return [whole, replace(whole, depth=depth, values=values)]


def _cheapest(
    ways: Iterable[Model], data: Bytes, known: tuple[float, Model] | None = None
) -> tuple[float, Model]:
    """The fewest bits that models take for rows, `known` among them, and the first that does."""
    costs = [known] if known else []
    costs += [(_cost(way, data), way) for way in ways]
    return min(costs, key=lambda cost: cost[0])


def _cost(model: Model, data: Bytes) -> float:
    """Bits that rows take by the fast method, about."""
    found = modelled(model, data)
    counts = found.counts()
    octaves = np.maximum(np.arange(256) - kernels.DIRECT, -4) // 4 + 5
    low: npt.NDArray[Any] = np.where(octaves > 4, octaves, 0)
    return _entropy(counts) + float(counts.sum(0) @ low) + _VALUES_BITS * (model.values is not None)
