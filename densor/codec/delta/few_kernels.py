"""Compiled loops that code changes of few elements, see docs/format/delta_few.md.

Elements and those of the base are unsigned integers of 1, 2, 4 or 8 bytes; rates as in
`few_rate_kernels.py`. Nothing here allocates.
"""

import numpy as np
from numba import njit, types

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
from densor.codec.delta.kernels import R64, _token
from densor.codec.delta.tokens import DIFFERENCE
from densor.entropy.differences import differing
from densor.entropy.intrinsics import prefetch, trailing_zeros
from densor.entropy.jit import I64, R8, R16, R32, W8, W16, W32, inlined, kernel

_U = np.uint64
_0, _1 = _U(0), _U(1)
_LOW = _U(1 << 31)  # the least state
_PLACE_BITS = 24
_WHOLE = _U(1 << 2 * _PLACE_BITS)
_WORD = _U(0xFFFFFFFF)
_AHEAD = 12  # changes that memory is asked for ahead
_SCATTERED = 6  # block bits from which changes are far apart: the processor does not ask for memory
_EXTRA_PART = 16  # bits that are coded at a time

_R16_2D = types.Array(types.uint16, 2, "C", readonly=True)
_I64_2D = types.int64[:, ::1]
_RI64 = types.Array(types.int64, 1, "C", readonly=True)
_int = types.int64


def _survey(new, old, shift, mask, every, method, all_counts, changed_counts, positions, tokens):
    """Fills `positions` of elements that changed, and `tokens`, and returns how many there are; -1
    where there is no room for all.

    Counts by their bits those that changed, and all in one of `every` stretches of 64. `method`:
    int64[4], floats, bits, direct and mantissa bits. `tokens`: uint16, as large as `positions`, the
    bits of the base above the token of a change.
    """
    shift, mask = _U(shift), _U(mask)
    floats, bits, direct, mantissa = method[0] != 0, method[1], method[2], method[3]
    found = 0
    left = 1
    whole = new.size & -64
    for begin in range(0, new.size, 64):
        if begin < whole:
            different = differing(new, old, begin)
        else:
            different = _0
            for i in range(begin, new.size):
                different |= _U(new[i] != old[i]) << _U(i - begin)
        left -= 1
        if not left:
            left = every
            for i in range(begin, min(begin + 64, new.size)):
                all_counts[(_U(old[_U(i)]) >> shift) & mask] += 1
        if different and found + 64 > positions.size:
            return -1
        while different:
            positions[_U(found)] = begin + np.int64(trailing_zeros(different))
            found += 1
            different &= different - _1
    for j in range(found):
        i = _U(positions[_U(j)])
        b = _U(old[i])
        token, _, _ = _token(_U(new[i]), b, DIFFERENCE, floats, bits, direct, mantissa)
        which = (b >> shift) & mask
        changed_counts[which] += 1
        tokens[_U(j)] = which << _U(8) | token
    return found


@kernel(types.void(R16, _I64_2D))
def count_tokens(tokens, seen):
    """`seen`: int64[2^B, 256] grows by the bits of the base and the tokens that `SURVEY` found."""
    for j in range(tokens.size):
        both = _U(tokens[_U(j)])
        seen[both >> _U(8), both & _U(255)] += 1


def _record(
    old, shift, mask, rates, near, block_bits, seen_first, positions, sums, classes, counts, seen
):
    """Fills class and count of each block, given the positions of what changed.

    `classes`: of as many more as make the number of blocks a multiple of 16, which mean nothing.
    `seen_first`: uint64[2], what counts as seen before: changes and those expected, in units.
    `seen`: int64[64, 256] grows by each block's count under its class. `near`: uint32[32], and
    `sums`: uint32[SUMS], are used.
    """
    shift, mask = _U(shift), _U(mask)
    size = 1 << block_bits
    happened, expected = seen_first[0], seen_first[1]
    scale = scale_of(happened, expected)
    first = nearby(old, shift, mask, rates, near)
    at, left = _0, _U(positions.size)
    for part in range(0, old.size, 1 << UPDATE_BITS):
        last = min(part + (1 << UPDATE_BITS), old.size)
        begin, block = part >> block_bits, (last + size - 1) >> block_bits
        expected += classes_of_blocks(
            old, part, last, block_bits, scale, shift, mask, rates, near, first, False, sums,
            classes, begin,
        )  # fmt: skip
        counts[begin:block] = 0
        before = at
        while at < left and positions[at] < last:
            counts[_U(positions[at]) >> _U(block_bits)] += 1
            at += _1
        for one in range(begin, block):
            seen[classes[_U(one)], counts[_U(one)]] += 1
        happened += (at - before) << _U(UNIT_BITS)
        if last - part == 1 << UPDATE_BITS:
            happened, expected, scale = followed(happened, expected)


@njit
def _put(state, at, words, start, freq, bits):
    """Codes a symbol that owns `freq` of 2^bits slots; the stream grows downwards."""
    if state >= ((_LOW >> bits) << _U(32)) * freq:
        at -= 1
        words[_U(at)] = state & _WORD
        state >>= _U(32)
    return ((state // freq) << bits) + state % freq + start, at


@inlined
def _put_symbol(state, at, words, starts, context, symbol):
    """Codes one that owns slots of 2^12 by `starts`; nothing where it owns all."""
    low = _U(starts[context, symbol])
    high = _U(starts[context, symbol + _1])
    if high - low < _U(4096):
        return _put(state, at, words, low, high - low, _U(12))
    return state, at


@inlined
def _put_extra(state, at, words, value, count):
    """Codes extra bits: what is decoded last, the highest part, which may be shorter, first."""
    part = count % _EXTRA_PART
    done = count - part
    if part:
        state, at = _put(state, at, words, value >> _U(done), _1, _U(part))
    while done:
        done -= _EXTRA_PART
        few = (value >> _U(done)) & _U((1 << _EXTRA_PART) - 1)
        state, at = _put(state, at, words, few, _1, _U(_EXTRA_PART))
    return state, at


@inlined
def _put_place(state, at, words, sums, k, before, whole):
    """Codes that the next change of a block is at its element `k`.

    `sums`: the units up to and with each element; `whole`: of all; `before`: of those that it
    cannot be at.
    """
    scaled = _WHOLE // (whole - before)
    low = ((units_before(sums, 0, k) - before) * scaled) >> _U(_PLACE_BITS)
    high = ((_U(sums[_U(k)]) - before) * scaled) >> _U(_PLACE_BITS)
    return _put(state, at, words, low, high - low, _U(_PLACE_BITS))


@inlined
def _fetch_ahead(new, old, i, size):
    """Asks for memory of a block that is coded soon, and of what it becomes at element `i`."""
    prefetch(new, i)
    for k in range(i & -size, i | (size - 1), 64 // new.itemsize):
        prefetch(old, k)


def _code(
    new, old, shift, mask, rates, near, mapped, method, block_bits, classes, counts, positions,
    tokens, count_starts, token_starts, extras, sums, words,
):  # fmt: skip
    """Codes all from the end; returns where in `words` the stream begins.

    `method`, `tokens`: as for `_survey`. `count_starts`, `token_starts`: uint16[contexts, 257],
    sums of the frequencies before each symbol. `extras`: number of extra bits of each token.
    `near`: uint32[32] and `sums`: uint32[SUMS] are used.
    """
    shift, mask = _U(shift), _U(mask)
    floats, bits, direct, mantissa = method[0] != 0, method[1], method[2], method[3]
    size = 1 << block_bits
    at = words.size
    state = _LOW
    last = positions.size
    first = nearby(old, shift, mask, rates, near)
    for block in range(classes.size - 1, -1, -1):
        count = np.int64(counts[block])
        if count:
            begin = block << block_bits
            end = min(begin + size, new.size)
            if block_bits >= _SCATTERED and last >= _AHEAD:
                _fetch_ahead(new, old, np.int64(positions[_U(last - _AHEAD)]), size)
            whole = running_units(old, begin, end, shift, mask, rates, near, first, sums, 0)
            for j in range(last - 1, last - count - 1, -1):
                i = np.int64(positions[_U(j)])
                token = _U(tokens[_U(j)])
                context = mapped[token >> _U(8)]
                token &= _U(255)
                extra = np.int64(extras[token])
                if extra:
                    new_i, old_i = _U(new[_U(i)]), _U(old[_U(i)])
                    _, _, value = _token(new_i, old_i, DIFFERENCE, floats, bits, direct, mantissa)
                    state, at = _put_extra(state, at, words, value, extra)
                state, at = _put_symbol(state, at, words, token_starts, context, token)
                before = _0
                if j > last - count:
                    before = _U(sums[_U(np.int64(positions[_U(j - 1)]) - begin)])
                state, at = _put_place(state, at, words, sums, i - begin, before, whole)
            last -= count
        state, at = _put_symbol(state, at, words, count_starts, classes[_U(block)], _U(count))
    at -= 2
    words[at] = state & _WORD
    words[at + 1] = state >> _U(32)
    return at


SURVEY = per_size(_survey, lambda r, w: _int(r, r, _int, _int, _int, _RI64, I64, I64, W32, W16))
RECORD = per_size(
    _record,
    lambda r, w: types.void(r, _int, _int, R32, W32, _int, R64, R32, W32, W8, W8, _I64_2D),
)
CODE = per_size(
    _code,
    lambda r, w: _int(
        r, r, _int, _int, R32, W32, R8, _RI64, _int, R8, R8, R32, R16, _R16_2D, _R16_2D, R8, W32,
        W32,
    ),
)  # fmt: skip
