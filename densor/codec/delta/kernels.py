"""Compiled loops of the change codec, for elements of 1, 2, 4 and 8 bytes.

An element and that of the base are unsigned integers of `w` bits, after `drop` low bits are cut
off. Methods, tokens and extra bits: see docs/format/delta.md. Nothing here allocates or validates.
"""

import numpy as np
from numba import njit, types

from densor.codec.delta.payload import BLOCK, SLACK
from densor.codec.delta.tokens import DIFFERENCE, FLOATS, OWN, SIGNED
from densor.entropy import vectors as v
from densor.entropy.intrinsics import leading_zeros, load_u64, ones, store_u64, trailing_zeros
from densor.entropy.jit import R8, R16, W8, W16, kernel

_U = np.uint64
_0, _1 = _U(0), _U(1)
_ALL = _U(0xFFFFFFFFFFFFFFFF)
_MAX_LOADED_BITS = 56  # most bits that one load of 64 is sure to hold

R64 = types.Array(types.uint64, 1, "C", readonly=True)
_READ = {
    1: R8,
    2: types.Array(types.uint16, 1, "C", readonly=True),
    4: types.Array(types.uint32, 1, "C", readonly=True),
    8: R64,
}
_WRITE = {1: W8, 2: types.uint16[::1], 4: types.uint32[::1], 8: types.uint64[::1]}
_int, _bool = types.int64, types.boolean


@njit
def _magnitude(x, b, method, floats, bits):
    """How `x` of `bits` bits differs from `b`: 1 if downwards, and by how much. No branches."""
    top = _1 << _U(bits - 1)
    below = top - _1
    if method != DIFFERENCE:
        return _0, x ^ b
    if floats:
        flip = b & top
        x ^= flip
        b ^= flip
        x ^= below & (_0 - (x >> _U(bits - 1)))
    d = (x - b) & (top | below)
    down = d >> _U(bits - 1)
    return down, ((d ^ (_0 - down)) + down) & (top | below)


@njit
def _rotated(x, floats, bits):
    """Own bits in coding order: of floats the exponent first and the sign last."""
    if floats:
        return (x << _1 | x >> _U(bits - 1)) & (_ALL >> _U(64 - bits))
    return x


@njit
def _token(x, b, method, floats, bits, direct, mantissa):
    """The token of an element, its number of extra bits, and these."""
    if method == OWN:
        value = _rotated(x, floats, bits)
        extra = bits - 8
        return value >> _U(extra), extra, value & ((_1 << _U(extra)) - _1)
    down, value = _magnitude(x, b, method, floats, bits)
    kind, extra = value, 0
    if value >> _U(direct):
        n = 63 - np.int64(leading_zeros(value))
        extra = n - mantissa
        kind = (_1 << _U(direct)) + (_U(n - direct) << _U(mantissa))
        kind += (value >> _U(extra)) & ((_1 << _U(mantissa)) - _1)
        value &= (_1 << _U(extra)) - _1
    if method == DIFFERENCE:
        kind = (kind << _1) - down
    return kind, extra, value


@njit
def _small_tokens_of_whole(x, b, method, floats, tokens):
    """Likewise, of elements of which no bits are dropped: in numbers of their size."""
    u = b.dtype.type
    top = u(1 << (8 * b.itemsize - 1))
    below, zero, one, most = u(top - u(1)), u(0), u(1), u(255)
    every = u(top | below)
    if method == DIFFERENCE:
        sign = top if floats else zero
        for i in range(tokens.size):
            old = u(b[i])
            flip = u(old & sign)
            new = u(u(x[i]) ^ flip)
            new = u(new ^ (below if u(new & sign) else zero))
            d = u(new - u(old ^ flip))
            tokens[i] = min(u(u(d << one) ^ (every if u(d & top) else zero)), most)
    else:
        for i in range(tokens.size):
            tokens[i] = min(u(u(x[i]) ^ u(b[i])), most)


@njit
def _small_tokens(x, b, method, floats, drop, bits, tokens):
    """Tokens as if all changes were small, 255 at most; without branches, to become vectors."""
    if drop == 0:
        _small_tokens_of_whole(x, b, method, floats, tokens)
        return
    top = _1 << _U(bits - 1)
    below, cut, used = top - _1, _U(drop), _ALL >> _U(64 - bits)
    most = _U(255)
    if method == DIFFERENCE and floats:
        for i in range(tokens.size):
            old = _U(b[i]) >> cut
            flip = old & top
            new = _U(x[i]) >> cut ^ flip
            new ^= below & (_0 - (new >> _U(bits - 1)))
            d = new - (old ^ flip) & used
            tokens[i] = min((d << _1 ^ (_0 - (d >> _U(bits - 1)))) & used, most)
    elif method == DIFFERENCE:
        for i in range(tokens.size):
            d = (_U(x[i]) >> cut) - (_U(b[i]) >> cut) & used
            tokens[i] = min((d << _1 ^ (_0 - (d >> _U(bits - 1)))) & used, most)
    else:
        for i in range(tokens.size):
            tokens[i] = min((_U(x[i]) ^ _U(b[i])) >> cut, most)


@njit
def _tokens_by_table(x, b, method, floats, drop, bits, table, places, tokens):
    """Tokens of elements of one or two bytes, looked up by their change as `_small_tokens` has it.

    `table`: uint8[65536]; `places`: uint16[], work space, as long as `tokens`.
    """
    u = np.uint16
    top, used = u(1 << (bits - 1)), u((1 << bits) - 1)
    below, cut, last = u(top - u(1)), u(drop), u(bits - 1)
    if method == DIFFERENCE:
        sign = top if floats else u(0)
        for i in range(tokens.size):
            old, new = u(u(b[i]) >> cut), u(u(x[i]) >> cut)
            flip = u(old & sign)
            new = u(new ^ flip)
            inverted = u(u(0) - u(u(new & sign) >> last))
            new = u(new ^ u(below & inverted))
            d = u(u(new - u(old ^ flip)) & used)
            places[i] = u(u(u(d << u(1)) ^ u(u(0) - u(d >> last))) & used)
    else:
        for i in range(tokens.size):
            places[i] = u(u(u(x[i]) ^ u(b[i])) >> cut)
    for i in range(tokens.size):
        tokens[i] = table[places[i]]


@njit
def _largest(tokens):
    largest = np.uint8(0)
    for i in range(tokens.size):
        largest = max(largest, tokens[i])
    return largest


@njit
def _large(tokens, begin, plain):
    """A bit for each of the 64 tokens, or fewer, from `begin` on: whether its change is large."""
    hits = _0
    if begin + 64 <= tokens.size:
        least = v.splat(plain)
        for k in range(0, 64, v.LANES):
            small = v.bits_of(v.less(v.load_u8(tokens, begin + k), least))
            hits |= _U(small) << _U(k)
        return ~hits
    for k in range(tokens.size - begin):
        hits |= _U(tokens[begin + k] >= plain) << _U(k)
    return hits


@njit
def _tokens_of_block(
    x, b, method, floats, drop, bits, direct, mantissa, plain, table, places, tokens
):
    """Fills `tokens`: uint8[BLOCK] at most. Changes with tokens below `plain` are small.

    `table`: uint8[65536], of elements of one or two bytes what a change has as a token, by its bits
    as `_small_tokens` has them; `places`: uint16[BLOCK], work space.
    """
    if method == OWN:
        for i in range(tokens.size):
            tokens[i] = _rotated(_U(x[i]) >> _U(drop), floats, bits) >> _U(bits - 8)
        return
    _small_tokens(x, b, method, floats, drop, bits, tokens)
    if _largest(tokens) < plain:
        return
    if x.itemsize <= 2:
        _tokens_by_table(x, b, method, floats, drop, bits, table, places[: tokens.size], tokens)
        return
    for first in range(0, tokens.size, 64):
        hits = _large(tokens, first, plain)
        while hits != _0:
            i = first + np.int64(trailing_zeros(hits))
            hits &= hits - _1
            xi, bi = _U(x[i]) >> _U(drop), _U(b[i]) >> _U(drop)
            tokens[i], _, _ = _token(xi, bi, method, floats, bits, direct, mantissa)


def _tokens(x, b, method, floats, drop, bits, direct, mantissa, plain, table, places, tokens):
    """Fills `tokens`: uint8[n]; see `_tokens_of_block`."""
    for begin in range(0, tokens.size, BLOCK):
        end = min(begin + BLOCK, tokens.size)
        _tokens_of_block(
            x[begin:end], b[begin:end], method, floats, drop, bits, direct, mantissa, plain, table,
            places, tokens[begin:end],
        )  # fmt: skip


tokens_of = njit(_tokens)


@njit
def _put(out, at, pending, filled, value, count):
    """Appends the lowest `count` bits, at most 32, of which the others are 0."""
    pending |= value << _U(filled)
    store_u64(out, at, pending)
    whole = (filled + count) >> 5
    return at + 4 * whole, pending >> _U(32 * whole), (filled + count) & 31


@njit
def put_extras(x, b, method, floats, drop, bits, counts, plain, tokens, out):
    """Writes the extra bits of large changes to `out`, which has 8 bytes more than they need.

    `counts`: uint8[256], the number of extra bits of each token.
    """
    pending, filled, at = _0, 0, 0
    for first in range(0, x.size, 64):
        hits = _large(tokens, first, plain)
        while hits != _0:
            i = first + np.int64(trailing_zeros(hits))
            hits &= hits - _1
            xi, bi = _U(x[i]) >> _U(drop), _U(b[i]) >> _U(drop)
            extra = np.int64(counts[tokens[i]])
            value = _rotated(xi, floats, bits)
            if method != OWN:
                _, value = _magnitude(xi, bi, method, floats, bits)
            value &= (_1 << _U(extra)) - _1
            if extra > 32:
                low = value & _U(0xFFFFFFFF)
                at, pending, filled = _put(out, at, pending, filled, low, 32)
                value >>= _U(32)
                extra -= 32
            at, pending, filled = _put(out, at, pending, filled, value, extra)
    store_u64(out, at, pending)


@njit
def _take(extras, at, count):
    """`count` bits, at most 63, from bit `at` on; `extras` has `SLACK` bytes behind them."""
    value = load_u64(extras, at >> 3) >> _U(at & 7)
    if count > _MAX_LOADED_BITS:
        high = load_u64(extras, (at + 32) >> 3) >> _U(at & 7)
        value = (value & _U(0xFFFFFFFF)) | high << _U(32)
    return value & ((_1 << _U(count)) - _1)


@njit
def _changed(b, change, method, floats, bits):
    """The element that differs from `b` by `change`, both of `bits` bits. No branches."""
    all_bits = _ALL >> _U(64 - bits)
    if method != DIFFERENCE:
        return (b ^ change) & all_bits
    if not floats:
        return (b + change) & all_bits
    top = _1 << _U(bits - 1)
    flip = b & top
    x = ((b ^ flip) + change) & all_bits
    x ^= (top - _1) & (_0 - (x >> _U(bits - 1)))
    return x ^ flip


@njit
def _apply_small_to_whole(b, tokens, method, floats, out):
    """Likewise, to elements of which no bits are dropped: in numbers of their size."""
    u = b.dtype.type
    top = u(1 << (8 * b.itemsize - 1))
    below, zero, one = u(top - u(1)), u(0), u(1)
    if method == DIFFERENCE:
        sign = top if floats else zero
        for i in range(out.size):
            token, old = u(tokens[i]), u(b[i])
            flip = u(old & sign)
            new = u(u(old ^ flip) + u(u(token >> one) ^ u(zero - u(token & one))))
            new = u(new ^ (below if u(new & sign) else zero))
            out[i] = u(new ^ flip)
    else:
        for i in range(out.size):
            out[i] = u(u(b[i]) ^ u(tokens[i]))


@njit
def _apply_small(b, tokens, method, floats, drop, bits, out):
    """Applies changes without extra bits. No branches, so that the loops become vectors."""
    if drop == 0:
        _apply_small_to_whole(b, tokens, method, floats, out)
        return
    top = _1 << _U(bits - 1)
    below, cut, used = top - _1, _U(drop), _ALL >> _U(64 - bits)
    if method == DIFFERENCE and floats:
        for i in range(out.size):
            token, old = _U(tokens[i]), _U(b[i]) >> cut
            flip = old & top
            new = (old ^ flip) + (token >> _1 ^ (_0 - (token & _1))) & used
            new ^= below & (_0 - (new >> _U(bits - 1)))
            out[i] = (new ^ flip) << cut
    elif method == DIFFERENCE:
        for i in range(out.size):
            token = _U(tokens[i])
            out[i] = (_U(b[i]) >> cut) + (token >> _1 ^ (_0 - (token & _1))) << cut
    else:
        for i in range(out.size):
            out[i] = (_U(b[i]) >> cut ^ _U(tokens[i])) << cut


@njit
def _apply_own(tokens, extras, at, limit, floats, drop, bits, out):
    """Elements that do not depend on the base; returns where their extra bits end."""
    count = bits - 8
    for i in range(out.size):
        value = _U(tokens[i]) << _U(count) | _take(extras, min(at, limit), count)
        at += count
        if floats:
            value = (value >> _1) | (value & _1) << _U(bits - 1)
        out[i] = value << _U(drop)
    return at


@njit
def _apply_large(
    b, tokens, extras, at, limit, starts, counts, plain, method, floats, drop, bits, out
):
    """Applies large changes, whose extra bits begin at bit `at`; returns where they end."""
    signed = _U(method == DIFFERENCE)
    for first in range(0, out.size, 64):
        hits = _large(tokens, first, plain)
        while hits != _0:
            i = first + np.int64(trailing_zeros(hits))
            hits &= hits - _1
            token = tokens[i]
            count = np.int64(counts[token])
            value = _take(extras, min(at, limit), count)
            at += count
            down = _0 - (_U(token) & signed)
            change = starts[token] + (value ^ down) - down
            out[i] = _changed(_U(b[i]) >> _U(drop), change, method, floats, bits) << _U(drop)
    return at


@njit
def apply_block(b, tokens, extras, at, starts, counts, plain, method, floats, drop, bits, out):
    """Decodes a block of elements from their tokens and the base; returns where extra bits end.

    `starts`: uint64[256], the least change that a token stands for, `counts`: uint8[256], its
    number of extra bits; changes with tokens below `plain` are small. `extras`: the extra bits and
    `SLACK` bytes; those of this block begin at bit `at`. Where tokens ask for more, elements are
    wrong, and what is returned tells.
    """
    limit = 8 * (extras.size - SLACK)
    if method == OWN:
        return _apply_own(tokens, extras, at, limit, floats, drop, bits, out)
    _apply_small(b, tokens, method, floats, drop, bits, out)
    if _largest(tokens) >= plain:
        at = _apply_large(
            b, tokens, extras, at, limit, starts, counts, plain, method, floats, drop, bits, out
        )
    return at


def _common(x):
    """The bits that any element has."""
    found = x[0] & x[0]
    for i in range(x.size):
        found |= x[i]
    return _U(found)


def per_size(function, signature):
    """Kernels of a function by size of elements; `signature`: of readable and writable arrays."""
    name = function.__name__.strip("_")
    return {
        size: kernel(signature(_READ[size], _WRITE[size]), name=f"{name}_{size}")(function)
        for size in _READ
    }


METHOD = (_int, _bool, _int, _int, _int, _int)
TOKENS = per_size(_tokens, lambda r, w: types.void(r, r, *METHOD, _int, R8, W16, W8))
COMMON = per_size(_common, lambda r, w: types.uint64(r))


def _values(b, shift, values, counts):
    """Sets `values`, uint16[n], to bits of `b >> shift`; counts them, uint32[a power of two]."""
    mask = _U(counts.size - 1)
    for i in range(values.size):
        value = _U(b[i]) >> _U(shift) & mask
        values[i] = value
        counts[value] += np.uint32(1)


VALUES = per_size(_values, lambda r, w: types.void(r, _int, W16, types.uint32[::1]))


@kernel(types.int64(R8, R16, R16, R8, types.uint32[::1], types.int64[:, ::1]))
def count_rows(tokens, values, row_of, bits_of, work, counts):
    """How often a sample has each token in each row; returns their extra bits.

    `tokens`: uint8[n], `values`: uint16[n], of which `row_of` has the rows, `bits_of`: uint8[256];
    `counts`: int64[rows, 256]. `work`: uint32[2 * counts.size], all 0: token by token, since cells
    of few tokens in many rows would fall into the same few sets of a cache; in two tables, since
    equal neighbours wait for each other's stores.
    """
    many = counts.shape[0]
    other = work[counts.size :]
    for i in range(0, tokens.size & ~1, 2):
        work[np.int64(tokens[i]) * many + np.int64(row_of[values[i]])] += np.uint32(1)
        other[np.int64(tokens[i + 1]) * many + np.int64(row_of[values[i + 1]])] += np.uint32(1)
    if tokens.size & 1:
        last = tokens.size - 1
        work[np.int64(tokens[last]) * many + np.int64(row_of[values[last]])] += np.uint32(1)
    extra = np.int64(0)
    for s in range(256):
        total = np.int64(0)
        for r in range(many):
            one = np.int64(work[s * many + r]) + np.int64(other[s * many + r])
            counts[r, s] = one
            total += one
        extra += total * np.int64(bits_of[s])
    return extra


@kernel(types.float64(types.int64[:, ::1]))
def rough_bits(counts):
    """About what coding a sample costs with a context for each row of counts, int64[rows, 256].

    The description length of Rissanen (1978): half a logarithm of the row's sum for each parameter.
    """
    bits = 0.0
    for r in range(counts.shape[0]):
        total = np.int64(0)
        used = 0
        for s in range(256):
            one = counts[r, s]
            if one > 0:
                total += one
                used += 1
                if one > 1:
                    bits -= one * np.log2(np.float64(one))
        if total > 0:
            bits += total * np.log2(np.float64(total)) + 0.5 * (used - 1) * np.log2(total + 1.0)
    return max(0.0, bits)


@njit
def _place(x, order, top):
    """Where an element stands in numeric order; `order`: UNSIGNED, SIGNED or FLOATS."""
    if order == FLOATS:
        return top + x if x < top else top - _1 - (x - top)
    return x ^ top if order == SIGNED else x


def _compare(new, old, order, found):
    """Adds to `found`: uint64[3], elements that differ, bits that differ, the largest distance."""
    top = _1 << _U(8 * new.itemsize - 1)
    for i in range(new.size):
        if new[i] != old[i]:
            x, b = _U(new[i]), _U(old[i])
            found[0] += _1
            found[1] += _U(ones(x ^ b))
            x, b = _place(x, order, top), _place(b, order, top)
            found[2] = max(found[2], x - b if x > b else b - x)


COMPARE = per_size(_compare, lambda r, w: types.void(r, r, _int, types.uint64[::1]))
