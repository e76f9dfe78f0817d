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
from densor.codec.batch import Batch, Bytes, CodedBatch, Coding
from densor.codec.planes.analyse import Counted
from densor.codec.planes.encoder import PlanesEncoder
from densor.codec.planes.params import Classes
from densor.codec.spans.encode import EncodedSpan, frame_room, put_batch, work_space
from densor.codec.spans.table import Numbers
from densor.entropy.deferred import deferred
from densor.runtime.buffers import POOL
from densor.runtime.workers import Task

count_planes = deferred("densor.codec.spans.count_kernels", "count_planes")

_MOST_OF_RUN = (1 << 16) - 1  # elements, whose counts have 16 bits


def suits(coder: PlanesEncoder[Any], batch: Batch) -> bool:
    """Whether a batch of several chunks may be coded so."""
    size, row = batch.data.size, coder.run * coder.layout.size
    chunk = batch.chunk_bytes
    whole = chunk % row == 0 and size % coder.layout.size == 0
    return coder.in_spans and whole and chunk < size and coder.run <= _MOST_OF_RUN


def encode(coder: PlanesEncoder[Classes], batch: Batch) -> Coding:
    """Counts a batch, settles its codes, and starts coding it."""
    chunks = -(-batch.data.size // batch.chunk_bytes)
    parts = min(batch.workers.threads, chunks)
    cuts = [chunks * k // parts * batch.chunk_bytes for k in range(parts)]
    spans = [*zip(cuts, [*cuts[1:], batch.data.size], strict=True)]
    _settle(coder, batch, spans, chunks)
    return _Spans(coder, batch, spans)


def _settle(
    coder: PlanesEncoder[Classes], batch: Batch, spans: Sequence[tuple[int, int]], chunks: int
) -> None:
    """Counts all of a batch, in parallel, and settles its codes."""
    layout, run = coder.layout, coder.run
    wanted = np.array(coder.counted, np.int64)
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
    """A `Coding` of a batch by parts, each of which is one call."""

    def __init__(
        self, coder: PlanesEncoder[Classes], batch: Batch, spans: Sequence[tuple[int, int]]
    ) -> None:
        self._coder = coder
        self._batch = batch
        size, chunk = batch.data.size, batch.chunk_bytes
        self._memory = memory = POOL.take(frame_room(size, chunk))
        how = _How.of(coder, -(-size // (coder.run * coder.layout.size)))
        self._tasks: list[Task[EncodedSpan]] = [
            batch.workers.submit(
                how.put, batch.data[begin:end], begin, chunk,
                memory[frame_room(begin, chunk) : frame_room(end, chunk)],
            )
            for begin, end in spans
        ]  # fmt: skip

    def result(self) -> CodedBatch:
        """Waits for all parts."""
        parts = [task.result() for task in self._tasks]
        chunks = [chunk for part in parts for chunk in part.chunks]
        own = any(chunk.own for chunk in chunks)
        model = self._coder.model() if own else None
        return CodedBatch(model, chunks, self._memory, _Frames(parts))


@dataclass(frozen=True, eq=False)
class _How:
    """How planes are coded, as `chunk_kernels` takes it."""

    layout: int
    size: int
    run: int
    ways: Numbers  # int64[3, 8]
    kinds: Bytes  # uint8[classes]
    lengths: npt.NDArray[np.uint8]  # uint8[classes, 256]
    classes: npt.NDArray[np.uint8]  # uint8[planes, runs], or of no runs where none has several

    @classmethod
    def of(cls, coder: PlanesEncoder[Classes], runs: int) -> "_How":
        codings = coder.codings
        several = any(coding is not None and coding.runs is not None for coding in codings)
        ways = np.zeros((3, 8), np.int64)
        classes = np.empty((len(codings), runs if several else 0), np.uint8)
        listed = [Classes.empty(0)]
        at = 0
        for p, coding in enumerate(codings):
            ways[0, p] = registry.PLANE_RAW
            if coding is not None:
                ways[:, p] = registry.PLANE_CLASSES, len(coding.classes), at
                listed.append(coding.classes)
                at += len(coding.classes)
                if coding.runs is not None:
                    classes[p] = coding.runs
        kinds = np.concatenate([one.kinds for one in listed])
        lengths = np.concatenate([one.lengths for one in listed])
        return cls(coder.layout.number, coder.layout.size, coder.run, ways, kinds, lengths, classes)

    def put(self, data: Bytes, begin: int, chunk: int, out: Bytes) -> EncodedSpan:
        """The chunks of a part that begins at this byte of the batch."""
        row = self.run * self.size
        first = begin // row
        classes = np.ascontiguousarray(self.classes[:, first : first + -(-data.size // row)])
        encoded = put_batch(
            data, self.layout, self.run, chunk // row, False, self.ways, self.kinds, self.lengths,
            classes, out,
        )  # fmt: skip
        assert encoded is not None
        return encoded
