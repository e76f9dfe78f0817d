"""Whole chunks of changes by one compiled call each, block by block, so that blocks stay in caches.

For elements of 1, 2, 4 and 8 bytes. What is done with an element: see `kernels`.
"""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from densor.codec.delta.apply_kernels import decode_runs
from densor.codec.delta.find_kernels import LARGE, find_run
from densor.codec.delta.kernels import (
    METHOD,
    R64,
    _large,
    apply_block,
    per_size,
    put_extras,
    tokens_of,
)
from densor.codec.delta.payload import (
    BLOCK,
    DECODED,
    EXTRAS_OTHER,
    MALFORMED,
    SHORT,
    SLACK,
    STREAM_BEGIN,
    STREAM_END,
    STREAM_LEFT,
    STREAM_SHORT,
    WIDE,
)
from densor.codec.delta.tokens import DIFFERENCE
from densor.entropy.intrinsics import (
    copy_bytes,
    load_u32,
    load_u64,
    ones,
    store_u32,
    trailing_zeros,
)
from densor.entropy.jit import R8, R32, W8, W16, W32
from densor.entropy.rans.common_kernels import decode_common, encode_common
from densor.entropy.rans.constants import CONTEXTS, FIRST, LIKELY, LOOK, STATES
from densor.entropy.rans.kernels import decode_groups, decode_rest, encode_symbols
from densor.entropy.register_tables import (
    RUN,
    count_both,
    count_equal,
    fast,
    look_up_bytes,
    part_zeros,
)

_U = np.uint64
_BYTE, _EIGHT = _U(255), _U(8)
_STATE_BYTES = 4 * STATES
_RARE = 4  # groups for each one with other tokens, for which these are rare
_FEW_CONTEXTS = 8  # for which vectors count likely tokens faster
_LENGTH = 4  # bytes of the length of the stream
_FIRST = np.uint32(FIRST)


@intrinsic
def _shifted(typingctx, value, bits):
    """An unsigned integer shifted right by fewer bits than it has, in its own type.

    numba takes 64 bits for it, of which LLVM makes loops with few numbers in a vector.
    """
    build = lambda context, builder, signature, args: builder.lshr(*args)  # noqa: E731
    return value(value, value), build


@njit
def _contexts(b, shift, mapped, first, window, out):
    """`out[i] = mapped[b[i] >> shift]`, of as many bits as `mapped` is long for.

    `first`, `window`: see `Contexts.window`.
    """
    if fast() and first >= 0:
        _contexts_by_window(b, shift, mapped.size - 1, first, window, out)
        return
    mask = _U(mapped.size - 1)
    for i in range(out.size):
        out[i] = mapped[_U(b[i]) >> _U(shift) & mask]


@njit
def _contexts_by_window(b, shift, mask, first, window, out):
    """Likewise, 64 look-ups at a time; the loop before becomes vectors of elements."""
    u = b.dtype.type
    cut, used, low, last = u(shift), u(mask), u(first), u(255)
    for i in range(out.size):
        place = u(_shifted(u(b[i]), cut) & used)
        place = u(max(place, low) - low)
        out[i] = min(place, last)
    whole = out.size & ~(RUN - 1)
    for i in range(0, whole, RUN):
        look_up_bytes(window, out, i)
    for i in range(whole, out.size):
        out[i] = window[out[i]]


@njit
def _tally(tokens, contexts, rows, work):
    """Counts in 8 tables of `rows` numbers in turn.

    Equal neighbours do not wait for each other's stores then; nor for those at the same place of
    another page.
    """
    one = np.uint32(1)
    whole = tokens.size & ~7
    for i in range(0, whole, 8):
        eight = load_u64(tokens, i)
        under = load_u64(contexts, i)
        base = _U(0)
        for _ in range(8):
            work[base + ((under & _BYTE) << _EIGHT | (eight & _BYTE))] += one
            eight >>= _EIGHT
            under >>= _EIGHT
            base += _U(rows)
    for i in range(whole, tokens.size):
        work[np.int64(contexts[i]) << 8 | np.int64(tokens[i])] += one


@njit
def _tally_rare(tokens, contexts, rows, work, rest):
    """As `_tally` where most tokens are 0, which are counted 64 at a time; else returns False.

    Work space: `rest`, uint8[3 * (WIDE + 64)].
    """
    keys, kept, under = _parts_of(rest)
    count = 0
    for i in range(0, tokens.size & ~(RUN - 1), RUN):
        count = part_zeros(tokens, contexts, i, keys, kept, under, count)
    return _tally_parted(tokens, contexts, rows, work, rest, count)


@njit
def _parts_of(rest):
    """Work space of `_tally_rare`: keys, and what is kept; see `part_zeros`."""
    part = WIDE + RUN
    return rest[:part], rest[part : 2 * part], rest[2 * part :]


@njit
def _tally_parted(tokens, contexts, rows, work, rest, count):
    """Likewise, once zeros were parted from `count` other tokens."""
    keys, kept, under = _parts_of(rest)
    whole = tokens.size & ~(RUN - 1)
    if count * _RARE > whole:
        return False
    for begin in range(0, whole, BLOCK):
        end = min(begin + BLOCK, whole)
        for c in range(rows >> 8):
            zeros = 0
            for i in range(begin, end, RUN):
                zeros += count_equal(keys, i, c)
            work[c << 8] += np.uint32(zeros)
    _tally_kept(kept[:count], under[:count], rows, work)
    _tally(tokens[whole:], contexts[whole:], rows, work)
    return True


@njit
def _tally_kept(tokens, contexts, rows, work):
    """As `_tally`, where none is 0 and most are likely ones, which are counted 64 at a time."""
    whole = tokens.size & ~(RUN - 1)
    others = 0
    for i in range(0, whole, RUN):
        others += ones(_large(tokens, i, LIKELY))
    if others * _RARE > whole or rows >> 8 > _FEW_CONTEXTS:
        _tally(tokens, contexts, rows, work)
        return
    for c in range(rows >> 8):
        for s in range(1, LIKELY):
            total = 0
            for i in range(0, whole, RUN):
                total += count_both(tokens, contexts, i, s, c)
            work[c << 8 | s] += np.uint32(total)
    for first in range(0, whole, RUN):
        hits = _large(tokens, first, LIKELY)
        while hits != _U(0):
            i = first + np.int64(trailing_zeros(hits))
            hits &= hits - _U(1)
            work[np.int64(contexts[i]) << 8 | np.int64(tokens[i])] += np.uint32(1)
    _tally(tokens[whole:], contexts[whole:], rows, work)


@njit
def _find_rare(
    x, b, method, floats, drop, bits, direct, mantissa, plain, table, places, shift, mapped, first,
    window, tokens, contexts, rows, work, rest,
):  # fmt: skip
    """Tokens, contexts and `_tally_rare` of differences of elements of two bytes, in one pass."""
    keys, kept, under = _parts_of(rest)
    whole = tokens.size & ~(RUN - 1)
    count = 0
    for begin in range(0, whole, BLOCK):
        end = min(begin + BLOCK, whole)
        before, large = count, 0
        for i in range(begin, end, RUN):
            found = find_run(
                x, b, i, floats, plain, shift, mapped.size - 1, first, window, tokens, contexts,
                keys, kept, under, count,
            )  # fmt: skip
            count = found & ((1 << LARGE) - 1)
            large |= found >> LARGE
        if large != 0:
            tokens_of(
                x[begin:end], b[begin:end], method, floats, drop, bits, direct, mantissa, plain,
                table, places, tokens[begin:end],
            )  # fmt: skip
            count = before
            for i in range(begin, end, RUN):
                count = part_zeros(tokens, contexts, i, keys, kept, under, count)
    if whole < tokens.size:
        tokens_of(
            x[whole:], b[whole:], method, floats, drop, bits, direct, mantissa, plain, table,
            places, tokens[whole:],
        )  # fmt: skip
        _contexts(b[whole:], shift, mapped, first, window, contexts[whole:])
    return _tally_parted(tokens, contexts, rows, work, rest, count)


def _find(
    x, b, method, floats, drop, bits, direct, mantissa, plain, table, places, shift, mapped, first,
    window, tokens, contexts, work, rest, counts,
):  # fmt: skip
    """Fills `tokens` and `contexts`, uint8[n]; `counts[context, token]` is how often both occur.

    Method, `plain`, `table` and `places`: see `kernels`. `shift`, `mapped`, `first`, `window`: see
    `_contexts`. `work`: uint32[8 * (counts.size + 48)], all 0. `rest`: see `_tally_rare`.
    """
    rows = (counts.shape[0] << 8) + 48
    rare = fast() and counts.shape[0] <= CONTEXTS
    in_runs = x.itemsize == 2 and method == DIFFERENCE and drop == 0 and first >= 0
    for begin in range(0, tokens.size, WIDE):
        end = min(begin + WIDE, tokens.size)
        some, under = tokens[begin:end], contexts[begin:end]
        if rare and in_runs:
            rare = _find_rare(
                x[begin:end], b[begin:end], method, floats, drop, bits, direct, mantissa, plain,
                table, places, shift, mapped, first, window, some, under, rows, work, rest,
            )  # fmt: skip
        else:
            tokens_of(
                x[begin:end], b[begin:end], method, floats, drop, bits, direct, mantissa, plain,
                table, places, some,
            )  # fmt: skip
            _contexts(b[begin:end], shift, mapped, first, window, under)
            rare = rare and _tally_rare(some, under, rows, work, rest)
        if not rare:
            _tally(some, under, rows, work)
    for c in range(counts.shape[0]):
        for s in range(256):
            at = c << 8 | s
            total = np.int64(0)
            for k in range(8):
                total += np.int64(work[k * rows + at])
            counts[c, s] = total


def _code(
    x, b, method, floats, drop, bits, counts, plain, tokens, contexts, starts, common, states,
    words, extras,
):  # fmt: skip
    """Codes tokens to the end of `words`, and writes the extra bits of large changes to `extras`.

    `tokens`, `contexts`: as from `_find`. `counts`: uint8[256], extra bits of each token. `starts`:
    as from `build_starts`. `words`: uint8[2 n + 192]; `extras`: 8 bytes more than the bits need.
    `common`: see `encode_common`; empty where other tokens are not rare. `states`: uint32[32], work
    space. Returns where the stream begins in `words`, or -1 where a
    token has no frequency.
    """
    states[:] = _FIRST
    if fast() and common.size:
        at = encode_common(tokens, contexts, starts, common, states, words, words.size)
    else:
        at = encode_symbols(tokens, contexts, starts, states, words, words.size)
    if at < 0:
        return -1
    at -= _STATE_BYTES
    for lane in range(STATES):
        store_u32(words, at + 4 * lane, states[lane])
    put_extras(x, b, method, floats, drop, bits, counts, plain, tokens, extras)
    return at


@njit
def _begin(coded, states):
    """Reads where the stream ends and its states; that end, or the number of an error."""
    if coded.size < _LENGTH:
        return MALFORMED
    length = np.int64(load_u32(coded, 0))
    if length > coded.size - _LENGTH:
        return SHORT
    if length < _STATE_BYTES:
        return STREAM_SHORT
    for lane in range(STATES):
        states[lane] = load_u32(coded, _LENGTH + 4 * lane)
        if states[lane] < _FIRST:
            return STREAM_BEGIN
    return _LENGTH + length


def _decode(
    coded, b, table, ends, shift, mapped, first, window, starts, counts, plain, method, floats,
    drop, bits, tokens, contexts, tail, states, extras, out,
):  # fmt: skip
    """Decodes all of `out`; returns 0, or the number of an error, which is negative.

    `coded`: uint8[], payload of a chunk behind its mode. `b`: as many elements of the base.
    `table`: as from `build_table`, of all contexts that `mapped` has; `ends`: see `decode_common`;
    empty where there are too many. `first`, `window`: see `Contexts.window`. `starts`, `counts`,
    `plain`: see `apply_block`. Work space: `tokens`, `contexts`, uint8[DECODED]; `tail`,
    uint8[3 * LOOK]; `states`, uint32[32]; `extras`, uint8[coded.size + SLACK].
    """
    end = _begin(coded, states)
    if end < 0:
        return end
    stored = coded.size - end
    copy_bytes(extras, 0, coded, end, stored)
    some_extras = extras[: stored + SLACK]
    some_extras[stored:] = 0
    words, left, at = coded[:end], -1, _LENGTH + _STATE_BYTES
    bit = 0
    common = fast() and ends.size > 0
    in_runs = b.itemsize == 2 and method == DIFFERENCE and drop == 0 and first >= 0
    for begin in range(0, out.size, DECODED):
        size = min(DECODED, out.size - begin)
        old, some, under = b[begin : begin + size], tokens[:size], contexts[:size]
        new = out[begin : begin + size]
        done = 0
        if common and in_runs and left < 0:
            done, at, bit, others = decode_runs(
                words, at, end - 2 * LOOK, states, table, ends, old, shift, mapped.size - 1, first,
                window, some, under, some_extras, bit, 8 * stored, starts, counts, plain, method,
                floats, bits, new,
            )  # fmt: skip
            common = others * STATES * _RARE <= size
        _contexts(old[done:], shift, mapped, first, window, under[done:])
        i = done
        if left < 0:
            last = end - 2 * LOOK
            if common and not in_runs:
                i, at, others = decode_common(
                    words, at, last, states, table, ends, under, size, some
                )
                common = others * STATES * _RARE <= size
            else:
                i, at = decode_groups(words, at, last, states, table, under, i, size, some)
            if i + STATES <= size:  # near the end words are read from `tail`, beyond which is room
                left = end - at
                tail[:] = 0
                copy_bytes(tail, 0, words, at, left)
                words, at = tail[:left], 0
        if left >= 0:
            i, at = decode_groups(tail, at, left, states, table, under, i, size, some)
            if at > left or i + STATES <= size:
                return STREAM_END
        at = decode_rest(words, at, states, table, under, i, size, some)
        if at < 0:
            return STREAM_END
        bit = apply_block(
            old[done:], some[done:], some_extras, bit, starts, counts, plain, method, floats, drop,
            bits, new[done:],
        )  # fmt: skip
    if at != words.size:
        return STREAM_LEFT
    for lane in range(STATES):
        if states[lane] != _FIRST:
            return STREAM_LEFT
    if stored != (bit + 7) >> 3 or (bit & 7 and coded[coded.size - 1] >> (bit & 7)):
        return EXTRAS_OTHER
    return 0


_int, _bool = types.int64, types.boolean
_I64_2D = types.int64[:, ::1]

FIND = per_size(
    _find,
    lambda r, w: types.void(
        r, r, *METHOD, _int, R8, W16, _int, R8, _int, R8, W8, W8, W32, W8, _I64_2D
    ),
)  # fmt: skip
CODE = per_size(
    _code, lambda r, w: _int(r, r, *METHOD[:4], R8, _int, R8, R8, R32, R32, W32, W8, W8)
)  # fmt: skip
DECODE = per_size(
    _decode,
    lambda r, w: _int(
        R8,
        r,
        R32,
        R32,
        _int,
        R8,
        _int,
        R8,
        R64,
        R8,
        _int,
        _int,
        _bool,
        _int,
        _int,
        W8,
        W8,
        W8,
        W32,
        W8,
        w,
    ),
)
