"""The coding side of sparse elements: a bitmap, and the elements that are not zero.

After "Endor: Hardware-Friendly Sparse Format for Offloaded LLM Inference" (2024), with both parts
coded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.batch import Batch, Bytes
from densor.codec.chunks import CountingEncoder
from densor.codec.kind import Kind, kind_of
from densor.codec.levels import Level
from densor.codec.parts import PartEncoder, fit_models, join_parts
from densor.codec.planes.propose import element_coder
from densor.codec.sampling import sample
from densor.codec.sparse.payload import (
    BAND,
    BANDS,
    COUNT,
    HEAD,
    IN_BANDS,
    MAX_COLUMNS,
    SIZES,
    Bands,
)
from densor.entropy.deferred import deferred
from densor.runtime.buffers import POOL

_COMPACT = {size: deferred("densor.codec.sparse.kernels", f"compact_{size}") for size in SIZES}
MIN_ZEROS = 0.15  # share of the elements; below, a bitmap takes more than it saves
_MIN_MASK = 1 << 12  # bytes of a batch that is looked at for two values
_PIECE = 4096  # elements at each place of a batch that is looked at, about
_IN_BANDS = 1 << 16  # elements that bands are looked for in, about
_AS_GOOD = 1.005  # of the least entropy: the fewer rows before the first band, the better
_MAX_SHARE = 0.97  # of the entropy of the bitmap's bytes, that those in bands have


def with_zeros(data: Bytes, kind: Kind) -> Bytes | None:
    """Pieces from all over a batch if enough of their elements are zero, else None."""
    pieces = _sample(data, kind)
    elements = _elements(pieces, kind)
    zeros = elements.size - int(np.count_nonzero(elements))
    return pieces if zeros > MIN_ZEROS * elements.size else None


def is_mask(batch: Batch) -> bool:
    """Whether a batch is likely to have two values, one of them zero, as masks of dropout have."""
    unit = batch.kind.unit
    if unit not in SIZES or batch.data.size < _MIN_MASK or batch.data.size % unit:
        return False
    elements = _elements(batch.data[: _PIECE * unit], batch.kind)
    others = elements[elements != 0]
    if not 0 < others.size < elements.size or bool((others != others[0]).any()):
        return False
    elements = _elements(_sample(batch.data, batch.kind), batch.kind)
    return bool(np.isin(elements, (0, others[0])).all())


def propose(batch: Batch, level: Level) -> CountingEncoder:
    """An encoder for a batch of elements."""
    bands = _bands(batch)
    if bands is not None:
        band = BAND * bands.columns * batch.kind.unit
        batch = batch.in_chunks_of(batch.chunk_bytes // band * band)
    return CountingEncoder(SparseEncoder(batch.data, batch.kind, level, bands), batch, level.zstd)


def _bands(batch: Batch) -> Bands | None:
    """Bands in which the bitmap takes less, if there are such: by some rows at the begin."""
    kind = batch.kind
    if len(kind.parts) != 1 or not 1 <= kind.parts[0][1] <= MAX_COLUMNS:
        return None
    columns = kind.parts[0][1]
    row = columns * kind.unit
    rows = min(max(_IN_BANDS // columns, 2 * BAND), batch.data.size // row) // BAND * BAND
    if rows < 2 * BAND or rows * columns < _MIN_MASK or 0 < batch.chunk_bytes < BAND * row:
        return None
    bits = (_elements(batch.data[: rows * row], kind) != 0).reshape(rows, columns)
    plain = _entropy(np.packbits(bits[: rows - BAND]))  # of as many bytes
    shifted = [bits[first : rows - BAND + first] for first in range(BAND)]
    entropies = [_entropy(np.packbits(b.reshape(-1, BAND, columns), axis=1)) for b in shifted]
    least = min(entropies)
    first = next(i for i, entropy in enumerate(entropies) if entropy <= _AS_GOOD * least)
    return Bands(columns, first) if entropies[first] < _MAX_SHARE * plain else None


def _entropy(data: Bytes) -> float:
    """Bits per byte."""
    counts = np.bincount(data.reshape(-1))
    shares = counts[counts > 0] / max(data.size, 1)
    return float(-(shares * np.log2(shares)).sum())


class SparseEncoder:
    """A `BatchCoder`; `data` is the whole batch, or a sample of it.

    `bands`: how the bits of the bitmap lie, which chunks must begin with.
    """

    repeats = False  # both parts try Zstandard by themselves

    def __init__(self, data: Bytes, kind: Kind, level: Level, bands: Bands | None = None) -> None:
        self._kind = kind
        self._bands = bands
        bitmap, values = self._split(_sample(data, kind))
        if bands is not None:  # a sample of rows has none
            bitmap, _ = self._split(data[: _IN_BANDS * kind.unit])
        if not values.size:
            values = np.ones(self._size, np.uint8)
        flat = kind_of("U8", (bitmap.size,)), kind_of(kind.dtype, (values.size // self._size,))
        self._bitmap = PartEncoder(element_coder(bitmap, flat[0], level), level.zstd)
        self._values = PartEncoder(element_coder(values, flat[1], level), level.zstd)

    @property
    def _size(self) -> int:
        return self._kind.unit

    def count(self, chunk: Bytes) -> tuple[Any, Any]:
        """What the coders of bitmap and values count."""
        bitmap, values = self._split(chunk)
        return self._bitmap.count(bitmap), self._values.count(values)

    def decide(self, tallies: Sequence[tuple[Any, Any]]) -> None:
        """Lets both coders settle their models."""
        self._bitmap.decide([tally[0] for tally in tallies])
        self._values.decide([tally[1] for tally in tallies])
        fit_models([self._bitmap, self._values])

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        head = HEAD.pack(registry.CODEC_SPARSE, self._size)
        if self._bands is not None:
            head = HEAD.pack(registry.CODEC_SPARSE, self._size | IN_BANDS)
            head += BANDS.pack(*self._bands)
        return head + self._bitmap.model() + self._values.model()

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of chunk number `index`."""
        bitmap, values = self._split(chunk)
        coded = [self._bitmap.encode(bitmap, index), self._values.encode(values, index)]
        payload = join_parts(COUNT.pack(values.size // self._size), coded)
        for _, stored in coded:
            POOL.give(stored)
        return payload

    def _split(self, data: Bytes) -> tuple[Bytes, Bytes]:
        """Bitmap, the first element in the lowest bit, and the bytes of those that are not 0."""
        elements = np.require(_elements(data, self._kind), requirements="A")
        bitmap = np.zeros(-(-elements.size // 8), np.uint8)
        values = np.empty(elements.size + 1, elements.dtype)
        count = _COMPACT[self._size](elements, bitmap, values)
        if self._bands is not None:
            bitmap = self._bands.gathered(bitmap, elements.size)
        return bitmap, values[:count].view(np.uint8)


def _elements(data: Bytes, kind: Kind) -> npt.NDArray[Any]:
    return data.view(f"<u{kind.unit}")


def _sample(data: Bytes, kind: Kind) -> Bytes:
    """Whole runs of elements from all over the batch."""
    return sample(data, kind.run * kind.unit, -(-_PIECE // kind.run))
