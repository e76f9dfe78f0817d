"""The tensors in an ONNX model, found by walking its protobuf messages.

Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3; wire format:
https://protobuf.dev/programming-guides/encoding/. What a message is made of is passed over but
for the few fields on the way to tensors, and their data is not read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from densor.dtypes import SIZES
from densor.errors import FormatError
from densor.formats.io.sources import RandomSource
from densor.formats.parsers.contents import Contents, Head, Stretch, Window
from densor.formats.tensors import TensorInfo

_MAX_FIELDS = 1 << 20
_MAX_DEPTH = 24
_MAX_NAME = 4096
_MAX_DIMENSIONS = 64
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# Message type to the fields that lead to tensors: field number to the type of its message.
_PATHS = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},  # nodes and initializers
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_DTYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    15: "C128",
    16: "BF16",
    17: "F8_E4M3",
    19: "F8_E5M2",
    24: "F8_E8M0",
}


class _Field(NamedTuple):
    number: int
    wire: int
    value: int  # of a varint
    begin: int  # of the bytes of what has a length
    end: int


class _Reader:
    """Protobuf fields of a file, through a window of it."""

    def __init__(self, random: RandomSource) -> None:
        self._window = Window(random)
        self._fields = 0

    def bytes_at(self, at: int, count: int) -> bytes:
        """`count` bytes, which are there."""
        return self._window.read(at, count)

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The integer at `at` and where it ends, at `end` at the latest."""
        value = 0
        for i, byte in enumerate(self.bytes_at(at, min(10, end - at))):
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value, at + i + 1
        raise FormatError("protobuf message ends within an integer")

    def fields(self, at: int, end: int) -> Iterator[_Field]:
        """The fields of the message from `at` to `end`."""
        while at < end:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise FormatError("protobuf message has too many fields")
            tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            value, begin = 0, at
            if wire == _VARINT:
                value, at = self.varint(at, end)
            elif wire == _LENGTH:
                length, begin = self.varint(at, end)
                at = begin + length
            elif wire in (_FIXED64, _FIXED32):
                at += 8 if wire == _FIXED64 else 4
            else:
                raise FormatError("protobuf message has a field of unknown kind")
            if at > end or not number:
                raise FormatError("protobuf field is longer than its message")
            yield _Field(number, wire, value, begin, at)


@dataclass
class _Tensor:
    """What is known of a TensorProto."""

    name: str = ""
    dtype: str | None = None
    shape: list[int] = field(default_factory=list)
    data: tuple[int, int] | None = None  # begin and end of raw_data


def find(head: Head) -> Contents | None:
    """What an ONNX model holds; None if it is none, or on a pipe."""
    # The first field of a model is its IR version, a small number.
    first = head.first(2)
    if head.random is None or len(first) < 2 or first[0] != 8 or not 1 <= first[1] < 128:
        return None
    reader = _Reader(head.random)
    found: list[_Tensor] = []
    _walk(reader, "model", 0, head.random.size, found, 0)
    tensors: dict[str, TensorInfo] = {}
    stretches = []
    for tensor in found:
        info = _info(tensor)
        if info is not None:
            tensors.setdefault(info.name or f"@{info.offset}", info)
            stretches.append(Stretch(info.offset, info.size, info.dtype, info.shape))
    return Contents([info for name, info in tensors.items() if name == info.name], stretches)


def _walk(
    reader: _Reader, message: str, at: int, end: int, found: list[_Tensor], depth: int
) -> None:
    """Collects the tensors within a message."""
    if depth > _MAX_DEPTH:
        raise FormatError("protobuf messages are nested too deep")
    for part in reader.fields(at, end):
        inner = _PATHS[message].get(part.number) if part.wire == _LENGTH else None
        if inner == "tensor":
            found.append(_tensor(reader, part.begin, part.end))
        elif inner is not None:
            _walk(reader, inner, part.begin, part.end, found, depth + 1)


def _tensor(reader: _Reader, at: int, end: int) -> _Tensor:
    tensor = _Tensor()
    for part in reader.fields(at, end):
        key = part.number, part.wire
        if key == (_DIMS, _VARINT) and len(tensor.shape) <= _MAX_DIMENSIONS:
            tensor.shape.append(part.value)
        elif key == (_DIMS, _LENGTH):  # packed
            here = part.begin
            while here < part.end and len(tensor.shape) <= _MAX_DIMENSIONS:
                size, here = reader.varint(here, part.end)
                tensor.shape.append(size)
        elif key == (_DATA_TYPE, _VARINT):
            tensor.dtype = _DTYPES.get(part.value)
        elif key == (_NAME, _LENGTH) and part.end - part.begin <= _MAX_NAME:
            name = reader.bytes_at(part.begin, part.end - part.begin)
            tensor.name = name.decode("utf-8", "replace")
        elif key == (_RAW_DATA, _LENGTH):
            tensor.data = part.begin, part.end
    return tensor


def _info(tensor: _Tensor) -> TensorInfo | None:
    if tensor.dtype is None or tensor.data is None or len(tensor.shape) > _MAX_DIMENSIONS:
        return None
    begin, end = tensor.data
    if math.prod(tensor.shape) * SIZES[tensor.dtype] != end - begin:
        return None
    return TensorInfo(tensor.name, tensor.dtype, tuple(tensor.shape), begin, end - begin)
