"""What the symbols of a column cost under contexts, estimated by counting as one would code."""

import numba
from numba import types

from densor.codec.table.mixing_kernels import mix
from densor.codec.table.state import BEFORE_PREVIOUS, PARENTS, PREVIOUS
from densor.entropy.jit import I32, I64, index, kernel

int64 = numba.int64
F64 = types.float64[::1]
F32 = types.float32[::1]


@kernel(types.float64(I64, I64, I32, F64, F32, types.int32[::1], types.int32[::1]))
def context_cost(context, parents, symbols, first, logs, contexts, pairs):
    """Bits of `symbols` under a context, when each is predicted from those before it.

    `context`: int64[FIELDS]; `parents`: int64[n, rows]; `first`: bits of each symbol that its
    context has not seen; `logs`: binary logarithms of 2 and more; `contexts`, `pairs`: counters,
    powers of two.
    """
    rows = symbols.size
    contexts[:] = 0
    pairs[:] = 0
    mask0 = contexts.size - 1
    mask1 = pairs.size - 1
    flags = context[PARENTS]
    total = 0.0
    last = int64(-1)
    last2 = int64(-1)
    for row in range(rows):
        h = flags
        for i in range(PARENTS):
            parent = context[index(i)]
            if parent >= 0:
                h = mix(h, parents[index(parent * rows + row)] + i)
        if flags & PREVIOUS:
            h = mix(h, last)
        if flags & BEFORE_PREVIOUS:
            h = mix(h, last2)
        symbol = int64(symbols[index(row)])
        a = mix(h, int64(3)) & mask0
        b = mix(h, symbol + 11) & mask1
        seen = int64(contexts[index(a)])
        same = int64(pairs[index(b)])
        total += logs[index(seen)]
        if same:
            total -= logs[index(same - 1)] - 0.5 if same == 1 else logs[index(same - 2)]
        else:
            total += first[index(symbol)]
        contexts[index(a)] = seen + 1
        pairs[index(b)] = same + 1
        last2 = last
        last = symbol
    return total
