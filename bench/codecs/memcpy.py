"""The roofline: copies between buffers that exist already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.codecs.base import Codec
from bench.tensors import ITEMSIZE, Tensor


class Memcpy(Codec):
    """``compress`` copies the tensors away, ``decompress`` copies them back; one thread."""

    package = "numpy"
    dtypes = dict.fromkeys(ITEMSIZE, None)

    def native(self, tensor: Tensor) -> Any:
        return tensor.data, np.full_like(tensor.data, 1), np.full_like(tensor.data, 2)

    def compress(self, prepared: Any, threads: int) -> Any:
        for source, there, _back in prepared:
            np.copyto(there, source)
        return prepared

    def decompress(self, state: Any, threads: int) -> Sequence[Any]:
        for _source, there, back in state:
            np.copyto(back, there)
        return [back for _source, _there, back in state]

    def compressed_size(self, state: Any) -> int:
        return sum(there.nbytes for _source, there, _back in state)
