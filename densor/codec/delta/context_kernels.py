"""The compiled search for contexts of changes, see `contexts`: arrays in, arrays out."""

import numpy as np
from numba import njit, types

from densor.entropy.jit import kernel

_U32_2D = types.uint32[:, ::1]
_I64 = types.int64[::1]
_F64_2D = types.float64[:, ::1]
_SEEN = np.float64(np.float32(0.03))  # how often each context has a symbol that it lacks
_IN_UNITS = 65536.0  # code lengths are in 2^-16 bits
_ROUNDS = 2
_SYMBOL_BITS = 9.0  # what a symbol in use costs in a packed table, about
_TABLE_BITS = 64.0  # what a table costs besides


@njit
def _code_lengths(sums, lengths):
    """Ideal code lengths in each row, whole numbers, also for symbols that it lacks."""
    for c in range(sums.shape[0]):
        total = 0.0
        for s in range(sums.shape[1]):
            total += np.float64(sums[c, s]) + _SEEN
        for s in range(sums.shape[1]):
            bits = np.log2(total / (np.float64(sums[c, s]) + _SEEN))
            lengths[c, s] = np.floor(_IN_UNITS * bits)


@njit
def _add_rows(rows, of, sums):
    """`sums[c]` becomes the sum of the rows whose context `of` is c."""
    sums[:] = np.uint32(0)
    for r in range(rows.shape[0]):
        row, total = rows[r], sums[of[r]]
        for s in range(rows.shape[1]):
            total[s] += row[s]


@njit
def _cost_of_contexts(sums, lengths, scale):
    """Bits of all symbols and of the tables; `lengths` become those of `sums`."""
    _code_lengths(sums, lengths)
    data = 0.0
    used = 0
    for c in range(sums.shape[0]):
        for s in range(sums.shape[1]):
            data += np.float64(sums[c, s]) * lengths[c, s]
            used += sums[c, s] != np.uint32(0)
    return data / _IN_UNITS * scale + used * _SYMBOL_BITS + sums.shape[0] * _TABLE_BITS


@njit
def _split_contexts(rows, own, lengths, contexts, of, excess):
    """Gives the row of each context that suits it least a context of its own; returns how many."""
    for r in range(rows.shape[0]):
        under = lengths[of[r]]
        excess[r] = 0.0
        for s in range(rows.shape[1]):
            excess[r] += np.float64(rows[r, s]) * (under[s] - own[r, s])
    made = contexts
    for c in range(contexts):
        worst, members = np.int64(-1), 0
        for r in range(rows.shape[0]):
            if of[r] == c:
                members += 1
                if worst < 0 or excess[r] > excess[worst]:
                    worst = r
        if members > 1:
            of[worst] = made
            made += 1
    return made


@njit
def _suit(rows, lengths, contexts, of):
    """Each row gets the context whose code lengths suit its counts best."""
    for r in range(rows.shape[0]):
        best = np.inf
        for c in range(contexts):
            cost = 0.0
            for s in range(rows.shape[1]):
                cost += np.float64(rows[r, s]) * lengths[c, s]
            if cost < best:
                best = cost
                of[r] = c


@njit
def _drop_empty(of, contexts, names):
    """Numbers contexts without gaps, in order; returns how many there are."""
    for c in range(contexts):
        names[c] = 0
    for r in range(of.size):
        names[of[r]] = 1
    left = 0
    for c in range(contexts):
        used = names[c]
        names[c] = left
        left += used
    for r in range(of.size):
        of[r] = names[of[r]]
    return left


@kernel(
    types.float64(
        _U32_2D, types.int64, types.float64, _I64, _I64, _U32_2D, _F64_2D, _F64_2D,
        types.float64[::1], _I64,
    )
)  # fmt: skip
def group_rows(rows, most, scale, best_of, of, sums, lengths, own, excess, names):
    """Sets `best_of`, int64[rows], to the contexts of rows of counts that cost least; returns that.

    `rows`: uint32[rows, symbols], `most` contexts at most, `scale`: see `contexts.group`. Work
    space: `of`, int64[rows]; `sums`, uint32[2 * most, symbols]; `lengths`, float64[2 * most,
    symbols]; `own`, float64[rows, symbols]; `excess`, float64[rows]; `names`, int64[2 * most].
    """
    of[:] = 0
    best_of[:] = 0
    contexts = 1
    _add_rows(rows, of, sums[:1])
    best = _cost_of_contexts(sums[:1], lengths, scale)
    _code_lengths(rows, own)
    while contexts < most and 2 * contexts <= of.size:
        before = contexts
        contexts = _split_contexts(rows, own, lengths, contexts, of, excess)
        for _ in range(_ROUNDS):
            _add_rows(rows, of, sums[:contexts])
            _code_lengths(sums[:contexts], lengths)
            _suit(rows, lengths, contexts, of)
        contexts = _drop_empty(of, contexts, names)
        _add_rows(rows, of, sums[:contexts])
        cost = _cost_of_contexts(sums[:contexts], lengths, scale)
        if cost < best:
            best = cost
            for r in range(of.size):  # not `best_of[:] = of`, for whose error numba is needed
                best_of[r] = of[r]
        elif contexts >= 4:
            break
        if contexts <= before:  # the split was merged again
            break
    return best
