"""The different cells of a column: texts, and numbers or times that are written in one way.

Both sides use the way from values to cells; only the encoder the way back.
"""

from typing import NamedTuple

import numpy as np

from densor.codec.batch import Bytes
from densor.codec.table.layout import I64, MAX_BYTES
from densor.codec.table.state import MAX_DECIMALS, MAX_VALUE, PADDING, QUOTED, TRIMMED
from densor.codec.table.wire import Reader
from densor.entropy.deferred import deferred
from densor.errors import FormatError

write_numbers, write_times = deferred(
    "densor.codec.table.number_kernels", "write_numbers", "write_times"
)

TEXTS, NUMBERS, DAYS, SECONDS, SECONDS_SPACE, SECONDS_ZULU = range(6)  # kinds of dictionaries
MISSING = -(1 << 40)  # the number of a cell that is none
PADDED = 128  # beside `TRIMMED`: behind blanks, as wide as the column
_TIMES = {DAYS: ("D", b"", b""), SECONDS: ("s", b"T", b""), SECONDS_SPACE: ("s", b" ", b""),
          SECONDS_ZULU: ("s", b"T", b"Z")}  # fmt: skip
_MIN_TIME, _MAX_TIME = -62135596800, 253402300799  # seconds of the years 1 to 9999
_DAY = 86400


class Cells(NamedTuple):
    """Cells one after the other, and the number that each stands for.

    `blob`: uint8, with `PADDING` behind the last; `offsets`: int64[cells + 1]; `numbers`: int64,
    None where cells are texts.
    """

    blob: Bytes
    offsets: I64
    numbers: I64 | None = None

    @property
    def size(self) -> int:
        """How many there are."""
        return self.offsets.size - 1


def cells_of_texts(blob: bytes, terminator: int, count: int) -> Cells:
    """Texts that each end with the terminator, which is in none of them."""
    if not blob and not count:
        return Cells(np.zeros(PADDING, np.uint8), np.zeros(1, np.int64))
    data = np.frombuffer(blob, np.uint8)
    ends = np.flatnonzero(data == terminator)
    if ends.size != count or (count and ends[-1] != data.size - 1) or (not count and data.size):
        raise FormatError("texts of a table are not as many as they should be")
    lengths = np.diff(ends, prepend=-1) - 1
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    padded = np.zeros(data.size - count + PADDING, np.uint8)
    padded[: data.size - count] = data[data != terminator]
    return Cells(padded, offsets)


def cells_of_numbers(values: I64, style: int, quote: int, width: int = 0) -> Cells:
    """Numbers of `style`: decimals, `TRIMMED`, `QUOTED`, `PADDED`; `width` of the column."""
    decimals, trimmed, quoted = style & 31, bool(style & TRIMMED), bool(style & QUOTED)
    if decimals > MAX_DECIMALS or (style & PADDED and not width):
        raise FormatError("numbers of a table are written in an unknown way")
    if values.size and not -MAX_VALUE < values.min() <= values.max() < MAX_VALUE:
        raise FormatError("numbers of a table are too large")
    blob = np.empty(24 * values.size + PADDING, np.uint8)
    offsets = np.zeros(values.size + 1, np.int64)
    digits = np.empty(24, np.uint8)
    write_numbers(values, decimals, trimmed, quote if quoted else -1, digits, blob, offsets)
    if style & PADDED:
        return _padded(blob, offsets, values, width)
    return Cells(blob[: int(offsets[-1]) + PADDING].copy(), offsets, values)


def _padded(blob: Bytes, offsets: I64, values: I64, width: int) -> Cells:
    lengths = np.diff(offsets)
    if lengths.max(initial=0) > width or values.size * width > MAX_BYTES:
        raise FormatError("numbers of a table are wider than their column")
    ends = np.arange(values.size + 1, dtype=np.int64) * width
    out = np.full(int(ends[-1]) + PADDING, 32, np.uint8)
    size = int(offsets[-1])
    out[np.arange(size) + np.repeat(ends[1:] - offsets[1:], lengths)] = blob[:size]
    return Cells(out, ends, values)


def cells_of_times(values: I64, kind: int, quoted: bool, quote: int) -> Cells:
    """Days or seconds since 1970 as texts of ISO 8601."""
    unit, middle, end = _TIMES[kind]
    scale = _DAY if unit == "D" else 1
    if values.size and not _MIN_TIME // scale <= values.min() <= values.max() <= _MAX_TIME // scale:
        raise FormatError("times of a table are out of range")
    ending = np.frombuffer(end + bytes([quote] * quoted), np.uint8)
    width = int(quoted) + (10 if unit == "D" else 19) + ending.size
    blob = np.zeros(width * values.size + PADDING, np.uint8)
    write_times(values, unit == "D", ord(middle or b" "), ending, quote if quoted else -1, blob)
    return Cells(blob, np.arange(values.size + 1, dtype=np.int64) * width, values)


def joined(first: Cells, second: Cells) -> Cells:
    """The cells of two; the first have no numbers."""
    size = int(first.offsets[-1])
    blob = np.concatenate([first.blob[:size], second.blob])
    offsets = np.concatenate([first.offsets[:-1], second.offsets + size])
    assert second.numbers is not None
    numbers = np.concatenate([np.full(first.size, MISSING, np.int64), second.numbers])
    return Cells(blob, offsets, numbers)


def take_texts(at: Reader, count: int, most: int) -> Cells:
    """Texts as they stand in a chunk."""
    terminator = at.byte()
    return cells_of_texts(at.packed(most + count), terminator, count)


def take_values(at: Reader, count: int) -> I64:
    """Numbers in ascending order as they stand in a chunk: the first, and gaps."""
    if not count:
        return np.zeros(0, np.int64)
    negative, first = at.byte(), at.number(MAX_VALUE)
    gaps = at.numbers(count - 1)
    if negative > 1 or (gaps.size and (gaps.min() < 0 or gaps.max() > 2 * MAX_VALUE)):
        raise FormatError("numbers of a table are out of range")
    if gaps.astype(np.float64).sum() > 3 * MAX_VALUE:
        raise FormatError("numbers of a table are out of range")
    values = np.empty(count, np.int64)
    values[0] = -first if negative else first
    np.cumsum(gaps, out=values[1:])
    values[1:] += values[0]
    return values


def take_dictionary(at: Reader, quote: int, rows: int, most: int, width: int = 0) -> Cells:
    """The dictionary of a column that has at most `rows` cells of `most` bytes."""
    kind = at.byte()
    if kind > SECONDS_ZULU:
        raise FormatError("table has an unknown kind of dictionary")
    count = at.number(rows)
    if kind == TEXTS:
        return take_texts(at, count, most)
    style = at.byte()
    texts = at.number(count)
    others = take_texts(at, texts, most)
    values = take_values(at, count - texts)
    if kind == NUMBERS:
        cells = cells_of_numbers(values, style, quote, width)
    elif style & ~QUOTED:
        raise FormatError("times of a table are written in an unknown way")
    else:
        cells = cells_of_times(values, kind, bool(style), quote)
    return joined(others, cells)
