"""What kernels write pages of Parquet with: numbers in groups of seven bits, and bits in a word."""

import numba

from densor.entropy.jit import index, inlined

uint64 = numba.uint64


@inlined
def put_number(value, out, at):
    """A number in groups of seven bits, the lowest first; returns where it ends."""
    value = uint64(value)
    while value >= uint64(128):
        out[index(at)] = uint64(128) | value & uint64(127)
        value >>= uint64(7)
        at += 1
    out[index(at)] = value
    return at + 1


@inlined
def put_whole_bytes(word, held, out, at):
    """The whole bytes of the `held` lowest bits of a word; returns what is left, and the place."""
    while held >= 8:
        out[index(at)] = word & uint64(255)
        word >>= uint64(8)
        held -= 8
        at += 1
    return word, held, at


@inlined
def put_rest(word, out, at, end):
    """What is left of a word, and zeros up to `end`, which it returns."""
    while at < end:
        out[index(at)] = word & uint64(255)
        word >>= uint64(8)
        at += 1
    return at
