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
    bands: tuple[int, int] | None  # elements of a row, rows before the first band

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
        order = self.order(n)
        present = sorted(order[i] for i in range(n) if bits[i])
        elements[present] = np.frombuffer(values, np.uint8).reshape(count, self.size)
        return elements.tobytes()

    def order(self, n: int) -> list[int]:
        """Which element each bit of the bitmap is of."""
        order = list(range(n))
        if self.bands is None:
            return order
        columns, first = self.bands
        begin = first * columns
        while begin + 8 * columns <= n:
            for k in range(8 * columns):
                order[begin + k] = begin + k % 8 * columns + k // 8
            begin += 8 * columns
        return order


def parse_model(payload: bytes, parse: Callable[[bytes], Decodes]) -> Model:
    """The model of the sparse codec (docs/format/sparse.md)."""
    cursor = Cursor(payload)
    cursor.take(1)
    in_bands, size = divmod(cursor.u8(), 128)
    bands = (cursor.u32(), cursor.u8()) if in_bands else None
    if bands and (not 1 <= bands[0] <= 2**24 or bands[1] > 7):
        fail("columns or rows of bands")
    if size not in (1, 2, 4, 8):
        fail("bytes per element of a sparse model")
    bitmap, values = parse_part(cursor, parse), parse_part(cursor, parse)
    cursor.finish()
    return Model(size, bitmap, values, bands)
