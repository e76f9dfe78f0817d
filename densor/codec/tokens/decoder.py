"""The decoding side of tokens."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.interfaces import ChunkDecoder
from densor.codec.tokens.params import MAX_TOKENS, AnyParameters, parse
from densor.codec.tokens.payload import decoded
from densor.errors import FormatError


class TokensDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once."""

    def __init__(self, parameters: AnyParameters) -> None:
        self._parameters = parameters

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        p = self._parameters
        count, rest = divmod(out.size, p.size)
        if rest or count % p.item:
            raise FormatError("chunk of tokens has an impossible length")
        if count > MAX_TOKENS:
            raise FormatError(f"chunk has more than {MAX_TOKENS} tokens")
        tokens = np.empty(count, np.uint32)
        decoded(p, np.require(payload, np.uint8, ["C", "W"]), tokens)
        out[:] = tokens.astype(f"<u{p.size}").view(np.uint8)


def open_decoder(payload: bytes, _: object = None) -> TokensDecoder:
    """The decoder of a MODEL frame's payload; FormatError for a bad one."""
    return TokensDecoder(parse(payload))
