"""What codes the chunks of sound, by either method."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from densor.codec.audio import cascade
from densor.codec.audio.lanes import (
    Modelled,
    choose_contexts,
    first_channel,
    modelled,
    payload_of,
    starts_table,
)
from densor.codec.audio.params import CASCADE, MAX_CASCADE_DEPTH, Model, pack_model
from densor.codec.audio.samples import Planes, coded
from densor.codec.batch import Bytes


class LaneCoder:
    """A `BatchCoder` of samples by the fast method."""

    repeats = True

    def __init__(self, model: Model, planes: Planes | None = None) -> None:
        self._model = model
        self._planes = planes  # of the only chunk, until it is counted
        self._tallies: Sequence[Modelled] = ()

    def count(self, chunk: Bytes) -> Modelled:
        """Errors, tokens and contexts of a chunk."""
        planes, self._planes = self._planes, None
        return modelled(self._model, coded(self._model, chunk) if planes is None else planes)

    def decide(self, tallies: Sequence[Modelled]) -> None:
        """Settles the distribution of each context."""
        self._tallies = tallies
        counts = functools.reduce(np.add, (tally.counts() for tally in tallies))
        contexts = choose_contexts(counts, self._model.depth, self._model.contexts)
        self._model = replace(self._model, contexts=contexts)

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack_model(self._model)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index`."""
        return payload_of(self._model, self._tallies[index], starts_table())


class CascadeCoder:
    """A `ChunkCoder` of samples by the cascade, which adapts within each chunk."""

    repeats = True

    def __init__(self, model: Model) -> None:
        self._model = model

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack_model(self._model)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of a chunk, maybe longer than the chunk."""
        return cascade.encode(self._model, chunk, first_channel(self._model, chunk))


def cascade_model(model: Model, setting: int) -> Model | None:
    """The model of a cascade for the samples of another model; None for too many bits."""
    if model.depth > MAX_CASCADE_DEPTH:
        return None
    return replace(model, method=CASCADE, setting=setting)
