"""The compiled loops that settle how a span is coded: a batch of floats under one set of codes.

Rows share a code with those that it suits as well, see `class_kernels`. Codes come from a sample
of the rows, and have room for every symbol between the least and the greatest that occur.
"""

import numpy as np
from numba import types

from densor.codec import registry
from densor.codec.planes.search_kernels import _entropy_bits, _tally
from densor.codec.spans import table as t
from densor.codec.spans.class_kernels import (
    bits_of_classes,
    count_sample,
    entropy_lengths,
    find_classes,
    join_if_no_gain,
    pack_lengths,
    rows_between,
)
from densor.codec.spans.jit import once, part
from densor.codec.spans.split import scales, split_first, split_planes
from densor.codec.spans.table import MOST_CODES as CLASSES
from densor.codec.spans.table import PIECE, PIECES
from densor.entropy.huffman.kernels import best_lengths
from densor.entropy.intrinsics import copy_bytes, load_u64, ones
from densor.entropy.jit import I64, R8, W8, W32, W64, kernel

_SAMPLE = 1 << 17  # elements that codes are made from, about, or a half or a quarter of all
_EXTREMES = 9 * 64 + 512  # place in the work space `edge`
_FEW_ZEROS = 32  # one element in as many
_NOISE = t.NOISE
_LOOK = 64  # elements at the begin of each row that are searched for constant bits
_RAW, _CONSTANT, _CODED = registry.PLANE_RAW, registry.PLANE_CONSTANT, registry.PLANE_CLASSES
_OF_PLANES = CLASSES + 2  # place of the histogram of a plane, behind those of classes
_COUNTED_FIRST = 16  # one in so many stretches
_COUNTED = 4096  # elements that are taken apart at once to be counted
_LEAST_CODED = 1 << 17  # elements; of fewer, parameters that suit them best count for more
OTHER = 2  # what becomes of a plane, beside these
_REFUSED = -1  # a batch that is not taken
_LEAST_BITS, _LEAST_OF_TWO = 1.2, 0.97  # of a symbol, of two: below, codes waste too much of a bit
_ALIKE = 0.008  # bits of a symbol that codes of their own would save pieces of a plane, at most
_WASTED = 0.03  # bits of a symbol that one code takes more than it should, at most
_PER_COUNT = 0.5 / np.log(2.0)  # bits that a histogram seems to take less for each symbol in it
I64_2D = types.int64[:, ::1]
F64 = types.float64[::1]

_lengths_of = once(best_lengths.__wrapped__)


@part
def _repeats(sample, windows):
    """Whether windows of 8 bytes at every 4th byte stood in the sample before: 1 in 100 of them.

    Those of zeros do not count, of which there may be a few.
    """
    found = 0
    windows[:] = np.uint64(0)
    for i in range(0, sample.size - 7, 4):
        window = load_u64(sample, i)
        place = (window * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(52)
        found += (windows[place] == window) & (window != np.uint64(0))
        windows[place] = window
    return found > sample.size // 400


@part
def _suits_one_code(plane, counts, bits):
    """Whether one Huffman code does for all pieces of a plane, and wastes little.

    `counts[0]`: its histogram; `counts[1]` is 0, and stays so, `counts[2]` becomes it. `bits`: of
    a symbol.
    """
    used = 0
    counts[2, :] = 0
    for s in range(256):
        used += counts[0, s] > 0
    if bits < (_LEAST_OF_TWO if used == 2 else _LEAST_BITS):
        return False
    apart = 0.0
    for begin in range(0, plane.size, PIECE):
        for i in range(begin, begin + PIECE):
            counts[1, plane[i]] += 1
        for s in range(256):
            apart += _PER_COUNT * (counts[1, s] > 0)
        apart += _entropy_bits(counts[1], counts[2])
        counts[1, :] = 0
    return bits * plane.size + _PER_COUNT * used - apart < _ALIKE * plane.size


@once
def _look(
    data, layout, size, careful, second, noise, low, coded, ways, planes, tallies, counts, words,
    addresses, edge,
):  # fmt: skip
    """Judges a sample. Sets what becomes of each plane but the first; False to refuse.

    `second`, `noise`: bits of a byte from which the second plane, and those behind it, are taken to
    be noise. `low`: whether these may be others as well; `coded`: whether any may be coded.
    `ways[size]` gets the bits of a byte of the second plane, in units of 2^-10.
    """
    n = data.size // size
    pieces = min(PIECES, n // PIECE)
    taken = pieces * PIECE
    sample = planes[4 * taken * size :][: taken * size]
    for k in range(pieces):
        begin = (n - PIECE) // max(pieces - 1, 1) * k
        copy_bytes(sample, k * PIECE * size, data, begin * size, PIECE * size)
    if careful and _repeats(sample, words[:4096]):
        return False
    split_planes(layout, size, sample, 0, taken, planes, taken, addresses, edge)
    for p in range(size):
        tallies[:1024] = np.uint32(0)
        _tally(planes[p * taken : (p + 1) * taken], tallies[:1024])
        for s in range(256):
            counts[0, s] = tallies[s] + tallies[256 + s] + tallies[512 + s] + tallies[768 + s]
            counts[1, s] = 0
        bits = _entropy_bits(counts[0], counts[1]) / taken
        if p == 1:
            ways[size] = np.int64(bits * 1024)
        if p == 0:
            if bits > 7.8 or bits < 1.2 or counts[0, 0] * _FEW_ZEROS > taken:
                return False
        elif bits >= (second if p == 1 else noise):
            ways[p] = _RAW
        elif low and p > 1:
            ways[p] = OTHER
        elif bits == 0.0:
            ways[p] = _CONSTANT
        elif coded and _suits_one_code(planes[p * taken : (p + 1) * taken], counts, bits):
            ways[p] = _CODED
        else:
            return False
    return True


@part
def _plane_scales(plane, mask, seen):
    """Sum of the scales of symbols of the first plane; these to `seen`, see `_row_scales`."""
    least, greatest, zero = np.uint8(seen[0]), np.uint8(seen[1]), np.uint8(seen[2])
    total = 0
    for i in range(plane.size):
        s = plane[i] & mask
        total += np.int64(s)
        least = min(least, np.uint8(s - np.uint8(1)))  # 0 comes last
        greatest = max(greatest, s)
        zero = min(zero, s)
    seen[0], seen[1], seen[2] = np.int64(least), np.int64(greatest), np.int64(zero)
    return total


@part
def _same_bits(plane, at):
    """How many of the 8 bits are the same in all of 64 symbols."""
    first = load_u64(plane, at)
    varying = np.uint64(0)
    for i in range(at, at + _LOOK, 8):
        word = load_u64(plane, i)
        varying |= word ^ ((word << np.uint64(8)) | (word >> np.uint64(56)))
        varying |= word ^ first
    varying |= varying >> np.uint64(32)
    varying |= varying >> np.uint64(16)
    varying |= varying >> np.uint64(8)
    return 8 - np.int64(ones(varying & np.uint64(255)))


@once
def _row_scales(data, layout, size, run, ways, sums, planes, seen, addresses, edge):
    """Sums of the scales of each row, and which scales occur.

    The scale is the first plane without the sign, if that is in it. `seen`, int64[3]: the
    least but 0, the greatest, whether 0 occurs. Returns the bits per element of raw planes that
    are constant within rows.
    """
    n = data.size // size
    mask = np.uint8(127 if size == 1 or layout == registry.LAYOUT_WORD16 else 255)
    extremes = edge[_EXTREMES : _EXTREMES + 192]
    extremes[:] = 255
    extremes[64:128] = 0
    seen[0], seen[1], seen[2] = 255, 0, 255
    saved = 0
    for r in range(sums.size):
        count = min(run, n - r * run)
        begin = r * run * size
        total, done = scales(layout, size, data, begin, count, extremes)
        if done < count:
            rest = count - done
            split_first(layout, size, data, begin + done * size, rest, planes, 0, addresses, edge)
            total += _plane_scales(planes[:rest], mask, seen)
        sums[r] = total
        if size > 1 and count >= _LOOK:
            split_planes(layout, size, data, begin, _LOOK, planes, _LOOK, addresses, edge)
            for p in range(1, size):
                if ways[p] == _RAW:
                    saved += _same_bits(planes, p * _LOOK)
    for i in range(0, 64, size):  # no scale takes more than its lowest byte
        if size == 1 or extremes[i + 1] == 0:
            seen[0] = min(seen[0], np.int64(extremes[i]))
        seen[1] = max(seen[1], np.int64(extremes[64 + i]))
        if size == 1 or extremes[128 + i + 1] == 0:
            seen[2] = min(seen[2], np.int64(extremes[128 + i]))
    seen[0] += 1
    seen[2] = seen[2] == 0
    return saved / sums.size


@once
def _count_coded(
    data, layout, size, ways, begins, goes_on, tallies, counts, planes, addresses, edge
):
    """Histograms of the planes that are coded, of plane p in `counts[_OF_PLANES + p]`.

    `begins`: a part of each is counted; `goes_on`: or what that has left.
    """
    n = data.size // size
    tallies[: 1024 * size] = np.uint32(0)
    for begin in range(0, n, _COUNTED):
        of_part = (begin // _COUNTED) % _COUNTED_FIRST == 0
        if (begins and not of_part) or (goes_on and of_part):
            continue
        count = min(_COUNTED, n - begin)
        split_planes(layout, size, data, begin * size, count, planes, count, addresses, edge)
        for p in range(size):
            if ways[p] == _CODED:
                _tally(planes[p * count : (p + 1) * count], tallies[1024 * p : 1024 * (p + 1)])
    for p in range(size):
        for s in range(256):
            at = 1024 * p + s
            found = tallies[at] + tallies[at + 256] + tallies[at + 512] + tallies[at + 768]
            counts[_OF_PLANES + p, s] += np.int64(found)


@part
def _wasted(counts, lengths):
    """Bits of a symbol that codes take too many, since those of rare symbols are too short.

    Several codes would save some of it: few rows have all of these symbols.
    """
    total = 0
    for s in range(256):
        total += counts[s]
    bits = 0.0
    for s in range(256):
        if counts[s] > 0:
            bits += counts[s] * (lengths[s] + np.log2(counts[s] / total))
    return bits / total


@once
def _count_classes(
    data, layout, size, run, most, scales, lengths, packed, bits, counts, tallies, floats, planes,
    addresses, edge,
):  # fmt: skip
    """Histograms of the classes of rows, how many there are, and of how many rows one is counted.

    `scales`: of each row, as from `_row_scales`.
    """
    n = data.size // size
    floats[:] = np.inf
    if most > 1:
        find_classes(scales, run, n, floats)
    many = most
    step = 0
    least = _rows_between(n, size, most)
    for turn in range(0 if most > 1 else 1, 2):
        step = least if turn else rows_between(least, scales.size)
        count_sample(
            data, layout, size, run, step, turn > 0 and many > 1, scales,
            floats[CLASSES : 2 * CLASSES], lengths, packed, bits, counts, tallies, planes,
            addresses, edge,
        )  # fmt: skip
        if many > 1:
            worth = bits_of_classes(scales.size) / step
            many = join_if_no_gain(counts, worth if turn else worth / 2, counts[CLASSES + 1])
        if turn == 0 and many > 1:
            entropy_lengths(counts, lengths)
            pack_lengths(lengths, packed)
        if many == 1:
            floats[:] = np.inf
    return many, step


@part
def _rows_between(n, size, most):
    """Of how many rows one is counted for the codes, at least."""
    if size == 1:  # all 256 symbols occur
        return max(1, n // (3 * _SAMPLE))
    return max(4 if most == 1 else 2, n // _SAMPLE)


@once
def _make_codes(counts, step, mask, seen, lengths, packages, short):
    """Lengths of the codes of a class, from its histogram in a sample; or in all, if `step` is 0.

    A symbol of a scale that occurs somewhere has a code, whether or not the sample has it.
    """
    if step > 0:
        for s in range(256):
            scale = s & mask
            used = seen[0] <= scale <= seen[1] if scale > 0 else seen[2] != 0
            counts[s] = counts[s] * step + 1 if used else 0
    _lengths_of(counts, packages[:512], packages[512:], short[256:], short[:256], lengths)


@kernel(
    types.int64(
        R8, types.int64, types.int64, types.int64, types.int64, types.boolean,
        types.float64, I64, types.uint8[:, ::1], W8, I64_2D, W32, I64, W64, W32, F64, W8,
    ),
    counted=False,
)  # fmt: skip
def plan_span(
    data, layout, size, run, most, careful, noise, ways, lengths, planes, counts, tallies,
    numbers, words, sums, floats, edge,
):  # fmt: skip
    """Settles how a batch of floats is coded by `put_chunks`, from a sample of it.

    `data`: uint8[elements * size], at least 4096 elements; a row has `run` elements, at least
    64. `most`: 1, or 4 for up to as many classes. `careful`: whether what may repeat, or is coded
    in less than a bit, is refused. `noise`: bits of a byte from which planes behind the first are
    stored as they are; what has less is refused.

    Results: `ways`, int64[8], what becomes of each plane; `lengths`: uint8[7, 256], of the
    classes of the first plane, and from `lengths[4]` on of each plane behind it, 0 where it is not
    coded. Returns how many classes there are, or -1 for a batch that is not for this kernel.

    Work space: `planes`, uint8[the greater of 5 * size * 16384 and a row, and 4096 * size];
    `counts`, int64[10, 256]; `tallies`, uint32[4 * 1024]; `numbers`, int64[64 + 1024]; `words`,
    uint64[4096], of which 1024 to 1279 hold the lengths of codes; `sums`, uint32[rows in all];
    `floats`, float64[16]; `edge`, uint8[9 * 64 + 8192].
    """
    n = data.size // size
    addresses = numbers[16:24]
    seen = numbers[32:35]
    packed = words[1024:1280]
    if not _look(
        data, layout, size, careful, min(_NOISE, noise), noise, False, n >= _LEAST_CODED, ways,
        planes, tallies, counts, words, addresses, edge,
    ):  # fmt: skip
        return _REFUSED
    coded_planes = 0
    for p in range(1, size):
        coded_planes += ways[p] == _CODED
    mask = 127 if size == 1 or layout == registry.LAYOUT_WORD16 else 255
    scales = sums[: -(-n // run)]
    many = 0
    step = 0
    first = 0 if coded_planes > 0 and most > 1 else 1
    ways[0] = _CODED
    counts[_OF_PLANES:] = 0
    for turn in range(first, 2):  # codes of other planes from a part first, lest all is for nothing
        if turn == 1:
            saved = _row_scales(
                data, layout, size, run, ways, scales, planes, seen, addresses, edge
            )
            if saved > 0.016 * size or (seen[1] <= seen[0] and seen[2] == 0):
                return _REFUSED
            many, step = _count_classes(
                data, layout, size, run, most, scales, lengths, packed, numbers[40:44], counts,
                tallies, floats, planes, addresses, edge,
            )  # fmt: skip
            ways[0] = _CODED if many == 1 else OTHER
        if coded_planes > 0:
            _count_coded(
                data, layout, size, ways, turn == 0, turn > first, tallies, counts, planes,
                addresses, edge,
            )  # fmt: skip
            if many == 1:
                step = 0
                for s in range(256):
                    counts[0, s] = counts[_OF_PLANES, s]
        for c in range(CLASSES + size - 1):
            if c < many or (c >= CLASSES and ways[c - CLASSES + 1] == _CODED):
                _make_codes(
                    counts[c if c < CLASSES else _OF_PLANES + c - CLASSES + 1],
                    step if c < CLASSES else 0, mask, seen, lengths[c], numbers[64:],
                    edge[9 * 64 :],
                )  # fmt: skip
        for p in range(1, size):
            if ways[p] != _CODED or most == 1:
                continue
            waste = _wasted(counts[_OF_PLANES + p], lengths[CLASSES + p - 1])
            if waste > _WASTED:
                return _REFUSED
    ways[0] = _CODED
    return many
