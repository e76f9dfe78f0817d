"""Glyd: a general-purpose codec, on the plain bytes of each tensor."""

from __future__ import annotations

from typing import Any

import glyd

from bench.codecs.base import PerTensor
from bench.tensors import ITEMSIZE, Tensor


class Glyd(PerTensor):
    """The default level, ``max``. Its floating-point layout exists for GPUs only."""

    package = "glyd"
    dtypes = dict.fromkeys(ITEMSIZE, None)

    def native(self, tensor: Tensor) -> Any:
        return tensor.data.tobytes()

    def encode(self, item: Any, threads: int) -> Any:
        return glyd.compress(item, threads=threads)

    def decode(self, blob: Any, threads: int) -> Any:
        return glyd.decompress(blob)
