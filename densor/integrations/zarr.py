"""A codec for Zarr 3, which goes in the place of its serializer.

    zarr.create_array(store, data=array, serializer=DensorCodec(level=3), compressors=None)

As a serializer ("array to bytes") it is given arrays with their type and shape, which a compressor
is not. Where densor is installed, Zarr finds it by its entry point; importing this module
registers it as well. The tests run it with the real library, last with zarr 3.1.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

import densor
from densor.arrays import check_whole
from densor.errors import ArgumentError, FormatError, UnsupportedError

try:
    from zarr.abc.codec import ArrayBytesCodec
    from zarr.registry import register_codec
except ImportError as error:
    raise UnsupportedError('needs zarr 3: pip install "densor[zarr]"') from error

_NAME = "densor"


@dataclass(frozen=True)
class DensorCodec(ArrayBytesCodec):  # type: ignore[misc]
    """Packs every chunk by itself; types of fixed size only.

    `level`: 1 (fastest) to 9 (smallest). `dtype`: what the elements really are, such as `bf16` for
    bits held in uint16; by default the type of the array.
    """

    is_fixed_size = False

    level: int = 3
    dtype: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.level, bool) or self.level not in range(1, 10):
            raise ArgumentError(f"level must be 1 to 9, not {self.level!r}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The codec that `to_dict` described."""
        if data.get("name") != _NAME:
            raise ArgumentError(f"codec is named {data.get('name')!r}, not {_NAME}")
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """The codec as it stands in zarr.json."""
        configuration: dict[str, Any] = {"level": self.level}
        if self.dtype is not None:
            configuration["dtype"] = self.dtype
        return {"name": _NAME, "configuration": configuration}

    def _encode_sync(self, chunk: Any, spec: Any) -> Any:
        array = chunk.as_ndarray_like()
        check_whole(array)
        array = np.asarray(array).reshape(spec.shape)  # which some filters leave flat
        wanted = spec.dtype.to_native_dtype()
        if array.dtype.newbyteorder("=") != wanted.newbyteorder("="):  # bits that a filter has made
            array = np.ascontiguousarray(array).view(wanted)
        packed = densor.compress(array, self.level, dtype=self.dtype)
        return spec.prototype.buffer.from_bytes(packed)

    def _decode_sync(self, chunk: Any, spec: Any) -> Any:
        wanted = spec.dtype.to_native_dtype()
        most = int(np.prod(spec.shape, dtype=object)) * wanted.itemsize
        array = densor.decompress(chunk.as_numpy_array(), max_output_size=most)
        if not isinstance(array, np.ndarray) or array.shape != tuple(spec.shape):
            raise FormatError(f"chunk does not hold an array of shape {spec.shape}")
        if array.dtype != wanted:  # the same in another byte order, or something else
            if array.dtype.newbyteorder("=") != wanted.newbyteorder("="):
                raise FormatError(f"chunk holds {array.dtype} instead of {wanted}")
            array = array.astype(wanted)
        return spec.prototype.nd_buffer.from_numpy_array(array)

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Unknown before a chunk is packed."""
        raise NotImplementedError


register_codec(_NAME, DensorCodec)
