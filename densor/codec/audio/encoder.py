"""The coding side of sound."""

import numpy as np
import numpy.typing as npt

from densor.codec.audio import flac_encoder, kernels
from densor.codec.audio.coders import CascadeCoder, LaneCoder, cascade_model
from densor.codec.audio.lanes import (
    bits_of,
)
from densor.codec.audio.params import (
    FULL,
    LIGHT,
    Model,
    pack_model,
)
from densor.codec.audio.samples import (
    Planes,
    coded_planes,
    model_of_planes,
    planes_of,
    without_values,
)
from densor.codec.batch import Batch, Bytes, Chunk
from densor.codec.chunks import ChunkEncoder, CountingEncoder, own_or_raw, zstd_chunk
from densor.codec.interfaces import Estimate
from densor.codec.levels import Level
from densor.codec.zstd import zstd_compress

_SAMPLE = 1 << 13  # bytes that tell about the rest
_FASTEST_ZSTD = -1  # a level that takes hardly longer than a copy where nothing repeats
_MAX_GAIN_OF_ZSTD = 1.5  # size at that level over that at a slow one


class LaneEncoder(CountingEncoder):
    """An `Encoder` by the fast method, which looks before it tries anything else."""

    coder: LaneCoder

    def __init__(self, model: Model, batch: Batch, zstd: int, planes: Planes | None = None) -> None:
        super().__init__(LaneCoder(model, planes), batch, zstd)
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


def propose(batch: Batch, level: Level) -> ChunkEncoder | None:
    """An encoder for samples, or a FLAC file; None for floats that are no scaled integers."""
    if batch.kind.stream is not None:
        return flac_encoder.propose(batch, level)
    layout = batch.kind.audio
    assert layout is not None
    planes = planes_of(layout, batch.data)
    model = model_of_planes(layout, planes)
    if model is None:
        return None
    if model.values is not None:
        plain = without_values(model, planes)
        saved = bits_of(plain, batch.data) - bits_of(model, batch.data)
        if saved <= 0 or saved <= 8 * (len(pack_model(model)) - len(pack_model(plain))):
            model = plain
    adaptive = None
    if level.sound != "lanes":
        adaptive = cascade_model(model, FULL if level.sound == "full" else LIGHT)
    if adaptive is not None:
        return ChunkEncoder(CascadeCoder(adaptive), batch, level.zstd)
    is_one = len(batch.chunks()) == 1
    return LaneEncoder(model, batch, level.zstd, coded_planes(model, planes) if is_one else None)
