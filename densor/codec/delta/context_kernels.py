"""The compiled search for contexts of changes, see `contexts`: arrays in, arrays out."""

import numpy as np
from numba import njit, types

from densor.entropy.jit import kernel

_U16_2D = types.uint16[:, ::1]
_U32_2D = types.uint32[:, ::1]
_I64 = types.int64[::1]
_F64_2D = types.float64[:, ::1]
_SEEN = np.float64(np.float32(0.03))  # how often each context has a symbol that it lacks
_IN_UNITS = 65536.0  # code lengths are in 2^-16 bits
_ROUNDS = 2
_SYMBOL_BITS = 9.0  # what a symbol in use costs in a packed table, about
_TABLE_BITS = 64.0  # what a table costs besides


@njit
def _keep_used(rows, kept, used, own):
    """Fills `kept[r]` with the `used[r]` symbols that row r has, of which most rows lack most, and
    `own` with what each row costs by its own code lengths."""
    for r in range(rows.shape[0]):
        total, many = 0.0, 0
        for s in range(rows.shape[1]):
            total += np.float64(rows[r, s]) + _SEEN
            kept[r, many] = s
            many += rows[r, s] != np.uint32(0)
        used[r] = many
        own[r] = 0.0
        for k in range(many):
            count = np.float64(rows[r, kept[r, k]])
            own[r] += count * np.floor(_IN_UNITS * np.log2(total / (count + _SEEN)))


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
def _split_contexts(rows, kept, used, own, lengths, contexts, of, excess):
    """Gives the row of each context that suits it least a context of its own; returns how many."""
    for r in range(rows.shape[0]):
        under = lengths[of[r]]
        cost = 0.0
        for k in range(used[r]):
            s = kept[r, k]
            cost += np.float64(rows[r, s]) * under[s]
        excess[r] = cost - own[r]
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
def _suit(rows, kept, used, lengths, contexts, of, across, costs):
    """Each row gets the context whose code lengths suit its counts best; of all contexts at once.

    `across`: float64[symbols, contexts at least], and `costs` are used.
    """
    for c in range(contexts):
        for s in range(rows.shape[1]):
            across[s, c] = lengths[c, s]
    for r in range(rows.shape[0]):
        costs[:] = 0.0
        for k in range(used[r]):
            s = kept[r, k]
            count = np.float64(rows[r, s])
            for c in range(contexts):
                costs[c] += count * across[s, c]
        best = np.inf
        for c in range(contexts):
            if costs[c] < best:
                best = costs[c]
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
        _U32_2D, types.int64, types.float64, _I64, _I64, _U32_2D, _F64_2D, _U16_2D, _I64,
        types.float64[::1], types.float64[::1], _I64, _F64_2D, types.float64[::1],
    )
)  # fmt: skip
def group_rows(
    rows, most, scale, best_of, of, sums, lengths, kept, used, own, excess, names, across, costs
):  # fmt: skip
    """Sets `best_of`, int64[rows], to the contexts of rows of counts that cost least; returns that.

    `rows`: uint32[rows, symbols], `most` contexts at most, `scale`: see `contexts.group`. Work
    space: `of`, int64[rows]; `sums`, uint32[2 * most, symbols]; `lengths`, float64[2 * most,
    symbols]; `kept`, uint16[rows, symbols + 1]; `used`, int64[rows]; `own` and `excess`,
    float64[rows]; `names`, int64[2 * most]; `across`, float64[symbols, 2 * most]; `costs`,
    float64[2 * most]. Costs are sums of whole numbers below 2^53, the same in any order.
    """
    of[:] = 0
    best_of[:] = 0
    contexts = 1
    _add_rows(rows, of, sums[:1])
    best = _cost_of_contexts(sums[:1], lengths, scale)
    _keep_used(rows, kept, used, own)
    while contexts < most and 2 * contexts <= of.size:
        before = contexts
        contexts = _split_contexts(rows, kept, used, own, lengths, contexts, of, excess)
        for _ in range(_ROUNDS):
            _add_rows(rows, of, sums[:contexts])
            _code_lengths(sums[:contexts], lengths)
            _suit(rows, kept, used, lengths, contexts, of, across, costs)
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
