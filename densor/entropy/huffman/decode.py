"""The decoding side: look-up tables; the loop over the streams is `kernels.decode_streams`."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import deferred
from densor.entropy.huffman.code import MAX_BITS

build_tables = deferred("densor.entropy.huffman.kernels", "build_tables")

MIN_BITS = 11  # 16 KB, half of a common L1 cache


class DecodeTables(NamedTuple):
    """Look-up tables of several codes: entry w tells which symbols the bits of w spell."""

    entries: npt.NDArray[np.uint64]  # uint64[codes, 4096]
    bits: npt.NDArray[np.int64]  # int64[codes], the width of each table


def decode_tables(lengths: npt.NDArray[np.uint8]) -> DecodeTables:
    """Look-up tables for complete codes of at most 12 bits.

    `lengths`: uint8[codes, 256]; a row of zeros stands for no code.
    """
    size = 1 << MAX_BITS
    codes = len(lengths)
    tables = DecodeTables(np.empty((codes, size), np.uint64), np.empty(codes, np.int64))
    work = np.empty(16, np.uint32), np.empty(256, np.uint32), np.empty(size, np.uint16)
    build_tables(lengths, MIN_BITS, *work, *tables)
    return tables
