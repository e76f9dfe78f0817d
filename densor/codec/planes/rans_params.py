"""The model: that of a planar chunk, but classes are frequencies of rANS."""

import numpy as np

from densor.codec import registry
from densor.codec.planes.params import Fields, Model, pack_model, parse_model
from densor.entropy.rans import tables
from densor.entropy.rans.tables import Freqs


def pack(model: Model[Freqs]) -> bytes:
    """The payload of a MODEL frame. `Freqs`: uint16[classes, 256] of a plane."""
    return pack_model(registry.CODEC_PLANES, model, tables.pack)


def parse(payload: bytes) -> Model[Freqs]:
    """The model in a MODEL frame; FormatError or UnsupportedError for a bad one."""
    return parse_model(registry.CODEC_PLANES, payload, _take_freqs)


def _take_freqs(fields: Fields, classes: int) -> Freqs:
    freqs, size = tables.unpack(np.frombuffer(fields.left(), np.uint8), classes)
    fields.take(size)
    return freqs
