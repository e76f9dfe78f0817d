"""Attention over cached keys and values, in integers, for `pass_kernels.py`: see llm.md."""

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.entropy.jit import I64, inlined
from densor.llm.kernels import (
    EXP_BITS,
    GAP,
    I8,
    I16,
    KEY_BITS,
    MAX_VALUE,
    PLACES,
    QUERY_BITS,
    RUN,
    SMALL,
    SMALL_PLACES,
    SUM_BITS,
    UNIT_BITS,
    VALUE_PLACES,
    WEIGHT_PLACES,
    WIDE,
    binary_digits,
    clip,
    four_bytes,
    half_of,
    one_bytes,
    quantise,
    three_bytes,
    two_bytes,
)
from densor.llm.products import tile

int64 = numba.int64


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


@inlined
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


@inlined
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


@inlined
def _to_bytes(values, out):
    """Rounds numbers to bytes, of a unit that is returned."""
    most = int64(0)
    for i in range(values.size):
        most = max(most, abs(values[i]))
    shift = max(binary_digits(most) - UNIT_BITS, int64(0))
    unit = ((most >> shift) // SMALL + 1) << shift
    half = unit >> 1
    for i in range(values.size):
        out[i] = (values[i] + half) // unit
    return unit


@inlined
def _to_words(values, out):
    """Rounds numbers to 11 bits and a sign, of a unit that is returned."""
    return int64(1) << quantise(values, int64(KEY_BITS), out)


@inlined
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


@inlined
def _weigh_words(work, inverse, units, weights):
    """Weights, 2^-15, of places with such exponentials."""
    for j in range(weights.size):
        weights[j] = (work[j] * inverse) >> 40
    return int64(0)


@inlined
def _weigh_bytes(work, inverse, units, weights):
    """Weights times the units of values, 2^-23, by as many bits as fit; returns their shift."""
    most = int64(0)
    total = int64(0)
    for j in range(weights.size):
        weight = ((work[j] * inverse) >> 32) * units[j]
        work[j] = weight
        most = max(most, weight)
        total += weight
    shift = max(binary_digits(most) - WEIGHT_PLACES, binary_digits(total) - SUM_BITS, int64(0))
    half = half_of(shift)
    for j in range(weights.size):
        weights[j] = min((work[j] + half) >> shift, int64(32767))
    return shift


@inlined
def _remember_words(values, position, base, cache, units, row):
    """Puts a value, in units of 2^-16, into a cache of 16 bits, of the units of which all are."""
    for i in range(values.size):
        row[i] = clip((values[i] + 64) >> (PLACES - VALUE_PLACES), int64(32767))
    _append(cache, base, units.size, position, values.size, row, False)
    units[position] = 1


@inlined
def _remember_bytes(values, position, base, cache, units, row):
    """Puts a value, in units of 2^-16, into a cache of 8 bits, with a unit of its own."""
    for i in range(values.size):
        values[i] = clip(values[i], int64(MAX_VALUE))
    units[position] = _to_bytes(values, row)
    _append(cache, base, units.size, position, values.size, row, False)


class Heads(NamedTuple):
    """The shape of attention: of queries, of keys and values, of a head, places of a cache."""

    heads: int
    groups: int
    size: int
    positions: int
    factor: int  # log2(e) / sqrt(size), 2^-20


class Cache(NamedTuple):
    """Keys and values of all layers: caches of so many places, one for each group of a slot.

    Units: int64[caches, positions].
    """

    keys: npt.NDArray[Any]
    key_units: npt.NDArray[np.int64]
    values: npt.NDArray[Any]
    value_units: npt.NDArray[np.int64]


CACHE_TYPES = {kind: types.NamedTuple((kind, I64, kind, I64), Cache) for kind in (I8, I16)}


class Runs(NamedTuple):
    """Which rows go through keys and values together: of one slot, by their places."""

    slots: npt.NDArray[np.int64]  # of rows
    places: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]  # int64[ROWS + 1]: of each run, then the number of rows
    count: npt.NDArray[np.int64]  # int64[1]: of runs


@inlined
def find_runs(rows, runs):
    """Finds the runs of rows, each of RUN rows at most."""
    count = int64(0)
    first = int64(0)
    for row in range(rows):
        if row == 0 or row - first == RUN or runs.slots[row] != runs.slots[first]:
            first = row
            runs.begins[count] = row
            count += 1
    runs.begins[count] = rows
    runs.count[0] = count


class Space(NamedTuple):
    """Work space of a thread, for the n = RUN * heads / groups queries that share a cache."""

    queries: npt.NDArray[np.int16]  # int16[n, size]
    query_shifts: npt.NDArray[np.int64]  # int64[n]
    weights: npt.NDArray[np.int16]  # int16[n, positions + 2]
    dots: npt.NDArray[np.int32]  # int32[n, positions + GAP], then int32[n, size]
    sums: npt.NDArray[np.int32]  # int32[TALL * 32]
    totals: npt.NDArray[np.int64]  # int64[TALL * 32]
    work: npt.NDArray[np.int64]  # of the widest row, and as many as places


class Attention(NamedTuple):
    """The functions for caches of one type."""

    remember: Any
    attend: Any


def _attention(to_cache: Any, remember_value: Any, weigh: Any, rows_by: Any) -> Attention:
    """Attention for caches of one type."""

    @inlined
    def remember(begin, end, qkv, shape, first, runs, cache, turns, space):
        """Puts keys and values of rows `begin` to `end` into a layer's caches.

        `qkv`: int64[rows, heads + 2 groups, size], 2^-16, changed. `first`: number of the layer's
        first cache. `turns`: of `tables.turns`.
        """
        size, positions = shape.size, shape.positions
        wide = (shape.heads + 2 * shape.groups) * size
        for row in range(begin, end):
            place = runs.places[row]
            for group in range(shape.groups):
                number = first + runs.slots[row] * shape.groups + group
                base = number * positions * size
                at = row * wide + (shape.heads + group) * size
                _turn(qkv, at, size, turns, place * size, space.work)
                unit = to_cache(space.work[:size], space.queries)
                cache.key_units[number * positions + place] = unit
                _append(cache.keys, base, positions, place, size, space.queries, True)
                at += shape.groups * size
                units = cache.value_units[number * positions : (number + 1) * positions]
                remember_value(qkv[at : at + size], place, base, cache.values, units, space.queries)

    @inlined
    def attend(unit, qkv, shape, first, runs, cache, turns, exps, space, results):
        """Attention of one run of rows in one group of heads, which is number `unit` of them.

        The run's keys and values come from memory once. `results`: int64[rows, heads, size], whose
        shifts are still to lose WORD_PLACES or BYTE_PLACES.
        """
        size, positions, share = shape.size, shape.positions, shape.heads // shape.groups
        wide = (shape.heads + 2 * shape.groups) * size
        line = positions + GAP
        group = unit % shape.groups
        row = runs.begins[unit // shape.groups]
        run = runs.begins[unit // shape.groups + 1] - row
        count = runs.places[row + run - 1] + 1
        queries, dots, weights = space.queries, space.dots, space.weights
        number = first + runs.slots[row] * shape.groups + group
        base = number * positions * size
        for n in range(run * share):
            at = (row + n // share) * wide + (group * share + n % share) * size
            _turn(qkv, at, size, turns, runs.places[row + n // share] * size, space.work)
            own = queries[n * size : n * size + size]
            space.query_shifts[n] = quantise(space.work[:size], int64(QUERY_BITS), own)
        for block in range(0, count, WIDE):
            at = base + block * size
            rows_by(run * share, queries, 0, size, cache.keys, at, size >> 1, dots, block, line)
        for n in range(run * share):
            own_count = runs.places[row + n // share] + 1
            at = number * positions
            to = n * (positions + 2)
            inverse = _exponentials(
                dots[n * line : n * line + own_count],
                cache.key_units[at : at + own_count],
                shape.factor,
                42 - space.query_shifts[n],
                exps,
                space.work,
            )
            units = cache.value_units[at : at + own_count]
            space.query_shifts[n] = weigh(space.work, inverse, units, weights[to : to + own_count])
            for j in range(own_count, count + 1):
                weights[to + j] = 0
        sums = RUN * share * line  # where they stand in `dots`
        for block in range(0, size, WIDE):
            at = base + block * positions
            pairs = (count + 1) >> 1
            to = sums + block
            rows_by(run * share, weights, 0, positions + 2, cache.values, at, pairs, dots, to, size)
        for n in range(run * share):
            at = ((row + n // share) * shape.heads + group * share + n % share) * size
            for i in range(size):
                results[at + i] = int64(dots[sums + n * size + i]) << space.query_shifts[n]

    return Attention(remember, attend)


# What is taken off shifts of results.
WORD_PLACES = VALUE_PLACES + WEIGHT_PLACES - PLACES
BYTE_PLACES = SMALL_PLACES

of_words = _attention(
    _to_words, _remember_words, _weigh_words, _rows_by(*(tile(n, 2, 16) for n in (4, 3, 2, 1)))
)
of_bytes = _attention(
    _to_bytes,
    _remember_bytes,
    _weigh_bytes,
    _rows_by(four_bytes, three_bytes, two_bytes, one_bytes),
)
