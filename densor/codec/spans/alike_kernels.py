"""The compiled loops of small tensors that share parameters: what each takes alone, and frames."""

import numpy as np
from numba import types

from densor.codec.spans.alike import LOG_SHIFT
from densor.codec.spans.jit import once
from densor.codec.spans.split import split_planes
from densor.codec.spans.table import FRAME
from densor.codec.spans.xxh3 import xxh3_64
from densor.entropy.intrinsics import load_u64, store_u32, store_u64
from densor.entropy.jit import I64, R8, W8, W32, W64, kernel

_PLACES = 1024  # of windows of 8 bytes, by their hash
_CHUNK_HEAD = 8 + 5 + 16  # bytes of parameters, and of the sections of streams
_ZSTD_HEAD = 12
_CLASS_HEAD = 3  # bytes of a class in the parameters but its code lengths
_BYTE = LOG_SHIFT + 3  # of bytes, in the fixed point of bits, whose sum no order changes
_WEIGHT = 5 << (LOG_SHIFT - 1)  # bits that Zstandard tells the length of a code in: 2.5


@once
def _count(data, begin, end, counts):
    """How often each symbol occurs, in the first 256 of four tables that are counted in turns."""
    counts[:] = np.uint32(0)
    whole = begin + (end - begin) // 4 * 4
    for i in range(begin, whole, 4):
        counts[data[i]] += np.uint32(1)
        counts[256 + data[i + 1]] += np.uint32(1)
        counts[512 + data[i + 2]] += np.uint32(1)
        counts[768 + data[i + 3]] += np.uint32(1)
    for i in range(whole, end):
        counts[data[i]] += np.uint32(1)
    for s in range(256):
        counts[s] += counts[256 + s] + counts[512 + s] + counts[768 + s]


@once
def _bits(counts, total, logs):
    """Order-0 bits of so many symbols, in fixed point."""
    found = logs[total]
    for s in range(256):
        found -= logs[counts[s]]
    return found


@once
def _first_and_last(counts):
    first = 0
    while counts[first] == 0:
        first += 1
    last = 255
    while counts[last] == 0:
        last -= 1
    return first, last


@once
def _plane_bytes(plane, run, counts, logs):
    """Bytes, in fixed point, of a plane at least under its own parameters, by classes of runs."""
    _count(plane, 0, plane.size, counts)
    first, last = _first_and_last(counts)
    if first == last:
        return np.int64(1) << _BYTE
    code = np.int64(_CLASS_HEAD + (last - first + 2) // 2) << _BYTE
    least = min(np.int64(plane.size) << _BYTE, _bits(counts, plane.size, logs) + code)
    if run == plane.size:
        return least
    apart = code + (np.int64(_CLASS_HEAD) << _BYTE)
    for begin in range(0, plane.size, run):
        _count(plane, begin, begin + run, counts)
        apart += _bits(counts, run, logs)
    return min(least, apart)


@once
def _zstd_bytes(data, begin, end, counts, logs):
    """Bytes, in fixed point, that Zstandard leaves at least where nothing repeats: literals under
    a Huffman code."""
    _count(data, begin, end, counts)
    symbols = 0
    for s in range(256):
        symbols += counts[s] != 0
    head = np.int64(_ZSTD_HEAD) << _BYTE
    return _bits(counts, end - begin, logs) + np.int64(_WEIGHT) * symbols + head


@once
def _repeats(data, begin, end, windows):
    """Whether any 8 bytes from a 4th byte on stood at one before."""
    windows[:] = np.uint64(0)
    for i in range(begin, end - 7, 4):
        window = load_u64(data, i)
        place = (window * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(54)
        if windows[place] == window:
            return True
        windows[place] = window
    return False


@kernel(
    types.void(
        R8, types.int64, types.int64, types.int64, types.int64, I64, W8, W64, W32, I64, I64, W8
    ),
    counted=False,
)  # fmt: skip
def bytes_apart(
    data, layout, size, count, run, least, planes, windows, counts, addresses, logs, edge
):  # fmt: skip
    """What each of some tensors takes at least by itself, about.

    `data`: uint8[], tensors of `count` elements of `size` bytes in a layout of floats, at least 64
    bytes of it, one behind the other; `run`: elements that may be of a class, a part of `count`.
    `least`: int64[tensors], set to the bytes of payload and, if there are any, parameters with
    their frame; 0 where something repeats. `logs`: int64[size * count + 1], n log2(n) in
    fixed point.

    Work space: `planes`, uint8[size * count + 64]; `windows`, uint64[1024]; `counts`, uint32[1024];
    `addresses`, int64[8]; `edge`, uint8[9 * 64].
    """
    bytes_of = size * count
    for tensor in range(least.size):
        begin = tensor * bytes_of
        least[tensor] = 0
        if _repeats(data, begin, begin + bytes_of, windows):
            continue
        split_planes(layout, size, data, begin, count, planes, count, addresses, edge)
        found = np.int64(FRAME + _CHUNK_HEAD + 5 * size) << _BYTE
        for p in range(size):
            plane = planes[p * count : (p + 1) * count]
            found += _plane_bytes(plane, run, counts, logs)
        zstd = _zstd_bytes(data, begin, begin + bytes_of, counts, logs)
        least[tensor] = min(min(found, zstd) >> _BYTE, bytes_of)


@kernel(types.void(W8, I64, I64, I64, I64), counted=False)
def head_frames(out, kinds, models, stored, original):
    """Writes the headers of frames that lie one behind the other, payloads in their places.

    `out`: uint8[], for each frame 28 bytes and its payload. The others, int64[frames]: what the
    headers say.
    """
    at = 0
    for frame in range(kinds.size):
        end = at + FRAME + stored[frame]
        store_u32(out, at, np.uint32(kinds[frame]))
        store_u32(out, at + 4, np.uint32(stored[frame]))
        store_u32(out, at + 8, np.uint32(original[frame]))
        store_u32(out, at + 12, np.uint32(models[frame]))
        store_u64(out, at + 16, xxh3_64(out[at + FRAME : end]))
        check = xxh3_64(out[at : at + 24]) & np.uint64(0xFFFFFFFF)
        store_u32(out, at + 24, np.uint32(check))
        at = end
