"""Pieces by themselves, after docs/format/chunk.md and nothing else."""

import numpy as np
import xxhash

from reference.huffman import Stream, huffman_table, parse_code_lengths
from reference.planes import merge_planes
from reference.reading import Bytes8, Cursor, Refused, decode_zstd, fail

ELEMENTS = {2: (1, 1), 3: (2, 3), 4: (2, 2), 5: (4, 4)}  # by way: bytes, layout


def decode(piece: bytes) -> bytes:
    """The content of a piece."""
    cursor = Cursor(piece)
    first = cursor.u8()
    way, phase = first & 15, first >> 4
    size = int.from_bytes(cursor.take(3), "little")
    check = cursor.u32()
    if way in ELEMENTS:
        content = _elements(cursor, *ELEMENTS[way], phase, size)
    else:
        if way > 1 or phase:
            fail("an unknown way")
        content = cursor.all() if way == 0 else decode_zstd(cursor.all(), size)
    if len(content) != size:
        fail("the size of a piece")
    if xxhash.xxh3_64_intdigest(content) & 0xFFFFFFFF != check:
        raise Refused("checksum", "the content of a piece")
    return content


def _elements(cursor: Cursor, width: int, layout: int, phase: int, size: int) -> bytes:
    n = (size - phase) // width
    if phase >= width or n < 1:
        fail("phase or size of a piece")
    head, tail = cursor.take(phase), cursor.take(size - phase - n * width)
    planes = [_plane(cursor, n) for _ in range(width)]
    cursor.finish()
    return head + merge_planes(layout, planes).tobytes() + tail


def _plane(cursor: Cursor, n: int) -> Bytes8:
    mode = cursor.u8()
    if mode == 0:
        return np.frombuffer(cursor.take(n), np.uint8)
    if mode == 1:
        return np.full(n, cursor.u8(), np.uint8)
    if mode != 2:
        fail("mode of a plane")
    table = huffman_table(parse_code_lengths(cursor))
    streams = [Stream(cursor.take(length)) for length in [cursor.u32() for _ in range(4)]]
    if any(cursor.take(8)):
        fail("the padding of a plane")
    quarter = -(-n // 4)
    symbols = b""
    for j, stream in enumerate(streams):
        symbols += stream.read(min((j + 1) * quarter, n) - min(j * quarter, n), table)
        stream.finish()
    return np.frombuffer(symbols, np.uint8)
