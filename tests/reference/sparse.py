"""The codec of sparse tensors, after docs/format/sparse.md and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reference.parts import Decodes, decode_parts, parse_part
from reference.reading import Cursor, fail

CODEC = 6


@dataclass(frozen=True)
class Model:
    """A MODEL frame."""

    size: int
    bitmap: Decodes | None
    values: Decodes | None

    def decode(self, payload: bytes, original: int, base: bytes | None = None) -> bytes:
        """Bitmap and values -> elements."""
        if original % self.size:
            fail("a CHUNK that holds no whole number of elements")
        n = original // self.size
        cursor = Cursor(payload)
        count = cursor.u32()
        if count > n:
            fail("more values than elements")
        wanted = [(self.bitmap, -(-n // 8)), (self.values, count * self.size)]
        bitmap, values = decode_parts(cursor, wanted)
        bits = [byte >> k & 1 for byte in bitmap for k in range(8)]
        if sum(bits) != count or any(bits[n:]):
            fail("the bitmap does not fit the values")
        elements = np.zeros((n, self.size), np.uint8)
        present = np.flatnonzero(bits[:n])
        elements[present] = np.frombuffer(values, np.uint8).reshape(-1, self.size)
        return elements.tobytes()


def parse_model(payload: bytes, parse: Callable[[bytes], Decodes]) -> Model:
    """The model of the sparse codec (docs/format/sparse.md)."""
    cursor = Cursor(payload)
    cursor.take(1)
    size = cursor.u8()
    if size not in (1, 2, 4, 8):
        fail("bytes per element of a sparse model")
    bitmap, values = parse_part(cursor, parse), parse_part(cursor, parse)
    cursor.finish()
    return Model(size, bitmap, values)
