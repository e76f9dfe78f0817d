"""The decoding side of sound."""

from densor.codec.audio import cascade, lanes
from densor.codec.audio.params import CASCADE, Model, parse
from densor.codec.batch import Bytes
from densor.codec.codec import ChunkDecoder


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


def open_decoder(payload: bytes, _: object = None) -> ChunkDecoder:
    """The decoder of a MODEL frame's payload; FormatError or LimitError for a bad one."""
    model = parse(payload)
    return CascadeDecoder(model) if model.method == CASCADE else LaneDecoder(model)
