"""Archives taken apart for the span decoder, which container readers do by themselves."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.planes.params import Classes, Model, parse
from densor.codec.spans import table as t
from densor.codec.spans.decode import SpanDecoder
from densor.codec.spans.table import Parameters, chunk_table
from densor.formats.container import wire
from densor.formats.container.archive import Archive
from densor.formats.io.sources import MemoryRandomSource

Bytes = npt.NDArray[np.uint8]


class Taken(NamedTuple):
    """The chunks of an archive, one after the other in a result of `size` bytes."""

    data: Bytes
    decoder: SpanDecoder
    size: int


def take_apart(data: Bytes) -> Taken:
    """All chunks of an archive that has an index."""
    frames = Archive(MemoryRandomSource(data), 1).frames
    models: dict[int, Model[Classes]] = {}
    for number, frame in enumerate(np.flatnonzero(frames.kinds == wire.MODEL).tolist()):
        begin = int(frames.offsets[frame]) + wire.FRAME_SIZE
        payload = data[begin : begin + int(frames.stored[frame])].tobytes()
        if payload[0] == registry.CODEC_PLANAR:
            models[registry.FIRST_MODEL + number] = parse(payload)
    parameters = Parameters.of(models)
    chunks = np.flatnonzero(frames.kinds == wire.CHUNK)
    original = frames.original[chunks].astype(np.int64)
    ends = np.cumsum(original)
    table = chunk_table(
        parameters,
        frames.offsets[chunks].astype(np.int64) + wire.FRAME_SIZE,
        frames.stored[chunks].astype(np.int64),
        frames.models[chunks].astype(np.int64),
        ends - original,
        original,
    )
    return Taken(data, SpanDecoder(parameters, table), int(ends[-1]) if ends.size else 0)


def decode_ordinary(taken: Taken, chunk: int, models: dict[int, bytes]) -> Bytes:
    """A chunk, without its frame being checked, by the ordinary decoder."""
    from densor.codec.decoders import decoder_for
    from densor.formats.container.chunk_decoders import decode_chunk

    row = taken.decoder.table[chunk].tolist()
    number = row[t.MODEL]
    out = np.empty(row[t.SIZE], np.uint8)
    payload = taken.data[row[t.PAYLOAD] : row[t.PAYLOAD] + row[t.STORED]]
    decode_chunk(number, decoder_for(models[number]) if number in models else None, payload, out)
    return out
