"""The head of a scale-context chunk: its matrices and the lengths of its sections."""

import struct
from typing import NamedTuple

from densor.codec.scale_context.split_format import BLOCK, SplitFormat
from densor.errors import FormatError
from densor.runtime.types import Bytes

HEAD = struct.Struct("<HhII")  # parts, base, bytes of escape bits, bytes of the stream
PART = struct.Struct("<IIBBBB")  # rows, columns, flags, centres of rows and of columns, 0
ROWS, COLUMNS = 1, 2  # flags: scales of rows, of columns are coded; otherwise all are the centre
ROW_STEPS, COLUMN_STEPS = 4, 8  # flags: they are coded as differences to the one before


class Part(NamedTuple):
    """A matrix of a chunk and how its scales are coded."""

    rows: int
    columns: int
    flags: int
    row_centre: int
    column_centre: int

    @property
    def coded(self) -> tuple[int, int]:
        """How many scales of rows and of columns are coded."""
        return self.rows * bool(self.flags & ROWS), self.columns * bool(self.flags & COLUMNS)


class Head(NamedTuple):
    """The parts of a chunk, its base exponent, and where its sections begin."""

    parts: list[Part]
    base: int
    escapes: int
    rest: int
    signs: int
    stream: int
    end: int


def pack_head(parts: list[Part], base: int, escapes: int, stream: int) -> bytes:
    """Everything before the first section. `escapes`, `stream`: bytes of these sections."""
    head = HEAD.pack(len(parts), base, escapes, stream)
    return head + b"".join(PART.pack(*part, 0) for part in parts)


def parse_head(payload: Bytes, form: SplitFormat, elements: int) -> Head:
    """The head of a chunk of so many elements; FormatError unless all adds up."""
    if payload.size < HEAD.size:
        raise FormatError("chunk is too short")
    count, base, escapes_size, stream_size = HEAD.unpack_from(payload)
    at = HEAD.size + PART.size * count
    if payload.size < at:
        raise FormatError("chunk is too short for its matrices")
    parts = []
    left = elements
    for rows, columns, flags, *centres, zero in PART.iter_unpack(payload[HEAD.size : at].tobytes()):
        if not rows or not columns or flags > 15 or zero:
            raise FormatError("chunk has an impossible matrix")
        left -= rows * columns
        if left < 0:
            raise FormatError("chunk has more matrices than elements")
        parts.append(Part(rows, columns, flags, *centres))
    if left:
        raise FormatError("chunk has more elements than its matrices")
    blocks = -(-elements // BLOCK)
    rest = at + escapes_size
    signs = rest + form.rest * blocks
    stream = signs + form.signs * blocks
    end = stream + stream_size
    if end > payload.size or (end < payload.size and not form.half):
        raise FormatError("sections of a chunk do not fit its payload")
    return Head(parts, base, at, rest, signs, stream, end)
