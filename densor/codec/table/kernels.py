"""Rows into cells, cells into numbers of a dictionary, and back."""

import numba
from numba import types

from densor.codec.table.state import MAX_DECIMALS, MAX_VALUE, QUOTED, TRIMMED
from densor.entropy.intrinsics import find_either, load_u64, store_u64, trailing_zeros
from densor.entropy.jit import I32, I64, R8, W8, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64

_LF, _CR = 10, 13
_MULTIPLIER = 0x9E3779B97F4A7C15
_LENGTH_BITS = 26  # of a cell with what is behind it
_BLOCK = 64  # bytes that are looked at at once for separators
_FIRST_SLOTS = 1 << 10  # of a column whose cells are numbered; more where many differ
_ROWS_AT_ONCE = 512  # which stay in the cache while all their columns are looked at


@inlined
def _end_of_quoted(data, at, size, quote):
    """Where a quoted cell ends that begins at `at`; -1 if its quote is never closed."""
    at += 1
    while at < size:
        if int64(data[index(at)]) == quote:
            if int64(data[index(at + 1)]) != quote:
                return at + 1
            at += 1
        at += 1
    return int64(-1)


@inlined
def _end_of_row(data, at, size, separator, quote, returns, columns, starts, step, row):
    """Sets the begins of a row's cells; where its line feed is, or -1 for a row of another kind."""
    for column in range(columns):
        begin = at
        starts[index(column * step + row)] = at
        if int64(data[index(at)]) == quote and at < size:
            at = _end_of_quoted(data, at, size, quote)
            if at < 0:
                return at
        else:
            while int64(data[index(at)]) != separator and int64(data[index(at)]) != _LF:
                at += 1
        if column < columns - 1:
            if int64(data[index(at)]) != separator:
                return int64(-1)
            at += 1
        elif returns and int64(data[index(at)]) == _CR:
            at += 1  # behind a quoted cell
        if column == columns - 1 and returns and (at == begin or int64(data[index(at - 1)]) != _CR):
            return int64(-1)
    if int64(data[index(at)]) != _LF or at >= size:
        return int64(-1)
    return at


@inlined
def _end_of_plain_row(
    data, at, separator, quote, returns, columns, starts, step, row, block, ends
):  # fmt: skip
    """As `_end_of_row`, of a row without quoted cells.

    `ends`: which bytes of the block that begins at `block` are separators or line feeds, from `at`
    on. Returns -1 also for what `_end_of_row` must look at; and the last block and its rest.
    """
    begin = at
    for column in range(columns):
        begin = at
        starts[index(column * step + row)] = at
        if int64(data[index(at)]) == quote:
            return int64(-1), block, ends
        while ends == 0:
            block += _BLOCK
            ends = find_either(data, block, separator, _LF)
        at = block + int64(trailing_zeros(ends))
        ends &= ends - uint64(1)
        wanted = separator if column < columns - 1 else int64(_LF)
        if int64(data[index(at)]) != wanted:
            return int64(-1), block, ends
        at += 1
    at -= 1
    if returns and (at == begin or int64(data[index(at - 1)]) != _CR):
        return int64(-1), block, ends
    return at, block, ends


@kernel(types.UniTuple(types.int64, 2)(R8, *[types.int64] * 6, R8, I64, I64, I32, I32, I32, I32))
def split_rows(
    data, begin, size, separator, quote, returns, columns, literals, begins, widths, starts, gaps,
    places, lengths,
):  # fmt: skip
    """Cuts `data[begin:size]` into rows of `columns` cells, and pieces that are no such row.

    `separator`: -1 where there is none, but literals before each cell and behind the last, without
    line feeds, of which `begins`, int64[columns + 2], says where each is in `literals`, and cells
    are JSON values or have `widths`, int64[columns] or none. `quote`: -1 for none; `returns`:
    whether lines end with a carriage return too. `starts`: int32[columns + 1, n] for at most n - 1
    lines: where each cell begins; the last is behind the last literal, or one byte behind the end
    of the last cell where there are separators. Of each piece, `gaps` is how many rows there are
    since the one before, `places` where it begins, `lengths` its bytes. Behind `data[size - 1]` is
    a line feed, and 64 bytes more. Returns the numbers of rows and pieces.
    """
    step = starts.size // (columns + 1)
    row = int64(0)
    pieces = int64(0)
    since = int64(0)
    at = begin
    plain = separator >= 0 and separator != quote
    block, ends = int64(0), uint64(0)
    known = int64(-1)  # where `ends` begins
    while at < size:
        end = int64(-1)
        if plain:
            if known != at:
                block, ends = at, find_either(data, at, separator, _LF)
            end, block, ends = _end_of_plain_row(
                data, at, separator, quote, returns, columns, starts, step, row, block, ends
            )
            end = end if end < size else int64(-1)
            known = end + 1
        if end >= 0:
            pass
        elif separator >= 0:
            end = _end_of_row(data, at, size, separator, quote, returns, columns, starts, step, row)
        else:
            end = _end_of_line(data, at, size, returns, literals, begins, widths, starts, step, row)
        if end >= 0:
            if separator >= 0:
                starts[index(columns * step + row)] = end - returns + 1
            row += 1
            since += 1
            at = end + 1
            continue
        end = at
        while int64(data[index(end)]) != _LF:
            end += 1
        end = min(end + 1, size)
        if since or not pieces:
            gaps[index(pieces)] = since
            places[index(pieces)] = at
            lengths[index(pieces)] = 0
            pieces += 1
            since = int64(0)
        lengths[index(pieces - 1)] += end - at
        at = end
    return row, pieces


@inlined
def _end_of_value(data, at):
    """Where a JSON value ends, or what could be one; -1 where a string or bracket stays open."""
    first = int64(data[index(at)])
    depth = int64(0)
    inside = False
    while True:
        c = int64(data[index(at)])
        if c == _LF:
            return at if not inside and depth == 0 else int64(-1)
        if inside:
            if c == 92 and int64(data[index(at + 1)]) != _LF:  # a backslash
                at += 1
            elif c == 34:
                inside = False
                if depth == 0:
                    return at + 1
        elif c == 34:
            inside = True
        elif c == 91 or c == 123:
            depth += 1
        elif c == 93 or c == 125:
            if depth == 0:
                return at
            depth -= 1
            if depth == 0 and (first == 91 or first == 123):
                return at + 1
        elif depth == 0 and (c == 44 or c == 32 or c == _CR):
            return at
        at += 1


@inlined
def _end_of_line(data, at, size, returns, literals, begins, widths, starts, step, row):
    """As `_end_of_row`, for cells between literals or of fixed widths."""
    columns = begins.size - 2
    for column in range(columns + 1):
        for i in range(begins[index(column)], begins[index(column + 1)]):
            if data[index(at)] != literals[index(i)]:
                return int64(-1)
            at += 1
        starts[index(column * step + row)] = at
        if column == columns:
            break
        if widths.size:
            for _ in range(widths[index(column)]):
                if int64(data[index(at)]) == _LF:
                    return int64(-1)
                at += 1
        else:
            at = _end_of_value(data, at)
            if at < 0:
                return at
    if returns:
        if int64(data[index(at)]) != _CR:
            return int64(-1)
        at += 1
    if int64(data[index(at)]) != _LF or at >= size:
        return int64(-1)
    return at


@inlined
def _word(data, at, length):
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
        if _word(data, a + at, rest) != _word(data, b + at, rest):
            return False
        at += 8
    return True


@inlined
def _key(data, at, length):
    """A number for a cell: its bytes and their number if these are at most seven, else a hash."""
    word = _word(data, at, length)
    if length < 8:
        return word | uint64(length) << uint64(56)
    h = (word + uint64(length)) * uint64(_MULTIPLIER)
    more = int64(8)
    while more < length:
        h ^= h >> uint64(31)
        rest = min(length - more, int64(8))
        h = (h + _word(data, at + more, rest)) * uint64(_MULTIPLIER)
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
        words[index(cell)] = int64(_word(data, at, length))


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


@kernel(types.void(R8, I32, I32, types.int64, I64, I64))
def read_numbers(data, places, lengths, quote, values, decimals):
    """The cells that are numbers as one would write them, without their point.

    `decimals`: digits behind the point, or -1 for what is no number; 32 more if it is quoted, 64
    more if the last of these digits is a 0.
    """
    for cell in range(places.size):
        at = int64(places[index(cell)])
        end = at + int64(lengths[index(cell)])
        flags = int64(0)
        if end - at > 2 and int64(data[index(at)]) == quote:
            at += 1
            end -= 1
            flags = int64(32)
        minus = at < end and data[index(at)] == 45
        at += minus
        value = int64(0)
        digits = int64(0)
        point = int64(-1)
        begin = at
        good = 0 < end - at <= MAX_DECIMALS + 1
        while good and at < end:
            c = int64(data[index(at)])
            if c == 46 and point < 0 and at > begin and at + 1 < end:
                point = at
            elif 48 <= c <= 57:
                value = 10 * value + c - 48
                digits += 1
            else:
                good = False
            at += 1
        whole = (point if point >= 0 else end) - begin
        if not good or digits > MAX_DECIMALS or (whole > 1 and data[index(begin)] == 48):
            decimals[index(cell)] = -1
            values[index(cell)] = 0
            continue
        if minus and value == 0:
            decimals[index(cell)] = -1
            values[index(cell)] = 0
            continue
        places_behind = end - point - 1 if point >= 0 else int64(0)
        if point >= 0 and data[index(end - 1)] == 48:
            flags |= 64
        decimals[index(cell)] = places_behind | flags if places_behind < 32 else int64(-1)
        values[index(cell)] = -value if minus else value


@kernel(types.int64(I64, I64))
def scale_numbers(values, decimals):
    """Chooses how numbers of a column are written, as most are; -1 if half of them are none.

    Takes what `read_numbers` sets, and sets `decimals` to 1 for the numbers that are written so,
    whose `values` are then integers over one power of ten, to 0 for the others, whose are 0.
    Returns that power, with `TRIMMED` if zeros at the end are left out, and `QUOTED`.
    """
    good = int64(0)
    quoted = int64(0)
    most = int64(0)
    for i in range(values.size):
        if decimals[index(i)] >= 0:
            good += 1
            quoted += decimals[index(i)] >> 5 & 1
            most = max(most, decimals[index(i)] & 31)
    if 2 * good <= values.size or most > MAX_DECIMALS:
        return int64(-1)
    quotes = int64(2 * quoted > good)
    trimmed = int64(0)
    fixed = int64(0)
    for i in range(values.size):
        found = decimals[index(i)]
        if found >= 0 and found >> 5 & 1 == quotes:
            trimmed += found & 64 == 0
            fixed += found & 31 == most
    trims = trimmed >= fixed
    good = 0
    for i in range(values.size):
        found = decimals[index(i)]
        fits = found & 64 == 0 if trims else found & 31 == most
        fits = fits and found >= 0 and found >> 5 & 1 == quotes
        scale = int64(1)
        if fits:
            for _ in range(most - (found & 31)):
                scale *= 10
            fits = abs(values[index(i)]) < MAX_VALUE // scale
        decimals[index(i)] = int64(fits)
        values[index(i)] = values[index(i)] * scale if fits else int64(0)
        good += fits
    if 2 * good <= values.size:
        return int64(-1)
    return most | (TRIMMED if trims else 0) | (QUOTED if quotes else 0)


@kernel(types.int64(I32, *[types.int64] * 4, I64, I64))
def joined_size(ids, step, first, last, columns, bases, offsets):
    """Bytes of all cells of rows `first` to `last`.

    `ids`: int32[columns, step]; cell i of a column has bytes `offsets[base + i]` to
    `offsets[base + i + 1]` of a blob.
    """
    total = int64(0)
    for column in range(columns):
        base = bases[index(column)]
        for row in range(first, last):
            cell = base + int64(ids[index(column * step + row)])
            total += offsets[index(cell + 1)] - offsets[index(cell)]
    return total


@kernel(types.int64(I64, I64, R8, R8, types.int64, types.int64, I64))
def lay_out_cells(bases, offsets, blob, ending, separator, size, cells):
    """Sets, for each cell with what stands behind it, its first eight bytes, its bytes and place.

    `bases`, `offsets`, `blob` as in `joined_size`; `ending` stands behind those of the last column,
    at most 2 bytes. `cells`: int64[cells, 2]; bytes are the lowest 26 bits of the second number.
    Returns the bytes of a row at most, or of `size` and more if they are more.
    """
    most = int64(0)
    columns = bases.size
    for column in range(columns):
        base = bases[index(column)]
        end = bases[index(column + 1)] if column < columns - 1 else offsets.size - 1
        longest = int64(0)
        for cell in range(base, end):
            begin = offsets[index(cell)]
            length = offsets[index(cell + 1)] - begin
            word = _word(blob, begin, length)
            behind, more = uint64(separator), int64(1)
            if column == columns - 1:
                behind, more = uint64(ending[0]), int64(ending.size)
                if more > 1:
                    behind |= uint64(ending[1]) << uint64(8)
            if length < 8:
                word |= behind << uint64(8 * length)
            cells[index(2 * cell)] = int64(word)
            cells[index(2 * cell + 1)] = begin << _LENGTH_BITS | (length + more)
            longest = max(longest, length + more)
        most = min(size, most + longest)
    return most


@kernel(
    types.UniTuple(types.int64, 2)(
        I32, *[types.int64] * 4, I64, I64, R8, R8, *[types.int64] * 2, W8, types.int64,
    )
)  # fmt: skip
def join_cells(
    ids, step, first, last, most, bases, cells, blob, ending, separator, size, out, at
):  # fmt: skip
    """Writes rows from `first` on to `out` as long as another one surely fits, with 16 bytes more.

    `ids` as in `joined_size`, the others as in `lay_out_cells`; `most`: bytes of a row, at most.
    Returns the row that is next, at most `last`, and where it begins.
    """
    columns = bases.size
    row = first
    while row < last and at + most + 16 <= size:
        for column in range(columns):
            cell = bases[index(column)] + int64(ids[index(column * step + row)])
            store_u64(out, at, uint64(cells[index(2 * cell)]))
            where = cells[index(2 * cell + 1)]
            length = where & ((1 << _LENGTH_BITS) - 1)
            if length > 8:
                begin = where >> _LENGTH_BITS
                done = int64(8)
                while done < length:
                    store_u64(out, at + done, load_u64(blob, begin + done))
                    done += 8
                if column < columns - 1:
                    out[index(at + length - 1)] = separator
                else:
                    for i in range(ending.size):
                        out[index(at + length - ending.size + i)] = ending[index(i)]
            at += length
        row += 1
    return row, at


@inlined
def _copy(out, at, limit, blob, begin, length):
    """Copies a cell; up to `limit`, bytes behind it may be overwritten."""
    if length <= 8 and at + 8 <= limit:
        store_u64(out, at, load_u64(blob, begin))
        return
    done = int64(0)
    while done + 8 <= length:
        store_u64(out, at + done, load_u64(blob, begin + done))
        done += 8
    while done < length:
        out[index(at + done)] = blob[index(begin + done)]
        done += 1


@kernel(
    types.int64(
        I32, types.int64, types.int64, types.int64, types.int64, types.int64, I64, I64, R8,
        R8, I64, types.int64, types.int64, W8, types.int64,
    )
)  # fmt: skip
def join_rows(
    ids, step, first, last, columns, separator, bases, offsets, blob, literals, begins, ending,
    size, out, at,
):  # fmt: skip
    """Writes rows `first` to `last` to `out` from `at` on, all of which it is known to hold.

    `ids`: int32[columns, step]; `separator`, `literals` and `begins` as in `split_rows`; `blob` and
    `literals` have 8 bytes behind the last cell. `ending`: bytes of
    the end of a row, at most 2. `size`: of `out`. Returns where the rows end.
    """
    for row in range(first, last):
        for column in range(columns):
            if separator < 0:
                begin = begins[index(column)]
                length = begins[index(column + 1)] - begin
                _copy(out, at, size, literals, begin, length)
                at += length
            cell = bases[index(column)] + int64(ids[index(column * step + row)])
            begin = offsets[index(cell)]
            length = offsets[index(cell + 1)] - begin
            _copy(out, at, size, blob, begin, length)
            at += length
            if separator >= 0 and column < columns - 1:
                out[index(at)] = separator
                at += 1
        if separator < 0:
            begin = begins[index(columns)]
            length = begins[index(columns + 1)] - begin
            _copy(out, at, size, literals, begin, length)
            at += length
        if ending > 1:
            out[index(at)] = _CR
            at += 1
        if ending:
            out[index(at)] = _LF
            at += 1
    return at


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


@kernel(types.void(I64, types.int64, types.boolean, types.int64, W8, W8, I64))
def write_numbers(values, decimals, trimmed, quote, digits, out, offsets):
    """Writes numbers as cells one after the other, each at most 23 bytes; sets `offsets[1:]`.

    `decimals`: digits behind the point, of which those that are 0 at the end are left out where
    `trimmed`. `quote`: before and behind each, -1 for none. `digits`: work space, uint8[24].
    """
    at = int64(0)
    for i in range(values.size):
        value = abs(values[index(i)])
        left = decimals
        if trimmed:
            while left > 0 and value % 10 == 0:
                value //= 10
                left -= 1
        count = int64(0)
        while value > 0 or count <= left:
            digits[index(count)] = 48 + value % 10
            value //= 10
            count += 1
        if quote >= 0:
            out[index(at)] = quote
            at += 1
        if values[index(i)] < 0:
            out[index(at)] = 45
            at += 1
        while count > 0:
            count -= 1
            out[index(at)] = digits[index(count)]
            at += 1
            if count == left and left > 0:
                out[index(at)] = 46
                at += 1
        if quote >= 0:
            out[index(at)] = quote
            at += 1
        offsets[index(i + 1)] = at


@inlined
def _put_digits(out, at, value, count):
    for i in range(count - 1, -1, -1):
        out[index(at + i)] = 48 + value % 10
        value //= 10


@kernel(types.void(I64, types.boolean, types.int64, R8, types.int64, W8))
def write_times(values, is_days, middle, ending, quote, out):
    """Writes days or seconds since 1970, of years 1 to 9999, as cells of one length.

    `middle`: between day and time; `ending`: behind each; `quote`: before each, -1 for none.
    """
    at = int64(0)
    for i in range(values.size):
        value = values[index(i)]
        days = value if is_days else value // 86400
        seconds = value - 86400 * days
        since = days + 719468  # 1 March of the year 0: months are counted from March on
        era = since // 146097  # of 400 years
        day = since - 146097 * era
        year = (day - day // 1460 + day // 36524 - day // 146096) // 365
        day -= 365 * year + year // 4 - year // 100
        month = (5 * day + 2) // 153
        day -= (153 * month + 2) // 5
        if quote >= 0:
            out[index(at)] = quote
            at += 1
        _put_digits(out, at, year + 400 * era + (month >= 10), 4)
        _put_digits(out, at + 5, month + (3 if month < 10 else -9), 2)
        _put_digits(out, at + 8, day + 1, 2)
        out[index(at + 4)] = 45
        out[index(at + 7)] = 45
        at += 10
        if not is_days:
            out[index(at)] = middle
            _put_digits(out, at + 1, seconds // 3600, 2)
            _put_digits(out, at + 4, seconds // 60 % 60, 2)
            _put_digits(out, at + 7, seconds % 60, 2)
            out[index(at + 3)] = 58
            out[index(at + 6)] = 58
            at += 9
        for j in range(ending.size):
            out[index(at + j)] = ending[index(j)]
        at += ending.size
