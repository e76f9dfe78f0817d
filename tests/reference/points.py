"""What POINTS frames must hold (container.md, section 13), from the reference decoder."""

import struct

import numpy as np
import xxhash
import zstandard

from reference import planes
from reference.huffman import Stream
from reference.reading import Cursor

UNIT = 256


def points_of(model: bytes, payload: bytes, original: int) -> bytes | None:
    """The payload of the frame for a planar chunk, Zstandard aside; None without streams."""
    parsed = planes.parse_model(model)
    n = original // planes.LAYOUT_SIZE[parsed.layout]
    cursor = Cursor(payload)
    heads = [(cursor.u8(), cursor.u32()) for _ in parsed.planes]
    bits: list[int] = []
    for (mode, length), classes in zip(heads, parsed.planes, strict=True):
        section = cursor.take(length)
        if mode == planes.PLANE_CLASSES:
            assert isinstance(classes, tuple)
            bits += bits_of(section, n, classes, parsed.run_length)
    if not bits:
        return None
    low = bytes(number & 255 for number in bits)
    high = bytes(number >> 8 for number in bits)
    return struct.pack("<QII", xxhash.xxh3_64_intdigest(payload), UNIT, len(bits)) + low + high


def bits_of(section: bytes, n: int, classes: tuple[planes.PlaneClass, ...], run: int) -> list[int]:
    """Bits of all units of a plane."""
    cursor = Cursor(section)
    class_of_run = planes.read_class_map(cursor, -(-n // run), len(classes))
    class_of_element = np.repeat(class_of_run, run)[:n]
    counts = [int((class_of_element == c).sum()) for c in range(len(classes))]
    coded = [c for c, m in enumerate(counts) if m and classes[c].kind == planes.CLASS_HUFFMAN]
    lengths = [cursor.u32() for _ in range(4)] if coded else []
    cursor.take(sum(m for c, m in zip(classes, counts, strict=True) if c.kind == 0))
    streams = [Stream(cursor.take(length)) for length in lengths]
    found = []
    for c in coded:
        m, q = counts[c], -(-counts[c] // 4)
        for j, stream in enumerate(streams):
            at, end = min(j * q, m), min((j + 1) * q, m)
            while at < end:
                stop, used = min(end, (at // UNIT + 1) * UNIT), stream.used
                stream.read(stop - at, classes[c].table)
                found.append(stream.used - used)
                at = stop
    return found


def unpacked(points: bytes) -> bytes:
    """A frame's payload with its Zstandard frame unpacked."""
    return points[:16] + zstandard.ZstdDecompressor().decompress(points[16:])


def packed(points: bytes) -> bytes:
    """The other way round."""
    return points[:16] + zstandard.ZstdCompressor().compress(points[16:])
