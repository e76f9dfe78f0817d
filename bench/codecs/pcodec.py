"""Pcodec: bins of numbers by value, ANS coded."""

from __future__ import annotations

from typing import Any

import numpy as np
from pcodec import ChunkConfig, standalone

from densor.compare.codec import Item, PerItem

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "U8": np.uint8, "I8": np.int8,
    "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32,
    "U64": np.uint64, "I64": np.int64,
}  # fmt: skip


class Pcodec(PerItem):
    """The default level; one thread. BF16 and FP8, which it does not know, go as integers."""

    package = "pcodec"
    dtypes = DTYPES

    def native(self, tensor: Item) -> Any:
        return tensor.data.view(self.dtypes[tensor.dtype])

    def encode(self, item: Any, threads: int) -> Any:
        return standalone.simple_compress(item, ChunkConfig(enable_8_bit=True))

    def decode(self, blob: Any, threads: int) -> Any:
        return standalone.simple_decompress(blob)
