"""Symbols of a column by a prefix code, or as a function of other columns."""

import math

import numba
from numba import types

from densor.codec.table.mixing_kernels import CODE_TYPE, mix
from densor.codec.table.state import (
    BEFORE_PREVIOUS,
    MAX_LENGTH,
    MISSING_STEP,
    PARENTS,
    PREVIOUS,
    QUICK,
)
from densor.entropy.intrinsics import load_u64, operation, store_u64
from densor.entropy.jit import I32, I64, R8, W8, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64

_SHORT_CODES = 3  # of QUICK bits, after two of which the bits of a long one are left of 57

_swapped = operation(types.uint64(types.uint64), lambda builder, value: builder.bswap(value))


@kernel(types.void(I64, I32, I64))
def take_numbers(alphabet, symbols, out):
    """Sets the number of each row; symbols are below `alphabet.size`."""
    for row in range(symbols.size):
        out[index(row)] = alphabet[index(symbols[index(row)])]


@kernel(types.void(I64, I64, types.int64, types.int64, I64))
def add_numbers(a, b, sign, modulus, out):
    """Sets `a + sign b`, modulo a number if it is not 0."""
    for row in range(out.size):
        value = a[index(row)] + sign * b[index(row)]
        if modulus and not 0 <= value < modulus:
            value %= modulus
        out[index(row)] = value


@kernel(types.void(I32, I32, I32))
def take_symbols(ranks, ids, out):
    """Sets the symbol of each row; `ids` are below `ranks.size`."""
    for row in range(ids.size):
        out[index(row)] = ranks[index(ids[index(row)])]


@kernel(types.int64(I64, I32, I64, types.int64))
def count_steps(alphabet, symbols, slots, most):
    """How many steps from number to number differ, the first from 0; more than `most` if more.

    `slots`: int64, `MISSING_STEP`, a power of two and more than twice `most`.
    """
    mask = uint64(slots.size - 1)
    count = int64(0)
    last = int64(0)
    for row in range(symbols.size):
        value = alphabet[index(symbols[index(row)])]
        step = value - last
        last = value
        slot = (uint64(step) * uint64(0x9E3779B97F4A7C15) >> uint64(32)) & mask
        while slots[index(slot)] != step and slots[index(slot)] != MISSING_STEP:
            slot = (slot + uint64(1)) & mask
        if slots[index(slot)] == MISSING_STEP:
            slots[index(slot)] = step
            count += 1
            if count > most:
                break
    return count


@kernel(types.float64(I64))
def bits_of(counts):
    """Bits of symbols that occur so often."""
    total = int64(0)
    for i in range(counts.size):
        total += counts[index(i)]
    bits = 0.0
    for i in range(counts.size):
        count = counts[index(i)]
        if count > 0:
            bits += count * math.log2(total / count)
    return bits


@kernel(types.boolean(R8, I64, I64, I64, I32, I64))
def make_code(lengths, first, counts, offset, symbols, codes):
    """Sets what a canonical code consists of, see `Code`; False if it is not complete.

    Lengths are from 1 to `MAX_LENGTH`; `first`, `counts`, `offset`: int64[MAX_LENGTH + 2].
    """
    counts[:] = 0
    for i in range(lengths.size):
        counts[index(lengths[index(i)])] += 1
    first[0] = 0
    offset[0] = 0
    for length in range(1, MAX_LENGTH + 2):
        first[index(length)] = (first[index(length - 1)] + counts[index(length - 1)]) << 1
        offset[index(length)] = offset[index(length - 1)] + counts[index(length - 1)]
    for i in range(lengths.size):
        length = lengths[index(i)]
        symbols[index(offset[index(length)])] = i
        codes[index(i)] = first[index(length)]
        offset[index(length)] += 1
        first[index(length)] += 1
    for length in range(1, MAX_LENGTH + 2):
        offset[index(length)] -= counts[index(length)]
        first[index(length)] -= counts[index(length)]
    return first[MAX_LENGTH] + counts[MAX_LENGTH] == int64(1) << MAX_LENGTH


@kernel(types.int64(CODE_TYPE, I32, W8))
def put_codes(code, symbols, out):
    """Writes the codes of all symbols, which fit; returns the bytes that they take."""
    word = uint64(0)
    bits = int64(0)
    at = int64(0)
    for row in range(symbols.size):
        symbol = symbols[index(row)]
        length = int64(code.lengths[index(symbol)])
        word = word << uint64(length) | uint64(code.codes[index(symbol)])
        bits += length
        if bits >= 32:
            store_u64(out, at, _swapped(word << uint64(64 - bits)))
            at += bits >> 3
            bits &= 7
    if bits:
        store_u64(out, at, _swapped(word << uint64(64 - bits)))
        at += (bits + 7) >> 3
    return at


@kernel(types.void(I32, I32, I64, I64))
def count_symbols(symbols, steps, counts, different):
    """Counts symbols, and their differences modulo `counts.size`, which go to `steps`."""
    last = int64(0)
    for row in range(symbols.size):
        symbol = int64(symbols[index(row)])
        counts[index(symbol)] += 1
        step = symbol - last
        if step < 0:
            step += counts.size
        steps[index(row)] = step
        different[index(step)] += 1
        last = symbol


@kernel(types.void(CODE_TYPE, I32))
def fill_table(code, table):
    """int32[2^QUICK]: the symbol that begins with these bits, and its length; 0 for longer ones."""
    for symbol in range(code.lengths.size):
        length = int64(code.lengths[index(symbol)])
        if length <= QUICK:
            first = code.codes[index(symbol)] << (QUICK - length)
            for i in range(1 << (QUICK - length)):
                table[index(first + i)] = symbol << 5 | length


@inlined
def _long_code(code, word):
    """The length of a code of more than QUICK bits, and its symbol."""
    for length in range(QUICK + 1, MAX_LENGTH + 1):
        ahead = int64(word >> uint64(64 - length)) - code.first[index(length)]
        if ahead < code.counts[index(length)]:
            place = code.offset[index(length)] + ahead
            return int64(length), int64(code.symbols[index(place)])
    return int64(MAX_LENGTH), int64(0)  # of no complete code


@kernel(types.int64(CODE_TYPE, I32, R8, types.int64, I32))
def take_codes(code, table, data, size, symbols):
    """Reads codes from the first `size` bytes, behind which are eight more.

    Returns where they end, in bits. Stops once it has read beyond the end.
    """
    at = int64(0)
    row = int64(0)
    while row < symbols.size and at <= 8 * size:
        word = _swapped(load_u64(data, at >> 3)) << uint64(at & 7)  # 57 bits, for three short codes
        for _ in range(_SHORT_CODES):
            found = int64(table[index(word >> uint64(64 - QUICK))])
            length = found & 31
            symbol = found >> 5
            if not found:
                length, symbol = _long_code(code, word)
            symbols[index(row)] = symbol
            row += 1
            at += length
            word <<= uint64(length)
            if not found or row == symbols.size:
                break
    return at


@inlined
def _place(context, parents, rows, row, last, last2, places):
    flags = context[PARENTS]
    h = flags
    for i in range(PARENTS):
        parent = context[index(i)]
        if parent >= 0:
            h = mix(h, parents[index(parent * rows + row)] + i)
    if flags & PREVIOUS:
        h = mix(h, last)
    if flags & BEFORE_PREVIOUS:
        h = mix(h, last2)
    return h & (places - 1)


@kernel(types.int64(I64, I64, types.int64, I32, I64, types.int64, types.int64))
def count_under_difference(a, b, modulus, symbols, places, stamp, most):
    """How many exceptions there are under `a - b` alone, modulo a number if it is not 0.

    More than `most` if more; `places` and `stamp` as in `find_exceptions`.
    """
    count = int64(0)
    for row in range(symbols.size):
        value = a[index(row)] - b[index(row)]
        if modulus and not 0 <= value < modulus:
            value %= modulus
        place = mix(int64(0), value) & (places.size - 1)
        expected = stamp << 32 | int64(symbols[index(row)])
        if places[index(place)] != expected:
            count += 1
            if count > most:
                break
            places[index(place)] = expected
    return count


@kernel(types.int64(I64, I64, I32, I64, types.int64, I64))
def find_exceptions(context, parents, symbols, places, stamp, rows):
    """The rows whose symbol is not the last one under their context; how many, at most `rows.size`.

    One more where there are more. `places`: int64, a power of two, of which those are empty that
    have another stamp, above 32 bits for a symbol; a decoder has FUNCTION_PLACES.
    """
    count = int64(0)
    last = int64(-1)
    last2 = int64(-1)
    for row in range(symbols.size):
        place = _place(context, parents, symbols.size, row, last, last2, places.size)
        symbol = int64(symbols[index(row)])
        stamped = stamp << 32 | symbol
        if places[index(place)] != stamped:
            if count == rows.size:
                return count + 1
            rows[index(count)] = row
            count += 1
            places[index(place)] = stamped
        last2 = last
        last = symbol
    return count


@kernel(types.boolean(I64, I64, I64, I64, I64, types.int64, I32))
def apply_function(context, parents, rows, values, places, stamp, symbols):
    """Sets all symbols from those at `rows`, which are `values`; False where one is missing."""
    next_one = int64(0)
    last = int64(-1)
    last2 = int64(-1)
    for row in range(symbols.size):
        place = _place(context, parents, symbols.size, row, last, last2, places.size)
        if next_one < rows.size and rows[index(next_one)] == row:
            places[index(place)] = stamp << 32 | values[index(next_one)]
            next_one += 1
        found = places[index(place)]
        if found >> 32 != stamp:
            return False
        symbol = found & 0xFFFFFFFF
        symbols[index(row)] = symbol
        last2 = last
        last = symbol
    return True


@kernel(types.void(I32, types.int64))
def add_up(symbols, modulus):
    """Turns differences modulo `modulus`, in place, into what they lie between."""
    last = int64(0)
    for row in range(symbols.size):
        last += int64(symbols[index(row)])
        if last >= modulus:
            last -= modulus
        symbols[index(row)] = last


@kernel(types.void(I64, I64, I64, I64, I64))
def huffman_lengths(counts, weights, parents, depths, lengths):
    """Lengths of Huffman's code for n counts in ascending order, each at least 1 (two queues).

    Work space: `weights`, int64[n]; `parents`, int64[2 n]; `depths`, int64[n], zeros.
    """
    n = counts.size
    leaf = int64(0)
    inner = int64(0)
    for made in range(n - 1):
        total = int64(0)
        for _ in range(2):
            if inner >= made or (leaf < n and counts[index(leaf)] <= weights[index(inner)]):
                total += counts[index(leaf)]
                parents[index(leaf)] = n + made
                leaf += 1
            else:
                total += weights[index(inner)]
                parents[index(n + inner)] = n + made
                inner += 1
        weights[index(made)] = total
    for node in range(n - 3, -1, -1):
        depths[index(node)] = depths[index(parents[index(n + node)] - n)] + 1
    for i in range(n):
        lengths[index(i)] = depths[index(parents[index(i)] - n)] + 1 if n > 1 else 0
