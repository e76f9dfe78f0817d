"""Floats in matrices under scale contexts, in spans: a batch by compiled calls, without the GIL.

For weights as they mostly are: noise below the exponents, few zeros, nothing that repeats, and less
under scale contexts than as byte planes by far. What else there is goes the ordinary way.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.batch import OWN, Batch, Chunk, CodedBatch, Looked
from densor.codec.kind import Kind, matrices
from densor.codec.levels import Level
from densor.codec.scale_context.params import Parameters, pack_model
from densor.codec.scale_context.scales import ALPHABET
from densor.codec.scale_context.split_format import SplitFormat, split_format_of
from densor.codec.scale_context.tables import FRAME_BITS, Choice, choose, keep
from densor.codec.spans import matrix_table as m
from densor.codec.spans import table as t
from densor.codec.spans.encode import frame_room, number_frames
from densor.codec.spans.low_halves import LowHalves, find_low_halves, low_arguments, low_work
from densor.codec.spans.table import PIECE, PIECES, Numbers
from densor.entropy.deferred import deferred
from densor.entropy.rans.encode import encode_table
from densor.runtime.buffers import POOL
from densor.runtime.types import Bytes
from densor.runtime.workers import Task

look_at_floats, plan_matrices, bits_in_classes = deferred(
    "densor.codec.spans.matrix_plan_kernels", "look_at_floats", "plan_matrices", "bits_in_classes"
)
encode_matrices = deferred("densor.codec.spans.matrix_kernels", "encode_matrices")

_FORMS = {
    registry.LAYOUT_BYTE: m.FORM_FP8,
    registry.LAYOUT_BF16: m.FORM_BF16,
    registry.LAYOUT_WORD16: m.FORM_FP16,
    registry.LAYOUT_FP32: m.FORM_FP32,
}
_LEAST = 1 << 12  # elements of a batch
_MAX_ROWS, _MAX_COLUMNS = 1 << 20, 1 << 16
_COUNTED = 40_000  # elements of which all are counted; of more, the square root of how many times
_ALL_COUNTED = 1 << 21  # elements with low halves that are coded, of which all are counted
_NOISE = 7.99  # bits of a byte; beyond, nothing is left to save
_SECOND = 7.5  # bits of the second byte; below, byte planes may take less than scale contexts
_MOST_TOGETHER = 4  # chunks of a batch that a thread encodes at once, where there are several
_BITS_OF_CHUNK = 8 * (128 + 5)  # of byte planes: states of rANS, and the head of a plane
_local = threading.local()


class _Cut(NamedTuple):
    """How a batch is cut into chunks and matrices, see `matrix_table`."""

    parts: Numbers
    chunks: Numbers
    scales: int  # rows and columns in all
    columns: int  # of the widest matrix


class _Found(NamedTuple):
    """Scales of a batch, and how often symbols occur, about; exponents by groups of rows."""

    form: SplitFormat
    cut: _Cut
    scales: Bytes
    counts: Numbers
    exponents: npt.NDArray[np.uint32]
    low: LowHalves | None
    saved: float  # bits that byte planes save of an element behind its exponent


class _Look(NamedTuple):
    """What was found of a batch; None where it is not for this encoder."""

    data: Bytes
    kind: Kind
    chunk_bytes: int
    level: Level
    found: _Found | None

    def is_of(self, batch: Batch, level: Level) -> bool:
        """Whether this very batch was looked at, to be coded in the same way."""
        same = self.data is batch.data and self.kind is batch.kind and self.level is level
        return same and self.chunk_bytes == batch.chunk_bytes


@dataclass(eq=False)
class MatrixSpan:
    """A batch whose scales are known, and the frequencies that it will be coded with."""

    batch: Batch
    form: SplitFormat
    cut: _Cut
    scales: Bytes
    choice: Choice
    by_planes: float  # bits of all high bits as byte planes, about
    low: LowHalves | None = None  # None for raw ones, or none

    @property
    def bits(self) -> float:
        """What the high bits of all elements will take, all told."""
        heads = self.cut.chunks.shape[0] * 8 * (12 + 128) + self.cut.parts.shape[0] * 96
        return float(self.choice.bits + heads)

    @property
    def smaller(self) -> bool:
        """Whether fewer bits than byte planes take are expected, which is true to .001 of all."""
        return bool(self.bits < self.by_planes)

    @property
    def elements(self) -> int:
        """Of the batch."""
        return self.batch.data.size // self.form.size

    def shared(self, coded: CodedBatch) -> float:
        """Bytes of the parameters in `coded` that earlier or later batches bear."""
        free = self.choice.free if self.low is None else 0.0
        return (registry.FRAME_SIZE + len(coded.model or b"")) * free

    def keep(self) -> None:
        """Lets later batches share the frequencies, which will stand in the archive."""
        keep(self.batch.history, self.choice, self.form, ALPHABET)

    def encode(self) -> "_Encoding":
        """Starts coding the batch, in as many parts as keep all threads busy."""
        batch, form, cut = self.batch, self.form, self.cut
        freqs = self.choice.freqs
        starts = encode_table(freqs)
        joint = starts.reshape(-1, 256).copy()
        joint[:, ALPHABET.main(form) :] = 0
        starts.reshape(-1, 256)[freqs == 0] = 0
        joint[freqs == 0] = 0
        memory = POOL.take(frame_room(batch.data.size, batch.chunk_bytes))
        made = np.empty((cut.chunks.shape[0], 3), np.int64)
        sizes = form.size, form.rest, form.signs
        rule = _rule(batch, form)

        def encode(begin: int, end: int) -> Bytes | None:
            at = begin * (batch.chunk_bytes + t.FRAME)
            chunks = cut.chunks[begin:end]
            size = encode_matrices(
                batch.data, rule, sizes, cut.parts, chunks, self.scales, starts,
                joint.reshape(-1), *low_arguments(self.low), memory[at:], made[begin:end],
                *_encoding_work(cut), *low_work(self.low, cut.chunks),
            )  # fmt: skip
            made[begin:end, 0] += at
            return memory[at : at + size] if size >= 0 else None

        threads, count = batch.workers.threads, len(cut.chunks)
        groups = min(count, max(threads, -(-count // _MOST_TOGETHER)) if threads > 1 else 1)
        ends = [count * (group + 1) // groups for group in range(groups)]
        tasks = [
            batch.workers.submit(encode, begin, end)
            for begin, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        return _Encoding(self, memory, made, tasks)


class _Frames(NamedTuple):
    """The frames of a batch, in pieces of its memory."""

    memory: Bytes
    made: Numbers
    pieces: list[Bytes]

    def number(self, model: int) -> Sequence[Bytes]:
        number_frames(self.memory, self.made, model)
        return self.pieces


class _Encoding:
    """A batch that is being coded, to frames in memory of the pool."""

    def __init__(
        self, span: MatrixSpan, memory: Bytes, made: Numbers, tasks: Sequence[Task[Bytes | None]]
    ) -> None:
        self._span = span
        self._memory = memory
        self._made = made
        self._tasks = tasks

    def result(self) -> CodedBatch | None:
        """Waits for all of it; None where a symbol has no frequency."""
        span, memory = self._span, self._memory
        pieces = [task.result() for task in self._tasks]
        whole = [piece for piece in pieces if piece is not None]
        if len(whole) < len(pieces):
            POOL.give(memory)
            return None
        batch = span.batch
        chunks = []
        for number, (at, stored, own) in enumerate(self._made.tolist()):
            payload = memory[at + t.FRAME : at + t.FRAME + stored]
            original = min(batch.chunk_bytes, batch.data.size - number * batch.chunk_bytes)
            chunks.append(Chunk(OWN if own else registry.MODEL_RAW, payload, original))
        model = None
        if self._made[:, 2].any():
            low = b"" if span.low is None else span.low.model()
            model = pack_model(Parameters(span.form, ALPHABET, span.choice.freqs, low))
        return CodedBatch(model, chunks, memory, _Frames(memory, self._made, whole))


def plan(batch: Batch, level: Level) -> MatrixSpan | None:
    """Settles the parameters of a batch; None where it is not for this encoder."""
    looked = batch.looked
    if isinstance(looked, _Look) and looked.is_of(batch, level):
        found = looked.found
    else:
        found = _find(batch, level)
    if found is None:
        return None
    form, cut, scales, counts, exponents, low, saved = found
    kind, elements = batch.kind, batch.data.size // form.size
    choice = choose(batch.history, counts, form, ALPHABET)
    by_planes = _by_planes(exponents, elements, kind.run)
    by_planes += elements * (_bits_below(form) - saved)
    by_planes += _BITS_OF_CHUNK * -(-batch.data.size // kind.whole_runs) + FRAME_BITS
    return MatrixSpan(batch, form, cut, scales, choice, by_planes, low)


def look(batch: Batch, level: Level) -> Looked:
    """Looks at a batch, in any thread, while others are coded."""
    return _Look(batch.data, batch.kind, batch.chunk_bytes, level, _find(batch, level))


def _find(batch: Batch, level: Level) -> _Found | None:
    kind = batch.kind
    layout = kind.layout
    if layout is None or layout.number not in _FORMS:
        return None
    form = split_format_of(kind.dtype)
    elements, left = divmod(batch.data.size, form.size)
    if form.size != layout.size or elements < _LEAST or left or not batch.chunk_bytes:
        return None
    cut = _cut(kind, elements, batch.chunk_bytes // form.size)
    if cut is None:
        return None
    found, saved = _look(batch, level)
    if found == m.REFUSED:
        return None
    low = find_low_halves(batch, level, cut.chunks) if found == m.LOW_CODED else None
    scales = np.empty(cut.scales, np.uint8)
    counts, exponents = _count(batch, form, cut, scales, low is not None)
    return _Found(form, cut, scales, counts, exponents, low, saved)


def _rule(batch: Batch, form: SplitFormat) -> tuple[int, ...]:
    """What the kernels go by."""
    assert batch.kind.layout is not None
    number = _FORMS[batch.kind.layout.number]
    return number, form.top, ALPHABET.first, ALPHABET.main(form), ALPHABET.low_exponents


def _bits_below(form: SplitFormat) -> int:
    """High bits that are not in the first byte plane."""
    return max(0, form.bits - 8) if form.exponent == 8 else max(0, form.bits - 7)


def _cut(kind: Kind, elements: int, chunk: int) -> _Cut | None:
    """None where a matrix is too large for the kernels' sums."""
    parts: list[tuple[int, ...]] = []
    chunks = []
    scales = columns_of_all = 0
    for begin in range(0, elements, chunk):
        count = min(chunk, elements - begin)
        first, at = len(parts), begin
        for rows, columns in matrices(kind, count):
            if rows > _MAX_ROWS or columns > _MAX_COLUMNS:
                return None
            parts.append((rows, columns, at, scales, scales + rows, 0, 0, 0))
            at += rows * columns
            scales += rows + columns
            columns_of_all = max(columns_of_all, columns)
        chunks.append((begin, count, first, len(parts) - first, 0, 0, 0))
        if at != begin + count or len(parts) - first > 0xFFFF:
            return None
    return _Cut(np.array(parts), np.array(chunks), scales, columns_of_all)


def _look(batch: Batch, level: Level) -> tuple[int, float]:
    """Whether the batch is as weights mostly are, and what becomes of its low halves; and the bits
    that byte planes save of an element behind its exponent."""
    layout = batch.kind.layout
    assert layout is not None
    work: tuple[npt.NDArray[Any], ...] | None = getattr(_local, "look", None)
    if work is None:
        work = _local.look = (
            np.empty(5 * 4 * PIECE * PIECES, np.uint8),
            np.empty(1024, np.uint32),
            np.empty((2, 256), np.int64),
            np.empty(4096, np.uint64),
            np.empty(8, np.int64),
            np.empty(8, np.int64),
            np.empty(t.EDGE, np.uint8),
        )
    number, size = layout.number, layout.size
    sample = PIECE * min(PIECES, batch.data.size // size // PIECE)
    noise = _NOISE - 255 / (2 * math.log(2) * sample)  # a sample looks less even than it is
    second = _SECOND if size > 1 else noise
    found = look_at_floats(batch.data, number, size, level.try_zstd, second, noise, *work)
    lost = _NOISE - noise  # as the sample looks
    saved = max(0.0, 8 - lost - float(work[4][size]) / 1024) if size > 1 else 0.0
    return int(found), saved


def _count(
    batch: Batch, form: SplitFormat, cut: _Cut, scales: Bytes, low: bool
) -> tuple[Numbers, npt.NDArray[np.uint32]]:
    """Finds the scales; returns how often symbols occur, about, and exponents by groups of rows."""
    elements = batch.data.size // form.size
    step = max(1, round(math.sqrt(elements / _COUNTED)))
    if low and elements <= _ALL_COUNTED:
        step = 1

    def count(chunks: Numbers) -> tuple[Numbers, npt.NDArray[np.uint32]]:
        counts = np.zeros((m.CONTEXTS, 256), np.int64)
        exponents = np.zeros((m.GROUPS, 256), np.uint32)
        work = _planning_work(cut)
        plan_matrices(
            batch.data, _rule(batch, form), cut.parts, chunks, step, work[0], scales, counts,
            exponents, *work[1:],
        )  # fmt: skip
        return counts, exponents

    escape = ALPHABET.main(form) + 1 + ALPHABET.low_exponents
    groups = min(batch.workers.threads, len(cut.chunks))
    tasks = [batch.workers.submit(count, some) for some in np.array_split(cut.chunks, groups)]
    counts, exponents = tasks[0].result()
    for task in tasks[1:]:
        more = task.result()
        counts += more[0]
        exponents += more[1]
    some = counts[: 1 << m.PHASE]
    if step > 1:
        some[:] = np.ceil(some * (elements / some.sum()))
    occur = int(np.bitwise_or.reduce(cut.chunks[:, m.OCCUR]))
    for context in range(1 << m.PHASE):
        if occur >> context & 1 and not some[context].any():
            some[context, escape] = 1
    return counts, exponents


def _by_planes(exponents: npt.NDArray[np.uint32], elements: int, run: int) -> float:
    """Bits of exponents under classes of rows."""
    factor = elements / int(exponents.sum())
    work = np.empty(256, np.uint32), np.empty(m.GROUPS), np.empty(m.GROUPS)
    return float(bits_in_classes(exponents, factor, -(-elements // run), *work))


def _planning_work(cut: _Cut) -> tuple[npt.NDArray[Any], ...]:
    """Work space of this thread for `plan_matrices`."""
    have: tuple[int, int] = getattr(_local, "planned", (0, 0))
    if have[0] < cut.scales or have[1] < cut.columns:
        scales, columns = _local.planned = max(have[0], cut.scales), max(have[1], cut.columns)
        tile = np.empty(2 * m.TILE, np.uint8)
        _local.planning = (
            np.empty(scales, np.int32),
            tile,
            tile.view(np.uint16),
            np.empty(2 * m.TILE, np.uint8),
            np.empty(m.TILE + 32, np.uint8),
            np.empty(columns, np.uint32),
            np.empty((4, m.TALLIES), np.uint32),
            np.empty(columns, np.float64),
            np.empty(512, np.int64),
        )
    work: tuple[npt.NDArray[Any], ...] = _local.planning
    return work


def _encoding_work(cut: _Cut) -> tuple[npt.NDArray[Any], ...]:
    """Work space of this thread for `encode_matrices`."""
    elements = int(cut.chunks[:, m.COUNT].max())
    have: int = getattr(_local, "encoded", 0)
    most = 2 * (elements + cut.scales) + 64
    if have < most:
        _local.encoded = most
        _local.encoding = (
            np.empty(most, np.uint8),
            np.empty(most // 2, np.uint32),
            np.empty(2 * m.TILE, np.uint8),
            np.empty(m.TILE + 32, np.uint8),
            np.empty(2 * m.TILE, np.uint8),
            np.empty(2 * 32, np.uint32),
            np.empty(m.EDGE, np.uint8),
        )
    work: tuple[npt.NDArray[Any], ...] = _local.encoding
    return work
