"""Codes which spaces of a text stood for ends of lines. One kernel for both directions."""

import numba
import numpy as np
from numba import types

from densor.codec.byte_cm.kernels import code_bit
from densor.entropy.jit import I64, W8, W16, index, inlined, kernel

int64 = numba.int64

SETS = 3  # of counters, one of each for a decision
FITS, PLACES, REACH = 256, 128 * 16, 41 * 16  # counters of each set
CELLS = FITS + PLACES + REACH
FIRST = 6554  # probability of counters at first, 2^-16
FIRST_WEIGHT = 22938  # of their stretched probabilities, 2^-16
_MOST = 60  # that counters count to
_LEAST = 32  # probability of a counter, 2^-16
_MIN_P, _MAX_P = 16, 65520  # probabilities that are coded, 2^-16
_MAX_WEIGHT = 1 << 20
_FAR = 255  # of words and columns
_LF, _SPACE = 10, 32


@inlined
def _blank(byte):
    return byte in (9, _LF, 13, _SPACE)


@inlined
def _cells(column, word, reach, at):
    """The counters of a decision: by where the next word would end, and by what else is known."""
    until = column + word
    at[0] = min(until, int64(_FAR))
    at[1] = FITS + min(column, int64(127)) * 16 + min(word, int64(15))
    left = min(max(reach - until, int64(-20)), int64(20)) + 20
    at[2] = FITS + PLACES + left * 16 + min(column >> 3, int64(15))


@inlined
def _learn(p, counts, weights, inputs, at, bit, coded):
    error = (bit << 16) - coded
    for k in range(SETS):
        step = (5 * inputs[index(k)] * error + (1 << 15)) >> 16
        weight = weights[index(k)] + step
        weights[index(k)] = min(max(weight, int64(-_MAX_WEIGHT)), int64(_MAX_WEIGHT))
        cell = index(at[index(k)])
        counts[cell] = min(counts[cell] + 1, int64(_MOST))
        value = p[cell] + (2 * ((bit << 16) - p[cell])) // (2 * counts[cell] + 3)
        p[cell] = min(max(value, int64(_LEAST)), int64(65536 - _LEAST))


@kernel(
    types.void(
        types.boolean, I64, W8, W8, W8, W16, types.int16[::1], I64, I64, I64, I64, I64
    )
)  # fmt: skip
def code_marks(
    coding, coder, data, text, marks, squash, stretch, p, counts, weights, inputs, at
):  # fmt: skip
    """Codes `marks`, or decodes them: 1 where a space of `text` was the end of a line, else 0.

    `marks`: as long as `text`; only spaces between two bytes that are not blank are looked at.
    `squash`, `stretch`: of the text codec. `p`, `counts`: int64[CELLS]: probabilities, 2^-16, and
    how often each was used; `weights`: int64[SETS]; `inputs`, `at`: work space, int64[SETS].
    """
    line = int64(0)  # where the line begins
    reach = int64(0)  # about the longest line of late
    for i in range(1, text.size - 1):
        if text[index(i)] == _LF:
            line = i + 1
            continue
        if text[index(i)] != _SPACE or _blank(text[index(i - 1)]) or _blank(text[index(i + 1)]):
            continue
        word = int64(1)
        while word < _FAR and i + 1 + word < text.size and not _blank(text[index(i + 1 + word)]):
            word += 1
        column = i - line
        _cells(column, word, reach, at)
        total = int64(0)
        for k in range(SETS):
            inputs[index(k)] = stretch[index(p[index(at[index(k)])] >> 4)]
            total += weights[index(k)] * inputs[index(k)]
        mixed = min(max(total >> 16, int64(-2047)), int64(2047))
        likely = int64(squash[index(mixed + 2048)])
        likely = min(max(likely, int64(_MIN_P)), int64(_MAX_P))
        bit = code_bit(coding, coder, data, int64(marks[index(i)]), likely)
        _learn(p, counts, weights, inputs, at, bit, likely)
        marks[index(i)] = np.uint8(bit)
        if bit:
            reach = max(reach - reach // 50, column)
            line = i + 1
