"""A codec for numcodecs, and so for Zarr 2: `numcodecs.get_codec({"id": "densor"})`.

Where densor is installed, numcodecs finds it by its entry point; importing this module registers
it as well. The tests run it with the real library, last with numcodecs 0.16.
"""

from typing import Any

import numpy as np

import densor
from densor.arrays import check_whole
from densor.errors import UnsupportedError

try:
    from numcodecs.abc import Codec
    from numcodecs.compat import ensure_contiguous_ndarray, ndarray_copy
    from numcodecs.registry import register_codec
except ImportError as error:
    raise UnsupportedError('needs numcodecs: pip install "densor[numcodecs]"') from error


def _array_of(buf: Any) -> Any:
    check_whole(buf)
    array = ensure_contiguous_ndarray(buf, max_buffer_size=None, flatten=False)
    return buf if isinstance(buf, np.ndarray) else array  # with dates, integers in the latter


def _given(found: Any, out: Any) -> Any:
    """What was restored, or `out` filled with it."""
    if out is not None and isinstance(found, np.ndarray):
        found = ensure_contiguous_ndarray(found, max_buffer_size=None)  # dates as integers
    return ndarray_copy(found, out)


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
        """The packed bytes of any contiguous buffer.

        ArgumentError for arrays that are more than their elements, such as masked ones; TypeError
        for those of Python objects, and for what is no buffer; ValueError for other strides.
        """
        array = _array_of(buf)
        return densor.compress(array, self.level, self.threads, dtype=self.dtype)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The array that went in, or `out` filled with its bytes; a DensorError for bad input."""
        packed = ensure_contiguous_ndarray(buf).view("u1")
        most = None
        if out is not None:
            out = ensure_contiguous_ndarray(out, max_buffer_size=None)
            most = out.nbytes
        found = densor.decompress(packed, self.threads, max_output_size=most)
        return _given(found, out)


class DensorImage(Densor):
    """Packs arrays of uint8 or uint16 as images: rows are the last dimension but channels.

    `channels`: the axis of channels, which are coded together; by default the last one where it has
    2 to 4 elements. `image_model`: path of a model of `densor train images`, for chunks of its
    size. Other types are packed as by `densor`.
    """

    codec_id = "densor_image"

    def __init__(
        self,
        level: int = 3,
        channels: int | None = None,
        image_model: str | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(level, None, threads)
        self.channels = channels
        self.image_model = image_model

    def encode(self, buf: Any) -> bytes:
        """The packed bytes of an array; as `Densor.encode`."""
        array = _array_of(buf)
        if self.channels is not None:
            array = np.ascontiguousarray(np.moveaxis(array, self.channels, -1))
        model = self.image_model
        return densor.compress(array, self.level, self.threads, image_model=model)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The array that went in, or `out` filled with it; a DensorError for bad input."""
        packed = ensure_contiguous_ndarray(buf).view("u1")
        most = None if out is None else ensure_contiguous_ndarray(out, max_buffer_size=None).nbytes
        model = self.image_model
        found = densor.decompress(packed, self.threads, max_output_size=most, image_model=model)
        if self.channels is not None and isinstance(found, np.ndarray):
            found = np.ascontiguousarray(np.moveaxis(found, -1, self.channels))
        return _given(found, out)

    def get_config(self) -> dict[str, Any]:
        """The codec as it stands in the metadata of an array."""
        return {
            "id": self.codec_id,
            "level": self.level,
            "channels": self.channels,
            "image_model": self.image_model,
            "threads": self.threads,
        }


register_codec(Densor)
register_codec(DensorImage)
