"""A batch of which few elements differ from its base, as chunks of an archive."""

import math
from collections.abc import Sequence

import numpy as np

from densor.codec.batch import Batch, Chunk, Chunks, Coding
from densor.codec.chunks import own_or_raw
from densor.codec.delta import few_params
from densor.codec.delta.few_encoder import FewEncoder, Part
from densor.codec.delta.few_params import FewParameters
from densor.codec.delta.payload import FEW_CODED, HEAD, SAME
from densor.codec.interfaces import Encoder, Estimate
from densor.runtime.workers import settle

_CHUNK = 1 << 22  # bytes
SAMPLE, _SAMPLES = 1 << 18, 8  # bytes at each place of a batch that is looked at, and places
_MISSED = 0.3  # of the share that changes: by what this estimate is too low
_MIN_BYTES = 1 << 10  # of a batch, below which parameters take more than is saved


class FewBatch(Encoder):
    """Codes a batch that was surveyed. `bytes`: that it is expected to take."""

    def __init__(self, batch: Batch, encoder: FewEncoder, parts: list[Part]) -> None:
        assert batch.base is not None
        self._batch = batch
        self._offset = batch.base.offset
        self._encoder = encoder
        self._parts = parts
        self._parameters: FewParameters | None = None
        encoder.fit(parts)
        self.bytes = encoder.estimate(parts)

    def estimate(self) -> Estimate:
        """That this takes less than otherwise was found before."""
        return Estimate(self.bytes, math.inf)

    def encode(self) -> Coding:
        """Counts all chunks, then starts coding them."""
        self._encoder.record_all(self._parts, self._batch.workers)
        self._parameters = self._encoder.decide()
        submit = self._batch.workers.submit
        return Chunks(self, [submit(self._chunk, i) for i in range(len(self._parts))])

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        assert self._parameters is not None
        return few_params.pack(self._parameters)

    def _chunk(self, index: int) -> Chunk:
        part = self._parts[index]
        begin = index * _CHUNK
        mode, coded = SAME, b""
        if part.number:
            mode, coded = FEW_CODED, self._encoder.code(part)
        payload = HEAD.pack(self._offset + begin, mode) + coded
        data = self._batch.data[begin : begin + _CHUNK]
        return own_or_raw(np.frombuffer(payload, np.uint8), data)


def propose_few(batch: Batch) -> FewBatch | None:
    """For a batch with a base; None where nothing has changed, or too much."""
    found = _surveyed(batch, range(0, batch.data.size, _CHUNK), _CHUNK)
    return None if found is None else FewBatch(batch, *found)


def expected_few(batch: Batch) -> float | None:
    """About what a large batch takes so, in bytes, by a sample; None where it cannot be."""
    step = batch.data.size // _SAMPLES // SAMPLE * SAMPLE
    found = _surveyed(batch, [k * step for k in range(_SAMPLES)], SAMPLE)
    if found is None:
        return None
    encoder, parts = found
    encoder.fit(parts)
    sampled = sum(part.new.nbytes for part in parts)
    share = sum(part.number for part in parts) / max(1, sum(part.new.size for part in parts))
    bytes_ = encoder.estimate(parts) * batch.data.size / sampled
    return bytes_ * (1 + _MISSED * share)


def _surveyed(
    batch: Batch, begins: Sequence[int], step: int
) -> tuple[FewEncoder, list[Part]] | None:
    """Parts of a batch; None where nothing has changed in them, or too much."""
    layout = batch.kind.layout
    size = 1 if layout is None else layout.size
    if batch.base is None or batch.data.size < _MIN_BYTES or batch.data.size % size:
        return None
    encoder = FewEncoder(batch.kind.dtype, size)
    old = batch.base.data

    def survey(begin: int) -> Part | None:
        return encoder.survey(batch.data[begin : begin + step], old[begin : begin + step])

    first = survey(begins[0])  # mostly this tells where too much differs
    if first is None:
        return None
    parts = [first]
    tasks = [batch.workers.submit(survey, begin) for begin in begins[1:]]
    for task in tasks:
        part = task.result()
        if part is None:
            settle(tasks)
            return None
        parts.append(part)
    return (encoder, parts) if any(part.number for part in parts) else None
