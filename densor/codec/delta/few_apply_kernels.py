"""Compiled loops that apply changes of few elements, see docs/format/delta_few.md.

Elements are unsigned integers of 1, 2, 4 or 8 bytes; rates as in `few_rate_kernels.py`. Nothing
here allocates. A stream that ends early goes on with zeros, which is seen at the end.
"""

import numpy as np
from numba import types

from densor.codec.delta.few_rate_kernels import (
    UNIT_BITS,
    UPDATE_BITS,
    classes_of_blocks,
    followed,
    nearby,
    per_size,
    running_units,
    scale_of,
    units_before,
)
from densor.codec.delta.kernels import R64, _changed
from densor.codec.delta.tokens import DIFFERENCE
from densor.entropy import vectors as v
from densor.entropy.intrinsics import ones
from densor.entropy.jit import R8, R32, W8, W32, inlined
from densor.entropy.vectors import LANES

_U = np.uint64
_0, _1 = _U(0), _U(1)
_LOW = _U(1 << 31)  # the least state
_PLACE_BITS = 24
_WHOLE = _U(1 << 2 * _PLACE_BITS)
_SCATTERED = 6  # block bits from which most blocks have no change: sums are made for others alone
_EXTRA_PART = 16  # bits that are coded at a time

_R16_2D = types.Array(types.uint16, 2, "C", readonly=True)
_RI64 = types.Array(types.int64, 1, "C", readonly=True)
_int = types.int64


@inlined
def _refilled(state, at, words):
    """The state, with a word more where it is too low, and where the next word is."""
    if state < _LOW:
        word = _U(words[_U(at)]) if at < words.size else _0
        return state << _U(32) | word, at + 1
    return state, at


@inlined
def _took(state, at, words, slot, low, freq, bits):
    """Likewise, once a symbol was found that owns `freq` of 2^bits slots from `low` on."""
    return _refilled(freq * (state >> _U(bits)) + slot - low, at, words)


@inlined
def _take_count(state, at, words, starts, context):
    """The number of changes of a block; state and place."""
    slot = state & _U(4095)
    count = _0
    low, freq = _0, _U(starts[context, _1])
    if slot >= freq:  # mostly not: the processor goes on with no change before it knows
        count = _1 + _U(_U(starts[context, _U(2)]) <= slot)
        while _U(starts[context, count + _1]) <= slot:
            count += _1
        low = _U(starts[context, count])
        freq = _U(starts[context, count + _1]) - low
    if freq < _U(4096):
        state, at = _took(state, at, words, slot, low, freq, 12)
    return count, state, at


@inlined
def _take_token(state, at, words, starts, context):
    """How an element changes, 0 under a context without frequencies; state and place."""
    slot = state & _U(4095)
    token = _U(_U(starts[context, _1]) <= slot)
    token += _U(_U(starts[context, _U(2)]) <= slot)
    token += _U(_U(starts[context, _U(3)]) <= slot)
    while _U(starts[context, token + _1]) <= slot:
        token += _1
    low = _U(starts[context, token])
    freq = _U(starts[context, token + _1]) - low
    state, at = _took(state, at, words, slot, low, freq, 12)
    return token, state, at


@inlined
def _take_extra(state, at, words, count):
    """Extra bits; state and place."""
    value, filled = _0, 0
    while filled < count:
        some = min(count - filled, _EXTRA_PART)
        value |= (state & ((_1 << _U(some)) - _1)) << _U(filled)
        state, at = _refilled(state >> _U(some), at, words)
        filled += some
    return value, state, at


@inlined
def _most_likely(sums, place, size, aim):
    """How many of the sums of a block, `size` of them from `place` on, are at most `aim`."""
    beyond = v.splat(np.int64(aim + _1))
    found = 0
    for k in range(0, size, LANES):
        less = _U(v.bits_of(v.less(v.load_u32(sums, place + k), beyond)))
        found += np.int64(ones(less & ((_1 << _U(min(size - k, LANES))) - _1)))
    return found


@inlined
def _take_place(state, at, words, sums, place, size, before):
    """Which element of a block changes next: its number, the units up to and with it, state and
    place; -1 where none owns the slot.

    `sums`: units up to and with each of `size` elements, from `place` on; `before`: of those up to
    the last change.
    """
    slot = state & _U((1 << _PLACE_BITS) - 1)
    left = _U(sums[_U(place + size - 1)]) - before
    scaled = _WHOLE // left
    # Close to the sum that owns the slot; what is found by it is then put right
    aim = before + min((slot * left) >> _U(_PLACE_BITS), left - _1)
    i = _most_likely(sums, place, size, aim)
    low = units_before(sums, place, i)
    high = _U(sums[_U(place + i)])
    while ((high - before) * scaled) >> _U(_PLACE_BITS) <= slot:
        i += 1
        if i >= size:
            return -1, high, state, at
        low = high
        high = _U(sums[_U(place + i)])
    start = ((low - before) * scaled) >> _U(_PLACE_BITS)
    while start > slot:
        i -= 1
        high = low
        low = units_before(sums, place, i)
        start = ((low - before) * scaled) >> _U(_PLACE_BITS)
    freq = (((high - before) * scaled) >> _U(_PLACE_BITS)) - start
    state, at = _took(state, at, words, slot, start, freq, _PLACE_BITS)
    return i, high, state, at


@inlined
def _take_changes(
    data, begin, end, count, state, at, words, shift, mask, mapped, floats, bits, sums, place,
    token_starts, starts, extras,
):  # fmt: skip
    """Changes `count` elements of a block; whether that could be, state and place."""
    before = _0
    i = -1
    while count:
        if before and begin + i + 1 >= end:
            return False, state, at
        i, before, state, at = _take_place(state, at, words, sums, place, end - begin, before)
        if i < 0:
            return False, state, at
        old = _U(data[_U(begin + i)])
        context = mapped[(old >> shift) & mask]
        token, state, at = _take_token(state, at, words, token_starts, context)
        if not token:
            return False, state, at
        extra = np.int64(extras[token])
        change = starts[token]
        if extra:
            value, state, at = _take_extra(state, at, words, extra)
            change = change - value if token & _1 else change + value
        data[_U(begin + i)] = _changed(old, change, DIFFERENCE, floats, bits)
        count -= _1
    return True, state, at


def _apply(
    data, words, shift, mask, rates, near, mapped, method, block_bits, seen_first, count_starts,
    token_starts, starts, extras, sums, classes,
):  # fmt: skip
    """Changes `data` from what it was to what it becomes; whether the stream was sound.

    Arguments as for `_code`; `words`: at least two; `seen_first` as for `_record`; `starts`,
    `extras`: least change and number of extra bits of each token. `classes`: uint8[2^8], used.
    """
    shift, mask = _U(shift), _U(mask)
    floats, bits = method[0] != 0, method[1]
    size = 1 << block_bits
    happened, expected = seen_first[0], seen_first[1]
    scale = scale_of(happened, expected)
    short = block_bits < _SCATTERED
    state = _U(words[0]) | _U(words[1]) << _U(32)
    at = 2
    if state < _LOW or state >> _U(63):
        return False
    first = nearby(data, shift, mask, rates, near)
    for part in range(0, data.size, 1 << UPDATE_BITS):
        last = min(part + (1 << UPDATE_BITS), data.size)
        expected += classes_of_blocks(
            data, part, last, block_bits, scale, shift, mask, rates, near, first, short, sums,
            classes, 0,
        )  # fmt: skip
        for begin in range(part, last, size):
            end = min(begin + size, last)
            context = classes[_U((begin - part) >> block_bits)]
            count, state, at = _take_count(state, at, words, count_starts, context)
            if not count:
                continue
            happened += count << _U(UNIT_BITS)
            if not short:
                running_units(data, begin, end, shift, mask, rates, near, first, sums, 0)
            sound, state, at = _take_changes(
                data, begin, end, count, state, at, words, shift, mask, mapped, floats, bits, sums,
                begin - part if short else 0, token_starts, starts, extras,
            )  # fmt: skip
            if not sound:
                return False
        if last - part == 1 << UPDATE_BITS:
            happened, expected, scale = followed(happened, expected)
    return state == _LOW and at == words.size


APPLY = per_size(
    _apply,
    lambda r, w: types.boolean(
        w, R32, _int, _int, R32, W32, R8, _RI64, _int, R64, _R16_2D, _R16_2D, R64, R8, W32, W8
    ),
)
