"""The header of a GGUF file: which tensors lie where, and what their blocks are made of.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; blocks: `ggml-common.h` there.
"""

import math
from typing import Literal, NamedTuple

from densor.codec import registry
from densor.codec.blocks.block import Field
from densor.codec.blocks.joined import Joined
from densor.dtypes import SIZES
from densor.errors import FormatError
from densor.formats.parsers.contents import Contents, Head, Stretch
from densor.formats.tensors import TensorInfo

MAGIC = b"GGUF"
MAX_HEADER = 1 << 25  # several times what the largest vocabularies take
_VERSIONS = (2, 3)
_MAX_NESTING = 4  # of arrays in arrays
_MAX_DIMENSIONS = 8
_MAX_ALIGNMENT = 1 << 20
_STRING, _ARRAY, _U32 = 8, 9, 4
_VALUE_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

_PLAIN = {
    0: "F32",
    1: "F16",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    30: "BF16",
}


class Block(NamedTuple):
    """A type of quantised weights: weights per block, and the block's fields in order."""

    name: str
    weights: int
    fields: tuple[Field, ...]


_F16 = Field("F16", 2)
_MIN = Field("F16", 2, registry.ORDER_FIELD)  # of a block, which goes with its scale
_F32 = Field("F32", 4)


def _u8(size: int, order: int = registry.ORDER_BLOCKS) -> Field:
    return Field("U8", size, order)


def _low(size: int, joined: Joined) -> Field:
    """Packed weights, or their low bits."""
    return Field("U8", size, joined=joined)


_K = registry
_RATIO = registry.ORDER_RATIO  # of minimum to scale: where in the range of a block its 0 is
_COLUMNS = registry.ORDER_COLUMNS

# Packed scales of the K types are cut where the meaning of their bits changes.
_SCALES = (_F16, _F16, _u8(4), _u8(4), _u8(4))
BLOCKS = {
    2: Block("Q4_0", 32, (_F16, _u8(16))),
    3: Block("Q4_1", 32, (_F16, _MIN, _u8(16, _RATIO))),
    6: Block("Q5_0", 32, (_F16, _u8(4), _low(16, Joined(4, 16, 1, 1, 1, _K.KEY_FIELD, 0)))),
    7: Block(
        "Q5_1",
        32,
        (_F16, _MIN, _u8(4, _RATIO), _low(16, Joined(4, 16, 2, 1, 1, _K.KEY_RATIO, 0))),
    ),
    8: Block("Q8_0", 32, (Field("F16", 2, _COLUMNS), Field("I8", 32, _COLUMNS))),
    9: Block("Q8_1", 32, (_F32, _F32, Field("I8", 32))),
    10: Block(
        "Q2_K",
        256,
        (_u8(16), _low(64, Joined(2, 32, key=_K.KEY_RATIO_4, first=2, scales=0)), _F16, _F16),
    ),
    11: Block(
        "Q3_K",
        256,
        (_u8(32), _low(64, Joined(2, 32, 0, 1, 32)), _low(8, Joined(4, 8, 3, 2, 4)), _u8(4), _F16),
    ),
    12: Block(
        "Q4_K",
        256,
        (*_SCALES, _low(128, Joined(4, 32, key=_K.KEY_RATIO_6, first=0, scales=2))),
    ),
    13: Block(
        "Q5_K",
        256,
        (*_SCALES, _u8(32), _low(128, Joined(4, 32, 5, 1, 32, _K.KEY_RATIO_6, 0, 2))),
    ),
    14: Block(
        "Q6_K",
        256,
        (
            _low(128, Joined(4, 64, 1, 2, 32, _K.KEY_MAGNITUDE, 2)),
            *(_u8(64), Field("I8", 16), _F16),
        ),
    ),
    15: Block("Q8_K", 256, (_F32, Field("I8", 256), Field("I16", 32))),
    16: Block("IQ2_XXS", 256, (_F16, _u8(64))),
    17: Block("IQ2_XS", 256, (_F16, Field("U16", 64), _u8(8))),
    18: Block("IQ3_XXS", 256, (_F16, _u8(64), _u8(32))),
    19: Block("IQ1_S", 256, (_F16, _u8(32), Field("U16", 16))),
    20: Block("IQ4_NL", 32, (_F16, _u8(16))),
    21: Block("IQ3_S", 256, (_F16, _u8(64), _u8(8), _u8(32), _u8(4))),
    22: Block("IQ2_S", 256, (_F16, _u8(32), _u8(32), _u8(8), _u8(8))),
    23: Block("IQ4_XS", 256, (_F16, _u8(2), _u8(4), _u8(128))),
    29: Block("IQ1_M", 256, (_u8(32), _u8(16), _u8(8))),
    34: Block("TQ1_0", 256, (_u8(48), _u8(4), _F16)),
    35: Block("TQ2_0", 256, (_u8(64), _F16)),
    39: Block("MXFP4", 32, (_u8(1), _u8(16))),
    40: Block("NVFP4", 64, (_u8(4), _u8(32))),
    41: Block("Q1_0", 128, (_F16, _u8(16))),
}
_NEWER = {42: Block("Q2_0", 64, (_F16, _u8(16)))}  # that the package gguf does not know yet


class _Cursor:
    """Reads the header from front to back; FormatError where it ends or is too long."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._data = head.at_least(4096)
        self.at = len(MAGIC)
        self._order: Literal["little", "big"] = "little"
        if self.u32() >> 16:  # no version is so high
            self._order, self.at = "big", len(MAGIC)
        else:
            self.at = len(MAGIC)

    @property
    def little(self) -> bool:
        """Whether the file is little-endian."""
        return self._order == "little"

    def _integer(self, size: int) -> int:
        at = self.skip(size)  # may replace the data
        return int.from_bytes(self._data[at : at + size].tobytes(), self._order)

    def skip(self, count: int) -> int:
        """Passes over `count` bytes, which are there; returns where they began."""
        begin, end = self.at, self.at + count
        if end > self._data.size:
            if end <= MAX_HEADER:
                self._data = self._head.at_least(end)
            if end > self._data.size:
                raise FormatError("GGUF header ends early or is too long")
        self.at = end
        return begin

    def u32(self) -> int:
        return self._integer(4)

    def u64(self) -> int:
        return self._integer(8)

    def text(self) -> str:
        length = self.u64()
        begin = self.skip(length)
        return self._data[begin : begin + length].tobytes().decode("utf-8", "replace")

    def pass_value(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self.skip(self.u64())
        elif kind == _ARRAY and depth < _MAX_NESTING:
            inner, count = self.u32(), self.u64()
            if inner in _VALUE_SIZES:
                self.skip(count * _VALUE_SIZES[inner])
            else:
                for _ in range(count):  # each takes at least 8 bytes of a limited header
                    self.pass_value(inner, depth + 1)
        elif kind in _VALUE_SIZES:
            self.skip(_VALUE_SIZES[kind])
        else:
            raise FormatError("GGUF header has a value of unknown type")


def find(head: Head) -> Contents | None:
    """What a GGUF file holds; None if it is none, FormatError if it cannot be read.

    Tensors of quantised types are listed as U8 with the shape (blocks, bytes per block); those of
    unknown types, and those whose rows are no whole blocks, are among the others.
    """
    if head.first(len(MAGIC)) != MAGIC:
        return None
    cursor = _Cursor(head)
    if cursor.u32() not in _VERSIONS:
        return None
    tensors, pairs = cursor.u64(), cursor.u64()
    alignment = 32
    for _ in range(pairs):
        key, kind = cursor.text(), cursor.u32()
        if key == "general.alignment" and kind == _U32:
            alignment = cursor.u32()
        else:
            cursor.pass_value(kind)
    if not 1 <= alignment <= _MAX_ALIGNMENT:
        raise FormatError("GGUF header has an impossible alignment")
    described = [_described(cursor) for _ in range(tensors)]
    start = -(-cursor.at // alignment) * alignment
    found = [_tensor(*tensor, start) for tensor in described]
    known = [(tensor, stretch) for tensor, stretch in found if stretch is not None]
    others = [tensor for tensor, stretch in found if stretch is None]
    if not cursor.little:
        others += [t._replace(dtype=f"{t.dtype} big-endian") for t, s in known if not s.fields]
        known = [(t, _swapped(stretch)) for t, stretch in known]
        return Contents([t for t, s in known if s.fields], [s for _, s in known], others)
    return Contents([t for t, _ in known], [stretch for _, stretch in known], others)


def _swapped(stretch: Stretch) -> Stretch:
    """The stretch of a big-endian file: its numbers as words, of which no more is known."""
    if not stretch.fields:
        return stretch._replace(dtype=_WORDS.get(SIZES[stretch.dtype], "U8"))
    fields = (
        field._replace(dtype=_WORDS.get(SIZES[field.dtype], "U8")) for field in stretch.fields
    )
    return stretch._replace(fields=tuple(fields))


_WORDS = {2: "U16", 4: "U32", 8: "U64"}


def _described(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape with the slowest dimension first, type and offset of a tensor."""
    name, dimensions = cursor.text(), cursor.u32()
    if dimensions > _MAX_DIMENSIONS:
        raise FormatError("GGUF tensor has too many dimensions")
    shape = tuple([cursor.u64() for _ in range(dimensions)][::-1])
    return name, shape, cursor.u32(), cursor.u64()


def _tensor(
    name: str, shape: tuple[int, ...], number: int, offset: int, start: int
) -> tuple[TensorInfo, Stretch | None]:
    weights, offset = math.prod(shape), start + offset
    dtype = _PLAIN.get(number)
    if dtype is not None:
        tensor = TensorInfo(name, dtype, shape, offset, weights * SIZES[dtype])
        return tensor, Stretch(offset, tensor.size, dtype, shape)
    block = (BLOCKS | _NEWER).get(number)
    if block is None:
        return TensorInfo(name, f"GGML_{number}", shape, 0, 0), None
    if not shape or shape[-1] % block.weights:
        return TensorInfo(name, block.name, shape, 0, 0), None
    size = sum(field.size for field in block.fields)
    blocks = weights // block.weights
    tensor = TensorInfo(name, "U8", (blocks, size), offset, blocks * size)
    rows = (*shape[:-1], shape[-1] // block.weights)
    return tensor, Stretch(offset, tensor.size, "U8", rows, block.fields)
