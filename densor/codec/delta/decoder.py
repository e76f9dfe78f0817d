"""The decoding side of the change codec: reads the base, then one compiled call a chunk."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.delta.elements import by_size, elements, is_aligned
from densor.codec.delta.few_decoder import apply
from densor.codec.delta.few_params import FEW, FewParameters
from densor.codec.delta.few_params import parse as parse_few
from densor.codec.delta.params import Parameters, parse
from densor.codec.delta.payload import (
    CODED,
    DECODED,
    ERRORS,
    FEW_CODED,
    HEAD,
    MALFORMED,
    SAME,
    SLACK,
)
from densor.codec.delta.tokens import token_table
from densor.codec.interfaces import Base, BaseDecoder
from densor.entropy.rans.constants import LOOK, STATES
from densor.entropy.rans.decode import decode_table
from densor.entropy.rans.tables import ends_of_common
from densor.errors import FormatError, LimitError
from densor.runtime.buffers import POOL, ThreadBuffers

MAX_CHUNK = 1 << 23  # bytes; a chain of bases needs a few times this per link
_BUFFERS = ThreadBuffers()
_DECODE = by_size("chunk_kernels", "decode")


class DeltaDecoder(BaseDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once."""

    def __init__(self, model: Parameters) -> None:
        self._model = model
        self._token_table = token_table(model.method)
        self._table = decode_table(model.freqs) if len(model.freqs) else None
        self._ends = ends_of_common(model.freqs)
        self._window = model.contexts.window(model.method.size)

    def decode_from(self, payload: Bytes, out: Bytes, base: Base) -> None:
        """Decodes a chunk that changes a stretch of `base` into all of `out`.

        FormatError if payload or base do not fit.
        """
        mode, before = _before(payload, out, base, self._model.method.size)
        if mode == SAME and payload.size == HEAD.size:
            out[:] = before
        elif mode == CODED:
            self._decode(payload[HEAD.size :], before, out)
        else:
            raise FormatError("chunk of changes is malformed")
        POOL.give(before)

    def _decode(self, coded: Bytes, before: Bytes, out: Bytes) -> None:
        method, contexts, changes = self._model.method, self._model.contexts, self._token_table
        if self._table is None:
            raise FormatError(ERRORS[MALFORMED])
        target = out if is_aligned(out, method.size) else np.empty(out.size, np.uint8)
        wrong = _DECODE[method.size](
            coded,
            elements(before, method.size),
            self._table,
            self._ends,
            contexts.shift,
            contexts.mapped,
            *self._window,
            changes.starts,
            changes.counts,
            method.plain,
            method.number,
            method.floats,
            method.drop,
            method.bits,
            _BUFFERS.take("tokens", DECODED),
            _BUFFERS.take("contexts", DECODED),
            _BUFFERS.take("tail", 3 * LOOK),
            _BUFFERS.take("states", 4 * STATES).view(np.uint32),
            _BUFFERS.take("extras", coded.size + SLACK),
            target.view(f"u{method.size}"),
        )
        if wrong:
            raise FormatError(ERRORS[wrong])
        if target is not out:
            out[:] = target


class FewDecoder(BaseDecoder):
    """Likewise, for chunks of which few elements have changed."""

    def __init__(self, few: FewParameters) -> None:
        self._few = few

    def decode_from(self, payload: Bytes, out: Bytes, base: Base) -> None:
        """Decodes a chunk that changes a stretch of `base` into all of `out`.

        FormatError if payload or base do not fit.
        """
        mode, before = _before(payload, out, base, self._few.method.size)
        out[:] = before
        POOL.give(before)
        if mode == FEW_CODED:
            apply(self._few, payload[HEAD.size :], out)
        elif mode != SAME or payload.size > HEAD.size:
            raise FormatError("chunk of changes is malformed")


def _before(payload: Bytes, out: Bytes, base: Base, size: int) -> tuple[int, Bytes]:
    """The mode of a chunk and the bytes of the base that it changes."""
    if payload.size < HEAD.size or out.size % size:
        raise FormatError("chunk of changes has an impossible length")
    offset, mode = HEAD.unpack_from(payload)
    if offset + out.size > base.size:
        raise FormatError("chunk refers to bytes behind the end of its base")
    if out.size > MAX_CHUNK:
        raise LimitError("chunk of changes is too long")
    return mode, base.read_at(offset, out.size)


def open_decoder(payload: bytes, _: object = None) -> BaseDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    if payload[3:4] == bytes([FEW]):
        return FewDecoder(parse_few(payload))
    return DeltaDecoder(parse(payload))
