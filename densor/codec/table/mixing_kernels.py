"""Codes the symbols of a column: one kernel for both directions, so that they cannot drift apart.

A symbol is the path through a code tree. Each decision is predicted by counters under several
contexts, which are values of columns before; a mixer weighs them, an APM corrects the result (M.
Mahoney, PAQ). All arithmetic is in integers. See docs/format/table.md, whose names are used here.
"""

import numba
import numpy as np
from numba import types

from densor.codec.byte_cm.apm import apm_predict, apm_update
from densor.codec.byte_cm.kernels import code_bit
from densor.codec.table.state import (
    APM_ROWS,
    BEFORE_PREVIOUS,
    BUCKETS,
    FIELDS,
    LINE,
    PARENTS,
    PREVIOUS,
    Code,
    State,
    Tables,
)
from densor.entropy.arithmetic.state import AT
from densor.entropy.intrinsics import prefetch
from densor.entropy.jit import I32, I64, W8, W16, W32, index, inlined, kernel

int64, uint64 = numba.int64, numba.uint64

GUESS = 4
COUNTS = 1024
_MIN_P, _MAX_P = 16, 65520
_MAX_WEIGHT = 1 << 20
_K1, _K2 = 0x1E3779B97F4A7C15, 0x2C1B3C6D9E3779B1
_FAST_STEP, _SLOW_STEP, _STEP_ROWS = 1400, 130, 11


CODE_TYPE = types.NamedTuple((I32, I64, I64, I64, I64, I32), Code)
STATE_TYPE = types.NamedTuple((I64, W32, I32, W16, I64, I64, I32, I64, I32), State)
TABLES_TYPE = types.NamedTuple((W16, types.int16[::1], I32, W8), Tables)


@inlined
def mix(h, value):
    """A hash of a hash and a value."""
    h = (h ^ value) * _K1
    h ^= (h >> 29) & 0x7FFFFFFFF
    h *= _K2
    return h ^ ((h >> 32) & 0xFFFFFFFF)


@inlined
def _hash_row(s, contexts, parents, rows, row, last, last2):
    """Hashes of all contexts in a row."""
    for k in range(s.hashes.size):
        at = k * FIELDS
        flags = contexts[index(at + PARENTS)]
        h = mix(int64(k + 1), flags)
        for i in range(PARENTS):
            parent = contexts[index(at + i)]
            if parent >= 0:
                h = mix(h, parents[index(parent * rows + row)] + i)
        if flags & PREVIOUS:
            h = mix(h, last)
        if flags & BEFORE_PREVIOUS:
            h = mix(h, last2)
        s.hashes[index(k)] = h


@inlined
def _find_lines(s, node):
    """Finds the lines of all contexts for four decisions from `node` on; empties others'."""
    count = s.hashes.size
    lines = s.lines.size // (LINE * count)
    for k in range(count):
        h = mix(s.hashes[index(k)], node)
        place = (k * lines + (h & (lines - 1))) * LINE
        s.places[index(k)] = place
        prefetch(s.lines, place)
        s.chosen[index(k)] = (h >> 32) & 0xFFFFFFFF
    for k in range(count):
        place = s.places[index(k)]
        check = np.uint32(s.chosen[index(k)])
        if s.lines[index(place)] != check:
            s.lines[index(place)] = check
            for i in range(1, LINE):
                s.lines[index(place + i)] = np.uint32(1 << 31)


@inlined
def _clip(value, most):
    return min(max(value, int64(-most)), int64(most))


@inlined
def _decide(coding, s, t, data, bit, slot, depth, node, step, limit):
    """Codes a decision, and learns from it."""
    count = s.hashes.size
    base = depth * count
    total = int64(0)
    for k in range(count):
        value = int64(s.lines[index(s.places[index(k)] + slot)])
        stretched = int64(t.stretch[index(value >> 20)])
        row = (base + k) * BUCKETS + int64(t.bucket[index(value & 1023)])
        s.inputs[index(k)] = stretched
        s.chosen[index(k)] = row
        total += stretched * int64(s.weights[index(row)])
    mixed = _clip(total >> 16, 2047)
    p = int64(t.squash[index(mixed + 2048)])
    row0 = node & (APM_ROWS - 1)
    corrected = apm_predict(s.apm, row0, mixed)
    final = min(max((5 * p + 3 * corrected + 4) >> 3, int64(_MIN_P)), int64(_MAX_P))
    bit = code_bit(coding, s.coder, data, bit, final)
    apm_update(s.apm, row0, mixed, bit)
    error = ((bit << 16) - p) * step
    goal = bit * 0x3FFFFF
    for k in range(count):
        row = s.chosen[index(k)]
        change = (int64(s.inputs[index(k)]) * error + (1 << 23)) >> 24
        s.weights[index(row)] = np.int32(_clip(int64(s.weights[index(row)]) + change, _MAX_WEIGHT))
        place = s.places[index(k)] + slot
        value = int64(s.lines[index(place)])
        seen = value & 1023
        p22 = value >> 10
        p22 += ((goal - p22) * int64(t.rate[index(seen)])) >> 16
        s.lines[index(place)] = np.uint32(p22 << 10 | min(seen + 1, limit))
    return bit


@kernel(
    types.void(
        types.boolean, STATE_TYPE, TABLES_TYPE, CODE_TYPE, I64, I64, I32, W8, types.int64,
        types.int64, types.int64,
    ),
    counted=False,
)  # fmt: skip
def code_symbols(coding, s, t, code, contexts, parents, symbols, data, limit, begin, end):
    """Codes or decodes `symbols[begin:end]`; pieces follow each other from 0 on.

    `contexts`: int64[contexts, FIELDS], parents by number; `parents`: int64[n, rows], their values.
    `limit`: what counters count to. More than `data` has room for is counted, not written.
    """
    rows = symbols.size
    last = int64(symbols[index(begin - 1)]) if begin > 0 else int64(-1)
    last2 = int64(symbols[index(begin - 2)]) if begin > 1 else int64(-1)
    for row in range(begin, end):
        _hash_row(s, contexts, parents, rows, row, last, last2)
        step = int64(_SLOW_STEP) + (_FAST_STEP << _STEP_ROWS) // ((1 << _STEP_ROWS) + row)
        length = int64(0)
        word = int64(0)
        if coding:
            length = int64(code.lengths[index(symbols[index(row)])])
            word = code.codes[index(symbols[index(row)])]
        guess = int64(0)
        guessed = (s.hashes[0] >> 20) & (s.guesses.size - 1)
        if s.guesses.size:
            guess = int64(s.guesses[index(guessed)])
            if guess:
                _find_lines(s, int64(0))
                bit = int64(coding and int64(symbols[index(row)]) == guess - 1)
                bit = _decide(
                    coding, s, t, data, bit, int64(1), int64(GUESS), int64(0), step, limit
                )
                if bit:
                    symbols[index(row)] = guess - 1
                    last2 = last
                    last = guess - 1
                    continue
        node = int64(1)
        slot = int64(1)
        depth = int64(0)
        value = int64(0)
        symbol = int64(0)
        while True:
            if not depth & 3:
                _find_lines(s, node)
                slot = int64(1)
            bit = (word >> (length - 1 - depth)) & 1 if coding else int64(0)
            weights = min(depth, int64(GUESS - 1))
            bit = _decide(coding, s, t, data, bit, slot, weights, node, step, limit)
            node = 2 * node + bit
            slot = 2 * slot + bit
            value = 2 * value + bit
            depth += 1
            ahead = value - code.first[index(depth)]
            if ahead < code.counts[index(depth)]:
                symbol = int64(code.symbols[index(code.offset[index(depth)] + ahead)])
                break
        symbols[index(row)] = symbol
        if s.guesses.size:
            s.guesses[index(guessed)] = symbol + 1
        last2 = last
        last = symbol
        if s.coder[AT] > data.size + 4:
            break
