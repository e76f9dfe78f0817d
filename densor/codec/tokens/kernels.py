"""Codes a chunk of tokens: one kernel for both directions, so that their models cannot drift apart.

A token is one of a few candidates, those that followed the contexts of orders 3 to 1 before (as in
symbol ranking, P. Fenwick 1997), each with a yes or no; or else some hexadecimal digits under
mixed adaptive distributions. All arithmetic is in integers. See docs/format/tokens.md, whose names
are used here.
"""

import numba
from numba import types

from densor.codec.tokens.common_kernels import (
    MIX,
    doublings,
    first_of,
    hash_of,
    learn_flag,
    state_of,
    top,
)
from densor.codec.tokens.params import PLACES, ROOM, SPECIAL_BITS
from densor.codec.tokens.range_coder import decode_bit, encode, next_byte, remove
from densor.entropy.intrinsics import load_u16, prefetch, store_u16
from densor.entropy.jit import I64, R8, W8, W32, index, inlined, kernel
from densor.entropy.vectors import (
    add,
    bits_of,
    both,
    choose,
    count,
    equal,
    less,
    load_u32,
    mask_of,
    multiply,
    shift_right,
    shift_right_signed,
    splat,
    subtract,
)
from densor.entropy.vectors import load_u16 as load_lanes
from densor.entropy.vectors import store_u16 as store_lanes

int64, uint64 = numba.int64, numba.uint64

NODE = 32  # bytes of one: a count, then 15 cumulative probabilities, 16 bits each
_TOKEN = 0xFFFFFF  # the bits of a place below its count
_MOST = 60  # what a place counts to
_LONGEST = 60  # what a match counts to
_MIN_P, _MAX_P = 32, 65504
_MOST_SPECIAL = 6  # weight of it, of 16


@inlined
def _hashed(x, bits):
    return top(hash_of(x), bits)


@inlined
def _slots(row, a, b, c, d, bits1, bits, match_bits):
    """Numbers of the slots of orders 1, 2 and 3, and of the match."""
    first = (a << 8) + row + 1
    second = (first << 20) + b
    third = uint64(second) * uint64(MIX) + uint64(c + 1)
    fourth = third * uint64(MIX) + uint64(d + 1)
    return (
        _hashed(first, bits1),
        _hashed(second, bits),
        _hashed(third, bits),
        _hashed(fourth, match_bits),
    )


@inlined
def _own(row, beside, so_far, digit, bits):
    """Where the node of a context is, for a digit of a token whose digits before are known."""
    key = (((beside << 20) + so_far) << 3) + digit + (row << 44)
    return _hashed(uint64(key + 1) * uint64(MIX), bits) * NODE


@inlined
def _gather(slots, base, places, seen, at):
    """Copies a slot to `seen`; returns how often anything was there."""
    total = int64(0)
    for j in range(places):
        place = slots[index(base + j)]
        seen[index(at + j)] = place
        total += int64(place) >> 24
    return total


@inlined
def _fade(slots, base):
    """The first place of a slot counts less, once something else has come."""
    place = int64(slots[index(base)])
    seen = place >> 24
    if seen > 3:
        slots[index(base)] = place - (max(seen >> 3, 1) << 24)


@inlined
def _learn(slots, base, places, token, found, filled):
    """A slot takes in the token that came. `found`, `filled`: bits of places, where it is."""
    if found & 1:
        place = int64(slots[index(base)])
        slots[index(base)] = token | (min((place >> 24) + 2, _MOST) << 24)
        return
    _fade(slots, base)
    if found:
        at = first_of(found)
        place = int64(slots[index(base + at)])
        seen = min((place >> 24) + 2, _MOST)
        before = int64(slots[index(base + at - 1)])
        if seen >= before >> 24:
            slots[index(base + at)] = before
            at -= 1
        slots[index(base + at)] = token | (seen << 24)
        return
    at = first_of(~filled | (int64(1) << (places - 1)))
    last = int64(slots[index(base + at)])
    slots[index(base + at)] = last - (1 << 24) if last >> 24 > 2 else token | (1 << 24)


@inlined
def _special(candidate, states, bits):
    """Where the probability of a candidate is, under what two slots say of it."""
    key = (candidate << 8) + states + 1
    return 65536 + _hashed(uint64(key) * uint64(MIX), bits)


@inlined
def _mixed(plain, general, under, own, weight, k):
    """Cumulative probability of all digits below `k`, from two nodes."""
    if k == 0:
        return int64(0)
    if k == 16:
        return int64(65536)
    low = int64(load_u16(plain, general + 2 * k))
    high = int64(load_u16(under, own + 2 * k))
    return (low * (32 - weight) + high * weight) >> 5


@inlined
def _learn_digit(nodes, at, digit, shifts, targets):
    """Moves a node towards a digit, by 2^-shift, the more slowly the more it has seen."""
    seen = int64(load_u16(nodes, at))
    lanes = load_lanes(nodes, at)
    step = subtract(load_lanes(targets, digit * NODE), lanes)
    moved = add(lanes, shift_right_signed(step, int64(shifts[index(seen)])))
    store_lanes(nodes, at, moved)
    store_u16(nodes, at, numba.uint16(min(seen + 1, 255)))


@inlined
def _digit_of(plain, general, under, own, weight, rest, unit):
    """The digit whose part of the interval holds `rest`, in which a share of 2^-16 is `unit`."""
    low = multiply(load_lanes(plain, general), splat(32 - weight))
    high = multiply(load_lanes(under, own), splat(weight))
    borders = multiply(shift_right(add(low, high), 5), splat(unit))
    beyond = less(splat(rest), choose(mask_of(1), splat(0), borders))
    return 15 - count(beyond)


@inlined
def _code_flag(encoding, bit, context, special, flags, rates, coder, stream):
    """Codes whether a candidate is right, under what its context and its own history say."""
    value, width, at = coder
    other = int64(flags[index(special)])
    weight = min(other & 1023, _MOST_SPECIAL)
    p = (int64(flags[index(context)]) >> 16) * (16 - weight) + (other >> 16) * weight
    p = max(min(p >> 4, _MAX_P), _MIN_P)
    if encoding:
        low, share = (int64(0), p) if bit else (p, 65536 - p)
        coder = encode(stream, value, width, at, low, share)
    else:
        bit = decode_bit(value, width, p)
        low, share = (int64(0), p) if bit else (p, 65536 - p)
        coder = remove(stream, value, width, at, low, share)
    learn_flag(flags, context, bit, rates)
    learn_flag(flags, special, bit, rates)
    return bit, coder


@inlined
def _code_digits(
    encoding, token, digits, row, beside, tables, plain, under, own_bits, weights, shifts, targets,
    coder, stream,
):  # fmt: skip
    """Codes a token that no candidate was, 4 bits at a time; returns it, and the coder.

    `tables`: of `plain`, which rows take in turn. `beside`: the token whose nodes of `under` count
    too.
    """
    value, width, at = coder
    contexted = max(digits - 1, 3)
    begin = (row % tables) * (((int64(1) << (4 * digits)) - 1) // 15)
    so_far = int64(0)
    for j in range(digits):
        general = (begin + ((int64(1) << (4 * j)) - 1) // 15 + so_far) * NODE
        own = _own(row, beside, so_far, j, own_bits)
        weight = int64(weights[index(load_u16(under, own))]) if j < contexted else int64(0)
        if encoding:
            digit = (token >> (4 * (digits - 1 - j))) & 15
        else:
            digit = _digit_of(plain, general, under, own, weight, value, width >> 16)
        if j < contexted and load_u16(under, own) == 0:
            store_lanes(under, own, load_lanes(plain, general))
            store_u16(under, own, numba.uint16(0))
        low = _mixed(plain, general, under, own, weight, digit)
        share = _mixed(plain, general, under, own, weight, digit + 1) - low
        if encoding:
            value, width, at = encode(stream, value, width, at, low, share)
        else:
            value, width, at = remove(stream, value, width, at, low, share)
        _learn_digit(plain, general, digit, shifts, targets)
        if j < contexted:
            _learn_digit(under, own, digit, shifts, targets)
        so_far = so_far * 16 + digit
    return so_far, (value, width, at)


@inlined
def _around(tokens, here, row, column, columns):
    """The tokens left of a place, above it, and two places left and above; 0 beyond the edges."""
    a, b, c, d = int64(0), int64(0), int64(0), int64(0)
    if column > 0:
        a = int64(tokens[index(here - 1)])
    if row > 0:
        b = int64(tokens[index(here - columns)])
    if row > 1:
        c = int64(tokens[index(here - 2 * columns)])
    if column > 1:
        d = int64(tokens[index(here - 2)])
    return a, b, c, d


_SIGNATURE = types.int64(
    types.boolean, W32, types.int64, types.int64, types.int64, W8,
    W32, W32, W32, W32, W32, W8, W8, W32, I64, W8, W8, W8, R8,
)  # fmt: skip


@kernel(_SIGNATURE)
def code_tokens(
    encoding, tokens, rows, columns, digits, stream,
    slots1, slots2, slots3, matches, flags, plain, under, seen, rates, levels, shifts, weights,
    targets,
):  # fmt: skip
    """Codes `tokens`, or fills them; returns the end of what was written or read of `stream`.

    -1 where `stream` has no room left. `tokens`: items of `rows` times `columns`, below
    16^`digits`. All other arrays are state and constants as `state.py` makes them.
    """
    bits1, bits = doublings(slots1.size, 2), doublings(slots2.size, PLACES)
    match_bits, own_bits = doublings(matches.size, 1), doublings(under.size, NODE)
    tables = plain.size // NODE // (((int64(1) << (4 * digits)) - 1) // 15)
    special_bits = min(bits, SPECIAL_BITS)
    value, at = int64(0), int64(0)
    if not encoding:
        for at in range(4):
            value = (value << 8) | next_byte(stream, at)
        at = int64(4)
    coder = (value, int64(0xFFFFFFFF), at)
    row, column, item = int64(0), int64(0), int64(0)
    a, b, c, d = int64(0), int64(0), int64(0), int64(0)
    source, length = int64(0), int64(0)
    s1, s2, s3, sm = _slots(row, a, b, c, d, bits1, bits, match_bits)
    for i in range(tokens.size):
        place = item + row * columns + column
        base1, base2, base3 = 2 * s1, PLACES * s2, PLACES * s3
        token = int64(0)
        if encoding:
            if coder[2] + ROOM > stream.size:
                return int64(-1)
            token = int64(tokens[index(place)])
        if length == 0:
            known = int64(matches[index(sm)])
            if known > 0:
                source = known - 1
                length = int64(1)
        matches[index(sm)] = place + 1
        matched, near = int64(-1), int64(0)
        if length > 0:
            matched = int64(tokens[index(source)])
            near = 1 + int64(length > 2) + int64(length > 8)
        seen[0] = matched | (1 << 24) if matched >= 0 else 0
        total3 = _gather(slots3, base3, PLACES, seen, 1)
        total2 = _gather(slots2, base2, PLACES, seen, 1 + PLACES)
        total1 = _gather(slots1, base1, 2, seen, 1 + 2 * PLACES)
        entries = load_u32(seen, 0)
        empty = bits_of(equal(entries, splat(0)))
        entries = both(entries, splat(_TOKEN))
        left = ~empty & 0xFFFF
        failed = int64(0)
        found = False
        while left:
            lane = first_of(left)
            candidate = int64(seen[index(lane)]) & _TOKEN
            same = bits_of(equal(entries, splat(candidate))) & ~empty
            own3 = int64(seen[index(1 + first_of(((same >> 1) & 15) | 1024))]) >> 24
            own2 = int64(seen[index(5 + first_of(((same >> 5) & 15) | 64))]) >> 24
            own1 = int64(seen[index(9 + first_of(((same >> 9) & 3) | 4))]) >> 24
            context = state_of(own3, total3, levels) << 12
            context |= state_of(own2, total2, levels) << 8
            context |= state_of(own1, total1, levels) << 4
            context |= min(failed, 3)
            if lane == 0:
                context |= near << 2
            special = _special(candidate, context >> 8, special_bits)
            bit, coder = _code_flag(
                encoding, int64(candidate == token), context, special, flags, rates, coder, stream
            )
            failed += 1
            left &= ~same
            if bit:
                token = candidate
                found = True
                break
        if not found:
            token, coder = _code_digits(
                encoding, token, digits, row, b if row > 0 else a, tables, plain, under, own_bits,
                weights, shifts, targets, coder, stream,
            )  # fmt: skip
        if not encoding:
            tokens[index(place)] = token
        if length > 0:
            if rows == 1 and matched == token:
                length = min(length + 1, _LONGEST)
                source += 1
            else:
                length = int64(0)
        if rows == 1:
            d, c, b, a = c, b, a, token
            column += 1
        else:
            row += 1
            if row == rows:
                row = int64(0)
                column += 1
                if column == columns:
                    column = int64(0)
                    item += rows * columns
            if i + 1 < tokens.size:
                here = item + row * columns + column
                a, b, c, d = _around(tokens, here, row, column, columns)
        s1, s2, s3, sm = _slots(row, a, b, c, d, bits1, bits, match_bits)
        prefetch(slots3, PLACES * s3)
        prefetch(slots2, PLACES * s2)
        prefetch(slots1, 2 * s1)
        prefetch(matches, sm)
        if rows == 1:
            prefetch(under, _own(row, a, int64(0), int64(0), own_bits))
        same = bits_of(equal(entries, splat(token))) & ~empty
        filled = ~empty
        _learn(slots3, base3, PLACES, token, (same >> 1) & 15, (filled >> 1) & 15)
        _learn(slots2, base2, PLACES, token, (same >> 5) & 15, (filled >> 5) & 15)
        _learn(slots1, base1, 2, token, (same >> 9) & 3, (filled >> 9) & 3)
    value, _, at = coder
    if encoding:
        for shift in (24, 16, 8, 0):
            stream[index(at)] = (value >> shift) & 255
            at += 1
    return at
