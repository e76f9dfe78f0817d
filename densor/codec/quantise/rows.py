"""Rows of weights in one type, made from rows in another."""

from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec.quantise.forms import (
    BLOCK_BYTES,
    BLOCK_CODES,
    BLOCK_WORK,
    FLOATS,
    FORMS,
    Q2_K,
    SUPER_CODES,
    SUPER_WORK,
    block_weights,
)
from densor.codec.quantise.told import RECORDS, told_of
from densor.entropy.deferred import deferred
from densor.runtime.buffers import POOL
from densor.runtime.types import Bytes

widen = deferred("densor.codec.quantise.kernels", "widen")
quantise_blocks = deferred("densor.codec.quantise.kernels", "quantise_blocks")
quantise_super_blocks = deferred("densor.codec.quantise.super_kernels", "quantise_super_blocks")
quantise_as_told = deferred("densor.codec.quantise.told_kernels", "quantise_as_told")
_AT_ONCE = 1 << 16  # weights, few enough to stay in the cache
_PADDED = 1024
_INFINITE = 0x7F800000
_NONE = np.empty(0, np.uint8)
Floats = npt.NDArray[np.float32]
Work = tuple[npt.NDArray[Any], ...]


def row_bytes(form: str, columns: int) -> int | None:
    """Bytes of a row of so many weights; None where a row is no whole number of blocks."""
    if form in FLOATS:
        return columns * FLOATS[form]
    blocks, rest = divmod(columns, block_weights(form))
    return None if rest else blocks * BLOCK_BYTES[form]


def converted(
    data: Bytes,
    dtype: str,
    form: str,
    columns: int,
    out: Bytes | None = None,
    told: Bytes | None = None,
) -> Bytes:
    """Rows of so many weights of type `dtype`, uint8, as `form` has them, uint8; to `out` if given.

    A row in which some are infinite or no numbers is 0: what becomes of these is not the same
    everywhere. `told`: of the scales of these rows, uint8, for a form with blocks of 256 weights;
    they are searched for without it.
    """
    size = row_bytes(form, columns)
    assert size is not None
    rows = data.size // (FLOATS[dtype] * columns) if columns else 0
    if out is None:
        out = np.empty(rows * size, np.uint8)
    work = _work(form)
    if dtype == "BF16" and form in FORMS and not _quantise(data, work[0], form, work, out, told):
        return out
    step = max(_AT_ONCE // max(columns, 1), 1)
    with POOL.lend(_padded(min(step, rows) * columns) * 4) as memory:
        room = memory.view(np.float32)
        for begin in range(0, rows, step):
            end = min(begin + step, rows)
            some = data[begin * columns * FLOATS[dtype] : end * columns * FLOATS[dtype]]
            part = None
            if told is not None:
                record = columns // block_weights(form) * RECORDS[form]
                part = told[begin * record : end * record]
            place = out[begin * size : end * size]
            _convert(some, dtype, form, columns, room, work, place, part)
    return out


def told_by(made: Bytes, data: Bytes, dtype: str, form: str, columns: int) -> Bytes:
    """What `converted` has to be told to make `made` of `data`, as far as it can, uint8."""
    weights = np.empty(data.size // FLOATS[dtype], np.float32)
    _finite(data, dtype, columns, weights)
    return told_of(weights, made, form)


def _padded(weights: int) -> int:
    """As many as kernels take at a time, or a multiple."""
    return -(-weights // _PADDED) * _PADDED


def _finite(data: Bytes, dtype: str, columns: int, weights: Floats) -> npt.NDArray[np.bool_] | None:
    """Weights as FP32 to `weights`; which rows are 0 since some are not finite, None for none."""
    if _widened(data, dtype, weights) < _INFINITE:
        return None
    rows = weights.reshape(-1, columns)
    odd = np.logical_not(np.isfinite(rows).all(axis=1))
    rows[odd] = 0
    return odd


def _convert(
    data: Bytes,
    dtype: str,
    form: str,
    columns: int,
    room: Floats,
    work: Work,
    out: Bytes,
    told: Bytes | None,
) -> None:
    weights = room[: data.size // FLOATS[dtype]]
    room[weights.size : _padded(weights.size)] = 0
    odd = _finite(data, dtype, columns, weights)
    if form in FORMS:
        _quantise(_NONE, room, form, work, out, told)
    elif form == "F32":
        out[:] = weights.view(np.uint8)
    elif form == "F16":
        with np.errstate(over="ignore"):
            out[:] = weights.astype("<f2").view(np.uint8)
    else:
        words = weights.view(np.uint32)
        rounded = words + (np.uint32(0x7FFF) + (words >> 16 & 1))
        out[:] = (rounded >> 16).astype("<u2").view(np.uint8)
    if odd is not None:
        out.reshape(odd.size, -1)[odd] = 0


def _work(form: str) -> Work:
    """Work space of the quantiser of a type, in lines of the cache: first that of weights."""
    sizes = [4 * _PADDED, 4 * BLOCK_WORK, BLOCK_CODES]
    if FORMS.get(form, 0) >= Q2_K:
        sizes = [4 * _PADDED, 8192, 4 * SUPER_WORK, SUPER_CODES]
    memory = np.empty(sum(sizes) + 63, np.uint8)
    at = -memory.ctypes.data % 64
    parts = []
    for size in sizes:
        parts.append(memory[at : at + size])
        at += size
    return (*(part.view(np.float32) for part in parts[:-1]), parts[-1])


def _quantise(
    data: Bytes, room: Floats, form: str, work: Work, out: Bytes, told: Bytes | None
) -> bool:
    """Whether some of `data` are not finite; see the kernels, which check no bounds."""
    number, size = FORMS[form], BLOCK_BYTES[form]
    odd: bool
    if told is not None:
        assert told.size == out.size // size * RECORDS[form]
        odd = quantise_as_told(number, data, room, size, told, *work[2:], out)
        return odd
    quantise = quantise_blocks if number < Q2_K else quantise_super_blocks
    odd = quantise(number, data, room, size, *work[1:], out)
    return odd


def _widened(data: Bytes, dtype: str, out: Floats) -> int:
    """Weights as FP32 to `out`; the largest one without its sign, as bits."""
    if dtype == "BF16":
        return int(widen(np.require(data.view("<u2"), np.uint16, ["A"]), out.view(np.uint32)))
    out[:] = data.view("<f2" if dtype == "F16" else "<f4")  # these may lie anywhere
    return int((out.view(np.uint32) & 0x7FFFFFFF).max()) if out.size else 0
