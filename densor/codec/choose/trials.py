"""What rows of the table are made of: encoders, and what a sample takes by one."""

from collections.abc import Callable

from densor.codec.batch import Batch, Chunks, Coding, Smallest
from densor.codec.choose.sizes import ZSTD_CHUNK, chunk_bytes
from densor.codec.chunks import zstd_chunk
from densor.codec.codecs import CODECS
from densor.codec.interfaces import Encoder
from densor.codec.levels import MAX_BYTES_OF_LITTLE, Level, with_fewer_contexts

FAST_ZSTD = 3  # a level that costs little more than the fastest
Encode = Callable[[Batch, Level], Coding]
Row = Callable[[Batch, Level], Coding | None]


def or_with_fewer_contexts(codec: int, batch: Batch, level: Level, coded: Coding) -> Coding:
    """What is coded, or what simpler models make of a batch that has little to learn from."""
    if batch.data.size > MAX_BYTES_OF_LITTLE:
        return coded
    ways = []
    for simpler in with_fewer_contexts(level):
        chunk = chunk_bytes(batch.kind, simpler)
        encoder = CODECS[codec].propose(batch.in_chunks_of(chunk), simpler)
        if encoder is not None:
            ways.append(encoder.encode())
    return Smallest(coded, *ways)


def coded_bytes(sample: Batch, level: Level, codec: int) -> int:
    """Bytes of the chunks that a sample takes by a codec; parameters count for nothing."""
    return _payload_bytes(sample, level, CODECS[codec].propose(sample, level))


def encoded(encoder: Encoder | None, batch: Batch, level: Level) -> Coding:
    """A batch by an encoder, or by Zstandard."""
    return by_zstd(batch.in_chunks_of(ZSTD_CHUNK), level) if encoder is None else encoder.encode()


def by_zstd(batch: Batch, level: Level) -> Coding:
    submit = batch.workers.submit
    return Chunks(None, [submit(zstd_chunk, chunk, level.zstd) for chunk in batch.chunks()])


def proposed(number: int, batch: Batch, level: Level) -> Encoder:
    """The encoder of a codec that codes whatever it is listed for."""
    encoder = CODECS[number].propose(batch, level)
    assert encoder is not None
    return encoder


def _payload_bytes(sample: Batch, level: Level, encoder: Encoder | None) -> int:
    """Bytes that a sample takes by an encoder or by Zstandard; parameters count for nothing."""
    coding = by_zstd(sample, level) if encoder is None else encoder.encode()
    return sum(len(chunk.payload) for chunk in coding.result().chunks)
