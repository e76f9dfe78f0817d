"""Packs bytes and numbers for the chunk of a table."""

import numpy as np
import numpy.typing as npt

from densor.codec.byte_cm.encoder import ByteCmEncoder
from densor.codec.table.wire import MAX_MODEL_BYTES, MODEL, RAW, ZSTD, Writer
from densor.codec.zstd import zstd_smallest

_MIN_MODEL_BYTES = 256


class Packer:
    """How bytes are packed: Zstandard of a level, and context mixing beside it where `mixing`."""

    def __init__(self, zstd: int, mixing: bool = False, light: bool = False) -> None:
        self._zstd = zstd
        self._mixing = mixing
        self._light = light

    def pack(self, data: bytes) -> bytes:
        """The smallest of several ways, with what a reader must know."""
        out = Writer()
        packed = zstd_smallest(data, self._zstd) if data else b""
        mixed = b""
        if self._mixing and _MIN_MODEL_BYTES <= len(data) <= MAX_MODEL_BYTES:
            content = np.frombuffer(data, np.uint8)
            coder = ByteCmEncoder(content, self._light)
            model = Writer()
            model.counted(coder.model())
            mixed = model.bytes() + bytes(coder.encode(content, 0))
        if mixed and len(mixed) < min(len(packed), len(data)):
            way, stored = MODEL, mixed
        else:
            way, stored = (ZSTD, packed) if len(packed) < len(data) else (RAW, data)
        out.byte(way)
        out.number(len(data))
        if way != RAW:
            out.number(len(stored))
        return out.bytes() + stored

    def numbers(self, values: npt.NDArray[np.int64]) -> bytes:
        """Numbers that are not negative, in planes of their bytes, the lowest first."""
        width = max(1, (int(values.max(initial=0)).bit_length() + 7) // 8)
        planes = np.ascontiguousarray(values.astype("<u8").view(np.uint8).reshape(-1, 8).T[:width])
        return bytes([width]) + self.pack(planes.tobytes())
