"""Code lengths and canonical codes: what the coding and the decoding side share."""

import threading

import numpy as np
import numpy.typing as npt

from densor.errors import FormatError

MAX_BITS = 12  # the longest code, which 4 bits in a model and 12 bits of a look-up hold
STREAMS = 4  # streams per group of symbols, decoded in turns to hide latency
SLACK = 8  # bytes after the last stream, so that 64 bits can be loaded anywhere

Lengths = npt.NDArray[np.uint8]

_local = threading.local()


def code_lengths(counts: npt.NDArray[np.int64], limit: int = MAX_BITS) -> Lengths:
    """Optimal code lengths of at most `limit` bits for symbols with these counts.

    Package-merge (L. Larmore, D. Hirschberg: A fast algorithm for optimal length-limited Huffman
    codes, 1990). `counts`: int64[256], each below 2^54. A symbol that does not occur has length
    0, and so has the only one of a single-symbol alphabet.
    """
    from densor.entropy.huffman import kernels

    if not hasattr(_local, "work"):
        _local.work = (np.empty(512, np.int64), np.empty(512, np.int64), np.empty(6144, np.uint8))
    lengths = np.empty(256, np.uint8)
    kernels.package_merge(counts, limit, *_local.work, lengths)
    return lengths


def check_lengths(lengths: Lengths) -> None:
    """Raises FormatError unless the lengths are those of a complete code of at most 12 bits."""
    used = lengths[lengths > 0].astype(np.int64)
    if used.size < 2 or used.max() > MAX_BITS or (1 << (MAX_BITS - used)).sum() != 1 << MAX_BITS:
        raise FormatError("Huffman code lengths do not form a complete code of at most 12 bits")


def canonical_codes(lengths: Lengths) -> npt.NDArray[np.uint32]:
    """Per symbol `length << 16 | code`, the first bit of the code lowest; 0 for no code."""
    from densor.entropy.huffman import kernels

    codes = np.empty(256, np.uint32)
    kernels.assign_codes(lengths, codes)
    return codes
