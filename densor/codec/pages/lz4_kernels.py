"""The loops that undo blocks of LZ4, and make them again, bit for bit as its library does.

The format is LZ4's own (lz4_Block_format.md); which of all valid blocks the library writes is laid
down in docs/format/pages.md, from the behaviour of `LZ4_compress_default` of LZ4 1.9 and 1.10.
"""

import numba
from numba import types

from densor.codec.pages.sizes import LZ4_TABLE as TABLE
from densor.entropy.intrinsics import copy_bytes
from densor.entropy.jit import I32, R8, W8, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64

SMALL = (1 << 16) + 11  # bytes from which on places are those of strings of five bytes
_LARGE = 12  # those that are used from there on
_FARTHEST = (1 << 16) - 1
_MARGIN, _LAST = 11, 5  # bytes at the end in which no match begins, and which are in none
_MATCH = 4  # bytes of the shortest
_FULL = 15  # of a half of a token; what it does not tell follows
_OF_FOUR, _OF_FIVE = 2654435761, 889523592379


@inlined
def _place(data, at, small):
    """Where in the table a string belongs."""
    word = (
        uint64(data[index(at)])
        | uint64(data[index(at + 1)]) << uint64(8)
        | uint64(data[index(at + 2)]) << uint64(16)
        | uint64(data[index(at + 3)]) << uint64(24)
    )
    if small:
        return int64((word * uint64(_OF_FOUR) & uint64(0xFFFFFFFF)) >> uint64(32 - TABLE))
    word |= uint64(data[index(at + 4)]) << uint64(32)
    return int64(((word << uint64(24)) * uint64(_OF_FIVE)) >> uint64(64 - _LARGE))


@inlined
def _agree(data, one, other):
    return (
        data[index(one)] == data[index(other)]
        and data[index(one + 1)] == data[index(other + 1)]
        and data[index(one + 2)] == data[index(other + 2)]
        and data[index(one + 3)] == data[index(other + 3)]
    )


@inlined
def _put_further(count, out, at):
    """What the half of a token does not tell."""
    while count >= 255:
        out[index(at)] = 255
        at += 1
        count -= 255
    out[index(at)] = count
    return at + 1


@inlined
def _put_literals(data, begin, end, out, at):
    """A token without a match, and bytes as they are behind it; where the next one goes."""
    count = end - begin
    out[index(at)] = min(count, _FULL) << 4
    at += 1
    if count >= _FULL:
        at = _put_further(count - _FULL, out, at)
    copy_bytes(out, at, data, begin, count)
    return at + count


@kernel(types.int64(R8, I32, W8))
def lz4(data, table, out):
    """Compresses all of data; the bytes that this takes.

    `table`: int32[2^TABLE], zeros; `out`: uint8, of `bound(size)` bytes or more.
    """
    size = data.size
    small = size < SMALL
    limit = size - _MARGIN
    end = size - _LAST
    at = int64(0)
    emitted = int64(0)
    place = int64(1)
    searching = limit >= 2
    if searching:
        slot = _place(data, place, small)  # the string at 0 is put at its place, which is 0
    while searching:
        following = place
        step = int64(1)
        skip = int64(64)
        candidate = int64(0)
        while True:  # for a match
            place = following
            following += step
            step = skip >> 6
            skip += 1
            if following > limit:
                searching = False
                break
            candidate = int64(table[index(slot)])
            table[index(slot)] = place
            slot = _place(data, following, small)
            if (small or candidate + _FARTHEST >= place) and _agree(data, candidate, place):
                break
        if not searching:
            break
        while (
            place > emitted
            and candidate > 0
            and data[index(place - 1)] == data[index(candidate - 1)]
        ):
            place -= 1
            candidate -= 1
        token = at
        at = _put_literals(data, emitted, place, out, at)
        while True:  # matches one behind the other
            out[index(at)] = (place - candidate) & 255
            out[index(at + 1)] = (place - candidate) >> 8
            at += 2
            length = int64(_MATCH)
            while (
                place + length < end
                and data[index(place + length)] == data[index(candidate + length)]
            ):
                length += 1
            place += length
            length -= _MATCH
            out[index(token)] |= min(length, _FULL)
            if length >= _FULL:
                at = _put_further(length - _FULL, out, at)
            emitted = place
            if place >= limit:
                searching = False
                break
            table[index(_place(data, place - 2, small))] = place - 2
            slot = _place(data, place, small)
            candidate = int64(table[index(slot)])
            table[index(slot)] = place
            if not (small or candidate + _FARTHEST >= place) or not _agree(data, candidate, place):
                place += 1
                slot = _place(data, place, small)
                break
            token = at
            out[index(at)] = 0
            at += 1
    return _put_literals(data, emitted, int64(size), out, at)


@inlined
def _take_further(data, at, count):
    """What the half of a token does not tell; -1 behind it for what does not end."""
    while True:
        if at == data.size:
            return int64(-1), count
        byte = int64(data[index(at)])
        at += 1
        count += byte
        if byte < 255:
            return at, count


@kernel(types.int64(R8, W8))
def undo(data, out):
    """Decodes a block into all of `out`; the bytes that were read, -1 for what is none."""
    size = data.size
    at = int64(0)
    done = int64(0)
    while at < size:
        token = int64(data[index(at)])
        at += 1
        count = token >> 4
        if count == _FULL:
            at, count = _take_further(data, at, count)
        if at < 0 or count > size - at or count > out.size - done:
            return int64(-1)
        copy_bytes(out, done, data, at, count)
        at += count
        done += count
        if at == size:
            return at if done == out.size else int64(-1)
        if at + 2 > size:
            return int64(-1)
        back = int64(data[index(at)]) | int64(data[index(at + 1)]) << 8
        at += 2
        count = token & _FULL
        if count == _FULL:
            at, count = _take_further(data, at, count)
        count += _MATCH
        if at < 0 or not 0 < back <= done or count > out.size - done:
            return int64(-1)
        for i in range(count):
            out[index(done + i)] = out[index(done + i - back)]
        done += count
    return int64(-1)
