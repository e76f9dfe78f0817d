"""Blosc2: bit transposition within blocks, then zstd."""

from __future__ import annotations

from typing import Any

import blosc2

from bench.tensors import ITEMSIZE
from densor.compare.codec import Item, PerItem


class Blosc2(PerItem):
    """The bitshuffle filter and zstd at the library's default level, 5."""

    package = "blosc2"
    dtypes = ITEMSIZE

    def native(self, tensor: Item) -> Any:
        return tensor.data, ITEMSIZE[tensor.dtype]

    def encode(self, item: Any, threads: int) -> Any:
        data, typesize = item
        return blosc2.compress2(
            data,
            typesize=typesize,
            codec=blosc2.Codec.ZSTD,
            clevel=5,
            filters=[blosc2.Filter.BITSHUFFLE],
            nthreads=threads,
        )

    def decode(self, blob: Any, threads: int) -> Any:
        return blosc2.decompress2(blob, nthreads=threads)
