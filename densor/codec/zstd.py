"""Thin, bounded use of Zstandard for whatever repeats."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from densor.errors import FormatError, LimitError

Buffer = bytes | bytearray | memoryview | npt.NDArray[np.uint8]
MAX_WINDOW_LOG = 26
FASTER = (1, 2, 3, 6, 9, 12, 15, 17)  # levels of Zstandard that are tried in place of slower ones
_CHEAP, _CHEAP_IF_SLOW = 8, 4  # size over what is left, from which it is fast enough to try all
_MAX_FAST = 3  # level
_MIN_BYTES_TRIED = 1 << 18  # fewer are tried whole
_PIECE = 1 << 16  # bytes that faster levels are tried on
_LARGE_PIECE = 1 << 18  # likewise, those that come near
_MAX_SIZE_OF_FASTER = 0.9992  # share of what the level itself takes of them
_LESS = 0.99999  # likewise at levels where trials cost little
_MAX_SIZE_OF_NEAR = 1.01
_MAX_SIZE_OF_NEXT = 1.003  # of the level just below a slow one, which may win elsewhere
_MAX_SIZE_OF_NEAR_FAST, _MAX_SIZE_OF_NEXT_FAST = 1.02, 1.012  # likewise, where that is fast
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


def zstd_smallest(data: Buffer, level: int) -> bytes:
    """One frame of a level, or of a faster one where that is smaller.

    More search does not always find more: rows that repeat, masks and tables of numbers may take
    a tenth more at the next level. All are tried where little is left, which costs little time,
    and elsewhere those that win on a sample.
    """
    packed = zstd_compress(data, level)
    size = memoryview(data).nbytes
    faster = [other for other in FASTER if other < level]
    cheap = _CHEAP if level <= _MAX_FAST else _CHEAP_IF_SLOW
    if len(packed) * cheap > size > _MIN_BYTES_TRIED:
        piece = min(_PIECE, max(_PIECE // 2, size // 16))
        near = [
            other
            for other, share in _shares(data, piece, level, faster)
            if share < (_MAX_SIZE_OF_NEAR_FAST if other == _MAX_FAST else _MAX_SIZE_OF_NEAR)
        ]
        shares = _shares(data, _LARGE_PIECE, level, near)
        next_one = faster[-1] if level > _MAX_FAST else 0
        most = {next_one: _MAX_SIZE_OF_NEXT_FAST if next_one == _MAX_FAST else _MAX_SIZE_OF_NEXT}
        least = _LESS if level <= _MAX_FAST else _MAX_SIZE_OF_FASTER
        won = [other for other, share in shares if share < most.get(other, least)]
        faster = faster if won and level <= _MAX_FAST else won  # one that wins hints at others
    for other in faster:
        packed = min(packed, zstd_compress(data, other), key=len)
    return packed


def _shares(data: Buffer, piece: int, level: int, others: list[int]) -> list[tuple[int, float]]:
    """What other levels take of a piece from the middle, over what a level does."""
    if not others:
        return []
    view = memoryview(data)
    begin = (view.nbytes - piece) // 2
    part = view[begin : begin + piece]
    own = len(zstd_compress(part, level))
    return [(other, len(zstd_compress(part, other)) / own) for other in others]


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
