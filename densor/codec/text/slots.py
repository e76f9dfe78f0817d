"""The table of bit histories, shared by all contexts: slots of 16 bytes in lines of 64.

A slot belongs to one context and one half of a byte: a check of the context's hash, then the
states of the 15 nodes that four binary decisions can reach, numbered 1 to 15 as in a heap.
"""

import numba

from densor.entropy.jit import inlined

int64 = numba.int64

SLOT = 16
LINE = 64


@inlined
def line_of(h, lines):
    """Where the line of hash `h` begins; `lines`: a power of two."""
    return ((h >> 22) & (lines - 1)) * LINE


@inlined
def find(histories, lines, h):
    """Where the slot of hash `h` begins; if there is none, one is cleared that was used least."""
    check = (h >> 8) & 255
    first = line_of(h, lines) + ((h >> 16) & 3) * SLOT
    if int64(histories[first]) == check:
        return first
    worst = first
    least = int64(histories[first + 1])
    for k in range(1, 4):
        slot = first ^ (k * SLOT)
        if int64(histories[slot]) == check:
            return slot
        used = int64(histories[slot + 1])
        if used < least:
            least = used
            worst = slot
    histories[worst] = check
    for k in range(1, SLOT):
        histories[worst + k] = 0
    return worst
