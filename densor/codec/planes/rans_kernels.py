"""Compiled loops of the codec: arrays in, arrays out; no allocation, no validation."""

from numba import types

from densor.entropy.jit import R8, W8, kernel


@kernel(types.boolean(R8, types.int64, types.int64, W8))
def unpack_map(class_map, map_bits, classes, runs):
    """Class numbers of `map_bits` bits, 1, 2 or 4, to `runs`, uint8[runs].

    `class_map`: uint8[ceil(runs * map_bits / 8)]. False if a number is not below `classes`, or
    unused bits are not 0.
    """
    per_byte = 8 // map_bits
    mask = (1 << map_bits) - 1
    good = True
    for r in range(runs.size):
        c = (class_map[r // per_byte] >> (r % per_byte * map_bits)) & mask
        good &= c < classes
        runs[r] = c
    left = runs.size % per_byte
    return good and (left == 0 or class_map[runs.size // per_byte] >> (left * map_bits) == 0)


@kernel(types.void(R8, types.int64, W8))
def spread(runs, run, contexts):
    """The class of each element: `runs`, uint8[runs], `run` times each, to `contexts`, uint8[n].

    The last run may be shorter: n is above (runs - 1) * run.
    """
    for r in range(runs.size):
        contexts[r * run : min((r + 1) * run, contexts.size)] = runs[r]
