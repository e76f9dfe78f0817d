"""Weights of 4 bits in blocks with scales, made from others, and the entropy of them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def _codes(numbers: Floats) -> Bytes:
    """E2M1, two in a byte, the first one low."""
    four = np.clip(numbers, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    return four[..., 0::2] & 15 | four[..., 1::2] << 4


def nvfp4(matrix: Floats) -> tuple[Bytes, Bytes]:
    """Packed weights of a matrix, and their scales: E4M3 of blocks of 16."""
    blocks = matrix.reshape(matrix.shape[0], -1, 16)
    most = np.abs(blocks).max(-1)
    unit = np.float32(448 * 6) / most.max()
    scales = (most / 6 * unit).astype(ml_dtypes.float8_e4m3fn)
    divisors = np.maximum(scales.astype(np.float32) / unit, np.float32(1e-30))
    return _codes(blocks / divisors[..., None]).reshape(len(matrix), -1), scales.view(np.uint8)


def mxfp4(matrix: Floats) -> tuple[Bytes, Bytes]:
    """Packed weights of a matrix in blocks of 32, and their scales: E8M0."""
    blocks = matrix.reshape(matrix.shape[0], -1, 32)
    most = np.maximum(np.abs(blocks).max(-1), np.float32(2.0**-120))
    exponents = np.floor(np.log2(most)) - 2
    packed = _codes(blocks / np.exp2(exponents)[..., None].astype(np.float32))
    return packed, (exponents + 127).astype(np.uint8)


def entropy(symbols: npt.NDArray[Any]) -> float:
    """Bytes of symbols at their order-0 entropy."""
    counts = np.unique(symbols, return_counts=True)[1]
    return -float((counts * np.log2(counts / counts.sum())).sum()) / 8


def halves(packed: Bytes) -> Bytes:
    """The weights of packed bytes, in any order."""
    return np.concatenate([packed.ravel() & 15, packed.ravel() >> 4])


def entropy_of_scales(scales: Bytes) -> float:
    """Bytes of a matrix of scales in the context of the means of its row and column so far.

    Each context has counts of its own, learnt along the way; the means are halved and rounded.
    """
    rows, columns = scales.shape
    by_column = np.zeros(columns)
    counts = np.full((256, 256), 0.05)
    totals = np.full(256, 256 * 0.05)
    bits = 0.0
    for row in range(rows):
        here = scales[row].astype(np.float64)
        before = np.concatenate([[0.0], np.cumsum(here)[:-1]]) / np.maximum(1, np.arange(columns))
        contexts = ((before + by_column / max(1, row)) / 2).astype(np.int64)
        for context in np.unique(contexts).tolist():  # a row is learnt when it is over
            symbols = scales[row][contexts == context]
            bits -= float(np.log2(counts[context, symbols] / totals[context]).sum())
        np.add.at(counts, (contexts, scales[row]), 1)
        np.add.at(totals, contexts, 1)
        by_column += here
    return min(bits / 8, entropy(scales))
