"""Keys of attention after rotary embedding, each relative to what the mean of its channel predicts.

Before rotation (RoPE, arXiv 2104.09864) the channels of keys have strong means. Turned to the
position of a token, the mean of a pair of channels predicts its keys about as well as the token
before does, and without decoding that first. Magnitudes are taken relative to the prediction, signs
to its sign. All of it is in integers, so that it is the same on every machine. How they are coded
then is in `rotated_coding.py`; pages of former versions hold them in the order of how much the
prediction says. See docs/format/cache_page.md.
"""

import functools
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.entropy.deferred import deferred
from densor.errors import FormatError

Bits = npt.NDArray[np.uint16]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]

_EXPECT, _COUNT, _ABSOLUTE, _MEAN_OF = deferred(
    "densor.torch.rotated_kernels", "expect", "count", "absolute", "mean"
)
_HEAD = struct.Struct("<IIIhq")  # rows, tokens, channels, exponent of the unit, first position
_ANGLES = 12  # bits of a turn
_UNIT = 14  # bits of a sine
_MEAN = 14  # bits of the largest mean
_OCTAVE = 8  # steps of scales in an octave
_MAX_SCALE = 24 * _OCTAVE
_CONTEXTS = 64
_CENTRE = 48 << 7  # exponents up to 48 below and 15 above what is expected have no rest
_KEPT, _MAX_KEPT = 8, 1 << 18  # tables of sines, elements of one
_QUARTERS = 4  # of the elements, which kernels work on at once
_MAX_ROWS, _MAX_TOKENS = 1 << 20, 1 << 20
_MAX_CHANNELS = 1 << 12


class Means(NamedTuple):
    """Of keys of `rows` heads: means int16[rows, channels] before rotation, in units of
    2^`exponent`; `scales`: uint8[rows, channels], codes of the deviation; `steps`:
    uint32[channels / 2], by how much a position turns each pair, in 2^-32 of a turn."""

    means: npt.NDArray[np.int16]
    scales: npt.NDArray[np.uint8]
    steps: npt.NDArray[np.uint32]
    exponent: int
    position: int


def fits(rows: int, tokens: int, channels: int, position: int) -> bool:
    """Whether keys of this shape, from this position on, may be relative to means."""
    shape = 1 <= rows <= _MAX_ROWS and 1 <= tokens <= _MAX_TOKENS and 0 <= position < 1 << 63
    return shape and channels % 2 == 0 and 2 <= channels <= _MAX_CHANNELS


@functools.cache
def sines() -> Ints:
    """Of all angles, in units of 2^-14, rounded: by Taylor's series in integers."""
    bits = 80
    one = 1 << bits
    turn = 3141592653589793238462643383279502884197169399375 * 2 * one // 10**48
    found = []
    for k in range((1 << _ANGLES) // 4 + 1):
        x = turn * k >> _ANGLES
        term, total, n = x, x, 1
        while term:
            term = -(term * x >> bits) * x >> bits
            term //= (n + 1) * (n + 2)
            total += term
            n += 2
            if n > 41:
                break
        found.append((total + (one >> _UNIT + 1)) >> bits - _UNIT)
    quarter = np.array(found, np.int64)
    half = np.concatenate([quarter, quarter[-2:0:-1]])
    return np.concatenate([half, -half])


@functools.lru_cache(_KEPT)
def steps_of(theta: float, channels: int) -> npt.NDArray[np.uint32]:
    """Turns of pairs by position, of the usual frequencies theta^(-2 i / channels)."""
    frequencies = theta ** (-np.arange(0, channels, 2) / channels)
    return np.rint(frequencies / (2 * np.pi) * 2**32).astype(np.uint64).astype(np.uint32)


def scales_of(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Deviations of codes, at least 1."""
    octave, part = np.divmod(codes.astype(np.int32), _OCTAVE)
    found: npt.NDArray[np.int32] = np.maximum(1, (_OCTAVE + part << octave) >> 3)
    return found


@functools.lru_cache(_KEPT)
def _kept_turns(
    steps: bytes, position: int, tokens: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Sines and cosines of all pairs, int32[tokens, channels / 2], in units of 2^-14."""
    each = np.frombuffer(steps, np.uint32)
    place = ((position & 0xFFFFFFFF) + np.arange(tokens)).astype(np.uint32)
    angle = (place[:, None] * each[None, :]) >> np.uint32(32 - _ANGLES)
    table = sines().astype(np.int32)
    quarter = np.uint32((1 << _ANGLES) // 4)
    return table[angle], table[(angle + quarter) & np.uint32((1 << _ANGLES) - 1)]


def _turns(
    steps: npt.NDArray[np.uint32], position: int, tokens: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Likewise; the latest are kept, for the layers of a model, unless they are large."""
    found = _kept_turns if tokens * steps.size <= _MAX_KEPT else _kept_turns.__wrapped__
    return found(steps.tobytes(), position, tokens)


@functools.lru_cache(_KEPT)
def _kept_floats(steps: bytes, position: int, tokens: int) -> tuple[Floats, ...]:
    """Likewise, as numbers up to 1, float32[tokens * channels / 2]."""
    turns = _turns(np.frombuffer(steps, np.uint32), position, tokens)
    return tuple((part * np.float32(2.0**-_UNIT)).astype(np.float32).reshape(-1) for part in turns)


def turns_in_parts(
    means: Means, tokens: int
) -> Iterator[tuple[int, int, npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
    """Sines and cosines of some tokens after others: the first one, how many, and both."""
    most = max(1, _MAX_KEPT // means.steps.size)
    for begin in range(0, tokens, most):
        count = min(most, tokens - begin)
        yield begin, count, *_turns(means.steps, means.position + begin, count)


def _expected(means: Means, tokens: int) -> tuple[Words, Ints]:
    """What is expected of each element, see `rotated_kernels.expect`, and the place of the first
    one of each context, int64[quarters of the elements, contexts]."""
    rows, channels = means.means.shape
    found = np.empty(rows * tokens * channels, np.uint32)
    for begin, count, sine, cosine in turns_in_parts(means, tokens):
        _EXPECT(
            np.ascontiguousarray(means.means).reshape(-1),
            scales_of(means.scales).reshape(-1),
            sine.reshape(-1),
            cosine.reshape(-1),
            rows,
            tokens,
            begin,
            count,
            means.exponent,
            found,
        )
    counts = np.zeros((_QUARTERS, _CONTEXTS), np.int64)
    _COUNT(found, counts.reshape(-1))
    by_context = counts.T.reshape(-1)
    places = (np.cumsum(by_context) - by_context).reshape(_CONTEXTS, _QUARTERS)
    return found, np.ascontiguousarray(places.T).reshape(-1)


def fit(bits: Bits, steps: npt.NDArray[np.uint32], position: int) -> Means | None:
    """Means and scales of BF16, uint16[rows, tokens, channels]; None where they are not finite."""
    rows, tokens, channels = bits.shape
    # Negative numbers are above all others as integers without sign, below 0 as those with one
    negative, positive = int(bits.max(initial=0)) & 0x7FFF, int(bits.view(np.int16).max(initial=0))
    largest = max(negative, positive)
    if not 0 < largest < 0x7F80:
        return None
    power = min(max((largest >> 7) - 127, -120), 120)  # numbers are below 2 once divided by it
    means, squares = np.zeros((2, rows, channels), np.float32)
    found = _kept_floats if tokens * steps.size <= _MAX_KEPT else _kept_floats.__wrapped__
    turns = found(steps.tobytes(), position, tokens)
    _MEAN_OF(
        bits.reshape(-1),
        *turns,
        rows,
        tokens,
        np.float32(2.0**-power),
        means.reshape(-1),
        squares.reshape(-1),
    )
    unit = max(float(np.abs(means).max()), 2.0**-6)
    exponent = int(np.frexp(unit)[1]) + power - _MEAN
    scale = np.ldexp(1.0, power - exponent)
    units = np.rint(means * scale).astype(np.int16)
    # Codes are nearly logarithms: straight lines within an octave
    codes = np.rint(_OCTAVE * np.log2(np.maximum(np.sqrt(squares) * scale, 1)))
    scales = np.clip(codes, 0, _MAX_SCALE).astype(np.uint8)
    return Means(units, scales, steps, exponent, position)


def absolute(flat: Bits, means: Means, tokens: int) -> Bits:
    """BF16 bits of keys that are relative to what is expected, in the order of contexts (way 2)."""
    expected, places = _expected(means, tokens)
    bits = np.empty(expected.size, np.uint16)
    if flat.size != bits.size:
        raise FormatError("page of a cache has another number of elements than its means")
    _ABSOLUTE(np.ascontiguousarray(flat), expected, _CENTRE, places, bits)
    return bits.reshape(means.means.shape[0], tokens, means.means.shape[1])


def pack(means: Means, tokens: int) -> bytes:
    """Means and scales as bytes."""
    rows, channels = means.means.shape
    head = _HEAD.pack(rows, tokens, channels, means.exponent, means.position)
    arrays = (means.steps.astype("<u4"), means.means.astype("<i2"), means.scales)
    return head + b"".join(array.tobytes() for array in arrays)


def packed_size(rows: int, channels: int) -> int:
    """Bytes of means and scales that are packed."""
    return _HEAD.size + sum(_sizes(rows, channels))


def _sizes(rows: int, channels: int) -> tuple[int, int, int]:
    """Of steps, means and scales."""
    return 2 * channels, 2 * rows * channels, rows * channels


def parse(data: memoryview) -> tuple[Means, int, int]:
    """Means, the number of tokens, and the length of what was read; FormatError for bad ones."""
    if len(data) < _HEAD.size:
        raise FormatError("page of a cache is too short")
    rows, tokens, channels, exponent, position = _HEAD.unpack_from(data)
    if not fits(rows, tokens, channels, position) or abs(exponent) > 200:
        raise FormatError("page of a cache has impossible fields")
    if len(data) < packed_size(rows, channels):
        raise FormatError("page of a cache is too short")
    arrays: list[Any] = []
    at = _HEAD.size
    for size, kind in zip(_sizes(rows, channels), ("<u4", "<i2", "u1"), strict=True):
        arrays.append(np.frombuffer(data[at : at + size], kind))
        at += size
    if arrays[2].max() > _MAX_SCALE:
        raise FormatError("page of a cache has an impossible scale")
    shape = rows, channels
    steps = arrays[0].astype(np.uint32)
    means = arrays[1].astype(np.int16).reshape(shape)
    return Means(means, arrays[2].reshape(shape), steps, exponent, position), tokens, at
