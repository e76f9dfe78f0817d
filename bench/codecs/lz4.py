"""LZ4 blocks on the plain bytes of each tensor."""

from __future__ import annotations

from typing import Any

import lz4.block

from densor.compare.codec import DTYPES, FILE, PerItem


class Lz4(PerItem):
    """The default, fast mode; one thread."""

    package = "lz4"
    dtypes = dict.fromkeys((*DTYPES, FILE))

    def encode(self, item: Any, threads: int) -> Any:
        return lz4.block.compress(item)

    def decode(self, blob: Any, threads: int) -> Any:
        return lz4.block.decompress(blob)
