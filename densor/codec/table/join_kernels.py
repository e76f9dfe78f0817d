"""Cells into rows."""

import numba
from numba import types

from densor.codec.table.intern_kernels import word_of
from densor.codec.table.state import CR, LF
from densor.entropy.intrinsics import load_u64, store_u64
from densor.entropy.jit import I32, I64, R8, W8, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64

_LENGTH_BITS = 26  # of a cell with what is behind it


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
            word = word_of(blob, begin, length)
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
            out[index(at)] = CR
            at += 1
        if ending:
            out[index(at)] = LF
            at += 1
    return at
