"""Texts into rows, and rows into cells."""

import numba
from numba import types

from densor.codec.table.state import CR, LF
from densor.entropy.intrinsics import find_either, trailing_zeros
from densor.entropy.jit import I32, I64, R8, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64

_BLOCK = 64  # bytes that are looked at at once for separators


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
            while int64(data[index(at)]) != separator and int64(data[index(at)]) != LF:
                at += 1
        if column < columns - 1:
            if int64(data[index(at)]) != separator:
                return int64(-1)
            at += 1
        elif returns and int64(data[index(at)]) == CR:
            at += 1  # behind a quoted cell
        if column == columns - 1 and returns and (at == begin or int64(data[index(at - 1)]) != CR):
            return int64(-1)
    if int64(data[index(at)]) != LF or at >= size:
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
            ends = find_either(data, block, separator, LF)
        at = block + int64(trailing_zeros(ends))
        ends &= ends - uint64(1)
        wanted = separator if column < columns - 1 else int64(LF)
        if int64(data[index(at)]) != wanted:
            return int64(-1), block, ends
        at += 1
    at -= 1
    if returns and (at == begin or int64(data[index(at - 1)]) != CR):
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
                block, ends = at, find_either(data, at, separator, LF)
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
        while int64(data[index(end)]) != LF:
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
        if c == LF:
            return at if not inside and depth == 0 else int64(-1)
        if inside:
            if c == 92 and int64(data[index(at + 1)]) != LF:  # a backslash
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
        elif depth == 0 and (c == 44 or c == 32 or c == CR):
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
                if int64(data[index(at)]) == LF:
                    return int64(-1)
                at += 1
        else:
            at = _end_of_value(data, at)
            if at < 0:
                return at
    if returns:
        if int64(data[index(at)]) != CR:
            return int64(-1)
        at += 1
    if int64(data[index(at)]) != LF or at >= size:
        return int64(-1)
    return at
