"""The text codec's coding side for a batch."""

from collections.abc import Sequence

import numpy as np

from densor.codec import registry
from densor.codec.batch import OWN, Batch, Bytes, Chunk
from densor.codec.byte_cm.params import Parameters, pack
from densor.codec.byte_cm.segment import coded
from densor.codec.chunks import ChunkEncoder, zstd_chunk
from densor.codec.levels import Level
from densor.codec.sampling import sample

QUICK_ZSTD = 9  # the fastest level of Zstandard that looks for distant repeats
MAX_REPEATS = 500  # size over what Zstandard leaves; beyond, nothing is left to gain
MAX_SIZE_OF_REPEATS = 0.99  # share; what Zstandard takes more of is coded if a sample is promising
MAX_SIZE_OF_PROMISE = 0.97  # share of a sample
# Of what quick Zstandard takes: a slow level takes less for 1 in 333 files of many kinds.
MAX_SIZE_WITHOUT_TRIAL = 0.7

# Contexts by number, see contexts.py.
_TEXT = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
_BINARY = (0, 1, 2, 3, 4, 5, 6, 10, 11, 13, 14, 15, 16, 17)
_LIGHT = (1, 2, 4, 6)
_FULL_SETS, _LIGHT_SETS = 6, 2
_FULL_BITS, _LIGHT_BITS = 27, 24  # of the table of bit histories, logarithm of bytes
_SAMPLE = 1 << 16  # bytes that are looked at
_PIECES = 4  # of them
_CONTROLS = 0.01  # share of control characters that text does not have


def full_model(data: Bytes) -> Parameters:
    """The model that is expected to code `data` in the fewest bytes."""
    return _model(_BINARY if _is_binary(data) else _TEXT, _FULL_SETS, _FULL_BITS)


def _model(numbers: Sequence[int], sets: int, bits: int) -> Parameters:
    return Parameters(sum(1 << number for number in numbers), sets, bits)


def _is_binary(data: Bytes) -> bool:
    """Whether there are more control characters than in text of any encoding but UTF-16."""
    counts = np.bincount(_sample(data), minlength=32)
    controls = int(counts[:9].sum() + counts[14:32].sum())
    return controls > _CONTROLS * min(data.size, _SAMPLE)


def _sample(data: Bytes) -> Bytes:
    """Some pieces from all over `data`, one after the other."""
    return sample(data, 1, _SAMPLE // _PIECES, _PIECES, inner=True)


def propose(batch: Batch, level: Level) -> "ByteCmBatchEncoder":
    """An encoder for a batch of plain bytes."""
    return ByteCmBatchEncoder(
        ByteCmEncoder(batch.data, light=level.bytes == "light"), batch, level.zstd
    )


class ByteCmEncoder:
    """A `ChunkCoder`; the model adapts within each segment, so that nothing is counted before.

    `data`: the batch. `light`: fewer contexts, for speed.
    """

    repeats = False  # `ByteCmBatchEncoder` tries Zstandard beside it

    def __init__(self, data: Bytes, light: bool = False) -> None:
        self._model = _model(_LIGHT, _LIGHT_SETS, _LIGHT_BITS) if light else full_model(data)

    def promises(self, chunk: Bytes) -> bool:
        """Whether a sample gets clearly smaller, for chunks in which nothing repeats."""
        pieces = _sample(chunk)
        return coded(self._model, pieces).size < MAX_SIZE_OF_PROMISE * pieces.size

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack(self._model)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of a segment; the segment itself where that is not longer."""
        payload = coded(self._model, chunk)
        return payload if payload.size < chunk.size else chunk


class ByteCmBatchEncoder(ChunkEncoder):
    """Codes each segment by context mixing, or by Zstandard where that is smaller."""

    coder: ByteCmEncoder

    def _store(self, chunk: Bytes, index: int) -> Chunk:
        quick = zstd_chunk(chunk, QUICK_ZSTD)
        if len(quick.payload) * MAX_REPEATS < chunk.size:
            return zstd_chunk(chunk, self._zstd)
        dense = len(quick.payload) > MAX_SIZE_OF_REPEATS * chunk.size
        if dense and not self.coder.promises(chunk):
            return quick
        payload = self.coder.encode(chunk, index)
        coded = Chunk(OWN, payload, chunk.size)
        if len(payload) < MAX_SIZE_WITHOUT_TRIAL * len(quick.payload):
            return coded
        plain = quick if self._zstd == QUICK_ZSTD else zstd_chunk(chunk, self._zstd)
        parameters = registry.FRAME_SIZE + len(self.coder.model())
        return coded if len(payload) + parameters < len(plain.payload) else plain
