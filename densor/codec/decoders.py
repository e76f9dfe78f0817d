"""Finds the decoder of a MODEL frame by its codec number."""

from densor.codec import registry
from densor.codec.coder import ChunkDecoder
from densor.codec.mixing import model as mixing
from densor.codec.mixing.decode import MixingDecoder
from densor.codec.planar import model as planar
from densor.codec.planar.decode import PlanarDecoder
from densor.codec.text import model as text
from densor.codec.text.decode import TextDecoder
from densor.errors import FormatError, UnsupportedError


def decoder_for(payload: bytes) -> ChunkDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    if not payload:
        raise FormatError("model is empty")
    codec = payload[0]
    if codec == registry.CODEC_PLANAR:
        return PlanarDecoder(planar.parse(payload))
    if codec == registry.CODEC_MIXING:
        return MixingDecoder(mixing.parse(payload))
    if codec == registry.CODEC_TEXT:
        return TextDecoder(text.parse(payload))
    raise UnsupportedError(f"unknown codec {codec}; a newer densor may read this")
