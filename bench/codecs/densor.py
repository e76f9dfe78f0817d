"""Densor itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

import densor
from densor.compare.codec import Codec, Item

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "BOOL": np.bool_,
    "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64,
}  # fmt: skip


class Densor(Codec):
    """`densor.save` and `densor.load`: names, index and all checks included.

    With `reuse`, tensors are decoded into memory that is there already, as memcpy does here.
    """

    package = "densor"
    dtypes = DTYPES
    compiles = True

    def __init__(self, name: str, level: int, reuse: bool) -> None:
        super().__init__(name)
        self.level = level
        self.reuse = reuse
        self.memory: Any = None

    def version(self) -> str:
        return str(densor.__version__)

    def prepare(self, tensors: Sequence[Item]) -> Any:
        size = sum(t.data.nbytes for t in tensors) + sum(len(t.name) + 200 for t in tensors)
        self.memory = np.zeros(size + 1024, np.uint8) if self.reuse else None
        return {t.name: t.data.view(DTYPES[t.dtype]).reshape(t.shape) for t in tensors}

    def compress(self, prepared: Any, threads: int) -> Any:
        return densor.save(prepared, level=self.level, threads=threads), list(prepared)

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        blob, names = state
        tensors = densor.load(blob, threads=threads, out=self.memory)
        return [tensors[name].reshape(-1).view(np.uint8) for name in names]

    def compressed_size(self, state: Any) -> int:
        return len(state[0])
