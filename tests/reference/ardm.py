"""Images under a network, after docs/format/ardm.md; not how the package does it."""

import functools
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

from reference.circuit import Coder, check_size
from reference.reading import Cursor, Refused, fail


@functools.cache
def _halves() -> list[int]:
    """2^(30 - i / 1024)."""
    with localcontext() as context:
        context.prec = 60
        step = Decimal(2) ** (Decimal(1) / 1024)
        found = [(1 << 30) / step**i for i in range(1024)]
        return [int(value.to_integral_value(ROUND_HALF_EVEN)) for value in found]


def level_of(row: int, column: int, step: int) -> int:
    """In which level a pixel is."""
    level = 0
    if row % step == column % step == 0:
        return level
    while True:
        half = step // 2
        if row % half == column % half == 0:
            return level + 1 if row % step == column % step == half else level + 2
        step, level = half, level + 2


class Network:
    """What a model file holds, and what follows from it."""

    def __init__(self, data: bytes) -> None:
        cursor = Cursor(data)
        if cursor.take(4) != b"DARD":
            fail("magic")
        if cursor.u8() != 1:
            raise Refused("unsupported", "version")
        self.sizes = cursor.u16(), cursor.u16(), cursor.u8()
        self.calls, self.radius = cursor.u16(), cursor.u8()
        first, second = 32 * cursor.u8(), 32 * cursor.u8()
        self.places = [cursor.u8() for _ in range(3)]
        n = check_size(*self.sizes)
        if not 1 <= self.calls <= n or self.radius > 8:
            fail("calls")
        if not (32 <= first <= 256 and 32 <= second <= 256):
            fail("layers")
        height, width, channels = self.sizes
        self.step = 4
        while -(-height // self.step) * -(-width // self.step) * channels > 64:
            self.step *= 2
        reach = range(-self.radius, self.radius + 1)
        self.window = [
            (dy, dx, dc)
            for dy in reach
            for dx in reach
            for dc in range(channels)
            if dy * dy + dx * dx <= self.radius * (self.radius + 1) and (dy, dx, dc) != (0, 0, 0)
        ]
        self.pixels = [divmod(v // channels, width) for v in range(n)]
        self.levels = [level_of(*pixel, self.step) for pixel in self.pixels]
        self.coarse = [v for v in range(n) if self.levels[v] == 0]
        if n * (len(self.window) + len(self.coarse)) > 1 << 21:
            raise Refused("limit", "samples that are seen")
        if not all(2 <= p <= 12 for p in self.places):
            fail("weights")

        def matrix(rows: int, columns: int) -> list[list[int]]:
            return [[_signed(b, 8) for b in cursor.take(columns)] for _ in range(rows)]

        self.first = matrix(first, 2 * len(self.window) + len(self.coarse))
        levels = 2 * (self.step.bit_length() - 1) + 1
        self.at = [matrix(count, first) for count in (height, width, channels, levels)]
        self.second = matrix(second, first), [_signed(cursor.u16(), 16) for _ in range(second)]
        self.third = matrix(256, second), [_signed(cursor.u16(), 16) for _ in range(256)]
        if cursor.position != len(data):
            fail("bytes behind a network")

    def decode(self, data: bytes) -> list[int]:
        """One stream -> the samples of an image."""
        coder = Coder(data)
        n, channels = len(self.levels), self.sizes[2]

        def key(v: int) -> tuple[int, int, int, int]:
            row, column = self.pixels[v]
            return self.levels[v], v % channels, (37345 * row + 49471 * column) % 65536, v

        order = sorted(range(n), key=key)
        image: list[int | None] = [None] * n
        for k in range(1, self.calls + 1):
            begin, end = (n * i * i // self.calls**2 for i in (k - 1, k))
            found = {
                v: coder.take(self._bounds(v, image), 22) for v in order[begin:end]
            }  # each from what was known before the call
            for v, value in found.items():
                image[v] = value
        if coder.at < len(data) or data[-1:] == b"\0":
            fail("a stream goes on")
        return [value for value in image if value is not None]

    def _bounds(self, v: int, image: list[int | None]) -> list[int]:
        """Where the parts of all values end."""
        height, width, channels = self.sizes
        row, column = self.pixels[v]
        near: list[int | None] = []
        for dy, dx, dc in self.window:
            y, x, channel = row + dy, column + dx, (v % channels + dc) % channels
            inside = 0 <= y < height and 0 <= x < width
            near.append(image[(y * width + x) * channels + channel] if inside else None)
        inputs = [value or 0 for value in [*near, *(image[u] for u in self.coarse)]]
        inputs += [256 if value == 0 else 0 for value in near]
        places = row, column, v % channels, self.levels[v]
        rows = [matrix[i] for matrix, i in zip(self.at, places, strict=True)]
        own = [sum(part) for part in zip(*rows, strict=True)]
        a = _hidden(_sums(self.first, inputs, own), self.places[0])
        b = _hidden(_sums(self.second[0], a, self.second[1]), self.places[1])
        z = _sums(self.third[0], b, self.third[1])
        weights = []
        for value in z:
            far = min(max(z) - value >> self.places[2] - 2, 40 * 1024)
            weights.append(_halves()[far % 1024] >> far // 1024)
        bounds, below = [], 0
        for value, weight in enumerate(weights):
            below += weight
            bounds.append(value + 1 + ((1 << 22) - 256) * below // sum(weights))
        return bounds


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _sums(matrix: list[list[int]], values: list[int], offsets: list[int]) -> list[int]:
    used = [(i, value) for i, value in enumerate(values) if value]
    return [
        sum(row[i] * value for i, value in used) + 256 * offset
        for row, offset in zip(matrix, offsets, strict=True)
    ]


def _hidden(sums: list[int], places: int) -> list[int]:
    return [min(max(value + (1 << places - 1) >> places, 0), 32767) for value in sums]
