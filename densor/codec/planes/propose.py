"""The coding side of byte planes: the coder, or the encoder, of elements of one type."""

from typing import Any

from densor.codec.batch import Batch, Bytes
from densor.codec.chunks import CountingEncoder
from densor.codec.kind import Kind
from densor.codec.levels import Level
from densor.codec.planes.encoder import STAGES, PlanesEncoder
from densor.codec.planes.layout import Layout


def propose(batch: Batch, level: Level) -> CountingEncoder | None:
    """An encoder for a batch; None where Zstandard does better on the elements as they are."""
    coder = element_coder(batch.data, batch.kind, level)
    return None if coder is None else CountingEncoder(coder, batch, level.zstd)


def element_coder(data: Bytes, kind: Kind, level: Level) -> PlanesEncoder[Any] | None:
    """A coder of elements, of which `data` may be a sample; None where Zstandard does better."""
    assert kind.layout is not None
    coder = plane_coder(data, kind.layout, kind, level)
    return None if coder.whole_zstd else coder


def plane_coder(data: Bytes, layout: Layout, kind: Kind, level: Level) -> PlanesEncoder[Any]:
    """A coder of planes, under Huffman codes or rANS as the level says."""
    return PlanesEncoder(STAGES[level.planes], data, layout, kind.run, level, kind.integers)
