"""Bit histories in a byte: the states of a context's node, and where each bit leads.

A state stands for a pair (n0, n1) of how often 0 and 1 were seen, and often for the last bit too;
large counts of one bit forget the other (M. Mahoney, ZPAQ level 2, "ICM").
"""

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

STATES = 256
_MAX_N0 = (20, 48, 15, 8, 6, 5)  # n0 at most for n1 = 0, 1, ... and the reverse
_PARTS = 50


class States(NamedTuple):
    """`after`: uint8[512], the state after bit y in state s at 2 s + y. `zeros`, `ones`: counts."""

    after: npt.NDArray[np.uint8]
    zeros: list[int]
    ones: list[int]


@functools.cache
def states() -> States:
    """The states in order of n0 + n1, then n1; state 0 has seen nothing."""
    numbers: dict[tuple[int, int, int], int] = {}
    zeros: list[int] = []
    ones: list[int] = []
    for total in range(_PARTS):
        for n1 in range(total + 1):
            variants = _variants(total - n1, n1)
            for last in range(2):
                numbers[total - n1, n1, last] = len(zeros) + (last if variants == 2 else 0)
            zeros += [total - n1] * variants
            ones += [n1] * variants
    after = np.zeros(2 * STATES, np.uint8)
    for state, (n0, n1) in enumerate(zip(zeros, ones, strict=True)):
        after[2 * state] = numbers[*_next(n0, n1), 0]
        after[2 * state + 1] = numbers[*_next(n1, n0)[::-1], 1]
    return States(after, zeros, ones)


def _variants(n0: int, n1: int) -> int:
    """How many states stand for a pair: 0, 1, or 2 where the last bit is kept."""
    less, more = sorted((n0, n1))
    if less >= len(_MAX_N0) or more > _MAX_N0[less]:
        return 0
    return 2 if less > 0 and n0 + n1 <= 17 else 1


def _next(seen: int, other: int) -> tuple[int, int]:
    """The counts after one more of the bit that was seen `seen` times."""
    seen += 1
    other = sum(other >= limit for limit in (1, 2, 3, 4, 5, 7, 8))
    while not _variants(seen, other):
        more, less = max(seen, other), min(seen, other)
        if less < 2:
            more -= 1
        else:
            more = (more * (less - 1) + less // 2) // less
            less -= 1
        seen, other = (more, less) if seen >= other else (less, more)
    return seen, other
