"""The network in integers: what Llama computes in floats, with the rounding laid down in llm.md.

Real numbers are integers in units of a power of two: the residual stream 2^-24, what matrices give
2^-16. Rows that go into a matrix have 15 bits and a shift of their own. No operation is one of
floating point, so that nothing here can depend on the processor. All arrays are flat.
"""

from typing import Any

import numba
import numpy as np
from numba import types

from densor.entropy.jit import I32, I64, kernel
from densor.llm.products import LANES, tile

int64 = numba.int64
float64 = numba.float64

WIDE = 2 * LANES  # columns of a tile
TALL = 4  # rows of a tile
RUN = 4  # rows that go through keys and values together
GAP = 16  # between rows of sums: not a power of two, which would share lines of a cache
RESIDUAL = 24  # binary places of the residual stream
PLACES = 16  # of what matrices and norms give
ROW_BITS = 14  # of the magnitude in rows that go into a matrix
MAX_PAIRS = 512  # of products that one sum of 32 bits takes
VALUE_PLACES = 9  # of values in the cache
QUERY_BITS, KEY_BITS = 12, 11  # of the magnitudes in dot products
SMALL = 127  # largest magnitude of keys and values that are kept in a byte
SMALL_PLACES = 23  # of attention weights for them
SUM_BITS = 23  # of sums of such weights, times 127 within 31 bits
UNIT_BITS = 11  # of a number that their unit follows from
MAX_VALUE = (1 << 30) - 1  # of values that are kept in a byte, 2^-16
WEIGHT_PLACES = 15  # of attention weights
EXP_PLACES = 22  # of the exponential before they are normalised
EXP_BITS = 10  # of the fraction of its argument, logarithm of base 2
COUNT_PLACES = 30  # of the most likely token's count
_MAX_RESIDUAL = 1 << 47
_NORM_BITS = 20
_POINTS = 8  # sigmoid: steps per unit, logarithm

_four_bytes, _three_bytes, _two_bytes, _one_bytes = (tile(n, 2, 8) for n in (4, 3, 2, 1))

F32 = types.Array(types.float32, 1, "C", readonly=True)
F64 = types.float64[::1]
I8 = types.int8[::1]
I16 = types.int16[::1]


@numba.njit(inline="always")
def clip(value, most):
    return min(max(value, -most), most)


@numba.njit(inline="always")
def half_of(shift):
    return (int64(1) << shift) >> 1


@numba.njit
def _bits(value):
    """Binary digits of a number from 0 on."""
    count = int64(0)
    while value:
        value >>= 1
        count += 1
    return count


@numba.njit
def _root(value):
    """The largest integer whose square is at most `value`; Newton's method from above."""
    if value < 2:
        return value
    x = int64(1) << ((_bits(value) + 1) >> 1)
    while True:
        y = (x + value // x) >> 1
        if y >= x:
            return x
        x = y


@numba.njit
def quantise(values, bits, out):
    """Rounds numbers to so many bits and a sign; returns by how much they were shifted."""
    most = int64(0)
    for i in range(values.size):
        most = max(most, abs(values[i]))
    shift = max(_bits(most) - bits, int64(0))
    half = half_of(shift)
    limit = (int64(1) << bits) - 1
    for i in range(values.size):
        out[i] = min((values[i] + half) >> shift, limit)
    return shift


@numba.njit(inline="always")
def _rows_by_bytes(rows, a, at, stride, w, begin, pairs, out, to, wide):
    """`products.tile` for up to four rows."""
    if rows == 4:
        _four_bytes(a, at, stride, w, begin, pairs, out, to, wide)
        return
    if rows & 2:
        _two_bytes(a, at, stride, w, begin, pairs, out, to, wide)
    if rows & 1:
        last = rows - 1
        _one_bytes(a, at + last * stride, stride, w, begin, pairs, out, to + last * wide, wide)


def _rows_by(four: Any, three: Any, two: Any, one: Any) -> Any:
    """What multiplies any number of rows by `products.tile`, of those for 4, 3, 2 and 1."""

    @numba.njit(inline="always")
    def multiply(rows, a, at, stride, w, begin, pairs, out, to, wide):
        row = int64(0)
        while row + 4 <= rows:
            four(a, at + row * stride, stride, w, begin, pairs, out, to + row * wide, wide)
            row += 4
        if rows - row == 3:
            three(a, at + row * stride, stride, w, begin, pairs, out, to + row * wide, wide)
            row += 3
        if (rows - row) & 2:
            two(a, at + row * stride, stride, w, begin, pairs, out, to + row * wide, wide)
            row += 2
        if row < rows:
            one(a, at + row * stride, stride, w, begin, pairs, out, to + row * wide, wide)

    return multiply


@kernel(types.void(F32, types.int64, F64, I8))
def round_rows(rows, size, steps, out):
    """Rows of a matrix, float32[n, size], in units of a step each, laid out for `multiply`.

    The one place with floating point: a division in double precision, rounded to even. `out`:
    int8[columns, size], by blocks of 32 columns, then pairs of inputs, then columns.
    """
    for row in range(rows.size // size):
        base = row // WIDE * WIDE * size + 2 * (row % WIDE)
        step = steps[row]
        for i in range(size):
            unit = np.rint(float64(rows[row * size + i]) / step)
            out[base + (i >> 1) * 2 * WIDE + (i & 1)] = int64(min(max(unit, -127.0), 127.0))


@kernel(types.void(types.int64, I64, I64, types.int64, I64, I16, I64))
def normalise(rows, x, weights, epsilon, work, out, shifts):
    """Root mean square norm of rows of the residual stream, rounded for a matrix.

    `x`: int64[rows, D], 2^-24. `weights`: int64[D], 2^-16. `epsilon`: 2^-48. `work`: int64[D].
    `out`: int16[rows, D], in units of 2^(shifts[row] - 16).
    """
    size = weights.size
    for row in range(rows):
        values = x[row * size : row * size + size]
        most = int64(0)
        for i in range(size):
            most = max(most, abs(values[i]))
        shift = max(_bits(most) - _NORM_BITS, int64(0))
        total = int64(0)
        for i in range(size):
            value = values[i] >> shift
            total += value * value
        mean = total // size + (epsilon >> (2 * shift) if shift < 30 else int64(0))
        # The root has 10 places more; its inverse 52.
        inverse = (int64(1) << 52) // max(_root(mean << 10 << 10), int64(1))
        for i in range(size):
            value = ((values[i] >> shift) * inverse + (1 << 21)) >> 22
            work[i] = (value * weights[i] + (1 << 19)) >> 20
        shifts[row] = quantise(work[:size], ROW_BITS, out[row * size : row * size + size])


@numba.njit(inline="always")
def _finish(total, scale, right):
    """A sum of products times the scale of its column, to the units that are wanted."""
    value = total * scale
    if right >= 0:
        value = (value + half_of(right)) >> right
    else:
        value = clip(value, int64(_MAX_RESIDUAL) >> -right) << -right
    return clip(value, int64(_MAX_RESIDUAL))


@numba.njit
def _finish_row(totals, scales, right, kept, out):
    """`_finish` for a row of a tile, added to what `kept`, a mask, leaves of `out`."""
    if right >= 0:  # apart, so that both are vectorised
        half = half_of(right)
        for i in range(WIDE):
            value = (int64(totals[i]) * int64(scales[i]) + half) >> right
            out[i] = (out[i] & kept) + clip(value, int64(_MAX_RESIDUAL))
    else:
        for i in range(WIDE):
            out[i] = (out[i] & kept) + _finish(int64(totals[i]), int64(scales[i]), right)


@kernel(
    types.void(
        types.int64, I16, I64, types.int64, I8, I32, types.int64, types.int64, types.int64,
        I64, types.int64, types.int64, I32, I64, I64,
    )
)  # fmt: skip
def multiply(
    rows,
    a,
    shifts,
    size,
    weights,
    scales,
    exponent,
    places,
    add,
    bias,
    begin,
    end,
    sums,
    totals,
    out,
):
    """Rows by the columns from `begin` to `end` of a matrix, multiples of 32.

    `a`: int16[rows, size], in units of 2^(shift - 16). `weights`: int8, as `round_rows` lays them
    out; `scales`: int32[columns], 2^-exponent. `out`: int64[rows, end - begin], 2^-places, added to
    where `add` is 1. `bias`: of all columns, in the same units, or empty. `sums`, `totals`: work
    space for TALL * 32 numbers.
    """
    pairs = size >> 1
    wide = end - begin
    for column in range(begin, end, WIDE):
        for row in range(0, rows, TALL):
            tall = min(rows - row, int64(TALL))
            for first in range(0, pairs, MAX_PAIRS):
                count = min(pairs - first, int64(MAX_PAIRS))
                source = column * size + first * 2 * WIDE
                at = row * size + 2 * first
                _rows_by_bytes(tall, a, at, size, weights, source, count, sums, 0, WIDE)
                if pairs > MAX_PAIRS:
                    for i in range(tall * WIDE):
                        totals[i] = int64(sums[i]) + (totals[i] if first else int64(0))
            for r in range(tall):
                right = min(
                    max(exponent - places + PLACES - shifts[row + r], int64(-40)), int64(62)
                )
                at = (row + r) * wide + column - begin
                to = out[at : at + WIDE]
                tile = slice(r * WIDE, r * WIDE + WIDE)
                steps = scales[column : column + WIDE]
                if pairs > MAX_PAIRS:
                    _finish_row(totals[tile], steps, right, -add, to)
                else:
                    _finish_row(sums[tile], steps, right, -add, to)
    if bias.size:
        for row in range(rows):
            for i in range(wide):
                out[row * wide + i] += bias[begin + i]


@kernel(types.void(types.int64, I64, I8, I32, types.int64, types.int64, I64))
def embed(rows, tokens, weights, scales, exponent, size, out):
    """Rows of a matrix, as `multiply` has it, to the residual stream: int64[rows, size]."""
    right = min(max(exponent - RESIDUAL, int64(-40)), int64(62))
    for row in range(rows):
        token = tokens[row]
        base = token // WIDE * WIDE * size + 2 * (token % WIDE)
        for i in range(size):
            value = int64(weights[base + (i >> 1) * 2 * WIDE + (i & 1)])
            out[row * size + i] = _finish(value, int64(scales[token]), right)


@numba.njit
def _turn(values, begin, size, turns, at, work):
    """Rotates a head by its position."""
    half = size >> 1
    most = int64(1) << 40
    for i in range(half):
        x = clip(values[begin + i], most)
        y = clip(values[begin + half + i], most)
        c = int64(turns[at + i])
        s = int64(turns[at + half + i])
        work[i] = (x * c - y * s + (1 << 14)) >> 15
        work[half + i] = (y * c + x * s + (1 << 14)) >> 15


@numba.njit
def _append(cache, base, positions, position, size, work, keys):
    """Puts a key or a value into the cache: pairs of what is summed over lie together."""
    if keys:
        at = base + (position // WIDE) * WIDE * size + 2 * (position % WIDE)
        for i in range(size):
            cache[at + (i >> 1) * 2 * WIDE + (i & 1)] = work[i]
    else:
        at = base + (position >> 1) * 2 * WIDE + (position & 1)
        for i in range(size):
            cache[at + (i // WIDE) * WIDE * positions + 2 * (i % WIDE)] = work[i]


@numba.njit
def _to_bytes(values, out):
    """Rounds numbers to bytes, of a unit that is returned."""
    most = int64(0)
    for i in range(values.size):
        most = max(most, abs(values[i]))
    shift = max(_bits(most) - UNIT_BITS, int64(0))
    unit = ((most >> shift) // SMALL + 1) << shift
    half = unit >> 1
    for i in range(values.size):
        out[i] = (values[i] + half) // unit
    return unit


@numba.njit
def _to_words(values, out):
    """Rounds numbers to 11 bits and a sign, of a unit that is returned."""
    return int64(1) << quantise(values, int64(KEY_BITS), out)


@numba.njit
def _exponentials(dots, key_units, factor, right, exps, work):
    """e[j] of dot products into `work`; returns what makes their sum 32767 * 2^40.

    Passes of their own, so that all but the look-ups are vectorised.
    """
    count = dots.size
    most = int64(-(1 << 62))
    for j in range(count):
        score = int64(dots[j]) * key_units[j]
        work[j] = score
        most = max(most, score)
    limit = (int64(32 << EXP_BITS) << right) // factor + 1
    for j in range(count):
        work[j] = (min(most - work[j], limit) * factor) >> right
    total = int64(0)
    for j in range(count):
        x = work[j]
        e = exps[x & ((1 << EXP_BITS) - 1)] >> (x >> EXP_BITS)
        work[j] = e
        total += e
    return (int64((1 << WEIGHT_PLACES) - 1) << 40) // total


@numba.njit
def _weigh_words(work, inverse, units, weights):
    """Weights, 2^-15, of places with such exponentials."""
    for j in range(weights.size):
        weights[j] = (work[j] * inverse) >> 40
    return int64(0)


@numba.njit
def _weigh_bytes(work, inverse, units, weights):
    """Weights times the units of values, 2^-23, by as many bits as fit; returns their shift."""
    most = int64(0)
    total = int64(0)
    for j in range(weights.size):
        weight = ((work[j] * inverse) >> 32) * units[j]
        work[j] = weight
        most = max(most, weight)
        total += weight
    shift = max(_bits(most) - WEIGHT_PLACES, _bits(total) - SUM_BITS, int64(0))
    half = half_of(shift)
    for j in range(weights.size):
        weights[j] = min((work[j] + half) >> shift, int64(32767))
    return shift


@numba.njit
def _remember_words(values, position, base, cache, units, row):
    """Puts a value, in units of 2^-16, into a cache of 16 bits, of the units of which all are."""
    for i in range(values.size):
        row[i] = clip((values[i] + 64) >> (PLACES - VALUE_PLACES), int64(32767))
    _append(cache, base, units.size, position, values.size, row, False)
    units[position] = 1


@numba.njit
def _remember_bytes(values, position, base, cache, units, row):
    """Puts a value, in units of 2^-16, into a cache of 8 bits, with a unit of its own."""
    for i in range(values.size):
        values[i] = clip(values[i], int64(MAX_VALUE))
    units[position] = _to_bytes(values, row)
    _append(cache, base, units.size, position, values.size, row, False)


@numba.njit
def _same_slot(slots, row, rows):
    """How many rows from `row` on are of one slot, at most RUN."""
    run = int64(1)
    while run < RUN and row + run < rows and slots[row + run] == slots[row]:
        run += 1
    return run


def _attention(
    name: str, kind: Any, to_cache: Any, remember: Any, weigh: Any, rows_by: Any, places: int
) -> Any:
    """The kernel for caches of type `kind`; `places`: what is taken off shifts of results."""

    @kernel(
        types.void(
            types.int64, I64, types.int64, types.int64, types.int64, types.int64, types.int64, I64,
            I64, kind, I64, kind, I64, I32, types.int64, I64, I16, I64, I16, I32, I64, I16, I64,
        ),
        name=name,
    )  # fmt: skip
    def attend(
        rows, qkv, heads, groups, size, positions, first, slots, places_of, keys, key_units,
        values, value_units, turns, factor, exps, queries, query_shifts, weights, dots, work, out,
        shifts,
    ):  # fmt: skip
        """Attention of one layer; rows of a slot come one after the other, by their positions.

        Up to RUN rows of a slot go through its keys and values together, which come from memory
        once.

        `qkv`: int64[rows, heads + 2 groups, size], 2^-16, changed. `first`: number of the layer's
        first cache, each of `groups` per slot; `slots`, `places_of`: of the rows. `keys`, `values`:
        caches of `positions` places. `key_units`, `value_units`: int64[caches, positions].
        `turns`: of `tables.turns`. `factor`: log2(e) / sqrt(size), 2^-20. Of the n = RUN * heads /
        groups queries that share a cache: `queries`: int16[n, size], `query_shifts`: int64[n], of
        queries and then, [RUN, groups], of results, `weights`: int16[n, positions + 2], `dots`:
        int32[n, positions + GAP] and, behind it, [RUN, heads, size]. `work`: int64[positions +
        heads * size]. `out`: int16[rows, heads * size], in units of 2^(shifts[row] - 16).
        """
        wide = (heads + 2 * groups) * size
        share = heads // groups
        line = positions + GAP
        sums = RUN * share * line  # where they stand in `dots`
        for row in range(rows):
            for group in range(groups):
                cache = first + slots[row] * groups + group
                base = cache * positions * size
                place = places_of[row]
                begin = row * wide + (heads + group) * size
                _turn(qkv, begin, size, turns, place * size, work)
                unit = to_cache(work[:size], queries)
                key_units[cache * positions + place] = unit
                _append(keys, base, positions, place, size, queries, True)
                begin += groups * size
                own_units = value_units[cache * positions : cache * positions + positions]
                remember(qkv[begin : begin + size], place, base, values, own_units, queries)
        row = int64(0)
        while row < rows:
            run = _same_slot(slots, row, rows)
            count = places_of[row + run - 1] + 1
            for group in range(groups):
                cache = first + slots[row] * groups + group
                base = cache * positions * size
                for n in range(run * share):
                    at = (row + n // share) * wide + (group * share + n % share) * size
                    _turn(qkv, at, size, turns, places_of[row + n // share] * size, work)
                    own = queries[n * size : n * size + size]
                    query_shifts[n] = quantise(work[:size], int64(QUERY_BITS), own)
                for block in range(0, count, WIDE):
                    at = base + block * size
                    rows_by(run * share, queries, 0, size, keys, at, size >> 1, dots, block, line)
                for n in range(run * share):
                    own_count = places_of[row + n // share] + 1
                    at = cache * positions
                    to = n * (positions + 2)
                    inverse = _exponentials(
                        dots[n * line : n * line + own_count],
                        key_units[at : at + own_count],
                        factor,
                        42 - query_shifts[n],
                        exps,
                        work,
                    )
                    own_units = value_units[at : at + own_count]
                    shift = weigh(work, inverse, own_units, weights[to : to + own_count])
                    query_shifts[RUN * share + group * RUN * share + n] = shift
                    for j in range(own_count, count + 1):
                        weights[to + j] = 0
                for block in range(0, size, WIDE):
                    at = base + block * positions
                    to = sums + group * run * share * size + block
                    pairs = (count + 1) >> 1
                    rows_by(
                        run * share, weights, 0, positions + 2, values, at, pairs, dots, to, size
                    )
            for r in range(run):
                for group in range(groups):
                    for h in range(share):
                        n = r * share + h
                        shift = query_shifts[RUN * share + group * RUN * share + n]
                        at = sums + (group * run * share + n) * size
                        for i in range(size):
                            work[(group * share + h) * size + i] = int64(dots[at + i]) << shift
                at = (row + r) * heads * size
                own = out[at : at + heads * size]
                shift = quantise(work[: heads * size], int64(ROW_BITS), own)
                shifts[row + r] = shift - places
            row += run

    return attend


attend_words = _attention(
    "attend_words",
    I16,
    _to_words,
    _remember_words,
    _weigh_words,
    _rows_by(*(tile(n, 2, 16) for n in (4, 3, 2, 1))),
    VALUE_PLACES + WEIGHT_PLACES - PLACES,
)
attend_bytes = _attention(
    "attend_bytes",
    I8,
    _to_bytes,
    _remember_bytes,
    _weigh_bytes,
    _rows_by(_four_bytes, _three_bytes, _two_bytes, _one_bytes),
    SMALL_PLACES,
)


@kernel(types.void(types.int64, I64, types.int64, I64, I64, I16, I64))
def activate(rows, gates, size, sigmoid, work, out, shifts):
    """SwiGLU: g * sigmoid(g) * u.

    `gates`: int64[rows, 2 * wide], 2^-16, first g then u, each of `wide` >= size columns;
    `sigmoid`: of `tables.sigmoid_table`. `out`: int16[rows, size].
    """
    wide = gates.size // (2 * rows)
    most = int64(1) << 30
    for row in range(rows):
        at = 2 * row * wide
        gate = gates[at : at + size]
        up = gates[at + wide : at + wide + size]
        for i in range(size):
            g = clip(gate[i], most)
            u = clip(up[i], most)
            step = clip((g + 128) >> _POINTS, int64(4096)) + 4096
            work[i] = (((g * sigmoid[step]) >> 16) * u) >> 16
        shifts[row] = quantise(work[:size], ROW_BITS, out[row * size : row * size + size])


@kernel(types.void(types.int64, I64, types.int64, types.int64, types.int64, I64, I64))
def count_tokens(rows, logits, wide, tokens, factor, exps, out):
    """Softmax: how often each token would come, and of all before it.

    `logits`: int64[rows, wide], 2^-16, of which the first `tokens` are used; `factor`: log2(e),
    2^-16. `out`: int64[rows, tokens + 1], sums of 1 + 2^30 p / (largest p).
    """
    limit = int64(40) << PLACES
    for row in range(rows):
        line = logits[row * wide : row * wide + tokens]
        counts = out[row * (tokens + 1) : (row + 1) * (tokens + 1)]
        most = line[0]
        for i in range(tokens):
            most = max(most, line[i])
        total = int64(0)
        counts[0] = 0
        for i in range(tokens):
            x = (min(most - line[i], limit) * factor) >> (2 * PLACES - EXP_BITS)
            total += (exps[x & ((1 << EXP_BITS) - 1)] >> (x >> EXP_BITS)) + 1
            counts[i + 1] = total
