"""Finds the element types of bytes that no parser claims.

Numbers of 2, 4 or 8 bytes show in bytes that lie so far apart: those of one significance share a
distribution, and one code for each takes less than one for all. Windows from all over the bytes are
priced in each way, with the cost of the codes; the cheapest sequence of ways, in which each change
costs something, divides them (minimum description length, by dynamic programming). Where two ways
meet is then found to the byte, from how likely each byte is on either side.
"""

import threading
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Bytes
from densor.codec.kind import Kind, kind_of
from densor.codec.types.ways import COUNTS, PHASES, WAYS
from densor.codec.zstd import zstd_compress
from densor.entropy.deferred import deferred

border, look_at_elements, survey, window_costs = deferred(
    "densor.codec.types.kernels", "border", "look_at_elements", "survey", "window_costs"
)

MIN_BYTES = 1 << 13  # that are looked at
WINDOW = 1 << 12
_STEP, _MIN_WINDOWS, _MAX_WINDOWS = 1 << 16, 16, 128
_FEW, _APART = 4, 12  # windows that are priced first, or every so many-th of them
_FEWEST, _SHORT = 2, 24  # likewise where there are less than so many windows
_GLANCE = 512  # bytes of the other windows, which must be like those
_MAX_UNLIKE = 1.15  # of the bits per byte of those
_MAX_UNLIKE_IF_SHORT = 1.09  # where few are priced; of one type it is up to 1.07
_MIN_REGION = 1 << 12
_CHANGE = 1 << 13  # bits that a change of ways must save in windows: frames, parameters
_HOPELESS = 1.08  # of what Zstandard leaves of windows, what they take under one code
_MAX_HOPELESS = 8  # windows that tell
_NEAR = 4  # windows on each side of a change that tell what is there
_UNITS_OF_BIT = 256  # in which bytes on either side of a change are compared
_PIECE, _PIECES = 128, 8  # elements at each place that is looked at, and places
_MAX_ELEMENTS = 1 << 15  # that are looked at together
_MAX_SIZE_OF_DIFFERENCES = 0.97
_CODES_OF = {1: 2, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 4, 8: 4, 9: 8}  # bytes of an element, by way
_BF16, _FP32 = (2, 3), (5, 6, 7, 8)  # ways, by phase
_INTEGERS = {2: "I16", 4: "I32", 8: "I64"}
_FLOATS = {2: "F16", 4: "F32", 8: "F64"}
Costs = npt.NDArray[np.float32]


class _Work(threading.local):
    """Work space of kernels, for each thread: memory that is new each time costs them a tenth."""

    def __init__(self) -> None:
        self.counts = np.empty(COUNTS + 256 * PHASES, np.int32)
        self.bits = np.empty(256 * PHASES, np.uint16)
        self.anchors = np.empty(1 << 12, np.uint64)
        self.places = np.empty(1 << 12, np.int32)


WORK = _Work()


class Stretch(NamedTuple):
    """Bytes from `begin` to `end` that are likely to be elements of one type.

    `way`: as the kernels number them. `share`: of their size, what they are expected to take,
    where each window has codes of its own; `plain`: likewise as bytes.
    """

    way: int
    begin: int
    end: int
    share: float
    plain: float

    @property
    def type(self) -> int:
        """A number of the type, wherever its elements begin."""
        return next((ways[0] for ways in (_BF16, _FP32) if self.way in ways), self.way)


class Region(NamedTuple):
    """Bytes from `begin` to `end` that are whole elements of one type.

    `share`: of their size, what they are expected to take.
    """

    begin: int
    end: int
    kind: Kind
    share: float


@cache
def logs(most: int) -> npt.NDArray[np.float32]:
    """n * log2(n) from 0 to `most`."""
    counts = np.arange(most + 1, dtype=np.float64)
    return (counts * np.log2(np.maximum(counts, 1))).astype(np.float32)


def find_stretches(data: Bytes, quick: bool = False) -> list[Stretch]:
    """Stretches of `data`, uint8[n], in order, that are likely to be elements of some type.

    `quick`: without those that seem to take less by Zstandard than as elements.
    """
    if data.size < MIN_BYTES:
        return []
    way, bits, costs, labels = _survey(data)
    if way >= 0:
        if way == 0:
            return []
        window = 8 * WINDOW
        share, plain = float(bits[0]) / window, float(bits[1]) / window
        return [Stretch(way, 0, data.size, share, plain)]
    starts = np.arange(labels.size, dtype=np.int64) * _apart(data.size)
    if quick:
        _drop_hopeless(data, starts, labels)
        if not labels.any():
            return []
    found = []
    for label, begin, end in _divided(data, starts, labels):
        way = label % WAYS
        inside = (starts >= begin) & (starts < end) & (labels == label)
        if way and inside.any():
            share, plain = costs[inside][:, (way, 0)].mean(axis=0) / (8 * WINDOW)
            found.append(Stretch(way, begin, end, float(share), float(plain)))
    return found


def _survey(data: Bytes) -> tuple[int, Costs, Costs, Bytes]:
    """The way of all windows, its bits, and costs and labels where there is none: see `survey`."""
    apart = _apart(data.size)
    windows = -(-(data.size - WINDOW - 1) // apart)
    short = windows < _SHORT
    coarse = min(windows // (_FEWEST if short else _FEW), _APART)
    if coarse < _FEW:
        coarse = 0
    costs, found = np.empty((windows, WAYS), np.float32), np.empty(WAYS, np.float32)
    labels = np.empty(windows * (WAYS + 2), np.uint8)
    way: int = survey(
        data,
        apart,
        coarse,
        WINDOW,
        _GLANCE,
        _MAX_UNLIKE_IF_SHORT if short else _MAX_UNLIKE,
        _CHANGE,
        WORK.counts,
        logs(WINDOW),
        _lengths(windows // coarse * WINDOW // PHASES if coarse else 1),
        WORK.bits,
        costs,
        found,
        labels,
    )
    return way, found, costs, labels[:windows]


def cost_of_differences(data: Bytes, size: int) -> float:
    """Bytes that `data` takes as differences of integers of `size` bytes, which begin with it.

    As much as it has where these take no less than the integers.
    """
    count = min(data.size // size - 1, _MAX_ELEMENTS)
    found = look_at_elements(data, 1, count, size, WORK.counts, logs(_MAX_ELEMENTS), 1.0)
    return (found // 256 - 1) / 1024 * data.size if found >= 256 else float(data.size)


def cost_together(data: Bytes, way: int) -> float:
    """Bytes that `data` takes in a way under the same codes, from its whole windows.

    A byte must follow these. Elements begin with `data`, or where the way says.
    """
    window = (data.size - 1) // WINDOW * WINDOW
    if window == 0:
        return 0.0
    costs = np.empty((1, WAYS), np.float32)
    window_costs(data, np.zeros(1, np.int64), window, WORK.counts, logs(window), costs)
    return float(costs[0, way]) * data.size / (8 * window)


def _drop_hopeless(data: Bytes, starts: npt.NDArray[np.int64], labels: Bytes) -> None:
    """Makes bytes, in `labels`, of windows in a row of which Zstandard leaves less than one code.

    Each window may take less under a code of its own, as tables of addresses in programs do. Where
    such windows begin and end need not be found then.
    """
    borders = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), labels.size]
    if len(borders) == 2:  # there is nothing to be found
        return
    for begin, end in pairwise(borders):
        way = int(labels[begin]) % WAYS
        if way == 0:
            continue
        count = min(end - begin, _MAX_HOPELESS)
        places = (begin + i * (end - 1 - begin) // max(1, count - 1) for i in range(count))
        pieces = [data[at : at + WINDOW] for at in starts[[*places]].tolist()]
        some = np.concatenate([*pieces, pieces[-1][-1:]])
        most = _HOPELESS * len(zstd_compress(some, 1))
        if cost_together(some, way) < most:
            continue
        differences = None if way in _BF16 else _look(some, _CODES_OF[way])[1]
        if differences is None or differences * some.size >= most:
            labels[begin:end] = 0


@cache
def _lengths(total: int) -> npt.NDArray[np.uint16]:
    """Units of bits of a symbol by its count among `total`, from 0 to that."""
    counts = np.arange(total + 1) + 0.25
    lengths: npt.NDArray[np.float64] = np.rint(_UNITS_OF_BIT * np.log2((total + 64) / counts))
    return lengths.astype(np.uint16)


def _apart(size: int) -> int:
    """How far windows are apart, a multiple of 8; the first one is at the first byte."""
    return max(WINDOW, min(_STEP, size // _MIN_WINDOWS), size // _MAX_WINDOWS) & ~7


def _divided(data: Bytes, starts: npt.NDArray[np.int64], path: Bytes) -> list[tuple[int, int, int]]:
    """Label, begin and end of each stretch of windows of one label; those are in `path`."""
    first = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist()]
    ends = [*first[1:], path.size]
    borders = [0]
    for before, at, behind in zip(first, first[1:], ends[1:], strict=False):
        near = starts[max(before, at - _NEAR) : at], starts[at : min(behind, at + _NEAR)]
        begin, end = int(starts[at - 1]), int(starts[at]) + WINDOW
        begin = max(begin, borders[-1])
        lengths = [_lengths(windows.size * WINDOW // PHASES) for windows in near]
        borders.append(border(data, *near, WINDOW, begin, max(begin, end), *lengths, WORK.counts))
    borders.append(data.size)
    labels = path[first].tolist()
    return list(zip(labels, borders[:-1], borders[1:], strict=True))


def region_of(data: Bytes, stretch: Stretch) -> Region | None:
    """The whole elements of a stretch of `data`, with their type; None where they are few."""
    way, begin, end = stretch[:3]
    size = _CODES_OF[way]
    if end - begin < _MIN_REGION:
        return None
    first = _BF16[0] if way in _BF16 else _FP32[0] if way in _FP32 else None
    differences, phase = None, 0
    if way not in _BF16:
        phase, differences = _look(data[begin:end], size)
        phase = (phase + begin) % size
    integers = differences is not None
    if first is not None and not integers:
        phase = way - first
    begin += (phase - begin) % size
    end -= (end - begin) % size
    if end - begin < _MIN_REGION:
        return None
    dtype = "BF16" if way in _BF16 else _INTEGERS[size] if integers else _FLOATS[size]
    share = stretch.share if differences is None else differences
    return Region(begin, end, kind_of(dtype, ((end - begin) // size,)), share)


def _look(data: Bytes, size: int) -> tuple[int, float | None]:
    """Where elements of `size` bytes begin, modulo `size`; of integers, the share that they take.

    That is as differences.
    """
    count, places = data.size // size - 1, 1  # of elements that are whole wherever they begin
    if count > _PIECES * _PIECE:
        count, places = _PIECE, _PIECES
    table, most = logs(_PIECES * _PIECE), _MAX_SIZE_OF_DIFFERENCES
    found = look_at_elements(data, places, count, size, WORK.counts, table, most)
    return found % 256, (found // 256 - 1) / 1024 if found >= 256 else None
