"""Rows of weights in one type, made from rows in another."""

import numpy as np
import numpy.typing as npt

from densor.codec.quantise.forms import BLOCK_BYTES, FLOATS, FORMS, Q2_K, block_weights
from densor.entropy.deferred import deferred
from densor.runtime.types import Bytes

quantise_blocks = deferred("densor.codec.quantise.kernels", "quantise_blocks")
quantise_super_blocks = deferred("densor.codec.quantise.super_kernels", "quantise_super_blocks")
_INFINITE = {  # as whole numbers: their type, all bits but the sign, infinity
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
}


def row_bytes(form: str, columns: int) -> int | None:
    """Bytes of a row of so many weights; None where a row is no whole number of blocks."""
    if form in FLOATS:
        return columns * FLOATS[form]
    blocks, rest = divmod(columns, block_weights(form))
    return None if rest else blocks * BLOCK_BYTES[form]


def converted(data: Bytes, dtype: str, form: str, columns: int) -> Bytes:
    """Rows of so many weights of type `dtype`, uint8, as `form` has them, uint8.

    A row in which some are infinite or no numbers is 0: what becomes of these is not the same
    everywhere.
    """
    weights = _as_float32(data, dtype)
    words, unsigned, infinite = _INFINITE[dtype]
    rows = (data.view(words) & unsigned).reshape(-1, columns)
    if not rows.size or rows.max() < infinite:
        return _of_finite(weights, form)
    odd = rows.max(1) >= infinite
    weights = np.where(odd[:, None], np.float32(0), weights.reshape(-1, columns)).reshape(-1)
    out = _of_finite(weights, form)
    out.reshape(odd.size, -1)[odd] = 0
    return out


def _of_finite(weights: npt.NDArray[np.float32], form: str) -> Bytes:
    if form in FORMS:
        return _quantised(weights, form)
    if form == "F32":
        return weights.view(np.uint8)
    if form == "F16":
        with np.errstate(over="ignore"):
            return weights.astype("<f2").view(np.uint8)
    words = weights.view(np.uint32)
    rounded = words + (np.uint32(0x7FFF) + (words >> 16 & 1))
    return (rounded >> 16).astype("<u2").view(np.uint8)


def _quantised(weights: npt.NDArray[np.float32], form: str) -> Bytes:
    out = np.empty(weights.size // block_weights(form) * BLOCK_BYTES[form], np.uint8)
    if FORMS[form] < Q2_K:
        number = np.empty(1, np.float32)
        quantise_blocks(FORMS[form], weights, number, number.view(np.uint32), out)
        return out
    work = np.empty(577, np.float32)
    x, codes = np.empty(512, np.float32), np.empty(512, np.uint8)
    quantise_super_blocks(FORMS[form], weights, x, work, work.view(np.uint32), codes, out)
    return out


def _as_float32(data: Bytes, dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "BF16":
        words = data.view("<u2").astype(np.uint32)
        words <<= 16
        return words.view(np.float32)
    if dtype == "F16":
        return data.view("<f2").astype(np.float32)
    return np.require(data.view("<f4"), np.float32, ["A"])  # a file's may lie anywhere
