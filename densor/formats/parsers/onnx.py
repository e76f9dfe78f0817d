"""The tensors in an ONNX model, found by walking its protobuf messages.

Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3; wire format:
https://protobuf.dev/programming-guides/encoding/. What a message is made of is passed over but
for the few fields on the way to tensors, and their data is not read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from densor.codec.blocks.block import Field
from densor.codec.notation.layout import OTHER, PLAIN, VARINTS, Notation
from densor.dtypes import is_known, nbytes
from densor.errors import FormatError
from densor.formats.io.sources import RandomSource
from densor.formats.parsers.contents import Contents, Head, Stretch, Window
from densor.formats.tensors import Distinct, TensorInfo

_MAX_FIELDS = 1 << 20
_MAX_DEPTH = 24
_MAX_NAME = 4096
_MAX_DIMENSIONS = 64
_RUN = 1 << 18  # numbers that are looked at together
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# Message type to the fields that lead to tensors: field number to the type of its message.
_PATHS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},  # nodes and initializers
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},  # values and indices
}
_FLOATS = 7  # of an attribute
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_FLOAT_DATA, _DOUBLE_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 4, 10, 13, 14
_INT32_DATA, _INT64_DATA, _UINT64_DATA = 5, 7, 11  # integers of variable length, of these types
_INTEGER_DATA = {
    _INT32_DATA: ("BOOL", "U8", "I8", "U16", "I16", "I32", "F16", "BF16"),
    _INT64_DATA: ("I64",),
    _UINT64_DATA: ("U32", "U64"),
}
_PACKED_FLOATS = {_FLOAT_DATA: ("F32", "C64"), _DOUBLE_DATA: ("F64", "C128")}
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
    18: "F8_E4M3FNUZ",
    19: "F8_E5M2",
    20: "F8_E5M2FNUZ",
    21: "U4",
    22: "I4",
    23: "F4",
    24: "F8_E8M0",
    25: "U2",
    26: "I2",
}
# Floats that each have a tag of their own.
_TAGGED = (Field("U8", 1), Field("F32", 4))
_MIN_TAGGED = 64


class _Field(NamedTuple):
    number: int
    wire: int
    value: int  # of a varint; of numbers of 4 bytes, how many follow each other
    begin: int  # of the bytes of what has a length
    end: int


class _Reader:
    """Protobuf fields of a file, through a window of it."""

    def __init__(self, random: RandomSource) -> None:
        self._random = random
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

    def text_at(self, part: _Field) -> str:
        """The text of a field."""
        return self.bytes_at(part.begin, part.end - part.begin).decode("utf-8", "replace")

    def _run(self, begin: int, at: int, end: int) -> tuple[int, int, int]:
        """How many numbers of 4 bytes follow each other with the same tag, from where, to where."""
        first = begin - 1  # of the tag, if that has one byte
        tag = self.bytes_at(first, 1)
        count = 1
        while (most := min(_RUN, 2 * count, (end - at) // 5)) > 0:
            if count == 1 and self.bytes_at(at, 1) != tag:
                break  # mostly so
            tags = self._random.read_at(at, 5 * most)[::5]
            others = np.flatnonzero(tags != tag[0])
            same = int(others[0]) if others.size else most
            count, at = count + same, at + 5 * same
            if same < most:
                break
        return count, first, at

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
                if wire == _FIXED32 and number < 16 and at <= end:
                    value, begin, at = self._run(begin, at, end)
            else:
                raise FormatError("protobuf message has a field of unknown kind")
            if at > end or not number:
                raise FormatError("protobuf field is longer than its message")
            yield _Field(number, wire, value, begin, at)


@dataclass
class _Tensor:
    """What is known of a TensorProto."""

    name: str = ""
    number: int = 0  # of the element type
    shape: list[int] = field(default_factory=list)
    data: tuple[int, int] | None = None  # begin and end of the elements, in one piece
    elsewhere: str = ""  # what else holds them: `external`, `varint`, `tagged`
    external: dict[str, str] = field(default_factory=dict)
    sparse: bool = False
    varints: list[tuple[int, int, int]] = field(default_factory=list)  # field, begin, end

    @property
    def dtype(self) -> str:
        """The element type, or a name for one that is not known."""
        return _DTYPES.get(self.number, f"ONNX_{self.number}")


@dataclass
class _Found:
    """All tensors of a model, and the floats that have tags."""

    tensors: list[_Tensor] = field(default_factory=list)
    tagged: list[tuple[int, int]] = field(default_factory=list)  # begin, end


def find(head: Head) -> Contents | None:
    """What an ONNX model holds; None if it is none, or on a pipe."""
    found = _read(head)
    if found is None:
        return None
    named: list[TensorInfo] = []
    stretches = [
        Stretch(begin, end - begin, "U8", ((end - begin) // 5,), _TAGGED)
        for begin, end in found.tagged
    ]
    for tensor in found.tensors:
        info = _info(tensor)
        if info.plain:
            stretches.append(Stretch(info.offset, info.size, info.dtype, info.shape))
        stretches += _varints(tensor)
        if tensor.sparse:
            info = info._replace(dtype=f"{info.dtype} sparse")
        if info.name:
            named.append(info)
    known = [info for info in named if info.plain]
    return Contents(known, stretches, [info for info in named if not info.plain])


def _varints(tensor: _Tensor) -> Iterator[Stretch]:
    """Integers of variable length: as such, or the bits of floats, or of several small ones."""
    for number, begin, end in tensor.varints:
        dtype = tensor.dtype
        if number == _INT32_DATA and dtype not in _INTEGER_DATA[number]:
            dtype = "U8" if is_known(dtype) else "I32"
        if dtype in (*_INTEGER_DATA[number], "U8"):
            option = OTHER if dtype[0] == "I" else PLAIN
            notation = Notation(VARINTS, option, dtype, tuple(tensor.shape))
            yield Stretch(begin, end - begin, "U8", (end - begin,), notation=notation)


def external(head: Head) -> dict[str, list[TensorInfo]]:
    """The tensors of a model whose elements are in other files, by the path of these from it.

    Offset and size are those in the other file. Empty if this is no ONNX model.
    """
    places: dict[str, list[TensorInfo]] = {}
    found = _read(head)
    for tensor in found.tensors if found is not None else ():
        location = tensor.external.get("location", "")
        begin = tensor.external.get("offset", "0")
        if location and begin.isdecimal() and len(begin) < 20 and is_known(tensor.dtype):
            size = nbytes(tensor.dtype, math.prod(tensor.shape))
            told = tensor.external.get("length", "")
            if size is not None and (not told or told == str(size)):
                shape = tuple(tensor.shape)
                info = TensorInfo(tensor.name, tensor.dtype, shape, int(begin), size)
                places.setdefault(location, []).append(info)
    return places


def _read(head: Head) -> _Found | None:
    # The first field of a model is its IR version, a small number.
    first = head.first(2)
    if head.random is None or len(first) < 2 or first[0] != 8 or not 1 <= first[1] < 128:
        return None
    found = _Found()
    _walk(_Reader(head.random), "model", 0, head.random.size, found, 0)
    distinct = Distinct()  # each graph has names of its own
    for tensor in found.tensors:
        tensor.name = distinct.of(tensor.name) if tensor.name else ""
    return found


def _walk(reader: _Reader, message: str, at: int, end: int, found: _Found, depth: int) -> None:
    """Collects the tensors within a message."""
    if depth > _MAX_DEPTH:
        raise FormatError("protobuf messages are nested too deep")
    for part in reader.fields(at, end):
        inner = _PATHS[message].get(part.number) if part.wire == _LENGTH else None
        if inner == "tensor":
            tensor = _tensor(reader, part.begin, part.end, found)
            tensor.sparse = message == "sparse"
            found.tensors.append(tensor)
        elif inner is not None:
            _walk(reader, inner, part.begin, part.end, found, depth + 1)
        elif message == "attribute" and part.number == _FLOATS:
            _add_floats(part, found)


def _add_floats(part: _Field, found: _Found) -> None:
    """Floats without a name: of an attribute of a node."""
    if part.wire == _LENGTH and (part.end - part.begin) % 4 == 0:
        shape = [(part.end - part.begin) // 4]
        found.tensors.append(_Tensor("", 1, shape, (part.begin, part.end)))
    elif part.wire == _FIXED32 and part.value >= _MIN_TAGGED:
        found.tagged.append((part.begin, part.end))


def _tensor(reader: _Reader, at: int, end: int, found: _Found) -> _Tensor:
    tensor = _Tensor()
    packed: dict[int, tuple[int, int]] = {}
    for part in reader.fields(at, end):
        key = part.number, part.wire
        if part.number == _DIMS:
            _add_dimensions(reader, part, tensor.shape)
        elif key == (_DATA_TYPE, _VARINT):
            tensor.number = part.value
        elif key == (_NAME, _LENGTH) and part.end - part.begin <= _MAX_NAME:
            tensor.name = reader.text_at(part)
        elif key == (_RAW_DATA, _LENGTH):
            tensor.data = part.begin, part.end
        elif part.number in _PACKED_FLOATS and part.wire == _LENGTH:
            packed[part.number] = part.begin, part.end
        elif key == (_FLOAT_DATA, _FIXED32):
            tensor.elsewhere = "tagged"
            _add_floats(part, found)
        elif part.number in _INTEGER_DATA:
            tensor.elsewhere = "varint"
            if part.wire == _LENGTH:
                tensor.varints.append((part.number, part.begin, part.end))
        elif key == (_EXTERNAL_DATA, _LENGTH):
            _add_external(reader, part, tensor.external)
        elif key == (_DATA_LOCATION, _VARINT) and part.value:
            tensor.elsewhere = "external"
    for number, place in packed.items():
        if tensor.data is None and tensor.dtype in _PACKED_FLOATS[number]:
            tensor.data = place
    return tensor


def _add_dimensions(reader: _Reader, part: _Field, shape: list[int]) -> None:
    if part.wire == _VARINT:
        shape.append(part.value)
    at = part.begin
    while part.wire == _LENGTH and at < part.end and len(shape) <= _MAX_DIMENSIONS:  # packed
        size, at = reader.varint(at, part.end)
        shape.append(size)
    if len(shape) > _MAX_DIMENSIONS:
        raise FormatError("ONNX tensor has too many dimensions")


def _add_external(reader: _Reader, part: _Field, found: dict[str, str]) -> None:
    """A key and a value that tell where elements are."""
    texts = {1: "", 2: ""}
    for inner in reader.fields(part.begin, part.end):
        if inner.number in texts and inner.wire == _LENGTH and inner.end - inner.begin <= _MAX_NAME:
            texts[inner.number] = reader.text_at(inner)
    found[texts[1]] = texts[2]


def _info(tensor: _Tensor) -> TensorInfo:
    """The tensor in this file, without a place where its elements do not lie here as they are."""
    dtype, shape = tensor.dtype, tuple(tensor.shape)
    begin, end = tensor.data or (0, 0)
    if is_known(dtype) and nbytes(dtype, math.prod(shape)) == end - begin:
        return TensorInfo(tensor.name, dtype, shape, begin, end - begin)
    text = f"{dtype} {tensor.elsewhere}".strip()
    return TensorInfo(tensor.name, text, shape, begin, end - begin)
