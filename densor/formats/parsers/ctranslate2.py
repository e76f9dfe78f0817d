"""Model files of CTranslate2 (`model.bin`): variables one after the other, each behind its head.

Format: `python/ctranslate2/specs/model_spec.py` of https://github.com/OpenNMT/CTranslate2, method
`_serialize`: versions 5 and 6 of the binary format.
"""

import math
import struct

from densor.dtypes import SIZES
from densor.errors import FormatError
from densor.formats.parsers.contents import Contents, Head, Window, plain
from densor.formats.tensors import TensorInfo

_VERSIONS = (5, 6)
_DTYPES = ("F32", "I8", "I16", "I32", "F16", "BF16")
_MAX_VARIABLES = 1 << 20
_MAX_DIMENSIONS = 16
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")


class _Cursor:
    """Reads heads of variables and passes over what lies between them."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.at = 0

    def take(self, count: int) -> bytes:
        data = self._window.read(self.at, count)
        self.at += count
        return data

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def text(self) -> str:
        (length,) = _U16.unpack(self.take(2))
        text = self.take(length)
        if text[-1:] != b"\0" or b"\0" in text[:-1]:
            raise FormatError("name in a model file is malformed")
        return text[:-1].decode("utf-8", "replace")


def find(head: Head) -> Contents | None:
    """The variables of a model file that can be read at random; None if it is none."""
    first = head.first(8)
    if head.random is None or len(first) < 8:
        return None
    (version,), (length,) = _U32.unpack(first[:4]), _U16.unpack(first[4:6])
    if version not in _VERSIONS or not 2 <= length <= 256 or not first[6:7].isalpha():
        return None
    cursor = _Cursor(Window(head.random))
    cursor.at = 4
    cursor.text()
    cursor.u32()  # revision
    count = cursor.u32()
    if count > _MAX_VARIABLES:
        raise FormatError("model file has too many variables")
    return plain([_variable(cursor, head.random.size) for _ in range(count)])


def _variable(cursor: _Cursor, end: int) -> TensorInfo:
    name = cursor.text()
    rank = cursor.take(1)[0]
    if rank > _MAX_DIMENSIONS:
        raise FormatError("variable of a model file has too many dimensions")
    shape = tuple(cursor.u32() for _ in range(rank))
    kind, size = cursor.take(1)[0], cursor.u32()
    if kind >= len(_DTYPES) or math.prod(shape) * SIZES[_DTYPES[kind]] != size:
        raise FormatError("variable of a model file does not match its shape")
    offset = cursor.at
    if size > end - offset:
        raise FormatError("variable of a model file reaches beyond its end")
    cursor.at += size
    return TensorInfo(name, _DTYPES[kind], shape, offset, size)
