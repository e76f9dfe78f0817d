"""The coding side: groups of symbols to four bit streams."""

import numpy as np
import numpy.typing as npt

from densor.entropy.huffman.code import MAX_BITS, STREAMS
from densor.entropy.huffman.kernels import encode_streams


def capacity(symbols: int) -> int:
    """Bytes of buffer that `encode` needs for this many symbols."""
    return symbols * MAX_BITS // 8 + 64


def encode(
    symbols: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.int64],
    codes: npt.NDArray[np.uint32],
    out: npt.NDArray[np.uint8],
    position: int,
) -> tuple[int, npt.NDArray[np.int64]]:
    """Writes groups of symbols to `out` from `position` on.

    `symbols`: the groups one after the other; `counts`: int64[groups]; `codes`: uint32[groups,
    256], each row from `canonical_codes`, or zeros for a group to be left out. Every symbol of a
    group that is coded must have a code. `out` has at least `capacity(symbols.size)` bytes after
    `position`. Returns the end and the sizes of the four streams in bytes, int64[4].
    """
    sizes = np.empty(STREAMS, np.int64)
    if position < 0 or out.size - position < capacity(symbols.size):
        raise ValueError("output buffer too small")
    if counts.sum() != symbols.size or codes.shape != (counts.size, 256):
        raise ValueError("groups do not match the symbols")
    return int(encode_streams(symbols, counts, codes, out, position, sizes)), sizes
