"""Cells into numbers of different ones."""

import numba
from numba import types

from densor.entropy.intrinsics import load_u64
from densor.entropy.jit import I32, I64, R8, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64

_MULTIPLIER = 0x9E3779B97F4A7C15
_FIRST_SLOTS = 1 << 10  # of a column whose cells are numbered; more where many differ
_ROWS_AT_ONCE = 512  # which stay in the cache while all their columns are looked at


@inlined
def word_of(data, at, length):
    """The first bytes of a cell, at most eight, as a number."""
    value = uint64(load_u64(data, at))
    if length >= 8:
        return value
    return value & ((uint64(1) << uint64(8 * length)) - uint64(1))


@inlined
def _same(data, a, b, length):
    """Whether two cells of one length are the same."""
    at = int64(0)
    while at < length:
        rest = min(length - at, int64(8))
        if word_of(data, a + at, rest) != word_of(data, b + at, rest):
            return False
        at += 8
    return True


@inlined
def _key(data, at, length):
    """A number for a cell: its bytes and their number if these are at most seven, else a hash."""
    word = word_of(data, at, length)
    if length < 8:
        return word | uint64(length) << uint64(56)
    h = (word + uint64(length)) * uint64(_MULTIPLIER)
    more = int64(8)
    while more < length:
        h ^= h >> uint64(31)
        rest = min(length - more, int64(8))
        h = (h + word_of(data, at + more, rest)) * uint64(_MULTIPLIER)
        more += 8
    return h | uint64(1) << uint64(63)


@inlined
def _slot(key, mask):
    """Where a cell is looked for first. Its last bytes count too, in which many differ alone."""
    return ((key ^ key >> uint64(32)) * uint64(_MULTIPLIER) >> uint64(32)) & mask


@inlined
def _find(data, at, length, key, slots, table, mask, base, keys, lengths, places):
    """The slot of a cell from `slots[table]` on, whose number counts from `base`; or a free one."""
    slot = _slot(key, mask)
    while True:
        known = base + int64(slots[index(table + int64(slot))])
        if known < base or (
            uint64(keys[index(known)]) == key
            and (
                length < 8
                or (
                    int64(lengths[index(known)]) == length
                    and _same(data, at, int64(places[index(known)]), length)
                )
            )
        ):
            return table + int64(slot)
        slot = (slot + uint64(1)) & mask


@inlined
def _keys_to_words(data, first, last, words, lengths, places):
    for cell in range(first, last):
        at, length = int64(places[index(cell)]), int64(lengths[index(cell)])
        words[index(cell)] = int64(word_of(data, at, length))


@kernel(types.int64(R8, I32, *[types.int64] * 4, I32, I64, I32, I32, I32))
def intern(data, starts, first, second, between, rows, slots, words, lengths, places, numbers):
    """Numbers the cells of a column by their first occurrence; how many differ, -1 if too many.

    Its cells begin at `starts[first:]` and end `between` bytes before `starts[second:]`. `slots`:
    int32, twice as many as `places` or more, a power of two. Of each different cell: its first
    eight bytes, length, and where it stands. `numbers`: int32[rows].
    """
    mask = uint64(slots.size - 1)
    slots[:] = -1
    count = int64(0)
    for row in range(rows):
        at = int64(starts[index(first + row)])
        length = int64(starts[index(second + row)]) - between - at
        key = _key(data, at, length)
        slot = _find(data, at, length, key, slots, 0, mask, 0, words, lengths, places)
        if slots[index(slot)] < 0:
            if count == places.size:
                return int64(-1)
            slots[index(slot)] = count
            words[index(count)] = int64(key)
            lengths[index(count)] = length
            places[index(count)] = at
            count += 1
        numbers[index(row)] = slots[index(slot)]
    _keys_to_words(data, 0, count, words, lengths, places)
    return count


@inlined
def _grow(count, slots, table, base, keys, size):
    """Numbers cells anew in more slots, `size` of them."""
    slots[table : table + size] = -1
    mask = uint64(size - 1)
    for cell in range(count):
        key = uint64(keys[index(base + cell)])
        slot = _slot(key, mask)
        while slots[index(table + int64(slot))] >= 0:
            slot = (slot + uint64(1)) & mask
        slots[index(table + int64(slot))] = cell


@kernel(types.void(R8, I32, types.int64, types.int64, I64, *[I32, I64, I32, I32, I32, I64, I64]))
def intern_columns(
    data, starts, step, rows, between, slots, words, lengths, places, numbers, sizes, counts
):  # fmt: skip
    """Numbers the cells of each column as `intern` does; sets `counts`, how many differ.

    Cells of column c begin at `starts[c step:]` and end `between[c]` bytes before `starts[(c + 1)
    step:]`. Of each column there are `rows` words, lengths, places and numbers, and as many slots,
    a power of two and more than twice as many as rows. `sizes`: work space, int64[columns].
    """
    columns = between.size
    room = slots.size // columns
    for column in range(columns):
        sizes[index(column)] = min(room, int64(_FIRST_SLOTS))
        counts[index(column)] = 0
        slots[column * room : column * room + sizes[index(column)]] = -1
    for begin in range(0, rows, _ROWS_AT_ONCE):
        end = min(begin + _ROWS_AT_ONCE, rows)
        for column in range(columns):
            table, base = column * room, column * rows
            size, count = sizes[index(column)], counts[index(column)]
            mask = uint64(size - 1)
            for row in range(begin, end):
                at = int64(starts[index(column * step + row)])
                behind = int64(starts[index((column + 1) * step + row)])
                length = behind - between[index(column)] - at
                key = _key(data, at, length)
                slot = _find(data, at, length, key, slots, table, mask, base, words, lengths,
                             places)  # fmt: skip
                known = slots[index(slot)]
                if known < 0:
                    known = count
                    slots[index(slot)] = count
                    words[index(base + count)] = int64(key)
                    lengths[index(base + count)] = length
                    places[index(base + count)] = at
                    count += 1
                    if 4 * count > size and size < room:
                        size = min(room, 4 * size)
                        mask = uint64(size - 1)
                        _grow(count, slots, table, base, words, size)
                numbers[index(base + row)] = known
            sizes[index(column)], counts[index(column)] = size, count
    for column in range(columns):
        base = column * rows
        _keys_to_words(data, base, base + counts[index(column)], words, lengths, places)
