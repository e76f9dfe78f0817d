"""How a batch is coded: which codecs are candidates for it at which level, and which one is taken.

| data | levels | candidates | decided by |
|---|---|---|---|
| what has a base | all | delta, or one of those below | estimate |
| bytes with a language model | all | language model, or byte_cm | trial, of texts |
| bytes from 4 KiB on | 5 to 9 | byte_cm, Zstandard | trial of each chunk |
| other bytes | all | Zstandard | |
| floats in many small matrices, in 32 batches | 3 to 5 | rANS, as below | trial; of low rank at 3 |
| floats in matrices from 64 KiB on | 1 to 3 | planes by spans, or as below | it declines |
| floats in matrices that are told | 1 to 5 | scale_context by spans, or as below | estimate |
| floats in matrices | 9 | float_cm, or both ways below | trial |
| floats in matrices, few zeros | 6 to 8 | scale_context, or planes | trial to 128 KiB, estimate |
| floats in matrices, few rows | 4 to 9 | also planes by spans | trial from 64 to 512 KiB |
| blocks | all | blocks | |
| DEFLATE streams | 3 to 9 | deflate, Zstandard | trial |
| FLAC files to 16 MiB | 5 to 9 | audio, bytes as above | trial |
| tables | all | table, bytes as above | table, bytes of a sample where it is not clearly less |
| pages of Parquet files | all | pages, bytes as above | pages, trial where it is hardly less |
| elements in another form | all | notation, bytes as above | trial, or clearly less |
| images of a circuit's size, with one | all | circuit | asked for |
| rows of images | all | image, elements as below, byte_cm at 5 to 9 | trial, byte_cm of a sample |
| tables and images to 1 MiB | 5 to 9 | also with fewer contexts | trial |
| integers that look like tokens | 5 to 9 | tokens, what else fits | sample, then trial |
| integers that are said to be tokens | all | tokens, what else fits | trial |
| samples of sound | 5 to 9 | audio, also as at lower levels | trial |
| samples of sound | all | audio, elements as below, byte_cm at 5 to 9 | trial of samples, or all |
| elements with zeros | all | sparse, planes | trial of a sample |
| two values, one of them zero | all | sparse, what else fits | trial |
| other elements | all | planes, Zstandard | estimate |
| one chunk of elements, blocks | all | also Huffman codes, to 64 KiB; Zstandard, to 4 KiB | trial |

The first row that fits is taken, see `_rows`. Within a batch each chunk is stored in the smallest
of several ways, see `chunks.py`; context mixing of bytes has its own, see `byte_cm/encoder.py`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from densor.codec import registry
from densor.codec.batch import (
    Batch,
    Bytes,
    Chunk,
    Chunks,
    CodedBatch,
    Coding,
    Otherwise,
    Smallest,
    Unless,
    smallest,
)
from densor.codec.chunks import zstd_chunk
from densor.codec.codec import CODECS, Encoder, Estimate
from densor.codec.deflate.stream import MAX_STREAM
from densor.codec.history import MAX_KEPT
from densor.codec.kind import BATCH_BYTES, BYTES, Data, Kind
from densor.codec.levels import (
    DEFAULT_LEVEL,
    MAX_BYTES_OF_LITTLE,
    Level,
    beside_language_model,
    level_settings,
    with_few_codes,
    with_fewer_contexts,
    with_huffman_codes,
    with_plain_tables,
    with_rans,
    with_simpler_sound,
)
from densor.codec.pages.layout import MAX_STRETCH
from densor.codec.planes.classes import MIN_RUNS
from densor.codec.sampling import PIECES, sample
from densor.codec.spans.matrices import look, plan
from densor.codec.spans.propose import encode_span
from densor.codec.sparse.encoder import is_mask, with_zeros
from densor.codec.table.layout import MAX_BYTES as MAX_TABLE
from densor.codec.zstd import zstd_compress
from densor.entropy.rans.constants import STATES
from densor.llm.vocabulary import readable
from densor.runtime.buffers import POOL
from densor.runtime.workers import Done

# What must be saved
MAX_SIZE_OF_CHANGES = 0.98  # share of what a batch takes without its base
MAX_SIZE_OF_SPARSE = 0.98  # share of what the sample takes as planes
# Where a trial of the whole batch costs little
MAX_BYTES_OF_ZSTD = 1 << 12  # and where parameters must prove their worth
MAX_BYTES_OF_HUFFMAN = 1 << 18  # codes may be smaller than rANS, for their simpler parameters
MIN_MATRICES = 4  # of a batch that holds several; a tensor alone has up to two parts
MAX_RANK = 128  # the lesser side of a matrix of an adapter
MIN_BYTES_OF_SPANS = 1 << 16  # below, what the ordinary way finds better counts
MAX_BYTES_OF_TRIAL = 1 << 17  # of floats by rows and by planes
MAX_BYTES_OF_SIMPLER = 1 << 19  # of floats also as faster levels take them
FEW_ROWS = 64
MAX_BYTES_OF_ZEROS = 1 << 23  # of sparse elements and planes, where a sample takes about the same
SMALL_FOR_CODES = 3  # size over what a chunk takes, from which fewer codes may be smaller
SMALL = 8  # size over what a sample takes, from which trials cost little
NOTHING = 64  # size over what a sample takes, from which it has met too little to tell
MAX_LOSS = 1.05  # of what is estimated, over the simpler way, that a trial may still turn round
MAX_SIZE_UNTRIED = 0.995  # of what a sample of the other way takes; a whole trial above
MAX_UNLIKE = 0.002  # in that share, of batches of which one trial serves for all
ROWS_SAMPLE = 1 << 17  # bytes of such a sample, about
# Where a model of bytes has a chance
MIN_BYTES_OF_TEXT = 1 << 12  # below, context mixing has not learned enough to be worth its time
MIN_BYTES_ASKED = 128  # that a language model is asked about
# Where a text of so many bytes takes fewer bits per byte without one, it is not asked: it could
# save no more than these, at some 1,000 bytes of text a second.
MIN_BYTES_OF_LITTLE, MIN_BITS_LEFT = 1 << 14, 0.1
MAX_REPEATS = 500  # size over what Zstandard leaves; beyond, nothing is left to gain
MIN_READABLE = 0.5  # share of samples that reads like a text; of noise, .38 does
SAMPLE_BYTES, MAX_SAMPLES = 1 << 12, 32

TABLE_CHUNK, SMALL_TABLE_CHUNK = MAX_TABLE, 1 << 22
MOST_MIXED_IN_PARTS = 4  # contexts of a table, with more of which parts are not read by themselves
TABLE_SAMPLE = 1 << 17  # bytes of a table that are tried as plain bytes
# Of what these let expect by Zstandard; beyond, all is tried as plain bytes, by mixing or Zstandard
MAX_SHARE_OF_TABLE, MAX_SHARE_OF_MIXED_TABLE = 0.6, 0.4
MIN_BYTES_OF_TABLE = 1 << 21  # from which a sample is also mixed as plain bytes
MIXED_TABLE_SAMPLE = 1 << 18
MAX_SHARE_OF_MIXED_SAMPLE = 0.95  # of what that lets expect of all
FASTEST_ZSTD = 1
FAST_ZSTD = 3  # a level that costs little more than the fastest
ZSTD_CHUNK = 1 << 22  # bytes
MIXED_CHUNK = 1 << 23  # bytes of an image by context mixing, which learns as it goes
_FAST_MASKS = 3  # a level that codes masks in a simpler way
MAX_SHARE_OF_IMAGE = 0.75  # of what samples by themselves take; beyond, those are tried too
SECONDS = 8  # of sound in a chunk, within these bytes
LEAST_FRAME, MOST_FRAME = 1 << 20, 1 << 22
SOUND_SAMPLE = 1 << 15  # bytes of sound that are tried as plain elements
MAX_SHARE_OF_SOUND = 0.9  # of what they take; beyond, both ways are tried on all
MAX_SHARE_OF_PREDICTED = 0.8  # of what counts of bytes let expect; beyond, a sample is tried
MAX_SHARE_OF_PAGES = 0.6  # of pages; beyond, they are also tried as plain bytes
MAX_SHARE_OF_NOTATION = 0.8  # of what Zstandard leaves; beyond, it is also tried as plain bytes
MAX_SHARE_OF_FLAC = 0.98  # of a FLAC file; beyond, it is also tried as plain bytes
MAX_LOSS_AS_BYTES = 1.1  # of such, over sound, that plain bytes may still turn round
IMAGE_SAMPLE = 1 << 14  # bytes of an image that are tried as plain bytes

Row = Callable[[Batch, Level], Coding | None]
FLOAT_CODECS = {
    "matrix_spans": registry.CODEC_SCALE_CONTEXT,
    "scale_context": registry.CODEC_SCALE_CONTEXT,
    "float_cm": registry.CODEC_FLOAT_CM,
}


def encode_batch(batch: Batch, level: Level) -> Coding:
    """Starts coding at most a batch of one kind.

    Batches are given in the order that they will have in the archive.
    """
    data = batch.kind.data
    batch = batch.in_chunks_of(_chunk_bytes(data, batch.kind, level))
    coding = next(filter(None, (row(batch, level) for row in _rows(data, level))))
    for codec in CODECS.values():
        if codec.suits is not None and codec.suits(batch, level):
            encoder = codec.propose(batch, level)
            coding = coding if encoder is None else Smallest(coding, encoder.encode())
    if data in (Data.ELEMENTS, Data.MATRICES) and batch.base is None and is_mask(batch):
        coding = Smallest(coding, _proposed(registry.CODEC_SPARSE, batch, level).encode())
        fast = level_settings(_FAST_MASKS)
        if level.planes != fast.planes:  # bits of a mask may take less by the simpler way
            coding = Smallest(coding, _proposed(registry.CODEC_SPARSE, batch, fast).encode())
    return coding


def look_ahead(batch: Batch, level: Level) -> Batch:
    """The batch, with what can be found of it before those in front of it are coded.

    That takes no more than to find it later, and may be done in any thread.
    """
    by_spans = level.floats == "matrix_spans" or (
        level.floats == "scale_context" and batch.data.size > MAX_BYTES_OF_TRIAL
    )
    if batch.kind.data is not Data.MATRICES or not by_spans:
        return batch
    return batch.looked_at(look(batch.in_chunks_of(chunk_bytes(batch.kind, level)), level))


# Sizes of chunks and batches


def chunk_bytes(kind: Kind, level: Level) -> int:
    """Original bytes per chunk, whole runs or rows."""
    return _chunk_bytes(kind.data, kind, level)


def _chunk_bytes(data: Data, kind: Kind, level: Level) -> int:
    if data is Data.BYTES:
        return ZSTD_CHUNK if level.bytes == "zstd" else CODECS[registry.CODEC_BYTE_CM].chunk
    if kind.table is not None and kind.table.arrays:
        return kind.table.max_bytes
    if data is Data.TABLE:
        whole = level.tables > MOST_MIXED_IN_PARTS or level.latents
        return TABLE_CHUNK if whole else SMALL_TABLE_CHUNK
    if data is Data.BLOCKS:
        return kind.whole_rows(CODECS[registry.CODEC_BLOCKS].chunk)
    if data is Data.STREAM:
        return MAX_STREAM
    if data is Data.PAGES:
        return MAX_STRETCH
    if data is Data.NOTATION:
        assert kind.notation is not None
        return kind.notation.most
    if data is Data.IMAGE:
        gradient = level.images == "gradient"
        return kind.whole_rows(CODECS[registry.CODEC_IMAGE].chunk if gradient else MIXED_CHUNK)
    if data is Data.AUDIO:
        return kind.whole_rows(_frame_bytes(kind))
    if data is Data.MATRICES and level.floats in FLOAT_CODECS:
        return kind.whole_rows(matrix_chunk(level))
    return kind.whole_runs


def _frame_bytes(kind: Kind) -> int:
    """Bytes of some seconds of sound."""
    assert kind.audio is not None
    size = SECONDS * kind.audio.rate * kind.audio.stride
    return min(max(size, LEAST_FRAME), MOST_FRAME)


def matrix_chunk(level: Level) -> int:
    """Bytes of a chunk, about, where floats are coded in matrices; 0 at other levels."""
    return CODECS[FLOAT_CODECS[level.floats]].chunk if level.floats in FLOAT_CODECS else 0


def batch_bytes(kind: Kind, level: Level) -> int:
    """Original bytes per batch, whole chunks, or images."""
    chunk = chunk_bytes(kind, level)
    if kind.table is not None:
        return kind.table.max_bytes
    if kind.image is not None and 0 < kind.image.stride * kind.image.height <= BATCH_BYTES:
        whole = kind.image.stride * kind.image.height  # images are not cut in two
        return BATCH_BYTES // whole * whole
    return max(1, BATCH_BYTES // chunk) * chunk


# The table


def _rows(data: Data, level: Level) -> tuple[Row, ...]:
    """What is tried in turn; the last row takes all."""
    if data is Data.BYTES:
        by_model = () if level.bytes == "zstd" else (_byte_cm,)
        return _delta, _language_model, *by_model, _by_zstd
    if data is Data.IMAGE:
        return _circuit, _image
    if data is Data.STREAM:
        return (_stream,)
    if data is Data.TABLE:
        return (_table,)
    if data is Data.PAGES:
        return (_pages,)
    if data is Data.NOTATION:
        return (_notation,)
    if data is Data.AUDIO:
        return (_audio,)
    if data is Data.MATRICES:
        by_rows: dict[str, tuple[Row, ...]] = {
            "planes": (),
            "matrix_spans": (_matrix_spans,),
            "scale_context": (_scale_context,),
            "float_cm": (_float_cm,),
        }
        small = (_small_matrices,) if level.planes == "huffman" and level.classes >= 4 else ()
        by_spans = (_spans,) if level.spans else ()
        return _delta, *by_rows[level.floats], *small, *by_spans, _planes_or_spans
    return _delta, _tokens_by_model, _planes


# Its rows; None where one does not fit, or where its codec is not taken


def _delta(batch: Batch, level: Level) -> Coding | None:
    if batch.base is None:
        return None
    encoder = _proposed(registry.CODEC_DELTA, batch, level)
    expected = encoder.estimate()
    assert expected is not None
    pays = expected.bytes < MAX_SIZE_OF_CHANGES * expected.otherwise
    return encoder.encode() if pays else None


def _language_model(batch: Batch, level: Level) -> Coding | None:
    if batch.session is None:
        return None
    size = batch.data.size
    without = encode_batch(replace(batch, session=None, base=None), beside_language_model(level))
    asked = _is_text(batch.data)
    if asked and size >= MIN_BYTES_OF_LITTLE:
        coded = without.result()  # which takes a hundredth of the time that asking would take
        without, asked = Done(coded), 8 * coded.stored >= MIN_BITS_LEFT * size
    if not asked:
        batch.session.moved((1 + batch.session.check) * size)
        return without
    return Smallest(_proposed(registry.CODEC_LANGUAGE_MODEL, batch, level).encode(), without)


def _tokens_by_model(batch: Batch, level: Level) -> Coding | None:
    if batch.session is None:
        return None
    without = Done(encode_batch(replace(batch, session=None), level).result())
    encoder = estimate = None
    if batch.data.size >= MIN_BYTES_ASKED:
        encoder = CODECS[registry.CODEC_LANGUAGE_MODEL].propose(batch, level)
        estimate = None if encoder is None else encoder.estimate()
    if encoder is None or estimate is None or estimate.bytes >= without.result().stored:
        batch.session.moved((1 + batch.session.check) * batch.data.size)
        return without
    return Smallest(encoder.encode(), without)


def _circuit(batch: Batch, level: Level) -> Coding | None:
    encoder = None if batch.base else CODECS[registry.CODEC_CIRCUIT].propose(batch, level)
    return None if encoder is None else encoder.encode()


def _image(batch: Batch, level: Level) -> Coding:
    encoder = None if batch.base else CODECS[registry.CODEC_IMAGE].propose(batch, level)
    expected = encoder.estimate() if encoder is not None else None
    if encoder and expected and expected.bytes < MAX_SHARE_OF_IMAGE * expected.otherwise:
        if level.images == "gradient":
            return encoder.encode()
        return _with_fewer_contexts(registry.CODEC_IMAGE, batch, level, encoder.encode())
    elements = replace(batch, kind=replace(batch.kind, image=None))
    otherwise = encode_batch(elements, level)
    if encoder is None:
        return otherwise
    coded = _with_fewer_contexts(registry.CODEC_IMAGE, batch, level, encoder.encode())
    if level.bytes == "zstd" or not _better_as_bytes(batch, level):
        return Smallest(coded, otherwise)
    return Smallest(coded, otherwise, encode_batch(replace(batch, kind=BYTES), level))


def _with_fewer_contexts(codec: int, batch: Batch, level: Level, coded: Coding) -> Coding:
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


def _stream(batch: Batch, level: Level) -> Coding:
    """What a stream holds, or its bytes where zlib did not make it: which nothing makes smaller."""
    as_bytes = replace(batch, kind=BYTES)
    if batch.base is not None:
        return encode_batch(as_bytes, level)
    stream = batch.kind.stream
    if stream is None or stream.audio is None:
        return _proposed(registry.CODEC_DEFLATE, batch, level).encode()
    coded = _proposed(registry.CODEC_AUDIO, batch, level).encode()
    most = MAX_SHARE_OF_FLAC * batch.data.size
    return Unless(coded, lambda way: way.stored < most, lambda: encode_batch(as_bytes, level))


def _pages(batch: Batch, level: Level) -> Coding:
    """Pages by their values, or as bytes where that hardly takes less."""
    as_bytes = replace(batch, kind=BYTES)
    if batch.base is not None or batch.session is not None:
        return encode_batch(as_bytes, level)
    coded: Coding = _proposed(registry.CODEC_PAGES, batch, level).encode()
    if batch.data.size <= MAX_BYTES_OF_LITTLE:
        return Smallest(coded, encode_batch(as_bytes, level))
    most = MAX_SHARE_OF_PAGES * batch.data.size
    return Unless(coded, lambda way: way.stored < most, lambda: encode_batch(as_bytes, level))


def _notation(batch: Batch, level: Level) -> Coding:
    """Elements out of their form, or as bytes where that hardly takes less."""
    as_bytes = replace(batch, kind=BYTES)
    if batch.base is not None or batch.session is not None:
        return encode_batch(as_bytes, level)
    coded: Coding = _proposed(registry.CODEC_NOTATION, batch, level).encode()
    little = MIN_BYTES_OF_SPANS if level.bytes == "zstd" else MAX_BYTES_OF_LITTLE
    if batch.data.size <= little:
        return Smallest(coded, encode_batch(as_bytes, level))
    most = MAX_SHARE_OF_NOTATION * len(zstd_compress(batch.data, FASTEST_ZSTD))
    return Unless(coded, lambda way: way.stored < most, lambda: encode_batch(as_bytes, level))


def _audio(batch: Batch, level: Level) -> Coding:
    encoder = None if batch.base else CODECS[registry.CODEC_AUDIO].propose(batch, level)
    elements = replace(batch, kind=replace(batch.kind, audio=None))
    if encoder is None:
        return encode_batch(elements, level)
    simpler = [_proposed(registry.CODEC_AUDIO, batch, way) for way in with_simpler_sound(level)]
    coded = encoder.encode()
    if simpler:
        coded = Smallest(coded, *(way.encode() for way in simpler))
    if _predicted([encoder, *simpler]):
        return coded
    if batch.data.size > SOUND_SAMPLE and _clearly_sound(batch, level):
        return coded
    otherwise = encode_batch(elements, level)
    if level.bytes == "zstd" or not _may_be_bytes(batch, level):
        return Smallest(coded, otherwise)
    return Smallest(coded, otherwise, encode_batch(replace(batch, kind=BYTES), level))


def _predicted(ways: Sequence[Encoder]) -> bool:
    """Whether prediction leaves far less than counts of bytes let expect, of a sample."""
    estimates = (way.estimate() for way in ways)
    return any(e.bytes < MAX_SHARE_OF_PREDICTED * e.otherwise for e in estimates if e)


def _may_be_bytes(batch: Batch, level: Level) -> bool:
    """Whether sound takes about as little as plain bytes, by a stretch from the middle if long."""
    if batch.data.size <= SOUND_SAMPLE:
        return True
    piece = _middle(batch, SOUND_SAMPLE)
    as_bytes = coded_bytes(replace(piece, kind=BYTES), level, registry.CODEC_BYTE_CM)
    return as_bytes < MAX_LOSS_AS_BYTES * coded_bytes(piece, level, registry.CODEC_AUDIO)


def _middle(batch: Batch, most: int) -> Batch:
    """Whole rows from the middle of a batch that has more of them."""
    size = batch.kind.whole_rows(most)
    begin = (batch.data.size - size) // 2 // batch.kind.unit * batch.kind.unit
    return batch.alone(batch.data[begin : begin + size])


def _clearly_sound(batch: Batch, level: Level) -> bool:
    """Whether a stretch from the middle takes far less as sound, by a quick method, than else."""
    piece = _middle(batch, SOUND_SAMPLE)
    quick = level_settings(DEFAULT_LEVEL)
    as_sound = coded_bytes(piece, quick, registry.CODEC_AUDIO)
    elements = replace(piece, kind=replace(piece.kind, audio=None))
    coded = encode_batch(elements, quick).result()
    otherwise = sum(len(chunk.payload) for chunk in coded.chunks)
    return as_sound < MAX_SHARE_OF_SOUND * otherwise


def _better_as_bytes(batch: Batch, level: Level) -> bool:
    """Whether some rows from the middle take less as plain bytes."""
    size = batch.kind.whole_rows(IMAGE_SAMPLE)
    begin = (batch.data.size - size) // 2 // batch.kind.unit * batch.kind.unit
    rows = batch.alone(batch.data[begin : begin + size] if begin > 0 else batch.data)
    as_bytes = replace(rows, kind=BYTES)
    return coded_bytes(as_bytes, level, registry.CODEC_BYTE_CM) < coded_bytes(
        rows, level, registry.CODEC_IMAGE
    )


def coded_bytes(sample: Batch, level: Level, codec: int) -> int:
    """Bytes of the chunks that a sample takes by a codec; parameters count for nothing."""
    return _payload_bytes(sample, level, CODECS[codec].propose(sample, level))


def _table(batch: Batch, level: Level) -> Coding:
    as_bytes = replace(batch, kind=BYTES)
    if batch.base is not None or batch.session is not None:
        return encode_batch(as_bytes, level)
    encoder = CODECS[registry.CODEC_TABLE].propose(batch, level)
    if encoder is None:
        return encode_batch(as_bytes, level)
    coded = _with_fewer_contexts(registry.CODEC_TABLE, batch, level, encoder.encode())
    if level.tables and batch.data.size <= MAX_BYTES_OF_LITTLE:
        coded = Smallest(coded, _simple_table(batch, with_plain_tables(level)))
    return Unless(
        coded, lambda way: _clearly_less(way, batch, level), lambda: encode_batch(as_bytes, level)
    )


def _simple_table(batch: Batch, level: Level) -> Coding:
    batch = batch.in_chunks_of(chunk_bytes(batch.kind, level))
    return _proposed(registry.CODEC_TABLE, batch, level).encode()


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


def _byte_cm(batch: Batch, level: Level) -> Coding | None:
    if batch.data.size < MIN_BYTES_OF_TEXT:
        return None
    return _proposed(registry.CODEC_BYTE_CM, batch, level).encode()


def _float_cm(batch: Batch, level: Level) -> Coding:
    # Planes first: their counting is waited for, and must not queue behind the slower coder.
    by_planes = _planes(batch, level)
    ways = [_proposed(registry.CODEC_FLOAT_CM, batch, level).encode(), by_planes]
    if _may_suit_scale_context(batch):  # which takes next to no time beside float_cm
        chunk = batch.kind.whole_rows(CODECS[registry.CODEC_SCALE_CONTEXT].chunk)
        batch = batch.in_chunks_of(chunk)
        ways.append(_proposed(registry.CODEC_SCALE_CONTEXT, batch, level).encode())
    return Smallest(*ways)


def _scale_context(batch: Batch, level: Level) -> Coding | None:
    if batch.data.size > MAX_BYTES_OF_TRIAL:
        coding = _matrix_spans(batch, level)
        if coding is not None:
            return coding
    if not _may_suit_scale_context(batch):
        return None
    encoder = _proposed(registry.CODEC_SCALE_CONTEXT, batch, level)
    expected = encoder.estimate()
    assert expected is not None
    small = batch.data.size <= MAX_BYTES_OF_TRIAL or _has_few_rows(batch)
    if not small and expected.bytes > MAX_LOSS * expected.otherwise:
        return None
    if small or not _clearly_smaller(expected, batch, level):
        by_planes = _planes_or_spans(batch, level)
        coded = encoder.encode().result()
        if coded.stored - encoder.shared(coded) >= by_planes.result().stored:
            return by_planes
        encoder.keep()
        return Done(coded)
    encoder.keep()
    return encoder.encode()


def _has_few_rows(batch: Batch) -> bool:
    """Whether a small batch has so few rows that a sample of them says little."""
    size = batch.data.size
    return size <= MAX_BYTES_OF_SIMPLER and size < FEW_ROWS * batch.kind.run * batch.kind.unit


def _matrix_spans(batch: Batch, level: Level) -> Coding | None:
    """Likewise, several times as fast; None for data that are unlike weights."""
    span = plan(batch, level)
    if span is None:
        return None
    if not _has_few_rows(batch) and span.smaller:
        span.keep()
        return Otherwise(span.encode(), lambda: _planes(batch, level))
    if not _has_few_rows(batch) and span.bits > MAX_LOSS * span.by_planes:
        return _planes_or_spans(batch, level)
    coded = span.encode().result()
    if coded is None:
        return _planes_or_spans(batch, level)
    takes = coded.stored - span.shared(coded)
    by_planes = _planes_or_spans(batch, level, takes)
    if takes >= by_planes.result().stored:
        POOL.give(coded.memory)
        return by_planes
    span.keep()
    return Done(coded)


def _clearly_smaller(expected: Estimate, batch: Batch, level: Level) -> bool:
    """Whether a batch takes fewer bytes than by planes, by a sample of its rows.

    Batches of an archive that gain as much over planes under one code as one before are like it.
    """
    gain, key = expected.bytes / max(expected.otherwise, 1), ("clear", batch.kind.dtype)
    if any(abs(gain - known) < MAX_UNLIKE for known in batch.history.kept(key)):
        return True
    run = batch.kind.run * batch.kind.unit
    size = min(ROWS_SAMPLE, batch.data.size // 4)
    rows = sample(batch.data, run, max(1, size // PIECES // run))
    trial = batch.alone(rows)
    by_planes = coded_bytes(trial, level, registry.CODEC_PLANES_RANS)
    clear = expected.bytes < MAX_SIZE_UNTRIED * by_planes * batch.data.size / rows.size
    if clear:
        batch.history.keep(key, gain)
    return clear


def _small_matrices(batch: Batch, level: Level) -> Coding | None:
    """Many in a batch, as adapters have them: whole bits per symbol count there, time does not.

    Where spans are fast, rANS takes five times as long for .4 % of a batch: for those alone that
    are of low rank, then, as adapters are.
    """
    key = "small", registry.CODEC_PLANES_RANS
    parts = batch.kind.parts
    if len(parts) < MIN_MATRICES or batch.data.size < MIN_BYTES_OF_SPANS:
        return None
    if level.spans and any(min(part) > MAX_RANK for part in parts):
        return None
    if len(batch.history.kept(key)) == MAX_KEPT:
        return None
    batch.history.keep(key, batch.data.size)
    simpler = (_spans(batch, level) if level.spans else None) or _planes(batch, level)
    return Smallest(simpler, _planes(batch, with_rans(level)))


def _spans(batch: Batch, level: Level) -> Coding | None:
    """Floats as most are, several times as fast; the ordinary way where it declines."""
    if batch.data.size < MIN_BYTES_OF_SPANS:
        return None
    task = batch.workers.submit(encode_span, batch, level)
    return Otherwise(task, lambda: _planes(batch, level))


def _planes_or_spans(batch: Batch, level: Level, enough: float = math.inf) -> Coding:
    """Where little is coded, the fast way may be smaller, and takes next to no time.

    `enough`: bytes of another way; those that will take more are not tried.
    """
    coded = _planes(batch, level, enough)
    if level.spans or not MIN_BYTES_OF_SPANS <= batch.data.size <= MAX_BYTES_OF_SIMPLER:
        return coded
    if enough < math.inf and _least_of_simpler(coded.result(), batch.kind) >= enough:
        return coded
    batch = batch.in_chunks_of(batch.kind.whole_runs)
    task = batch.workers.submit(encode_span, batch, level_settings(DEFAULT_LEVEL))
    return Smallest(coded, Otherwise(task, lambda: coded))


def _least_of_simpler(coded: CodedBatch, kind: Kind) -> float:
    """Bytes that planes under Huffman codes, or fewer ones, will not go below, given those of rANS.

    They may save parameters and states, and take more for the rest.
    """
    if coded.model is None or kind.layout is None:
        return coded.stored
    states = 4 * STATES * kind.layout.size * len(coded.chunks)
    return coded.stored - len(coded.model) - states


def _planes(batch: Batch, level: Level, enough: float = math.inf) -> Coding:
    """Blocks, sparse elements, and planes of whatever elements; see `_planes_or_spans`."""
    if batch.kind.data is Data.MATRICES:
        batch = batch.in_chunks_of(batch.kind.whole_runs)
    if batch.data.size <= batch.chunk_bytes:
        return batch.workers.submit(_one_chunk, batch.alone(), level, enough)
    ways = [_encoded(encoder, batch, level) for encoder in _of_elements(batch, level)]
    return ways[0] if len(ways) == 1 else Smallest(*ways)


def _encoded(encoder: Encoder | None, batch: Batch, level: Level) -> Coding:
    """A batch by an encoder, or by Zstandard."""
    return _by_zstd(batch.in_chunks_of(ZSTD_CHUNK), level) if encoder is None else encoder.encode()


def _by_zstd(batch: Batch, level: Level) -> Coding:
    submit = batch.workers.submit
    return Chunks(None, [submit(zstd_chunk, chunk, level.zstd) for chunk in batch.chunks()])


# What the rows are made of


def _may_suit_scale_context(batch: Batch) -> bool:
    """Whether a batch is large enough for its parameters, and few of its elements are zero."""
    small = batch.data.size <= MAX_BYTES_OF_ZSTD
    return not small and with_zeros(batch.data, batch.kind) is None


def _proposed(number: int, batch: Batch, level: Level) -> Encoder:
    """The encoder of a codec that codes whatever it is listed for."""
    encoder = CODECS[number].propose(batch, level)
    assert encoder is not None
    return encoder


def _of_elements(batch: Batch, level: Level) -> list[Encoder | None]:
    """The encoders of blocks or elements that are worth a trial; None where Zstandard does better.

    Mostly there is one. Where little is left, Huffman codes may be smaller for their parameters.
    """
    if batch.kind.fields:
        return [_proposed(registry.CODEC_BLOCKS, batch, level)]
    pieces = with_zeros(batch.data, batch.kind)
    trial = batch.alone(batch.data[:0] if pieces is None else pieces)
    by_planes = registry.CODEC_PLANES_RANS
    number, small = by_planes, False
    also: list[int] = []
    if pieces is not None:
        plain = coded_bytes(trial, level, by_planes)
        sparse = coded_bytes(trial, level, registry.CODEC_SPARSE)
        if sparse < MAX_SIZE_OF_SPARSE * plain:
            number = registry.CODEC_SPARSE
        small = min(plain, sparse) < pieces.size // SMALL
        near = MAX_SIZE_OF_SPARSE**2 < sparse / max(plain, 1) < 1 / MAX_SIZE_OF_SPARSE
        empty = min(plain, sparse) < pieces.size // NOTHING
        little = batch.data.size < MIN_BYTES_OF_SPANS  # of which a sample says too little
        if empty or little or (near and batch.data.size <= MAX_BYTES_OF_ZEROS):
            also = [by_planes + registry.CODEC_SPARSE - number]
    found = [CODECS[one].propose(batch, level) for one in (number, *also)]
    if small and level.planes == "rans":
        found.append(CODECS[number].propose(batch, with_huffman_codes(level)))
    return found


def _payload_bytes(sample: Batch, level: Level, encoder: Encoder | None) -> int:
    """Bytes that a sample takes by an encoder or by Zstandard; parameters count for nothing."""
    coding = _by_zstd(sample, level) if encoder is None else encoder.encode()
    return sum(len(chunk.payload) for chunk in coding.result().chunks)


def _one_chunk(batch: Batch, level: Level, enough: float = math.inf) -> CodedBatch:
    """A batch of one chunk, where parameters count and a simpler way may be smaller.

    `enough`: see `_planes_or_spans`.
    """
    size = batch.data.size
    ways: list[CodedBatch] = []

    def by(settings: Level) -> bool:
        """Codes it under these settings; whether they propose more than Zstandard."""
        encoders = _of_elements(batch, settings)
        ways.extend(_encoded(encoder, batch, level).result() for encoder in encoders)
        return encoders != [None]

    settings, goes_on = level, by(level)
    goes_on = goes_on and min(_least_of_simpler(way, batch.kind) for way in ways) < enough
    goes_on = goes_on and not (level.planes == "huffman" and _has_one_code(batch))
    if goes_on and level.planes == "rans" and size <= MAX_BYTES_OF_HUFFMAN:
        settings = with_few_codes(level)
        goes_on = by(with_huffman_codes(level)) and not _has_one_code(batch) and by(settings)
    small = MAX_BYTES_OF_ZSTD < size < MIN_BYTES_OF_SPANS
    goes_on = goes_on and (small or SMALL_FOR_CODES * min(way.stored for way in ways) < size)
    while goes_on and settings.classes > 1:
        settings = with_few_codes(settings)
        goes_on = by(settings)
    if size <= MAX_BYTES_OF_ZSTD and any(way.model is not None for way in ways):
        ways.append(_by_zstd(batch, level).result())
    raw = Chunk(registry.MODEL_RAW, batch.data, size)
    return smallest([*ways, CodedBatch(None, [raw])])


def _has_one_code(batch: Batch) -> bool:
    """Whether elements are so few that all levels have one code for a plane."""
    kind = batch.kind
    if kind.layout is None or kind.fields or with_zeros(batch.data, kind) is not None:
        return False
    return batch.data.size <= (2 * MIN_RUNS - 1) * kind.run * kind.layout.size


def _is_text(data: Bytes) -> bool:
    """Whether a language model is worth asking: a fifth of the bytes or more belong to texts.

    By samples from all over; not if so much repeats that Zstandard leaves nothing to gain.
    """
    if data.size < MIN_BYTES_ASKED:
        return False
    if len(zstd_compress(data, FAST_ZSTD)) * MAX_REPEATS < data.size:
        return False
    step = max(SAMPLE_BYTES, data.size // MAX_SAMPLES)
    begins = range(0, data.size, step)
    samples = b"".join(data[at : at + SAMPLE_BYTES].tobytes() for at in begins)
    return readable(samples) >= MIN_READABLE
