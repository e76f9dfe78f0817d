"""Glyd: a general-purpose codec, on the plain bytes of each tensor."""

from __future__ import annotations

from typing import Any

import glyd

from densor.compare.codec import DTYPES, FILE, Item, PerItem


class Glyd(PerItem):
    """The default level, ``max``. Its floating-point layout exists for GPUs only."""

    package = "glyd"
    dtypes = dict.fromkeys((*DTYPES, FILE))

    def native(self, tensor: Item) -> Any:
        return tensor.data.tobytes()

    def encode(self, item: Any, threads: int) -> Any:
        return glyd.compress(item, threads=threads)

    def decode(self, blob: Any, threads: int) -> Any:
        return glyd.decompress(blob)
