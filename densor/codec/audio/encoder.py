"""The coding side of sound."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from densor.codec.audio import cascade, kernels
from densor.codec.audio.lanes import (
    Modelled,
    bits_of,
    choose_contexts,
    first_channel,
    modelled,
    payload_of,
    starts_table,
)
from densor.codec.audio.params import (
    CASCADE,
    FULL,
    LIGHT,
    MAX_CASCADE_DEPTH,
    Model,
    pack_model,
)
from densor.codec.audio.samples import model_of, without_values
from densor.codec.batch import Batch, Bytes, Chunk
from densor.codec.chunks import ChunkEncoder, CountingEncoder, own_or_raw, zstd_chunk
from densor.codec.codec import Estimate
from densor.codec.levels import Level
from densor.codec.zstd import zstd_compress

_SAMPLE = 1 << 13  # bytes that tell about the rest
_FASTEST_ZSTD = -1  # a level that takes hardly longer than a copy where nothing repeats
_MAX_GAIN_OF_ZSTD = 1.5  # size at that level over that at a slow one


class LaneCoder:
    """A `BatchCoder` of samples by the fast method."""

    repeats = True

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tallies: Sequence[Modelled] = ()

    def count(self, chunk: Bytes) -> Modelled:
        """Errors, tokens and contexts of a chunk."""
        return modelled(self._model, chunk)

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


class LaneEncoder(CountingEncoder):
    """An `Encoder` by the fast method, which looks before it tries anything else."""

    coder: LaneCoder

    def __init__(self, model: Model, batch: Batch, zstd: int) -> None:
        super().__init__(LaneCoder(model), batch, zstd)
        self._model = model

    def estimate(self) -> Estimate:
        """Of some instants from the middle, beside byte planes and what Zstandard finds."""
        layout = self._model.layout
        size = min(_SAMPLE, self.batch.data.size) // layout.stride * layout.stride
        begin = (self.batch.data.size - size) // 2 // layout.stride * layout.stride
        sample = self.batch.data[begin : begin + size]
        counts = np.zeros((layout.size, 256), np.uint32)
        kernels.count_bytes(sample, counts)
        repeated = len(zstd_compress(sample, _FASTEST_ZSTD))
        return Estimate(bits_of(self._model, sample) / 8, min(_entropy(counts), repeated))

    def _store(self, chunk: Bytes, index: int) -> Chunk:
        payload = self.coder.encode(chunk, index)
        if len(zstd_compress(chunk, _FASTEST_ZSTD)) < _MAX_GAIN_OF_ZSTD * len(payload):
            plain = zstd_chunk(chunk, self._zstd)
            if len(plain.payload) < len(payload):
                return plain
        return own_or_raw(payload, chunk)


def _entropy(counts: npt.NDArray[np.uint32]) -> float:
    """Bytes that symbols take, each of a row by its frequency in it."""
    shares = counts[counts > 0] / counts.sum(1, keepdims=True).max()
    return float(-(np.log2(shares) * shares).sum() * counts[0].sum() / 8)


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


def propose(batch: Batch, level: Level) -> ChunkEncoder | None:
    """An encoder for samples; None for floats that are no scaled integers."""
    layout = batch.kind.audio
    assert layout is not None
    model = model_of(layout, batch.data)
    if model is None:
        return None
    if model.values is not None:
        plain = without_values(model, batch.data)
        with_ranks = bits_of(model, batch.data) + 8 * (
            len(pack_model(model)) - len(pack_model(plain))
        )
        model = model if with_ranks < bits_of(plain, batch.data) else plain
    adaptive = None
    if level.sound != "lanes":
        adaptive = cascade_model(model, FULL if level.sound == "full" else LIGHT)
    if adaptive is not None:
        return ChunkEncoder(CascadeCoder(adaptive), batch, level.zstd)
    return LaneEncoder(model, batch, level.zstd)
