"""The decoding side of images under a circuit."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.circuit.coding import decode_images
from densor.codec.circuit.params import Parameters, parse, unpack_sizes
from densor.codec.interfaces import ChunkDecoder
from densor.codec.language_model.session import Session
from densor.errors import ArgumentError, FormatError


class CircuitDecoder(ChunkDecoder):
    """Decodes images under one circuit. Safe to use from several threads at once."""

    def __init__(self, parameters: Parameters, session: Session | None) -> None:
        self.parameters = parameters
        self._session = session or Session()

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        self.decode_some(payload, out.size, 0, self._count(out.size), out)

    def decode_some(self, payload: Bytes, original: int, begin: int, end: int, out: Bytes) -> None:
        """Decodes images `begin` to `end` of a chunk of `original` bytes, and none beside them."""
        count = self._count(original)
        if not 0 <= begin <= end <= count:
            raise ArgumentError(f"chunk has {count} images, not {begin} to {end}")
        sizes, at = unpack_sizes(np.ascontiguousarray(payload), count)
        if at + int(sizes.sum()) != payload.size:
            raise FormatError("streams of images do not fill their chunk")
        at += int(sizes[:begin].sum())
        sizes = sizes[begin:end]
        tables = self._session.circuit(self.parameters.digest)
        if tables.size != self.parameters.size:
            raise FormatError("images are not of the size that their circuit has")
        decode_images(tables, payload[at : at + int(sizes.sum())], sizes, out)

    @property
    def unit(self) -> int:
        """Bytes of an image."""
        return self.parameters.size.samples

    def _count(self, original: int) -> int:
        count, rest = divmod(original, self.parameters.size.samples)
        if rest or not count:
            raise FormatError("chunk does not have whole images")
        return count


def open_decoder(payload: bytes, session: Session | None = None) -> CircuitDecoder:
    """The decoder of a MODEL frame's payload; FormatError or LimitError for a bad one."""
    return CircuitDecoder(parse(payload), session)
