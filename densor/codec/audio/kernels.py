"""Loops over samples that both methods share, and over the parameters of the fast one."""

import numba
import numpy as np
from numba import types

from densor.entropy import float_vectors as f
from densor.entropy import vectors as v
from densor.entropy.bits import bit_length, put_bits, put_folded, take_bits, take_folded
from densor.entropy.intrinsics import trailing_zeros
from densor.entropy.jit import R8, R32, W8, W32, kernel

int64 = numba.int64

_PLANES = types.int32[:, ::1]
MOST = 32  # weights of one sort
ROW = 1 + 2 * MOST  # shift, weights of own samples, of the partner's
_MOST_FOLDED = 1 << 21
_ORDER = 9  # of the code of a set's first weight
_NEAR = 36  # distributions that are tried below and above the usual one
TRIED = 80  # of them, in whole vectors
_FEW = 16  # times as many values would be possible
_EXPECTED = 12  # times that a value occurs, on average
_SHARE_OF_VALUES = 0.7  # of those that are to be expected, for ranks to be worth it
_FIRST, _MOST_MEAN = 4096, 1 << 28  # samples that tell the first context; of their differences
_SAID = 3.0  # bits that it saves to say nothing
SHAPES = 3  # of distributions: normal, logistic, Laplace


@kernel(types.void(R8, int64, types.boolean, types.boolean, _PLANES))
def split_samples(data, size, big, unsigned, planes):
    """Sets int32[channels, count] from samples of `size` bytes that lie side by side."""
    channels, count = planes.shape
    offset = int64(1) << (8 * size - 1) if unsigned else int64(0)
    spare = 64 - 8 * size
    for i in range(count):
        for c in range(channels):
            at = (i * channels + c) * size
            value = int64(0)
            for b in range(size):
                byte = int64(data[at + (b if big else size - 1 - b)])
                value = value << 8 | byte
            value = ((value - offset) << spare) >> spare
            planes[c, i] = np.int32(value)


@kernel(types.void(_PLANES, int64, types.boolean, types.boolean, W8))
def join_samples(planes, size, big, unsigned, data):
    """The inverse of `split_samples`; bits above a sample's are lost."""
    channels, count = planes.shape
    offset = int64(1) << (8 * size - 1) if unsigned else int64(0)
    for i in range(count):
        for c in range(channels):
            at = (i * channels + c) * size
            value = int64(planes[c, i]) + offset
            for b in range(size):
                data[at + (size - 1 - b if big else b)] = np.uint8(value & 255)
                value >>= 8


@kernel(types.void(_PLANES, types.int32[::1]))
def survey(planes, found):
    """Sets the least and the greatest of all samples, and the bits that any has set."""
    least, most, bits = planes[0, 0], planes[0, 0], np.int32(0)
    for c in range(planes.shape[0]):
        row = planes[c]
        for i in range(row.size):
            least = np.int32(min(least, row[i]))
            most = np.int32(max(most, row[i]))
            bits = np.int32(bits | row[i])
    found[0], found[1], found[2] = least, most, bits


@kernel(types.void(_PLANES, types.int32, types.uint32[::1]))
def count_values(planes, least, counts):
    """Adds how often each value from `least` on occurs; `counts` has room for all."""
    for c in range(planes.shape[0]):
        for sample in planes[c]:
            counts[numba.uintp(sample - least)] += np.uint32(1)


@kernel(types.void(R8, types.uint32[:, ::1]))
def count_bytes(data, counts):
    """Adds how often each byte occurs at each place of a sample; `counts`: uint32[size, 256]."""
    size = counts.shape[0]
    for i in range(data.size // size):
        for b in range(size):
            counts[b, data[i * size + b]] += np.uint32(1)


@kernel(types.void(_PLANES, int64, W8))
def first_levels(planes, shift, levels):
    """Sets the context of each channel that suits the second differences of its first samples.

    `shift`: low bits of these that do not count.
    """
    for c in range(planes.shape[0]):
        count = min(int64(_FIRST), int64(planes.shape[1]))
        first, second, third = planes[c, :count], planes[c, 1:count], planes[c, 2:count]
        total = int64(0)
        for i in range(third.size):
            total += abs(int64(third[i]) - 2 * int64(second[i]) + int64(first[i])) >> shift
        mean = min(max(total * 32 // max(int64(1), count - 2), int64(1)), int64(_MOST_MEAN))
        octave = bit_length(mean) - 1
        levels[c] = np.uint8((octave << 2 | ((mean << 2 >> octave) & 3)) << 1)


@kernel(types.void(types.int32[::1], types.int64[::1]))
def survey_weights(rows, found):
    """Surveys rows of ROW: shift and weights. `found`: int64[4], zeros.

    Set to how many weights of a channel's own samples and of its partner's there are, up to the
    last that is not 0; how many fields need more than 16 bits; the most that the sizes of those of
    a row add up to.
    """
    own, other, wide, most = int64(0), int64(0), int64(0), int64(0)
    for begin in range(0, rows.size, ROW):
        row = rows[begin : begin + ROW]
        total = int64(0)
        for i in range(1, ROW):
            total += abs(int64(row[i]))
        for i in range(ROW):
            wide += int64(int64(row[i]) != int64(np.int16(row[i])))
        size = int64(MOST)
        while size > own and row[size] == 0:
            size -= 1
        own = size
        size = int64(MOST)
        while size > other and row[MOST + size] == 0:
            size -= 1
        other = size
        most = max(most, total)
    found[0], found[1], found[2], found[3] = own, other, wide, most


@kernel(types.int64(types.int32[:, :, ::1], W8))
def pack_weights(rows, out):
    """Writes int32[blocks, channels, ROW] to `out`, zeros; returns the bits. See audio.md.

    Room: 400 bytes for each row.
    """
    at = int64(0)
    for b in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            at = put_bits(out, at, int64(rows[b, c, 0]), 4)
            for sort in range(2):
                first = 1 + sort * MOST
                size = MOST
                while size > 0 and rows[b, c, first + size - 1] == 0:
                    size -= 1
                at = put_bits(out, at, size, 6)
                order = int64(_ORDER)
                for i in range(size):
                    value = int64(rows[b, c, first + i])
                    folded = 2 * value if value >= 0 else -2 * value - 1
                    at = put_folded(out, at, folded, order)
                    order = (order + bit_length(folded >> 1) + 1) >> 1
    return at


@kernel(types.int64(R8, types.int32[:, :, ::1]))
def unpack_weights(data, rows):
    """Reads what `pack_weights` wrote into `rows`, zeros; returns the bits used, or -1."""
    at = int64(0)
    for b in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            shift = take_bits(data, at, 4)
            at += 4
            rows[b, c, 0] = shift
            for sort in range(2):
                size = take_bits(data, at, 6)
                at += 6
                if size < 0 or size > MOST or shift < 0:
                    return -1
                order = int64(_ORDER)
                for i in range(size):
                    folded, at = take_folded(data, at, order)
                    if folded < 0 or folded >= _MOST_FOLDED:
                        return -1
                    value = folded >> 1 if folded & 1 == 0 else -((folded + 1) >> 1)
                    rows[b, c, 1 + sort * MOST + i] = value
                    order = (order + bit_length(folded >> 1) + 1) >> 1
    return at


@kernel(types.int64(R8, R8, W8))
def pack_contexts(contexts, usual, out):
    """Writes uint8[256], which may differ from `usual`, to `out`, zeros; returns the bytes."""
    first, last = int64(1), int64(0)
    for i in range(contexts.size):
        if contexts[i] != usual[i]:
            if last < first:
                first = int64(i)
            last = int64(i)
    out[0], out[1] = np.uint8(first), np.uint8(last)
    at = int64(16)
    for i in range(first, last + 1):
        scale, shape = int64(contexts[i]) // SHAPES, int64(contexts[i]) % SHAPES
        change = scale - int64(usual[i]) // SHAPES
        at = put_folded(out, at, shape, 0)
        at = put_folded(out, at, 2 * change if change >= 0 else -2 * change - 1, 1)
    return (at + 7) >> 3


@kernel(types.int64(R8, int64, W8))
def unpack_contexts(data, scales, contexts):
    """Reads what `pack_contexts` wrote into `contexts`, the usual ones; the bytes used, or -1."""
    if data.size < 2:
        return -1
    at = int64(16)
    for i in range(int64(data[0]), int64(data[1]) + 1):
        shape, at = take_folded(data, at, 0)
        if shape < 0 or shape >= SHAPES:
            return -1
        folded, at = take_folded(data, at, 1)
        if folded < 0:
            return -1
        change = folded >> 1 if folded & 1 == 0 else -((folded + 1) >> 1)
        scale = int64(contexts[i]) // SHAPES + change
        if scale < 0 or scale >= scales:
            return -1
        contexts[i] = np.uint8(SHAPES * scale + shape)
    if at & 7 and data[at >> 3] >> (at & 7) != 0:
        return -1
    return (at + 7) >> 3


@kernel(types.void(R32, types.float64[::1], int64, types.float64[::1], W8))
def choose_contexts(counts, costs, size, bits, contexts):
    """Sets the cheapest distribution of each context that occurs, from the usual one on.

    `counts`: uint32[256 contexts]; `costs`: bits of each token in all `size` distributions,
    float64[256 * size] with a window of them behind; `bits`: float64[TRIED], work space.
    """
    for i in range(contexts.size):
        usual = int64(contexts[i])
        low, high = max(int64(0), usual - _NEAR), min(size, usual + _NEAR)
        s0 = s1 = s2 = s3 = s4 = f.splat64(0.0)
        occurs = False
        for begin in range(0, 256, 16):
            left = v.bits_of(v.less(v.splat(0), v.load_u32(counts, 256 * i + begin)))
            while left:
                occurs = True
                token = begin + int64(trailing_zeros(left))
                left &= left - 1
                count = f.splat64(float(counts[256 * i + token]))
                at = token * size + low
                s0 = f.add64(s0, f.multiply64(count, f.load64(costs, at)))
                s1 = f.add64(s1, f.multiply64(count, f.load64(costs, at + 16)))
                s2 = f.add64(s2, f.multiply64(count, f.load64(costs, at + 32)))
                s3 = f.add64(s3, f.multiply64(count, f.load64(costs, at + 48)))
                s4 = f.add64(s4, f.multiply64(count, f.load64(costs, at + 64)))
        if not occurs:
            continue
        f.store64(bits, 0, s0)
        f.store64(bits, 16, s1)
        f.store64(bits, 32, s2)
        f.store64(bits, 48, s3)
        f.store64(bits, 64, s4)
        bits[usual - low] -= _SAID
        best = int64(0)
        for k in range(high - low):
            if bits[k] < bits[best]:
                best = k
        contexts[i] = np.uint8(low + best)


@kernel(types.int64(R32, int64, int64, int64))
def find_few(counts, step, middle, total):
    """Which values occur: 1 for few of all, 2 for many gaps about the middle, or both, or 0.

    `counts`: of each value; `step`: between possible ones, of which number `middle` is in the
    middle. `total`: of all counts. Gaps are looked for among values which are to be expected
    several times each, the most that there are.
    """
    used = int64(0)
    for i in range(counts.size):
        used += int64(counts[i] != 0)
    few = _FEW * used * step <= counts.size and _EXPECTED * used <= 2 * total
    size = (counts.size + step - 1) // step
    middle = min(max(middle, int64(0)), size - 1)
    left = total  # of the stretch below, which only shrinks
    for octave in range(16, 3, -1):
        low = max(int64(0), middle - (int64(1) << octave))
        high = min(size, middle + (int64(1) << octave))
        if high - low < 16 or left < _EXPECTED * (high - low):
            continue
        left, used = int64(0), int64(0)
        for i in range(low, high):
            left += int64(counts[i * step])
            used += int64(counts[i * step] != 0)
        if left >= _EXPECTED * (high - low):
            return int64(few) + 2 * int64(used < _SHARE_OF_VALUES * (high - low))
    return int64(few)


@kernel(types.void(R8, int64, W32))
def split_words(data, channels, planes):
    """Sets samples of two bytes each, of one channel or two, as `split_samples` does.

    `planes`: uint32[channels * count].
    """
    count = planes.size // channels
    whole = count & -16
    for t in range(0, whole, 16):
        if channels == 1:
            left = v.shift_left(v.load_u16(data, 2 * t), 16)
            v.store_u32(planes, t, v.shift_right_signed(left, 16))
        else:
            both = v.load_u32_bytes(data, 4 * t)
            v.store_u32(planes, t, v.shift_right_signed(v.shift_left(both, 16), 16))
            v.store_u32(planes, count + t, v.shift_right_signed(both, 16))
    for t in range(whole, count):
        for c in range(channels):
            at = 2 * (t * channels + c)
            word = np.int16(int64(data[at]) | int64(data[at + 1]) << 8)
            planes[c * count + t] = np.uint32(np.int32(word))


@kernel(types.void(R32, int64, W8))
def join_words(planes, channels, data):
    """The inverse of `split_words`."""
    count = planes.size // channels
    whole = count & -16
    for t in range(0, whole, 16):
        left = v.load_u32(planes, t)
        if channels == 1:
            v.store_u16(data, 2 * t, left)
        else:
            right = v.shift_left(v.load_u32(planes, count + t), 16)
            v.store_u32_bytes(data, 4 * t, v.either(v.both(left, v.splat(0xFFFF)), right))
    for t in range(whole, count):
        for c in range(channels):
            at = 2 * (t * channels + c)
            word = planes[c * count + t]
            data[at], data[at + 1] = np.uint8(word), np.uint8(word >> np.uint32(8))
