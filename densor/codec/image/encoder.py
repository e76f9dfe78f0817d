"""The coding side of images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.image import kernels
from densor.codec.image.gradient import levels, samples, split, work_on
from densor.codec.image.params import CONTEXTS, MAX_SCALE, Layout, Model, pack_head
from densor.codec.image.kernels import GREEN, GREEN_MEAN, LIFTED, NO_COLOUR
from densor.entropy.rans.kernels import FIRST, build_starts
from densor.entropy.rans.tables import pack, quantise

_CHAINS = 4  # of predictions that are coded together, about
_TRIAL_ROWS = 24


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
    """What is to be coded of rows."""
    shape = model.shape(data.size)
    work = work_on(shape, split(shape, data), model.lanes)
    n = samples(model, data.size)
    found = Modelled(np.empty(n, np.uint8), np.empty(n, np.uint8), np.empty(n, np.uint16))
    kernels.model_rows(shape, work, levels(model.scale), model.scale, model.lanes, *found)
    return found


def fitting(layout: Layout, data: Bytes) -> Model:
    """The model but for its frequencies: depth, and colours and scale by trial of some rows."""
    depth = max(1, int(_samples(layout, data).max(initial=0)).bit_length())
    lanes = max(1, _CHAINS // layout.channels)
    model = Model(layout, depth, NO_COLOUR, lanes=lanes)
    rows = data.size // layout.stride
    first = max(0, rows - _TRIAL_ROWS) // 2 * layout.stride
    piece = data[first : first + _TRIAL_ROWS * layout.stride]
    ways = [model]
    if layout.channels >= 3:
        ways += [replace(model, colour=colour) for colour in (GREEN, GREEN_MEAN, LIFTED)]
    best = min(ways, key=lambda way: cost(way, piece))
    if depth > 8:
        scales = [replace(best, scale=scale) for scale in range(min(depth - 7, MAX_SCALE + 1))]
        best = min(scales, key=lambda way: cost(way, piece))
    return best


def cost(model: Model, data: Bytes) -> float:
    """Bits that rows take, about, but for parameters."""
    found = modelled(model, data)
    counts = found.counts()
    each = counts.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -float(np.nansum(counts * np.log2(counts / each)))
    octaves = np.maximum(np.arange(256) - kernels.DIRECT, -4) // 4 + 5
    return bits + float(counts.sum(0) @ np.where(octaves > 4, octaves, 0))


def _samples(layout: Layout, data: Bytes) -> npt.NDArray[np.uint16] | Bytes:
    rows = data.reshape(-1, layout.stride)[:, : layout.stride - layout.padding]
    if layout.size == 1:
        return rows
    return np.ascontiguousarray(rows).view(">u2" if layout.big else "<u2")


class GradientCoder:
    """A `BatchCoder` of rows. `data`: all of the batch."""

    repeats = True

    def __init__(self, layout: Layout, data: Bytes) -> None:
        self._model = fitting(layout, data)
        self._starts = np.empty(0, np.uint32)
        self._tallies: Sequence[Modelled] = ()

    def count(self, chunk: Bytes) -> Modelled:
        """Tokens and contexts of a chunk."""
        return modelled(self._model, chunk)

    def decide(self, tallies: Sequence[Modelled]) -> None:
        """Settles the frequencies."""
        self._tallies = tallies
        freqs = quantise(sum((tally.counts() for tally in tallies), start=_none()))
        self._model = replace(self._model, freqs=freqs)
        self._starts = np.empty(CONTEXTS << 8, np.uint32)
        build_starts(freqs, self._starts)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack_head(self._model) + pack(self._model.freqs)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index`."""
        found = self._tallies[index]
        model = self._model
        states = np.full(model.lanes * model.layout.channels, FIRST, np.int64)
        words = np.empty(4 * (found.tokens.size + states.size + 4), np.uint8)
        shape = model.shape(chunk.size)
        at = int(kernels.put_rows(shape, model.lanes, *found, self._starts, states, words))
        at -= 4 * states.size
        words[at : at + 4 * states.size] = states.astype("<u4").view(np.uint8)
        return words[at:]


def _none() -> npt.NDArray[np.int64]:
    return np.zeros((CONTEXTS, 256), np.int64)
