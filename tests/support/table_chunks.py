"""Chunks of tables, coded by the package and read by both decoders."""

import numpy as np
import numpy.typing as npt
from reference import codecs as reference_codecs

from densor.codec.levels import level_settings
from densor.codec.table import decoder
from densor.codec.table.encoder import TableCoder
from densor.codec.table.layout import Layout

Bytes = npt.NDArray[np.uint8]


def coded(data: Bytes, layout: Layout, level: int) -> tuple[bytes, bytes]:
    """Model and payload of a chunk."""
    coder = TableCoder(layout, level_settings(level))
    return coder.model(), bytes(coder.encode(data, 0))


def decoded(model: bytes, payload: bytes, size: int) -> bytes:
    """By the package, into memory with other content."""
    out = np.full(size, 0xA5, np.uint8)
    decoder.open_decoder(model).decode(np.frombuffer(payload, np.uint8), out)
    return out.tobytes()


def both_ways(data: Bytes, layout: Layout, level: int) -> bytes:
    """The payload of a chunk that comes back by both decoders."""
    model, payload = coded(data, layout, level)
    assert decoded(model, payload, data.size) == data.tobytes()
    assert reference_codecs.parse_model(model).decode(payload, data.size) == data.tobytes()
    return payload
