"""Structures of Thrift's compact protocol, as the metadata of Parquet files has them.

Format: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. Fields
are told by their numbers; FormatError for what does not end, is nested too deep or too much.
"""

from typing import Any

from densor.errors import FormatError

MAX_DEPTH = 24
MAX_NODES = 1 << 21  # values of a structure
Struct = dict[int, Any]
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(
    13
)


class Reader:
    """Reads values one after the other. `at`: where the next one begins."""

    def __init__(self, data: bytes, at: int = 0, most: int = MAX_NODES) -> None:
        self._data = data
        self.at = at
        self._left = most

    def struct(self, depth: int = 0) -> Struct:
        """A structure: its fields by their numbers."""
        found: Struct = {}
        number = 0
        while True:
            head = self._byte()
            kind = head & 15
            if kind == _STOP:
                return found
            number = number + (head >> 4) if head >> 4 else self._signed()
            found[number] = kind == _TRUE if kind <= _FALSE else self._value(kind, depth + 1)

    def _value(self, kind: int, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise FormatError("structure of Thrift has too many values")
        if kind <= _FALSE:
            return self._byte() == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind <= _I64:
            return self._signed()
        if kind == _DOUBLE:
            return self._raw(8)
        if kind == _BINARY:
            return self._raw(self._number())
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _MAP:
            return self._map(depth)
        if kind == _STRUCT:
            return self.struct(depth)
        raise FormatError("structure of Thrift has values of an unknown type")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._number()
        self._check(count)
        return [self._value(head & 15, depth + 1) for _ in range(count)]

    def _map(self, depth: int) -> list[tuple[Any, Any]]:
        count = self._number()
        self._check(count)
        kinds = self._byte() if count else 0
        return [
            (self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1))
            for _ in range(count)
        ]

    def _check(self, count: int) -> None:
        if count > len(self._data) - self.at:
            raise FormatError("list of Thrift is too long")

    def _byte(self) -> int:
        return self._raw(1)[0]

    def _raw(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise FormatError("structure of Thrift does not end")
        found = self._data[self.at : end]
        self.at = end
        return found

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise FormatError("number of Thrift is too long")

    def _signed(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)
