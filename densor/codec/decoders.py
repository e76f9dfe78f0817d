"""Finds the decoder of a MODEL frame by its codec number."""

from densor.codec import registry
from densor.codec.change import model as change
from densor.codec.change.decode import ChangeDecoder
from densor.codec.coder import ChunkDecoder
from densor.codec.planar import model as planar
from densor.codec.planar.decode import PlanarDecoder
from densor.codec.scales.decode import ScalesDecoder
from densor.codec.scales.model import parse as parse_scales
from densor.errors import FormatError, UnsupportedError


def decoder_for(payload: bytes) -> ChunkDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    if not payload:
        raise FormatError("model is empty")
    codec = payload[0]
    if codec == registry.CODEC_PLANAR:
        return PlanarDecoder(planar.parse(payload))
    if codec == registry.CODEC_SCALES:
        scales = parse_scales(payload)
        return ScalesDecoder(scales, _low_decoder(scales.low))
    if codec == registry.CODEC_CHANGE:
        return ChangeDecoder(change.parse(payload))
    raise UnsupportedError(f"unknown codec {codec}; a newer densor may read this")


def _low_decoder(payload: bytes) -> ChunkDecoder | None:
    """The decoder of low halves, None where there is no model for them."""
    if not payload:
        return None
    model = planar.parse(payload)
    if model.layout.size != 2:
        raise FormatError("low halves have a model for elements of another size")
    return PlanarDecoder(model)
