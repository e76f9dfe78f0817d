"""Descriptors as the kernels have them, and the buffer that all they point to stands in."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.runtime.types import Bytes

Pieces = npt.NDArray[np.int64]  # [n, 3]
ALIGNMENT = 16
OUT_ALIGNMENT = 32  # of the memory that tensors are decoded to: a group of eight FP32
_SLACK = 16  # bytes after each piece that may be read but mean nothing

BESIDE = np.dtype([("base", "<u8"), ("keep", "<u4"), ("unused", "<u4")])
PLANE = np.dtype(
    [
        ("words", "<u8"),
        ("runs", "<u8"),
        ("out", "<u8"),
        ("beside", BESIDE, 3),
        ("tensor", "<u4"),
        ("status", "<u4"),
        ("n_words", "<u4"),
        ("run", "<u4"),
    ]
)
SEGMENT = np.dtype(
    [(f, "<u4") for f in ("unit", "plane", "begin", "end", "run", "stop", "raw", "unused")]
)
JOB = np.dtype([(f, "<u4") for f in ("unit", "units", "segment", "kind", "table")])

PART = np.dtype([(f, "<u4") for f in ("rows", "columns", "first_row", "first_column")])
POINTERS = (
    *("words", "states", "parts", "row_scales", "column_scales"),
    *("rest", "signs", "escapes", "low"),
)
STREAM = np.dtype(
    [(f, "<u8") for f in (*POINTERS, "out")]
    + [(f, "<u4") for f in ("n_words", "n", "n_escapes", "keep")]
    + [("base", "<i4"), ("tensor", "<u4"), ("status", "<u4"), ("unused", "<u4")]
)
STREAM_JOB = np.dtype(
    [
        (f, "<u4")
        for f in ("stream", "streams", "tables", "phase", "phases", "main", "low_exponents")
    ]
)


class Arena:
    """Pieces of bytes, each at a place of the alignment it needs, in one buffer."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, npt.NDArray[Any]]] = []
        self._constants: dict[int, int] = {}
        self.size = 0  # bytes in all

    def add(self, data: npt.NDArray[Any], phase: int = 0) -> int:
        """Where `data` will stand: a multiple of 16 bytes, and `phase`."""
        at = self.reserve(data.nbytes, phase)
        self._pieces.append((at, data))
        return at

    def reserve(self, size: int, phase: int = 0) -> int:
        """The same for `size` bytes with any content."""
        at = -(-self.size // ALIGNMENT) * ALIGNMENT + phase % ALIGNMENT
        self.size = at + size + _SLACK
        return at

    def constant(self, value: int) -> int:
        """Where 16 bytes of this value will stand."""
        if value not in self._constants:
            self._constants[value] = self.add(np.full(ALIGNMENT, value, np.uint8))
        return self._constants[value]

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Stretches that no kernel may read: between pieces, from a word behind each on."""
        end = 0
        for at, data in [*self._pieces, (self.size, np.empty(0, np.uint8))]:
            if end < at:
                yield end, at
            end = (-(-(at + data.nbytes) // 4) + 1) * 4

    def pieces(self) -> Pieces:
        """Of all pieces: where they are in main memory, their bytes, and where they will stand."""
        rows = [
            (data.ctypes.data, data.nbytes, at)
            for at, data in self._pieces
            if data.nbytes and data.flags.c_contiguous
        ]
        return np.array(rows, np.int64).reshape(-1, 3)

    def build(self) -> Bytes:
        """The buffer's content; zeros between the pieces."""
        content = np.zeros(max(self.size, 1), np.uint8)
        for at, data in self._pieces:
            content[at : at + data.nbytes] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        return content
