"""The filters of PNG, undone and done again. ISO/IEC 15948, section 9."""

from numba import types

from densor.entropy.jit import R8, W8, inlined, kernel

NONE, SUB, UP, AVERAGE, PAETH = range(5)


@inlined
def _predicted(kind, left, above, corner):
    if kind == SUB:
        return left
    if kind == UP:
        return above
    if kind == AVERAGE:
        return (left + above) >> 1
    if kind == PAETH:
        estimate = left + above - corner
        to_left = abs(estimate - left)
        to_above = abs(estimate - above)
        to_corner = abs(estimate - corner)
        if to_left <= to_above and to_left <= to_corner:
            return left
        return above if to_above <= to_corner else corner
    return left - left


@inlined
def _around(pixels, at, i, row, pixel, first):
    """The bytes left of, above, and left above byte `i` of the row that begins at `at`."""
    left = int(pixels[at + i - pixel]) if i >= pixel else 0
    above = 0 if first else int(pixels[at + i - row])
    corner = int(pixels[at + i - row - pixel]) if i >= pixel and not first else 0
    return left, above, corner


@kernel(types.boolean(R8, types.int64, types.int64, W8, W8), counted=False)
def undo_filters(raw, row, pixel, kinds, pixels):
    """Rows of a filter type and filtered bytes to types and pixels; False for an unknown type.

    `raw`: uint8[rows * (row + 1)]; `pixel`: bytes to the pixel before, 1 to `row`; `kinds`:
    uint8[rows]; `pixels`: uint8[rows * row].
    """
    for r in range(kinds.size):
        kind = raw[r * (row + 1)]
        if kind > PAETH:
            return False
        kinds[r] = kind
        at = r * row
        for i in range(row):
            left, above, corner = _around(pixels, at, i, row, pixel, r == 0)
            value = int(raw[at + r + 1 + i]) + _predicted(kind, left, above, corner)
            pixels[at + i] = value & 255
    return True


@kernel(types.void(R8, R8, types.int64, types.int64, W8), counted=False)
def filter_rows(kinds, pixels, row, pixel, raw):
    """The inverse. `kinds` are known to be filter types."""
    for r in range(kinds.size):
        kind = kinds[r]
        at = r * row
        raw[at + r] = kind
        for i in range(row):
            left, above, corner = _around(pixels, at, i, row, pixel, r == 0)
            value = int(pixels[at + i]) - _predicted(kind, left, above, corner)
            raw[at + r + 1 + i] = value & 255
