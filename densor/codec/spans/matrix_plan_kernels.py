"""The compiled loops that look at floats in matrices before they are coded under scale contexts.

The first of two passes: it finds the scales of rows and columns, and counts the symbols of some
rows; frequencies are settled from that. The second one is `matrix_kernels.encode_matrices`.
"""

import numpy as np
from numba import types

from densor.codec.scale_context.payload import COLUMN_STEPS, COLUMNS, ROW_STEPS, ROWS
from densor.codec.spans import matrix_table as m
from densor.codec.spans.encode_kernels import OTHER, _look
from densor.codec.spans.jit import once, part
from densor.entropy import vectors as v
from densor.entropy.intrinsics import (
    load_u16,
    load_u32,
    load_u64,
    prefetch,
    store_u16,
)
from densor.entropy.jit import I32, I64, R8, W8, W16, W32, W64, kernel

I64_2D = types.int64[:, ::1]
F64 = types.float64[::1]
_RULE = types.UniTuple(types.int64, 5)  # form, mantissa bits, first exponent, main, low exponents
_OCTAVES_BELOW = 20  # the largest one: smaller numbers do not pull a mean further down
_MIN_ROWS = 8  # fewer do not pay for scales of columns
_SPREAD = 2.5  # variance of log2 of a normal variable, about
_MAX_COLUMN_STEPS = 100
_MAX_STEPS = 255
_BITS_OF_SYMBOL = 6.0  # in the frequencies of a class, about
_UNSEEN = 0.5 / np.log(2.0)  # bits by which a sample seems to take too little, for each symbol
_LOOKED_AT = 64  # rows, about, that the greatest number of a matrix is looked for in
_LEAST_COUNTED = 64  # rows, or all
_STEPS = 1 << m.PHASE
_MASK = _STEPS - 1
_NONE = 255  # the symbol of what is rare, while it is looked up
_AHEAD = 2048  # bytes; by itself a processor does not look beyond a page


# Elements


@part
def _high_bit(form, data, element):
    """Exponent and top mantissa bits of an element."""
    if form == m.FORM_BF16:
        return (np.int64(load_u16(data, 2 * element)) >> 4) & 0x7FF
    if form == m.FORM_FP16:
        return (np.int64(load_u16(data, 2 * element)) >> 7) & 0xFF
    if form == m.FORM_FP8:
        return np.int64(data[element]) & 0x7F
    return (np.int64(load_u32(data, 4 * element)) >> 20) & 0x7FF


@part
def _sixteen(form, data, element):
    """Those of 16 elements."""
    if form == m.FORM_BF16:
        return v.both(v.shift_right(v.load_u16(data, 2 * element), 4), v.splat(0x7FF))
    if form == m.FORM_FP16:
        return v.both(v.shift_right(v.load_u16(data, 2 * element), 7), v.splat(0xFF))
    if form == m.FORM_FP8:
        return v.both(v.load_u8(data, element), v.splat(0x7F))
    return v.both(v.shift_right(v.load_u32_bytes(data, 4 * element), 20), v.splat(0x7FF))


@part
def _high_bits(form, data, begin, count, out):
    """Those of `count` elements from `begin` on, to bytes of uint16."""
    whole = count & ~15
    for i in range(0, whole, 16):
        v.store_u16(out, 2 * i, _sixteen(form, data, begin + i))
    for i in range(whole, count):
        store_u16(out, 2 * i, np.uint16(_high_bit(form, data, begin + i)))


# Scales


@part
def _add_row(form, size, data, begin, count, least, sums):
    """Adds high bits, none below `least`, to those of the columns; returns their sum."""
    whole = count & ~15
    lower = v.splat(least)
    totals = v.splat(0)
    for j in range(0, whole, 16):
        prefetch(data, (begin + j) * size + _AHEAD)
        bits = _sixteen(form, data, begin + j)
        bits = v.choose(v.less(bits, lower), lower, bits)
        totals = v.add(totals, bits)
        v.store_u32(sums, j, v.add(v.load_u32(sums, j), bits))
    total = np.int64(v.sum_of(totals))
    for j in range(whole, count):
        value = max(_high_bit(form, data, begin + j), least)
        total += value
        sums[j] += np.uint32(value)
    return total


@once
def _greatest(form, data, line, tile, words):
    """The largest high bits of some rows of a matrix."""
    rows, columns = line[m.ROWS], line[m.COLUMNS]
    most = np.uint16(0)
    for row in range(0, rows, max(1, rows // _LOOKED_AT)):
        for j in range(0, columns, m.TILE):
            count = min(m.TILE, columns - j)
            _high_bits(form, data, line[m.ELEMENT] + row * columns + j, count, tile)
            some = words[:count]
            for i in range(count):
                most = max(most, some[i])
    return np.int64(most)


@once
def _find_scales(form, size, top, data, line, steps, tile, words, sums, floats):
    """Mean log2 of the rows and columns of a matrix, see `scales.scales_of`."""
    rows, columns = line[m.ROWS], line[m.COLUMNS]
    row_at, column_at = line[m.ROW_AT], line[m.COLUMN_AT]
    greatest = _greatest(form, data, line, tile, words)
    least = max(np.int64(0), greatest - (_OCTAVES_BELOW << top))
    sums[:columns] = np.uint32(0)
    whole = np.float64(0.0)
    for r in range(rows):
        total = _add_row(form, size, data, line[m.ELEMENT] + r * columns, columns, least, sums)
        steps[row_at + r] = total
        whole += np.float64(total)
    octave = 1 << top
    mean = whole / (np.float64(rows) * columns * octave)
    squares = 0.0
    middle = 0.0
    for j in range(columns):
        offset = sums[j] / (np.float64(rows) * octave) - mean
        floats[j] = offset
        middle += offset
        squares += offset * offset
    middle /= columns
    variance = squares / columns - middle * middle
    factor = max(0.0, 1.0 - _SPREAD / rows / max(variance, 1e-9))
    if rows < _MIN_ROWS:
        factor = 0.0
    lowest = np.int64(1 << 40)
    for j in range(columns):
        step = np.int64(np.rint(floats[j] * factor * _STEPS))
        lowest = min(lowest, step)
        steps[column_at + j] = step
    for j in range(columns):
        steps[column_at + j] = min(np.int64(steps[column_at + j]) - lowest, _MAX_COLUMN_STEPS)
    scale = np.float64(_STEPS) / (np.float64(columns) * octave)
    for r in range(rows):
        steps[row_at + r] = np.int64(np.rint(steps[row_at + r] * scale)) + lowest


@part
def _sum_of_logarithms(histogram):
    total = 0.0
    for k in range(1, histogram.size):
        if histogram[k] > 0:
            total += histogram[k] * np.log2(1.0 + k)
    return total


@part
def _code_side(scales, coded, in_steps, counts, histogram):
    """How scales are coded: centre and flags. Their symbols are counted. See `scales._code`."""
    histogram[:] = 0
    for k in range(scales.size):
        histogram[np.int64(scales[k])] += 1
    lower, upper = (scales.size - 1) // 2, scales.size // 2
    seen = 0
    first = np.int64(-1)
    centre = np.int64(0)
    different = 0
    for k in range(256):
        different += histogram[k] > 0
        seen += histogram[k]
        if first < 0 and seen > lower:
            first = k
        if seen > upper:
            centre = (first + k) // 2
            break
    if different == 1 and seen == scales.size:
        return centre, np.int64(0)
    histogram[:] = 0
    for k in range(scales.size):
        histogram[abs(np.int64(scales[k]) - centre)] += 1
    plainly = _sum_of_logarithms(histogram)
    histogram[:] = 0
    before = centre
    for k in range(scales.size):
        histogram[abs(np.int64(scales[k]) - before)] += 1
        before = np.int64(scales[k])
    flags = coded
    if plainly > _sum_of_logarithms(histogram):
        flags |= in_steps
    before = centre
    for k in range(scales.size):
        counts[(np.int64(scales[k]) - before + 128) & 255] += 1
        if flags & in_steps:
            before = np.int64(scales[k])
    return centre, np.int64(flags)


@once
def _code_scales(line, base, steps, scales, counts, histogram):
    """Scales relative to `base`, and how they are coded, see `scales.code_scales`."""
    rows = scales[line[m.ROW_AT] : line[m.ROW_AT] + line[m.ROWS]]
    columns = scales[line[m.COLUMN_AT] : line[m.COLUMN_AT] + line[m.COLUMNS]]
    most = np.int64(0)
    for j in range(columns.size):
        step = np.int64(steps[line[m.COLUMN_AT] + j])
        most = max(most, step)
        columns[j] = step
    for r in range(rows.size):
        step = np.int64(steps[line[m.ROW_AT] + r]) - base * _STEPS
        rows[r] = min(max(step, 0), _MAX_STEPS - most)
    centre, flags = _code_side(rows, ROWS, ROW_STEPS, counts[_STEPS], histogram)
    line[m.ROW_CENTRE] = centre
    line[m.FLAGS] = flags
    centre, flags = _code_side(columns, COLUMNS, COLUMN_STEPS, counts[_STEPS + 1], histogram)
    line[m.COLUMN_CENTRE] = centre
    line[m.FLAGS] |= flags


# Symbols, as `scale_context.kernels` has them


@part
def _symbol(high_bits, scale, base, rule):
    """The symbol of any element."""
    _, top, first, main, low_exponents = rule
    symbol = high_bits - ((base + first + (scale >> m.PHASE)) << top)
    if 0 <= symbol < main:
        return symbol
    if high_bits == 0:
        return main
    below = first - 1 - ((high_bits >> top) - base - (scale >> m.PHASE))
    return main + 1 + (below if 0 <= below < low_exponents else low_exponents)


@part
def _places(tile, i, scales, k, offset, top):
    """Where the joint symbols of 16 elements are in a table by context and symbol.

    What has no joint symbol may be anywhere beyond these, at 255 at most.
    """
    scale = v.load_u8(scales, k)
    expected = v.shift_left(v.shift_right(scale, m.PHASE), top)
    symbol = v.subtract(v.load_u16(tile, 2 * i), v.add(expected, offset))
    symbol = v.choose(v.less(symbol, v.splat(_NONE)), symbol, v.splat(_NONE))
    return v.either(v.shift_left(v.both(scale, v.splat(_MASK)), 8), symbol)


@part
def _fill(scale, columns, scales):
    """Scales of elements of a row."""
    for j in range(scales.size):
        scales[j] = np.uint8(scale + columns[j])


@part
def _count_row(tile, count, scales, base, rule, places, tallies):
    """Counts the symbols of elements under their contexts."""
    _, top, first, main, _ = rule
    offset = v.splat((base + first) << top)
    whole = count & ~15
    for i in range(0, whole, 16):
        place = _places(tile, i, scales, i, offset, top)
        v.store_u16(places, 2 * i, place)
        rare = v.bits_of(v.less(v.splat(main - 1), v.both(place, v.splat(255))))
        if rare != 0:
            for k in range(i, i + 16):
                if (rare >> (k - i)) & 1:
                    scale = np.int64(scales[k])
                    symbol = _symbol(np.int64(load_u16(tile, 2 * k)), scale, base, rule)
                    store_u16(places, 2 * k, np.uint16((scale & _MASK) << 8 | symbol))
    for k in range(whole, count):
        scale = np.int64(scales[k])
        symbol = _symbol(np.int64(load_u16(tile, 2 * k)), scale, base, rule)
        store_u16(places, 2 * k, np.uint16((scale & _MASK) << 8 | symbol))
    most = np.uint64(2047)
    for i in range(0, count - 3, 4):
        four = load_u64(places, 2 * i)
        tallies[0, four & most] += np.uint32(1)
        tallies[1, (four >> np.uint64(16)) & most] += np.uint32(1)
        tallies[2, (four >> np.uint64(32)) & most] += np.uint32(1)
        tallies[3, (four >> np.uint64(48)) & most] += np.uint32(1)
    for i in range(count & ~3, count):
        tallies[0, np.uint64(load_u16(places, 2 * i)) & most] += np.uint32(1)


@part
def _count_exponents(tile, count, shift, tallies, some):
    """Counts exponents, as planes have them; in turns, since they are often equal to the last."""
    mask = np.uint64(255)
    first = np.uint64(m.EXPONENTS)
    for i in range(0, count - 3, 4):
        four = load_u64(tile, 2 * i) >> shift
        tallies[0, first + (four & mask)] += np.uint32(1)
        tallies[1, first + ((four >> np.uint64(16)) & mask)] += np.uint32(1)
        tallies[2, first + ((four >> np.uint64(32)) & mask)] += np.uint32(1)
        tallies[3, first + ((four >> np.uint64(48)) & mask)] += np.uint32(1)
    for i in range(count & ~3, count):
        exponent = (np.uint64(load_u16(tile, 2 * i)) >> shift) & mask
        tallies[0, first + exponent] += np.uint32(1)
    for k in range(4):
        counted = tallies[k, m.EXPONENTS : m.EXPONENTS + 256]
        for e in range(256):
            some[e] += counted[e]
            counted[e] = np.uint32(0)


@once
def _count_rows(data, line, base, step, rule, scales, element_scales, work, tallies, exponents):
    """Counts the symbols of every `step`th row of a matrix; exponents by the scale of the row.

    Of more rows where these are few: each context shall have some.
    """
    form, top, _, _, _ = rule
    tile, places = work
    columns = line[m.COLUMNS]
    shift = np.uint64(1 if form == m.FORM_FP16 else 0 if form == m.FORM_FP8 else top)
    step = min(step, max(1, line[m.ROWS] // _LEAST_COUNTED))
    for r in range(0, line[m.ROWS], step):
        scale = scales[line[m.ROW_AT] + r]
        for j in range(0, columns, m.TILE):
            count = min(m.TILE, columns - j)
            begin = line[m.COLUMN_AT] + j
            _fill(scale, scales[begin : begin + count], element_scales[:count])
            _high_bits(form, data, line[m.ELEMENT] + r * columns + j, count, tile)
            _count_row(tile, count, element_scales, base, rule, places, tallies)
            group = min(np.int64(scale) // m.STEPS_OF_GROUP, m.GROUPS - 1)
            _count_exponents(tile, count, shift, tallies, exponents[group])


@part
def _contexts_of(scales):
    """The contexts that scales stand for, a bit for each."""
    found = np.uint64(0)
    for k in range(scales.size):
        found |= np.uint64(1) << np.uint64(scales[k] & np.uint8(_MASK))
    return found


@once
def _contexts_in(line, scales):
    """The contexts that occur in a matrix, a bit for each."""
    rows = _contexts_of(scales[line[m.ROW_AT] : line[m.ROW_AT] + line[m.ROWS]])
    columns = _contexts_of(scales[line[m.COLUMN_AT] : line[m.COLUMN_AT] + line[m.COLUMNS]])
    found = np.uint64(0)
    for c in range(_STEPS):
        if (columns >> np.uint64(c)) & np.uint64(1) != np.uint64(0):
            found |= rows << np.uint64(c)
    return np.int64((found | found >> np.uint64(_STEPS)) & np.uint64((1 << _STEPS) - 1))


@kernel(
    types.void(
        R8, _RULE, I64_2D, I64_2D, types.int64, I32, W8, I64_2D, types.uint32[:, ::1], W8, W16,
        W8, W8, W32, types.uint32[:, ::1], F64, I64,
    ),
    counted=False,
)  # fmt: skip
def plan_matrices(
    data, rule, parts, chunks, step, steps, scales, counts, exponents, tile, words, places,
    element_scales, sums, tallies, floats, histogram,
):  # fmt: skip
    """Finds the scales of matrices, and counts the symbols of every `step`th row, or of more.

    `data`: uint8[], the elements of a batch. `rule`: the form, coded mantissa bits, first exponent,
    main, low exponents, see `scale_context.params`. `parts`: int64[matrices, PART] and `chunks`:
    int64[chunks, CHUNK] of all or some chunks, see `matrix_table`; a matrix has 2^20 rows and 2^16
    columns at most.

    Results: in `parts` and `chunks`; `scales`, uint8[rows and columns of the batch]; `counts`,
    int64[CONTEXTS, 256], to which is added; `exponents`, uint32[GROUPS, 256], likewise.

    Work space: `steps`, int32[as `scales`]; `tile`, uint8[2 * TILE], and `words` the same memory as
    uint16; `places`, uint8[2 * TILE]; `element_scales`, uint8[TILE + 32]; `sums`, uint32[columns];
    `tallies`, uint32[4, TALLIES]; `floats`, float64[columns]; `histogram`, int64[512].
    """
    form, top, _, _, _ = rule
    size = np.int64(1 if form == m.FORM_FP8 else 4 if form == m.FORM_FP32 else 2)
    tallies[:] = np.uint32(0)
    for c in range(chunks.shape[0]):
        chunk = chunks[c]
        lines = parts[chunk[m.FIRST_PART] : chunk[m.FIRST_PART] + chunk[m.PARTS]]
        lowest = np.int64(1 << 40)
        for p in range(lines.shape[0]):
            line = lines[p]
            _find_scales(form, size, top, data, line, steps, tile, words, sums, floats)
            for r in range(line[m.ROWS]):
                lowest = min(lowest, np.int64(steps[line[m.ROW_AT] + r]))
        base = lowest >> m.PHASE
        chunk[m.BASE] = base
        chunk[m.OCCUR] = 0
        for p in range(lines.shape[0]):
            line = lines[p]
            _code_scales(line, base, steps, scales, counts, histogram)
            work = tile, places
            _count_rows(
                data, line, base, step, rule, scales, element_scales, work, tallies, exponents
            )
            chunk[m.OCCUR] |= _contexts_in(line, scales)
    for c in range(_STEPS):
        for s in range(256):
            at = c << 8 | s
            total = np.int64(tallies[0, at]) + np.int64(tallies[1, at])
            counts[c, s] += total + np.int64(tallies[2, at]) + np.int64(tallies[3, at])


@kernel(
    types.int64(
        R8,
        types.int64,
        types.int64,
        types.boolean,
        types.float64,
        types.float64,
        W8,
        W32,
        I64_2D,
        W64,
        I64,
        I64,
        W8,
    ),
    counted=False,
)
def look_at_floats(
    data, layout, size, careful, second, noise, planes, tallies, counts, windows, ways, addresses,
    edge,
):  # fmt: skip
    """Whether floats are as most weights are: exponents, the rest noise, nothing that repeats.

    `data`: uint8[], at least 4096 elements. `second`: bits of a byte of the second plane from which
    it is noise; `noise`: of low halves, which may be coded where they are not. `ways`: int64[8];
    that of number `size` gets the bits of a byte of the second plane, in units of 2^-10. Other work
    space: see `encode_kernels.plan_span`.
    """
    fits = _look(
        data, layout, size, careful, second, noise, size == 4, False, ways, planes, tallies, counts,
        windows, addresses, edge,
    )  # fmt: skip
    if not fits:
        return np.int64(m.REFUSED)
    found = m.LOW_RAW
    for p in range(1, size):
        if ways[p] == OTHER:
            found = m.LOW_CODED
        elif ways[p] != 0:
            return np.int64(m.REFUSED)
    return np.int64(found)


# What byte planes would take


@part
def _bits_of(counts):
    """Bits of symbols under frequencies of their own."""
    total = np.int64(0)
    bits = 0.0
    for s in range(256):
        count = np.int64(counts[s])
        if count > 0:
            total += count
            bits -= count * np.log2(np.float64(count))
    return bits + total * np.log2(np.float64(max(total, 1)))


@part
def _symbols_in(counts):
    symbols = 0
    for s in range(256):
        symbols += counts[s] > 0
    return symbols


@part
def _copy_counts(counts, to):
    for s in range(256):
        to[s] = counts[s]


@part
def _bits_of_both(a, b, sums):
    for s in range(256):
        sums[s] = a[s] + b[s]
    return _bits_of(sums)


@kernel(
    types.float64(types.uint32[:, ::1], types.float64, types.int64, W32, F64, F64), counted=False
)
def bits_in_classes(exponents, factor, runs, sums, bits, more):
    """Bits of exponents under classes of rows, 8 at most, as byte planes have them, about.

    `exponents`: uint32[GROUPS, 256], counted in a share of the rows, of which `factor` makes all;
    overwritten. Groups are joined with their neighbours, where that costs least. `runs`: rows. Work
    space: `sums`, uint32[256]; `bits`, `more`, float64[GROUPS].
    """
    count = 0
    for g in range(exponents.shape[0]):
        some = np.uint32(0)
        for s in range(256):
            some |= exponents[g, s]
        if some != np.uint32(0):
            _copy_counts(exponents[g], exponents[count])
            count += 1
    for g in range(count):
        bits[g] = _bits_of(exponents[g])
        if g > 0:
            both = _bits_of_both(exponents[g - 1], exponents[g], sums)
            more[g - 1] = both - bits[g - 1] - bits[g]
    best = np.inf
    while count > 0:
        if count <= 8:
            total = 0.0
            for g in range(count):
                symbols = _symbols_in(exponents[g])
                total += bits[g] * factor + _BITS_OF_SYMBOL * symbols
                total += _UNSEEN * (factor - 1.0) * (symbols - 1)  # Miller and Madow
            map_bits = 4 if count > 4 else 2 if count > 2 else count - 1
            best = min(best, total + runs * map_bits)
        least = 0
        for g in range(count - 1):
            if more[g] < more[least]:
                least = g
        for g in range(least + 1, count):
            if g > least + 1:
                _copy_counts(exponents[g], exponents[g - 1])
                bits[g - 1] = bits[g]
                more[g - 2] = more[g - 1]
            else:
                for s in range(256):
                    exponents[least, s] += exponents[g, s]
        count -= 1
        if count > 0:
            bits[least] = _bits_of(exponents[least])
        for g in range(max(least, 1), min(least + 2, count)):
            both = _bits_of_both(exponents[g - 1], exponents[g], sums)
            more[g - 1] = both - bits[g - 1] - bits[g]
    return best
