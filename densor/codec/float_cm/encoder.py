"""The mixing codec's coding side for a batch."""

from densor.codec.batch import Batch, Bytes
from densor.codec.chunks import ChunkEncoder
from densor.codec.float_cm.chunk_encoder import encode_chunk
from densor.codec.float_cm.params import Parameters, format_of, pack
from densor.codec.kind import Kind, matrices
from densor.codec.levels import Level

_TOP = 3  # bits of the mantissa that are worth a model


def propose(batch: Batch, level: Level) -> ChunkEncoder:
    """An encoder for a batch of floating-point numbers in matrices."""
    return ChunkEncoder(FloatCmEncoder(batch.kind), batch, level.zstd)


class FloatCmEncoder:
    """A `ChunkCoder`; the model adapts within each chunk, so that nothing is counted before."""

    repeats = False  # the caller tries planes beside it

    def __init__(self, kind: Kind) -> None:
        form = format_of(kind.dtype)
        self._kind = kind
        self._model = Parameters(form, min(_TOP, form.mantissa))

    def model(self) -> bytes:
        """The payload of the MODEL frame."""
        return pack(self._model)

    def encode(self, chunk: Bytes, index: int) -> Bytes:
        """The payload of a chunk; the chunk itself where that is not longer."""
        shapes = matrices(self._kind, chunk.size // self._model.form.size)
        payload = encode_chunk(self._model, chunk, shapes)
        return chunk if payload is None else payload
