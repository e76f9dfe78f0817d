"""The coding side of FLAC files: their samples by the ways of sound, beside what frames say."""

from collections.abc import Sequence

import numpy as np

from densor.codec.audio.coders import CascadeCoder, LaneCoder, cascade_model
from densor.codec.audio.flac import Frames, pack_frames, taken_apart
from densor.codec.audio.layout import Layout, fits
from densor.codec.audio.params import FULL, LIGHT, Model, pack_flac
from densor.codec.audio.samples import model_of, restore
from densor.codec.batch import Batch, Bytes
from densor.codec.chunks import CountingEncoder
from densor.codec.interfaces import ChunkCoder
from densor.codec.levels import Level


class FlacCoder:
    """A `BatchCoder` of batches that are all frames of a file."""

    repeats = False

    def __init__(self, layout: Layout, depth: int, level: Level) -> None:
        self._layout = layout
        self._depth = depth
        self._level = level
        self._model = b""
        self._payload: Bytes | None = None

    def count(self, chunk: Bytes) -> Frames | None:
        """What the frames hold; None where they would not come back as they are."""
        return taken_apart(chunk, self._layout.channels, self._depth)

    def decide(self, tallies: Sequence[Frames | None]) -> None:
        """Takes the smallest way for the samples."""
        (frames,) = tallies
        data = None if frames is None else self._samples(frames)
        if frames is None or data is None:
            return
        ways = [(coder.model(), coder.encode(data, 0)) for coder in self._coders(data)]
        self._model, payload = min(ways, key=lambda way: len(way[0]) + len(way[1]))
        said = np.frombuffer(pack_frames(frames, self._level.zstd), np.uint8)
        self._payload = np.concatenate([said, payload])

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack_flac(self._depth, self._model)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of the frames; themselves where they cannot be made again."""
        return chunk if self._payload is None else self._payload

    def _samples(self, frames: Frames) -> Bytes | None:
        """All samples side by side; None for too few."""
        data = np.empty(frames.planes.size * self._layout.size, np.uint8)
        restore(Model(self._layout, 8 * self._layout.size), frames.planes, data)
        return data if fits(self._layout, data.size) else None

    def _coders(self, data: Bytes) -> list[ChunkCoder]:
        model = model_of(self._layout, data)
        assert model is not None
        by_lanes = LaneCoder(model)
        by_lanes.decide([by_lanes.count(data)])
        setting = FULL if self._level.sound == "full" else LIGHT
        adaptive = None if self._level.sound == "lanes" else cascade_model(model, setting)
        return [by_lanes] if adaptive is None else [CascadeCoder(adaptive), by_lanes]


def propose(batch: Batch, level: Level) -> CountingEncoder:
    """An encoder for all frames of a FLAC file."""
    stream = batch.kind.stream
    assert stream is not None and stream.audio is not None
    return CountingEncoder(FlacCoder(stream.audio, stream.depth, level), batch, level.zstd)
