"""Zstandard on the plain bytes of each tensor."""

from __future__ import annotations

from typing import Any

import zstandard

from bench.codecs.base import PerTensor
from bench.tensors import ITEMSIZE


class Zstd(PerTensor):
    """Compresses with ``threads`` workers; a frame is always decompressed by one thread."""

    package = "zstandard"
    dtypes = dict.fromkeys(ITEMSIZE, None)

    def __init__(self, name: str, level: int) -> None:
        super().__init__(name)
        self.level = level

    def encode(self, item: Any, threads: int) -> Any:
        workers = 0 if threads == 1 else threads
        return zstandard.ZstdCompressor(level=self.level, threads=workers).compress(item)

    def decode(self, blob: Any, threads: int) -> Any:
        return zstandard.ZstdDecompressor().decompress(blob)
