"""The decoding side of blocks: decodes every field, then puts the blocks together."""

from densor.buffers import POOL
from densor.codec.coder import Bytes
from densor.codec.fields.block import MAX_FIELDS, columns, items
from densor.codec.fields.wire import FIELD, HEAD
from densor.codec.nested.decode import Find, PartDecoder, split_parts, take_model
from densor.errors import FormatError


class FieldsDecoder:
    """Decodes the chunks of one model. Safe to use from several threads at once.

    `payload`: of the MODEL frame; FormatError or UnsupportedError for a bad one.
    """

    def __init__(self, payload: bytes, find: Find) -> None:
        if len(payload) < HEAD.size:
            raise FormatError("model is too short")
        _, count = HEAD.unpack_from(payload)
        if not 1 <= count <= MAX_FIELDS:
            raise FormatError(f"blocks have {count} fields, not 1 to {MAX_FIELDS}")
        self._sizes: list[int] = []
        self._parts: list[PartDecoder] = []
        at = HEAD.size
        for _ in range(count):
            if len(payload) < at + FIELD.size:
                raise FormatError("model is too short")
            (size,) = FIELD.unpack_from(payload, at)
            if not size:
                raise FormatError("field of a block is empty")
            model, at = take_model(payload, at + FIELD.size)
            self._sizes.append(size)
            self._parts.append(PartDecoder(model, find))
        if at != len(payload):
            raise FormatError("model is too long")
        self.weight = count

    def decode(self, payload: Bytes, out: Bytes) -> None:
        """Decodes a chunk's `payload` into all of `out`; FormatError if it does not fit."""
        blocks, rest = divmod(out.size, sum(self._sizes))
        if rest:
            raise FormatError("chunk does not hold whole blocks")
        stored = split_parts(payload, 0, len(self._parts))
        targets = columns(out, self._sizes)
        for part, size, (mode, data), target in zip(
            self._parts, self._sizes, stored, targets, strict=True
        ):
            field = POOL.take(blocks * size)
            part.decode(mode, data, field)
            target[:] = items(field, size)
            POOL.give(field)
