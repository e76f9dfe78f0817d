"""The different cells of a column of records: bytes of one width, integers and floats among them.

Both sides use the way from values to cells; only the encoder the way back.
"""

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.table.dictionary import TEXTS, Cells, joined, take_values
from densor.codec.table.layout import I64
from densor.codec.table.state import MAX_DECIMALS, PADDING
from densor.codec.table.wire import Reader
from densor.errors import FormatError

INTEGERS, FLOATS = 6, 7  # kinds of dictionaries
BIG_ENDIAN = 32  # beside the decimals
MAX_INTEGER, FLOAT_WIDTHS = 8, (4, 8)  # bytes


def cells_of_items(items: bytes, count: int, width: int) -> Cells:
    """Cells that stand one after the other; FormatError where they are not as many."""
    if len(items) != count * width:
        raise FormatError("cells of records are not as many as they should be")
    return _cells(np.frombuffer(items, np.uint8), count, width)


def cells_of_integers(values: I64, style: int, width: int) -> Cells:
    """The lowest bytes of integers."""
    if style & ~BIG_ENDIAN or width > MAX_INTEGER:
        raise FormatError("integers of records are written in an unknown way")
    items = values.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
    return _cells(_ordered(items, style), values.size, width, values)


def cells_of_floats(values: I64, style: int, width: int) -> Cells:
    """The floating-point numbers nearest to integers over a power of ten."""
    decimals = style & ~BIG_ENDIAN
    if decimals > MAX_DECIMALS or width not in FLOAT_WIDTHS:
        raise FormatError("floats of records are written in an unknown way")
    items = floats_of(values, decimals, width).view(np.uint8).reshape(-1, width)
    return _cells(_ordered(items, style), values.size, width, values)


def floats_of(values: I64, decimals: int, width: int) -> npt.NDArray[np.floating]:
    """Integers over 10^decimals, in double precision and then in that of `width` bytes."""
    return (values.astype("<f8") / float(10**decimals)).astype(f"<f{width}")


def _ordered(items: npt.NDArray[np.uint8], style: int) -> Bytes:
    return np.ascontiguousarray(items[:, ::-1] if style & BIG_ENDIAN else items).reshape(-1)


def _cells(items: Bytes, count: int, width: int, numbers: I64 | None = None) -> Cells:
    blob = np.concatenate([items, np.zeros(PADDING, np.uint8)])
    return Cells(blob, np.arange(count + 1, dtype=np.int64) * width, numbers)


def take_items(at: Reader, count: int, width: int) -> Cells:
    """Cells as they stand in a chunk."""
    return cells_of_items(at.packed(count * width), count, width)


def take_items_dictionary(at: Reader, rows: int, width: int) -> Cells:
    """The dictionary of a column of records that has at most `rows` cells of `width` bytes."""
    kind = at.byte()
    if kind not in (TEXTS, INTEGERS, FLOATS):
        raise FormatError("records have an unknown kind of dictionary")
    count = at.number(rows)
    if kind == TEXTS:
        return take_items(at, count, width)
    style, others = at.byte(), at.number(count)
    items = take_items(at, others, width)
    values = take_values(at, count - others)
    cells_of = cells_of_integers if kind == INTEGERS else cells_of_floats
    return joined(items, cells_of(values, style, width))
