"""Rows of weights in one type, made from rows in another."""

import numpy as np
import numpy.typing as npt

from densor.codec.quantise.forms import BLOCK, BLOCK_BYTES, FLOATS, FORMS, Q2_K, block_weights
from densor.entropy.deferred import deferred
from densor.runtime.types import Bytes

quantise_blocks = deferred("densor.codec.quantise.kernels", "quantise_blocks")
quantise_super_blocks = deferred("densor.codec.quantise.super_kernels", "quantise_super_blocks")
_AT_ONCE = 1 << 16  # weights, few enough to stay in the cache
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
    size = row_bytes(form, columns)
    assert size is not None
    rows = data.size // (FLOATS[dtype] * columns) if columns else 0
    out = np.empty(rows * size, np.uint8)
    step = max(_AT_ONCE // max(columns, 1), 1)
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        some = data[begin * columns * FLOATS[dtype] : end * columns * FLOATS[dtype]]
        _convert(some, dtype, form, columns, out[begin * size : end * size])
    return out


def _convert(data: Bytes, dtype: str, form: str, columns: int, out: Bytes) -> None:
    weights = _as_float32(data, dtype)
    words, unsigned, infinite = _INFINITE[dtype]
    rows = (data.view(words) & unsigned).reshape(-1, columns)
    if rows.max() < infinite:
        _convert_finite(weights, form, out)
        return
    odd = rows.max(1) >= infinite
    weights = np.where(odd[:, None], np.float32(0), weights.reshape(-1, columns)).reshape(-1)
    _convert_finite(weights, form, out)
    out.reshape(odd.size, -1)[odd] = 0


def _convert_finite(weights: npt.NDArray[np.float32], form: str, out: Bytes) -> None:
    if form in FORMS:
        _quantise(weights, form, out)
    elif form == "F32":
        out[:] = weights.view(np.uint8)
    elif form == "F16":
        with np.errstate(over="ignore"):
            out[:] = weights.astype("<f2").view(np.uint8)
    else:
        words = weights.view(np.uint32)
        rounded = words + (np.uint32(0x7FFF) + (words >> 16 & 1))
        out[:] = (rounded >> 16).astype("<u2").view(np.uint8)


def _quantise(weights: npt.NDArray[np.float32], form: str, out: Bytes) -> None:
    if FORMS[form] < Q2_K:
        number, quanta = np.empty(1, np.float32), np.empty(BLOCK, np.int32)
        bits = number.view(np.uint32)
        quantise_blocks(FORMS[form], weights, weights.view(np.int32), number, bits, quanta, out)
        return
    work = np.empty(577, np.float32)
    x, codes = np.empty(512, np.float32), np.empty(512, np.uint8)
    quantise_super_blocks(FORMS[form], weights, x, work, work.view(np.uint32), codes, out)


def _as_float32(data: Bytes, dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "BF16":
        words = data.view("<u2").astype(np.uint32)
        words <<= 16
        return words.view(np.float32)
    if dtype == "F16":
        return data.view("<f2").astype(np.float32)
    return np.require(data.view("<f4"), np.float32, ["A"])  # a file's may lie anywhere
