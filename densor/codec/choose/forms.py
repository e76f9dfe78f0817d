"""What files hold in a form of its own: tables, pages, streams, notation; or their bytes."""

from collections.abc import Callable
from dataclasses import replace

from densor.codec import registry
from densor.codec.batch import Batch, CodedBatch, Coding, Smallest, Unless
from densor.codec.choose.planes import MIN_BYTES_OF_SPANS
from densor.codec.choose.sizes import chunk_bytes
from densor.codec.choose.trials import (
    FAST_ZSTD,
    Encode,
    coded_bytes,
    or_with_fewer_contexts,
    proposed,
)
from densor.codec.codecs import CODECS
from densor.codec.kind import BYTES
from densor.codec.levels import MAX_BYTES_OF_LITTLE, Level, with_plain_tables
from densor.codec.zstd import zstd_compress

TABLE_SAMPLE = 1 << 17  # bytes of a table that are tried as plain bytes
# Of what these let expect by Zstandard; beyond, all is tried as plain bytes, by mixing or Zstandard
MAX_SHARE_OF_TABLE, MAX_SHARE_OF_MIXED_TABLE = 0.6, 0.4
MIN_BYTES_OF_TABLE = 1 << 21  # from which a sample is also mixed as plain bytes
MIXED_TABLE_SAMPLE = 1 << 18
MAX_SHARE_OF_MIXED_SAMPLE = 0.95  # of what that lets expect of all
FASTEST_ZSTD = 1
MAX_SHARE_OF_PAGES = 0.6  # of pages; beyond, they are also tried as plain bytes
MAX_SHARE_OF_NOTATION = 0.8  # of what Zstandard leaves; beyond, it is also tried as plain bytes
MAX_SHARE_OF_FLAC = 0.98  # of a FLAC file; beyond, it is also tried as plain bytes


def as_stream(batch: Batch, level: Level, encode: Encode) -> Coding:
    """What a stream holds, or its bytes where zlib did not make it: which nothing makes smaller."""
    as_bytes = replace(batch, kind=BYTES)
    if batch.base is not None:
        return encode(as_bytes, level)
    stream = batch.kind.stream
    if stream is None or stream.audio is None:
        return proposed(registry.CODEC_DEFLATE, batch, level).encode()
    coded = proposed(registry.CODEC_AUDIO, batch, level).encode()
    most = MAX_SHARE_OF_FLAC * batch.data.size
    return Unless(coded, lambda way: way.stored < most, lambda: encode(as_bytes, level))


def as_pages(batch: Batch, level: Level, encode: Encode) -> Coding:
    """Pages by their values, or as bytes where that hardly takes less."""
    most = MAX_SHARE_OF_PAGES * batch.data.size
    return _or_bytes(registry.CODEC_PAGES, batch, level, encode, MAX_BYTES_OF_LITTLE, lambda: most)


def as_notation(batch: Batch, level: Level, encode: Encode) -> Coding:
    """Elements out of their form, or as bytes where that hardly takes less."""
    little = MIN_BYTES_OF_SPANS if level.bytes == "zstd" else MAX_BYTES_OF_LITTLE

    def most() -> float:
        return MAX_SHARE_OF_NOTATION * len(zstd_compress(batch.data, FASTEST_ZSTD))

    return _or_bytes(registry.CODEC_NOTATION, batch, level, encode, little, most)


def _or_bytes(
    codec: int,
    batch: Batch,
    level: Level,
    encode: Encode,
    little: int,
    most: Callable[[], float],
) -> Coding:
    """A batch by a codec, or as bytes, which are tried up to a size and where it takes too much.

    `little`: that size. `most`: bytes that it may take otherwise.
    """
    as_bytes = replace(batch, kind=BYTES)
    if batch.base is not None or batch.session is not None:
        return encode(as_bytes, level)
    coded: Coding = proposed(codec, batch, level).encode()
    if batch.data.size <= little:
        return Smallest(coded, encode(as_bytes, level))
    enough = most()
    return Unless(coded, lambda way: way.stored < enough, lambda: encode(as_bytes, level))


def as_table(batch: Batch, level: Level, encode: Encode) -> Coding:
    as_bytes = replace(batch, kind=BYTES)
    if batch.base is not None or batch.session is not None:
        return encode(as_bytes, level)
    encoder = CODECS[registry.CODEC_TABLE].propose(batch, level)
    if encoder is None:
        return encode(as_bytes, level)
    coded = or_with_fewer_contexts(registry.CODEC_TABLE, batch, level, encoder.encode())
    if level.tables and batch.data.size <= MAX_BYTES_OF_LITTLE:
        coded = Smallest(coded, _simple_table(batch, with_plain_tables(level)))
    return Unless(
        coded, lambda way: _clearly_less(way, batch, level), lambda: encode(as_bytes, level)
    )


def _simple_table(batch: Batch, level: Level) -> Coding:
    batch = batch.in_chunks_of(chunk_bytes(batch.kind, level))
    return proposed(registry.CODEC_TABLE, batch, level).encode()


def _clearly_less(coded: CodedBatch, batch: Batch, level: Level) -> bool:
    """Whether a table takes so much less than a sample as plain bytes that these are not tried.

    From some size on the sample is also mixed; what all would gain over it, Zstandard tells.
    """
    large = level.bytes != "zstd" and batch.data.size >= MIN_BYTES_OF_TABLE
    size = MIXED_TABLE_SAMPLE if large else TABLE_SAMPLE
    begin = max(0, (batch.data.size - size) // 2)
    sample = batch.data[begin : begin + size]
    as_bytes = len(zstd_compress(sample, FAST_ZSTD)) / sample.size
    most = MAX_SHARE_OF_TABLE if level.bytes == "zstd" else MAX_SHARE_OF_MIXED_TABLE
    if coded.stored < most * as_bytes * batch.data.size:
        return True
    if not large:
        return False
    learned = len(zstd_compress(batch.data, FAST_ZSTD)) / (as_bytes * batch.data.size)
    piece = replace(batch.alone(sample), kind=BYTES)
    mixed = coded_bytes(piece, level, registry.CODEC_BYTE_CM) / sample.size
    expected = mixed * min(1.0, learned) * batch.data.size
    return coded.stored < MAX_SHARE_OF_MIXED_SAMPLE * expected
