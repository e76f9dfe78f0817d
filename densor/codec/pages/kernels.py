"""Runs of numbers and texts with their lengths, as pages of Parquet have them, both ways.

The format is that of https://parquet.apache.org/docs/file-format/data-pages/encodings/; which of
all valid runs are written is laid down in docs/format/pages.md.
"""

import numba
from numba import types

from densor.codec.pages.put_kernels import put_number, put_rest, put_whole_bytes
from densor.codec.pages.sizes import GROUP, MOST_GROUPS
from densor.entropy.intrinsics import copy_bytes
from densor.entropy.jit import I32, I64, R8, W8, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64


@kernel(types.UniTuple(types.int64, 3)(R8, types.int64, types.int64, I32, I64))
def take_runs(data, bits, total, out, heads):
    """Decodes `total` numbers of so many bits, and those behind them that are in the last run.

    `out`: int32, `MOST_BEHIND` longer. `heads`: int64, of the runs. Returns the bytes read, -1 for
    what is no such; how many runs there are, of which those are kept that fit; and numbers.
    """
    size = data.size
    width = (bits + 7) >> 3
    at = int64(0)
    done = int64(0)
    runs = int64(0)
    while done < total:
        head = int64(0)
        shift = int64(0)
        while True:
            if at == size or shift > 28:
                return int64(-1), runs, done
            byte = int64(data[index(at)])
            at += 1
            head |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if runs < heads.size:
            heads[index(runs)] = head
        runs += 1
        count = head >> 1
        if count == 0:
            return int64(-1), runs, done
        if head & 1:
            if count * bits > size - at or count * GROUP > out.size - done:
                return int64(-1), runs, done
            word = uint64(0)
            held = int64(0)
            end = at + count * bits
            for _ in range(count * GROUP):
                while held < bits:
                    word |= uint64(data[index(at)]) << uint64(held)
                    at += 1
                    held += 8
                out[index(done)] = int64(word & ((uint64(1) << uint64(bits)) - uint64(1)))
                word >>= uint64(bits)
                held -= bits
                done += 1
            at = end
        else:
            if at + width > size or count > total - done:
                return int64(-1), runs, done
            value = int64(0)
            for i in range(width):
                value |= int64(data[index(at + i)]) << 8 * i
            at += width
            for i in range(count):
                out[index(done + i)] = value
            done += count
    return at, runs, done


@inlined
def _put_packed(values, begin, count, bits, out, at):
    """Values in groups of eight behind a head that says how many, the last filled with zeros."""
    groups = (count + GROUP - 1) >> 3
    at = put_number(groups << 1 | 1, out, at)
    end = at + groups * bits
    word = uint64(0)
    held = int64(0)
    for i in range(count):
        word |= uint64(values[index(begin + i)]) << uint64(held)
        held += bits
        word, held, at = put_whole_bytes(word, held, out, at)
    return put_rest(word, out, at, end)


@inlined
def _put_repeated(value, count, bits, out, at):
    at = put_number(count << 1, out, at)
    for i in range((bits + 7) >> 3):
        out[index(at)] = value >> 8 * i & 255
        at += 1
    return at


@kernel(types.int64(I32, types.int64, W8))
def put_runs(values, bits, out):
    """Writes numbers of so many bits; the bytes that they take, `bound_of_runs` at most.

    By eight: those that are equal to the eight before go on with them, others are packed.
    """
    at = int64(0)
    packed = int64(0)  # how many stand before `row`, and are to be packed
    row = int64(0)
    while row < values.size:
        value = int64(values[index(row)])
        same = int64(1)
        while row + same < values.size and int64(values[index(row + same)]) == value:
            same += 1
        if same >= GROUP or (row + same == values.size and not packed):
            if packed:
                at = _put_packed(values, row - packed, packed, bits, out, at)
                packed = int64(0)
            at = _put_repeated(value, same, bits, out, at)
            row += same
            continue
        count = min(int64(GROUP), values.size - row)
        packed += count
        row += count
        if packed == MOST_GROUPS * GROUP:
            at = _put_packed(values, row - packed, packed, bits, out, at)
            packed = int64(0)
    if packed:
        at = _put_packed(values, values.size - packed, packed, bits, out, at)
    return at


@kernel(types.int64(I32, types.int64, I64, W8))
def put_listed_runs(values, bits, heads, out):
    """Writes numbers in runs of such heads; the bytes that they take, -1 where these do not fit."""
    at = int64(0)
    row = int64(0)
    for run in range(heads.size):
        head = heads[index(run)]
        count = head >> 1
        left = values.size - row
        if head < 2 or left <= 0:
            return int64(-1)
        if head & 1:
            if count > (left + GROUP - 1) >> 3:
                return int64(-1)
            count = min(count * GROUP, left)
            at = _put_packed(values, row, count, bits, out, at)
        else:
            if count > left:
                return int64(-1)
            at = _put_repeated(int64(values[index(row)]), count, bits, out, at)
        row += count
    return at if row == values.size else int64(-1)


@kernel(types.int64(R8, I32, I32))
def split_texts(data, starts, lengths):
    """Where texts are that stand behind their lengths; bytes read, -1 for what is no such."""
    at = int64(0)
    for i in range(starts.size):
        if data.size - at < 4:
            return int64(-1)
        length = int64(0)
        for k in range(4):
            length |= int64(data[index(at + k)]) << 8 * k
        at += 4
        if length > data.size - at:
            return int64(-1)
        starts[index(i)] = at
        lengths[index(i)] = length
        at += length
    return at


@kernel(types.int64(R8, I32, I32, types.int64, W8))
def join_values(data, starts, lengths, counted, out):
    """Writes values one behind the other, behind their lengths where `counted`; all fit."""
    at = int64(0)
    for i in range(starts.size):
        length = int64(lengths[index(i)])
        if counted:
            for k in range(4):
                out[index(at + k)] = length >> 8 * k & 255
            at += 4
        copy_bytes(out, at, data, int64(starts[index(i)]), length)
        at += length
    return at
