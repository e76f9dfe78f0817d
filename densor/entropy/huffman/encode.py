"""The coding side: groups of symbols to four bit streams."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import deferred
from densor.entropy.huffman.code import MAX_BITS, STREAMS, canonical_codes

encode_streams, pair_codes = deferred(
    "densor.entropy.huffman.kernels", "encode_streams", "pair_codes"
)

_MAX_PAIRED = 96  # symbols in use up to which a table of pairs stays in a fast cache


class EncodeTables(NamedTuple):
    """Codes of several groups of symbols."""

    codes: npt.NDArray[np.uint32]  # uint32[groups, 256], zeros for a group to be left out
    pairs: npt.NDArray[np.uint32]  # uint32[groups, 65536]
    paired: npt.NDArray[np.uint8]  # uint8[groups], whether `pairs` is set


def encode_tables(lengths: npt.NDArray[np.uint8]) -> EncodeTables:
    """Codes for groups with these code lengths, uint8[groups, 256]; zeros: leave the group out."""
    groups = len(lengths)
    codes = np.empty((groups, 256), np.uint32)
    pairs = np.empty((groups, 1 << 16), np.uint32)
    used = np.count_nonzero(lengths, axis=1)
    paired = (used > 0) & (used <= _MAX_PAIRED)
    for group in range(groups):
        codes[group] = canonical_codes(lengths[group])
        if paired[group]:
            pair_codes(codes[group], pairs[group])
    return EncodeTables(codes, pairs, paired.view(np.uint8))


def capacity(symbols: int) -> int:
    """Bytes of buffer that `encode` needs for this many symbols."""
    return symbols * MAX_BITS // 8 + 64


def encode(
    symbols: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.int64],
    tables: EncodeTables,
    out: npt.NDArray[np.uint8],
    position: int,
) -> tuple[int, npt.NDArray[np.int64]]:
    """Writes groups of symbols to `out` from `position` on.

    `symbols`: the groups one after the other; `counts`: int64[groups]. Every symbol of a group
    that is coded must have a code. `out` has at least `capacity(symbols.size)` bytes after
    `position`. Returns the end and the sizes of the four streams in bytes, int64[4].
    """
    sizes = np.empty(STREAMS, np.int64)
    if position < 0 or out.size - position < capacity(symbols.size):
        raise ValueError("output buffer too small")
    if int(counts.sum()) != symbols.size or len(tables.codes) != counts.size:
        raise ValueError("groups do not match the symbols")
    return int(encode_streams(symbols, counts, *tables, out, position, sizes)), sizes
