"""The compiled loops that encode a piece, and that tell whether something in it repeats."""

import numpy as np
from numba import types

from densor.codec.planes.search_kernels import _tally
from densor.codec.spans.encode_kernels import _repeats
from densor.codec.spans.jit import once
from densor.codec.spans.put import fill_table, put_codes
from densor.codec.spans.split import split_planes
from densor.codec.stateless import layout as t
from densor.entropy.huffman.kernels import _assign_codes, best_lengths
from densor.entropy.intrinsics import copy_bytes, store_u32, store_u64
from densor.entropy.jit import I64, R8, W8, W32, W64, kernel

_FEW = 256  # elements of a plane below which no code is made
_best_lengths = once(best_lengths.__wrapped__)


@kernel(types.boolean(R8, W64), counted=False)
def repeats(data, windows):
    """Whether 1 in 100 windows of 8 bytes, at every fourth byte, stood in `data` before.

    Work space: `windows`, uint64[4096].
    """
    return _repeats(data, windows)


@once
def _put_plane(plane, lengths, codes, table, out, at, words, sizes):
    """A plane under a code, to `out` from `at` on; returns the end."""
    fill_table(codes, table)
    low = 255
    high = 0
    for s in range(256):
        if lengths[s] > 0:
            low = min(low, s)
            high = s
    out[at] = t.PLANE_HUFFMAN
    out[at + 1] = low
    out[at + 2] = high
    at += 3
    for s in range(low, high + 1, 2):
        above = lengths[s + 1] if s < high else 0
        out[at] = lengths[s] | above << 4
        at += 1
    sizes_at = at
    at += 16
    n = plane.size
    quarter = (n + 3) // 4
    for stream in range(4):
        start = at
        piece = plane[min(stream * quarter, n) : min((stream + 1) * quarter, n)]
        at, buffer, filled = put_codes(
            piece, table, out, at, np.uint64(0), np.uint64(0), words, sizes
        )
        store_u64(out, at, buffer)
        at += np.int64(filled > np.uint64(0))
        store_u32(out, sizes_at + 4 * stream, np.uint32(at - start))
    store_u64(out, at, np.uint64(0))
    return at + t.SLACK


@kernel(
    types.int64(
        R8, types.int64, types.int64, types.int64, W8, W8, W32, I64, I64, W64, W64, W32, W8, W8
    ),
    counted=False,
)  # fmt: skip
def encode_piece(
    data, layout, size, phase, out, planes, tallies, counts, numbers, words, sizes, codes, edge,
    lengths,
):  # fmt: skip
    """The body of a piece to `out`, from byte 8 on; returns its end.

    `data`: uint8[], at least `phase` + `size` bytes. `out`: uint8[2 * data.size + 2048]. Work
    space: `planes`, uint8[data.size]; `tallies`, uint32[1024]; `counts`, int64[256]; `numbers`,
    int64[8 + 1024]; `words`, `sizes`, uint64[512]; `codes`, uint32[512]; `edge`,
    uint8[9 * 64 + 6144 + 256 + 512]; `lengths`, uint8[256].
    """
    n = (data.size - phase) // size
    tail = data.size - phase - n * size
    at = t.HEAD
    copy_bytes(out, at, data, 0, phase)
    copy_bytes(out, at + phase, data, data.size - tail, tail)
    at += phase + tail
    split_planes(layout, size, data, phase, n, planes, n, numbers[:8], edge[: t.EDGE])
    merged = edge[t.EDGE : t.EDGE + 6144]
    short = edge[t.EDGE + 6144 : t.EDGE + 6400]
    table = edge[t.EDGE + 6400 :]
    for p in range(size):
        plane = planes[p * n : (p + 1) * n]
        tallies[:] = np.uint32(0)
        _tally(plane, tallies)
        used = 0
        for s in range(256):
            counts[s] = tallies[s] + tallies[256 + s] + tallies[512 + s] + tallies[768 + s]
            used += counts[s] > 0
        if used == 1:
            out[at] = t.PLANE_CONSTANT
            out[at + 1] = plane[0]
            at += 2
            continue
        coded = n
        if n >= _FEW:
            bits = _best_lengths(counts, numbers[8:520], numbers[520:], merged, short, lengths)
            coded = bits // 8 + used // 2 + t.STREAM_HEAD + t.SLACK + 2
        if coded < n - (n >> 7):  # what saves less than that is not worth a look-up
            _assign_codes(lengths, codes[256:], codes[:256])
            at = _put_plane(plane, lengths, codes, table, out, at, words, sizes)
        else:
            out[at] = t.PLANE_RAW
            copy_bytes(out, at + 1, plane, 0, n)
            at += 1 + n
    return at
