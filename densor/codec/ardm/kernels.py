"""Images under an autoregressive network, call by call of its order; integers only.

What the network gives of a sample depends on samples of earlier calls alone, so that all samples of
a call could be computed at once. Here it is four rows at a time.
"""

import numba
from numba import types

from densor.codec.circuit.coder_kernels import finish, put, start, take
from densor.entropy.jit import I32, I64, W8, W64, inlined, kernel
from densor.llm.kernels import EXP_BITS, I8, I16
from densor.llm.products import LANES, tile

int64, uint64 = numba.int64, numba.uint64

ROWS = 4  # samples that go through a layer together
TOTAL = 22  # bits of frequencies
_WIDE = 2 * LANES
_VALUES = 256
_ONE = 256  # what stands for 1 in inputs and hidden values
_PLACES = 8  # of hidden values
_MOST_HIDDEN = 32767
_FARTHEST = 40  # octaves below the most likely value, from which on weights are equal

_four, _one = tile(ROWS, 2, 8), tile(1, 2, 8)


@inlined
def _multiply(rows, a, at, stride, weights, size, columns, sums):
    """Sums of `rows` rows, 1 to 4, by all columns: int32[4, columns]."""
    pairs = size >> 1
    for column in range(0, columns, _WIDE):
        if rows == ROWS:
            _four(a, at, stride, weights, column * size, pairs, sums, column, columns)
            continue
        for r in range(rows):
            to = r * columns + column
            _one(a, at + r * stride, stride, weights, column * size, pairs, sums, to, columns)


@inlined
def _look(image, seen, sample, window, count, row, at):
    """The inputs of a sample: values that it sees, and which of the window are known and 0."""
    for i in range(count):
        other = int64(seen[sample * count + i])
        value = int64(image[other]) if other >= 0 else int64(0)
        row[at + i] = value
        if i < window:
            row[at + count + i] = _ONE if other >= 0 and value == 0 else 0
    if (count + window) & 1:
        row[at + count + window] = 0


@inlined
def _activate(sums, count, offsets, offset, places, row, at):
    """A hidden layer's values, 2^-8, of its sums."""
    half = int64(1) << (places - 1)
    for j in range(count):
        value = (int64(sums[j]) + int64(offsets[offset + j]) + half) >> places
        row[at + j] = min(max(value, int64(0)), int64(_MOST_HIDDEN))


@inlined
def _accumulate(sums, offsets, places, exps, bounds):
    """Weights of all values below each: 2^30 for the most likely one, halved for each bit."""
    most = int64(-(1 << 62))
    for i in range(_VALUES):
        most = max(most, int64(sums[i]) + int64(offsets[i]))
    shift = places + _PLACES - EXP_BITS
    total = int64(0)
    for i in range(_VALUES):
        far = (most - int64(sums[i]) - int64(offsets[i])) >> shift
        far = min(far, int64(_FARTHEST << EXP_BITS))
        bounds[i] = total
        total += exps[far & ((1 << EXP_BITS) - 1)] >> (far >> EXP_BITS)
    bounds[_VALUES] = total


@inlined
def _bound(bounds, i):
    """Where value `i` begins in 2^22, so that each has 1 at least."""
    return i + bounds[i] * ((int64(1) << TOTAL) - _VALUES) // bounds[_VALUES]


@inlined
def _code_value(coding, value, coder, data, end, bounds):
    """Codes a value, or decodes one; returns it."""
    if not coding:
        place = int64(coder[0] // (coder[1] >> uint64(TOTAL)))
        value = int64(0)
        step = int64(_VALUES >> 1)
        while step:
            if _bound(bounds, value + step) <= place:
                value += step
            step >>= 1
    low = _bound(bounds, value)
    size = _bound(bounds, value + 1) - low
    if coding:
        put(coder, data, low, size, TOTAL)
    else:
        take(coder, data, end, low, size, TOTAL)
    return value


@kernel(
    types.int64(
        *(types.boolean, W8, W8, I64, int64, I32, I32, I32, int64, I64),
        *(I8, I8, I8, I32, I32, I32, I64, I16, I32, I64, W64),
    ),
    counted=False,
)
def code_images(
    coding,
    images,
    data,
    ends,
    count,
    order,
    calls,
    seen,
    window,
    places,
    first,
    second,
    third,
    first_offsets,
    second_offsets,
    third_offsets,
    exps,
    rows,
    sums,
    bounds,
    coder,
):
    """Codes or decodes `count` images, one after the other; returns how many were sound.

    `images`: count * samples. `data`: the streams; of coding, 4 bytes a sample and 16 an image.
    `ends`: int64[count + 1], where each begins and the last one ends: set, or read. `order`,
    `calls`, `seen`, `window`: of the geometry. `places`: int64[3], of weights. `first`, `second`,
    `third`: weights as tiles, each with its offsets. `exps`: of `tables.exp2_table`. Work space:
    `rows`, int16[4, inputs + hidden values], inputs even; `sums`, int32[4 * 256]; `bounds`,
    int64[257]; `coder`, uint64[3]. Decoding stops at a stream that is longer than it can be, or
    ends with a zero.
    """
    samples = order.size
    hidden = first_offsets.size // samples
    deep = second_offsets.size
    inputs = first.size // hidden
    stride = inputs + hidden + deep
    for number in range(count):
        image = images[number * samples : (number + 1) * samples]
        begin, end = ends[number], ends[number + 1]
        start(coding, coder, data, begin, end)
        for call in range(calls.size - 1):
            for at in range(calls[call], calls[call + 1], ROWS):
                tall = min(int64(ROWS), int64(calls[call + 1]) - at)
                for r in range(tall):
                    _look(
                        image,
                        seen,
                        int64(order[at + r]),
                        window,
                        seen.size // samples,
                        rows,
                        r * stride,
                    )
                _multiply(tall, rows, 0, stride, first, inputs, hidden, sums)
                for r in range(tall):
                    part = sums[r * hidden : (r + 1) * hidden]
                    offset = int64(order[at + r]) * hidden
                    _activate(
                        part, hidden, first_offsets, offset, places[0], rows, r * stride + inputs
                    )
                _multiply(tall, rows, inputs, stride, second, hidden, deep, sums)
                for r in range(tall):
                    part = sums[r * deep : (r + 1) * deep]
                    to = r * stride + inputs + hidden
                    _activate(part, deep, second_offsets, 0, places[1], rows, to)
                _multiply(tall, rows, inputs + hidden, stride, third, deep, _VALUES, sums)
                for r in range(tall):
                    sample = int64(order[at + r])
                    part = sums[r * _VALUES : (r + 1) * _VALUES]
                    _accumulate(part, third_offsets, places[2], exps, bounds)
                    value = _code_value(coding, int64(image[sample]), coder, data, end, bounds)
                    if not coding:
                        image[sample] = value
        if coding:
            ends[number + 1] = finish(coder, data, begin)
        elif int64(coder[2]) < end or (end > begin and data[end - 1] == 0):
            return number
    return count
