"""What kernels check of a chunk before they decode it: places, and the frame."""

import numpy as np

from densor.codec.spans import table as t
from densor.codec.spans.jit import once
from densor.codec.spans.xxh3 import xxh3_64
from densor.entropy.intrinsics import load_u32, load_u64


@once
def check_frame(data, row):
    """Checks header and payload of a frame. Returns 0 or the number of an error."""
    head = row[t.HEAD]
    if head < 0:
        return 0
    header = data[head : head + 28]
    if load_u32(header, 24) != np.uint32(xxh3_64(header[:24]) & np.uint64(0xFFFFFFFF)):
        return t.HEADER_DAMAGED
    if (
        load_u32(header, 0) != t.CHUNK
        or np.int64(load_u32(header, 4)) != row[t.STORED]
        or np.int64(load_u32(header, 8)) != row[t.SIZE]
        or np.int64(load_u32(header, 12)) != row[t.MODEL]
        or row[t.STORED] > row[t.SIZE]
    ):
        return t.HEADER_OTHER
    payload = data[row[t.PAYLOAD] : row[t.PAYLOAD] + row[t.STORED]]
    return 0 if xxh3_64(payload) == load_u64(header, 16) else t.PAYLOAD_DAMAGED


@once
def outside(data, row, out):
    """Whether a row of the table reaches beyond the archive or the result."""
    stored = row[t.STORED]
    size = row[t.SIZE]
    return (
        stored < 0
        or size < 1
        or row[t.PAYLOAD] < 0
        or row[t.PAYLOAD] > data.size - stored
        or row[t.PLACE] < 0
        or row[t.PLACE] > out.size - size
        or (row[t.HEAD] >= 0 and row[t.HEAD] > data.size - 28)
    )
