"""Finds the decoder of a MODEL frame by its codec number."""

from densor.codec import registry
from densor.codec.blocks.decoder import FieldsDecoder
from densor.codec.byte_cm import params as text
from densor.codec.byte_cm.decoder import TextDecoder
from densor.codec.coder import ChunkDecoder
from densor.codec.delta import params as change
from densor.codec.delta.decoder import ChangeDecoder
from densor.codec.float_cm import params as mixing
from densor.codec.float_cm.decoder import MixingDecoder
from densor.codec.language_model import params as llm
from densor.codec.language_model.decoder import LlmDecoder
from densor.codec.language_model.session import Session
from densor.codec.planes import params as planes
from densor.codec.planes.decoder import PlanesDecoder
from densor.codec.scale_context.decoder import ScalesDecoder
from densor.codec.scale_context.params import parse as parse_scales
from densor.codec.sparse.decoder import SparseDecoder
from densor.errors import FormatError, UnsupportedError

_OUTERMOST = (
    registry.CODEC_FIELDS,
    registry.CODEC_SPARSE,
    registry.CODEC_CHANGE,
    registry.CODEC_LLM,
)


def decoder_for(payload: bytes, session: Session | None = None) -> ChunkDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one.

    `session`: where language models come from.
    """
    if not payload:
        raise FormatError("model is empty")
    codec = payload[0]
    if codec in (registry.CODEC_PLANAR, registry.CODEC_PLANES):
        return PlanesDecoder(planes.parse(payload))
    if codec == registry.CODEC_SCALES:
        scales = parse_scales(payload)
        return ScalesDecoder(scales, _low_decoder(scales.low))
    if codec == registry.CODEC_CHANGE:
        return ChangeDecoder(change.parse(payload))
    if codec == registry.CODEC_FIELDS:
        return FieldsDecoder(payload, _inner)
    if codec == registry.CODEC_SPARSE:
        return SparseDecoder(payload, _inner)
    if codec == registry.CODEC_MIXING:
        return MixingDecoder(mixing.parse(payload))
    if codec == registry.CODEC_TEXT:
        return TextDecoder(text.parse(payload))
    if codec == registry.CODEC_LLM:
        return LlmDecoder(llm.parse(payload), session)
    raise UnsupportedError(f"unknown codec {codec}; a newer densor may read this")


def _low_decoder(payload: bytes) -> ChunkDecoder | None:
    """The decoder of low halves, None where there is no model for them."""
    if not payload:
        return None
    if payload[0] not in (registry.CODEC_PLANAR, registry.CODEC_PLANES):
        raise FormatError("low halves have a model of a codec other than of planes")
    decoder = decoder_for(payload)
    assert isinstance(decoder, PlanesDecoder)
    if decoder.model.layout.size != 2:
        raise FormatError("low halves have a model for elements of another size")
    return decoder


def _inner(payload: bytes) -> ChunkDecoder:
    """The decoder of a model within a model, which has none within itself."""
    if payload and payload[0] in _OUTERMOST:
        raise FormatError("models are nested too deep")
    return decoder_for(payload)
