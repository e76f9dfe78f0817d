"""Takes records apart into columns of different cells, for the coding side."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.table.cells import Cells, Dictionary, Rows
from densor.codec.table.dictionary import TEXTS
from densor.codec.table.items import BIG_ENDIAN, FLOATS, INTEGERS, floats_of
from densor.codec.table.layout import I64, MAX_CELLS, Layout
from densor.codec.table.packing import Packer
from densor.codec.table.state import MAX_VALUE, PADDING
from densor.dtypes import SIZES

_MAX_DECIMALS = 9  # that are looked for
_MIN_SHARE_OF_VALUES = 0.5  # of different cells that are such decimals
_EXACT = 1 << 53


@dataclass(frozen=True, eq=False)
class ItemDictionary(Dictionary):
    """Different cells of one width. `dtype`: what they are taken for, `>` for big-endian ones."""

    dtype: str = ""

    def odd(self) -> None:
        """No record is anything but a row."""

    def pack_cells(self, order: npt.NDArray[np.int64], packer: Packer) -> bytes:
        """Cells one after the other."""
        return packer.pack(self.cells.joined(order, None))

    def pack_rows(self, packer: Packer) -> bytes:
        """The cells of all rows, as elements of their type."""
        items = self.cells.joined(self.cells.ids.astype(np.int64), None)
        dtype = self.dtype.removeprefix(">")
        if not dtype:
            return packer.pack(items)
        if self.dtype != dtype:
            dtype = f"U{8 * SIZES[dtype]}"
        return packer.elements(items, dtype)


def records_of(data: Bytes, layout: Layout) -> Rows | None:
    """Whole records, and what is behind the last as a piece; None where there is none."""
    rows, rest = divmod(data.size, layout.stride)
    if not rows or rows * layout.columns > MAX_CELLS:
        return None
    begins = np.cumsum([0, *layout.widths])
    starts = np.add.outer(begins, np.arange(rows) * layout.stride).astype(np.int32)
    padded = np.concatenate([data, np.zeros(PADDING, np.uint8)])
    pieces = np.array([[rows], [rows * layout.stride], [rest]], np.int64)[:, : int(rest > 0)]
    return Rows(padded, layout, False, rows, starts.reshape(-1), rows, *pieces)


def items_dictionary(cells: Cells, layout: Layout, column: int) -> Dictionary:
    """How the cells of a column of records are best stored."""
    dtype = layout.types[column] if layout.types else ""
    width = layout.widths[column]
    if dtype:
        bits = _bits(cells, width, dtype)
        found = _as_decimals(cells, bits, width, dtype) if dtype[-3:] in ("F32", "F64") else None
        if found is not None:
            return found
        if dtype[-3:] != "F64":
            return _as_integers(cells, bits, dtype)
    order = np.argsort(cells.words.view(np.uint64).byteswap(), kind="stable")
    return ItemDictionary(cells, TEXTS, 0, order, np.zeros(0, np.int64), dtype)


def _bits(cells: Cells, width: int, dtype: str) -> I64:
    """Cells as integers: of types that begin so with their sign, else without."""
    words = cells.words.view(np.uint64)
    shift = np.uint64(64 - 8 * width)
    words = words.byteswap() if dtype[0] == ">" else words << shift
    if dtype.removeprefix(">")[0] == "I":
        return words.view(np.int64) >> shift.astype(np.int64)
    return (words >> shift).view(np.int64)


def _as_integers(cells: Cells, bits: I64, dtype: str) -> Dictionary:
    good = (bits > -MAX_VALUE) & (bits < MAX_VALUE)
    return _dictionary(cells, INTEGERS, 0, good, bits, dtype)


def _as_decimals(cells: Cells, bits: I64, width: int, dtype: str) -> Dictionary | None:
    """Floats that are integers over one power of ten, where most are."""
    stored = bits.astype(f"<u{width}")
    floats = stored.view(f"<f{width}").astype("<f8")
    floats[~(np.abs(floats) < _EXACT)] = 0.5 / 10**_MAX_DECIMALS  # which no such integer gives
    best = (_MIN_SHARE_OF_VALUES * floats.size, 0)
    found = None
    for decimals in range(_MAX_DECIMALS):
        scaled = np.rint(floats * 10.0**decimals)
        values = np.where(np.abs(scaled) < _EXACT, scaled, 0).astype(np.int64)
        good = floats_of(values, decimals, width).view(stored.dtype) == stored
        count = int(np.count_nonzero(good))
        if count > best[0]:
            best, found = (count, decimals), (good, values)
    if found is None:
        return None
    return _dictionary(cells, FLOATS, best[1], *found, dtype)


def _dictionary(
    cells: Cells, kind: int, style: int, good: npt.NDArray[np.bool_], values: I64, dtype: str
) -> Dictionary:
    """Cells that have values, in the order of these, behind the others."""
    others, numbers = np.flatnonzero(~good), np.flatnonzero(good)
    others = others[np.argsort(cells.words[others].view(np.uint64).byteswap(), kind="stable")]
    numbers = numbers[np.argsort(values[numbers], kind="stable")]
    style |= BIG_ENDIAN if dtype[0] == ">" else 0
    order = np.concatenate([others, numbers])
    return ItemDictionary(cells, kind, style, order, values[numbers], dtype)
