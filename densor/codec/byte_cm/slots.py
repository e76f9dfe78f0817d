"""The table of bit histories, shared by all contexts: slots of 16 bytes in lines of 64.

A slot belongs to one context and one half of a byte: a check of the context's hash, then the
states of the 15 nodes that four binary decisions can reach, numbered 1 to 15 as in a heap.
"""

import numba

from densor.entropy.intrinsics import load_u16, store_u64
from densor.entropy.jit import inlined

int64 = numba.int64
uint64 = numba.uint64

SLOT = 16
LINE = 64
_NEVER = 1 << 16


@inlined
def line_of(h, lines):
    """Where the line of hash `h` begins; `lines`: a power of two."""
    return ((h >> 22) & (lines - 1)) * LINE


@inlined
def find(histories, lines, h):
    """Where the slot of hash `h` begins; if there is none, one is cleared that was used least."""
    check = (h >> 8) & 255
    first = line_of(h, lines) + ((h >> 16) & 3) * SLOT
    best = int64(_NEVER)
    for k in range(4):
        head = int64(load_u16(histories, first ^ (k * SLOT)))
        best = min(best, k if head & 255 == check else (head >> 8) * 4 + 4 + k)
    slot = first ^ ((best & 3) * SLOT)
    if best > 3:
        store_u64(histories, slot, uint64(check))
        store_u64(histories, slot + 8, uint64(0))
    return slot
