"""The decoding side of sparse elements."""

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.interfaces import ChunkDecoder
from densor.codec.parts import PartDecoder, split_parts, take_model
from densor.codec.sparse.payload import (
    BAND,
    BANDS,
    COUNT,
    HEAD,
    IN_BANDS,
    MAX_COLUMNS,
    SIZES,
    Bands,
)
from densor.entropy.deferred import deferred
from densor.errors import FormatError
from densor.runtime.buffers import POOL

_EXPAND = {size: deferred("densor.codec.sparse.kernels", f"expand_{size}") for size in SIZES}


class SparseDecoder(ChunkDecoder):
    """Decodes the chunks of one model. Safe to use from several threads at once.

    `payload`: of the MODEL frame; FormatError or UnsupportedError for a bad one.
    """

    weight = 2

    def __init__(self, payload: bytes) -> None:
        if len(payload) < HEAD.size:
            raise FormatError("model is too short")
        _, size = HEAD.unpack_from(payload)
        self._size, at = size & ~IN_BANDS, HEAD.size
        if self._size not in SIZES:
            raise FormatError(f"sparse elements of {self._size} bytes")
        self._bands = _bands(payload) if size & IN_BANDS else None
        at += BANDS.size if self._bands is not None else 0
        bitmap, at = take_model(payload, at)
        values, at = take_model(payload, at)
        if at != len(payload):
            raise FormatError("model is too long")
        self._bitmap = PartDecoder(bitmap)
        self._values = PartDecoder(values)

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        n, rest = divmod(out.size, self._size)
        if rest or payload.size < COUNT.size:
            raise FormatError("sparse chunk has an impossible length")
        (count,) = COUNT.unpack_from(payload)
        if count > n:
            raise FormatError("sparse chunk has more values than elements")
        bitmap, values = split_parts(payload, COUNT.size, 2)
        packed, dense = POOL.take(-(-n // 8)), POOL.take((count + 1) * self._size)
        self._bitmap.decode(*bitmap, packed)
        if int(np.bitwise_count(packed).sum()) != count or (n % 8 and packed[-1] >> n % 8):
            raise FormatError("bitmap of a sparse chunk does not fit its values")
        bits = packed if self._bands is None else self._bands.scattered(packed, n)
        self._values.decode(*values, dense[: count * self._size])
        elements = out.view(f"<u{self._size}")
        target = np.require(elements, requirements="A")  # a copy where it is not aligned
        _EXPAND[self._size](bits, dense.view(elements.dtype), target)
        if target is not elements:
            elements[:] = target
        POOL.give(packed)
        POOL.give(dense)


def _bands(payload: bytes) -> Bands:
    """How bands lie; FormatError where they cannot."""
    if len(payload) < HEAD.size + BANDS.size:
        raise FormatError("model is too short")
    columns, first = BANDS.unpack_from(payload, HEAD.size)
    if not 1 <= columns <= MAX_COLUMNS or first >= BAND:
        raise FormatError(f"bitmap has {columns} columns, and bands from row {first} on")
    return Bands(columns, first)


def open_decoder(payload: bytes, _: object = None) -> SparseDecoder:
    """The decoder of a MODEL frame's payload; FormatError or UnsupportedError for a bad one."""
    return SparseDecoder(payload)
