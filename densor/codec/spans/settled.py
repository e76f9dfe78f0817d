"""Elements of any layout in spans, under codes that were settled from all of them.

What the encoder of floats declines: it takes the same bytes as chunk by chunk, in compiled calls
without the GIL, each for many chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.batch import Batch, Bytes, CodedBatch
from densor.codec.batch import Coding as Coded
from densor.codec.planes.analyse import Counted
from densor.codec.planes.classes import Coding
from densor.codec.planes.encoder import PlanesEncoder
from densor.codec.planes.params import Classes
from densor.codec.spans.encode import EncodedSpan, How, frame_room, put_batch, work_space
from densor.codec.spans.table import Numbers
from densor.entropy.deferred import deferred
from densor.runtime.buffers import POOL

count_planes = deferred("densor.codec.spans.count_kernels", "count_planes")

_LEAST_BYTES = 1 << 16  # of fewer, loading the kernels may take longer than they spare
_MOST_OF_RUN = (1 << 16) - 1  # elements, whose counts have 16 bits


def suits(coder: PlanesEncoder[Any], batch: Batch) -> bool:
    """Whether a batch may be coded so."""
    size, row = batch.data.size, coder.run * coder.layout.size
    whole = batch.chunk_bytes % row == 0 and size % coder.layout.size == 0
    return coder.in_spans and whole and size >= _LEAST_BYTES and coder.run <= _MOST_OF_RUN


def encode(coder: PlanesEncoder[Classes], batch: Batch) -> Coded:
    """Counts a batch, settles its codes, and starts coding it."""
    size, row = batch.data.size, coder.run * coder.layout.size
    batch = batch.in_chunks_of(batch.chunk_bytes or -(-size // row) * row)
    chunks = -(-size // batch.chunk_bytes)
    parts = min(batch.workers.threads, chunks)
    cuts = [chunks * k // parts * batch.chunk_bytes for k in range(parts)]
    spans = [*zip(cuts, [*cuts[1:], size], strict=True)]
    _settle(coder, batch, spans, chunks)
    return _Spans(coder, batch, spans)


def _settle(
    coder: PlanesEncoder[Classes], batch: Batch, spans: Sequence[tuple[int, int]], chunks: int
) -> None:
    """Counts all of a batch, in parallel, and settles its codes."""
    layout, run = coder.layout, coder.run
    wanted = np.array(coder.counted, np.int64)
    if not wanted.size:
        coder.settle([], chunks)
        return
    row = run * layout.size
    count = -(-batch.data.size // row) if coder.most > 1 else 0
    pooled = POOL.take(wanted.size * count * 512)
    runs = pooled.view(np.uint16).reshape(wanted.size, count, 256)

    def counted(begin: int, end: int) -> Numbers:
        totals = np.empty((wanted.size, 256), np.int64)
        work = work_space(0, run, layout.size).count
        some = batch.data[begin:end]
        count_planes(
            some, layout.number, layout.size, run, wanted, runs, begin // row, totals, *work
        )
        return totals

    tasks = [batch.workers.submit(counted, *span) for span in spans]
    totals = np.sum([task.result() for task in tasks], axis=0)
    coder.settle([Counted(*both) for both in zip(runs, totals, strict=True)], chunks)
    POOL.give(pooled)


@dataclass(frozen=True, eq=False)
class _Frames:
    """The frames of a batch, as those of its parts."""

    parts: list[EncodedSpan]

    def number(self, model: int) -> list[Bytes]:
        """See `EncodedSpan`."""
        return [frames for part in self.parts for frames in part.number(model)]


class _Spans:
    """A coding of a batch by parts, each of which is one call."""

    def __init__(
        self, coder: PlanesEncoder[Classes], batch: Batch, spans: Sequence[tuple[int, int]]
    ) -> None:
        self._coder = coder
        size, chunk = batch.data.size, batch.chunk_bytes
        row = coder.run * coder.layout.size
        self._memory = memory = POOL.take(frame_room(size, chunk))
        how = _how(coder)
        classes = _classes(coder.codings, -(-size // row))

        def put(begin: int, end: int) -> EncodedSpan:
            some = np.ascontiguousarray(classes[:, begin // row : -(-end // row)])
            room = memory[frame_room(begin, chunk) : frame_room(end, chunk)]
            encoded = put_batch(batch.data[begin:end], chunk // row, how, some, room)
            assert encoded is not None
            return encoded

        self._tasks = [batch.workers.submit(put, *span) for span in spans]

    def result(self) -> CodedBatch:
        """Waits for all parts."""
        parts = [task.result() for task in self._tasks]
        chunks = [chunk for part in parts for chunk in part.chunks]
        own = any(chunk.own for chunk in chunks)
        model = self._coder.model() if own else None
        return CodedBatch(model, chunks, self._memory, _Frames(parts))


def _how(coder: PlanesEncoder[Classes]) -> How:
    ways = np.zeros((3, 8), np.int64)
    listed = [Classes.empty(0)]
    at = 0
    for p, coding in enumerate(coder.codings):
        ways[0, p] = registry.PLANE_RAW
        if coding is not None:
            ways[:, p] = registry.PLANE_CLASSES, len(coding.classes), at
            listed.append(coding.classes)
            at += len(coding.classes)
    kinds = np.concatenate([one.kinds for one in listed])
    lengths = np.concatenate([one.lengths for one in listed])
    return How(coder.layout.number, coder.run, False, ways, kinds, lengths)


def _classes(codings: Sequence[Coding[Classes] | None], runs: int) -> npt.NDArray[np.uint8]:
    """The class of each run of each plane, uint8[planes, runs]; of none where no plane has any."""
    several = any(coding is not None and coding.runs is not None for coding in codings)
    classes = np.zeros((len(codings), runs if several else 0), np.uint8)
    for p, coding in enumerate(codings):
        if coding is not None and coding.runs is not None:
            classes[p] = coding.runs
    return classes
