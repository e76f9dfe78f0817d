"""LZ4 blocks on the plain bytes of each tensor."""

from __future__ import annotations

from typing import Any

import lz4.block

from bench.codecs.base import PerTensor
from bench.tensors import ITEMSIZE


class Lz4(PerTensor):
    """The default, fast mode; one thread."""

    package = "lz4"
    dtypes = dict.fromkeys(ITEMSIZE, None)

    def encode(self, item: Any, threads: int) -> Any:
        return lz4.block.compress(item)

    def decode(self, blob: Any, threads: int) -> Any:
        return lz4.block.decompress(blob)
