"""The decoding side of DEFLATE streams: decodes their content, and makes them of it again."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.deflate.filters import PAETH, filter_rows
from densor.codec.deflate.framing import bare_size, wrap
from densor.codec.deflate.params import HEAD_SIZE, MODEL_HEAD, PARTS, Head, parse
from densor.codec.deflate.settings import make
from densor.codec.interfaces import ChunkDecoder
from densor.codec.parts import PartDecoder, split_parts, take_model
from densor.errors import FormatError


class DeflateDecoder(ChunkDecoder):
    """Decodes the chunks of one model, each a stream. Safe to use from several threads at once."""

    weight = 2

    def __init__(self, payload: bytes) -> None:
        filters, at = take_model(payload, len(MODEL_HEAD))
        content, at = take_model(payload, at)
        if at != len(payload):
            raise FormatError("model is too long")
        self._filters = PartDecoder(filters)
        self._content = PartDecoder(content)

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        head = parse(payload[:HEAD_SIZE].tobytes(), out.size)
        content = self._decode_content(head, payload)
        stream = make(head.settings, content, bare_size(head.form, out.size, head.piece))
        if stream is None:
            raise FormatError("DEFLATE chunk does not make a stream of its length")
        framed = wrap(head.form, stream, head.header, head.piece, content)
        if len(framed) != out.size:
            raise FormatError("DEFLATE chunk does not have the length of its frame")
        out[:] = np.frombuffer(framed, np.uint8)

    def _decode_content(self, head: Head, payload: Bytes) -> Bytes:
        filters, content = split_parts(payload, HEAD_SIZE, PARTS)
        kinds = np.empty(head.rows, np.uint8)
        self._filters.decode(*filters, kinds)
        if (kinds > PAETH).any():
            raise FormatError("DEFLATE chunk has an unknown filter")
        found = np.empty(head.size - head.rows, np.uint8)
        self._content.decode(*content, found)
        if not head.row:
            return found
        raw = np.empty(head.size, np.uint8)
        filter_rows(kinds, found, head.row, head.pixel, raw)
        return raw


def open_decoder(payload: bytes, _: object = None) -> DeflateDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    return DeflateDecoder(payload)
