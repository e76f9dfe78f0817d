"""Pieces of 8 to 128 KB of bytes, each coded by itself: for stores that cut files into chunks.

Nothing has to be known of the bytes, and a piece may begin and end anywhere, within an element
too. BF16, FP16, FP32 and bytes (FP8, INT8) are found by themselves; text and other data that
repeats is left to Zstandard; what nothing makes smaller is kept as it is, 8 bytes larger. The same
bytes give the same piece on every machine (those under Zstandard: with the same release of it).
docs/format/chunk.md specifies the pieces.

>>> import numpy as np
>>> from densor import chunk
>>> weights = np.random.default_rng(0).normal(0, 0.02, 30000).astype(np.float32)
>>> piece = weights.view(np.uint16)[1::2].tobytes()[1:]  # BF16, cut within an element
>>> coded = chunk.compress(piece)
>>> len(coded) < 0.7 * len(piece), chunk.decompress(coded) == piece
(True, True)
"""

import numpy as np
import numpy.typing as npt

from densor.codec.stateless.decode import decode_into, size_of
from densor.codec.stateless.encode import encode
from densor.codec.stateless.layout import MAX_SIZE
from densor.codec.zstd import Buffer
from densor.errors import ArgumentError, LimitError

__all__ = ["MAX_SIZE", "compress", "decompress", "decompress_into", "decompressed_size"]


def compress(data: Buffer) -> bytes:
    """Codes `data`, at most MAX_SIZE (16 MiB - 1) bytes, by itself; at most 8 bytes more than it.

    Raises ArgumentError for more bytes, or where the buffer's bytes do not lie in one piece.
    """
    array = _bytes_of(data)
    if array.size > MAX_SIZE:
        raise ArgumentError(f"a chunk has at most {MAX_SIZE} bytes, not {array.size}")
    return encode(array)


def decompressed_size(data: Buffer) -> int:
    """Bytes that `decompress(data)` returns, as the header says; nothing is decoded."""
    return size_of(_bytes_of(data))


def decompress(data: Buffer, max_size: int = MAX_SIZE) -> bytes:
    """The bytes that were given to `compress`.

    Raises LimitError for more than `max_size` bytes, and FormatError, TruncatedError or
    ChecksumError where `data` is not what `compress` gave.
    """
    array = _bytes_of(data)
    size = size_of(array)
    if size > max_size:
        raise LimitError(f"a chunk of {size} bytes is larger than the {max_size} that are allowed")
    out = np.empty(size, np.uint8)
    decode_into(array, out)
    return out.tobytes()


def decompress_into(data: Buffer, out: npt.NDArray[np.uint8]) -> None:
    """The same into `out`, contiguous uint8[n] of that size; an error leaves anything in it.

    Raises ArgumentError for another `out`; else as `decompress`.
    """
    array = _bytes_of(data)
    size = size_of(array)
    fits = (
        isinstance(out, np.ndarray)
        and out.dtype == np.uint8
        and out.shape == (size,)
        and out.flags.c_contiguous
    )
    if not fits or not out.flags.writeable:
        raise ArgumentError(f"decompressing needs a writable, contiguous uint8[{size}]")
    decode_into(array, out)


def _bytes_of(data: Buffer) -> npt.NDArray[np.uint8]:
    if isinstance(data, np.ndarray):
        if data.dtype.hasobject:
            raise ArgumentError("cannot compress an array of Python objects")
        if type(data) is not np.ndarray:
            from densor.arrays import check_whole

            check_whole(data)
    try:
        return np.frombuffer(data, np.uint8)
    except (ValueError, TypeError, BufferError) as error:
        if isinstance(data, (bytes, bytearray, memoryview)) and len(data) == 0:
            return np.empty(0, np.uint8)
        raise ArgumentError(f"the bytes of a chunk must lie in one piece: {error}") from None
