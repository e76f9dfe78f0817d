"""The compiled loop that decodes a piece. It trusts nothing in it: every length is checked here."""

import numpy as np
from numba import types

from densor.codec.spans.decode_kernels import _build_table
from densor.codec.spans.jit import once
from densor.codec.spans.merge import address_of, merge_run
from densor.codec.spans.xxh3 import xxh3_64
from densor.codec.stateless import layout as t
from densor.entropy.huffman.kernels import decode_streams, unpack_lengths
from densor.entropy.intrinsics import copy_bytes, load_u32, load_u64
from densor.entropy.jit import I64, R8, W8, W32, W64, kernel

U64_2D = types.uint64[:, ::1]
_unpack_lengths = once(unpack_lengths.__wrapped__)


@once
def _decode_plane(data, at, out, lengths, tables, words, codes):
    """One plane under a Huffman code, from byte `at` of `data` on; its end, or minus an error."""
    if at + t.STREAM_HEAD > data.size:
        return -t.TOO_SHORT
    first = np.int64(data[at])
    count = np.int64(data[at + 1]) - first + 1
    at += 2
    if count < 2:
        return -t.NOT_A_CODE
    packed = (count + 1) >> 1
    if at + packed + 16 > data.size:
        return -t.TOO_SHORT
    lengths[:] = 0
    if _unpack_lengths(data[at : at + packed], count, lengths[first : first + count]) != 4096:
        return -t.NOT_A_CODE
    at += packed
    end = at + 16
    for stream in range(4):
        words[stream] = np.uint64(8 * end)
        end += np.int64(load_u32(data, at + 4 * stream))
        words[4 + stream] = np.uint64(8 * end)
        if end + t.SLACK > data.size:
            return -t.TOO_SHORT
    if load_u64(data, end) != 0:
        return -t.BAD_STREAM
    end += t.SLACK
    bits = _build_table(lengths, words[8:], codes[256:], codes[:256], tables[0])
    decode_streams(data[:end], words[:4], tables[0], bits, lengths, out, 0, out.size)
    for stream in range(4):
        position = words[stream]
        stop = words[4 + stream]
        if position > stop or stop - position > np.uint64(7):
            return -t.BAD_STREAM
        if position < stop:
            rest = data[np.int64(position >> np.uint64(3))] >> (position & np.uint64(7))
            if rest != 0:
                return -t.BAD_STREAM
    return end


@kernel(
    types.int64(
        R8, types.int64, types.int64, types.int64, W8, W8, U64_2D, W64, W32, I64, W8, W8
    ),
    counted=False,
)  # fmt: skip
def decode_piece(
    data, layout, size, phase, out, planes, tables, words, codes, addresses, edge, lengths
):
    """Decodes the body of a piece, `data`, into `out`; 0, or what is wrong.

    `data`: uint8[], the whole piece, its header of 8 bytes included. `layout`, `size`: of the
    elements, of which the first begins `phase` bytes in, below `size`; `out`: uint8[], at least
    `phase + size`. Work space: `planes`, uint8[out.size]; `tables`, uint64[1, 4096]; `words`,
    uint64[8200]; `codes`, uint32[512]; `addresses`, int64[8]; `edge`, uint8[9 * 64]; `lengths`,
    uint8[256].
    """
    n = (out.size - phase) // size
    tail = out.size - phase - n * size
    at = t.HEAD
    if at + phase + tail > data.size:
        return t.TOO_SHORT
    copy_bytes(out, 0, data, at, phase)
    copy_bytes(out, out.size - tail, data, at + phase, tail)
    at += phase + tail
    for p in range(size):
        if at >= data.size:
            return t.TOO_SHORT
        mode = data[at]
        at += 1
        addresses[p] = address_of(planes, p * n, n)
        if mode == t.PLANE_RAW:
            if at + n > data.size:
                return t.TOO_SHORT
            addresses[p] = address_of(data, at, n)
            at += n
        elif mode == t.PLANE_CONSTANT:
            if at >= data.size:
                return t.TOO_SHORT
            planes[p * n : (p + 1) * n] = data[at]
            at += 1
        elif mode == t.PLANE_HUFFMAN:
            plane = planes[p * n : (p + 1) * n]
            at = _decode_plane(data, at, plane, lengths, tables, words, codes)
            if at < 0:
                return -at
        else:
            return t.UNKNOWN_MODE
    if at != data.size:
        return t.TOO_LONG
    merge_run(layout, size, addresses, n, out, phase, edge)
    if np.uint32(xxh3_64(out) & np.uint64(0xFFFFFFFF)) != load_u32(data, 4):
        return t.WRONG_CHECK
    return 0
