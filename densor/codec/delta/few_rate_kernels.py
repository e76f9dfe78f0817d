"""How many changes are expected of elements and of blocks, see docs/format/delta_few.md; compiled.

Elements of the base are unsigned integers of 1, 2, 4 or 8 bytes. `rates`: uint32[2^B], how often
elements change whose bits `b >> shift & mask` these are, in units of 2^-18; at least 1.
"""

import numpy as np
from numba import njit

from densor.codec.delta.kernels import _READ, _WRITE
from densor.codec.delta.payload import SUMS
from densor.entropy import vectors as v
from densor.entropy.intrinsics import leading_zeros
from densor.entropy.jit import inlined, kernel
from densor.entropy.register_tables import fast, look_up
from densor.entropy.vectors import LANES

_U = np.uint64
_0, _1 = _U(0), _U(1)
UNIT_BITS = 18  # one change that is expected
CLASSES = 64
UPDATE_BITS = 11  # elements between updates of what is followed
_OFFSET = 44 - 4 * UNIT_BITS  # a class for each quarter octave of expected changes
_WINDOW = _U(64 << UNIT_BITS)  # beyond which what was seen is halved
_TOTALS = SUMS - (1 << 8)  # where sums of blocks begin, a multiple of 16
_FLOAT_MANTISSA, _FLOAT_BIAS = 23, 127


@inlined
def quarters(x):
    """log2 of x, at least 1, in quarter octaves, the last two bits by straight lines."""
    y = x << _U(2)
    n = 63 - np.int64(leading_zeros(y))
    return 4 * (n - 2) + np.int64((y >> _U(n - 2)) & _U(3))


@inlined
def _classes_of(units, scale):
    """The classes of 16 blocks in which so many units are expected before they are scaled: these
    are less than 2^30. A float32 has their logarithm in its leading bits."""
    # Without a bit far below the first one, or what is rounded might get another first one
    units = v.both(units, v.exclusive(v.shift_right(units, 8), v.splat(-1)))
    found = v.shift_right(v.float_bits(units), _FLOAT_MANTISSA - 2)
    found = v.add(found, v.splat(scale + _OFFSET - (_FLOAT_BIAS << 2)))
    found = v.choose(v.less_signed(found, v.splat(0)), v.splat(0), found)
    return v.choose(v.less_signed(found, v.splat(CLASSES)), found, v.splat(CLASSES - 1))


@inlined
def _rate_at(old, i, shift, mask, rates):
    return _U(rates[(_U(old[_U(i)]) >> shift) & mask])


@njit
def nearby(old, shift, mask, rates, near):
    """Fills `near` with the rates of 32 values in a row that most elements have in their bits;
    returns the first of these, or -1 where looking them up would not be fast."""
    if not fast() or old.itemsize > 4 or mask < 31 or old.size < LANES:
        return -1
    highest = _0
    for i in range(0, old.size, max(1, old.size >> 6)):
        highest = max(highest, (_U(old[_U(i)]) >> shift) & mask)
    first = min(max(np.int64(highest) - 26, 0), np.int64(mask) - 31)
    for i in range(near.size):
        near[_U(i)] = rates[_U(first + i)]
    return first


@inlined
def _near_rates(old, i, shift, mask, near, first):
    """The rates of 16 elements, and whether all are in `near`."""
    bits = v.both(v.shift_right(v.load_elements(old, i), np.int64(shift)), v.splat(np.int64(mask)))
    bits = v.subtract(bits, v.splat(first))
    inside = v.bits_of(v.less(bits, v.splat(32))) == 65535
    return look_up(near, 0, bits), inside


@inlined
def _sum(old, begin, end, shift, mask, rates, near, first):
    """The units of elements, at most 128."""
    total = _0
    i = begin
    if fast() and first >= 0:
        sums = v.splat(0)
        while i + LANES <= end:
            some, inside = _near_rates(old, i, shift, mask, near, first)
            if not inside:
                break
            sums = v.add(sums, some)
            i += LANES
        total = v.sum_of(sums)
    while i + 4 <= end:  # in two chains
        one = _rate_at(old, i, shift, mask, rates) + _rate_at(old, i + 1, shift, mask, rates)
        two = _rate_at(old, i + 2, shift, mask, rates) + _rate_at(old, i + 3, shift, mask, rates)
        total += one + two
        i += 4
    while i < end:
        total += _rate_at(old, i, shift, mask, rates)
        i += 1
    return total


@inlined
def running_units(old, begin, end, shift, mask, rates, near, first, sums, at):
    """Fills `sums` from `at` on with the units up to and with each element; returns all."""
    total = _0
    i = begin
    if fast() and first >= 0:
        while i + LANES <= end:
            some, inside = _near_rates(old, i, shift, mask, near, first)
            if not inside:
                break
            some = v.running_sums(some)
            if i > begin:
                some = v.add(some, v.splat(np.int64(total)))
            v.store_u32(sums, at, some)
            i += LANES
            at += LANES
            total = _U(sums[_U(at - 1)])
    while i < end:
        total += _rate_at(old, i, shift, mask, rates)
        sums[_U(at)] = total
        i += 1
        at += 1
    return total


@inlined
def units_before(sums, at, k):
    """The units before element k of a block whose sums begin at `at`."""
    return _U(sums[_U(at + k - 1)]) if k else _0


@inlined
def _running_of_part(old, begin, shift, mask, near, first, sums):
    """Fills `sums` with the units up to and with each element of its block of 16, of 2^11 elements;
    whether all rates were in `near`, without which they are wrong."""
    every = v.splat(0)
    for i in range(0, 1 << UPDATE_BITS, LANES):
        bits = v.shift_right(v.load_elements(old, begin + i), np.int64(shift))
        bits = v.subtract(v.both(bits, v.splat(np.int64(mask))), v.splat(first))
        every = v.either(every, bits)
        v.store_u32(sums, i, v.running_sums(look_up(near, 0, bits)))
    return v.bits_of(v.less(every, v.splat(32))) == 65535


@inlined
def _classes_of_part(scale, sums, classes, at):
    """As `classes_of_blocks`, once there are sums of 2^7 blocks of 16 elements."""
    lasts = v.add(v.shift_left(v.lane_numbers(), 4), v.splat(LANES - 1))
    expected = _0
    for k in range(0, 1 << UPDATE_BITS, LANES * LANES):
        units = v.gather_u32(sums, v.add(lasts, v.splat(k)))
        v.store_u8(classes, at + (k >> 4), _classes_of(units, scale))
        expected += v.sum_of(units)
    return expected


@njit
def classes_of_blocks(
    old, begin, end, bits, scale, shift, mask, rates, near, first, running, sums, classes, at
):
    """Fills `classes` from `at` on with those of the blocks of 2^bits elements from element `begin`
    to `end`, at most 2^11, before any of these changes; returns the units of all.

    Up to 15 more classes are filled. `sums`: uint32[SUMS]; where they are to be `running` it gets
    those of the elements of each block. By itself, so that the processor need not begin anew with
    it where it was wrong about a count.
    """
    whole = bits == 4 and end - begin == 1 << UPDATE_BITS and fast() and first >= 0
    if whole and _running_of_part(old, begin, shift, mask, near, first, sums):
        return _classes_of_part(scale, sums, classes, at)
    size = 1 << bits
    totals = _TOTALS
    for i in range(begin, end, size):
        last = min(i + size, end)
        if running:
            total = running_units(old, i, last, shift, mask, rates, near, first, sums, i - begin)
        else:
            total = _sum(old, i, last, shift, mask, rates, near, first)
        sums[_U(totals)] = total
        totals += 1
    for k in range(totals, (totals + LANES - 1) & -LANES):
        sums[_U(k)] = 0
    expected = _0
    for k in range(_TOTALS, totals, LANES):
        units = v.load_u32(sums, k)
        v.store_u8(classes, at + k - _TOTALS, _classes_of(units, scale))
        expected += v.sum_of(units)
    return expected


@inlined
def scale_of(happened, expected):
    """By how many quarter octaves more happened than was expected."""
    return quarters(happened) - quarters(expected)


@inlined
def followed(happened, expected):
    """What counts as seen from an update on, and the scale that follows from it."""
    while expected > _WINDOW:
        happened >>= _1
        expected >>= _1
    happened = max(happened, _1)
    return happened, expected, scale_of(happened, expected)


def per_size(function, signature):
    """Kernels of a function for elements of each size; `signature`: of an array of elements that
    is read, and of one that is written."""
    name = function.__name__.strip("_")
    return {
        size: kernel(signature(_READ[size], _WRITE[size]), name=f"{name}_{size}")(function)
        for size in _READ
    }
