"""Low halves of floats of 4 bytes, in spans: two byte planes under rANS, beside scale contexts."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec.batch import Batch
from densor.codec.levels import Level
from densor.codec.planes.analyse import Counted
from densor.codec.planes.encoder import PlanesEncoder
from densor.codec.scale_context.encoder import low_coder
from densor.codec.spans import matrix_table as m
from densor.codec.spans.table import Numbers
from densor.entropy.deferred import deferred
from densor.entropy.rans.encode import encode_table
from densor.runtime.buffers import POOL

count_low_halves = deferred("densor.codec.spans.low_kernels", "count_low_halves")

_PLANES = 2
_local = threading.local()


class LowArguments(NamedTuple):
    """What the encoder of matrices is told of low halves, see `low_kernels`."""

    rule: tuple[int, ...]
    runs: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.uint32]


_NOTHING = LowArguments((0, 1, 0, 0), np.empty((_PLANES, 0), np.uint8), np.empty(0, np.uint32))


@dataclass(eq=False)
class LowHalves:
    """The low halves of a batch, coded as `coder` has settled."""

    coder: PlanesEncoder[Any]
    arguments: LowArguments

    def model(self) -> bytes:
        """Their model, which stands within that of the elements."""
        return self.coder.model()


def find_low_halves(batch: Batch, level: Level, chunks: Numbers) -> LowHalves | None:
    """Counts and settles how low halves are coded; None where they are stored as they are.

    `chunks`: see `matrix_table`; the number of each one's first run is noted there.
    """
    coder = low_coder(batch.data, batch.kind, level)
    if coder is None:
        return None
    run = batch.kind.run
    runs = -(-chunks[:, m.COUNT] // run)
    chunks[:, m.FIRST_RUN] = np.cumsum(runs) - runs
    pooled = POOL.take(_PLANES * int(runs.sum()) * 512)
    counts = pooled.view(np.uint16).reshape(_PLANES, -1, 256)

    def count(some: Numbers) -> Numbers:
        totals = np.zeros((_PLANES, 256), np.int64)
        tables = np.empty(4 * 256, np.uint16)
        for begin, size, first in some[:, [m.BEGIN, m.COUNT, m.FIRST_RUN]].tolist():
            count_low_halves(batch.data, begin, size, run, first, counts, totals, tables)
        return totals

    groups = min(batch.workers.threads, len(chunks))
    tasks = [batch.workers.submit(count, some) for some in np.array_split(chunks, groups)]
    totals = np.sum([task.result() for task in tasks], axis=0)
    counted = [Counted(counts[p], totals[p]) for p in coder.counted]
    codings = coder.settle(counted, len(chunks))
    POOL.give(pooled)
    return LowHalves(coder, _arguments(codings, run, counts.shape[1]))


def _arguments(codings: Sequence[Any], run: int, runs: int) -> LowArguments:
    classes = np.zeros((_PLANES, runs), np.uint8)
    starts = []
    for p, coding in enumerate(codings):
        if coding is not None:
            starts.append(encode_table(coding.classes))
            if coding.runs is not None:
                classes[p] = coding.runs
    first, second = (0 if coding is None else len(coding.classes) for coding in codings)
    return LowArguments(
        (1, run, first, second), classes, np.concatenate(starts or [_NOTHING.starts])
    )


def low_arguments(low: LowHalves | None) -> LowArguments:
    """Those of low halves, or of none."""
    return _NOTHING if low is None else low.arguments


def low_work(low: LowHalves | None, chunks: Numbers) -> tuple[npt.NDArray[Any], ...]:
    """Work space of this thread for the low halves of a chunk; next to nothing for none."""
    elements = 0 if low is None else int(chunks[:, m.COUNT].max())
    if getattr(_local, "elements", -1) < elements:
        _local.elements = elements
        _local.work = (
            np.empty(_PLANES * elements, np.uint8),
            np.empty(2 * elements, np.uint8),
            np.empty(_PLANES * (3 * elements + 256), np.uint8),
            np.empty((_PLANES, 3), np.int64),
        )
    work: tuple[npt.NDArray[Any], ...] = _local.work
    return work
