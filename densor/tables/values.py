"""Values of some rows of a table, and conditions on them."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.errors import ArgumentError, FileError


class Values(NamedTuple):
    """Cells of some rows, and which are missing, bool; None where none can be."""

    cells: npt.NDArray[Any]
    missing: npt.NDArray[np.bool_] | None = None

    def take(self, chosen: npt.NDArray[np.intp]) -> "Values":
        """Those of some rows."""
        missing = None if self.missing is None else self.missing[chosen]
        return Values(self.cells[chosen], missing)

    def plain(self) -> npt.NDArray[Any]:
        """One array, in which what is missing is NaN, NaT or None; integers are float64 then."""
        cells, missing = self
        if missing is None:
            return cells
        if cells.dtype.kind in "iuf":
            found = cells.astype(np.float64) if cells.dtype.kind != "f" else cells.copy()
            found[missing] = np.nan
        elif cells.dtype.kind in "mM":
            found = cells.copy()
            found[missing] = np.array("NaT", cells.dtype)
        else:
            found = cells.astype(object)
            found[missing] = None
        return found


def objects(
    data: bytes, begins: npt.NDArray[Any], ends: npt.NDArray[Any], ids: Any, text: bool
) -> npt.NDArray[Any]:
    """Cells between places of `data` as `str` or `bytes`; `ids`: which of them, None for all."""
    places = zip(begins.tolist(), ends.tolist(), strict=True)
    found = [data[begin:end] for begin, end in places]
    cells = np.empty(len(found), object)
    cells[:] = [cell.decode("utf-8", "surrogateescape") for cell in found] if text else found
    return cells if ids is None else cells[ids]


def unread(name: str) -> FileError:
    """What is raised for a column whose values cannot be told."""
    return FileError(f"column {name!r} can only be read with its whole file")


def nothing(dtype: str) -> Values:
    """The cells of no row, of a type as tables of Parquet and Arrow tell it."""
    return Values(np.zeros(0, object if dtype in ("text", "bytes") else dtype))


def joined(parts: Sequence[Values]) -> Values:
    """Values of several parts as one, of one at least."""
    cells = np.concatenate([part.cells for part in parts])
    if all(part.missing is None for part in parts):
        return Values(cells)
    nothing = [np.zeros(part.cells.size, np.bool_) if part.missing is None else part.missing
               for part in parts]  # fmt: skip
    return Values(cells, np.concatenate(nothing))


def _number(text: str, whole: bool) -> int | float:
    """What values are compared with; `whole` ones exactly, also those that no float is equal to."""
    if whole:
        with contextlib.suppress(ValueError):
            return int(text)
    return float(text)


def holds(values: Values, compare: Any, value: str) -> npt.NDArray[np.bool_]:
    """Where a condition holds; nowhere where cells are missing."""
    cells = values.cells
    if cells.ndim > 1 or cells.dtype.kind in "cV":
        raise ArgumentError("conditions are on numbers, times and texts alone")
    try:
        if cells.dtype.kind in "iuf":
            wanted = _number(value, cells.dtype.kind != "f")
            most = float(np.finfo(cells.dtype).max) if cells.dtype.kind == "f" else np.inf
            if most < abs(wanted) < np.inf:  # infinite in their type, as some of them may be
                cells = cells.astype(np.float64)
            good = compare(cells, wanted)
        elif cells.dtype.kind in "mM":
            good = compare(cells, np.array(value, cells.dtype))
        elif cells.dtype.kind == "b":
            good = compare(np.where(cells, "true", "false"), value.lower())
        else:
            text = value if not cells.size or isinstance(cells[0], str) else value.encode()
            good = np.array([compare(cell, text) for cell in cells], np.bool_)
    except ValueError as error:
        raise ArgumentError(f"{value!r} cannot be compared with the values of a column") from error
    held: npt.NDArray[np.bool_] = np.asarray(good, np.bool_)
    return held if values.missing is None else held & ~values.missing
