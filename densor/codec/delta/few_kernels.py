"""Compiled loops for changes of few elements, see docs/format/delta_few.md. Nothing here allocates.

Elements and those of the base are unsigned integers of 1, 2, 4 or 8 bytes. `rates`: uint32[2^B],
how often elements change whose bits `b >> shift & mask` these are, in units of 2^-18; at least 1.
"""

import numpy as np
from numba import njit, types

from densor.codec.delta.kernels import _READ, _WRITE, _changed, _token
from densor.codec.delta.payload import SUMS
from densor.codec.delta.tokens import DIFFERENCE
from densor.entropy import vectors as v
from densor.entropy.differences import differing
from densor.entropy.intrinsics import leading_zeros, ones, prefetch, trailing_zeros
from densor.entropy.jit import I64, R8, R16, R32, W8, W16, W32, inlined, kernel
from densor.entropy.register_tables import fast, look_up
from densor.entropy.vectors import LANES

_U = np.uint64
_0, _1 = _U(0), _U(1)
UNIT_BITS = 18  # one change that is expected
CLASSES = 64
_OFFSET = 44 - 4 * UNIT_BITS  # a class for each quarter octave of expected changes
_WINDOW = _U(64 << UNIT_BITS)  # beyond which what was seen is halved
UPDATE_BITS = 11  # elements between updates
_TOTALS = SUMS - (1 << 8)  # where sums of blocks begin, a multiple of 16
_LOW = _U(1 << 31)  # the least state
_PLACE_BITS = 24
_WHOLE = _U(1 << 2 * _PLACE_BITS)
_WORD = _U(0xFFFFFFFF)
_AHEAD = 12  # changes that memory is asked for ahead
_SCATTERED = 6  # block bits from which changes are far apart: the processor does not ask for memory
_EXTRA_PART = 16  # bits that are coded at a time
_FLOAT_MANTISSA, _FLOAT_BIAS = 23, 127

_R64 = types.Array(types.uint64, 1, "C", readonly=True)
_R16_2D = types.Array(types.uint16, 2, "C", readonly=True)
_I64_2D = types.int64[:, ::1]
_RI64 = types.Array(types.int64, 1, "C", readonly=True)
_int, _bool = types.int64, types.boolean


@inlined
def _quarters(x):
    """log2 of x, at least 1, in quarter octaves, the last two bits by straight lines."""
    y = x << _U(2)
    n = 63 - np.int64(leading_zeros(y))
    return 4 * (n - 2) + np.int64((y >> _U(n - 2)) & _U(3))


@inlined
def _classes_of(totals, at, scale):
    """The classes of 16 blocks in which so many units are expected before they are scaled: these
    are less than 2^30. A float32 has their logarithm in its leading bits."""
    units = v.load_u32(totals, at)
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
def _nearby(old, shift, mask, rates, near):
    """Fills `near` with the rates of 32 values in a row that most elements have in their bits;
    returns the first of these, or -1 where looking them up would not be fast."""
    if not fast() or old.itemsize > 4 or mask < 31 or old.size < LANES:
        return -1
    highest = _0
    for i in range(0, old.size, max(1, old.size >> 6)):
        highest = max(highest, (_U(old[_U(i)]) >> shift) & mask)
    first = min(max(np.int64(highest) - 30, 0), np.int64(mask) - 31)
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
def _running(old, begin, end, shift, mask, rates, near, first, sums, at):
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
def _before(sums, at, k):
    """The units before element k of a block whose sums begin at `at`."""
    return _U(sums[_U(at + k - 1)]) if k else _0


@njit
def _classes(
    old, begin, end, bits, scale, shift, mask, rates, near, first, running, sums, classes, at
):
    """Fills `classes` from `at` on with those of the blocks of 2^bits elements from element `begin`
    to `end`, at most 2^11, before any of these changes; returns the units of all.

    Up to 15 more classes are filled. `sums`: uint32[SUMS]; where they are to be `running` it gets
    those of the elements of each block. By itself, so that the processor need not begin anew with
    it where it was wrong about a count.
    """
    size = 1 << bits
    totals = _TOTALS
    for i in range(begin, end, size):
        last = min(i + size, end)
        if running:
            total = _running(old, i, last, shift, mask, rates, near, first, sums, i - begin)
        else:
            total = _sum(old, i, last, shift, mask, rates, near, first)
        sums[_U(totals)] = total
        totals += 1
    for k in range(totals, (totals + LANES - 1) & -LANES):
        sums[_U(k)] = 0
    expected = _0
    for k in range(_TOTALS, totals, LANES):
        v.store_u8(classes, at + k - _TOTALS, _classes_of(sums, k, scale))
        expected += v.sum_of(v.load_u32(sums, k))
    return expected


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
    scale = _quarters(happened) - _quarters(expected)
    first = _nearby(old, shift, mask, rates, near)
    at, left = _0, _U(positions.size)
    for part in range(0, old.size, 1 << UPDATE_BITS):
        last = min(part + (1 << UPDATE_BITS), old.size)
        begin, block = part >> block_bits, (last + size - 1) >> block_bits
        expected += _classes(
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
            while expected > _WINDOW:
                happened >>= _1
                expected >>= _1
            happened = max(happened, _1)
            scale = _quarters(happened) - _quarters(expected)


@njit
def _put(state, at, words, start, freq, bits):
    """Codes a symbol that owns `freq` of 2^bits slots; the stream grows downwards."""
    if state >= ((_LOW >> bits) << _U(32)) * freq:
        at -= 1
        words[_U(at)] = state & _WORD
        state >>= _U(32)
    return ((state // freq) << bits) + state % freq + start, at


def _code(
    new,
    old,
    shift,
    mask,
    rates,
    near,
    mapped,
    method,
    block_bits,
    classes,
    counts,
    positions,
    tokens,
    count_starts,
    token_starts,
    extras,
    sums,
    words,
):
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
    first = _nearby(old, shift, mask, rates, near)
    for block in range(classes.size - 1, -1, -1):
        count = np.int64(counts[block])
        if count:
            begin = block << block_bits
            end = min(begin + size, new.size)
            if block_bits >= _SCATTERED and last >= _AHEAD:
                i = np.int64(positions[_U(last - _AHEAD)])
                prefetch(new, i)
                for k in range(i & -size, i | (size - 1), 64 // new.itemsize):
                    prefetch(old, k)
            whole = _running(old, begin, end, shift, mask, rates, near, first, sums, 0)
            for j in range(last - 1, last - count - 1, -1):
                i = np.int64(positions[_U(j)])
                token = _U(tokens[_U(j)])
                which = mapped[token >> _U(8)]
                token &= _U(255)
                extra, value = np.int64(extras[token]), _0
                if extra:
                    new_i, old_i = _U(new[_U(i)]), _U(old[_U(i)])
                    _, _, value = _token(new_i, old_i, DIFFERENCE, floats, bits, direct, mantissa)
                done = extra - extra % _EXTRA_PART
                part = extra - done
                while True:
                    if part:
                        few = (value >> _U(done)) & ((_1 << _U(part)) - _1)
                        state, at = _put(state, at, words, few, _1, _U(part))
                    if not done:
                        break
                    part = _EXTRA_PART
                    done -= part
                low = _U(token_starts[which, token])
                high = _U(token_starts[which, token + _1])
                state, at = _put(state, at, words, low, high - low, _U(12))
                before = _0
                if j > last - count:
                    before = _U(sums[_U(np.int64(positions[_U(j - 1)]) - begin)])
                scaled = _WHOLE // (whole - before)
                low = ((_before(sums, 0, i - begin) - before) * scaled) >> _U(_PLACE_BITS)
                high = ((_U(sums[_U(i - begin)]) - before) * scaled) >> _U(_PLACE_BITS)
                state, at = _put(state, at, words, low, high - low, _U(_PLACE_BITS))
            last -= count
        which = classes[_U(block)]
        low = _U(count_starts[which, _U(count)])
        high = _U(count_starts[which, _U(count) + _1])
        if high - low < _U(4096):
            state, at = _put(state, at, words, low, high - low, _U(12))
    at -= 2
    words[at] = state & _WORD
    words[at + 1] = state >> _U(32)
    return at


def _apply(
    data,
    words,
    shift,
    mask,
    rates,
    near,
    mapped,
    method,
    block_bits,
    seen_first,
    count_starts,
    token_starts,
    starts,
    extras,
    sums,
    classes,
):
    """Changes `data` from what it was to what it becomes; whether the stream was sound.

    Arguments as for `_code`; `words`: at least two; `seen_first` as for `_record`; `starts`,
    `extras`: least change and number of extra bits of each token. `classes`: uint8[2^8], used.
    """
    shift, mask = _U(shift), _U(mask)
    floats, bits = method[0] != 0, method[1]
    size = 1 << block_bits
    happened, expected = seen_first[0], seen_first[1]
    scale = _quarters(happened) - _quarters(expected)
    every = (1 << (UPDATE_BITS - block_bits)) - 1
    short = block_bits < _SCATTERED
    state = _U(words[0]) | _U(words[1]) << _U(32)
    at = 2
    if state < _LOW or state >> _U(63):
        return False
    near_first = _nearby(data, shift, mask, rates, near)
    part = 0
    for block in range((data.size + size - 1) >> block_bits):
        begin = block * size
        end = min(begin + size, data.size)
        if not block & every:
            part = begin
            last = min(begin + (1 << UPDATE_BITS), data.size)
            expected += _classes(
                data, begin, last, block_bits, scale, shift, mask, rates, near, near_first, short,
                sums, classes, 0,
            )  # fmt: skip
        which = classes[_U(block & every)]
        slot = state & _U(4095)
        count = _0
        low, freq = _0, _U(count_starts[which, _1])
        if slot >= freq:  # mostly not: the processor goes on with no change before it knows
            count = _1 + _U(_U(count_starts[which, _U(2)]) <= slot)
            while _U(count_starts[which, count + _1]) <= slot:
                count += _1
            low = _U(count_starts[which, count])
            freq = _U(count_starts[which, count + _1]) - low
        if freq < _U(4096):
            state = freq * (state >> _U(12)) + slot - low
            if state < _LOW:
                if at >= words.size:
                    return False
                state = state << _U(32) | _U(words[_U(at)])
                at += 1
        happened += count << _U(UNIT_BITS)
        if count > _U(end - begin):
            return False
        i = begin  # the first that may have changed
        before = _0  # units of elements before it
        place = begin - part if short else 0  # of the sums
        if count and not short:
            _running(data, begin, end, shift, mask, rates, near, near_first, sums, 0)
        total = _U(sums[_U(place + end - begin - 1)])
        while count:
            # Which one of those that are left
            if i >= end:
                return False
            slot = state & _U((1 << _PLACE_BITS) - 1)
            left = total - before
            scaled = _WHOLE // left
            # Close to the sum that owns the slot; what is found by it is then put right
            aim = before + min((slot * left) >> _U(_PLACE_BITS), left - _1)
            beyond = v.splat(np.int64(aim + _1))
            i = begin
            for k in range(begin, end, LANES):
                less = _U(v.bits_of(v.less(v.load_u32(sums, place + k - begin), beyond)))
                i += np.int64(ones(less & ((_1 << _U(min(end - k, LANES))) - _1)))
            low = _before(sums, place, i - begin)
            high = _U(sums[_U(place + i - begin)])
            while ((high - before) * scaled) >> _U(_PLACE_BITS) <= slot:
                i += 1
                if i >= end:
                    return False
                low = high
                high = _U(sums[_U(place + i - begin)])
            start = ((low - before) * scaled) >> _U(_PLACE_BITS)
            while start > slot:
                i -= 1
                high = low
                low = _before(sums, place, i - begin)
                start = ((low - before) * scaled) >> _U(_PLACE_BITS)
            freq = (((high - before) * scaled) >> _U(_PLACE_BITS)) - start
            before = high
            state = freq * (state >> _U(_PLACE_BITS)) + slot - start
            if state < _LOW:
                if at >= words.size:
                    return False
                state = state << _U(32) | _U(words[_U(at)])
                at += 1
            # How it has changed
            b = _U(data[_U(i)])
            context = mapped[(b >> shift) & mask]
            slot = state & _U(4095)
            token = _U(_U(token_starts[context, _1]) <= slot)
            token += _U(_U(token_starts[context, _U(2)]) <= slot)
            token += _U(_U(token_starts[context, _U(3)]) <= slot)
            while _U(token_starts[context, token + _1]) <= slot:
                token += _1
            if not token:  # of a context without frequencies
                return False
            low = _U(token_starts[context, token])
            freq = _U(token_starts[context, token + _1]) - low
            state = freq * (state >> _U(12)) + slot - low
            if state < _LOW:
                if at >= words.size:
                    return False
                state = state << _U(32) | _U(words[_U(at)])
                at += 1
            change = starts[token]
            more = np.int64(extras[token])
            value, filled = _0, 0
            while more:
                some = min(more, _EXTRA_PART)
                value |= (state & ((_1 << _U(some)) - _1)) << _U(filled)
                state >>= _U(some)
                if state < _LOW:
                    if at >= words.size:
                        return False
                    state = state << _U(32) | _U(words[_U(at)])
                    at += 1
                more -= some
                filled += some
            if token & _1:
                change -= value
            else:
                change += value
            data[_U(i)] = _changed(b, change, 1, floats, bits)
            i += 1
            count -= _1
        if (block & every) == every:
            while expected > _WINDOW:
                happened >>= _1
                expected >>= _1
            happened = max(happened, _1)
            scale = _quarters(happened) - _quarters(expected)
    return state == _LOW and at == words.size


def _per_size(function, signature):
    name = function.__name__.strip("_")
    return {
        size: kernel(signature(_READ[size], _WRITE[size]), name=f"{name}_{size}")(function)
        for size in _READ
    }


SURVEY = _per_size(_survey, lambda r, w: _int(r, r, _int, _int, _int, _RI64, I64, I64, W32, W16))
RECORD = _per_size(
    _record,
    lambda r, w: types.void(r, _int, _int, R32, W32, _int, _R64, R32, W32, W8, W8, _I64_2D),
)
CODE = _per_size(
    _code,
    lambda r, w: _int(
        r,
        r,
        _int,
        _int,
        R32,
        W32,
        R8,
        _RI64,
        _int,
        R8,
        R8,
        R32,
        R16,
        _R16_2D,
        _R16_2D,
        R8,
        W32,
        W32,
    ),
)
APPLY = _per_size(
    _apply,
    lambda r, w: _bool(
        w, R32, _int, _int, R32, W32, R8, _RI64, _int, _R64, _R16_2D, _R16_2D, _R64, R8, W32, W8
    ),
)
