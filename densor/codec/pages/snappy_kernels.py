"""The loops that undo blocks of Snappy, and make them again, bit for bit as its library does.

The format is Snappy's own (format_description.txt); which of all valid blocks the library writes is
laid down in docs/format/pages.md, from the behaviour of Snappy 1.1.4 to 1.2.2.
"""

import numba
from numba import types

from densor.codec.pages.sizes import BLOCK, MIN_TABLE
from densor.entropy.intrinsics import copy_bytes
from densor.entropy.jit import I32, R8, W8, index, inlined, kernel

int64, uint32 = numba.int64, numba.uint32

_MAGIC = 0x1E35A7BD
_MARGIN = 15  # bytes at the end of a block in which no match begins
_LITERAL, _NEAR, _FAR = 0, 1, 2  # kinds of elements


@inlined
def _word(data, at):
    return (
        uint32(data[index(at)])
        | uint32(data[index(at + 1)]) << uint32(8)
        | uint32(data[index(at + 2)]) << uint32(16)
        | uint32(data[index(at + 3)]) << uint32(24)
    )


@inlined
def _hash(word, bits, mask):
    return int64((word * uint32(_MAGIC)) >> uint32(32 - bits)) & mask


@inlined
def _put_literal(data, begin, end, out, at):
    """Bytes as they are; where the next element goes."""
    count = end - begin - 1
    if count < 60:
        out[index(at)] = _LITERAL | count << 2
        at += 1
    elif count < 256:
        out[index(at)] = _LITERAL | 60 << 2
        out[index(at + 1)] = count
        at += 2
    else:
        out[index(at)] = _LITERAL | 61 << 2
        out[index(at + 1)] = count & 255
        out[index(at + 2)] = count >> 8
        at += 3
    copy_bytes(out, at, data, begin, end - begin)
    return at + end - begin


@inlined
def _put_piece(offset, length, out, at):
    if length < 12 and offset < 2048:
        out[index(at)] = _NEAR | (length - 4) << 2 | offset >> 8 << 5
        out[index(at + 1)] = offset & 255
        return at + 2
    out[index(at)] = _FAR | (length - 1) << 2
    out[index(at + 1)] = offset & 255
    out[index(at + 2)] = offset >> 8
    return at + 3


@inlined
def _put_copy(offset, length, out, at):
    """A match in pieces of 64 bytes at most and 4 at least."""
    while length >= 68:
        at = _put_piece(offset, int64(64), out, at)
        length -= 64
    if length > 64:
        at = _put_piece(offset, int64(60), out, at)
        length -= 60
    return _put_piece(offset, length, out, at)


@inlined
def _put_block(data, begin, end, bits, mask, table, out, at):
    """The elements of a block; `table`: int32, zeros, places from its begin on."""
    emitted = begin
    limit = end - _MARGIN
    if end - begin >= _MARGIN:
        place = begin + 1
        searching = True
        while searching:
            skip = int64(32)
            candidate = int64(0)
            while True:  # for a match
                word = _word(data, place)
                slot = _hash(word, bits, mask)
                step = skip >> 5
                skip += step
                following = place + step
                if following > limit:
                    searching = False
                    break
                candidate = begin + int64(table[index(slot)])
                table[index(slot)] = place - begin
                if word == _word(data, candidate):
                    break
                place = following
            if not searching:
                break
            at = _put_literal(data, emitted, place, out, at)
            while True:  # matches one behind the other
                length = int64(4)
                while (
                    place + length < end
                    and data[index(place + length)] == data[index(candidate + length)]
                ):
                    length += 1
                at = _put_copy(place - candidate, length, out, at)
                place += length
                emitted = place
                if place >= limit:
                    searching = False
                    break
                table[index(_hash(_word(data, place - 1), bits, mask))] = place - 1 - begin
                word = _word(data, place)
                slot = _hash(word, bits, mask)
                candidate = begin + int64(table[index(slot)])
                table[index(slot)] = place - begin
                if word != _word(data, candidate):
                    place += 1
                    break
    if emitted < end:
        at = _put_literal(data, emitted, end, out, at)
    return at


@kernel(types.int64(R8, types.int64, types.int64, types.int64, I32, W8))
def snappy(data, size, most, own, table, out):
    """Compresses `size` bytes of data with `SLACK` behind them; the bytes that this takes.

    `most`: bits of the table, `MAX_TABLE` at most; `own`: places in the table of a short block are
    the highest bits of a hash, and not the lowest of `most`; `table`: int32[2^most]. `out`: uint8,
    of `bound(size)` bytes or more.
    """
    at = int64(0)
    left = size
    while left >= 128:
        out[index(at)] = 128 | left & 127
        left >>= 7
        at += 1
    out[index(at)] = left
    at += 1
    begin = int64(0)
    while begin < size:
        end = min(begin + BLOCK, size)
        bits = int64(MIN_TABLE)
        while bits < most and (int64(1) << bits) < end - begin:
            bits += 1
        places = int64(1) << bits
        table[:places] = 0
        at = _put_block(data, begin, end, bits if own else most, places - 1, table, out, at)
        begin = end
    return at


@kernel(types.int64(R8, W8))
def undo(data, out):
    """Decodes a block into all of `out`; the bytes that were read, -1 for what is none."""
    size = data.size
    at = int64(0)
    shift = int64(0)
    total = int64(0)
    while True:
        if at == size or shift > 28:
            return int64(-1)
        byte = int64(data[index(at)])
        at += 1
        total |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if total != out.size:
        return int64(-1)
    done = int64(0)
    while at < size:
        tag = int64(data[index(at)])
        at += 1
        kind = tag & 3
        length = tag >> 2
        further = int64(0)
        if kind == _LITERAL:
            if length >= 60:
                further = length - 59
                length = int64(0)
        elif kind == _NEAR:
            further = int64(1)
        else:
            further = int64(2) if kind == _FAR else int64(4)
        if at + further > size:
            return int64(-1)
        number = int64(0)
        for i in range(further):
            number |= int64(data[index(at + i)]) << 8 * i
        at += further
        if kind == _LITERAL:
            length = (number if further else length) + 1
            if length > size - at or length > total - done:
                return int64(-1)
            copy_bytes(out, done, data, at, length)
            at += length
            done += length
        else:
            if kind == _NEAR:
                length = (length & 7) + 4
                number |= tag >> 5 << 8
            else:
                length += 1
            if not 0 < number <= done or length > total - done:
                return int64(-1)
            for i in range(length):
                out[index(done + i)] = out[index(done + i - number)]
            done += length
    return at if done == total else int64(-1)
