"""Typed values as lines of CSV."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from densor.tables.values import Values

_ROWS = 1 << 10  # whose cells are held as texts, which take many times their bytes
_ODD = re.compile('[,"\r\n]')


def line_of(cells: Sequence[str]) -> bytes:
    """A line of texts."""
    return (",".join(map(_quoted, cells)) + "\n").encode("utf-8", "surrogateescape")


def lines_of(columns: Sequence[Values]) -> Iterator[bytes]:
    """Lines of rows, some at a time; nothing stands for what is missing, `""` for an empty text."""
    for at in range(0, len(columns[0].cells), _ROWS):
        rows = zip(*(_cells(_between(column, at, at + _ROWS)) for column in columns), strict=True)
        yield "".join(f"{','.join(row)}\n" for row in rows).encode("utf-8", "surrogateescape")


def _between(values: Values, begin: int, end: int) -> Values:
    missing = None if values.missing is None else values.missing[begin:end]
    return Values(values.cells[begin:end], missing)


def _quoted(text: str) -> str:
    if text and not _ODD.search(text):
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def _cells(values: Values) -> list[str]:
    """The cells of a column; times as ISO 8601 has them."""
    cells, missing = values
    if cells.ndim > 1 or cells.dtype.kind == "V":
        found = [_quoted(str(cell.tolist())) for cell in cells]
    elif cells.dtype.kind in "OSU":
        found = [_quoted(_text(cell)) for cell in cells.tolist()]
    elif cells.dtype.kind == "b":
        found = np.where(cells, "true", "false").tolist()
    else:
        found = cells.astype("U").tolist()
    if missing is not None:
        found = ["" if gone else cell for cell, gone in zip(found, missing.tolist(), strict=True)]
    return found


def _text(cell: str | bytes) -> str:
    return cell if isinstance(cell, str) else cell.decode("utf-8", "surrogateescape")
