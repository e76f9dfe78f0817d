"""Code lengths and canonical codes: what the coding and the decoding side share."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import Kernels
from densor.errors import FormatError

kernels = Kernels("densor.entropy.huffman.kernels")

MAX_BITS = 12  # the longest code, which 4 bits in a model and 12 bits of a look-up hold
STREAMS = 4  # streams per group of symbols, decoded in turns to hide latency
SLACK = 8  # bytes after the last stream, so that 64 bits can be loaded anywhere

Lengths = npt.NDArray[np.uint8]

_local = threading.local()


def _work() -> tuple[npt.NDArray[Any], ...]:
    """Work space of this thread for package-merge."""
    work: tuple[npt.NDArray[Any], ...] | None = getattr(_local, "work", None)
    if work is None:
        work = (np.empty(512, np.int64), np.empty(512, np.int64), np.empty(6144, np.uint8))
        _local.work = work
    return work


def fast_lengths(counts: npt.NDArray[np.int64]) -> tuple[Lengths, int]:
    """Lengths of at most 12 bits, or 11 where that costs at most 1/2048; and the bits they take.

    Package-merge (L. Larmore, D. Hirschberg: A fast algorithm for optimal length-limited Huffman
    codes, 1990). A symbol that does not occur has length 0.
    `counts`: int64[256], less than 2^54 in all, at least two of them not 0.
    """
    lengths = np.empty(256, np.uint8)
    bits = kernels.best_lengths(counts, *_work(), np.empty(256, np.uint8), lengths)
    return lengths, int(bits)


def huffman_lengths(counts: npt.NDArray[np.int64]) -> Lengths:
    """Lengths of an optimal code without a limit, to judge by, not to code with."""
    weights, parents, _ = _work()
    lengths = np.empty(256, np.uint8)
    kernels.huffman_lengths(counts, np.empty(256, np.int64), weights, parents, lengths)
    return lengths


def unpack_lengths(packed: npt.NDArray[np.uint8], lengths: Lengths) -> None:
    """Fills `lengths` from 4 bits each; FormatError unless they are those of a complete code."""
    if kernels.unpack_lengths(packed, lengths.size, lengths) != 1 << MAX_BITS:
        raise FormatError("Huffman code lengths do not form a complete code of at most 12 bits")


def canonical_codes(lengths: Lengths) -> npt.NDArray[np.uint32]:
    """Per symbol `length << 16 | code`, the first bit of the code lowest; 0 for no code."""
    codes = np.empty(256, np.uint32)
    kernels.assign_codes(lengths, np.empty(16, np.uint32), codes)
    return codes
