"""Classes of rows that share a code: parts of the kernel that encodes spans.

Rows of a sample are first sorted by their mean scale, by one-dimensional k-means (Lloyd), then by
the entropy codes that this makes. The codes of what comes of that say themselves, bit for bit,
which of them suits a row best.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from densor.codec.planes.search_kernels import _entropy_bits, _tally
from densor.codec.spans.jit import once, part
from densor.codec.spans.put import look_up, tables_of
from densor.codec.spans.split import split_first
from densor.codec.spans.table import MOST_CODES as CLASSES
from densor.entropy.jit import BOUNDSCHECK
from densor.entropy.vectors import check_range, features_of

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_B64, _Q8 = ir.VectorType(_I8, 64), ir.VectorType(_I64, 8)
_TRAINING = 1024  # rows that classes are made from, about
_CLASS_BITS = 1200.0  # what classes must save: their codes, the time to build tables
_ROWS = 64  # of a batch, at least, that codes are made from while classes change
_AT_ONCE = 256  # symbols whose lengths add up to less than 2^16
_FRACTION = 8.0  # of a bit, that lengths of entropy codes are counted in
_WIDER = 4  # a first sample has one in so many rows of the other


@intrinsic
def _add_bits(typingctx, symbols, at, vectors, lengths, bits):
    """Adds the bits of 64 * `vectors` symbols from `at` on under each of the codes to `bits`.

    `symbols`: uint8[]; `lengths`: uint8[CLASSES, 256]; `bits`: int64[CLASSES]. Returns how many
    symbols that were: none where the processor has no AVX-512 VBMI.
    """

    def codegen(context, builder, signature, args):
        symbols, at, vectors, lengths, bits = args
        if "avx512vbmi" not in features_of(context)[1]:
            return _I64(0)
        count = builder.mul(vectors, _I64(64))
        if BOUNDSCHECK:
            check_range(context, builder, signature.args[0], symbols, at, count)
            check_range(context, builder, signature.args[3], lengths, _I64(0), _I64(CLASSES))
            check_range(context, builder, signature.args[4], bits, _I64(0), _I64(CLASSES))

        def data(position: int) -> Any:
            return context.make_array(signature.args[position])(
                context, builder, args[position]
            ).data

        tables = [tables_of(builder, builder.gep(data(3), [_I64(256 * c)])) for c in range(CLASSES)]
        none = ir.Constant(_B64, [0] * 64)
        sums = [
            cgutils.alloca_once_value(builder, ir.Constant(_Q8, [0] * 8)) for _ in range(CLASSES)
        ]
        add_up = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(_Q8, [_B64, _B64]),
            "llvm.x86.avx512.psad.bw.512",
        )
        first = builder.gep(data(0), [at])
        with cgutils.for_range(builder, vectors) as loop:
            place = builder.gep(first, [builder.mul(loop.index, _I64(64))])
            block = builder.load(builder.bitcast(place, _B64.as_pointer()))
            block.align = 1
            for table, held in zip(tables, sums, strict=True):
                some = builder.call(add_up, [look_up(builder, table, block), none])
                builder.store(builder.add(builder.load(held), some), held)
        total = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_I64, [_Q8]), "llvm.vector.reduce.add.v8i64"
        )
        for c, held in enumerate(sums):
            place = builder.gep(data(4), [_I64(c)])
            found = builder.call(total, [builder.load(held)])
            builder.store(builder.add(builder.load(place), found), place)
        return count

    size = types.int64
    return size(symbols, size, size, lengths, bits), codegen


@once
def entropy_lengths(counts, lengths):
    """What symbols take under ideal codes, in units of an eighth of a bit, to `lengths`."""
    for c in range(CLASSES):
        total = 0
        for s in range(256):
            total += counts[c, s]
        rare = np.log2(total + 25.6)
        for s in range(256):
            bits = rare + 3.32  # of a tenth of a symbol
            if counts[c, s] > 0:
                bits = rare - np.log2(counts[c, s] + 0.1)
            lengths[c, s] = np.uint8(min(_FRACTION * bits, 255.0))


@part
def pack_lengths(lengths, packed):
    """The lengths of all codes for each symbol, 16 bits each, to `packed`, uint64[256]."""
    for s in range(256):
        packed[s] = np.uint64(0)
        for c in range(CLASSES):
            packed[s] |= np.uint64(lengths[c, s]) << np.uint64(16 * c)


@part
def best_class(symbols, at, count, lengths, packed, bits):
    """The code under which `count` symbols from `at` on take the fewest bits, the first of equals.

    Work space: `bits`, int64[CLASSES].
    """
    bits[:CLASSES] = 0
    done = _add_bits(symbols, np.int64(at), np.int64(count >> 6), lengths, bits)
    for begin in range(at + done, at + count, _AT_ONCE):
        total = np.uint64(0)
        for i in range(begin, min(begin + _AT_ONCE, at + count)):
            total += packed[symbols[i]]
        for c in range(CLASSES):
            bits[c] += np.int64((total >> np.uint64(16 * c)) & np.uint64(0xFFFF))
    best = 0
    for c in range(1, CLASSES):
        if bits[c] < bits[best]:
            best = c
    return best


@part
def mean(sums, r, run, n):
    """The mean scale of a row."""
    return sums[r] / min(run, n - r * run)


@part
def class_of(x, borders):
    """The class of a row of this mean."""
    return np.int64(x > borders[0]) + np.int64(x > borders[1]) + np.int64(x > borders[2])


@once
def find_classes(sums, run, n, floats):
    """Borders between `CLASSES` classes of rows by their mean scale, to `floats[4:7]`."""
    centres = floats[:CLASSES]
    borders = floats[CLASSES : 2 * CLASSES]
    members = floats[2 * CLASSES : 3 * CLASSES]
    totals = floats[3 * CLASSES : 4 * CLASSES]
    step = max(1, sums.size // _TRAINING)
    average = 0.0
    squares = 0.0
    rows = 0
    for r in range(0, sums.size, step):
        x = mean(sums, r, run, n)
        average += x
        squares += x * x
        rows += 1
    average /= rows
    deviation = np.sqrt(max(squares / rows - average * average, 0.0))
    for c in range(CLASSES):
        centres[c] = average + deviation * (0.75 * c - 1.125)
    for turn in range(7):
        for c in range(CLASSES - 1):
            borders[c] = (centres[c] + centres[c + 1]) / 2
        if turn == 6:
            break
        members[:] = 0.0
        totals[:] = 0.0
        for r in range(0, sums.size, step):
            x = mean(sums, r, run, n)
            c = class_of(x, borders)
            members[c] += 1.0
            totals[c] += x
        for c in range(CLASSES):
            if members[c] > 0.0:
                centres[c] = totals[c] / members[c]


@part
def rows_between(step, rows):
    """Of how many rows one is in the first sample, if one in `step` is in the other."""
    return max(step, min(_WIDER * step, rows // _ROWS))


@once
def count_sample(
    data, layout, size, run, step, by_codes, sums, borders, lengths, packed, bits, counts, tallies,
    planes, addresses, edge,
):  # fmt: skip
    """Histograms of the first plane by classes, from one row in `step` all over the batch.

    `by_codes`: whether each row goes to the code that suits it best, instead of by its mean.
    """
    n = data.size // size
    tallies[:] = np.uint32(0)
    for r in range(0, sums.size, step):
        count = min(run, n - r * run)
        row = planes[:count]
        if size == 1:
            row = data[r * run : r * run + count]
        else:
            split_first(layout, size, data, r * run * size, count, planes, 0, addresses, edge)
        if by_codes:
            c = best_class(row, 0, count, lengths, packed, bits)
        else:
            c = class_of(mean(sums, r, run, n), borders)
        _tally(row, tallies[1024 * c : 1024 * (c + 1)])
    for c in range(CLASSES):
        for s in range(256):
            at = 1024 * c + s
            counts[c, s] = tallies[at] + tallies[at + 256] + tallies[at + 512] + tallies[at + 768]


@part
def bits_of_classes(rows):
    """What classes must save of a batch."""
    return 2 * rows + _CLASS_BITS


@once
def join_if_no_gain(counts, least, zeros):
    """How many classes are worth it: all if they save so many bits of the sample, or one."""
    apart = 0.0
    zeros[:] = 0
    for c in range(CLASSES):
        apart += _entropy_bits(counts[c], zeros)
    for s in range(256):
        zeros[s] = counts[0, s] + counts[1, s]
        counts[CLASSES, s] = counts[2, s] + counts[3, s]
    together = _entropy_bits(zeros, counts[CLASSES])
    if together - apart >= least:
        return CLASSES
    for s in range(256):
        counts[0, s] = zeros[s] + counts[CLASSES, s]
    return 1
