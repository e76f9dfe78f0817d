"""The codec's decoding side: planes by the entropy stage, elements by the layout."""

import functools
from typing import Any, Protocol

from densor.codec import registry
from densor.codec.interfaces import ChunkDecoder
from densor.codec.planes.layout import Placed, from_differences
from densor.codec.planes.params import Parameters, parse
from densor.codec.planes.stages.huffman_decoder import HuffmanDecoder
from densor.codec.planes.stages.rans_decoder import RansDecoder
from densor.errors import FormatError
from densor.runtime.buffers import ThreadBuffers
from densor.runtime.types import Bytes

_STAGES = {registry.CODEC_PLANES_HUFFMAN: HuffmanDecoder, registry.CODEC_PLANES_RANS: RansDecoder}
_BUFFERS = ThreadBuffers()


class StageDecoder(Protocol):
    """Decodes the planes of chunks of one model. Safe to use from several threads at once."""

    def place(self, payload: Bytes, n: int, scratch: Bytes) -> Placed:
        """Decodes planes of `n` bytes each to `scratch`, uint8[planes * n], where they need it.

        FormatError or LimitError for a payload that does not fit.
        """


class PlanesDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once."""

    def __init__(self, model: Parameters[Any]) -> None:
        self.model = model

    @functools.cached_property
    def _stage(self) -> StageDecoder:
        """Where spans are decoded it is never needed."""
        stage: StageDecoder = _STAGES[self.model.codec](self.model)
        return stage

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        layout = self.model.layout
        n, rest = divmod(out.size, layout.size)
        if rest:
            raise FormatError("chunk of planes has an impossible length")
        scratch = _BUFFERS.take("scratch", out.size)
        placed = self._stage.place(payload, n, scratch)
        if n:
            layout.merge(payload, scratch, placed.where, placed.stored, placed.run, out)
        if self.model.delta:
            from_differences(out, layout)


def open_decoder(payload: bytes, _: object = None) -> PlanesDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    return PlanesDecoder(parse(payload))
