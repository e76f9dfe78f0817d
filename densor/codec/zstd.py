"""Thin, bounded use of Zstandard for whatever repeats."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from densor.errors import FormatError, LimitError

Buffer = bytes | bytearray | memoryview | npt.NDArray[np.uint8]
MAX_WINDOW_LOG = 26
_local = threading.local()


def zstd_compress(data: Buffer, level: int) -> bytes:
    """One Zstandard frame with its content size; long-distance matching from level 9 on."""
    compressors: dict[int, Any] = _local.__dict__.setdefault("compressors", {})
    if level not in compressors:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level,
            enable_ldm=level >= 9,
            window_log=MAX_WINDOW_LOG if level >= 9 else 0,
            write_content_size=True,
            write_checksum=False,
        )
        compressors[level] = zstandard.ZstdCompressor(compression_params=parameters)
    compressed: bytes = compressors[level].compress(data)
    return compressed


def zstd_decompress(data: Buffer, size: int) -> bytes:
    """The content of one frame, which must be exactly `size` bytes; FormatError otherwise."""
    try:
        view = memoryview(data)
        declared = zstandard.frame_content_size(view)
        window = zstandard.get_frame_parameters(view).window_size
        if declared != size:
            raise FormatError(f"Zstandard frame declares {declared} bytes instead of {size}")
        if window > 1 << MAX_WINDOW_LOG and window > size:
            raise LimitError("Zstandard frame asks for too large a window")
        decompressor = _local.__dict__.setdefault("decompressor", zstandard.ZstdDecompressor())
        content: bytes = decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"bad Zstandard frame: {error}") from None
    if len(content) != size:
        raise FormatError(f"Zstandard frame holds {len(content)} bytes instead of {size}")
    return content


def zstd_decompress_into(data: Buffer, out: npt.NDArray[np.uint8]) -> None:
    """Fills `out` with the content of one frame, which must have exactly its size."""
    out[:] = np.frombuffer(zstd_decompress(data, out.size), np.uint8)
