"""The decoding side of the text codec."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.byte_cm.params import MAX_SEGMENT, Parameters, parse
from densor.codec.byte_cm.segment import code_whole
from densor.codec.interfaces import ChunkDecoder
from densor.errors import FormatError, LimitError


class ByteCmDecoder(ChunkDecoder):
    """Decodes the segments of one model. Safe to use from several threads at once."""

    def __init__(self, model: Parameters) -> None:
        self.model = model

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a segment's `payload` into all of `out`; FormatError if it does not fit."""
        if out.size > MAX_SEGMENT:
            raise LimitError(f"text segment has more than {MAX_SEGMENT} bytes")
        payload = np.require(payload, np.uint8, ["C", "W"])  # as the kernel's signature has it
        if code_whole(False, self.model, payload, out) != payload.size:
            raise FormatError("text segment does not decode to its end")


def open_decoder(payload: bytes, _: object = None) -> ByteCmDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    return ByteCmDecoder(parse(payload))
