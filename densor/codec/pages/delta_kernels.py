"""Numbers as blocks of packed differences, as pages of Parquet have them, both ways.

The format is that of https://parquet.apache.org/docs/file-format/data-pages/encodings/; which of
all valid blocks are written is laid down in docs/format/pages.md.
"""

import numba
from numba import types

from densor.codec.pages.put_kernels import put_number, put_rest, put_whole_bytes
from densor.codec.pages.sizes import LEAST_MINIBLOCK, MOST_BLOCK
from densor.entropy.intrinsics import leading_zeros
from densor.entropy.jit import I32, I64, R8, W8, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64
_HALF = 32  # bits that are read or written at a time


@inlined
def _signed(value, bits):
    """The lowest bits with a sign."""
    spare = 64 - bits
    return int64(uint64(value) << uint64(spare)) >> spare


@inlined
def _take_number(data, at):
    """A number in groups of seven bits, and where it ends; -1 where it does not."""
    found = uint64(0)
    shift = int64(0)
    while True:
        if at >= data.size or shift > 63:
            return found, int64(-1)
        byte = uint64(data[index(at)])
        at += 1
        found |= (byte & uint64(127)) << uint64(shift)
        shift += 7
        if byte < uint64(128):
            return found, at


@inlined
def _unfolded(value):
    return int64(value >> uint64(1)) ^ -int64(value & uint64(1))


@kernel(types.int64(R8, types.int64, I64, I64))
def take_deltas(data, bits, out, head):
    """Decodes as many numbers as `out` has; bytes read, -1 for what is no such.

    `bits`: 32 or 64, of a number. `head`: int64[2], set to how many differences a block has, and
    in how many parts.
    """
    block, at = _take_number(data, int64(0))
    if at < 0:
        return int64(-1)
    parts, at = _take_number(data, at)
    if at < 0:
        return int64(-1)
    total, at = _take_number(data, at)
    if at < 0:
        return int64(-1)
    first, at = _take_number(data, at)
    if at < 0 or total != uint64(out.size) or block > uint64(MOST_BLOCK) or parts == uint64(0):
        return int64(-1)
    if block % (parts * uint64(LEAST_MINIBLOCK)) or not block or parts > block:
        return int64(-1)
    size = int64(block // parts)
    head[0], head[1] = int64(block), int64(parts)
    value = _unfolded(first)
    if out.size:
        out[0] = _signed(value, bits)
    done = int64(1)
    while done < out.size:
        folded, at = _take_number(data, at)
        if at < 0 or data.size - at < int64(parts):
            return int64(-1)
        least = _unfolded(folded)
        widths = at
        at += int64(parts)
        for part in range(int64(parts)):
            width = int64(data[index(widths + part)])
            if done >= out.size:
                break
            if width > 64 or data.size - at < size * width >> 3:
                return int64(-1)
            end = at + (size * width >> 3)
            word = uint64(0)
            held = int64(0)
            for _ in range(min(size, out.size - done)):
                found = uint64(0)
                have = int64(0)
                while have < width:
                    take = min(int64(_HALF), width - have)
                    while held < take:
                        word |= uint64(data[index(at)]) << uint64(held)
                        at += 1
                        held += 8
                    mask = (uint64(1) << uint64(take)) - uint64(1)
                    found |= (word & mask) << uint64(have)
                    word >>= uint64(take)
                    held -= take
                    have += take
                value = int64(uint64(value) + uint64(least) + found)
                value = _signed(value, bits)
                out[index(done)] = value
                done += 1
            at = end
    return at


@inlined
def _folded(value):
    return uint64(value << 1) ^ uint64(value >> 63)


@kernel(types.int64(I64, types.int64, types.int64, types.int64, W8))
def put_deltas(values, bits, block, parts, out):
    """Writes numbers in blocks of such sizes; the bytes that they take.

    Room: 40 bytes, and for each block of differences 10, its parts, and 8 for each difference of
    all parts in which there are some.
    """
    at = put_number(block, out, int64(0))
    at = put_number(parts, out, at)
    at = put_number(values.size, out, at)
    at = put_number(_folded(values[0] if values.size else int64(0)), out, at)
    size = block // parts
    row = int64(1)
    while row < values.size:
        end = min(row + block, values.size)
        least = int64(1) << 62
        for i in range(row, end):
            delta = int64(uint64(values[index(i)]) - uint64(values[index(i - 1)]))
            delta = _signed(delta, bits)
            least = delta if i == row else min(least, delta)
        at = put_number(_folded(least), out, at)
        widths = at
        at += parts
        for part in range(parts):
            first = row + part * size
            last = min(first + size, end)
            every = uint64(0)
            for i in range(first, last):
                delta = uint64(values[index(i)]) - uint64(values[index(i - 1)]) - uint64(least)
                every |= delta
            if bits < 64:
                every &= (uint64(1) << uint64(bits)) - uint64(1)
            width = int64(64) - int64(leading_zeros(every)) if every else int64(0)
            out[index(widths + part)] = width
            if first >= end or not width:
                continue
            behind = at + (size * width >> 3)
            word = uint64(0)
            held = int64(0)
            for i in range(first, last):
                delta = uint64(values[index(i)]) - uint64(values[index(i - 1)]) - uint64(least)
                left = width
                while left > 0:
                    take = min(int64(_HALF), left)
                    mask = (uint64(1) << uint64(take)) - uint64(1)
                    word |= (delta & mask) << uint64(held)
                    delta >>= uint64(take)
                    held += take
                    left -= take
                    word, held, at = put_whole_bytes(word, held, out, at)
            at = put_rest(word, out, at, behind)
        row = end
    return at


@kernel(types.void(R8, I32, I32, I64))
def shared_starts(data, starts, lengths, shared):
    """Sets how many bytes each text begins with as the one before does; 0 of the first."""
    for i in range(starts.size):
        count = int64(0)
        if i:
            most = min(int64(lengths[index(i)]), int64(lengths[index(i - 1)]))
            a, b = int64(starts[index(i - 1)]), int64(starts[index(i)])
            while count < most and data[index(a + count)] == data[index(b + count)]:
                count += 1
        shared[index(i)] = count


@kernel(types.boolean(R8, I64, I64, W8))
def join_shared(data, shared, lengths, out):
    """Writes texts one behind the other: what they share with the one before, and what follows.

    `data`: what follows of all; whether no text shares more than the one before has. `out`: as long
    as both together.
    """
    at = int64(0)
    taken = int64(0)
    before = int64(0)
    for i in range(shared.size):
        if shared[index(i)] > before:
            return False
        begin = at - before
        for k in range(shared[index(i)]):
            out[index(at + k)] = out[index(begin + k)]
        at += shared[index(i)]
        for k in range(lengths[index(i)]):
            out[index(at + k)] = data[index(taken + k)]
        at += lengths[index(i)]
        taken += lengths[index(i)]
        before = shared[index(i)] + lengths[index(i)]
    return True
