"""What is told of the scales of blocks of 256 weights: how far they are from what can be guessed.

docs/format/derived.md. The compiled loop that undoes it is in `told_kernels`.
"""

import numpy as np
import numpy.typing as npt

from densor.codec.quantise.forms import BLOCK_BYTES, SUPER_BLOCK
from densor.runtime.types import Bytes

RECORDS = {"Q2_K": 36, "Q3_K": 18, "Q4_K": 20, "Q5_K": 20, "Q6_K": 18}  # bytes of a block
_LEVELS = {"Q2_K": 3, "Q4_K": 15, "Q5_K": 31}  # the greatest quantum of forms with minima
_REACH = {"Q3_K": (4, 32), "Q6_K": (32, 128)}  # of the others: quanta and scales, from minus these
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
Halves = npt.NDArray[np.uint16]


def told_of(weights: Floats, blocks: Bytes, form: str) -> Bytes:
    """What there is to tell of blocks that were made of some weights, by whatever quantiser.

    `weights`: finite, 256 of each block. A record of each, uint8.
    """
    numbers, codes = _fields(blocks.reshape(-1, BLOCK_BYTES[form]), form)
    with np.errstate(all="ignore"):
        guesses, tops = _guesses(weights, form)
        guessed = np.stack([each.astype(np.float16) for each in tops], 1).view(np.uint16)
        guessed[np.stack([np.isnan(each) for each in tops], 1)] = 0x7C00
        off = (numbers - guessed).view(np.int16)
        zigzag = (off << 1 ^ off >> 15).view(np.uint16)
        least, most = _range(form)
        parts = []
        for guess, number in zip(guesses, numbers.T, strict=True):
            known = number.view(np.float16).astype(np.float32)
            known[~np.isfinite(known)] = 0
            near = np.rint(guess * (np.float32(1) / known)[:, None])
            near[~(abs(near) < 2**22)] = 0
            parts.append(np.clip(near, least, most).astype(np.int32))
    told = (codes - np.concatenate(parts, 1)) & 255
    words = np.ascontiguousarray(zigzag.astype("<u2")).view(np.uint8)
    return np.concatenate([words, told.astype(np.uint8)], 1).reshape(-1)


def _range(form: str) -> tuple[int, int]:
    """The least and the greatest scale."""
    if form in _REACH:
        reach = _REACH[form][1]
        return -reach, reach - 1
    return 0, 15 if form == "Q2_K" else 63


def _guesses(weights: Floats, form: str) -> tuple[list[Floats], list[Floats]]:
    """Scales of groups by their extremes, and minima for forms with these; numbers of blocks."""
    groups = 8 if form in ("Q4_K", "Q5_K") else 16
    least = _folded(weights, groups, np.minimum)
    greatest = _folded(weights, groups, np.maximum)
    last = weights.reshape(-1, groups, SUPER_BLOCK // groups)[:, :, -1]
    greatest = np.where((least == 0) & (greatest == 0), last, greatest)
    if form in _REACH:
        half, reach = _REACH[form]
        scale = np.where(greatest < -least, least, greatest) * np.float32(-1 / half)
        high, low = scale.max(1), scale.min(1)
        number = _or_first(np.where(high < -low, low, high), scale)
        return [scale], [number * np.float32(-1 / reach)]
    least = np.where(least < 0, least, np.float32(0))
    guesses = [(greatest - least) / np.float32(_LEVELS[form]), np.float32(0) - least]
    top = np.float32(_range(form)[1])
    return guesses, [_or_first(guess.max(1), guess) / top for guess in guesses]


def _or_first(extremes: Floats, guesses: Floats) -> Floats:
    """Extremes of the guesses of each block; the first guess where all are 0, of either sign."""
    return np.where(extremes == 0, guesses[:, 0], extremes)


def _folded(weights: Floats, groups: int, extreme: np.ufunc) -> Floats:
    """An extreme of each group, (blocks, groups)."""
    left = weights.reshape(-1, SUPER_BLOCK // groups)
    while left.shape[1] > 1:  # much faster than to reduce rows as short as these
        half = left.shape[1] // 2
        left = extreme(left[:, :half], left[:, half:])
    return left.reshape(-1, groups)


def _fields(blocks: Bytes, form: str) -> tuple[Halves, Codes]:
    """Numbers of blocks, as the bits of FP16, and scales and minima of their groups."""
    if form == "Q2_K":
        codes = np.concatenate([blocks[:, :16] & 15, blocks[:, :16] >> 4], 1)
        return _words(blocks[:, 80:84]), codes.astype(np.int32)
    if form == "Q3_K":
        return _words(blocks[:, 108:110]), _scales_of_three_bits(blocks[:, 96:108])
    if form == "Q6_K":
        return _words(blocks[:, 208:210]), blocks[:, 192:208].view(np.int8).astype(np.int32)
    return _words(blocks[:, :4]), _six_bits(blocks[:, 4:16].astype(np.int32))


def _words(columns: Bytes) -> Halves:
    return np.ascontiguousarray(columns).view("<u2").astype(np.uint16)


def _scales_of_three_bits(packed: Bytes) -> Codes:
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], 1)
    high = np.concatenate([packed[:, 8:] >> 2 * k & 3 for k in range(4)], 1)
    return np.asarray(low | high << 4, np.int32) - 32


def _six_bits(packed: Codes) -> Codes:
    """Eight scales, then eight minima."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = third & 15 | first >> 6 << 4
    minima = third >> 4 | second >> 6 << 4
    return np.concatenate([first & 63, scales, second & 63, minima], 1)
