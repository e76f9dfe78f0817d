"""ZipNN: byte groups of each tensor, Huffman coded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zipnn import ZipNN

from densor.compare.codec import FILE, Codec, Item

DTYPES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    FILE: "float32",
}


class Zipnn(Codec):
    """Its defaults for bytes of a stated dtype, FP32 for files.

    It reorders the bits of its input in place.
    """

    package = "zipnn"
    dtypes = DTYPES

    def native(self, tensor: Item) -> Any:
        return bytearray(tensor.data), self.dtypes[tensor.dtype]

    def compress(self, prepared: Any, threads: int) -> Any:
        return [
            ZipNN(input_format="byte", bytearray_dtype=dtype, threads=threads).compress(data)
            for data, dtype in prepared
        ]

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        decoder = ZipNN(input_format="byte", threads=threads)
        return [decoder.decompress(blob) for blob in state]
