"""z4ai: the smallest of several layouts of each tensor, coded with zstd or rANS."""

from __future__ import annotations

from typing import Any

import z4ai

from densor.compare.codec import FILE, Item, PerItem

DTYPES = {
    "F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16",
    "F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2",
    "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
    "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64", FILE: None,
}  # fmt: skip


class Z4ai(PerItem):
    """Its default effort. It starts helper threads of its own whatever ``threads`` says."""

    package = "z4ai"
    dtypes = DTYPES

    def native(self, tensor: Item) -> Any:
        return tensor.data.tobytes(), self.dtypes[tensor.dtype]

    def encode(self, item: Any, threads: int) -> Any:
        data, dtype = item
        return z4ai.compress(data, dtype=dtype, threads=threads)

    def decode(self, blob: Any, threads: int) -> Any:
        return z4ai.decompress(blob)
