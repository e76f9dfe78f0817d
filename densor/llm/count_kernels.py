"""From what the layers make of tokens to counts of the next: kernel behind `network.Logits`."""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from densor.entropy.jit import I32, I64, inlined, kernel
from densor.entropy.team_kernels import in_steps
from densor.llm.kernels import EXP_BITS, I8, I16, PLACES, WIDE, Columns, multiply_columns

int64 = numba.int64

_MULTIPLY, _COUNT, _SUM, _STEPS = 0, 1, 2, 3
_TILES = 4  # parts, for each thread
MAX_PARTS = 64
_REACH = 40  # below the largest logit, that all smaller ones have


class Outcome(NamedTuple):
    """Logits and counts of rows, and of each part of the columns its largest and its total."""

    logits: npt.NDArray[np.int64]  # int64[rows, columns], 2^-16
    counts: npt.NDArray[np.int64]  # int64[rows, tokens + 1]
    largest: npt.NDArray[np.int64]  # int64[rows, MAX_PARTS]
    totals: npt.NDArray[np.int64]  # int64[rows, MAX_PARTS]


class Sums(NamedTuple):
    """Work space of a thread: of TALL * 32 numbers each."""

    sums: npt.NDArray[np.int32]
    totals: npt.NDArray[np.int64]


_COLUMNS_TYPE = types.NamedTuple((I8, I32, int64, int64), Columns)
_OUTCOME_TYPE = types.NamedTuple((I64,) * 4, Outcome)
_SUMS_TYPE = types.NamedTuple((I32, I64), Sums)


@inlined
def _multiply(begin, end, part, given):
    """Logits of columns, and the largest of each row that is of a token."""
    rows, a, shifts, matrix, wide, tokens, offsets, _, _, outcome, space = given
    multiply_columns(
        rows, a, shifts, matrix, int64(PLACES), int64(0), begin, end, space.sums, space.totals,
        outcome.logits, wide,
    )  # fmt: skip
    for row in range(rows):
        line = outcome.logits[row * wide : row * wide + wide]
        for i in range(begin, min(end, offsets.size)):
            line[i] += offsets[i]
        most = line[begin]
        for i in range(begin, min(end, tokens)):
            most = max(most, line[i])
        outcome.largest[row * MAX_PARTS + part] = most


@inlined
def _count(begin, end, part, parts, given):
    """Counts of tokens, summed up from `begin` on."""
    rows, _, _, _, wide, tokens, _, factor, exps, outcome, _ = given
    limit = int64(_REACH) << PLACES
    for row in range(rows):
        most = outcome.largest[row * MAX_PARTS]
        for other in range(parts):
            most = max(most, outcome.largest[row * MAX_PARTS + other])
        line = outcome.logits[row * wide : row * wide + tokens]
        counts = outcome.counts[row * (tokens + 1) : (row + 1) * (tokens + 1)]
        counts[0] = 0
        total = int64(0)
        for i in range(begin, min(end, tokens)):
            x = (min(most - line[i], limit) * factor) >> (2 * PLACES - EXP_BITS)
            total += (exps[x & ((1 << EXP_BITS) - 1)] >> (x >> EXP_BITS)) + 1
            counts[i + 1] = total
        outcome.totals[row * MAX_PARTS + part] = total


@inlined
def _sum_up(begin, end, part, given):
    """Adds what all parts before have counted."""
    rows, tokens, outcome = given[0], given[5], given[9]
    for row in range(rows):
        before = int64(0)
        for other in range(part):
            before += outcome.totals[row * MAX_PARTS + other]
        counts = outcome.counts[row * (tokens + 1) : (row + 1) * (tokens + 1)]
        for i in range(begin, min(end, tokens)):
            counts[i + 1] += before


@inlined
def _parts_of(step, threads, given):
    if threads == 1:
        return int64(1)
    return min(given[4] // WIDE, _TILES * threads, int64(MAX_PARTS))


@numba.njit(error_model="numpy", _nrt=False)
def _do(step, part, parts, given):
    tiles = given[4] // WIDE
    begin, end = tiles * part // parts * WIDE, tiles * (part + 1) // parts * WIDE
    if step == _MULTIPLY:
        _multiply(begin, end, part, given)
    elif step == _COUNT:
        _count(begin, end, part, parts, given)
    elif part:
        _sum_up(begin, end, part, given)


_run = in_steps(_do, _parts_of)


@kernel(
    types.void(
        int64, int64, int64, int64, I16, I64, _COLUMNS_TYPE, int64, int64, I64, int64, I64,
        _OUTCOME_TYPE, _SUMS_TYPE,
    ),
    counted=False,
)  # fmt: skip
def count_tokens(
    thread, threads, team, rows, a, shifts, matrix, wide, tokens, offsets, factor, exps, outcome,
    space,
):  # fmt: skip
    """Softmax: how often each token would come, and of all before it.

    `thread`, `threads`, `team`: as in `pass_kernels.py`. `a`: int16[rows, n], in units of
    2^(shift - 16).
    `matrix`: the head, of which `wide` columns are used; the first `tokens` stand for tokens.
    `offsets`: int64[columns], added to logits, or empty. `factor`: log2(e), 2^-16. The counts are
    sums of 1 + 2^30 p / (largest p).
    """
    given = (rows, a, shifts, matrix, wide, tokens, offsets, factor, exps, outcome, space)
    _run(thread, threads, team, _STEPS, given)
