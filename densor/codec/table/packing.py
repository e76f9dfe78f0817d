"""Packs bytes and numbers for the chunk of a table."""

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.kind import kind_of
from densor.codec.levels import Level, with_huffman_codes
from densor.codec.planes.propose import element_coder
from densor.codec.table.wire import MAX_MODEL_BYTES, MODEL, RAW, ZSTD, Writer
from densor.codec.zstd import zstd_smallest

_MIN_MODEL_BYTES = 256
_ROW = 1024  # elements that may be alike


class Packer:
    """How bytes are packed: Zstandard of a level, and context mixing beside it where `mixing`.

    `level`: by which elements are coded.
    """

    def __init__(
        self, zstd: int, mixing: bool = False, light: bool = False, level: Level | None = None
    ) -> None:
        self._zstd = zstd
        self._mixing = mixing
        self._light = light
        self._level = level

    def pack(self, data: bytes) -> bytes:
        """The smallest of several ways, with what a reader must know."""
        packed = zstd_smallest(data, self._zstd) if data else b""
        mixed = b""
        if self._mixing and _MIN_MODEL_BYTES <= len(data) <= MAX_MODEL_BYTES:
            from densor.codec.byte_cm.encoder import ByteCmEncoder  # with kernels for high levels

            content = np.frombuffer(data, np.uint8)
            coder = ByteCmEncoder(content, self._light)
            mixed = _with_model(coder.model(), coder.encode(content, 0))
        return _smallest(data, packed, mixed)

    def elements(self, data: bytes, dtype: str) -> bytes:
        """The same of elements of a type, by planes or as bytes."""
        packed = self.pack(data) if not self._light else Packer(self._zstd).pack(data)
        if self._level is None or not _MIN_MODEL_BYTES <= len(data) <= MAX_MODEL_BYTES:
            return packed
        content = np.frombuffer(data, np.uint8)
        found = [packed]
        ways = {with_huffman_codes(self._level), self._level}  # the tables of rANS take more
        for level in sorted(ways, key=lambda way: way.planes):
            coder = element_coder(content, kind_of(dtype, (_ROW, _ROW)), level)
            if coder is not None:
                coder.decide([coder.count(content)])
                coded = _with_model(coder.model(), coder.encode(content, 0))
                found.append(_smallest(data, b"", coded))
        return min(found, key=len)

    def numbers(self, values: npt.NDArray[np.signedinteger]) -> bytes:
        """Numbers that are not negative, in planes of their bytes, the lowest first."""
        width = max(1, (int(values.max(initial=0)).bit_length() + 7) // 8)
        if width == 1:
            return b"\x01" + self.pack(values.astype(np.uint8).tobytes())
        planes = np.ascontiguousarray(values.astype("<u8").view(np.uint8).reshape(-1, 8).T[:width])
        return bytes([width]) + self.pack(planes.tobytes())


def _with_model(model: bytes, payload: Bytes) -> bytes:
    out = Writer()
    out.counted(model)
    return out.bytes() + payload.tobytes()


def _smallest(data: bytes, packed: bytes, coded: bytes) -> bytes:
    """Bytes as a reader takes them: by their model where that is least, as Zstandard, or raw."""
    if coded and len(coded) < min(len(packed) or len(data), len(data)):
        way, stored = MODEL, coded
    else:
        way, stored = (ZSTD, packed) if 0 < len(packed) < len(data) else (RAW, data)
    out = Writer()
    out.byte(way)
    out.number(len(data))
    if way != RAW:
        out.number(len(stored))
    return out.bytes() + stored
