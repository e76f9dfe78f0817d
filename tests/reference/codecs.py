"""The codecs by their numbers (docs/format/container.md, section 7): MODEL payloads to decoders."""

from collections.abc import Callable
from typing import Protocol

from reference import (
    audio,
    blocks,
    byte_cm,
    circuit,
    deflate,
    delta,
    float_cm,
    image,
    notation,
    pages,
    planes,
    scale_context,
    sparse,
    table,
    token_ranks,
    tokens,
)
from reference.reading import Refused, fail


class Model(Protocol):
    """A MODEL frame, by which CHUNK frames are decoded."""

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """The payload of a CHUNK to so many bytes; `base` is that of the entry."""


Parse = Callable[[bytes], Model]

_PARSERS: dict[int, Parse] = {
    planes.CODEC_HUFFMAN: planes.parse_model,
    planes.CODEC_RANS: planes.parse_model,
    scale_context.CODEC: lambda payload: scale_context.parse_model(payload, planes.parse_low),
    float_cm.CODEC: float_cm.parse_model,
    byte_cm.CODEC: byte_cm.parse_model,
    image.CODEC: image.parse_model,
}
_OUTERMOST: dict[int, Parse] = {
    blocks.CODEC: lambda payload: blocks.parse_model(payload, _parse_part),
    sparse.CODEC: lambda payload: sparse.parse_model(payload, _parse_part),
    delta.CODEC: delta.parse_model,
    deflate.CODEC: lambda payload: deflate.parse_model(payload, _parse_part),
    table.CODEC: lambda payload: table.parse_model(payload, _parse_part),
    pages.CODEC: lambda payload: pages.parse_model(payload, _parse_part),
    notation.CODEC: lambda payload: notation.parse_model(payload, _parse_elements),
    audio.CODEC: audio.parse_model,
    circuit.CODEC: circuit.parse_model,
    tokens.CODEC: tokens.parse_model,
    token_ranks.CODEC: token_ranks.parse_model,
    token_ranks.MORE: token_ranks.parse_model,
}


def parse_model(payload: bytes) -> Model:
    """MODEL payload (7)."""
    codec = payload[0] if payload else fail("an empty MODEL")
    return _OUTERMOST[codec](payload) if codec in _OUTERMOST else _parse_part(payload)


def _parse_elements(payload: bytes) -> Model:
    """MODEL of the elements of a chunk in another notation."""
    alone = {sparse.CODEC, tokens.CODEC, token_ranks.CODEC, token_ranks.MORE}
    if payload and payload[0] in alone:
        return _OUTERMOST[payload[0]](payload)
    return _parse_part(payload)


def _parse_part(payload: bytes) -> Model:
    """MODEL of a part, which may not have parts itself."""
    codec = payload[0] if payload else fail("an empty MODEL")
    if codec in _OUTERMOST:
        fail("models are nested too deep")
    if codec not in _PARSERS:
        raise Refused("unsupported", f"codec {codec}")
    return _PARSERS[codec](payload)
