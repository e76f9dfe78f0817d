"""The counting pass over Huffman streams: arrays in, arrays out; no allocation, no validation."""

import numba as nb
import numpy as np
from numba import types

from densor.codec.planes.kernels import R8_2D, R64_2D
from densor.entropy.intrinsics import load_u64
from densor.entropy.jit import I64, R8, W32, W64, kernel

_BITS = np.uint64(63)  # fields of an entry, see `densor.entropy.huffman.kernels.build_tables`
_SYMBOLS = np.uint64(8)
_COUNT = np.uint64(60)
_EIGHT = np.uint64(8)
_BYTE = np.uint64(255)
_THREE = np.uint64(3)
_SEVEN = np.uint64(7)
_MAX_SYMBOLS = 6  # symbols of an entry


@kernel(
    types.int64(R8, W64, I64, R64_2D, I64, R8_2D, types.int64, W32, W32)
)  # fmt: skip
def find_entries(section, at, counts, tables, bits, lengths, unit, entries, stops):
    """Where units of symbols begin in the four streams of a section, in bits.

    A class of m symbols has ceil(m / 4) of them in each stream, the last ones fewer; units begin at
    the first symbol of a stream and at each multiple of `unit` symbols of the class.

    `section`: uint8[], ends with 8 bytes that belong to no stream. `at`: uint64[4], where the
    streams begin, in bits; moved on. `counts`: int64[classes], symbols of each class that are in
    the streams. `tables`, `bits`, `lengths`: as `decode_streams` takes them, of each class.
    `entries`: uint32[units], class by class, stream by stream. `stops`: uint32[4 * classes], where
    each of these ends.

    Returns the number of entries, or -1 where a stream runs over the end of the section.
    """
    last = section.size - 8
    made = 0
    for c in range(counts.size):
        if counts[c] == 0:
            continue
        table = tables[c]
        mask = np.uint64((1 << bits[c]) - 1)
        quarter = (counts[c] + 3) // 4
        for stream in range(4):
            i = min(stream * quarter, counts[c])
            end = min(i + quarter, counts[c])
            bit = at[stream]
            while i < end:
                entries[made] = np.uint32(bit)
                made += 1
                stop = min(end, (i // unit + 1) * unit)
                while i < stop:
                    if nb.intp(bit >> _THREE) > last:
                        return -1
                    window = load_u64(section, nb.intp(bit >> _THREE)) >> (bit & _SEVEN)
                    for _ in range(4):  # 48 bits at most
                        entry = table[window & mask]
                        count = nb.intp(entry >> _COUNT)
                        used = entry & _BITS
                        if i + count > stop:
                            count = stop - i
                            used = np.uint64(0)
                            symbols = entry >> _SYMBOLS
                            for k in range(count):
                                used += np.uint64(lengths[c, (symbols >> np.uint64(8 * k)) & _BYTE])
                        i += count
                        bit += used
                        window >>= used
            at[stream] = bit
            stops[4 * c + stream] = np.uint32(bit)
    return made
