"""What kernels of tokens have in common, see `kernels`, `mixing_kernels`, `ranking_kernels`."""

import numba

from densor.entropy.intrinsics import trailing_zeros
from densor.entropy.jit import index, inlined

int64, uint64 = numba.int64, numba.uint64

ODD, MIX = 0x9E3779B97F4A7C15, 0x2545F4914F6CDD1D  # factors of hashes
_LIMIT = 250  # updates after which flags learn no slower


@inlined
def doublings(size, unit):
    """How often `unit` is doubled to reach `size`."""
    bits = int64(0)
    while (int64(unit) << bits) < size:
        bits += 1
    return bits


@inlined
def hash_of(x):
    """64 bits, of which the highest depend on all of x."""
    return uint64(x) * uint64(ODD)


@inlined
def top(hashed, bits):
    """The highest bits of a hash as a number."""
    return int64(hashed >> uint64(64 - bits))


@inlined
def first_of(bits):
    """The number of the lowest bit that is set; some is."""
    return int64(trailing_zeros(uint64(bits)))


@inlined
def state_of(own, total, levels):
    """What a slot says of a token, 0 to 15: how often it was there, and how often others were."""
    others = 5 * int64(own < total) + 5 * int64((own < total) & (2 * own >= total))
    return int64(levels[index(own)]) + (others if own > 0 else int64(0))


@inlined
def learn_flag(flags, at, bit, rates):
    """Moves a probability of 22 bits towards a bit, by a rate that its 10 bits of count say."""
    value = int64(flags[index(at)])
    seen = value & 1023
    p = value >> 10
    p += (((bit << 22) - p) * int64(rates[index(seen)])) >> 16
    flags[index(at)] = (p << 10) | min(seen + 1, _LIMIT)
