"""The rANS coder for symbols that are nearly always 0, 1 or 2, under at most 32 contexts.

What these need stands in registers, so that nothing is gathered from memory, which takes most of
the time otherwise. Groups of 32 with another symbol are coded as all are in `kernels`. The stream
is the same.
"""

from numba import njit

from densor.entropy import vectors as v
from densor.entropy.jit import inlined
from densor.entropy.rans.constants import BITS, LIKELY, STATES
from densor.entropy.rans.kernels import encode_rest, put_lanes, refill, step
from densor.entropy.register_tables import TABLE, look_up

_LAST_SLOT = (1 << BITS) - 1
_ALL = (1 << v.LANES) - 1
_RECIPROCALS = LIKELY * TABLE  # TABLE: of as many contexts; places where they begin
_FIRST_START = 1 << 16


@inlined
def _step(x, ends, contexts):
    """Decodes a symbol per lane: these, the states, and a bit for each lane where that is right.

    `ends`: uint32[3 * 32], where the slots of symbols 0, 1 and 2 end under each context.
    """
    end0 = look_up(ends, 0, contexts)
    end1 = look_up(ends, TABLE, contexts)
    end2 = look_up(ends, 2 * TABLE, contexts)
    slot = v.both(x, v.splat(_LAST_SLOT))
    is0 = v.less(slot, end0)
    upto1 = v.less(slot, end1)
    known = v.less(slot, end2)
    first = v.choose(is0, v.splat(0), v.choose(upto1, end0, end1))
    end = v.choose(is0, end0, v.choose(upto1, end1, end2))
    symbols = v.choose(is0, v.splat(0), v.choose(upto1, v.splat(1), v.splat(2)))
    scaled = v.multiply(v.subtract(end, first), v.shift_right(x, BITS))
    return symbols, v.add(scaled, v.subtract(slot, first)), v.bits_of(known)


@inlined
def decode_group(x0, x1, words, at, table, ends, contexts, i, symbols):
    """Decodes the 32 symbols from `i` on; the states, the next position, 1 where others are there.

    `ends`: see `_step`.
    """
    under0 = v.load_u8(contexts, i)
    under1 = v.load_u8(contexts, i + 16)
    some0, next0, known0 = _step(x0, ends, under0)
    some1, next1, known1 = _step(x1, ends, under1)
    other = 0
    if known0 & known1 != _ALL:
        some0, next0 = step(x0, table, v.shift_left(under0, BITS))
        some1, next1 = step(x1, table, v.shift_left(under1, BITS))
        other = 1
    v.store_u8(symbols, i, some0)
    v.store_u8(symbols, i + 16, some1)
    x0, at = refill(next0, words, at)
    x1, at = refill(next1, words, at)
    return x0, x1, at, other


@njit
def decode_common(words, at, last, states, table, ends, contexts, end, symbols):
    """As `decode_groups` from symbol 0 on, and returns also how many groups had other symbols.

    `ends`: see `_step`.
    """
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    i, others = 0, 0
    while i + STATES <= end and at <= last:
        x0, x1, at, other = decode_group(x0, x1, words, at, table, ends, contexts, i, symbols)
        others += other
        i += STATES
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    return i, at, others


@njit
def _of_common(tables, begin, is0, is1, contexts):
    """What tables of 32 numbers for each of the symbols 0, 1 and 2 have for a symbol per lane."""
    of0 = look_up(tables, begin, contexts)
    of1 = look_up(tables, begin + TABLE, contexts)
    of2 = look_up(tables, begin + 2 * TABLE, contexts)
    return v.choose(is0, of0, v.choose(is1, of1, of2))


@njit
def encode_common(symbols, contexts, starts, common, states, words, at):
    """As `encode_symbols`.

    `common`: uint32[6 * 32], of symbols 0, 1 and 2 under each context what `starts` has, and the
    reciprocals of their frequencies, see `tables.common`.
    """
    at = encode_rest(symbols, contexts, starts, states, words, at)
    if at < 0:
        return -1
    least = v.splat(_FIRST_START)
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    for i in range((symbols.size & ~(STATES - 1)) - STATES, -1, -STATES):
        some0, under0 = v.load_u8(symbols, i), v.load_u8(contexts, i)
        some1, under1 = v.load_u8(symbols, i + 16), v.load_u8(contexts, i + 16)
        known = v.bits_of(v.less(some0, v.splat(LIKELY)))
        known &= v.bits_of(v.less(some1, v.splat(LIKELY)))
        if known == _ALL:
            first, second = v.equal(some0, v.splat(0)), v.equal(some0, v.splat(1))
            start0 = _of_common(common, 0, first, second, under0)
            reciprocal0 = _of_common(common, _RECIPROCALS, first, second, under0)
            first, second = v.equal(some1, v.splat(0)), v.equal(some1, v.splat(1))
            start1 = _of_common(common, 0, first, second, under1)
            reciprocal1 = _of_common(common, _RECIPROCALS, first, second, under1)
        else:
            start0 = v.gather_u32(starts, v.either(v.shift_left(under0, 8), some0))
            start1 = v.gather_u32(starts, v.either(v.shift_left(under1, 8), some1))
            reciprocal0 = v.reciprocal(v.shift_right(start0, 16))
            reciprocal1 = v.reciprocal(v.shift_right(start1, 16))
        least = v.choose(v.less(start1, least), start1, least)
        least = v.choose(v.less(start0, least), start0, least)
        x1, at = put_lanes(x1, start1, reciprocal1, words, at)
        x0, at = put_lanes(x0, start0, reciprocal0, words, at)
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    return at if v.bits_of(v.less(least, v.splat(_FIRST_START))) == 0 else -1
