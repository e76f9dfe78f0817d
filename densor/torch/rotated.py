"""Keys of attention after rotary embedding, each relative to what the mean of its channel predicts.

Before rotation (RoPE, arXiv 2104.09864) the channels of keys have strong means. Turned to the
position of a token, the mean of a pair of channels predicts its keys about as well as the token
before does, and without decoding that first. Magnitudes are taken relative to the prediction, signs
to its sign, and elements are put in the order of how much the prediction says, so that the codec
of byte planes finds those under one context next to each other. All of it is in integers, so that
it is the same on every machine. See docs/format/cache_page.md.
"""

import functools
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.errors import FormatError

Bits = npt.NDArray[np.uint16]
Ints = npt.NDArray[np.int64]

_HEAD = struct.Struct("<IIIhq")  # rows, tokens, channels, exponent of the unit, first position
_ANGLES = 12  # bits of a turn
_UNIT = 14  # bits of a sine
_MEAN = 14  # bits of the largest mean
_OCTAVE = 8  # steps of scales in an octave
_CONTEXTS = 64
_MAX_TOKENS = 1 << 20
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


def steps_of(theta: float, channels: int) -> npt.NDArray[np.uint32]:
    """Turns of pairs by position, of the usual frequencies theta^(-2 i / channels)."""
    frequencies = theta ** (-np.arange(0, channels, 2) / channels)
    return np.rint(frequencies / (2 * np.pi) * 2**32).astype(np.uint64).astype(np.uint32)


def _turned(means: Means, tokens: int) -> Ints:
    """Predictions, int64[rows, tokens, channels], in units of 2^exponent."""
    place = np.arange(means.position, means.position + tokens, dtype=np.int64).astype(np.uint32)
    phase = (place[:, None] * means.steps[None, :]) >> np.uint32(32 - _ANGLES)
    table = sines()
    sine = table[phase]
    cosine = table[(phase + (1 << _ANGLES) // 4) & ((1 << _ANGLES) - 1)]
    half = means.steps.size
    first, second = (part[:, None, :].astype(np.int64) for part in np.split(means.means, [half], 1))
    turned = [first * cosine - second * sine, first * sine + second * cosine]
    found: Ints = np.concatenate(turned, axis=2) >> _UNIT
    return found


def _scale(codes: npt.NDArray[np.uint8]) -> Ints:
    """Deviations of codes, at least 1."""
    octave, part = np.divmod(codes.astype(np.int64), _OCTAVE)
    found: Ints = np.maximum(1, (_OCTAVE + part << octave) >> 3)
    return found


def _expected(means: Means, tokens: int) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
    """Magnitude bits that are expected of BF16, whether negative, and context of each element."""
    turned = _turned(means, tokens)
    scale = _scale(means.scales)[:, None, :]
    size = np.abs(turned)
    level = 2 * size + scale  # in half units
    # frexp of integers below 2^53 is exact
    power = np.frexp(level.astype(np.float64))[1].astype(np.int64) - 1
    shift = 7 - power
    mantissa = np.where(shift >= 0, level << np.maximum(shift, 0), level >> np.maximum(-shift, 0))
    magnitude = ((power - 1 + means.exponent + 127) << 7) + (mantissa & 127)
    context = np.minimum(8 * size // scale, _CONTEXTS - 1)
    return magnitude, turned < 0, context


def _order(context: Ints) -> npt.NDArray[np.intp]:
    return np.argsort(context.reshape(-1).astype(np.uint8), kind="stable")


def fit(
    keys: npt.NDArray[np.float32], steps: npt.NDArray[np.uint32], position: int
) -> Means | None:
    """Means and scales of float32[rows, tokens, channels]; None where they are not finite."""
    rows, tokens, channels = keys.shape
    unit = Means(np.zeros((rows, channels), np.int16), _NO_SCALE, steps, 0, position)
    table = sines() / 2.0**_UNIT
    place = np.arange(position, position + tokens, dtype=np.int64).astype(np.uint32)
    phase = (place[:, None] * steps[None, :]) >> np.uint32(32 - _ANGLES)
    sine = table[phase]
    cosine = table[(phase + (1 << _ANGLES) // 4) & ((1 << _ANGLES) - 1)]
    first, second = np.split(keys.astype(np.float64), 2, axis=2)
    means = np.concatenate(
        [(first * cosine + second * sine).mean(1), (second * cosine - first * sine).mean(1)], 1
    )
    if not np.isfinite(keys).all():
        return None
    largest = max(float(np.abs(means).max(initial=0)), float(np.abs(keys).max(initial=0)) / 64)
    if largest == 0:
        return None
    exponent = int(np.frexp(largest)[1]) - _MEAN
    units = np.rint(np.ldexp(means, -exponent)).astype(np.int16)
    found = unit._replace(means=units, exponent=exponent)
    wide = np.ldexp(keys.astype(np.float64), -exponent)
    deviation = np.sqrt(np.square(wide - _turned(found, tokens)).mean(1))
    codes = np.rint(_OCTAVE * np.log2(np.maximum(deviation, 1))).astype(np.int64)
    # Codes are nearly logarithms: straight lines within an octave
    return found._replace(scales=np.clip(codes, 0, 255).astype(np.uint8))


_NO_SCALE = np.zeros((0, 0), np.uint8)


def relative(bits: Bits, means: Means) -> Bits:
    """BF16 bits of keys, uint16[rows, tokens, channels], relative to what is expected, in order.

    From the top: sign, six bits of the exponent and one of the mantissa, the rest of the exponent,
    the rest of the mantissa.
    """
    magnitude, negative, context = _expected(means, bits.shape[1])
    sign = (bits >> 15).astype(np.int64) ^ negative
    part = ((bits & 0x7FFF).astype(np.int64) - magnitude + _CENTRE) & 0x7FFF
    moved = sign << 15 | (part >> 6 & 127) << 8 | part >> 13 << 6 | part & 63
    flat: Bits = moved.astype(np.uint16).reshape(-1)
    return flat[_order(context)]


_CENTRE = 48 << 7  # exponents up to 48 below and 15 above what is expected have no rest


def absolute(flat: Bits, means: Means, tokens: int) -> Bits:
    """Undoes `relative`."""
    magnitude, negative, context = _expected(means, tokens)
    in_order = np.empty(flat.size, np.int64)
    in_order[_order(context)] = flat
    moved: Ints = in_order.reshape(context.shape)
    part = (moved >> 8 & 127) << 6 | (moved >> 6 & 3) << 13 | moved & 63
    bits = (part + magnitude - _CENTRE) & 0x7FFF
    found: Bits = (bits | (moved >> 15 ^ negative) << 15).astype(np.uint16)
    return found


def pack(means: Means, tokens: int) -> bytes:
    """Means and scales as bytes."""
    rows, channels = means.means.shape
    head = _HEAD.pack(rows, tokens, channels, means.exponent, means.position)
    arrays = (means.steps.astype("<u4"), means.means.astype("<i2"), means.scales)
    return head + b"".join(array.tobytes() for array in arrays)


def parse(data: memoryview) -> tuple[Means, int, int]:
    """Means, the number of tokens, and the length of what was read; FormatError for bad ones."""
    if len(data) < _HEAD.size:
        raise FormatError("page of a cache is too short")
    rows, tokens, channels, exponent, position = _HEAD.unpack_from(data)
    if not 1 <= rows <= 1 << 20 or not 1 <= tokens <= _MAX_TOKENS or position < 0:
        raise FormatError("page of a cache has impossible fields")
    if channels % 2 or not 2 <= channels <= _MAX_CHANNELS or abs(exponent) > 200:
        raise FormatError("page of a cache has impossible fields")
    sizes = 2 * channels, 2 * rows * channels, rows * channels
    if len(data) < _HEAD.size + sum(sizes):
        raise FormatError("page of a cache is too short")
    arrays: list[Any] = []
    at = _HEAD.size
    for size, kind in zip(sizes, ("<u4", "<i2", "u1"), strict=True):
        arrays.append(np.frombuffer(data[at : at + size], kind))
        at += size
    if arrays[2].max() > 8 * 24:
        raise FormatError("page of a cache has an impossible scale")
    shape = rows, channels
    steps = arrays[0].astype(np.uint32)
    means = arrays[1].astype(np.int16).reshape(shape)
    return Means(means, arrays[2].reshape(shape), steps, exponent, position), tokens, at
