"""A codec for numcodecs, and so for Zarr 2: `numcodecs.get_codec({"id": "densor"})`.

Where densor is installed, numcodecs finds it by its entry point; importing this module registers
it as well. The tests run it with the real library, last with numcodecs 0.16.
"""

from typing import Any

import densor
from densor.errors import UnsupportedError

try:
    from numcodecs.abc import Codec
    from numcodecs.compat import ensure_contiguous_ndarray, ndarray_copy
    from numcodecs.registry import register_codec
except ImportError as error:
    raise UnsupportedError('needs numcodecs: pip install "densor[numcodecs]"') from error


class Densor(Codec):  # type: ignore[misc]
    """Packs buffers and arrays of any type but object, each by itself.

    `level`: 1 (fastest) to 9 (smallest). `dtype`: what the elements really are, such as `bf16` for
    bits held in uint16; by default the type of the array. `threads`: 0 for all processors.
    """

    codec_id = "densor"

    def __init__(self, level: int = 3, dtype: str | None = None, threads: int = 1) -> None:
        self.level = level
        self.dtype = dtype
        self.threads = threads

    def encode(self, buf: Any) -> bytes:
        """The packed bytes of any contiguous buffer."""
        array = ensure_contiguous_ndarray(buf, max_buffer_size=None, flatten=False)
        return densor.compress(array, self.level, self.threads, dtype=self.dtype)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The array that went in, or `out` filled with its bytes; a DensorError for bad input."""
        packed = ensure_contiguous_ndarray(buf).view("u1")
        most = None if out is None else memoryview(out).nbytes
        array = densor.decompress(packed, self.threads, max_output_size=most)
        return ndarray_copy(array, out)


register_codec(Densor)
