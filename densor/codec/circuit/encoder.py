"""The coding side of images under a circuit."""

import numpy as np

from densor.codec.batch import Batch, Bytes
from densor.codec.chunks import ChunkEncoder
from densor.codec.circuit.coding import ImageTables, encode_images
from densor.codec.circuit.params import Parameters, pack, pack_sizes
from densor.codec.image.layout import Layout
from densor.codec.levels import Level

CHUNK = 1 << 19  # bytes of whole images, about


def suits(tables: ImageTables, layout: Layout, size: int) -> bool:
    """Whether `size` bytes of rows are whole images that a circuit can code."""
    own = tables.size
    like = Layout(own.width, own.channels) == Layout(
        layout.width, layout.channels, layout.size, padding=layout.padding
    )
    rows = layout.height or own.height
    return like and rows == own.height and size > 0 and size % own.samples == 0


def propose(batch: Batch, level: Level) -> ChunkEncoder | None:
    """An encoder for images of the circuit's size; None where there is none, or no circuit."""
    layout, tables = batch.kind.image, batch.circuit
    if tables is None or layout is None or not suits(tables, layout, batch.data.size):
        return None
    chunk = max(1, CHUNK // tables.size.samples) * tables.size.samples
    return ChunkEncoder(CircuitCoder(tables), batch.in_chunks_of(chunk), level.zstd)


class CircuitCoder:
    """A `ChunkCoder` of whole images, each by itself."""

    repeats = False

    def __init__(self, tables: ImageTables) -> None:
        self._tables = tables

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack(Parameters(self._tables.size, self._tables.digest))

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of a chunk."""
        streams, sizes = encode_images(self._tables, chunk)
        return np.concatenate([np.frombuffer(pack_sizes(sizes), np.uint8), streams])
