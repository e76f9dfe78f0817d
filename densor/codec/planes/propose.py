"""The coding side of byte planes: the coder, or the encoder, of elements of one type."""

from typing import Any

import numpy as np

from densor.codec.batch import Batch, Bytes, Chunk, Coding
from densor.codec.chunks import CountingEncoder, own_or_raw, smallest_of
from densor.codec.kind import Kind
from densor.codec.levels import Level
from densor.codec.planes.encoder import STAGES, PlanesEncoder
from densor.codec.planes.layout import Layout
from densor.codec.sampling import sample
from densor.codec.spans import settled
from densor.entropy.huffman.code import huffman_lengths

_PIECE = 1 << 11  # bytes at each place that are looked at
_MIN_BYTES = 1 << 18  # below, the simpler parameters of Huffman codes count
_MIN_GAIN = 0.02  # bits; below, it may be chance
_MAX_LOST = 0.2  # of what an entropy coder gains, that may be lost to whole bits per symbol


class _PlanesBatch(CountingEncoder):
    """Tries Zstandard only where it may win something: mostly by elements that repeat."""

    coder: PlanesEncoder[Any]

    def encode(self) -> Coding:
        """Starts coding all chunks, in spans where these do."""
        if settled.suits(self.coder, self.batch):
            return settled.encode(self.coder, self.batch)
        return super().encode()

    def _store(self, chunk: Bytes, index: int) -> Chunk:
        if not self.coder.quiet(chunk):
            return super()._store(chunk, index)
        payload = self.coder.encode(chunk, index, quiet=True)
        if self.coder.quiet_repeats:
            return smallest_of(payload, chunk, self._zstd)
        return own_or_raw(payload, chunk)


def propose(batch: Batch, level: Level) -> CountingEncoder | None:
    """An encoder for a batch; None where Zstandard does better on the elements as they are."""
    coder = element_coder(batch.data, batch.kind, level)
    return None if coder is None else _PlanesBatch(coder, batch, level.zstd)


def element_coder(data: Bytes, kind: Kind, level: Level) -> PlanesEncoder[Any] | None:
    """A coder of elements, of which `data` may be a sample; None where Zstandard does better."""
    assert kind.layout is not None
    coder = plane_coder(data, kind.layout, kind, level)
    return None if coder.whole_zstd else coder


def plane_coder(
    data: Bytes, layout: Layout, kind: Kind, level: Level, halves: bool = False
) -> PlanesEncoder[Any]:
    """A coder of planes, under Huffman codes or rANS as the level says.

    `halves`: of the low halves of elements, which have the layout.
    """
    stage = level.planes
    if stage == "huffman" and layout.size == 1 and level.classes > 1 and _nearly_even(data):
        stage = "rans"
    return PlanesEncoder(STAGES[stage], data, layout, kind.run, level, kind.integers, halves)


def _nearly_even(data: Bytes) -> bool:
    """Whether bytes are so near to uniform that whole bits per symbol lose much of the gain.

    So it is with two elements of 4 bits in a byte.
    """
    if data.size < _MIN_BYTES:
        return False
    counts = np.bincount(sample(data, 1, _PIECE), minlength=256)
    total = int(counts.sum())
    if counts.max() * 16 > total:
        return False
    some = counts[counts > 0]
    entropy = float(np.log2(total) - (some * np.log2(some)).sum() / total)
    by_huffman = float((counts * huffman_lengths(counts)).sum()) / total
    gain = 8 - entropy
    return gain > _MIN_GAIN and by_huffman - entropy > _MAX_LOST * gain
