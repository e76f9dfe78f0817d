"""The coding side of notations: takes elements out of their form, and has them coded as such.

A chunk is what one chunk of the elements makes, written again as a proof. What does not come back
as it is stays as it is.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.batch import OWN, Batch, Bytes, Chunk, CodedBatch, Coding, Otherwise
from densor.codec.choose.candidates import encode_batch
from densor.codec.chunks import own_or_raw
from densor.codec.history import History
from densor.codec.interfaces import Encoder
from densor.codec.kind import BYTES, Kind, kind_of, kind_of_array
from densor.codec.levels import Level
from densor.codec.notation.layout import LEAST_ITEM
from densor.codec.notation.payload import Form, Head
from densor.codec.parts import MODEL_LENGTH, PartEncoder, join_parts
from densor.codec.types.divide import divide
from densor.dtypes import SIZES
from densor.entropy.deferred import deferred

_undo = deferred("densor.codec.notation.kernels", "undo")
_MIN_RUN = 32  # bytes of a stretch to a run, on average; half as many are allowed
_MIN_SHARE = 0.5  # of items in a stretch
_MODES = {
    registry.MODEL_RAW: registry.PART_RAW,
    registry.MODEL_ZSTD: registry.PART_ZSTD,
    OWN: registry.PART_MODEL,
}
Pairs = npt.NDArray[np.uint32]


class Undone(NamedTuple):
    """A stretch taken apart: elements, runs (uint32[k, 2]) and literal bytes."""

    plain: Bytes
    runs: Pairs
    literals: Bytes


def undo(form: Form, data: Bytes) -> Undone | None:
    """A stretch taken apart; None where little of it is in that form."""
    plain = np.empty(data.size // LEAST_ITEM[form.number] * form.unit, np.uint8)
    runs = np.empty(2 * (data.size // _MIN_RUN + 2), np.uint32)
    literals, found = np.empty(data.size, np.uint8), np.zeros(3, np.int64)
    if not _undo(data, *form, plain, runs, literals, found):
        return None
    size, count, kept = (int(n) for n in found)
    if kept > (1 - _MIN_SHARE) * data.size:
        return None
    return Undone(plain[:size], runs[: 2 * count].reshape(-1, 2), literals[:kept])


class NotationEncoder(Encoder):
    """Codes a batch in another notation, or as bytes where it cannot be made again."""

    def __init__(self, batch: Batch, level: Level) -> None:
        assert batch.kind.notation is not None
        self._batch = batch
        self._level = level
        self._notation = batch.kind.notation

    def encode(self) -> Coding:
        """Starts coding the elements."""
        as_bytes = replace(self._batch, kind=BYTES)
        return Otherwise(
            self._batch.workers.submit(self._coded), lambda: encode_batch(as_bytes, self._level)
        )

    def _coded(self) -> CodedBatch | None:
        form = Form(self._notation.form, self._notation.unit, self._notation.option)
        undone = undo(form, self._batch.data)
        if undone is None:
            return None
        history = History()
        history.follows = 0.0  # no other batch shares what stands within the model of this one
        batch = replace(self._batch.alone(undone.plain), circuit=None, history=history)
        inner = encode_batch(batch.of_kind(self._kind(batch)), self._level).result()
        chunks = _Wrapper(form, undone, self._batch.data, self._level.zstd).wrapped(inner.chunks)
        if chunks is None:
            return None
        model = inner.model or b""
        own = any(chunk.own for chunk in chunks)
        payload = form.pack() + MODEL_LENGTH.pack(len(model)) + model
        return CodedBatch(payload if own else None, chunks)

    def _kind(self, batch: Batch) -> Kind:
        """What the elements are, by what they look like where nothing tells it."""
        dtype, shape = self._notation.dtype, self._notation.shape
        if not dtype:
            pieces = divide(batch.of_kind(BYTES), self._level)
            return pieces[0].kind if len(pieces) == 1 else BYTES
        count, rest = divmod(batch.data.size, SIZES[dtype])
        if rest:
            return BYTES
        whole = count == self._notation.elements
        return kind_of_array(dtype, shape) if whole else kind_of(dtype, shape)


class _Wrapper:
    """Makes chunks of a stretch of those of its elements, one of each."""

    def __init__(self, form: Form, undone: Undone, data: Bytes, zstd: int) -> None:
        self._form = form
        self._undone = undone
        self._data = data
        self._others = PartEncoder(None, zstd)
        self._ends = np.cumsum(undone.runs[:, 1], dtype=np.int64)
        self._item = 0  # the first that no chunk has, and likewise of literals and of `data`
        self._literal = 0
        self._at = 0

    def wrapped(self, inner: Sequence[Chunk]) -> list[Chunk] | None:
        """The chunks; None where they would not come back as they are."""
        begin, chunks = 0, []
        for chunk in inner:
            made = self._chunk(chunk, begin)
            if made is None:
                return None
            chunks.append(made)
            begin += chunk.original
        return chunks if self._at == self._data.size else None

    def _chunk(self, chunk: Chunk, begin: int) -> Chunk | None:
        unit, end = self._form.unit, begin + chunk.original
        first, stop = -(-begin // unit), end // unit
        if stop <= first:
            return None
        runs, literals = self._part(first, stop, end == self._undone.plain.size)
        pairs, skipped = runs.astype("<u4").view(np.uint8).reshape(-1), first * unit - begin
        out = np.empty(self._data.size - self._at, np.uint8)
        plain = self._undone.plain[first * unit : end]
        size = self._form.make(plain, pairs, literals, out)
        original = self._data[self._at : self._at + max(size, 0)]
        if size <= 0 or not np.array_equal(out[:size], original):
            return None
        head = Head(skipped, len(runs), literals.size, chunk.original)
        if not head.is_possible(self._form, size):  # as where all runs of a batch are in one chunk
            return None
        self._at += size
        parts = [self._others.encode(part, 0) for part in (pairs, literals)]
        payload = join_parts(head.pack(), [*parts, (_MODES[chunk.model], chunk.payload)])
        return own_or_raw(payload, original)

    def _part(self, first: int, stop: int, last: bool) -> tuple[Pairs, Bytes]:
        """The runs from the next item to `stop`, and their literal bytes.

        An item before `first`, of which this chunk has no element, is literal.
        """
        begin, end = np.searchsorted(self._ends, (self._item + 1, stop))
        runs = self._undone.runs[begin : end + 1].astype(np.int64)
        gone = self._item - (self._ends[begin] - runs[0, 1])
        if gone:
            runs[0] = 0, runs[0, 1] - gone
        runs[-1, 1] -= self._ends[end] - stop
        used = self._literal + int(runs[:, 0].sum())
        literals = self._undone.literals[self._literal : None if last else used]
        self._literal = used
        if first > self._item:
            before = int(runs[0, 0])
            at = self._at + before
            literal = self._data[at : at + LEAST_ITEM[self._form.number]]
            literals = np.concatenate([literals[:before], literal, literals[before:]])
            runs[0] += literal.size, -1
            if not runs[0, 1]:
                runs[1, 0] += runs[0, 0]
                runs = runs[1:]
        self._item = stop
        return runs.astype(np.uint32), literals


def propose(batch: Batch, level: Level) -> NotationEncoder:
    """An encoder for a batch in another notation."""
    return NotationEncoder(batch, level)
