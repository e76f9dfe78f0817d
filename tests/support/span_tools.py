"""Archives taken apart for the span decoder, which container readers do by themselves."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from densor.codec import registry
from densor.codec.codecs import decoder_for
from densor.codec.spans import table as t
from densor.codec.spans.decode import SpanDecoder
from densor.codec.spans.rans_table import RansParameters
from densor.codec.spans.table import SpanParameters, chunk_table
from densor.formats.container import wire
from densor.formats.container.chunk_decoders import decode_chunk

RANS = (registry.CODEC_SCALE_CONTEXT, registry.CODEC_PLANES_RANS)
Bytes = npt.NDArray[np.uint8]


class Taken(NamedTuple):
    """The chunks of an archive, one after the other in a result of `size` bytes."""

    data: Bytes
    models: dict[int, bytes]
    decoder: SpanDecoder
    size: int


def take_apart(data: Bytes, rans: bool = False) -> Taken:
    """All chunks of a sound archive, for the decoder of Huffman codes or for that of rANS."""
    models: dict[int, bytes] = {}
    chunks = [np.zeros(4, np.int64)][1:]
    at = wire.HEADER_SIZE
    while at < data.size:
        header = wire.parse_frame(data[at : at + wire.FRAME_SIZE].tobytes(), wire.MAX_INDEX)
        at += wire.FRAME_SIZE
        if header.kind == wire.MODEL:
            number = registry.FIRST_MODEL + len(models)
            models[number] = data[at : at + header.stored].tobytes()
        elif header.kind == wire.CHUNK:
            chunks.append(np.array([at, header.stored, header.model, header.original], np.int64))
        at += header.stored
    codecs = RANS if rans else (registry.CODEC_PLANES_HUFFMAN,)
    mine: Any = {n: decoder_for(model) for n, model in models.items() if model[0] in codecs}
    kind: Any = RansParameters if rans else SpanParameters
    parameters = kind.of({n: decoder.model for n, decoder in mine.items()})
    begins, stored, numbers, original = np.array(chunks, np.int64).reshape(-1, 4).T
    ends = np.cumsum(original)
    table = chunk_table(parameters, begins, stored, numbers, ends - original, original)
    return Taken(data, models, SpanDecoder(parameters, table), int(original.sum()))


def ordinary(taken: Taken, chunk: int) -> bytes:
    """A chunk, without its frame being checked, by the ordinary decoder."""
    row = taken.decoder.table[chunk].tolist()
    out = np.empty(row[t.SIZE], np.uint8)
    payload = taken.data[row[t.PAYLOAD] : row[t.PAYLOAD] + row[t.STORED]]
    model = taken.models.get(row[t.MODEL])
    decode_chunk(row[t.MODEL], decoder_for(model) if model else None, payload, out)
    return out.tobytes()
