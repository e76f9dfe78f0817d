"""The decoding side of sound."""

import numpy as np

from densor.codec.audio import cascade, lanes
from densor.codec.audio.flac import put_together, take_frames
from densor.codec.audio.params import CASCADE, FRAMES, Model, parse, parse_flac
from densor.codec.audio.samples import planes_of
from densor.codec.batch import Bytes
from densor.codec.interfaces import ChunkDecoder
from densor.runtime.memory import MEMORY


class LaneDecoder(ChunkDecoder):
    """Decodes samples of one model by the fast method. Safe to use from several threads at once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._slots = lanes.slots_of(model)

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        lanes.decode(self._model, self._slots, payload, out)


class CascadeDecoder(ChunkDecoder):
    """Decodes samples of one model by the cascade. Safe to use from several threads at once."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        cascade.decode(self._model, payload, out)


class FlacDecoder(ChunkDecoder):
    """Decodes FLAC files, a chunk each. Safe to use from several threads at once."""

    weight = 2

    def __init__(self, payload: bytes) -> None:
        self._depth, self._model = parse_flac(payload)
        self._samples = _decoder_of(self._model)

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        layout = self._model.layout
        frames, at = take_frames(payload, layout.channels, self._depth, out.size)
        data = np.empty(frames.planes.size * layout.size, np.uint8)
        self._samples.decode(payload[at:], data)  # which may borrow memory itself
        with MEMORY.borrowed(2 * frames.planes.nbytes):
            put_together(frames._replace(planes=planes_of(layout, data)), out)


def _decoder_of(model: Model) -> ChunkDecoder:
    return CascadeDecoder(model) if model.method == CASCADE else LaneDecoder(model)


def open_decoder(payload: bytes, _: object = None) -> ChunkDecoder:
    """The decoder of a MODEL frame's payload; FormatError or LimitError for a bad one."""
    if payload[1:2] == bytes([FRAMES]):
        return FlacDecoder(payload)
    return _decoder_of(parse(payload))
