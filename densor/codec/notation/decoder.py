"""The decoding side of notations: decodes the elements, and writes them in their form."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.codecs import wrapped_decoder
from densor.codec.interfaces import ChunkDecoder
from densor.codec.notation.payload import HEAD, MODEL, PARTS, RUN, Form, Head, check_runs
from densor.codec.parts import PartDecoder, split_parts, take_model
from densor.errors import FormatError
from densor.runtime.buffers import POOL


class NotationDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once.

    `payload`: of the MODEL frame; FormatError or UnsupportedError for a bad one.
    """

    weight = 2

    def __init__(self, payload: bytes) -> None:
        self._form = Form.unpack(payload)
        model, at = take_model(payload, MODEL.size)
        if at != len(payload):
            raise FormatError("model is too long")
        self._plain = PartDecoder(model, wrapped_decoder)
        self._others = PartDecoder(b"")

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        head = Head.unpack(payload, self._form, out.size)
        stored_runs, stored_literals, stored = split_parts(payload, HEAD.size, PARTS)
        runs, literals = np.empty(RUN * head.runs, np.uint8), np.empty(head.literals, np.uint8)
        self._others.decode(*stored_runs, runs)
        self._others.decode(*stored_literals, literals)
        plain = POOL.take(head.plain)
        self._plain.decode(*stored, plain)
        check_runs(runs, head, self._form)
        if self._form.make(plain[head.skipped :], runs, literals, out) != out.size:
            raise FormatError("chunk in another notation does not have its length")
        POOL.give(plain)


def open_decoder(payload: bytes, _: object = None) -> NotationDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    return NotationDecoder(payload)
