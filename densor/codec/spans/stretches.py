"""Cuts a batch of floats where the bytes behind the first plane cease to be noise, or begin to.

A table of embeddings may have some rows that were never trained, or that were made from narrower
floats. The span encoder would decline all of the batch for them.
"""

from itertools import groupby

import numpy as np

from densor.codec import registry
from densor.codec.batch import Bytes
from densor.codec.kind import Data, Kind
from densor.codec.levels import Level

_ROWS = 4  # of so many one is looked at
_LOOK = 16  # elements at the begin of each
_MASKS = 0x807F0000, 0xFF00, 0x00FF  # the planes behind the first
_MOST_EQUAL, _BY_CHANCE = 0.012, 8  # share of neighbours that are equal in a byte, of noise .004
_LEAST, _MOST = 4, 16  # chunks of a batch; its stretches


def stretches(data: Bytes, kind: Kind, level: Level) -> list[tuple[int, int]]:
    """Where stretches of whole chunks of a batch begin and end, all of it, in order; mostly one.

    `data`: uint8[], a batch of one kind.
    """
    whole = [(0, data.size)]
    if not level.spans or level.floats != "planes" or kind.data is not Data.MATRICES:
        return whole
    layout, row, chunk = kind.layout, 4 * kind.run, kind.whole_runs
    if layout is None or layout.number != registry.LAYOUT_FP32:
        return whole
    if kind.run < _LOOK or data.size < _LEAST * chunk:
        return whole
    step = min(_ROWS, chunk // row)  # so that each chunk has one, but for the end of a last one
    rows = data[: data.size // row * row].reshape(-1, row)[::step, : 4 * _LOOK]
    elements = np.ascontiguousarray(rows).view("<u4")
    differences = elements[:, 1:] ^ elements[:, :-1]
    places = np.arange(len(rows)) * step * row
    firsts = np.searchsorted(places, np.arange(0, places[-1] + 1, chunk))
    looked_at = (_LOOK - 1) * np.diff(firsts, append=len(rows))
    odd = np.zeros(len(firsts), np.bool_)
    for mask in _MASKS:
        equal = np.count_nonzero((differences & np.uint32(mask)) == 0, axis=1)
        odd |= np.add.reduceat(equal, firsts) > _MOST_EQUAL * looked_at + _BY_CHANCE
    found, at = [], 0
    for _, group in groupby(odd.tolist()):
        end = at + len(list(group)) * chunk
        found.append((at, end))
        at = end
    found[-1] = found[-1][0], data.size
    return found if len(found) <= _MOST else whole
