"""Numbers and packed bytes as they stand in a chunk of a table."""

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.codecs import inner_decoder
from densor.codec.zstd import zstd_decompress
from densor.errors import FormatError, LimitError
from densor.runtime.varint import append_varint

RAW, ZSTD, MODEL = range(3)  # how bytes are packed
MAX_MODEL_BYTES = 1 << 24


class Writer:
    """Bytes that grow."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def byte(self, value: int) -> None:
        """A byte."""
        self._parts.append(value)

    def number(self, value: int) -> None:
        """Seven bits a byte, the lowest first; the highest bit says that more follow."""
        append_varint(self._parts, value)

    def counted(self, data: bytes) -> None:
        """Bytes after their number."""
        self.number(len(data))
        self._parts += data

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._parts += data

    def bytes(self) -> bytes:
        """What was written."""
        return bytes(self._parts)


class Reader:
    """Reads what `Writer` wrote; FormatError where it ends too early."""

    def __init__(self, data: bytes | Bytes) -> None:
        self._data = memoryview(np.frombuffer(data, np.uint8))
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not read."""
        return len(self._data) - self._at

    def raw(self, count: int) -> bytes:
        """So many bytes."""
        if count > self.left:
            raise FormatError("chunk of a table is too short")
        self._at += count
        return self._data[self._at - count : self._at].tobytes()

    def byte(self) -> int:
        """A byte."""
        if self._at >= len(self._data):
            raise FormatError("chunk of a table is too short")
        self._at += 1
        return self._data[self._at - 1]

    def number(self, most: int) -> int:
        """A number, at most `most`."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if value > most or shift > 70:  # ten bytes
                raise FormatError("number in a chunk of a table is too large")
            if byte < 128:
                return value

    def counted(self) -> bytes:
        """Bytes after their number."""
        return self.raw(self.number(self.left))

    def packed(self, most: int) -> bytes:
        """Bytes of a `Packer`, at most `most`."""
        way, size = self.byte(), self.number(most)
        if way == RAW:
            return self.raw(size)
        stored = self.counted()
        if way == ZSTD and size:
            return zstd_decompress(stored, size)
        if way != MODEL or not size:
            raise FormatError("bytes of a table are packed in an unknown way")
        if size > MAX_MODEL_BYTES:
            raise LimitError("bytes of a table that are mixed are too many")
        inner = Reader(stored)
        decoder = inner_decoder(inner.counted())
        out = np.empty(size, np.uint8)
        decoder.decode(np.frombuffer(inner.raw(inner.left), np.uint8), out)
        return out.tobytes()

    def numbers(self, count: int) -> npt.NDArray[np.int64]:
        """`count` numbers of a `Packer`, int64."""
        width = self.byte()
        if not 1 <= width <= 8:
            raise FormatError("numbers of a table have an impossible width")
        planes = self.packed(width * count)
        if len(planes) != width * count:
            raise FormatError("numbers of a table are too few")
        bytes_ = np.frombuffer(planes, np.uint8).reshape(width, count)
        if width == 1:
            wide: npt.NDArray[np.int64] = bytes_[0].astype(np.int64)
            return wide
        whole = np.zeros((count, 8), np.uint8)
        whole[:, :width] = bytes_.T
        found: npt.NDArray[np.int64] = whole.view("<i8").reshape(-1).astype(np.int64, copy=False)
        return found
