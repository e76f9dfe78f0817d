"""The compiled loops that encode floats in matrices under scale contexts: a batch as frames.

Two passes. The first one finds the scales of rows and columns, and counts the symbols of some rows;
frequencies are settled from that. The second one goes over each chunk from its end, as rANS does:
tile by tile, from elements to words, with nothing in between that would not stay in the cache.
"""

import numpy as np
from numba import types

from densor.codec.scale_context.payload import COLUMN_STEPS, COLUMNS, HEAD, PART, ROW_STEPS, ROWS
from densor.codec.spans import matrix_table as m
from densor.codec.spans import table as t
from densor.codec.spans.encode_kernels import OTHER, _look, _put_frame
from densor.codec.spans.jit import once, part
from densor.codec.spans.low_kernels import (
    LOW_RULE,
    code_low_halves,
    put_low_halves,
    put_one,
)
from densor.entropy import vectors as v
from densor.entropy.intrinsics import (
    copy_bytes,
    load_u16,
    load_u32,
    load_u64,
    store_u16,
    store_u32,
)
from densor.entropy.jit import I32, I64, R8, R32, W8, W16, W32, W64, kernel
from densor.entropy.rans.constants import FIRST, STATES
from densor.entropy.rans.kernels import put_lanes

I64_2D = types.int64[:, ::1]
F64 = types.float64[::1]
_HEAD, _PART = HEAD.size, PART.size
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

_put_lanes = part(put_lanes.py_func)


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
def _high_bits(form, data, begin, count, out):
    """Those of `count` elements from `begin` on, to bytes of uint16."""
    whole = count & ~15
    if form == m.FORM_BF16:
        for i in range(0, whole, 16):
            x = v.shift_right(v.load_u16(data, 2 * (begin + i)), 4)
            v.store_u16(out, 2 * i, v.both(x, v.splat(0x7FF)))
    elif form == m.FORM_FP16:
        for i in range(0, whole, 16):
            x = v.shift_right(v.load_u16(data, 2 * (begin + i)), 7)
            v.store_u16(out, 2 * i, v.both(x, v.splat(0xFF)))
    elif form == m.FORM_FP8:
        for i in range(0, whole, 16):
            v.store_u16(out, 2 * i, v.both(v.load_u8(data, begin + i), v.splat(0x7F)))
    else:
        for i in range(0, whole, 16):
            x = v.shift_right(v.load_u32_bytes(data, 4 * (begin + i)), 20)
            v.store_u16(out, 2 * i, v.both(x, v.splat(0x7FF)))
    for i in range(whole, count):
        store_u16(out, 2 * i, np.uint16(_high_bit(form, data, begin + i)))


# Scales


@part
def _add_row(row, least, sums):
    """Adds high bits, none below `least`, to those of the columns; returns their sum."""
    total = np.uint32(0)
    for j in range(row.size):
        value = np.uint32(max(row[j], least))
        total += value
        sums[j] += value
    return np.int64(total)


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
def _find_scales(form, top, data, line, steps, tile, words, sums, floats):
    """Mean log2 of the rows and columns of a matrix, see `scales.scales_of`."""
    rows, columns = line[m.ROWS], line[m.COLUMNS]
    row_at, column_at = line[m.ROW_AT], line[m.COLUMN_AT]
    greatest = _greatest(form, data, line, tile, words)
    least = np.uint16(max(0, greatest - (_OCTAVES_BELOW << top)))
    sums[:columns] = np.uint32(0)
    whole = np.float64(0.0)
    for r in range(rows):
        total = 0
        for j in range(0, columns, m.TILE):
            count = min(m.TILE, columns - j)
            _high_bits(form, data, line[m.ELEMENT] + r * columns + j, count, tile)
            total += _add_row(words[:count], least, sums[j : j + count])
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
def _count_exponents(words, shift, some):
    """Counts exponents, as planes have them."""
    for i in range(words.size):
        some[(words[i] >> shift) & np.uint16(255)] += np.uint32(1)


@once
def _count_rows(data, line, base, step, rule, scales, element_scales, work, tallies, exponents):
    """Counts the symbols of every `step`th row of a matrix; exponents by the scale of the row.

    Of more rows where these are few: each context shall have some.
    """
    form, top, _, _, _ = rule
    tile, words, places = work
    columns = line[m.COLUMNS]
    shift = np.uint16(1 if form == m.FORM_FP16 else 0 if form == m.FORM_FP8 else top)
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
            _count_exponents(words[:count], shift, exponents[group])


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
    `tallies`, uint32[4, 8 * 256]; `floats`, float64[columns]; `histogram`, int64[512].
    """
    form, top, _, _, _ = rule
    tallies[:] = np.uint32(0)
    for c in range(chunks.shape[0]):
        chunk = chunks[c]
        lines = parts[chunk[m.FIRST_PART] : chunk[m.FIRST_PART] + chunk[m.PARTS]]
        lowest = np.int64(1 << 40)
        for p in range(lines.shape[0]):
            line = lines[p]
            _find_scales(form, top, data, line, steps, tile, words, sums, floats)
            for r in range(line[m.ROWS]):
                lowest = min(lowest, np.int64(steps[line[m.ROW_AT] + r]))
        base = lowest >> m.PHASE
        chunk[m.BASE] = base
        chunk[m.OCCUR] = 0
        for p in range(lines.shape[0]):
            line = lines[p]
            _code_scales(line, base, steps, scales, counts, histogram)
            work = tile, words, places
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
    data, layout, size, careful, noise, planes, tallies, counts, windows, ways, addresses, edge
):
    """Whether floats are as most weights are: exponents, the rest noise, nothing that repeats.

    `data`: uint8[], at least 4096 elements. `noise`: bits of a byte of low halves from which they
    are that; where they are not, they may be coded. Work space: see `encode_kernels.encode_span`.
    """
    fits = _look(
        data, layout, size, careful, noise, size == 4, ways, planes, tallies, counts, windows,
        addresses, edge,
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


# Encoding


@part
def _escape(symbol, high_bits, rule, escapes, count):
    """Notes the escape bits of a symbol, their number above them."""
    _, top, _, main, low_exponents = rule
    if symbol > main + low_exponents:
        bits = np.int64(11 if rule[0] == m.FORM_BF16 or rule[0] == m.FORM_FP32 else 8)
        bits = np.int64(7) if rule[0] == m.FORM_FP8 else bits
        escapes[count] = np.uint32(bits << 16 | high_bits)
        return count + 1
    if symbol > main:
        escapes[count] = np.uint32(top << 16 | (high_bits & ((1 << top) - 1)))
        return count + 1
    return count


@part
def _start_of(high_bits, scale, base, rule, starts, escapes, count):
    """What codes an element, see `rans.kernels.build_starts`; and the number of escapes."""
    symbol = _symbol(high_bits, scale, base, rule)
    context = (scale & _MASK) << 8
    start = starts[context | symbol]
    if start >> np.uint32(16) == np.uint32(0):
        symbol = rule[3] + 1 + rule[4]
        start = starts[context | symbol]
    return start, _escape(symbol, high_bits, rule, escapes, count)


@part
def _put_rare(start0, start1, tile, i, scales, base, rule, starts, lanes, escapes, count):
    """Finds what codes elements without a joint symbol, the last one first; to `lanes`."""
    v.store_u32(lanes, 0, start0)
    v.store_u32(lanes, 16, start1)
    for k in range(STATES - 1, -1, -1):
        if lanes[k] == np.uint32(0):
            high_bits = np.int64(load_u16(tile, 2 * (i + k)))
            start, count = _start_of(
                high_bits, np.int64(scales[i + k]), base, rule, starts, escapes, count
            )
            lanes[k] = start
    return count


@part
def _put_tile(
    tile, scales, count, base, rule, starts, joint, states, lanes, places, words, at, escapes, e
):
    """Codes whole blocks of a tile, the last one first; returns where words begin, and escapes."""
    _, top, first, _, _ = rule
    offset = v.splat((base + first) << top)
    zero = v.splat(0)
    x0 = v.load_u32(states, 0)
    x1 = v.load_u32(states, 16)
    for i in range(0, count, 16):
        v.store_u16(places, 2 * i, _places(tile, i, scales, i, offset, top))
    for i in range(count - STATES, -1, -STATES):
        start1 = v.gather_u32_at(joint, places, 2 * i + 32)
        start0 = v.gather_u32_at(joint, places, 2 * i)
        if (v.bits_of(v.equal(start0, zero)) | v.bits_of(v.equal(start1, zero))) != 0:
            e = _put_rare(start0, start1, tile, i, scales, base, rule, starts, lanes, escapes, e)
            start0 = v.load_u32(lanes, 0)
            start1 = v.load_u32(lanes, 16)
        x1, at = _put_lanes(x1, start1, v.reciprocal(v.shift_right(start1, 16)), words, at)
        x0, at = _put_lanes(x0, start0, v.reciprocal(v.shift_right(start0, 16)), words, at)
    v.store_u32(states, 0, x0)
    v.store_u32(states, 16, x1)
    return at, e


@part
def _fill_tile(parts, p, begin, count, scales, element_scales):
    """Scales of the elements `begin` to `begin + count` of a batch, of which `p` is the matrix."""
    done = 0
    while done < count:
        line = parts[p]
        columns = line[m.COLUMNS]
        inside = begin + done - line[m.ELEMENT]
        if inside >= line[m.ROWS] * columns:
            p += 1
            continue
        r = inside // columns
        j = inside - r * columns
        some = min(columns - j, count - done)
        first = line[m.COLUMN_AT] + j
        _fill(
            scales[line[m.ROW_AT] + r], scales[first : first + some],
            element_scales[done : done + some],
        )  # fmt: skip
        done += some


@once
def _put_elements(
    data, rule, parts, chunk, scales, starts, joint, states, lanes, words, at, escapes, tile,
    element_scales, places,
):  # fmt: skip
    """Codes the elements of a chunk, the last one first; returns where words begin, and escapes."""
    count = chunk[m.COUNT]
    base = chunk[m.BASE]
    e = np.int64(0)
    p = chunk[m.FIRST_PART] + chunk[m.PARTS] - 1
    for begin in range((count - 1) // m.TILE * m.TILE, -1, -m.TILE):
        some = min(m.TILE, count - begin)
        element = chunk[m.BEGIN] + begin
        while parts[p, m.ELEMENT] > element:
            p -= 1
        _fill_tile(parts, p, element, some, scales, element_scales)
        _high_bits(rule[0], data, element, some, tile)
        whole = some & ~(STATES - 1)
        for i in range(some - 1, whole - 1, -1):
            high_bits = np.int64(load_u16(tile, 2 * i))
            start, e = _start_of(
                high_bits, np.int64(element_scales[i]), base, rule, starts, escapes, e
            )
            if start >> np.uint32(16) == np.uint32(0):
                return np.int64(-1), e
            states[i - whole], at = put_one(states[i - whole], start, words, at)
        at, e = _put_tile(
            tile, element_scales, whole, base, rule, starts, joint, states, lanes, places, words,
            at, escapes, e,
        )  # fmt: skip
    return at, e


@once
def _put_sides(parts, chunk, scales, starts, states, words, at):
    """Codes the scales of rows and columns, the last one first; returns where words begin."""
    coded = np.int64(0)
    first = chunk[m.FIRST_PART]
    for p in range(first, first + chunk[m.PARTS]):
        coded += parts[p, m.ROWS] * ((parts[p, m.FLAGS] & ROWS) != 0)
        coded += parts[p, m.COLUMNS] * ((parts[p, m.FLAGS] & COLUMNS) != 0)
    i = coded - 1
    for p in range(first + chunk[m.PARTS] - 1, first - 1, -1):
        line = parts[p]
        for side in range(1, -1, -1):
            if line[m.FLAGS] & (COLUMNS if side else ROWS) == 0:
                continue
            begin = line[m.COLUMN_AT] if side else line[m.ROW_AT]
            size = line[m.COLUMNS] if side else line[m.ROWS]
            centre = line[m.COLUMN_CENTRE] if side else line[m.ROW_CENTRE]
            in_steps = line[m.FLAGS] & (COLUMN_STEPS if side else ROW_STEPS)
            for k in range(size - 1, -1, -1):
                before = centre
                if in_steps != 0 and k > 0:
                    before = np.int64(scales[begin + k - 1])
                symbol = (np.int64(scales[begin + k]) - before + 128) & 255
                start = starts[(_STEPS + side) << 8 | symbol]
                if start >> np.uint32(16) == np.uint32(0):
                    return np.int64(-1)
                lane = i & (STATES - 1)
                states[lane], at = put_one(states[lane], start, words, at)
                i -= 1
    return at


@once
def _put_escapes(escapes, count, out, at):
    """Escape bits in the order of elements, the last noted first; returns their end."""
    buffer = np.uint64(0)
    filled = np.uint64(0)
    for k in range(count - 1, -1, -1):
        one = np.uint64(escapes[k])
        buffer |= (one & np.uint64(0xFFFF)) << filled
        filled += one >> np.uint64(16)
        if filled >= np.uint64(32):
            store_u32(out, at, np.uint32(buffer & np.uint64(0xFFFFFFFF)))
            at += 4
            buffer >>= np.uint64(32)
            filled -= np.uint64(32)
    while filled > np.uint64(0):
        out[at] = np.uint8(buffer & np.uint64(255))
        at += 1
        buffer >>= np.uint64(8)
        filled -= min(filled, np.uint64(8))
    return at


@part
def _put_rest_of_bf16(x0, x1, out, rest, signs):
    minus = v.bits_of(v.less(v.splat(0x7FFF), x0)) | v.bits_of(v.less(v.splat(0x7FFF), x1)) << 16
    store_u32(out, signs, np.uint32(minus))
    low = v.splat(15)
    v.store_u8(out, rest, v.either(v.both(x0, low), v.shift_left(v.both(x1, low), 4)))


@part
def _put_block(form, data, at, out, rest, signs):
    """Signs and low mantissa bits of 32 elements."""
    if form == m.FORM_BF16:
        _put_rest_of_bf16(v.load_u16(data, at), v.load_u16(data, at + 32), out, rest, signs)
    elif form == m.FORM_FP16:
        for k in range(2):
            x = v.load_u16(data, at + 32 * k)
            sign = v.both(v.shift_right(x, 8), v.splat(128))
            v.store_u8(out, rest + 16 * k, v.either(sign, v.both(x, v.splat(127))))
    elif form == m.FORM_FP8:
        high = v.splat(127)
        minus = v.bits_of(v.less(high, v.load_u8(data, at)))
        minus |= v.bits_of(v.less(high, v.load_u8(data, at + 16))) << 16
        store_u32(out, signs, np.uint32(minus))
    else:
        x0 = v.shift_right(v.load_u32_bytes(data, at), 16)
        x1 = v.shift_right(v.load_u32_bytes(data, at + 64), 16)
        _put_rest_of_bf16(x0, x1, out, rest, signs)


@once
def _put_rest(form, size, data, begin, count, out, rest, rest_bytes, signs, sign_bytes, edge):
    """What is stored as it is, but for low halves."""
    whole = count & ~(STATES - 1)
    for i in range(0, whole, STATES):
        block = i // STATES
        _put_block(
            form, data, (begin + i) * size, out, rest + block * rest_bytes,
            signs + block * sign_bytes,
        )  # fmt: skip
    if whole < count:
        edge[:] = 0
        copy_bytes(edge, 0, data, (begin + whole) * size, (count - whole) * size)
        block = whole // STATES
        _put_block(form, edge, 0, out, rest + block * rest_bytes, signs + block * sign_bytes)


@once
def _put_halves(data, begin, count, out, at):
    """The low halves of elements of 4 bytes."""
    whole = count & ~15
    for i in range(0, whole, 16):
        v.store_u16(out, at + 2 * i, v.load_u32_bytes(data, 4 * (begin + i)))
    for i in range(whole, count):
        store_u16(out, at + 2 * i, load_u16(data, 4 * (begin + i)))


@once
def _put_head(parts, chunk, escapes, stream, out, at):
    """The head of a payload; returns its end."""
    store_u16(out, at, np.uint16(chunk[m.PARTS]))
    store_u16(out, at + 2, np.uint16(chunk[m.BASE]))
    store_u32(out, at + 4, np.uint32(escapes))
    store_u32(out, at + 8, np.uint32(stream))
    at += _HEAD
    for p in range(chunk[m.FIRST_PART], chunk[m.FIRST_PART] + chunk[m.PARTS]):
        store_u32(out, at, np.uint32(parts[p, m.ROWS]))
        store_u32(out, at + 4, np.uint32(parts[p, m.COLUMNS]))
        store_u32(
            out, at + 8,
            np.uint32(
                parts[p, m.FLAGS] | parts[p, m.ROW_CENTRE] << 8 | parts[p, m.COLUMN_CENTRE] << 16
            ),
        )  # fmt: skip
        at += _PART
    return at


@kernel(
    types.int64(
        R8, _RULE, types.UniTuple(types.int64, 3), I64_2D, I64_2D, R8, R32, R32, LOW_RULE,
        types.uint8[:, ::1], W32, W8, I64_2D, W8, W32, W8, W8, W8, W32, W8, W8, W8, W8, I64_2D,
    ),
    counted=False,
)  # fmt: skip
def encode_matrices(
    data, rule, sizes, parts, chunks, scales, starts, joint, low_rule, low_runs, low_starts, out,
    made, words, escapes, tile, element_scales, places, states, edge, low_planes, low_places,
    low_words, sections,
):  # fmt: skip
    """Encodes the chunks of a batch, whose scales are known, as frames.

    `sizes`: bytes of an element; of the rest, and of the signs of a block. `starts`:
    uint32[CONTEXTS * 256], see `rans.kernels.build_starts`; `joint`: the same, 0 for all but joint
    symbols. `low_rule`, `low_runs`, `low_starts`: see `low_kernels.code_low_halves`. Other
    arguments: see `plan_matrices`.

    Results: `out`, uint8[], the frames one after the other, but for their model numbers and header
    checks; `made`, int64[chunks, 3], of each frame its offset, its payload, and 1 if it uses the
    batch's parameters, 0 if it is raw. Returns the bytes of all, or -1 where a symbol has no
    frequency.

    Work space: `words`, uint8[2 * (elements, rows and columns of a chunk) + 64]; `escapes`,
    uint32[elements of a chunk]; `tile`, uint8[2 * TILE]; `element_scales`, uint8[TILE + 32];
    `places`, uint8[2 * TILE]; `states`, uint32[2 * 32]; `edge`, uint8[EDGE]; `low_planes`,
    `low_places`, `low_words`, `sections`: see `low_kernels.code_low_halves`.
    """
    size, rest_bytes, sign_bytes = sizes
    form = rule[0]
    at = np.int64(0)
    for c in range(chunks.shape[0]):
        chunk = chunks[c]
        count = chunk[m.COUNT]
        states[:STATES] = np.uint32(FIRST)
        lanes = states[STATES:]
        place, e = _put_elements(
            data, rule, parts, chunk, scales, starts, joint, states, lanes, words, words.size,
            escapes, tile, element_scales, places,
        )  # fmt: skip
        if place >= 0:
            place = _put_sides(parts, chunk, scales, starts, states, words, place)
        if place < 0:
            return np.int64(-1)
        bits = np.int64(0)
        for k in range(e):
            bits += np.int64(escapes[k] >> np.uint32(16))
        stream = words.size - place + 4 * STATES
        blocks = (count + STATES - 1) // STATES
        stored = _HEAD + _PART * chunk[m.PARTS] + ((bits + 7) >> 3) + stream
        stored += blocks * (rest_bytes + sign_bytes)
        low = np.int64(2 * count if form == m.FORM_FP32 else 0)
        if low_rule[0] != 0:
            low = code_low_halves(
                data, chunk[m.BEGIN], count, chunk[m.FIRST_RUN], low_rule, low_runs, low_starts,
                low_planes, low_places, low_words, lanes, sections,
            )  # fmt: skip
        stored += low
        original = count * size
        payload = at + t.FRAME
        made[c, 0] = at
        made[c, 1] = min(stored, original)
        made[c, 2] = stored < original
        if stored >= original:
            copy_bytes(out, payload, data, chunk[m.BEGIN] * size, original)
        else:
            to = _put_head(parts, chunk, (bits + 7) >> 3, stream, out, payload)
            rest = _put_escapes(escapes, e, out, to)
            signs = rest + blocks * rest_bytes
            to = signs + blocks * sign_bytes
            _put_rest(
                form, size, data, chunk[m.BEGIN], count, out, rest, rest_bytes, signs, sign_bytes,
                edge,
            )  # fmt: skip
            for k in range(STATES):
                store_u32(out, to + 4 * k, states[k])
            copy_bytes(out, to + 4 * STATES, words, place, words.size - place)
            if low_rule[0] != 0:
                put_low_halves(sections, low_planes, low_words, out, to + stream)
            elif form == m.FORM_FP32:
                _put_halves(data, chunk[m.BEGIN], count, out, to + stream)
        _put_frame(out, at, made[c, 1], original)
        at = payload + made[c, 1]
    return at
