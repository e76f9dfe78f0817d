"""Lines of one length whose cells have the same places in each: fixed width."""

from collections import Counter

import numpy as np

from densor.codec.table.layout import MAX_COLUMNS, Layout

_MIN_ROWS = 16
_MIN_SHARE = 0.9  # of lines that have the same length
_MAX_LENGTH = 1 << 14
_MIN_LENGTH = 8


def layout_of(lines: list[bytes]) -> Layout | None:
    """Columns that begin where all lines begin to be blank; None where there is one only."""
    if len(lines) < _MIN_ROWS:
        return None
    returns = sum(line.endswith(b"\r") for line in lines) > len(lines) / 2
    length, count = Counter(map(len, lines)).most_common(1)[0]
    width = length - returns
    if count < _MIN_SHARE * len(lines) or not _MIN_LENGTH <= width <= _MAX_LENGTH:
        return None
    same = [line for line in lines if len(line) == length]
    characters = np.frombuffer(b"".join(same), np.uint8).reshape(-1, length)[:, :width]
    blank = (characters == 32).all(axis=0)
    begins = [0, *(np.flatnonzero(~blank[:-1] & blank[1:]) + 1).tolist()]
    if blank[begins[-1] :].all():
        begins.pop()  # what is blank at the end belongs to the last cell
    if not 2 <= len(begins) <= MAX_COLUMNS:
        return None
    widths = np.diff(begins, append=width).tolist()
    return Layout(len(widths), 32, returns, 0, widths=tuple(widths))
