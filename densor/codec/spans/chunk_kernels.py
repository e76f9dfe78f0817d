"""The compiled loops that write chunks of byte planes under settled codes, as frames."""

import numpy as np
from numba import types

from densor.codec import registry
from densor.codec.spans import table as t
from densor.codec.spans.class_kernels import best_class, pack_lengths
from densor.codec.spans.jit import once, part
from densor.codec.spans.merge import copy_row
from densor.codec.spans.put import fill_table, put_codes
from densor.codec.spans.split import split_any, split_first, split_rest
from densor.codec.spans.table import MOST_CODES as CLASSES
from densor.codec.spans.xxh3 import xxh3_64
from densor.entropy.huffman.kernels import _assign_codes
from densor.entropy.intrinsics import copy_bytes, store_u32, store_u64
from densor.entropy.jit import I64, R8, W8, W32, W64, kernel

_RAW, _CONSTANT, _CODED = registry.PLANE_RAW, registry.PLANE_CONSTANT, registry.PLANE_CLASSES
_HUFFMAN = registry.CLASS_HUFFMAN
_WAYS, _MANY, _FIRST = range(3)  # rows of `how`
_VECTOR = 64  # bytes of elements that are split at once
I64_2D = types.int64[:, ::1]
W8_2D = types.uint8[:, ::1]


@part
def is_constant(plane):
    """Whether all symbols are equal."""
    varying = np.uint8(0)
    for i in range(plane.size):
        varying |= plane[i] ^ plane[0]
    return varying == 0


@part
def put_frame(out, at, stored, original):
    """The header of a chunk's frame, but for its model and its check."""
    store_u32(out, at, np.uint32(t.CHUNK))
    store_u32(out, at + 4, np.uint32(stored))
    store_u32(out, at + 8, np.uint32(original))
    store_u32(out, at + 12, np.uint32(0))
    store_u64(out, at + 16, xxh3_64(out[at + t.FRAME : at + t.FRAME + stored]))


@once
def _group(
    plane, run, find, classes, many, lengths, packed, counts, firsts, bits, grouped, addresses
):
    """The rows of a plane, class by class, to `grouped`. `find`: the classes are yet to be found.

    `counts`: becomes how many symbols each class has.
    """
    counts[:CLASSES] = 0
    for r in range(classes.size):
        row = min(run, plane.size - r * run)
        if find:
            classes[r] = best_class(plane, r * run, row, lengths, packed, bits)
        counts[classes[r]] += row
    firsts[0] = 0
    for c in range(1, many):
        firsts[c] = firsts[c - 1] + counts[c - 1]
    for r in range(classes.size):
        row = min(run, plane.size - r * run)
        c = classes[r]
        copy_row(grouped, firsts[c], plane, r * run, row, addresses)
        firsts[c] += row


@once
def _put_map(classes, many, out, at):
    """The class map of a plane; where it ends."""
    bits = 1 if many == 2 else 2
    for r in range(0, classes.size, 8 // bits):
        byte = 0
        for k in range(min(8 // bits, classes.size - r)):
            byte |= np.int64(classes[r + k]) << (bits * k)
        out[at] = byte
        at += 1
    return at


@once
def _put_symbols(symbols, many, kinds, tables, counts, out, at, words, sizes):
    """A section behind its class map; where it ends. `kinds`, `tables`: of its classes."""
    sizes_at = at
    coded = False
    for c in range(many):
        coded |= kinds[c] == _HUFFMAN and counts[c] > 0
    at += 16 * np.int64(coded)
    first = 0
    for c in range(many):
        if kinds[c] == registry.CLASS_RAW:
            copy_bytes(out, at, symbols, first, counts[c])
            at += counts[c]
        first += counts[c]
    for stream in range(4 * np.int64(coded)):
        start = at
        first = 0
        buffer = np.uint64(0)
        filled = np.uint64(0)
        for c in range(many):
            quarter = (counts[c] + 3) // 4
            begin = first + min(stream * quarter, counts[c])
            end = first + min((stream + 1) * quarter, counts[c])
            if kinds[c] == _HUFFMAN:
                at, buffer, filled = put_codes(
                    symbols[begin:end], tables[c], out, at, buffer, filled, words, sizes
                )
            first += counts[c]
        store_u64(out, at, buffer)
        at += np.int64(filled > np.uint64(0))
        store_u32(out, sizes_at + 4 * stream, np.uint32(at - start))
    store_u64(out, at, np.uint64(0))
    return at + 8


@once
def _put_chunk(
    data, begin, count, layout, size, run, find, how, kinds, lengths, packed, tables, classes,
    first_row, out, at, planes, grouped, coded, numbers, words, sizes, edge,
):  # fmt: skip
    """A chunk with its frame to `out`; the end, negative if the chunk is raw, 0 to refuse."""
    counts, firsts, bits = numbers[:4], numbers[8:12], numbers[40:44]
    addresses = numbers[16:24]
    rows = (count + run - 1) // run
    head = at + t.FRAME
    end = head + size * count  # of the chunk as it is
    place = head + 5 * size
    plain = 1 < size < 8 and size * count >= _VECTOR and layout != registry.LAYOUT_WORD32
    for p in range(1, size):
        plain &= how[_WAYS, p] == _RAW
    if plain:
        split_first(layout, size, data, begin, count, planes, 0, addresses, edge)
    elif size > 1:
        split_any(layout, size, data, begin, count, planes, count, addresses, edge)
    for p in range(size):
        plane = planes[p * count : (p + 1) * count]
        if size == 1:
            plane = data[begin : begin + count]
        mode = how[_WAYS, p]
        taken = count
        if mode != _RAW and plane[0] == plane[count - 1] and is_constant(plane):
            mode = _CONSTANT
            taken = 1
        elif mode == _CONSTANT:
            return 0
        elif mode == _CODED:
            many = how[_MANY, p]
            base = how[_FIRST, p]
            there = out.size - place >= count + count // 2 + rows + 64  # whatever its size
            target = out if there else coded
            start = place if there else 0
            to = start
            counts[0] = count
            symbols = plane
            if many > 1:
                of_rows = classes[p, first_row : first_row + rows]
                _group(
                    plane, run, find, of_rows, many, lengths, packed, counts, firsts, bits,
                    grouped, addresses,
                )  # fmt: skip
                symbols = grouped[:count]
                to = _put_map(of_rows, many, target, to)
            taken = _put_symbols(
                symbols, many, kinds[base : base + many], tables[base : base + many], counts,
                target, to, words, sizes,
            ) - start  # fmt: skip
            if taken >= count:
                mode = _RAW
                taken = count
            elif not there and place + taken < end:
                copy_bytes(out, place, coded, 0, taken)
        more = (size - 1) * count if plain else 0
        if place + taken + more >= end:
            copy_bytes(out, head, data, begin, size * count)
            put_frame(out, at, size * count, size * count)
            return -end
        if mode != _CODED:
            copy_bytes(out, place, plane, 0, taken)
        out[head + 5 * p] = mode  # as modes are numbered
        store_u32(out, head + 5 * p + 1, np.uint32(taken))
        place += taken
        if plain:
            split_rest(layout, size, data, begin, count, out, place, addresses)
            for q in range(1, size):
                out[head + 5 * q] = _RAW
                store_u32(out, head + 5 * q + 1, np.uint32(count))
            place += more
            break
    put_frame(out, at, place - head, size * count)
    return place


@kernel(
    types.boolean(
        R8, types.int64, types.int64, types.int64, types.int64, types.boolean, I64_2D, R8, W8_2D,
        W8_2D, W8, I64_2D, W8, W8, W8, W8_2D, I64, W64, W32, W8,
    ),
    counted=False,
)  # fmt: skip
def put_chunks(
    data, layout, size, run, rows, find, how, kinds, lengths, classes, out, made, planes, grouped,
    coded, tables, numbers, words, codes, edge,
):  # fmt: skip
    """Encodes elements as the frames of their chunks; False if a plane is not what it should be.

    `data`: uint8[elements * size]; a row has `run` elements, a chunk `rows` rows. `how`: int64[3,
    8], of each plane: the mode to be stored in, its classes, 4 at most, and the first of them in
    `kinds`, uint8[classes], and `lengths`, uint8[classes, 256]. A plane to be coded has codes for
    all of its symbols; one that is to be constant and is not is an error. `classes`: uint8[planes,
    rows in all], of those with more than one; or `find`: those of the first plane, the only one
    with classes, become what suits each row, of 4 Huffman codes.

    Results: `out`, uint8[], the frames one after the other, but for their model numbers and header
    checks; `made`, int64[chunks, 3], of each frame its offset, its payload, and 1 if it uses the
    batch's parameters, 0 if it is raw. A plane, or a chunk, that takes as much raw is raw.

    Work space: `planes`, uint8[bytes of a chunk]; `grouped`, uint8[elements of a chunk]; `coded`,
    uint8[twice as many, and rows of a chunk, and 4096]; `tables`, uint8[classes, TABLE]; `numbers`,
    int64[64]; `words`, uint64[512]; `codes`, uint32[512]; `edge`, uint8[9 * 64 + 256].
    """
    n = data.size // size
    packed = words[256:512]
    if find:
        pack_lengths(lengths, packed)
    for p in range(size):
        if how[_WAYS, p] == _CODED:
            for c in range(how[_FIRST, p], how[_FIRST, p] + how[_MANY, p]):
                if kinds[c] == _HUFFMAN:
                    _assign_codes(lengths[c], codes[256:], codes[:256])
                    fill_table(codes[:256], tables[c])
    at = 0
    for chunk in range(made.shape[0]):
        begin = chunk * rows * run
        end = _put_chunk(
            data, begin * size, min(rows * run, n - begin), layout, size, run, find, how, kinds,
            lengths, packed, tables, classes, chunk * rows, out, at, planes, grouped, coded,
            numbers, words[:128], words[128:256], edge,
        )  # fmt: skip
        if end == 0:
            return False
        made[chunk, 0] = at
        made[chunk, 1] = abs(end) - at - t.FRAME
        made[chunk, 2] = end > 0
        at = abs(end)
    return True


@kernel(types.void(W8, I64_2D, types.int64), counted=False)
def number_frames(out, made, model):
    """Completes the frames that `put_chunks` made: their model number, and header checks."""
    for chunk in range(made.shape[0]):
        at = made[chunk, 0]
        store_u32(out, at + 12, np.uint32(model if made[chunk, 2] != 0 else 0))
        check = xxh3_64(out[at : at + 24]) & np.uint64(0xFFFFFFFF)
        store_u32(out, at + 24, np.uint32(check))
