"""How the last product learns from a text, in integers: kernels behind `head.py`, see llm.md."""

import numba
import numpy as np
from numba import types

from densor.entropy.jit import I32, I64, kernel
from densor.llm.kernels import I8, I16, ROW_BITS, WIDE, clip, half_of, quantise

int64 = numba.int64

CHANGE_PLACES = 30  # of the change of a row
MAX_CHANGE = (1 << 30) - 1
MAX_OFFSET = 1 << 24  # of a logit, 2^-16
RATE_PLACES = 32  # of the rate of changes
OFFSET_RATE_PLACES = 7  # of the rate of offsets
_GRADIENT_PLACES = 24
_MAX_GRADIENT = 1 << 26
_SHARE = 11  # of the tokens that were not coded, those with at least 2^-11 of all counts learn


@kernel(types.void(types.int64, I16, I64, I32, I64, I16, I64))
def change_rows(rows, a, shifts, change, work, out, out_shifts):
    """Adds to rows, int16[rows, n] in units of 2^(shift - 16), what `change` makes of them.

    `change`: int32[n, n], 2^-30. `work`: int64[n].
    """
    size = work.size
    for row in range(rows):
        values = a[row * size : row * size + size]
        for i in range(size):
            weights = change[i * size : i * size + size]
            total = int64(0)
            for j in range(size):
                total += int64(weights[j]) * int64(values[j])
            work[i] = total + (int64(values[i]) << CHANGE_PLACES)
        shift = quantise(work, ROW_BITS, out[row * size : row * size + size])
        out_shifts[row] = shifts[row] + shift - CHANGE_PLACES


@numba.njit
def _pull(weights, token, size, strength, work):
    """Adds a row of the head, times `strength`."""
    base = token // WIDE * WIDE * size + 2 * (token % WIDE)
    for i in range(0, size, 2):
        at = base + i * WIDE
        work[i] += int64(weights[at]) * strength
        work[i + 1] += int64(weights[at + 1]) * strength


@kernel(
    types.void(
        I64, types.int64, I16, types.int64, I8, I32, types.int64, types.int64, types.int64, I32,
        I64, I64,
    )
)  # fmt: skip
def learn(
    counts, token, row, shift, weights, scales, exponent, rate, offset_rate, change, offsets, work
):
    """One step down the gradient of the bits that `token` took.

    `counts`: int64[tokens + 1], as `kernels.count_tokens` made them of the row, int16[n] in units
    of 2^(shift - 16), before its change. `weights`, `scales`, `exponent`: of the head. `rate`: of
    `change`, 2^-32; `offset_rate`: of `offsets`, 2^-7. `work`: int64[n].
    """
    size = row.size
    tokens = counts.size - 1
    total = counts[tokens]
    least = total >> _SHARE
    for i in range(size):
        work[i] = 0
    for t in range(tokens):
        count = counts[t + 1] - counts[t]
        if count > least or t == token:
            strength = (int64(t == token) << 16) - (count << 16) // total
            step = (
                strength * offset_rate + half_of(int64(OFFSET_RATE_PLACES))
            ) >> OFFSET_RATE_PLACES
            offsets[t] = clip(offsets[t] + step, int64(MAX_OFFSET))
            _pull(weights, t, size, strength * int64(scales[t]), work)
    # Gradients stand in units of 2^-(16 + exponent).
    right = min(max(exponent + 16 - _GRADIENT_PLACES, int64(-40)), int64(62))
    to_change = min(max(CHANGE_PLACES - shift, int64(0)), int64(62))
    for i in range(size):
        value = work[i]
        if right >= 0:
            value = (value + half_of(right)) >> right
        else:
            value = clip(value, int64(_MAX_GRADIENT) >> min(-right, int64(26))) << -right
        strength = (clip(value, int64(_MAX_GRADIENT)) * rate) >> 12
        strength = clip(strength, int64(MAX_CHANGE))
        line = change[i * size : i * size + size]
        for j in range(size):
            step = (strength * int64(row[j]) + half_of(to_change)) >> to_change
            line[j] = np.int32(clip(int64(line[j]) + step, int64(MAX_CHANGE)))
