"""Reads tables of FlatBuffers, as far as Arrow needs them.

Format: https://flatbuffers.dev/internals. Everything is checked against the bytes at hand;
FormatError for what lies outside, so that lying or circular offsets end there or at the caller's
limit of depth.
"""

import struct
from typing import NamedTuple, Self

from densor.errors import FormatError


class Table(NamedTuple):
    """A table that begins at `at` of `data`; its fields are at offsets that another one tells."""

    data: bytes
    at: int
    fields: int  # where the offsets of fields are
    known: int  # how many

    @classmethod
    def root(cls, data: bytes) -> Self:
        """The table that a whole buffer stands for."""
        return cls.of(data, _u32(data, 0))

    @classmethod
    def of(cls, data: bytes, at: int) -> Self:
        """The table that begins there."""
        fields = at - _number(data, at, "<i")
        size = _number(data, fields, "<H")
        if size < 4 or fields + size > len(data):
            raise FormatError("table of a flatbuffer has no fields")
        return cls(data, at, fields, size // 2 - 2)

    def place(self, field: int) -> int:
        """Where a field is; 0 where it has its default."""
        if field >= self.known:
            return 0
        offset = _number(self.data, self.fields + 4 + 2 * field, "<H")
        return self.at + offset if offset else 0

    def number(self, field: int, form: str, default: int = 0) -> int:
        """A field that is a number, of a form of `struct`."""
        at = self.place(field)
        return _number(self.data, at, form) if at else default

    def table(self, field: int) -> Self | None:
        """A field that is a table."""
        at = self.place(field)
        return type(self).of(self.data, at + _u32(self.data, at)) if at else None

    def text(self, field: int) -> bytes:
        """A field that is a text."""
        begin, count = self.vector(field, 1)
        return self.data[begin : begin + count]

    def vector(self, field: int, size: int) -> tuple[int, int]:
        """Where the items of a field are, of `size` bytes each, and how many there are."""
        at = self.place(field)
        if not at:
            return 0, 0
        begin = at + _u32(self.data, at)
        count = _u32(self.data, begin)
        if begin + 4 + count * size > len(self.data):
            raise FormatError("vector of a flatbuffer is too long")
        return begin + 4, count

    def tables(self, field: int, most: int) -> list[Self]:
        """A field that is a vector of at most so many tables."""
        begin, count = self.vector(field, 4)
        if count > most:
            raise FormatError("vector of a flatbuffer has too many tables")
        places = [begin + 4 * i for i in range(count)]
        return [type(self).of(self.data, at + _u32(self.data, at)) for at in places]


def _u32(data: bytes, at: int) -> int:
    return _number(data, at, "<I")


def _number(data: bytes, at: int, form: str) -> int:
    if not 0 <= at <= len(data) - struct.calcsize(form):
        raise FormatError("flatbuffer points beyond its end")
    value: int = struct.unpack_from(form, data, at)[0]
    return value
