"""The decoding side of the mixing codec."""

import numpy as np

from densor.codec.float_cm.params import Parameters, parse, parse_header, run
from densor.codec.interfaces import ChunkDecoder
from densor.errors import FormatError
from densor.runtime.types import Bytes


class FloatCmDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once."""

    def __init__(self, model: Parameters) -> None:
        self.model = model

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        size = self.model.form.size
        if out.size % size or not out.size:
            raise FormatError("mixing chunk has an impossible length")
        payload = np.require(payload, np.uint8, ["C", "W"])  # as the kernel's signature has it
        header, at = parse_header(payload, self.model, out.size // size)
        values = np.empty(out.size // size, np.uint32)
        end = at + header.coded
        stop, bits = run(False, self.model, header, payload[:end], at, payload[end:], values)
        if bits < 0 or stop != end or -(-bits // 8) != payload.size - end:
            raise FormatError("mixing chunk does not decode to its end")
        if bits % 8 and payload[-1] >> (bits % 8):
            raise FormatError("mixing chunk has bits after its end")
        out[:] = values.astype(f"<u{size}").view(np.uint8)


def open_decoder(payload: bytes, _: object = None) -> FloatCmDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    return FloatCmDecoder(parse(payload))
